//! `hostler context`: servers by name.

use std::path::PathBuf;

use clap::Subcommand;
use hostler_model::name::Name;
use serde::Serialize;

use super::{Globals, read};
use crate::{
    context::{
        ClientFile,
        book::{Book, Place},
    },
    exit::{Exit, Failure},
    output::{self, Human as _, Table},
};

/// The verbs of contexts.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const ADD: &str = "\
Examples:
  hostler context add prod --url https://hostler.example.com --token-file token
  HOSTLER_TOKEN=… hostler context add prod --url https://hostler.example.com
  hostler context add lab --data /srv/lab       the server of `hostler dev --data /srv/lab`";

const USE: &str = "\
Examples:
  hostler context use prod
  hostler --context dev vm list      another one, this once";

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the contexts
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler context list\n  hostler context list -o json")]
    List,
    /// Use this one from now on
    #[command(after_help = USE)]
    Use {
        /// Its name
        name: String,
    },
    /// Add one: with --url and a token, or with --data
    #[command(after_help = ADD)]
    Add {
        /// Its name
        #[arg(value_parser = read::model::<Name>)]
        name: Name,
    },
    /// Show one; the one in use, if none is named
    #[command(after_help = "Examples:\n  hostler context show\n  hostler context show prod")]
    Show {
        /// Its name
        name: Option<String>,
    },
    /// Remove one
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler context remove prod")]
    Remove {
        /// Its name
        name: String,
    },
    /// Give one another name
    #[command(after_help = "Examples:\n  hostler context rename prod production")]
    Rename {
        /// Its name until now
        old: String,
        /// Its new name
        #[arg(value_parser = read::model::<Name>)]
        new: Name,
    },
}

/// A context as it is told: never with its token.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Told {
    name: String,
    current: bool,
    /// Its address; none where its server does not run.
    url: Option<String>,
    /// The data folder, for a server of this machine.
    data: Option<PathBuf>,
}

/// Runs a verb of contexts. No server is asked.
pub fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let path = Book::required_path()?;
    match args.verb {
        Verb::List => {
            let all = told(&Book::load(&path)?);
            print(globals, &all, || table(&all).text(&globals.output.style()))?;
        }
        Verb::Show { name } => {
            let one = chosen(&Book::load(&path)?, name.or(globals.server.context.clone()))?;
            print(globals, &one, || show(&one))?;
        }
        Verb::Use { name } => Book::change(&path, |book| book.use_(&name))?,
        Verb::Add { name } => {
            let place = place(globals)?;
            Book::change(&path, |book| book.add(&name, place))?;
        }
        Verb::Remove { name } => Book::change(&path, |book| book.remove(&name))?,
        Verb::Rename { old, new } => Book::change(&path, |book| book.rename(&old, &new))?,
    }
    Ok(Exit::Done)
}

fn print(globals: &Globals, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let format = globals.output.output;
    Ok(output::text(&if format.is_data() { format.document(value)? } else { text() })?)
}

/// What the flags say of a server.
fn place(globals: &Globals) -> Result<Place, Failure> {
    match (&globals.server.url, &globals.server.data) {
        (Some(_), _) => {
            let context = globals.server.context()?;
            context.client()?;
            Ok(Place::Server { url: context.url, token: context.token.reveal().to_owned(), way: context.way.kept() })
        }
        (None, Some(data)) => {
            let data = data.canonicalize().map_err(|error| Failure::usage(format!("{}: {error}", data.display())))?;
            Ok(Place::Local { data })
        }
        (None, None) => Err(Failure::usage("where is the server?")
            .help("give --url with --token-file FILE or HOSTLER_TOKEN, or --data DIR for one of this machine")),
    }
}

fn told(book: &Book) -> Vec<Told> {
    let current = book.current.as_deref();
    book.contexts.iter().map(|(name, place)| tell(name, place, current == Some(name))).collect()
}

fn tell(name: &str, place: &Place, current: bool) -> Told {
    let (url, data) = match place {
        Place::Server { url, .. } => (Some(url.clone()), None),
        Place::Local { data } => (ClientFile::load(data).ok().flatten().map(|file| file.url), Some(data.clone())),
    };
    Told { name: name.to_owned(), current, url, data }
}

fn chosen(book: &Book, name: Option<String>) -> Result<Told, Failure> {
    match (name, book.current()) {
        (Some(name), current) => Ok(tell(&name, book.get(&name)?, current.is_some_and(|(current, _)| current == name))),
        (None, Some((name, place))) => Ok(tell(name, place, true)),
        (None, None) => Err(Failure::new(Exit::Refused, "no context is in use")
            .help("`hostler context list` shows those there are, `hostler context use NAME` chooses one")),
    }
}

fn table(contexts: &[Told]) -> Table {
    let rows = contexts.iter().map(|told| {
        [
            if told.current { "*" } else { "" }.to_owned(),
            told.name.clone(),
            told.url.clone().unwrap_or_else(|| "(not running)".to_owned()),
            output::or_dash(told.data.as_ref().map(|data| data.display())),
        ]
    });
    output::table(["", "NAME", "SERVER", "DATA"], rows)
}

fn show(told: &Told) -> String {
    output::fields([
        ("name", told.name.clone()),
        ("current", if told.current { "yes" } else { "no" }.to_owned()),
        ("server", told.url.clone().unwrap_or_else(|| "(not running)".to_owned())),
        ("data", output::or_nothing(told.data.as_ref().map(|data| data.display()))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Way;

    #[test]
    fn contexts_are_told_without_their_tokens() {
        let mut book = Book::default();
        let place = Place::Server { url: "https://a.example".into(), token: "hst_secret".into(), way: Way::default() };
        book.add(&"prod".parse().unwrap(), place).unwrap();
        book.add(&"dev".parse().unwrap(), Place::Local { data: "/nowhere".into() }).unwrap();
        insta::assert_snapshot!(table(&told(&book)), @r"
           NAME  SERVER             DATA
           dev   (not running)      /nowhere
        *  prod  https://a.example  -
        ");
        let one = chosen(&book, None).unwrap();
        assert!(!format!("{} {one:?} {}", show(&one), serde_json::to_string(&one).unwrap()).contains("secret"));
        assert_eq!(chosen(&book, Some("prdo".into())).unwrap_err().lines()[1].1, "did you mean prod?");
    }
}
