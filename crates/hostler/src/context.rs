//! Where the server is, and with which token it is asked: the first of these that says it.
//!
//! ```text
//! --url | HOSTLER_URL, with a token: --token-file | HOSTLER_TOKEN_FILE | HOSTLER_TOKEN
//! --context | HOSTLER_CONTEXT            a server by name ([`book`])
//! --data | HOSTLER_DATA                  the server of this folder: its client.json
//! the current context                    `hostler context use`
//! $XDG_DATA_HOME/hostler | ~/.local/share/hostler   its client.json
//! ```
//!
//! `hostler dev` writes `client.json`, so that the other verbs need no flags. A token never stands in a flag, where
//! other users of the machine could read it, and never goes to another address than the one it was written for.

pub mod book;
mod way;

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use clap::{Args as _, FromArgMatches as _};
use hostler_client::{Client, Token};
use hostler_trust::file::{FileError, read_private, write_private};
use serde::{Deserialize, Serialize};

use self::book::{Book, Place};
pub use self::way::Way;
use crate::exit::{Exit, Failure};

/// Where a server listens that was told nothing else.
const DEFAULT_URL: &str = "http://127.0.0.1:9090";
/// The file in the data folder that says where its server is.
const CLIENT_FILE: &str = "client.json";

/// The flags that say where the server is.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// The server's address, such as http://127.0.0.1:9090
    #[arg(long, global = true, env = "HOSTLER_URL", value_name = "URL")]
    pub url: Option<String>,

    /// A file with the token; HOSTLER_TOKEN may hold the token itself
    #[arg(long, global = true, env = "HOSTLER_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// A server by its name among the contexts; `hostler context list` shows them
    #[arg(long, global = true, env = "HOSTLER_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,

    /// How it is spoken with.
    #[command(flatten)]
    pub way: Way,

    /// On whose things, by id or name: for platform administrators
    #[arg(long, global = true, env = "HOSTLER_TENANT", value_name = "TENANT")]
    pub tenant: Option<String>,

    /// The data folder [default: $XDG_DATA_HOME/hostler or ~/.local/share/hostler]
    #[arg(long, global = true, env = "HOSTLER_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// What `client.json` holds: `{"url": "http://127.0.0.1:9090", "token": "…"}`, mode 0600.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientFile {
    /// The server's address.
    pub url: String,
    /// The token of the user who may read the file.
    pub token: String,
}

impl fmt::Debug for ClientFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFile").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ClientFile {
    /// Its place.
    pub fn path(data: &Path) -> PathBuf {
        data.join(CLIENT_FILE)
    }

    /// Reads it; `None` when there is none. Refuses one that others can open.
    pub fn load(data: &Path) -> Result<Option<ClientFile>, Failure> {
        let path = Self::path(data);
        let Some(text) = read_private(&path).map_err(unreadable)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            // serde's message may quote what it read, and that may be the token.
            let place = format!("line {} column {}", error.line(), error.column());
            Failure::usage(format!("{}: this is no {{url, token}} document ({place})", path.display()))
                .help("start `hostler dev` again, which writes it anew")
        })
    }

    /// Writes it, whole or not at all, readable by its owner only.
    pub fn save(&self, data: &Path) -> anyhow::Result<()> {
        Ok(write_private(&Self::path(data), &serde_json::to_vec(self)?)?)
    }

    /// Takes it away: the server it names is gone.
    pub fn remove(data: &Path) {
        // Without it there is nothing to take away; what else may go wrong leaves a file that names a dead address.
        let _ = fs::remove_file(Self::path(data));
    }
}

fn unreadable(error: FileError) -> Failure {
    let failure = Failure::new(Exit::Refused, &error);
    match error {
        FileError::Exposed { .. } => failure.help("then make a new token: others may have read this one"),
        FileError::NotAFile(_) | FileError::Io { .. } | FileError::NotText(_) => {
            failure.help("--data, or --url and --token-file, name another place")
        }
    }
}

