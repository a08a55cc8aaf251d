//! `hostler login`: a server and a token become a context. The token is tried before anything is written.

use std::io::{IsTerminal as _, Read as _};

use hostler_client::Token;
use hostler_model::name::Name;

use super::{Globals, read};
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

The context is written with mode 0600 and used from then on; `hostler context list` shows all of them. A token never
stands in a flag, where other users of this machine could read it.")]
pub struct Args {
    /// The context's name; one of this name that is there gets the new token
    #[arg(value_parser = read::model::<Name>, default_value = "default")]
    name: Name,
}

/// Logs in.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let Some(url) = globals.server.url.clone() else {
        return Err(Failure::usage("where is the server?").help("give --url https://hostler.example.com"));
    };
    let token = match globals.server.given_token()? {
        Some(token) => token,
        None => from_stdin()?,
    };
    let context = Context { name: None, url: url.clone(), token: token.clone(), token_file: None };
    let me = context.client()?.whoami().await?;
    let place = Place::Server { url, token: token.reveal().to_owned() };
    Book::change(&Book::required_path()?, |book| {
        book.put(&args.name, place);
        Ok(())
    })?;
    let told = || {
        output::fields([
            ("context", args.name.to_string()),
            ("server", context.url.clone()),
            ("tenant", output::or_nothing(me.tenant)),
            ("role", me.role.to_string()),
            ("expires", output::or_nothing(me.expires_at)),
        ])
    };
    let format = globals.output.output;
    output::text(&if format.is_data() { format.document(&me)? } else { told() })?;
    Ok(Exit::Done)
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
