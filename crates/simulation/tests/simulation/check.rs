//! What must be true of the hosts and the store: at any time, and once everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use hostler_model::{
    NodeId, Resources, SnapshotId, VmId,
    amounts::Amounts,
    kind::KindName,
    node::Node,
    snapshot::{Snapshot, SnapshotState},
    task::TaskState,
    vm::{Vm, VmState},
};
use hostler_store::{SnapshotFilter, Store, TaskFilter, VmFilter};

use crate::{chaos::World, user::Ledger};

/// More of anything than a simulation has.
const ALL: usize = 10_000;

/// What is wrong; empty when nothing is.
type Wrongs = Vec<String>;

/// What may never be, whatever is under way.
pub fn at_any_time(world: &World) -> Wrongs {
    let mut wrongs = Wrongs::new();
    let mut homes: BTreeMap<VmId, &str> = BTreeMap::new();
    let names: Vec<String> = world.hosts.iter().map(|host| host.name()).collect();
    for (host, name) in world.hosts.iter().zip(&names) {
        wrongs.extend(
            host.machines.crowded().iter().map(|vm| format!("machine {vm} had two processes at once on {name}")),
        );
        wrongs.extend(
            host.machines
                .orphans()
                .iter()
                .map(|vm| format!("a process of machine {vm} lives on {name} without its folder")),
        );
        for plan in host.machines.plans() {
            if let Some(other) = homes.insert(plan.id, name) {
                wrongs.push(format!("machine {} is on {other} and on {name}", plan.id));
            }
        }
    }
    wrongs
}

/// What the store says of itself.
pub async fn doctor(store: &Store) -> hostler_store::Result<Wrongs> {
    let diagnosis = store.doctor().await?;
    Ok(diagnosis
        .checks
        .into_iter()
        .filter(|check| !check.ok)
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect())
}

/// Everything, as the store has it.
struct Books {
    nodes: Vec<Node>,
    vms: Vec<Vm>,
    snapshots: Vec<Snapshot>,
}

/// What must be true once nothing is under way any more.
pub async fn at_rest(world: &World, store: &Store, ledger: &Ledger) -> hostler_store::Result<Wrongs> {
    let mut wrongs = doctor(store).await?;
    for task in ledger.promised() {
        match store.task(task).await? {
            Some(task) if task.state.is_terminal() => {}
            Some(task) => wrongs.push(format!("task {} ({}) is {}", task.id, task.kind, task.state)),
            None => wrongs.push(format!("task {task}, which was promised, is not there")),
        }
    }
    wrongs.extend(programs(world, store).await?);
    let books = Books {
        nodes: store.nodes().await?,
        vms: store.vms(VmFilter::default(), None, ALL).await?,
        snapshots: store.snapshots(SnapshotFilter::default(), None, ALL).await?,
    };
    for host in &world.hosts {
        match books.nodes.iter().find(|node| node.name.to_string() == host.name()) {
            Some(node) => wrongs.extend(books.against(node, &host.machines)),
            None => wrongs.push(format!("{} is not known", host.name())),
        }
    }
    Ok(wrongs)
}

/// A program runs as often as there are tasks for it at the most: somebody may have asked again. One whose task succeeded
/// did run.
async fn programs(world: &World, store: &Store) -> hostler_store::Result<Wrongs> {
    let filter = TaskFilter { kind: Some(KindName::VmExec), ..TaskFilter::default() };
    let ran: BTreeMap<_, usize> = world.hosts.iter().flat_map(|host| host.machines.programs()).collect();
    let mut asked: BTreeMap<(VmId, Vec<String>), usize> = BTreeMap::new();
    let mut wrongs = Wrongs::new();
    for task in store.tasks(filter, None, ALL).await? {
        let argv: Vec<String> = serde_json::from_value(task.params["argv"].clone()).unwrap_or_default();
        let Some(program) = task.target.vm.map(|vm| (vm, argv)) else { continue };
        if task.state == TaskState::Succeeded && !ran.contains_key(&program) {
            wrongs.push(format!("the program of task {} succeeded and never ran", task.id));
        }
        *asked.entry(program).or_default() += 1;
    }
    for (program, times) in ran {
        let tasks = asked.get(&program).copied().unwrap_or_default();
        if times > tasks {
            wrongs.push(format!("{:?} ran {times} times in machine {} for {tasks} tasks", program.1, program.0));
        }
    }
    Ok(wrongs)
}