/// Where the server is, and how to be let in.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// Its name among the contexts, if it is one of them.
    pub name: Option<String>,
    /// Its address.
    pub url: String,
    /// The token; empty when there is none.
    pub token: Token,
    /// The token's file, for who wants to look at its mode.
    pub token_file: Option<PathBuf>,
    /// How it is spoken with.
    pub way: Way,
}

impl ServerArgs {
    /// The data folder.
    pub fn data(&self) -> Result<PathBuf, Failure> {
        let xdg = || env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home =
            || env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".local/share"));
        let found = self.data.clone().or_else(|| Some(xdg().or_else(home)?.join("hostler")));
        found.ok_or_else(|| Failure::usage("there is no data folder: HOME is not set").help("name one with --data DIR"))
    }

    /// The flags as the environment alone gives them.
    pub fn of_environment() -> ServerArgs {
        let command = ServerArgs::augment_args(clap::Command::new("hostler").no_binary_name(true));
        let matches = command.try_get_matches_from(std::iter::empty::<&str>());
        matches.and_then(|matches| ServerArgs::from_arg_matches(&matches)).unwrap_or_default()
    }

    /// Where the server is.
    pub fn context(&self) -> Result<Context, Failure> {
        self.context_with(token_of_environment(), Book::path().as_deref())
    }

    /// The token that a flag or a variable brings, if one does.
    pub fn given_token(&self) -> Result<Option<Token>, Failure> {
        match &self.token_file {
            Some(file) => read_token(file).map(Some),
            None => Ok(token_of_environment().map(Token::from)),
        }
    }

    fn context_with(&self, token: Option<String>, book: Option<&Path>) -> Result<Context, Failure> {
        self.refuse_two_servers(token.is_some())?;
        let given = match (&self.token_file, token) {
            (Some(file), _) => Some((read_token(file)?, Some(file.clone()))),
            (None, Some(token)) => Some((Token::from(token), None)),
            (None, None) => None,
        };
        if let (Some(url), Some((token, token_file))) = (&self.url, &given) {
            let (url, token, token_file) = (url.clone(), token.clone(), token_file.clone());
            return Ok(Context { name: None, url, token, token_file, way: self.way.clone() });
        }
        let known = self.known(book)?;
        let known = known.map(|known| Context { way: self.way.over(&known.way), ..known });
        let url =
            self.url.clone().or_else(|| Some(known.as_ref()?.url.clone())).unwrap_or_else(|| DEFAULT_URL.to_owned());
        match (given, known) {
            (Some((token, token_file)), Some(known)) => Ok(Context { url, token, token_file, ..known }),
            (Some((token, token_file)), None) => {
                Ok(Context { name: None, url, token, token_file, way: self.way.clone() })
            }
            (None, Some(known)) if same_place(&known.url, &url) => Ok(Context { url, ..known }),
            (None, _) => Err(self.no_token(&url)?),
        }
    }

    /// A context brings an address and the token for it. With another of either, a command meant for one server would
    /// reach another, or a token would: whichever came from a flag and whichever from a variable.
    fn refuse_two_servers(&self, token: bool) -> Result<(), Failure> {
        let Some(context) = &self.context else { return Ok(()) };
        let others = [
            (self.url.is_some(), "an address (--url or HOSTLER_URL)"),
            (self.token_file.is_some() || token, "a token (--token-file, HOSTLER_TOKEN_FILE or HOSTLER_TOKEN)"),
        ];
        match others.iter().find(|(given, _)| *given) {
            None => Ok(()),
            Some((_, other)) => Err(Failure::usage(format!(
                "both the context {context} (--context or HOSTLER_CONTEXT) and {other} are given, and they may mean two servers"
            ))
            .help("leave one of them out; `env | grep HOSTLER_` shows the variables")),
        }
    }

    /// The server that is known here: by its context's name, by its folder, as the current context, or in the usual folder.
    fn known(&self, path: Option<&Path>) -> Result<Option<Context>, Failure> {
        let book = || path.map_or_else(|| Ok(Book::default()), Book::load).map(|book| (book, path));
        if let Some(name) = &self.context {
            let (book, path) = book()?;
            return placed(name, book.get(name)?, path).map(Some);
        }
        if self.data.is_none() {
            let (book, path) = book()?;
            if let Some((name, place)) = book.current() {
                return placed(name, place, path).map(Some);
            }
        }
        local(&self.data()?)
    }

    /// Where no address was given either, there is no server.
    fn no_token(&self, url: &str) -> Result<Failure, Failure> {
        let exit = if self.url.is_some() { Exit::Refused } else { Exit::Unreachable };
        let data = self.data()?;
        Ok(Failure::new(
            exit,
            format!("there is no token for {url}: none was given, and none is in {}", data.display()),
        )
        .help(
            "start `hostler dev`, which writes one there; or give --context NAME, --token-file FILE or HOSTLER_TOKEN",
        ))
    }
}

