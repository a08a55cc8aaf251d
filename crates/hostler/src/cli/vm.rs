//! `hostler vm`: machines. Their power is in `power`.

mod claim;
mod create;
mod edit;
pub(super) mod first_boot;
mod power;
mod rename;
mod shape;
mod snapshot;

use std::time::Duration;

use clap::Subcommand;
use hostler_client::VmQuery;
use hostler_model::{
    Timestamp,
    task::Task,
    vm::{Vm, VmReason, VmState},
};

pub use self::shape::Shape;
use super::{Globals, NodeNames, ScheduleArgs, Session, WaitArgs, WatchArgs, exec, read, succeeded};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

/// The verbs of machines.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const LIST: &str = "\
Examples:
  hostler vm list
  hostler vm list --state error
  hostler vm list --watch
  hostler vm list -o wide --no-headers
  hostler vm list -o json";

const DELETE: &str = "\
Examples:
  hostler vm delete web-1
  hostler vm delete web-1 web-2 --no-wait";

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a machine and wait until its guest answers
    #[command(after_help = create::EXAMPLES)]
    Create(Box<create::Args>),
    /// List the machines
    #[command(visible_alias = "ls", after_help = LIST)]
    List(List),
    /// Show one machine
    #[command(after_help = "Examples:\n  hostler vm show web-1\n  hostler vm show web-1 -o json")]
    Show(Show),
    /// Run a program in a machine; end as it does
    #[command(after_help = exec::EXAMPLES)]
    Exec(exec::Args),
    /// Change a machine
    #[command(after_help = edit::EXAMPLES)]
    Edit(edit::Args),
    #[command(flatten)]
    Power(power::Verb),
    /// Keep a machine's disk, or its memory and its disk, as they are now
    #[command(after_help = snapshot::SNAPSHOT)]
    Snapshot(snapshot::Take),
    /// Put a machine back to one of its snapshots; what it did since is lost
    #[command(after_help = snapshot::RESTORE)]
    Restore(snapshot::Restore),
    /// Give a machine another name
    #[command(after_help = rename::EXAMPLES)]
    Rename(rename::Args),
    /// Make a machine that is on a host and that no record knows a tenant's
    #[command(after_help = claim::EXAMPLES)]
    Claim(claim::Args),
    /// End machines and remove what they had
    #[command(visible_alias = "rm", after_help = DELETE)]
    Delete(Delete),
}

#[derive(clap::Args, Debug)]
struct List {
    /// Only those in this state; without it all that are not deleted
    #[arg(long, value_parser = read::vm_state)]
    state: Option<VmState>,

    /// Only those on this node, by name or id
    #[arg(long)]
    node: Option<String>,

    /// At most this many, the newest
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(clap::Args, Debug)]
struct Show {
    /// Its name or id
    vm: String,

    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(clap::Args, Debug)]
struct Delete {
    /// Their names or ids
    #[arg(required = true)]
    vm: Vec<String>,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// Runs a verb of machines.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    match args.verb {
        Verb::Create(args) => create::run(*args, &session).await,
        Verb::List(args) => list(args, &session).await,
        Verb::Show(args) => show_one(args, &session).await,
        Verb::Exec(args) => exec::run(args, &session).await,
        Verb::Edit(args) => edit::run(args, &session).await,
        Verb::Power(verb) => power::run(verb, &session).await,
        Verb::Snapshot(args) => snapshot::take(args, &session).await,
        Verb::Restore(args) => snapshot::restore(args, &session).await,
        Verb::Rename(args) => rename::run(args, &session).await,
        Verb::Claim(args) => claim::run(args, &session).await,
        Verb::Delete(args) => delete(args, &session).await,
    }
}

async fn list(args: List, session: &Session) -> Result<Exit, Failure> {
    let which = VmQuery { state: args.state, node: args.node };
    let look = async || {
        let vms = session.client.vms(&which, args.limit).await?;
        let nodes = if vms.is_empty() { NodeNames::default() } else { session.node_names().await };
        let text = table(&vms, &nodes, session.now());
        Ok((vms, text))
    };
    session.view(args.watch, None, look).await
}

async fn show_one(args: Show, session: &Session) -> Result<Exit, Failure> {
    let subject = if args.watch.watch { Some(session.client.vm(&args.vm).await?.id.0) } else { None };
    let look = async || {
        let vm = session.client.vm(&args.vm).await?;
        let text = show(&vm, &session.node_names().await, session.now());
        Ok((vm, text))
    };
    session.view(args.watch, subject, look).await
}

/// Each machine by itself: one that cannot be deleted does not save the others.
async fn delete(args: Delete, session: &Session) -> Result<Exit, Failure> {
    let (how, mut tasks, mut failures) = (args.schedule.submit(), Vec::new(), Vec::new());
    for vm in &args.vm {
        match session.client.delete_vm(vm, &how).await {
            Ok(submitted) => tasks.push((vm, submitted.task)),
            Err(error) => failures.push(Failure::from(error).explained(&session.client).await),
        }
    }
    let mut ended = Vec::new();
    for (vm, task) in tasks {
        match deleted(session, vm, task, &args.wait).await {
            Ok(task) => ended.push(task),
            Err(failure @ Failure { exit: Exit::Signalled(_), .. }) => return Err(failure),
            Err(failure) => failures.push(failure),
        }
    }
    if session.is_data() {
        session.data(&ended)?;
    }
    let last = failures.pop();
    failures.iter().for_each(|failure| session.complain(failure));
    last.map_or(Ok(Exit::Done), Err)
}

