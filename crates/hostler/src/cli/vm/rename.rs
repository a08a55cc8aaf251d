//! `hostler vm rename`: another name for a machine.

use hostler_model::{kind::VmRenameOutput, name::Name};
use serde::Deserialize;

use super::super::{ScheduleArgs, Session, WaitArgs, read, succeeded};
use crate::exit::{Exit, Failure};

/// For its help.
pub const EXAMPLES: &str = "\
Examples:
  hostler vm rename web-1 shop
  hostler vm rename web-1 shop --dry-run";

/// Which, and to what.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its name or id
    vm: String,

    /// The name it is to have
    #[arg(value_parser = read::model::<Name>)]
    name: Name,

    #[command(flatten)]
    wait: WaitArgs,

    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// Renames a machine. The name is its own at once; what is waited for is that its node knows.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let how = args.schedule.submit_or_try(args.dry_run);
    let mut submitted = session.client.rename_vm(&args.vm, &args.name, &how).await?;
    let (from, to) = (&args.vm, &args.name);
    if args.dry_run {
        session.print(&submitted, || format!("{from} could be renamed to {to} (not renamed: dry run)"))?;
        return Ok(Exit::Done);
    }
    if args.wait.no_wait() {
        session
            .print(&submitted, || format!("{from} is now {to}; its node is being told: task {}", submitted.task.id))?;
        return Ok(Exit::Done);
    }
    submitted.task = session.ended(submitted.task, Some(args.wait.timeout), session.tell()).await?;
    if session.is_data() {
        session.data(&submitted)?;
    }
    let task = succeeded(submitted.task).map_err(|failure| {
        failure.help(format!("the name is {to} all the same; its node was not told and uses the old one"))
    })?;
    let output = task.output.as_ref().and_then(|output| VmRenameOutput::deserialize(output).ok());
    if !session.is_data() {
        let told = output.is_some_and(|output| output.told);
        let guest = if told { "; its guest is told at its next start" } else { "" };
        session.text(&format!("{from} is now {to}{guest}"))?;
    }
    Ok(Exit::Done)
}