/// The server of a folder, if one runs there.
fn local(data: &Path) -> Result<Option<Context>, Failure> {
    let found = ClientFile::load(data)?;
    Ok(found.map(|file| Context {
        name: None,
        url: file.url,
        token: Token::from(file.token),
        token_file: Some(ClientFile::path(data)),
        // Whoever has the folder is on the server's machine, and its operator says how it listens.
        way: Way { allow_plain_http: true, ..Way::default() },
    }))
}

/// The server of a context.
fn placed(name: &str, place: &Place, book: Option<&Path>) -> Result<Context, Failure> {
    let named = |context| Context { name: Some(name.to_owned()), ..context };
    match place {
        Place::Server { url, token, way } => Ok(Context {
            name: Some(name.to_owned()),
            url: url.clone(),
            token: Token::from(token.as_str()),
            token_file: book.map(Path::to_owned),
            way: way.clone(),
        }),
        Place::Local { data } => local(data)?.map(named).ok_or_else(|| {
            Failure::new(
                Exit::Unreachable,
                format!("the server of the context {name} does not run: there is no client.json in {}", data.display()),
            )
            .help("`hostler dev` starts it; `hostler context list` shows the other contexts")
        }),
    }
}

fn token_of_environment() -> Option<String> {
    env::var("HOSTLER_TOKEN").ok().filter(|token| !token.trim().is_empty())
}

fn same_place(a: &str, b: &str) -> bool {
    a.trim_end_matches('/').eq_ignore_ascii_case(b.trim_end_matches('/'))
}

fn read_token(file: &Path) -> Result<Token, Failure> {
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("the token cannot be read from {}: {error}", file.display()))
            .help("--token-file and HOSTLER_TOKEN_FILE name a file with nothing but the token in it")
    })?;
    let token = Token::from(text);
    if token.is_empty() { Err(Failure::usage(format!("{} is empty", file.display()))) } else { Ok(token) }
}

impl Context {
    /// A client of this server.
    pub fn client(&self) -> Result<Client, Failure> {
        let link = self.way.link(&self.url)?;
        Ok(Client::new(link, self.token.clone()))
    }

