//! `hostler vm snapshot` and `hostler vm restore`: a machine's state kept, and brought back.

use hostler_model::{
    api::{NewRestore, NewSnapshot, Submitted},
    kind::{VmRestoreOutput, VmSnapshotOutput},
    name::Name,
    task::Task,
};
use serde::Deserialize;

use crate::{
    cli::{ScheduleArgs, Session, WaitArgs, read, succeeded},
    exit::{Exit, Failure},
    output,
};

/// How `vm snapshot` is used.
pub const SNAPSHOT: &str = "\
Examples:
  hostler vm snapshot web-1                        its disk
  hostler vm snapshot web-1 --memory --name before-upgrade
  hostler snapshot list --vm web-1";

/// How `vm restore` is used.
pub const RESTORE: &str = "\
Examples:
  hostler vm restore web-1 before-upgrade
  hostler vm restore web-1 0190f1f0-0000-7000-8000-00000000000d --no-wait";

/// What to take.
#[derive(clap::Args, Debug)]
pub struct Take {
    /// The machine's name or id
    vm: String,

    /// The snapshot's name; made from its id where there is none
    #[arg(long, value_parser = read::model::<Name>)]
    name: Option<Name>,

    /// Take the memory too: restored, its programs go on where they were
    #[arg(long)]
    memory: bool,

    #[command(flatten)]
    wait: WaitArgs,

    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// What to restore.
#[derive(clap::Args, Debug)]
pub struct Restore {
    /// The machine's name or id
    vm: String,

    /// The snapshot's name or id
    snapshot: String,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// Takes a snapshot.
pub async fn take(args: Take, session: &Session) -> Result<Exit, Failure> {
    let how = args.schedule.submit_or_try(args.dry_run);
    let new = NewSnapshot { name: args.name, memory: args.memory };
    let mut submitted = session.client.take_snapshot(&args.vm, &new, &how).await?;
    if args.dry_run || args.wait.no_wait() {
        session.print(&submitted, || planned(&submitted, args.dry_run))?;
        return Ok(Exit::Done);
    }
    submitted.task = session.ended(submitted.task, Some(args.wait.timeout), session.tell()).await?;
    if let Some(snapshot) = &mut submitted.snapshot
        && let Ok(now) = session.client.snapshot(&snapshot.id.to_string()).await
    {
        *snapshot = now;
    }
    if session.is_data() {
        session.data(&submitted)?;
    }
    let task = succeeded(submitted.task.clone())?;
    if !session.is_data() {
        session.text(&taken(&submitted, &task))?;
    }
    Ok(Exit::Done)
}

/// A snapshot that is to be taken, or would be.
fn planned(submitted: &Submitted, dry_run: bool) -> String {
    let Some(snapshot) = &submitted.snapshot else { return String::new() };
    let name = &snapshot.name;
    output::fields([
        ("name", if dry_run { format!("{name} (not taken: dry run)") } else { name.to_string() }),
        ("id", if dry_run { String::new() } else { snapshot.id.to_string() }),
        ("task", if dry_run { String::new() } else { format!("{} {}", submitted.task.id, submitted.task.state) }),
    ])
}

fn taken(submitted: &Submitted, task: &Task) -> String {
    let Some(snapshot) = &submitted.snapshot else { return output::fields([("task", task.id.to_string())]) };
    let output = task.output.as_ref().and_then(|output| VmSnapshotOutput::deserialize(output).ok());
    let bytes = |bytes: i64| output::bytes(u64::try_from(bytes).unwrap_or_default());
    output::fields([
        ("name", snapshot.name.to_string()),
        ("id", snapshot.id.to_string()),
        ("disk", output.as_ref().map(|output| bytes(output.disk_bytes)).unwrap_or_default()),
        (
            "memory",
            output.as_ref().filter(|_| snapshot.memory).map(|output| bytes(output.memory_bytes)).unwrap_or_default(),
        ),
        (
            "quiesced",
            match snapshot.quiesced {
                Some(true) => "yes".to_owned(),
                Some(false) => "no: the guest could not hold its file systems".to_owned(),
                None => String::new(),
            },
        ),
        ("paused", output.map(|output| output::took(output::millis(output.paused_ms))).unwrap_or_default()),
    ])
}

/// Restores.
pub async fn restore(args: Restore, session: &Session) -> Result<Exit, Failure> {
    let restore = NewRestore { snapshot: args.snapshot };
    let mut submitted = session.client.restore_vm(&args.vm, &restore, &args.schedule.submit()).await?;
    if args.wait.no_wait() {
        session.print(&submitted, || {
            output::fields([("task", format!("{} {}", submitted.task.id, submitted.task.state))])
        })?;
        return Ok(Exit::Done);
    }
    submitted.task = session.ended(submitted.task, Some(args.wait.timeout), session.tell()).await?;
    if session.is_data() {
        session.data(&submitted)?;
    }
    let task = succeeded(submitted.task)?;
    if !session.is_data() {
        output::text(&restored(&args.vm, &task))?;
    }
    Ok(Exit::Done)
}

fn restored(vm: &str, task: &Task) -> String {
    match task.output.as_ref().and_then(|output| VmRestoreOutput::deserialize(output).ok()) {
        Some(output) => {
            let how = if output.memory { "its programs go on" } else { "it has booted from the disk" };
            format!("{vm} is restored after {}: {how}", output::took(output::millis(output.down_ms)))
        }
        None => format!("{vm} is restored"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_snapshot_that_was_taken() {
        let output = json!({"disk_bytes": 3_000_000, "memory_bytes": 98_000_000, "paused_ms": 61.0});
        let task = Task { output: Some(output), ..fixture::task("succeeded") };
        let submitted = Submitted {
            task: task.clone(),
            vm: None,
            snapshot: Some(fixture::snapshot("before", true)),
            placement: None,
        };
        insta::assert_snapshot!(taken(&submitted, &task), @"
        name    before
        id      0190f1f0-0000-7000-8000-00000000000d
        disk    2.9 MiB
        memory  93.5 MiB
        paused  61 ms
        ");
        insta::assert_snapshot!(planned(&submitted, true), @"name  before (not taken: dry run)");
    }

    #[test]
    fn a_machine_that_was_restored() {
        let output = json!({"memory": true, "down_ms": 171.0, "clock_set": true});
        let task = Task { output: Some(output), ..fixture::task("succeeded") };
        assert_eq!(restored("web-1", &task), "web-1 is restored after 171 ms: its programs go on");
    }
}
