//! `hostler event`: what happened, and what happens.

mod line;

use std::time::Duration;

use hostler_client::{EventQuery, Events};
use hostler_model::event::Entry;
use uuid::Uuid;

use self::line::Known;
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
    let session = globals.session()?;
    let mut events = session.client.events(EventQuery { after, subject: args.subject });
    events.connect().await?;
    let mut known = if session.is_data() { Known::default() } else { Known::of(&session.client).await };
    while let Some(entry) = next(&mut events, args.follow).await? {
        output::text(&if session.is_data() { session.record(&entry)? } else { known.line(&entry) })?;
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
