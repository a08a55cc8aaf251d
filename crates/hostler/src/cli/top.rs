//! `hostler top`: nodes, machines and tasks on one screen, drawn again as things happen. Where stdout is no terminal, one
//! screen as plain text, and the end.

use std::{fmt::Write as _, io, time::Duration};

use hostler_client::{TaskQuery, VmQuery};
use hostler_model::{
    Timestamp,
    node::Node,
    task::{Task, TaskState},
    vm::{Vm, VmState},
};
use serde::Serialize;

use super::{
    Globals, NodeNames, Session,
    live::{Changes, Screen},
};
use crate::{
    exit::{Exit, Failure},
    interrupt::{INTERRUPT, Interrupt},
    output::{self, Human as _, Style, paint},
    terminal::{self, Keys},
    watch::status,
};

/// Rates are over the last minute.
const RATE: Duration = Duration::from_secs(60);
/// As many of the newest tasks are looked at for the rates.
const REACH: usize = 500;
/// As many tasks under way are shown at most.
const UNDER_WAY: usize = 50;

const EXAMPLES: &str = "\
Examples:
  hostler top                   until q
  hostler top > file            one screen, as text
  hostler top -o json           one screen, for a program";

/// Nothing needs to be said.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

/// One look at everything.
#[derive(Debug, Serialize)]
struct Look {
    nodes: Vec<Node>,
    vms: Vec<Vm>,
    /// Running, aborting and queued, in this order.
    tasks: Vec<Task>,
    rates: Rates,
}

/// Tasks that ended within the last minute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
struct Rates {
    succeeded_per_minute: usize,
    failed_per_minute: usize,
    cancelled_per_minute: usize,
    /// There were more than were looked at: the rates are at least these.
    at_least: bool,
}

