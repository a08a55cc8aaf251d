//! The claim multiplexer: every node that waits for tasks waits here, and one step of the store serves all whose node
//! was woken.
//!
//! ```text
//! poll ──arrives──► claimed at once ──nothing──► waits ──its node woken, or a second passed──► claimed again
//!                        └── leases, or a refusal ──► answered        └── its time is up ──► answered with nothing
//! ```
//!
//! The wake-ups are listened to before the first claim, so none is lost; those that lag are made good by the look each
//! second. A poll's time is up here, not with its caller, so that no lease is handed to a poll that has just given up.
//! A caller that broke off loses what it was leased only until its next poll, which says what it holds. While the database
//! is away, callers are sent to another server, which may reach it. Never here:
//! which task goes to which node (the store decides), and a queue that a restart would miss.

mod assignment;

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use hostler_model::{NodeId, Refusal, TaskId, error::Code};
use hostler_store::{Answer, Claim, Error, Leased, Store, Wakes};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc, oneshot,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Result, bell::LOOK},
    loops::Outage,
    metrics::Metrics,
};

/// How many polls may arrive while a step runs before the next caller waits to hand its own in.
const ARRIVING: usize = 1024;

/// How many polls a look takes into one step: some milliseconds of the store's. With thousands that wait, a look at all of
/// them at once would keep whoever has just got a task waiting for all of them.
const LOOKED_AT: usize = 256;

/// How many tasks to stop are kept for a node's next poll: beyond that the node has stopped polling, and the list, which
/// only hastens what its heartbeats say, is dropped.
const ABORTS_KEPT: usize = 1000;

/// How long the database may be away before its callers are sent elsewhere: longer than it takes to start again, so that
/// where there is no other server few have to come back.
const AWAY: Duration = Duration::from_secs(3);

/// Where polls are handed in. Clones share it.
#[derive(Clone, Debug)]
pub struct Dispatch(mpsc::Sender<Poll>);

#[derive(Debug)]
struct Poll {
    claim: Claim,
    until: Instant,
    reply: oneshot::Sender<Answer<Brought>>,
}

/// What a poll brings.
#[derive(Debug, Default)]
pub struct Brought {
    /// Tasks, leased to the node.
    pub leased: Vec<Leased>,
    /// What it is to stop.
    pub abort: Vec<TaskId>,
}

impl Brought {
    fn is_empty(&self) -> bool {
        self.leased.is_empty() && self.abort.is_empty()
    }
}

impl Dispatch {
    /// Serves polls until `closing`.
    pub fn start(store: Store, metrics: Arc<Metrics>, closing: CancellationToken) -> Dispatch {
        let (sender, arriving) = mpsc::channel(ARRIVING);
        let wakes = store.wakes();
        let served = Served {
            store,
            metrics,
            waiting: BTreeMap::new(),
            looked_at: None,
            abort: BTreeMap::new(),
            outage: Outage::new("dispatch"),
            away_since: None,
        };
        tokio::spawn(served.run(arriving, wakes, closing));
        Dispatch(sender)
    }

    /// Waits for tasks of a node, for at most this long. Nothing is an answer too.
    pub async fn wait(&self, claim: Claim, up_to: Duration) -> Result<Brought> {
        let (reply, answer) = oneshot::channel();
        let poll = Poll { claim, until: Instant::now() + up_to, reply };
        if self.0.send(poll).await.is_err() {
            return Ok(Brought::default());
        }
        match answer.await {
            Ok(answer) => Ok(answer?),
            // The server goes away; the agent asks another, or again.
            Err(_) => Ok(Brought::default()),
        }
    }
}

/// All polls that wait, by node.
struct Served {
    store: Store,
    metrics: Arc<Metrics>,
    waiting: BTreeMap<NodeId, Vec<Poll>>,
    /// As far as the look has come among them; the next begins behind it.
    looked_at: Option<NodeId>,
    /// What nodes are to stop, for their next polls. Lost with this process: heartbeats say the same.
    abort: BTreeMap<NodeId, Vec<TaskId>>,
    outage: Outage,
    away_since: Option<Instant>,
}

impl Served {
    async fn run(
        mut self,
        mut arriving: mpsc::Receiver<Poll>,
        mut wakes: broadcast::Receiver<Wakes>,
        closing: CancellationToken,
    ) {
        let mut look = Instant::now() + LOOK;
        loop {
            let mut due = Vec::new();
            tokio::select! {
                biased;
                () = closing.cancelled() => return,
                poll = arriving.recv() => match poll {
                    Some(poll) => due.push(poll),
                    None => return,
                },
                wake = wakes.recv() => match wake {
                    Ok(wake) => self.wake(&wake, &mut due),
                    Err(RecvError::Lagged(_)) => self.take_all(&mut due),
                    Err(RecvError::Closed) => return,
                },
                () = tokio::time::sleep_until(self.soonest().min(look)) => self.end_those_over(),
            }
            // What else came meanwhile goes into the same step.
            while let Ok(poll) = arriving.try_recv() {
                due.push(poll);
            }
            while let Ok(wake) = wakes.try_recv() {
                self.wake(&wake, &mut due);
            }
            if Instant::now() >= look {
                look = Instant::now() + self.take_next(&mut due);
            }
            self.claim(due).await;
        }
    }

