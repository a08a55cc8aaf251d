//! Leasing: one step serves all the nodes that wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hostler_db::Result;
use hostler_model::{
    Fence, NodeId, TaskId,
    broker::Transport,
    id::EnrolmentId,
    kind::{Admission, Class},
    snapshot::{self, Use},
    task::{Event, Intent, Lease, Left},
    vm::VmState,
};

use super::{identify, submit};
use crate::{
    Answer, Claim, Leased,
    group::Step,
    node::{self, Identity},
    task::{self, Lane, TaskRow, Wanted},
    work::Work,
};

/// The step.
#[derive(Debug)]
pub(crate) struct Take;

impl Step for Take {
    type Item = Claim;
    type Output = Vec<Leased>;
    const LABEL: &'static str = "store.lease";
    const MOST: usize = 256;

    fn run(work: &mut Work<'_>, claims: &[Claim]) -> Result<Vec<Answer<Vec<Leased>>>> {
        let ids: BTreeSet<NodeId> = claims.iter().map(|claim| claim.node).collect();
        let known = node::identities(work.tx, &Vec::from_iter(ids))?;
        let served: Vec<&Claim> =
            claims.iter().filter(|claim| identify(&known, claim.node, claim.enrolment).is_ok_and(takes)).collect();
        submit::later::ripen(work)?;
        let mut offers = offers(work, &served, &known)?;
        claims
            .iter()
            .map(|claim| match identify(&known, claim.node, claim.enrolment) {
                Ok(who) if takes(who) => serve(work, claim, who.store_epoch, &mut offers).map(Ok),
                Ok(_) => Ok(Ok(Vec::new())),
                Err(refusal) => Ok(Err(refusal)),
            })
            .collect()
    }
}

/// Whether a node that asks gets tasks. After the store was restored it first says what it has: tasks may have been done of which
/// the store does not know.
fn takes(who: Identity) -> bool {
    who.state.takes_tasks() && who.compared && who.transport == Transport::Poll
}

/// How many tasks to be undone one claim gets: they take no slot, but an answer must stay small.
const ABORTS: usize = 64;

/// What each node may fetch from each lane, in the order in which it is to.
type Offers = BTreeMap<(NodeId, Lane), VecDeque<TaskId>>;

/// A paused node is offered only what is to be undone.
fn offers(work: &mut Work<'_>, claims: &[&Claim], known: &BTreeMap<NodeId, Identity>) -> Result<Offers> {
    let mut wanted = Wanted::default();
    for claim in claims {
        wanted.add(claim.node, Lane::Abort, ABORTS);
        if known.get(&claim.node).is_some_and(|who| !who.paused) {
            Class::ALL.into_iter().for_each(|class| wanted.add(claim.node, Lane::Of(class), claim.free.of(class)));
        }
    }
    let mut offers = Offers::new();
    if wanted.is_empty() {
        return Ok(offers);
    }
    let rows = task::leasable(work.tx, &wanted, work.now)?;
    for row in &rows {
        if let Some(node) = row.task.node {
            offers.entry((node, Lane::of(&row.task))).or_default().push_back(row.task.id);
        }
    }
    work.adopt_leasable(rows)?;
    Ok(offers)
}

fn serve(work: &mut Work<'_>, claim: &Claim, store_epoch: u32, offers: &mut Offers) -> Result<Vec<Leased>> {
    let mut leased = match &claim.resync {
        Some(held) => again(work, claim, held)?,
        None => Vec::new(),
    };
    let mut free = claim.free;
    for again in &leased {
        let slots = free.of_mut(again.kind.spec().class);
        *slots = slots.saturating_sub(1);
    }
    let mut settled = false;
    for lane in Lane::ALL {
        let mut room = match lane {
            Lane::Abort => ABORTS,
            Lane::Of(class) => free.of(class),
        };
        while room > 0 {
            let Some(id) = offers.get_mut(&(claim.node, lane)).and_then(VecDeque::pop_front) else { break };
            match grant(work, claim.enrolment, store_epoch, id)? {
                Granted::Leased(lease) => {
                    leased.push(*lease);
                    room -= 1;
                }
                Granted::Settled => settled = true,
                Granted::Later => {}
            }
        }
    }
    if settled {
        // What was settled instead made room, and may have given its turn to another.
        work.wake(Some(claim.node));
    }
    Ok(leased)
}

/// Leases that the agent does not list: sent again under the same fence, to the enrolment that holds them only.
fn again(work: &mut Work<'_>, claim: &Claim, held: &[(TaskId, Fence)]) -> Result<Vec<Leased>> {
    let held: BTreeSet<(TaskId, Fence)> = held.iter().copied().collect();
    let rows = task::held(work.tx, claim.node, claim.enrolment)?;
    let unseen: Vec<TaskRow> = rows.into_iter().filter(|row| !held.contains(&(row.task.id, row.task.fence))).collect();
    let ids: Vec<(TaskId, Fence)> = unseen.iter().map(|row| (row.task.id, row.task.fence)).collect();
    work.adopt_leasable(unseen)?;
    let mut leased = Vec::with_capacity(ids.len());
    for (id, fence) in ids {
        let expires_at = work.now.plus(work.context.timing.lease);
        if work.apply(id, Event::Renew { fence, expires_at })?.is_ok() {
            leased.extend(delivery(work, id));
        }
    }
    Ok(leased)
}

