//! Offers: what is handed to who sends it by the broker, what the broker has, and what came back of it.
//!
//! An offer leases nothing: its task stays queued until its agent reports that it is about to begin ([`super::start`]).
//! In plain form nobody will report that, so such a task is leased before it is sent, and that attempt is its only one.

use std::{collections::BTreeMap, time::Duration};

use hostler_db::Result;
use hostler_model::{
    Code, Fence, NodeId, TaskId,
    broker::Transport,
    task::{Effects, End, Event, Intent, Left, TaskState},
};

use super::{
    lease::{self, Granted},
    submit,
};
use crate::{
    DeadOffer, Death, Leased, Offer, node,
    task::{TaskRow, outbox},
    work::Work,
};

/// How long who sends an offer has for it: longer than a broker takes to confirm, shorter than anybody's patience.
const SENDING: Duration = Duration::from_secs(30);
/// After what an offer to stop and undo that came back is made again.
const AGAIN: Duration = Duration::from_secs(30);
/// How long an offer to stop and undo is good: it has no time in the queue.
const ABORT: Duration = Duration::from_secs(24 * 3600);

/// What is due, for the caller to send.
pub(crate) fn take(work: &mut Work<'_>, limit: usize) -> Result<Vec<Offer>> {
    submit::later::ripen(work)?;
    let due = outbox::due(work.tx, work.now, limit)?;
    let forms: Vec<(TaskId, Transport)> = due.iter().map(|(row, form)| (row.task.id, *form)).collect();
    work.adopt_leasable(due.into_iter().map(|(row, _)| row).collect())?;
    let nodes: Vec<NodeId> = work.tasks.all().filter_map(|row| row.task.node).collect();
    let known = node::identities(work.tx, &nodes)?;
    let mut offers = Vec::with_capacity(forms.len());
    for (id, form) in forms {
        offers.extend(match form {
            Transport::Plain => plain(work, &known, id)?,
            Transport::Amqp | Transport::Poll => signed(work, &known, id),
        });
    }
    let taken: Vec<TaskId> = offers.iter().map(|offer| offer.leased.task).collect();
    outbox::postpone(work.tx, &taken, work.now.plus(SENDING))?;
    Ok(offers)
}

/// The next attempt, as its agent will have it once it says that it begins.
fn signed(work: &Work<'_>, known: &BTreeMap<NodeId, node::Identity>, id: TaskId) -> Option<Offer> {
    let row = work.tasks.get(&id)?;
    let store_epoch = known.get(&row.task.node?)?.store_epoch;
    let (task, intent) = (&row.task, row.life().intent());
    let expires_at = match intent {
        Intent::Run => task.queue_deadline,
        Intent::Abort => work.now.plus(ABORT),
    };
    let leased = Leased {
        task: task.id,
        fence: Fence { store_epoch, ..task.fence.next() },
        epoch: task.target.vm.and_then(|vm| work.vms.get(&vm)).map(|vm| vm.vm.epoch),
        intent,
        kind: task.kind,
        target: task.target.clone(),
        params: task.params.clone(),
        lease_expires_at: expires_at,
        deadline: expires_at.plus(task.rules().timeout),
    };
    Some(Offer { node: task.node?, tenant: task.tenant, form: Transport::Amqp, expires_at, leased })
}

/// Leased now, or before, if it could not be sent then.
fn plain(work: &mut Work<'_>, known: &BTreeMap<NodeId, node::Identity>, id: TaskId) -> Result<Option<Offer>> {
    let Some(row) = work.tasks.get(&id) else { return Ok(None) };
    let (Some(node), tenant, expires_at) = (row.task.node, row.task.tenant, row.task.queue_deadline) else {
        return Ok(None);
    };
    let of = |leased: Leased| Offer { node, tenant, form: Transport::Plain, expires_at, leased };
    if row.lease.is_some() {
        return Ok(lease::delivery(work, id).map(of));
    }
    let Some(who) = known.get(&node) else { return Ok(None) };
    let Some(enrolment) = who.enrolment else { return Ok(None) };
    match lease::grant(work, enrolment, who.store_epoch, id)? {
        Granted::Leased(leased) => Ok(Some(of(*leased))),
        Granted::Settled => {
            work.wake(Some(node));
            Ok(None)
        }
        Granted::Later => Ok(None),
    }
}

/// Offers that came to nothing. What was queued ends or begins to be undone, with the reason; what is to be undone is
/// offered again after a while.
pub(crate) fn bury(work: &mut Work<'_>, dead: &[DeadOffer]) -> Result<usize> {
    let ids: Vec<TaskId> = dead.iter().map(|offer| offer.task).collect();
    work.read_tasks(&ids)?;
    let standing: BTreeMap<TaskId, Fence> = outbox::standing(work.tx, &ids)?.into_iter().collect();
    let mut changed = 0;
    for offer in dead {
        let Some(row) = work.tasks.get(&offer.task).cloned() else { continue };
        let buried = match row.lease {
            // Whoever may write to the broker, and has not read the offer, ends nothing.
            None if offer.signed && standing.get(&offer.task) == Some(&offer.fence) => unbegun(work, &row, offer)?,
            Some(_) if row.task.fence == offer.fence => in_plain_form(work, &row, offer)?,
            // Another attempt is offered, or leased, or it has ended.
            None | Some(_) => false,
        };
        changed += usize::from(buried);
    }
    Ok(changed)
}

fn unbegun(work: &mut Work<'_>, row: &TaskRow, offer: &DeadOffer) -> Result<bool> {
    let id = offer.task;
    match (row.task.state, offer.death) {
        // Its time in the queue ends it, to the second.
        (TaskState::Queued, Death::Expired) => Ok(false),
        (TaskState::Queued, death) if row.left == Left::Nothing => {
            let event = Event::Refuse { code: Code::TaskRefused, detail: reason(death).to_owned() };
            Ok(work.apply(id, event)?.is_ok())
        }
        // An earlier attempt may have left something.
        (TaskState::Queued, death) => {
            work.note(id, Some(reason(death).to_owned()));
            Ok(work.apply(id, Event::MissQueueDeadline)?.is_ok())
        }
        (TaskState::Aborting, _) => {
            outbox::postpone(work.tx, &[id], work.now.plus(AGAIN))?;
            Ok(true)
        }
        (TaskState::Running | TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled, _) => Ok(false),
    }
}

/// Who rejects a task says that it has done nothing. Of all others nobody knows: the broker does not say whether somebody had
/// what ran out of time.
fn in_plain_form(work: &mut Work<'_>, row: &TaskRow, offer: &DeadOffer) -> Result<bool> {
    let node = row.task.node.into_iter().collect::<Vec<_>>();
    let is_plain = node::identities(work.tx, &node)?.values().any(|who| who.transport == Transport::Plain);
    if !is_plain {
        return Ok(false);
    }
    let (code, effects) = match offer.death {
        Death::Rejected => (Code::TaskRefused, Effects::Undone),
        Death::Expired | Death::DeliveryLimit | Death::Overflow => (Code::OutcomeUnknown, Effects::Remain),
    };
    let end = End::Failed { code, detail: reason(offer.death).to_owned(), retryable: false, effects };
    Ok(work.apply(offer.task, Event::Report { fence: offer.fence, end })?.is_ok())
}

const fn reason(death: Death) -> &'static str {
    match death {
        Death::Rejected => "its agent rejected the offer",
        Death::Expired => "nobody told what became of it before its time in the queue was over",
        Death::DeliveryLimit => "the offer was delivered again and again, and never acknowledged",
        Death::Overflow => "the broker's queue of its node was full",
    }
}
