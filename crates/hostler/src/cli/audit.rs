//! `hostler audit`: who did what, and whether the log is still what was written.
//!
//! ```text
//! server ──export──► JSON lines ──verify──► every link · every checkpoint's signature
//! ```
//!
//! What verifies needs no server: an export, and the certificate of the authority that somebody kept.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use hostler_model::{
    chain::{BEGINNING, Line, Stand, Walk},
    event::Entry,
};
use hostler_trust::{CheckpointVerifier, Fingerprint};
use serde::Serialize;

use super::{Globals, Session};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

const EXAMPLES: &str = "\
Examples:
  hostler audit list --after 120
  hostler audit export >audit.jsonl
  hostler audit verify                                  of the server, with the certificate that it shows
  hostler audit verify --ca ca.pem audit.jsonl          without a server, with the certificate that you kept";

/// The verbs of the audit.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List who did what, oldest first: the last entries, or those after a number
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  hostler audit list\n  hostler audit list --limit 5\n  hostler audit list --after 120 -o json"
    )]
    List {
        /// What came after this number, from there on
        #[arg(long, value_name = "NUMBER")]
        after: Option<i64>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
    /// Print the log's chain as JSON lines, which can be verified without the server
    ///
    /// Audit entries are whole; of all others there is the hash.
    #[command(after_help = "Examples:\n  hostler audit export >audit.jsonl")]
    Export,
    /// Say whether the log is still what was written
    ///
    /// Every entry that was edited, removed, added or moved is named, and every checkpoint's signature is verified. Without
    /// --ca the certificate is the one that the server shows: it proves nothing about who runs that.
    #[command(after_help = EXAMPLES)]
    Verify {
        /// The authority's certificate, PEM, as you kept it: `ca.pem` of the server's folder
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// What `hostler audit export` printed; - is standard input; without it the server is asked
        #[arg(value_name = "FILE", requires = "ca")]
        file: Option<PathBuf>,
    },
}

/// What a verification came to.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    links: usize,
    last: i64,
    signed_up_to: Option<i64>,
    authority: String,
    wrongs: Vec<String>,
}

/// Runs a verb of the audit.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    match args.verb {
        Verb::List { after, limit } => {
            let session = globals.session()?;
            let entries = match after {
                Some(after) => session.client.audit(after, usize::from(limit)).await?,
                None => session.client.last_audit(usize::from(limit)).await?,
            };
            session.print(&entries, || table(&entries))?;
            Ok(Exit::Done)
        }
        Verb::Export => export(&globals.session()?).await,
        Verb::Verify { ca, file } => {
            // Without a server only where a file is verified with what somebody kept.
            let (walk, pem) = match (&ca, &file) {
                (Some(ca), Some(file)) => {
                    let pem = read(ca)?;
                    (of_file(file, &pem)?, pem)
                }
                (ca, _) => {
                    let session = globals.session()?;
                    let pem = match ca {
                        Some(path) => read(path)?,
                        None => session.client.chain_authority().await?,
                    };
                    (of_server(&session, &pem).await?, pem)
                }
            };
            tell(globals, &walk, &pem, ca.is_some())
        }
    }
}

async fn export(session: &Session) -> Result<Exit, Failure> {
    let (mut after, mut out) = (0, io::stdout().lock());
    loop {
        let piece = session.client.chain(after).await?;
        let mut ended = piece.is_empty();
        for (line, text) in piece {
            match line {
                // It says where the piece goes on from, which is where the one before ended.
                Line::From(stand) if stand.seq > 0 => continue,
                Line::Link(link) => after = link.last,
                Line::End(_) => ended = true,
                Line::From(_) | Line::Checkpoint(_) | Line::Stray(_) => {}
            }
            writeln!(out, "{text}").map_err(|error| Failure::new(Exit::Failed, error))?;
        }
        if ended {
            return Ok(Exit::Done);
        }
    }
}

/// One who verifies: the walk, and who signs.
struct Verifying {
    walk: Option<Walk>,
    signer: CheckpointVerifier,
    ended: bool,
}

impl Verifying {
    fn with(pem: &str) -> Result<Verifying, Failure> {
        let signer = CheckpointVerifier::new(pem).map_err(|error| Failure::usage(format!("--ca: {error}")))?;
        Ok(Verifying { walk: None, signer, ended: false })
    }

    fn line(&mut self, line: Line) {
        let walk = match (&mut self.walk, &line) {
            (Some(walk), _) => walk,
            (none, Line::From(stand)) => none.insert(beginning_at(*stand)),
            (none, _) => none.insert(Walk::from(BEGINNING)),
        };
        match line {
            Line::From(stand) if stand != walk.stand() => {
                walk.wrong(format!(
                    "a piece goes on from the entry {}, the one before ends at {}",
                    stand.seq,
                    walk.stand().seq
                ));
            }
            Line::From(_) => {}
            Line::Link(link) => walk.link(&link),
            Line::Checkpoint(token) => match self.signer.verify(&token) {
                Ok(checkpoint) => walk.checkpoint(checkpoint.stand),
                Err(error) => walk.wrong(error.to_string()),
            },
            Line::Stray(entries) => walk.stray(&entries),
            Line::End(head) => {
                walk.end(head);
                self.ended = true;
            }
        }
    }

