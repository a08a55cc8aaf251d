//! The contexts: servers by name, in one file that only its owner can read.
//!
//! ```toml
//! current = "prod"
//!
//! [contexts.prod]
//! url = "https://hostler.example.com"
//! token = "…"
//!
//! [contexts.dev]                       # of `hostler dev`, which says there where it listens
//! data = "/home/you/.local/share/hostler"
//! ```

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    path::{Path, PathBuf},
};

use hostler_model::name::Name;
use hostler_trust::file::{create_private_dir, read_private, write_private};
use serde::{Deserialize, Serialize};

use super::{Way, unreadable};
use crate::{
    exit::{Exit, Failure},
    nearest::did_you_mean,
};

/// Where one server is, and how it lets us in.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Place {
    /// A server at an address.
    Server {
        /// Its address.
        url: String,
        /// The token.
        token: String,
        /// How it is spoken with.
        #[serde(flatten)]
        way: Way,
    },
    /// A server of this machine, whose `client.json` says where it is while it runs.
    Local {
        /// Its data folder.
        data: PathBuf,
    },
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Server { url, .. } => f.debug_struct("Server").field("url", url).finish_non_exhaustive(),
            Place::Local { data } => f.debug_struct("Local").field("data", data).finish(),
        }
    }
}

/// The contexts.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Book {
    /// The one that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them.
    #[serde(default)]
    pub contexts: BTreeMap<String, Place>,
}

