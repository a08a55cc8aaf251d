//! Starting: an agent that has an offer is about to begin, and asks for the lease. Until it has that, it does nothing.
//!
//! ```text
//! offered ──started, under the fence that is next──► leased
//!        ├─ the same once more, from who has the lease ──► leased, as before
//!        ├─ its node's queue is paused, or its turn is not yet ──► asked again later
//!        └─ another attempt is current, or it has ended ──► refused: the agent forgets it
//! ```

use std::collections::BTreeSet;

use hostler_db::Result;
use hostler_model::{
    Code, Fence, NodeId, Refusal, TaskId,
    task::{Event, TaskState},
};

use super::{
    identify,
    lease::{self, Granted},
};
use crate::{
    Answer, Leased, Started,
    group::Step,
    node::{self, Identity},
    work::Work,
};

/// The step.
#[derive(Debug)]
pub(crate) struct Begin;

impl Step for Begin {
    type Item = Started;
    type Output = Leased;
    const LABEL: &'static str = "store.lease";
    const MOST: usize = 256;

    fn run(work: &mut Work<'_>, items: &[Started]) -> Result<Vec<Answer<Leased>>> {
        let nodes: BTreeSet<NodeId> = items.iter().map(|item| item.node).collect();
        let known = node::identities(work.tx, &Vec::from_iter(nodes))?;
        let tasks: Vec<TaskId> = items.iter().map(|item| item.task).collect();
        work.read_tasks(&tasks)?;
        items
            .iter()
            .map(|item| match identify(&known, item.node, item.enrolment) {
                Ok(who) => begin(work, item, who),
                Err(refusal) => Ok(Err(refusal)),
            })
            .collect()
    }
}

fn begin(work: &mut Work<'_>, item: &Started, who: Identity) -> Result<Answer<Leased>> {
    let Some(row) = work.tasks.get(&item.task).filter(|row| row.task.node == Some(item.node)) else {
        return Ok(Err(Refusal::new(Code::TaskNotFound, "there is no such task on this node; forget the offer")
            .with("task", item.task.to_string())));
    };
    if let Some(lease) = row.lease {
        if row.task.fence != item.fence || lease.enrolment != item.enrolment {
            return Ok(Err(over(item.task)));
        }
        let expires_at = work.now.plus(work.context.timing.lease);
        let renewed = work.apply(item.task, Event::Renew { fence: item.fence, expires_at })?;
        return Ok(renewed.ok().and_then(|_| lease::delivery(work, item.task)).ok_or_else(|| over(item.task)));
    }
    let offered = Fence { store_epoch: who.store_epoch, ..row.task.fence.next() };
    if row.ended() || offered != item.fence {
        return Ok(Err(over(item.task)));
    }
    let stays = row.task.state == TaskState::Queued && (who.paused || !row.ripe);
    // After the store was restored a node first says what it has.
    if stays || !who.state.takes_tasks() || !who.compared {
        return Ok(Err(not_yet(item.task)));
    }
    Ok(match lease::grant(work, item.enrolment, who.store_epoch, item.task)? {
        Granted::Leased(leased) => Ok(*leased),
        Granted::Later => Err(not_yet(item.task)),
        Granted::Settled => {
            work.wake(Some(item.node));
            Err(over(item.task))
        }
    })
}

fn over(task: TaskId) -> Refusal {
    Refusal::new(Code::StaleFence, "this offer is over: another attempt is current, or the task has ended; forget it")
        .with("task", task.to_string())
}

fn not_yet(task: TaskId) -> Refusal {
    Refusal::new(Code::NodeStateConflict, "nothing is leased to this node at the moment; ask again later")
        .with("task", task.to_string())
}