/// Whether there is so much. -1 is no limit.
pub fn within(amount: Amounts, limits: Amounts) -> bool {
    amount.each().iter().zip(limits.each()).all(|((_, amount), (_, limit))| limit < 0 || *amount <= limit)
}

impl Books {
    fn on(&self, node: NodeId) -> impl Iterator<Item = &Vm> {
        self.vms.iter().filter(move |vm| vm.node == Some(node))
    }

    /// A node's part of the books against its host.
    fn against(&self, node: &Node, host: &hostler_agent::hypervisor::sim::SimHost) -> Wrongs {
        let mut wrongs = Wrongs::new();
        let there: BTreeSet<VmId> = host.plans().iter().map(|plan| plan.id).collect();
        for vm in self.on(node.id) {
            wrongs.extend(state(vm, there.contains(&vm.id), host.alive(vm.id)));
        }
        let known: BTreeSet<VmId> = self.on(node.id).map(|vm| vm.id).collect();
        wrongs.extend(
            there
                .difference(&known)
                .map(|vm| format!("machine {vm} is on {}, and the store does not know it there", node.name)),
        );
        wrongs.extend(self.snapshots_against(node, host));
        wrongs.extend(self.charges(node, host));
        if !within(node.book.total().room().into(), node.schedulable.into()) {
            wrongs.push(format!("{} has promised {:?} of {:?}", node.name, node.book, node.schedulable));
        }
        wrongs
    }

    fn snapshots_against(&self, node: &Node, host: &hostler_agent::hypervisor::sim::SimHost) -> Wrongs {
        let there: BTreeSet<SnapshotId> = host.kept_snapshots().into_iter().map(|(_, id)| id).collect();
        let mut wrongs = Wrongs::new();
        let here: Vec<&Snapshot> = self.snapshots.iter().filter(|one| one.node == Some(node.id)).collect();
        for one in &here {
            if one.state == SnapshotState::Ready && !there.contains(&one.id) {
                wrongs.push(format!("snapshot {} is ready, and not there", one.id));
            }
        }
        let unknown = there.iter().filter(|id| !here.iter().any(|one| one.id == **id));
        wrongs.extend(unknown.map(|id| format!("snapshot {id} is on {}, and the store does not know it", node.name)));
        wrongs
    }

    /// What is charged on a node is what its host has: no more, but where an edit waits for a start, and never less.
    fn charges(&self, node: &Node, host: &hostler_agent::hypervisor::sim::SimHost) -> Wrongs {
        let machines = host.plans().iter().fold(Resources::ZERO, |sum, plan| sum + plan.spec.charge());
        let (kept, charged) = (host.kept_snapshots().len(), node.book.total());
        let waits = self.on(node.id).any(|vm| vm.generation != vm.observed_generation);
        let same =
            (charged.vcpus, charged.memory_mib, charged.vms) == (machines.vcpus, machines.memory_mib, machines.vms);
        let runs = self.on(node.id).filter(|vm| matches!(vm.state, VmState::Running | VmState::Paused)).count();
        let snapshots = i64::try_from(kept).unwrap_or(i64::MAX);
        let enough = within(machines.into(), charged) && charged.disk_gib >= machines.disk_gib + snapshots;
        let enough = enough && charged.running_vms >= i64::try_from(runs).unwrap_or(i64::MAX);
        if enough && (same || waits) {
            return Wrongs::new();
        }
        vec![format!("{} is charged {charged:?}; there is {machines:?}, and {kept} snapshots", node.name)]
    }
}

/// A machine as the store has it, against its host.
fn state(vm: &Vm, there: bool, alive: usize) -> Option<String> {
    let well = match vm.state {
        VmState::Running | VmState::Paused => there && alive == 1,
        VmState::Stopped => there && alive == 0,
        VmState::Error => true,
        VmState::Provisioning | VmState::Sleeping | VmState::Unknown | VmState::Deleted => false,
    };
    let idle = vm.task.is_none();
    (!well || !idle).then(|| {
        format!(
            "VM {} is {} (task {:?}) after all; its host has {} and {alive} processes",
            vm.id,
            vm.state,
            vm.task,
            if there { "its folder" } else { "nothing" }
        )
    })
}