impl Book {
    /// Where the file is: `$XDG_CONFIG_HOME/hostler`, else `~/.config/hostler`.
    pub fn path() -> Option<PathBuf> {
        let xdg = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".config"));
        Some(xdg.or_else(home)?.join("hostler/contexts.toml"))
    }

    /// Where it is, or why there is no place for it.
    pub fn required_path() -> Result<PathBuf, Failure> {
        Book::path().ok_or_else(|| {
            Failure::usage("there is no place for contexts: HOME is not set").help("set HOME or XDG_CONFIG_HOME")
        })
    }

    /// Reads it. Where there is no file, there are no contexts.
    pub fn load(path: &Path) -> Result<Book, Failure> {
        let Some(text) = read_private(path).map_err(unreadable)? else { return Ok(Book::default()) };
        toml::from_str(&text).map_err(|error| {
            // toml's message quotes the line, and that may be the token's.
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count());
            Failure::usage(format!("{}: line {line} is not as contexts are written", path.display()))
                .help("correct it, or remove the file and add the contexts again with `hostler context add`")
        })
    }

    /// Reads it, changes it, and writes it whole. Who changes it at the same time waits.
    pub fn change<T>(path: &Path, change: impl FnOnce(&mut Book) -> Result<T, Failure>) -> Result<T, Failure> {
        let failed = |error: &dyn fmt::Display| {
            Failure::new(Exit::Failed, format!("the contexts in {} cannot be written: {error}", path.display()))
                .help("see that the folder is yours and can be written")
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        create_private_dir(folder).map_err(|e| failed(&e))?;
        let lock = folder.join("contexts.lock");
        let lock = fs::File::options().create(true).truncate(false).write(true).open(lock).map_err(|e| failed(&e))?;
        lock.lock().map_err(|e| failed(&e))?;
        let mut book = Book::load(path)?;
        let done = change(&mut book)?;
        let text = toml::to_string(&book).map_err(|e| failed(&e))?;
        write_private(path, text.as_bytes()).map_err(|e| failed(&e))?;
        Ok(done)
    }

    /// A context, by name.
    pub fn get(&self, name: &str) -> Result<&Place, Failure> {
        self.contexts.get(name).ok_or_else(|| self.missing(name))
    }

    /// The context that is used when none is named.
    pub fn current(&self) -> Option<(&str, &Place)> {
        let name = self.current.as_deref()?;
        Some((name, self.contexts.get(name)?))
    }

    /// Adds one. The first is the current one.
    pub fn add(&mut self, name: &Name, place: Place) -> Result<(), Failure> {
        if self.contexts.contains_key(name.as_str()) {
            return Err(Failure::new(Exit::Refused, format!("there is a context {name} already"))
                .help(format!("remove it first with `hostler context remove {name}`, or take another name")));
        }
        self.contexts.insert(name.to_string(), place);
        self.current.get_or_insert_with(|| name.to_string());
        Ok(())
    }

    /// Puts one in the place of what was there under its name, and makes it the current one.
    pub fn put(&mut self, name: &Name, place: Place) {
        self.contexts.insert(name.to_string(), place);
        self.current = Some(name.to_string());
    }

    /// Makes one the current one.
    pub fn use_(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        self.current = Some(name.to_owned());
        Ok(())
    }

    /// Takes one out.
    pub fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.contexts.remove(name).ok_or_else(|| self.missing(name))?;
        self.current.take_if(|current| current == name);
        Ok(())
    }

    /// Gives one another name.
    pub fn rename(&mut self, old: &str, new: &Name) -> Result<(), Failure> {
        let (place, current) = (self.get(old)?.clone(), self.current.clone());
        self.add(new, place)?;
        self.contexts.remove(old);
        self.current = if current.as_deref() == Some(old) { Some(new.to_string()) } else { current };
        Ok(())
    }

    fn missing(&self, name: &str) -> Failure {
        let known: Vec<&String> = self.contexts.keys().collect();
        let meant = did_you_mean(name, &known);
        Failure::new(Exit::Refused, format!("there is no context {name:?}"))
            .help(meant.unwrap_or_else(|| "`hostler context list` shows those there are".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn server(url: &str) -> Place {
        Place::Server { url: url.into(), token: "secret".into(), way: Way::default() }
    }

    #[test]
    fn the_file_holds_what_was_added_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostler/contexts.toml");
        Book::change(&path, |book| book.add(&name("prod"), server("https://a"))).unwrap();
        Book::change(&path, |book| book.add(&name("dev"), Place::Local { data: "/d".into() })).unwrap();
        let book = Book::load(&path).unwrap();
        assert_eq!(book.current(), Some(("prod", &server("https://a"))));
        assert_eq!(book.get("dev").unwrap(), &Place::Local { data: "/d".into() });
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{book:?}").contains("secret"));
    }

    #[test]
    fn a_change_that_is_refused_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.toml");
        Book::change(&path, |book| book.add(&name("prod"), server("https://a"))).unwrap();
        assert!(Book::change(&path, |book| book.add(&name("prod"), server("https://b"))).is_err());
        assert_eq!(Book::load(&path).unwrap().get("prod").unwrap(), &server("https://a"));
    }

    #[test]
    fn the_current_one_keeps_its_place_under_a_new_name_and_goes_with_its_removal() {
        let mut book = Book::default();
        book.add(&name("a"), server("https://a")).unwrap();
        book.add(&name("b"), server("https://b")).unwrap();
        book.rename("a", &name("c")).unwrap();
        assert_eq!(book.current.as_deref(), Some("c"));
        assert!(book.rename("c", &name("b")).is_err());
        book.remove("c").unwrap();
        assert_eq!((book.current(), book.contexts.len()), (None, 1));
    }

    #[test]
    fn a_name_that_is_nearly_right_is_recognised() {
        let mut book = Book::default();
        book.add(&name("production"), server("https://a")).unwrap();
        let failure = book.use_("prodcution").unwrap_err();
        assert_eq!(failure.lines()[1].1, "did you mean production?");
    }

    #[test]
    fn a_broken_file_is_named_by_its_line_and_shows_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.toml");
        write_private(&path, b"current = \"a\"\n[contexts.a]\ntoken = secret\n").unwrap();
        let failure = Book::load(&path).unwrap_err();
        let told = format!("{failure:?}");
        assert!(told.contains("line 3") && !told.contains("secret"), "{told}");
    }
}