    /// Whether the server is on this machine.
    pub fn is_local(&self) -> bool {
        way::is_loopback(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> (tempfile::TempDir, ServerArgs) {
        let dir = tempfile::tempdir().unwrap();
        let args = ServerArgs { data: Some(dir.path().to_owned()), ..ServerArgs::default() };
        (dir, args)
    }

    fn running(dir: &Path) {
        ClientFile { url: "http://127.0.0.1:9191".into(), token: "local".into() }.save(dir).unwrap();
    }

    #[test]
    fn the_file_of_the_local_server_is_enough() {
        let (dir, args) = folder();
        running(dir.path());
        let context = args.context_with(None, None).unwrap();
        assert_eq!((context.url.as_str(), context.token.clone()), ("http://127.0.0.1:9191", Token::from("local")));
        assert!(context.is_local());
    }

    #[test]
    fn a_context_and_another_address_or_token_are_refused_together() {
        let (dir, mut args) = folder();
        running(dir.path());
        args.context = Some("prod".into());
        let refused = |args: &ServerArgs, token: Option<&str>| {
            let failure = args.context_with(token.map(str::to_owned), None).unwrap_err();
            failure.lines()[0].1.contains("may mean two servers")
        };
        assert!(!refused(&args, None));
        assert!(refused(&args, Some("staging")));
        args.url = Some("http://staging".into());
        assert!(refused(&args, None));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (dir, args) = folder();
        running(dir.path());
        fs::set_permissions(ClientFile::path(dir.path()), fs::Permissions::from_mode(0o644)).unwrap();
        let failure = args.context_with(None, None).unwrap_err();
        assert!(failure.lines()[0].1.contains("others can open it"), "{failure:?}");
    }

    #[test]
    fn the_local_token_does_not_go_to_another_address() {
        let (dir, mut args) = folder();
        running(dir.path());
        args.url = Some("http://example.com:9090".into());
        assert_eq!(args.context_with(None, None).unwrap_err().exit, Exit::Refused);
        assert_eq!(args.context_with(Some("mine".into()), None).unwrap().token, Token::from("mine"));
        args.url = Some("http://127.0.0.1:9191/".into());
        assert_eq!(args.context_with(None, None).unwrap().token, Token::from("local"));
    }

    #[test]
    fn without_a_file_or_a_flag_there_is_no_server() {
        let (_dir, args) = folder();
        assert_eq!(args.context_with(None, None).unwrap_err().exit, Exit::Unreachable);
    }

    #[test]
    fn a_token_alone_asks_the_default_address() {
        let (_dir, args) = folder();
        assert_eq!(args.context_with(Some("mine".into()), None).unwrap().url, DEFAULT_URL);
    }

    #[test]
    fn a_broken_file_does_not_show_its_token() {
        let (dir, args) = folder();
        write_private(&ClientFile::path(dir.path()), br#"{"url": 5, "token": "hst_secret"}"#).unwrap();
        let failure = args.context_with(None, None).unwrap_err();
        assert!(!format!("{failure:?}").contains("secret"), "{failure:?}");
    }

    #[test]
    fn a_named_context_wins_over_the_folder_and_the_current_one_does_not() {
        let (dir, mut args) = folder();
        running(dir.path());
        let path = dir.path().join("contexts.toml");
        let place = |url: &str| Place::Server { url: url.into(), token: "far".into(), way: Way::default() };
        Book::change(&path, |book| book.add(&"prod".parse().unwrap(), place("https://prod"))).unwrap();
        assert_eq!(args.context_with(None, Some(&path)).unwrap().url, "http://127.0.0.1:9191");
        args.context = Some("prod".into());
        let context = args.context_with(None, Some(&path)).unwrap();
        assert_eq!((context.name.as_deref(), context.url.as_str()), (Some("prod"), "https://prod"));
        args = ServerArgs::default();
        assert_eq!(args.context_with(None, Some(&path)).unwrap().url, "https://prod", "the current one");
        args.url = Some("https://elsewhere".into());
        assert_eq!(args.context_with(None, Some(&path)).unwrap_err().exit, Exit::Refused, "its token stays here");
    }

    #[test]
    fn a_local_context_whose_server_is_gone_says_so() {
        let (dir, mut args) = folder();
        let path = dir.path().join("contexts.toml");
        let place = Place::Local { data: dir.path().to_owned() };
        Book::change(&path, |book| book.add(&"dev".parse().unwrap(), place)).unwrap();
        args.context = Some("dev".into());
        assert_eq!(args.context_with(None, Some(&path)).unwrap_err().exit, Exit::Unreachable);
        running(dir.path());
        assert_eq!(args.context_with(None, Some(&path)).unwrap().name.as_deref(), Some("dev"));
    }
}
