//! `hostler node drain` and `hostler node remove`: how a host is emptied, and how it goes.

use std::time::Duration;

use hostler_client::Decision;
use hostler_model::node::{Node, NodeState, Removal};

use super::{Session, show};
use crate::{
    cli::read,
    exit::{Exit, Failure},
    interrupt::Interrupt,
    output,
};

/// For its help.
pub const DRAIN: &str = "\
Examples:
  hostler node drain rack1-a                 say what is left there, and come back
  hostler node drain rack1-a --wait          until nothing is
  hostler node uncordon rack1-a              end it: new machines may come again";

/// For its help.
pub const REMOVE: &str = "\
Examples:
  hostler node remove rack1-a                after `hostler node drain`
  hostler node remove rack1-a --dry-run --force
  hostler node remove rack1-a --force        its host burned: what was there is given up";

/// How long between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Which, and whether to wait.
#[derive(clap::Args, Debug)]
pub struct DrainArgs {
    /// Its name or id
    node: String,
    /// Come back when nothing is left there
    #[arg(long)]
    wait: bool,
    /// Wait so long at most
    #[arg(long, value_name = "TIME", value_parser = read::duration, default_value = "1h", requires = "wait")]
    timeout: Duration,
}

/// Which, and how.
#[derive(clap::Args, Debug)]
pub struct RemoveArgs {
    /// Its name or id
    node: String,
    /// The host is gone for good: its tasks are ended, its machines and snapshots given up, their room and quota given back.
    /// Only of a node that is lost
    #[arg(long)]
    force: bool,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Drains a node.
pub async fn drain(args: DrainArgs, session: &Session) -> Result<Exit, Failure> {
    let mut node = session.client.change_node(&args.node, Decision::Drain).await?;
    let id = node.id.to_string();
    if args.wait {
        let mut interrupt = Interrupt::listen()?;
        let until = tokio::time::Instant::now() + args.timeout;
        while node.state == NodeState::Draining {
            if tokio::time::Instant::now() >= until {
                return Err(goes_on(&node, Exit::TimedOut, "time is over"));
            }
            tokio::select! {
                signal = interrupt.caught() => return Err(goes_on(&node, Exit::Signalled(signal), "interrupted")),
                () = tokio::time::sleep(LOOK) => {}
            }
            node = session.client.node(&id).await?;
        }
    }
    session.print(&node, || show(&node, session.now()))?;
    Ok(Exit::Done)
}

fn goes_on(node: &Node, exit: Exit, why: &str) -> Failure {
    let name = &node.name;
    let left = node.drain.as_ref().map(|drain| drain.said()).unwrap_or_default();
    Failure::new(exit, format!("{why}; the node {name} is still being drained: {left}"))
        .help(format!("`hostler node show {name}` says why of each; `hostler node uncordon {name}` ends the draining"))
}

/// What is left on a node that is being drained, line by line.
pub fn left(node: &Node) -> String {
    let Some(drain) = &node.drain else { return String::new() };
    let lines = drain.blocking.iter().map(|blocker| format!("{}: {}", blocker.name, blocker.why));
    let more = (drain.vms + drain.tasks).saturating_sub(drain.blocking.len());
    let more = (more > 0).then(|| format!("and {more} more"));
    lines.chain(more).collect::<Vec<_>>().join("\n")
}

/// Removes a node.
pub async fn remove(args: RemoveArgs, session: &Session) -> Result<Exit, Failure> {
    let removal = session.client.remove_node(&args.node, args.force, args.dry_run).await?;
    session.print(&removal, || told(&removal, args.dry_run))?;
    Ok(Exit::Done)
}

fn told(removal: &Removal, dry_run: bool) -> String {
    let Removal { node, vms, tasks } = removal;
    let name = if dry_run { format!("{} (not removed: dry run)", node.name) } else { node.name.to_string() };
    output::fields([
        ("removed", name),
        ("id", node.id.to_string()),
        ("machines given up", vms.to_string()),
        ("tasks ended", tasks.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use hostler_model::node::{Blocker, Drain};

    use super::*;
    use crate::cli::fixture;

    #[test]
    fn what_is_left_is_named_with_its_reason() {
        let vm = fixture::vm("web-1", "running");
        let blocker = Blocker {
            tenant: vm.tenant,
            name: "web-1".into(),
            vm: Some(vm.id),
            task: None,
            why: "it is running".into(),
        };
        let drain = Drain { vms: 2, tasks: 0, blocking: vec![blocker] };
        let node = Node { state: NodeState::Draining, drain: Some(drain), ..fixture::node() };
        insta::assert_snapshot!(left(&node), @"
        web-1: it is running
        and 1 more
        ");
    }

    #[test]
    fn a_node_that_was_removed() {
        let removal = Removal { node: fixture::node(), vms: 2, tasks: 1 };
        insta::assert_snapshot!(told(&removal, false), @"
        removed            local
        id                 0190f1f0-0000-7000-8000-00000000000a
        machines given up  2
        tasks ended        1
        ");
    }
}