    fn wake(&mut self, wake: &Wakes, due: &mut Vec<Poll>) {
        if wake.all {
            self.take_all(due);
        }
        for (node, task) in &wake.aborting {
            remember(&mut self.abort, *node, *task);
        }
        let nodes = wake.nodes.iter().chain(wake.aborting.iter().map(|(node, _)| node));
        due.extend(nodes.filter_map(|node| self.waiting.remove(node)).flatten());
    }

    fn take_all(&mut self, due: &mut Vec<Poll>) {
        due.extend(std::mem::take(&mut self.waiting).into_values().flatten());
    }

    /// Takes those whose turn it is to be looked at, and says how long until the next have theirs: each once in [`LOOK`].
    fn take_next(&mut self, due: &mut Vec<Poll>) -> Duration {
        let polls: usize = self.waiting.values().map(Vec::len).sum();
        let behind = self.looked_at.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.waiting.range((behind, Bound::Unbounded));
        let (mut nodes, mut taken) = (Vec::new(), 0);
        while taken < LOOKED_AT
            && let Some((node, waiting)) = rest.next()
        {
            nodes.push(*node);
            taken += waiting.len();
        }
        // Behind the last one it begins anew.
        self.looked_at = nodes.last().copied().filter(|_| rest.next().is_some());
        due.extend(nodes.iter().filter_map(|node| self.waiting.remove(node)).flatten());
        LOOK / u32::try_from(polls.div_ceil(LOOKED_AT).max(1)).unwrap_or(u32::MAX)
    }

    /// When the first poll's time is up.
    fn soonest(&self) -> Instant {
        let all = self.waiting.values().flatten().map(|poll| poll.until);
        all.min().unwrap_or_else(|| Instant::now() + LOOK)
    }

    fn end_those_over(&mut self) {
        let now = Instant::now();
        for polls in self.waiting.values_mut() {
            for over in polls.extract_if(.., |poll| poll.until <= now) {
                let _ = over.reply.send(Ok(Brought::default()));
            }
        }
        self.waiting.retain(|_, polls| !polls.is_empty());
    }

    async fn claim(&mut self, mut due: Vec<Poll>) {
        due.retain(|poll| !poll.reply.is_closed());
        if !due.is_empty() {
            let claims = due.iter().map(|poll| poll.claim.clone()).collect();
            let leased = self.store.lease(claims).await;
            self.outage.note(&leased);
            match leased {
                Ok(answers) => {
                    self.away_since = None;
                    self.answer(due, answers);
                }
                Err(Error::Database(error)) if error.is_outage() => self.wait_or_send_away(due),
                // The polls wait on: the store may be back before their time is up.
                Err(_) => due.into_iter().for_each(|poll| self.keep(poll)),
            }
        }
        self.metrics.waiting(self.waiting.values().map(Vec::len).sum());
    }

    fn answer(&mut self, due: Vec<Poll>, answers: Vec<Answer<Vec<Leased>>>) {
        let (claims, mut leases) = (due.len(), 0);
        for (mut poll, answer) in due.into_iter().zip(answers) {
            let abort = self.abort.remove(&poll.claim.node).unwrap_or_default();
            match answer.map(|leased| Brought { leased, abort }) {
                Ok(brought) if brought.is_empty() && poll.until > Instant::now() => {
                    // What the node had not seen was sent again now; nothing of it can come later.
                    poll.claim.resync = None;
                    self.keep(poll);
                }
                answer => {
                    leases += answer.as_ref().map_or(0, |brought| brought.leased.len());
                    // A caller that broke off says in its next poll what it holds.
                    let _ = poll.reply.send(answer);
                }
            }
        }
        if leases > 0 {
            self.metrics.leased(claims, leases);
        }
    }

    /// A poll that is held here meanwhile would keep its node from a server that has the database.
    fn wait_or_send_away(&mut self, due: Vec<Poll>) {
        if self.away_since.get_or_insert_with(Instant::now).elapsed() < AWAY {
            return due.into_iter().for_each(|poll| self.keep(poll));
        }
        for poll in due {
            let refusal = Refusal::new(Code::Unavailable, "the database does not answer; ask another server, or again");
            // Whoever broke off needs no answer.
            let _ = poll.reply.send(Err(refusal));
        }
    }

    fn keep(&mut self, poll: Poll) {
        self.waiting.entry(poll.claim.node).or_default().push(poll);
    }
}

/// Keeps for a node's next poll that it is to stop a task.
fn remember(aborts: &mut BTreeMap<NodeId, Vec<TaskId>>, node: NodeId, task: TaskId) {
    let kept = aborts.entry(node).or_default();
    if kept.len() >= ABORTS_KEPT {
        aborts.remove(&node);
    } else {
        kept.push(task);
    }
}

#[cfg(test)]
mod tests {
    use hostler_model::Ids;

    use super::*;

    #[test]
    fn a_node_that_does_not_poll_is_kept_no_endless_list_of_aborts() {
        let (ids, now) = (Ids::seeded(1), hostler_model::Timestamp::from_micros(0));
        let (silent, other): (NodeId, NodeId) = (ids.next(now), ids.next(now));
        let mut aborts = BTreeMap::new();
        remember(&mut aborts, other, ids.next(now));
        for _ in 0..ABORTS_KEPT {
            remember(&mut aborts, silent, ids.next(now));
        }
        assert_eq!(aborts[&silent].len(), ABORTS_KEPT);
        remember(&mut aborts, silent, ids.next(now));
        assert_eq!((aborts.get(&silent), aborts[&other].len()), (None, 1));
    }
}