async fn deleted(session: &Session, vm: &str, task: Task, wait: &WaitArgs) -> Result<Task, Failure> {
    if wait.no_wait() {
        if !session.is_data() {
            output::text(&format!("{vm} is being deleted: task {}", task.id))?;
        }
        return Ok(task);
    }
    let task = succeeded(session.ended(task, Some(wait.timeout), session.tell()).await?)?;
    if !session.is_data() {
        output::text(&format!("{vm} is deleted"))?;
    }
    Ok(task)
}

/// As the API spells it, with spaces.
fn spelled(reason: VmReason) -> String {
    let json = serde_json::to_value(reason).unwrap_or_default();
    json.as_str().unwrap_or_default().replace('_', " ")
}

/// The state, and why.
pub fn state(vm: &Vm) -> String {
    match vm.reason {
        Some(reason) => format!("{} ({})", vm.state, spelled(reason)),
        None if vm.state == VmState::Running && !vm.ready => "running (not ready)".to_owned(),
        None => vm.state.to_string(),
    }
}

fn table(vms: &[Vm], nodes: &NodeNames, now: Timestamp) -> Table {
    let rows = vms.iter().map(|vm| {
        [
            vm.name.to_string(),
            state(vm),
            vm.spec.image.clone(),
            vm.spec.vcpus.to_string(),
            output::mib(vm.spec.memory_mib),
            format!("{} GiB", vm.spec.disk_gib),
            nodes.of(vm.node),
            output::ago(vm.created_at, now),
            labels(vm),
            vm.id.to_string(),
        ]
    });
    output::table(["NAME", "STATE", "IMAGE", "VCPUS", "MEMORY", "DISK", "NODE", "CREATED", "LABELS", "ID"], rows)
        .wide(&["LABELS", "ID"])
}

fn labels(vm: &Vm) -> String {
    vm.spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn show(vm: &Vm, nodes: &NodeNames, now: Timestamp) -> String {
    let digest: String = vm.spec.image_digest.0.chars().take(12).collect();
    let [ready, hostname, user_data] = first_boot::fields(&vm.spec);
    output::fields([
        ("name", vm.name.to_string()),
        ("id", vm.id.to_string()),
        ("state", state(vm)),
        ("detail", output::or_nothing(vm.detail.as_ref())),
        ("was", output::or_nothing(vm.last_state)),
        ("task", output::or_nothing(vm.task)),
        ("node", nodes.of(vm.node)),
        ("image", format!("{} ({digest})", vm.spec.image)),
        ("vcpus", vm.spec.vcpus.to_string()),
        ("memory", output::mib(vm.spec.memory_mib)),
        ("disk", format!("{} GiB", vm.spec.disk_gib)),
        ready,
        hostname,
        user_data,
        ("labels", labels(vm)),
        ("restarts", power::restarts(vm)),
        ("starts", power::next_start(vm, now)),
        ("ports", edit::ports(vm)),
        ("protected", edit::protected(vm)),
        ("expires", edit::expires(vm, now)),
        ("pending", edit::pending(vm)),
        ("created", output::ago(vm.created_at, now)),
        ("changed", output::ago(vm.updated_at, now)),
    ])
}

/// How long a deletion may take before `run --rm` says that it goes on.
pub const DELETION: Duration = Duration::from_secs(180);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn names() -> NodeNames {
        NodeNames([(fixture::node().id, "local".to_owned())].into())
    }

    #[test]
    fn a_list_of_machines() {
        let mut broken = fixture::vm("db", "error");
        broken.reason = Some(VmReason::NodeLost);
        broken.node = Some("0190f1f0-0000-7000-8000-00000000000c".parse().unwrap());
        let vms = [fixture::vm("web-1", "running"), broken, Vm { node: None, ..fixture::vm("new", "provisioning") }];
        insta::assert_snapshot!(table(&vms, &names(), fixture::NOW), @"
        NAME   STATE              IMAGE  VCPUS  MEMORY   DISK   NODE           CREATED
        web-1  running            tiny   1      256 MiB  1 GiB  local          60s ago
        db     error (node lost)  tiny   1      256 MiB  1 GiB  …00000000000c  60s ago
        new    provisioning       tiny   1      256 MiB  1 GiB  -              60s ago
        ");
        assert_eq!(
            table(&[], &names(), fixture::NOW).to_string(),
            "NAME  STATE  IMAGE  VCPUS  MEMORY  DISK  NODE  CREATED\n"
        );
    }

    #[test]
    fn a_machine() {
        insta::assert_snapshot!(show(&fixture::vm("web-1", "running"), &names(), fixture::NOW), @"
        name      web-1
        id        0190f1f0-0000-7000-8000-00000000000b
        state     running
        node      local
        image     tiny (abababababab)
        vcpus     1
        memory    256 MiB
        disk      1 GiB
        ready by  guest-agent, within 120 s
        labels    app=shop, tier=web
        created   60s ago
        changed   60s ago
        ");
    }
}
