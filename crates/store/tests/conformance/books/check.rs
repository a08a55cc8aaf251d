//! What must be true after any history: read with eyes of its own, and added up anew.

use std::collections::BTreeMap;

use hostler_model::{
    Resources,
    amounts::Amounts,
    book::Book,
    event::Actor,
    kind::KindName,
    node::Node,
    reservation::Reservation,
    snapshot::{Snapshot, SnapshotState},
    task::{Task, TaskState},
    tenant::Tenant,
    vm::{Vm, VmState},
};
use hostler_store::{SnapshotFilter, TaskFilter, VmFilter};
use uuid::Uuid;

use super::history::History;

/// More of anything than one history has.
const ALL: usize = 10_000;

/// An allocation as it lies in the file.
#[derive(Clone, Debug)]
struct Row {
    tenant: String,
    node: Option<String>,
    amount: Amounts,
    used: bool,
}

/// By noun and id.
type Rows = BTreeMap<(String, String), Row>;

/// Everything that may own an allocation.
struct There {
    vms: Vec<Vm>,
    snapshots: Vec<Snapshot>,
    tasks: Vec<Task>,
    reservations: Vec<Reservation>,
}

/// What is wrong; empty when nothing is.
pub async fn wrongs(history: &History) -> Vec<String> {
    let store = &history.world.store;
    let (tenants, nodes) = (store.tenants(None, ALL).await.unwrap(), store.nodes().await.unwrap());
    let rows = read(history);
    let mut wrongs = sums(&tenants, &nodes, &rows);
    let mut reservations = Vec::new();
    for tenant in &tenants {
        reservations.extend(store.reservations(tenant.id, None, ALL).await.unwrap());
    }
    let there = There {
        vms: store.vms(VmFilter::default(), None, ALL).await.unwrap(),
        snapshots: store.snapshots(SnapshotFilter::default(), None, ALL).await.unwrap(),
        tasks: store.tasks(TaskFilter::default(), None, ALL).await.unwrap(),
        reservations,
    };
    wrongs.extend(there.against(rows));
    wrongs.extend(history.known_against(&there.tasks, &there.reservations));
    let checks = store.doctor().await.unwrap().checks.into_iter().filter(|check| !check.ok);
    wrongs.extend(checks.map(|check| format!("{}: {}", check.name, check.detail)));
    for Tenant { id, name, .. } in &tenants {
        if store.recalculate(*id, Actor::system()).await.unwrap().unwrap().differed {
            wrongs.push(format!("the book of {name}, counted anew, is another"));
        }
    }
    for Node { id, name, .. } in &nodes {
        if store.recalculate_node(*id, Actor::system()).await.unwrap().unwrap().differed {
            wrongs.push(format!("the book of {name}, counted anew, is another"));
        }
    }
    wrongs
}

fn read(history: &History) -> Rows {
    let file = rusqlite::Connection::open(&history.file).unwrap();
    let mut rows = file
        .prepare(
            "SELECT noun, id, tenant, node, hold = 'used', vcpus, memory_mib, disk_gib, vms, running_vms, snapshots
               FROM allocations",
        )
        .unwrap();
    let read = rows.query_map([], |row| {
        let amount = Amounts {
            vcpus: row.get(5)?,
            memory_mib: row.get(6)?,
            disk_gib: row.get(7)?,
            vms: row.get(8)?,
            running_vms: row.get(9)?,
            snapshots: row.get(10)?,
        };
        let of = Row { tenant: row.get(2)?, node: row.get(3)?, amount, used: row.get(4)? };
        Ok(((row.get(0)?, row.get(1)?), of))
    });
    read.unwrap().map(Result::unwrap).collect()
}

/// Each book against the sum of its rows.
fn sums(tenants: &[Tenant], nodes: &[Node], rows: &Rows) -> Vec<String> {
    let sum = |of: &dyn Fn(&Row) -> bool| {
        let mut book = Book::default();
        for row in rows.values().filter(|row| of(row)) {
            *(if row.used { &mut book.used } else { &mut book.held }) += row.amount;
        }
        book
    };
    let tenants = tenants.iter().map(|tenant| {
        let id = tenant.id.to_string();
        (tenant.name.to_string(), tenant.book, sum(&|row| row.tenant == id))
    });
    let nodes = nodes.iter().map(|node| {
        let id = node.id.to_string();
        (node.name.to_string(), node.book, sum(&|row| row.node.as_ref() == Some(&id)))
    });
    let wrong = tenants.chain(nodes).filter(|(_, book, sum)| book != sum);
    wrong.map(|(name, book, sum)| format!("the book of {name} is {book:?}, the sum {sum:?}")).collect()
}