/// What came of an offer.
pub(super) enum Granted {
    /// The node has it.
    Leased(Box<Leased>),
    /// It ended instead.
    Settled,
    /// It stays in the queue.
    Later,
}

/// Leases one task, unless its VM's state says that there is nothing to do, or nothing that may be done.
pub(super) fn grant(work: &mut Work<'_>, enrolment: EnrolmentId, store_epoch: u32, id: TaskId) -> Result<Granted> {
    match verdict(work, id)? {
        Verdict::Go => {}
        Verdict::Wait => return Ok(Granted::Later),
        Verdict::End(event) => {
            if work.apply(id, event)?.is_ok() {
                return Ok(Granted::Settled);
            }
        }
    }
    // Attempts of before a restore are counted on, and none of them is this one.
    if let Some(row) = work.tasks.change(&id) {
        row.task.fence.store_epoch = store_epoch;
    }
    let lease = Lease { enrolment, expires_at: work.now.plus(work.context.timing.lease) };
    if work.apply(id, Event::Lease(lease))?.is_err() {
        return Ok(Granted::Settled);
    }
    let Some(row) = work.tasks.get(&id) else { return Ok(Granted::Settled) };
    let row = row.clone();
    work.begin_on_snapshot(&row)?;
    // The VM names this task since its turn came; a row that somebody mended by hand is set right here.
    if let Some(vm) = row.task.target.vm.filter(|_| row.changes_vm())
        && work.vms.get(&vm).is_some_and(|vm| vm.vm.task != Some(id))
        && let Some(vm) = work.vms.change(&vm)
    {
        vm.vm.task = Some(id);
    }
    Ok(delivery(work, id).map_or(Granted::Settled, |leased| Granted::Leased(Box::new(leased))))
}

/// What the VM's state says of a task.
enum Verdict {
    /// It may be done.
    Go,
    /// Nobody knows yet.
    Wait,
    /// It ends by this, unless it was leased before.
    End(Event),
}

fn verdict(work: &mut Work<'_>, id: TaskId) -> Result<Verdict> {
    let Some(row) = work.tasks.get(&id).cloned() else { return Ok(Verdict::Go) };
    let snapshot = work.snapshot_of(&row)?;
    let Some(vm) = row.task.target.vm.and_then(|vm| work.vms.get(&vm)) else { return Ok(Verdict::Go) };
    if row.life().intent() == Intent::Abort {
        return Ok(Verdict::Go);
    }
    let spec = row.task.kind.spec();
    // Another task is at it: what that comes to says whether anything is left to be done.
    if spec.snapshot == Use::Remove && snapshot.as_ref().is_some_and(|one| one.task.is_some_and(|task| task != id)) {
        return Ok(Verdict::Wait);
    }
    let admission = match ((spec.admit)(vm.vm.state), &snapshot) {
        (Admission::Go, Some(snapshot)) => match snapshot::admit(spec.snapshot, snapshot.state) {
            Admission::Go if spec.snapshot == Use::Read => snapshot::fits(snapshot, &vm.vm.spec)
                .map_or_else(|refusal| Admission::Refuse(refusal.code, refusal.detail), |()| Admission::Go),
            admission => admission,
        },
        (admission, _) => admission,
    };
    Ok(match admission {
        Admission::Go => Verdict::Go,
        Admission::Moot(output) => Verdict::End(Event::Moot { output }),
        // The node that asks was lost and is back: its next inventory says what may be done.
        Admission::Refuse(..) if vm.vm.state == VmState::Unknown && row.left == Left::Nothing => Verdict::Wait,
        Admission::Refuse(code, detail) => Verdict::End(Event::Refuse { code, detail }),
    })
}

pub(super) fn delivery(work: &Work<'_>, id: TaskId) -> Option<Leased> {
    let row = work.tasks.get(&id)?;
    let lease = row.lease?;
    let (task, intent) = (&row.task, row.life().intent());
    let timeout = task.rules().timeout;
    let deadline = match (intent, task.deadline) {
        (Intent::Run, Some(deadline)) => deadline,
        // Stopping and undoing has its own time: the task's may be what ran out.
        (Intent::Abort, _) | (Intent::Run, None) => work.now.plus(timeout),
    };
    Some(Leased {
        task: task.id,
        fence: task.fence,
        epoch: task.target.vm.and_then(|vm| work.vms.get(&vm)).map(|vm| vm.vm.epoch),
        intent,
        kind: task.kind,
        target: task.target.clone(),
        params: task.params.clone(),
        lease_expires_at: lease.expires_at,
        deadline,
    })
}
