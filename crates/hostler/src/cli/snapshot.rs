//! `hostler snapshot`: the kept states of machines. How one is taken and restored is `vm snapshot` and `vm restore`.

use std::collections::BTreeMap;

use clap::Subcommand;
use hostler_client::{ClientError, SnapshotQuery};
use hostler_model::{
    Code, Refusal, SnapshotId, Timestamp, VmId,
    api::Problem,
    error::excerpt,
    snapshot::{Snapshot, SnapshotState},
};

use super::{Globals, NodeNames, ScheduleArgs, Session, WaitArgs, read, succeeded};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

/// The verbs of snapshots.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const LIST: &str = "\
Examples:
  hostler snapshot list
  hostler snapshot list --vm web-1 -o json";

const SHOW: &str = "\
Examples:
  hostler snapshot show before-upgrade --vm web-1
  hostler snapshot show 0190f1f0-0000-7000-8000-00000000000d -o json";

const DELETE: &str = "\
Examples:
  hostler snapshot delete before-upgrade --vm web-1
  hostler snapshot delete 0190f1f0-0000-7000-8000-00000000000d --no-wait";

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the snapshots
    #[command(visible_alias = "ls", after_help = LIST)]
    List(List),
    /// Show one snapshot
    #[command(after_help = SHOW)]
    Show(Which),
    /// Remove a snapshot; its machine stays as it is
    #[command(visible_alias = "rm", after_help = DELETE)]
    Delete(Delete),
}

#[derive(clap::Args, Debug)]
struct List {
    /// Only those of this machine, by name or id
    #[arg(long)]
    vm: Option<String>,

    /// Only those in this state; without it all that are not deleted
    #[arg(long, value_parser = read::snapshot_state)]
    state: Option<SnapshotState>,

    /// At most this many, the newest
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(clap::Args, Debug)]
struct Which {
    /// Its name or id
    snapshot: String,

    /// The machine that it is of, by name or id; needed where several have a snapshot of that name
    #[arg(long)]
    vm: Option<String>,
}

#[derive(clap::Args, Debug)]
struct Delete {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// Runs a verb of snapshots.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    match args.verb {
        Verb::List(args) => list(args, &session).await,
        Verb::Show(which) => {
            let snapshot = find(&which, &session).await?;
            let nodes = session.node_names().await;
            session.print(&snapshot, || show(&snapshot, &nodes, session.now()))?;
            Ok(Exit::Done)
        }
        Verb::Delete(args) => delete(args, &session).await,
    }
}

async fn list(args: List, session: &Session) -> Result<Exit, Failure> {
    let which = SnapshotQuery { vm: args.vm, state: args.state };
    let snapshots = session.client.snapshots(&which, args.limit).await?;
    let vms = if session.is_data() || snapshots.is_empty() {
        BTreeMap::new()
    } else {
        session
            .client
            .vms(&Default::default(), None)
            .await?
            .into_iter()
            .map(|vm| (vm.id, vm.name.to_string()))
            .collect()
    };
    session.print(&snapshots, || table(&snapshots, &vms, session.now()))?;
    Ok(Exit::Done)
}

/// By id, or by its name among its machine's; without a machine, by a name that only one snapshot has.
async fn find(which: &Which, session: &Session) -> Result<Snapshot, Failure> {
    if which.vm.is_none() && which.snapshot.parse::<SnapshotId>().is_ok() {
        return Ok(session.client.snapshot(&which.snapshot).await?);
    }
    let all = session.client.snapshots(&SnapshotQuery { vm: which.vm.clone(), state: None }, None).await?;
    only(all, which).map_err(|refusal| ClientError::Refused(Box::new(Problem::of(refusal, None))).into())
}

fn only(all: Vec<Snapshot>, which: &Which) -> Result<Snapshot, Refusal> {
    let name = excerpt(&which.snapshot);
    let is_it = |one: &Snapshot| one.name.as_str() == which.snapshot || one.id.to_string() == which.snapshot;
    let mut found = all.into_iter().filter(is_it);
    match (found.next(), found.next(), &which.vm) {
        (Some(snapshot), None, _) => Ok(snapshot),
        (None, _, None) => Err(missing(format!("there is no snapshot {name:?}"), "").with("snapshot", name)),
        (None, _, Some(vm)) => {
            let refusal =
                missing(format!("{} has no snapshot {name:?}", excerpt(vm)), &format!(" --vm {}", excerpt(vm)));
            Err(refusal.with("snapshot", name).with("vm", vm.as_str()))
        }
        (Some(_), Some(_), _) => {
            let detail = format!("more than one machine has a snapshot {name:?}; say whose with --vm");
            Err(Refusal::new(Code::SnapshotNotFound, detail))
        }
    }
}

fn missing(what: String, of: &str) -> Refusal {
    let detail = format!("{what}; `hostler snapshot list{of}` shows those there are");
    Refusal::new(Code::SnapshotNotFound, detail)
}