impl There {
    /// Everything with its allocation; what is left of them is nobody's.
    fn against(&self, mut rows: Rows) -> Vec<String> {
        let mut wrongs = Vec::new();
        let mut take = |noun: &str, id: Uuid| rows.remove(&(noun.to_owned(), id.to_string()));
        for vm in &self.vms {
            let row = take("vm", vm.id.0);
            let wrong = self.vm(vm, row.as_ref());
            wrongs.extend(wrong.map(|wrong| format!("the VM {} {wrong}: {row:?}, {vm:?}", vm.id)));
        }
        for one in &self.snapshots {
            let row = take("snapshot", one.id.0);
            let wrong = snapshot(one, row.as_ref());
            wrongs.extend(wrong.map(|wrong| format!("the snapshot {} {wrong}: {row:?}, {one:?}", one.id)));
        }
        for task in &self.tasks {
            let row = take("task", task.id.0);
            let wrong = of_task(task, row.as_ref());
            wrongs.extend(wrong.map(|wrong| format!("the task {} {wrong}: {row:?}, {task:?}", task.id)));
        }
        for held in &self.reservations {
            let row = take("reservation", held.id.0);
            if row.as_ref().is_none_or(|row| row.used || row.node.is_some() || row.amount != held.amount) {
                wrongs.push(format!("the reservation {} is charged {row:?}", held.id));
            }
        }
        wrongs.extend(rows.into_iter().map(|(owner, row)| format!("{owner:?} is charged, and is not there: {row:?}")));
        wrongs
    }

    fn vm(&self, vm: &Vm, row: Option<&Row>) -> Option<&'static str> {
        let Some(row) = row else { return (vm.state != VmState::Error).then_some("is not charged") };
        if row.tenant != vm.tenant.to_string() || row.node != vm.node.map(|node| node.to_string()) {
            return Some("is charged to another tenant or node");
        }
        let (charged, wanted) = (row.amount.room(), vm.spec.charge());
        if !holds(&charged, &wanted) {
            return Some("is charged for less than it is to have");
        }
        if charged != wanted && vm.generation == 1 {
            return Some("is charged for more than it has, and was never edited");
        }
        let open = self.tasks.iter().filter(|task| task.target.vm == Some(vm.id) && !task.state.is_terminal());
        let starts = open.clone().any(|task| task.kind.spec().starts && task.not_before <= task.created_at);
        match (vm.state, row.amount.running_vms) {
            (VmState::Running | VmState::Paused, 1) | (VmState::Error | VmState::Unknown, 0 | 1) => {}
            (VmState::Provisioning | VmState::Stopped, running) if running == i64::from(starts) => {}
            // One for later whose time has come may not have taken its place yet, and one that waits again is not for later.
            (VmState::Provisioning | VmState::Stopped, _) if open.clone().any(|task| task.kind.spec().starts) => {}
            _ => return Some("is charged for running, and does not, or does, and is not"),
        }
        match (vm.state, row.used) {
            (VmState::Provisioning, true) => Some("is charged as in use, and nobody said that it is there"),
            (VmState::Running | VmState::Paused | VmState::Stopped, false) => {
                Some("is there, and not charged as in use")
            }
            _ => None,
        }
    }
}

fn snapshot(one: &Snapshot, row: Option<&Row>) -> Option<&'static str> {
    let Some(row) = row else { return (one.state != SnapshotState::Error).then_some("is not charged") };
    if row.tenant != one.tenant.to_string() || row.node != one.node.map(|node| node.to_string()) {
        return Some("is charged to another tenant or node");
    }
    let room = Resources { disk_gib: row.amount.disk_gib, ..Resources::ZERO };
    let rightly = row.amount == Amounts { snapshots: 1, ..room.into() };
    match (one.state, row.used) {
        _ if !rightly => Some("is charged for something else than one snapshot and its disk"),
        (SnapshotState::Ready, false) => Some("is whole, and not charged as in use"),
        (SnapshotState::Creating, true) => Some("is charged as in use, and nobody said that it is there"),
        _ => None,
    }
}

/// An echo takes something while it lives; what never ran, or was done, has left nothing.
fn of_task(task: &Task, row: Option<&Row>) -> Option<&'static str> {
    let takes = task.kind == KindName::Echo;
    let never_ran = task.fence.attempt == 0;
    match (task.state, row) {
        (TaskState::Queued | TaskState::Running | TaskState::Aborting, None) if takes => Some("is not charged"),
        (_, Some(_)) if !takes => Some("takes nothing, and is charged"),
        (TaskState::Succeeded, Some(_)) => Some("is done, and charged"),
        (TaskState::Failed | TaskState::Cancelled, Some(_)) if never_ran => Some("never ran, and is charged"),
        (_, Some(row))
            if row.tenant != task.tenant.to_string() || row.node != task.node.map(|node| node.to_string()) =>
        {
            Some("is charged to another tenant or node")
        }
        _ => None,
    }
}

/// Whether there is at least as much.
fn holds(charged: &Resources, wanted: &Resources) -> bool {
    charged.each().iter().zip(wanted.each()).all(|((_, has), (_, needs))| *has >= needs)
}
