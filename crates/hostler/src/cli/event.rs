//! `hostler event`: what happened, and what happens.

use std::time::Duration;

use hostler_client::{EventQuery, Events};
use hostler_model::event::Entry;
use uuid::Uuid;

use super::Globals;
use crate::{
    exit::{Exit, Failure},
    output,
};

/// Without `--follow`: events that have happened come at once, so a stream that is silent this long has told them all.
const QUIET: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  hostler event                        what happened, as far back as it is kept
  hostler event --follow               what happens from now on
  hostler event --follow --after 120   what happened after number 120, and what happens
  hostler event --subject 0190f1f0-0000-7000-8000-000000000001";

/// Which events.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Go on with what happens, until Ctrl-C
    #[arg(short, long)]
    follow: bool,

    /// Only what came after this number
    #[arg(long, value_name = "NUMBER")]
    after: Option<i64>,

    /// Only about the thing with this id
    #[arg(long, value_name = "ID")]
    subject: Option<Uuid>,
}

/// Prints events.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let after = if args.follow { args.after } else { args.after.or(Some(0)) };
    let mut events = globals.session()?.client.events(EventQuery { after, subject: args.subject });
    events.connect().await?;
    while let Some(entry) = next(&mut events, args.follow).await? {
        let format = globals.output.output;
        output::text(&if format.is_data() { format.record(&entry)? } else { line(&entry) })?;
    }
    Ok(Exit::Done)
}

async fn next(events: &mut Events, follow: bool) -> Result<Option<Entry>, Failure> {
    if follow {
        return Ok(Some(events.next().await?));
    }
    match tokio::time::timeout(QUIET, events.next()).await {
        Ok(entry) => Ok(Some(entry?)),
        Err(_) => Ok(None),
    }
}

fn line(entry: &Entry) -> String {
    let Entry { seq, at, kind, noun, subject, data, .. } = entry;
    // Microseconds help a program, not a person.
    let at = at.to_string();
    let at = at.split('.').next().unwrap_or_default();
    format!("{seq:<6}  {at}Z  {kind:<16}  {noun} {subject}  {data}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn an_event_is_a_line() {
        insta::assert_snapshot!(line(&fixture::entry()), @r#"42      2026-01-01T00:00:00Z  task.queued       task 0190f1f0-0000-7000-8000-000000000001  {"kind":"echo"}"#);
    }
}
