//! `hostler node refresh`: what is on a host, as it is now.

use hostler_model::kind::InventoryRefreshOutput;
use serde::Deserialize;

use super::super::{ScheduleArgs, Session, WaitArgs, succeeded};
use crate::{
    exit::{Exit, Failure},
    output,
};

/// For its help.
pub const EXAMPLES: &str = "\
Examples:
  hostler node refresh local
  hostler node refresh local -o json";

/// Which node.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its name or id
    node: String,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// Lets the node look, and says what it found.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let mut submitted = session.client.refresh_node(&args.node, &args.schedule.submit()).await?;
    if args.wait.no_wait() {
        session.print(&submitted, || output::fields([("task", submitted.task.id.to_string())]))?;
        return Ok(Exit::Done);
    }
    submitted.task = session.ended(submitted.task, Some(args.wait.timeout), session.tell()).await?;
    if session.is_data() {
        session.data(&submitted)?;
    }
    let task = succeeded(submitted.task)?;
    if !session.is_data() {
        let found = task.output.as_ref().and_then(|output| InventoryRefreshOutput::deserialize(output).ok());
        session.text(&told(&found.unwrap_or_default()))?;
    }
    Ok(Exit::Done)
}

fn told(found: &InventoryRefreshOutput) -> String {
    let states: Vec<String> = found.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let list = |ids: &[hostler_model::VmId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let machines =
        if states.is_empty() { "none".to_owned() } else { format!("{} ({})", found.machines, states.join(", ")) };
    let orphans = match found.orphans.len() {
        0 => String::new(),
        _ => format!("{}; the server does not know them, and nothing deletes them by itself", list(&found.orphans)),
    };
    output::fields([
        ("machines", machines),
        ("new here", list(&found.found)),
        ("orphans", orphans),
        (
            "complete",
            if found.full {
                "yes".to_owned()
            } else {
                "no: something could not be looked at, the agent's log says what".to_owned()
            },
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_a_host() {
        let states = [("running".to_owned(), 2), ("stopped".to_owned(), 1)].into();
        let orphan = "0190f1f0-0000-7000-8000-00000000000b".parse().unwrap();
        let found =
            InventoryRefreshOutput { full: true, machines: 3, states, found: Vec::new(), orphans: vec![orphan] };
        insta::assert_snapshot!(told(&found), @"
        machines  3 (2 running, 1 stopped)
        orphans   0190f1f0-0000-7000-8000-00000000000b; the server does not know them, and nothing deletes them by itself
        complete  yes
        ");
        insta::assert_snapshot!(told(&InventoryRefreshOutput::default()), @"
        machines  none
        complete  no: something could not be looked at, the agent's log says what
        ");
    }
}