    fn end(self) -> Walk {
        let mut walk = self.walk.unwrap_or_else(|| Walk::from(BEGINNING));
        if !self.ended {
            walk.wrong("the export breaks off before its end");
        }
        walk
    }
}

/// A walk along what is said to go on from here. Nothing says that what was before is as it was, so that is a wrong.
fn beginning_at(stand: Stand) -> Walk {
    let mut walk = Walk::from(stand);
    if stand != BEGINNING {
        walk.wrong(format!("the export begins behind the entry {}: what was before it is not there", stand.seq));
    }
    walk
}

fn of_file(path: &Path, pem: &str) -> Result<Walk, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    let mut verifying = Verifying::with(pem)?;
    let lines: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(fs::File::open(path).map_err(|error| failed(&error))?))
    };
    for (number, line) in (1..).zip(lines.lines()) {
        let line = line.map_err(|error| failed(&error))?;
        let read = serde_json::from_str(&line);
        verifying.line(read.map_err(|error| failed(&format!("line {number} is no line of an export: {error}")))?);
    }
    Ok(verifying.end())
}

async fn of_server(session: &Session, pem: &str) -> Result<Walk, Failure> {
    let (mut verifying, mut after) = (Verifying::with(pem)?, 0);
    while !verifying.ended {
        let piece = session.client.chain(after).await?;
        let before = after;
        for (line, _) in piece {
            if let Line::Link(link) = &line {
                after = after.max(link.last);
            }
            verifying.line(line);
        }
        if after == before && !verifying.ended {
            break;
        }
    }
    Ok(verifying.end())
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} cannot be read: {error}", path.display())))
}

fn tell(globals: &Globals, walk: &Walk, pem: &str, kept: bool) -> Result<Exit, Failure> {
    let Stand { seq, .. } = walk.stand();
    let verdict = Verdict {
        ok: walk.wrongs().is_empty(),
        links: walk.links(),
        last: seq,
        signed_up_to: walk.signed(),
        authority: Fingerprint::of_pem(pem).map(|print| print.to_string()).unwrap_or_default(),
        wrongs: walk.wrongs().to_vec(),
    };
    let format = globals.output.output;
    output::text(&if format.is_data() { format.document(&verdict)? } else { said(&verdict, kept) })?;
    Ok(if verdict.ok { Exit::Done } else { Exit::Failed })
}

fn said(verdict: &Verdict, kept: bool) -> String {
    let signed = match verdict.signed_up_to {
        Some(seq) if seq == verdict.last => "all of it".to_owned(),
        Some(seq) => format!("up to the entry {seq}; what is after it is only chained"),
        None => "nothing yet: it is only chained".to_owned(),
    };
    let whose = if kept { "the certificate that you named" } else { "the certificate that the server shows" };
    let mut fields = vec![
        ("chain", if verdict.ok { "as it was written".to_owned() } else { "not as it was written".to_owned() }),
        ("entries", verdict.last.to_string()),
        ("links", verdict.links.to_string()),
        ("signed", signed),
        ("by", format!("{whose}, {}", verdict.authority)),
    ];
    fields.extend(verdict.wrongs.iter().map(|wrong| ("wrong", wrong.clone())));
    output::fields(fields)
}

fn table(entries: &[Entry]) -> Table {
    let rows = entries.iter().map(|entry| {
        let (actor, text) =
            (&entry.data["actor"], |field: &serde_json::Value| field.as_str().unwrap_or("-").to_owned());
        let at = entry.at.to_string();
        [
            entry.seq.to_string(),
            at.split('.').next().unwrap_or_default().replacen('T', " ", 1),
            entry.kind.clone(),
            text(&actor["role"]),
            text(&actor["principal"]),
            format!("{} {}", entry.noun, entry.subject),
            text(&entry.data["result"]),
            text(&actor["method"]),
            text(&actor["credential"]),
            text(&actor["source"]),
            text(&actor["request"]),
        ]
    });
    let header = ["NUMBER", "AT", "WHAT", "AS", "WHO", "TARGET", "RESULT", "METHOD", "CREDENTIAL", "SOURCE", "REQUEST"];
    output::table(header, rows).wide(&["METHOD", "CREDENTIAL", "SOURCE", "REQUEST"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_what_was_signed_and_what_is_wrong() {
        let verdict = Verdict {
            ok: false,
            links: 2,
            last: 9,
            signed_up_to: Some(4),
            authority: "ab".repeat(4),
            wrongs: vec!["the entry 7 is missing".into()],
        };
        insta::assert_snapshot!(said(&verdict, true), @"
        chain    not as it was written
        entries  9
        links    2
        signed   up to the entry 4; what is after it is only chained
        by       the certificate that you named, abababab
        wrong    the entry 7 is missing
        ");
    }
    #[test]
    fn an_export_without_its_beginning_is_not_what_was_written() {
        let pem =
            hostler_trust::Authority::create(hostler_model::Timestamp::from_micros(0)).unwrap().ca_pem().to_owned();
        let stand = Stand { seq: 7, ..BEGINNING };
        for (from, wrongs) in [(BEGINNING, 0), (stand, 1)] {
            let mut verifying = Verifying::with(&pem).unwrap();
            [Line::From(from), Line::End(from)].into_iter().for_each(|line| verifying.line(line));
            let walk = verifying.end();
            assert_eq!(walk.wrongs().len(), wrongs, "{:?}", walk.wrongs());
        }
    }
}
