//! `hostler login`: a server and a token become a context. The token is tried before anything is written.
//!
//! ```text
//! a token: --token-file │ HOSTLER_TOKEN │ standard input          ─► whoami ─► context
//! --device: the server's provider ─► code, browser ─► id token    ─► a personal token ─► context
//! ```

mod device;

use std::{
    io::{IsTerminal as _, Read as _},
    time::Duration,
};

use hostler_client::Token;
use hostler_model::{
    name::Name,
    scope::Scopes,
    token::{NewToken, TokenFormat, Whoami},
};

use super::{Globals, read, token::days};
use crate::{
    context::{
        Context,
        book::{Book, Place},
    },
    exit::{Exit, Failure},
    output,
};

/// A token is shorter than that by far.
const MOST: u64 = 64 << 10;

/// The flags of `login`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  hostler login prod --url https://hostler.example.com < token
  hostler login prod --url https://hostler.example.com --token-file token
  HOSTLER_TOKEN=… hostler login prod --url https://hostler.example.com
  hostler login prod --url https://hostler.example.com --device              in the browser

The context is written with mode 0600 and used from then on; `hostler context list` shows all of them. A token never
stands in a flag, where other users of this machine could read it. With --device the server's identity provider lets you
in, and what is kept is a personal token of yours, which `hostler token list` shows and `hostler token revoke` ends.")]
pub struct Args {
    /// The context's name; one of this name that is there gets the new token
    #[arg(value_parser = read::model::<Name>, default_value = "default")]
    name: Name,
    /// Log in by the server's identity provider: a code is confirmed in a browser, here or elsewhere
    #[arg(long)]
    device: bool,
    /// How long the personal token is good, such as 12h or 90d [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = days, requires = "device")]
    expires: Option<Duration>,
}

/// Logs in.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let Some(url) = globals.server.url.clone() else {
        return Err(Failure::usage("where is the server?").help("give --url https://hostler.example.com"));
    };
    let way = globals.server.way.clone();
    let at = |token: Token| Context { name: None, url: url.clone(), token, token_file: None, way: way.clone() };
    let token = match (args.device, globals.server.given_token()?) {
        (true, _) => by_device(at, args.expires).await?,
        (false, Some(token)) => token,
        (false, None) => from_stdin()?,
    };
    let me = at(token.clone()).client()?.whoami().await?;
    let place = Place::Server { url: url.clone(), token: token.reveal().to_owned(), way: way.kept() };
    Book::change(&Book::required_path()?, |book| {
        book.put(&args.name, place);
        Ok(())
    })?;
    let format = globals.output.output;
    output::text(&if format.is_data() { format.document(&me)? } else { told(&args.name, &url, &me) })?;
    Ok(Exit::Done)
}

/// The provider's token ends within the hour; what is kept is one of ours, made with it.
async fn by_device(at: impl Fn(Token) -> Context, expires: Option<Duration>) -> Result<Token, Failure> {
    let server = at(Token::from(""));
    let ways = server.client()?.login_ways().await?;
    let provider = ways.oidc.ok_or_else(|| {
        Failure::new(Exit::Refused, format!("{} has no identity provider by which one could log in", server.url))
            .help("its operator names one with server.oidc_issuer and server.oidc_client; or log in with a token")
    })?;
    let id_token = device::id_token(&provider).await?;
    let new = NewToken {
        label: format!("hostler login on {}", rustix::system::uname().nodename().to_string_lossy()),
        service_account: None,
        role: None,
        audience: None,
        scopes: Scopes::All,
        expires_in_seconds: expires.map(|time| time.as_secs()),
        format: TokenFormat::Opaque,
    };
    let issued = at(Token::from(id_token)).client()?.make_token(&new).await?;
    Ok(Token::from(issued.token))
}

/// A token from whatever is piped in; from a person, one line.
fn from_stdin() -> Result<Token, Failure> {
    let mut text = String::new();
    let stdin = std::io::stdin();
    let read = if stdin.is_terminal() {
        output::note("paste the token and press Enter");
        stdin.read_line(&mut text)
    } else {
        stdin.take(MOST).read_to_string(&mut text)
    };
    read.map_err(|error| Failure::usage(format!("the token cannot be read: {error}")))?;
    let token = Token::from(text);
    match token.is_empty() {
        true => Err(Failure::usage("there is no token on standard input")
            .help("pipe it in, or give --token-file FILE or HOSTLER_TOKEN; `hostler token create` makes one")),
        false => Ok(token),
    }
}

fn told(name: &Name, url: &str, me: &Whoami) -> String {
    output::fields([
        ("context", name.to_string()),
        ("server", url.to_owned()),
        ("tenant", output::or_nothing(me.tenant)),
        ("role", me.role.to_string()),
        ("expires", output::or_nothing(me.expires_at)),
    ])
}