/// Shows it.
pub async fn run(_: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    let style = globals.output.style();
    if session.is_data() || terminal::size().is_none() {
        let look = look(&session).await?;
        session.print(&look, || draw(&look, session.now(), &style))?;
        return Ok(Exit::Done);
    }
    let mut interrupt = Interrupt::listen()?;
    let mut keys = Keys::open();
    let _own = OwnScreen::enter()?;
    let quit = async {
        match &mut keys {
            Some(keys) => while keys.next().await != 'q' {},
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = stay(&session, globals) => ended.map(|()| Exit::Done),
        () = quit => Ok(Exit::Done),
        signal = interrupt.caught() => Ok(if signal == INTERRUPT { Exit::Done } else { Exit::Signalled(signal) }),
    }
}

async fn stay(session: &Session, globals: &Globals) -> Result<(), Failure> {
    let mut changes = Changes::of(&session.client, None);
    let (mut screen, mut shown) = (Screen::default(), String::new());
    loop {
        match look(session).await {
            Ok(look) => shown = draw(&look, session.now(), &globals.output.style()),
            Err(failure) if failure.exit == Exit::Unreachable && !shown.is_empty() => {
                // What was seen last stays, and says that it is old.
                screen.show(&format!("{}\n{shown}", paint::state("stale: the server is away")))?;
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(failure) => return Err(failure),
        }
        screen.show(&shown)?;
        changes.next().await;
    }
}

/// A screen of our own; what was there before comes back at the end.
struct OwnScreen;

impl OwnScreen {
    fn enter() -> io::Result<OwnScreen> {
        output::raw("\x1b[?1049h\x1b[?25l\x1b[H").map(|()| OwnScreen)
    }
}

impl Drop for OwnScreen {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing anyway.
        let _ = output::raw("\x1b[?25h\x1b[?1049l");
    }
}

async fn look(session: &Session) -> Result<Look, Failure> {
    let client = &session.client;
    let newest = client.tasks(&TaskQuery::default(), Some(REACH)).await?;
    let rates = Rates::of(&newest, session.now());
    let mut tasks = Vec::new();
    for state in [TaskState::Running, TaskState::Aborting, TaskState::Queued] {
        let which = TaskQuery { state: Some(state), ..TaskQuery::default() };
        tasks.extend(client.tasks(&which, Some(UNDER_WAY)).await?);
    }
    let nodes = client.nodes().await?;
    Ok(Look { nodes, vms: client.vms(&VmQuery::default(), None).await?, tasks, rates })
}

impl Rates {
    fn of(newest: &[Task], now: Timestamp) -> Rates {
        let recent = |task: &&Task| task.finished_at.is_some_and(|ended| now.since(ended) <= RATE);
        let count = |state| newest.iter().filter(recent).filter(|task| task.state == state).count();
        Rates {
            succeeded_per_minute: count(TaskState::Succeeded),
            failed_per_minute: count(TaskState::Failed),
            cancelled_per_minute: count(TaskState::Cancelled),
            at_least: newest.len() == REACH && newest.last().is_some_and(|task| now.since(task.created_at) <= RATE),
        }
    }
}

fn draw(look: &Look, now: Timestamp, style: &Style) -> String {
    let names = NodeNames(look.nodes.iter().map(|node| (node.id, node.name.to_string())).collect());
    let mut text = head(look);
    let _ = write!(text, "\n{}\n{}", nodes(&look.nodes).text(style), vms(&look.vms, &names, now).text(style));
    if !look.tasks.is_empty() {
        let _ = write!(text, "\n{}", tasks(&look.tasks, &names, now).text(style));
    }
    text
}

fn head(look: &Look) -> String {
    let count = |state| look.vms.iter().filter(|vm| vm.state == state).count();
    let states: Vec<String> = VmState::ALL
        .into_iter()
        .filter(|state| count(*state) > 0)
        .map(|state| format!("{} {state}", count(state)))
        .collect();
    let waiting = look.tasks.iter().filter(|task| task.state == TaskState::Queued).count();
    let Rates { succeeded_per_minute, failed_per_minute, cancelled_per_minute, at_least } = look.rates;
    format!(
        "machines  {} ({})\ntasks     {} under way, {waiting} queued; in the last minute {}{succeeded_per_minute} done, \
         {failed_per_minute} failed, {cancelled_per_minute} cancelled\n",
        look.vms.len(),
        if states.is_empty() { "none".to_owned() } else { states.join(", ") },
        look.tasks.len() - waiting,
        if at_least { "at least " } else { "" },
    )
}

fn nodes(nodes: &[Node]) -> output::Table {
    let rows = nodes.iter().map(|node| {
        let [vcpus, memory, disk, vms] = super::node::room(node);
        [node.name.to_string(), node.state.to_string(), node.freshness.as_str().to_owned(), vcpus, memory, disk, vms]
    });
    output::table(["NODE", "STATE", "AGENT", "VCPUS", "MEMORY", "DISK", "VMS"], rows)
}

fn vms(vms: &[Vm], nodes: &NodeNames, now: Timestamp) -> output::Table {
    let rows = vms.iter().map(|vm| {
        [
            vm.name.to_string(),
            super::vm::state(vm),
            vm.spec.image.clone(),
            vm.spec.vcpus.to_string(),
            output::mib(vm.spec.memory_mib),
            nodes.of(vm.node),
            output::ago(vm.updated_at, now),
        ]
    });
    output::table(["MACHINE", "STATE", "IMAGE", "VCPUS", "MEMORY", "NODE", "CHANGED"], rows)
}

fn tasks(tasks: &[Task], nodes: &NodeNames, now: Timestamp) -> output::Table {
    let rows = tasks.iter().map(|task| {
        [
            task.id.short(),
            task.kind.to_string(),
            task.state.to_string(),
            nodes.of(task.node),
            status(task),
            output::ago(task.created_at, now),
        ]
    });
    output::table(["TASK", "KIND", "STATE", "NODE", "DOES", "CREATED"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn everything_is_on_one_screen() {
        let look = Look {
            nodes: vec![fixture::node()],
            vms: vec![fixture::vm("web", "running"), fixture::vm("db", "error")],
            tasks: vec![fixture::task("running"), fixture::task("queued")],
            rates: Rates::of(&[fixture::failed_task(), fixture::task("succeeded")], fixture::NOW),
        };
        insta::assert_snapshot!(draw(&look, fixture::NOW, &Style::default()), @"
        machines  2 (1 running, 1 error)
        tasks     1 under way, 1 queued; in the last minute 0 done, 1 failed, 0 cancelled

        NODE   STATE  AGENT  VCPUS  MEMORY        DISK      VMS
        local  ready  fresh  1/8    257/8192 MiB  1/50 GiB  1/100

        MACHINE  STATE    IMAGE  VCPUS  MEMORY   NODE   CHANGED
        web      running  tiny   1      256 MiB  local  60s ago
        db       error    tiny   1      256 MiB  local  60s ago

        TASK          KIND  STATE    NODE  DOES     CREATED
        000000000001  echo  running  -     running  60s ago
        000000000001  echo  queued   -     queued   60s ago
        ");
    }

    #[test]
    fn a_task_that_ended_long_ago_is_in_no_rate() {
        let later = fixture::NOW.plus(Duration::from_secs(3600));
        assert_eq!(Rates::of(&[fixture::failed_task()], later), Rates::default());
    }
}