async fn delete(args: Delete, session: &Session) -> Result<Exit, Failure> {
    let snapshot = find(&args.which, session).await?;
    let mut submitted = session.client.delete_snapshot(&snapshot.id.to_string(), &args.schedule.submit()).await?;
    let name = &snapshot.name;
    if args.wait.no_wait() {
        session.print(&submitted, || format!("{name} is being deleted: task {}", submitted.task.id))?;
        return Ok(Exit::Done);
    }
    submitted.task = session.ended(submitted.task, Some(args.wait.timeout), session.tell()).await?;
    if session.is_data() {
        session.data(&submitted)?;
    }
    succeeded(submitted.task)?;
    if !session.is_data() {
        output::text(&format!("{name} is deleted"))?;
    }
    Ok(Exit::Done)
}

fn size(snapshot: &Snapshot) -> String {
    match snapshot.written {
        Some(written) => output::bytes(u64::try_from(written.disk_bytes + written.memory_bytes).unwrap_or_default()),
        None => "-".to_owned(),
    }
}

fn kind(snapshot: &Snapshot) -> &'static str {
    if snapshot.memory { "memory+disk" } else { "disk" }
}

fn table(snapshots: &[Snapshot], vms: &BTreeMap<VmId, String>, now: Timestamp) -> Table {
    let rows = snapshots.iter().map(|snapshot| {
        [
            snapshot.name.to_string(),
            vms.get(&snapshot.vm).cloned().unwrap_or_else(|| format!("…{}", snapshot.vm.short())),
            snapshot.state.to_string(),
            kind(snapshot).to_owned(),
            size(snapshot),
            output::ago(snapshot.created_at, now),
            snapshot.id.to_string(),
        ]
    });
    output::table(["NAME", "VM", "STATE", "OF", "SIZE", "CREATED", "ID"], rows)
}

fn show(snapshot: &Snapshot, nodes: &NodeNames, now: Timestamp) -> String {
    let bytes = |bytes: i64| output::bytes(u64::try_from(bytes).unwrap_or_default());
    output::fields([
        ("name", snapshot.name.to_string()),
        ("id", snapshot.id.to_string()),
        ("vm", snapshot.vm.to_string()),
        ("state", snapshot.state.to_string()),
        ("detail", output::or_nothing(snapshot.detail.as_ref())),
        ("task", output::or_nothing(snapshot.task)),
        ("node", nodes.of(snapshot.node)),
        ("of", kind(snapshot).to_owned()),
        ("quiesced", snapshot.quiesced.map(|held| if held { "yes" } else { "no" }).unwrap_or_default().to_owned()),
        ("disk", snapshot.written.map(|written| bytes(written.disk_bytes)).unwrap_or_default()),
        (
            "memory",
            snapshot.written.filter(|_| snapshot.memory).map(|written| bytes(written.memory_bytes)).unwrap_or_default(),
        ),
        ("created", output::ago(snapshot.created_at, now)),
        ("changed", output::ago(snapshot.updated_at, now)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_name_that_only_one_has_is_enough() {
        let which = |name: &str, vm: Option<&str>| Which { snapshot: name.into(), vm: vm.map(str::to_owned) };
        let (one, two) = (fixture::snapshot("good", false), fixture::snapshot("better", false));
        let found = |which: &Which| only(vec![one.clone(), two.clone()], which);
        assert_eq!(found(&which("good", None)).unwrap().name.as_str(), "good");
        let missing = found(&which("bad", Some("web"))).unwrap_err();
        assert_eq!((missing.facts["snapshot"].as_str(), missing.facts["vm"].as_str()), (Some("bad"), Some("web")));
        assert!(only(vec![one.clone(), one.clone()], &which("good", None)).unwrap_err().detail.contains("--vm"));
    }

    #[test]
    fn a_list_of_snapshots() {
        let vm = fixture::vm("web-1", "running");
        let making = Snapshot { written: None, ..fixture::snapshot("now", false) };
        let all = [fixture::snapshot("before", true), making];
        insta::assert_snapshot!(table(&all, &[(vm.id, "web-1".to_owned())].into(), fixture::NOW), @"
        NAME    VM     STATE  OF           SIZE      CREATED  ID
        before  web-1  ready  memory+disk  96.3 MiB  60s ago  0190f1f0-0000-7000-8000-00000000000d
        now     web-1  ready  disk         -         60s ago  0190f1f0-0000-7000-8000-00000000000d
        ");
    }

    #[test]
    fn one_snapshot() {
        let nodes = NodeNames([(fixture::node().id, "local".to_owned())].into());
        insta::assert_snapshot!(show(&fixture::snapshot("before", true), &nodes, fixture::NOW), @"
        name     before
        id       0190f1f0-0000-7000-8000-00000000000d
        vm       0190f1f0-0000-7000-8000-00000000000b
        state    ready
        node     local
        of       memory+disk
        disk     2.9 MiB
        memory   93.5 MiB
        created  60s ago
        changed  60s ago
        ");
    }
}
