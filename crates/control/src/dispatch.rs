//! The claim multiplexer: every node that waits for tasks waits here, and one step of the store serves all whose node
//! was woken.
//!
//! ```text
//! poll ──arrives──► claimed at once ──nothing──► waits ──its node woken, or found to have something──► claimed again
//!                        └── leases, or a refusal ──► answered        └── its time is up, or it is ended ──► answered
//! ```
//!
//! The wake-ups are listened to before the first claim, so none is lost; those that lag are made good by the look each
//! second, which asks the store for the nodes that have something to fetch: a poll for which there is nothing costs nothing
//! while it waits. A poll's time is up here, not with its caller, so that no lease is handed to a poll that has just given
//! up; for the same reason a caller that wants to ask for something else has its poll ended and waits for the answer.
//! A caller that broke off loses what it was leased only until its next poll, which says what it holds. While the database
//! is away, callers are sent to another server, which may reach it. Never here:
//! which task goes to which node (the store decides), and a queue that a restart would miss.

mod assignment;
mod waiting;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hostler_model::{NodeId, Refusal, TaskId, error::Code, id::EnrolmentId};
use hostler_store::{Answer, Claim, Error, Leased, Store, Wakes};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc, oneshot,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::waiting::Waiting;
use crate::{
    app::{Result, bell::LOOK},
    loops::Outage,
    metrics::Metrics,
};

/// How many polls may arrive while a step runs before the next caller waits to hand its own in.
const ARRIVING: usize = 1024;

/// How many nodes a look finds at most, for one step: some milliseconds of the store's. Where thousands have something to
/// fetch, all of them at once would keep whoever has just got a task waiting for all of them.
const LOOKED_AT: usize = 256;

/// After a look that did not come to the end, the next one goes on this soon.
const LOOK_ON: Duration = Duration::from_millis(50);

/// How many tasks to stop are kept for a node's next poll: beyond that the node has stopped polling, and the list, which
/// only hastens what its heartbeats say, is dropped.
const ABORTS_KEPT: usize = 1000;

/// How long the database may be away before its callers are sent elsewhere: longer than it takes to start again, so that
/// where there is no other server few have to come back.
const AWAY: Duration = Duration::from_secs(3);

/// Where polls are handed in. Clones share it.
#[derive(Clone, Debug)]
pub struct Dispatch(mpsc::Sender<Asked>);

#[derive(Debug)]
enum Asked {
    /// To wait.
    Poll(Poll),
    /// To wait no longer.
    End(NodeId, EnrolmentId),
}

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
            waiting: Waiting::default(),
            looked: None,
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
        let until = Instant::now() + up_to;
        // Room is waited for without the poll, which would have to lie here twice for as long as it waits.
        match self.0.reserve().await {
            Ok(room) => room.send(Asked::Poll(Poll { claim, until, reply })),
            Err(_) => return Ok(Brought::default()),
        }
        match answer.await {
            Ok(answer) => Ok(answer?),
            // The server goes away; the agent asks another, or again.
            Err(_) => Ok(Brought::default()),
        }
    }

    /// Ends what waits under this enrolment of a node: it is answered, with nothing unless leases were on their way to it.
    pub async fn end(&self, node: NodeId, enrolment: EnrolmentId) {
        // A server that goes away answers them too.
        let _ = self.0.send(Asked::End(node, enrolment)).await;
    }
}

/// Whoever serves the polls, and those that wait.
struct Served {
    store: Store,
    metrics: Arc<Metrics>,
    waiting: Waiting,
    /// As far as the look has come among the nodes; the next begins behind it.
    looked: Option<NodeId>,
    /// What nodes are to stop, for their next polls. Lost with this process: heartbeats say the same.
    abort: BTreeMap<NodeId, Vec<TaskId>>,
    outage: Outage,
    away_since: Option<Instant>,
}

impl Served {
    async fn run(
        mut self,
        mut arriving: mpsc::Receiver<Asked>,
        mut wakes: broadcast::Receiver<Wakes>,
        closing: CancellationToken,
    ) {
        let mut look = Instant::now() + LOOK;
        loop {
            let mut due = Vec::new();
            let next = self.waiting.first_end().map_or(look, |end| end.min(look));
            tokio::select! {
                biased;
                () = closing.cancelled() => return,
                asked = arriving.recv() => match asked {
                    Some(asked) => self.asked(asked, &mut due),
                    None => return,
                },
                wake = wakes.recv() => match wake {
                    Ok(wake) => self.wake(&wake, &mut due, &mut look),
                    Err(RecvError::Lagged(_)) => look = Instant::now(),
                    Err(RecvError::Closed) => return,
                },
                () = tokio::time::sleep_until(next) => {}
            }
            // What else came meanwhile goes into the same step.
            while let Ok(asked) = arriving.try_recv() {
                self.asked(asked, &mut due);
            }
            while let Ok(wake) = wakes.try_recv() {
                self.wake(&wake, &mut due, &mut look);
            }
            let over = self.waiting.over(Instant::now());
            end(over);
            if Instant::now() >= look {
                look = Instant::now() + self.look(&mut due).await;
            }
            self.claim(due).await;
        }
    }

    fn asked(&mut self, asked: Asked, due: &mut Vec<Poll>) {
        match asked {
            Asked::Poll(poll) => due.push(poll),
            Asked::End(node, enrolment) => {
                end(self.waiting.of(node, enrolment));
                // Those that have just come are claimed once, and do not wait.
                let now = Instant::now();
                due.iter_mut()
                    .filter(|poll| (poll.claim.node, poll.claim.enrolment) == (node, enrolment))
                    .for_each(|poll| poll.until = now);
            }
        }
    }

    fn wake(&mut self, wake: &Wakes, due: &mut Vec<Poll>, look: &mut Instant) {
        if wake.all {
            *look = Instant::now();
        }
        for (node, task) in &wake.aborting {
            remember(&mut self.abort, *node, *task);
        }
        let nodes = wake.nodes.iter().chain(wake.aborting.iter().map(|(node, _)| node));
        due.extend(nodes.flat_map(|node| self.waiting.take(*node)));
    }

    /// Takes those that wait although there is something for their nodes, and says how long until the next look.
    async fn look(&mut self, due: &mut Vec<Poll>) -> Duration {
        let behind = self.looked.take();
        if self.waiting.len() == 0 {
            return LOOK;
        }
        let found = self.store.nodes_with_work(behind, LOOKED_AT).await;
        self.outage.note(&found);
        match found {
            Ok(nodes) => {
                self.looked = nodes.last().copied().filter(|_| nodes.len() == LOOKED_AT);
                due.extend(nodes.into_iter().flat_map(|node| self.waiting.take(node)));
            }
            Err(Error::Database(error)) if error.is_outage() => {
                let all = self.waiting.take_all();
                self.wait_or_send_away(all);
            }
            // The next look may find what this one could not.
            Err(_) => {}
        }
        if self.looked.is_some() { LOOK_ON } else { LOOK }
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
                Err(_) => due.into_iter().for_each(|poll| self.waiting.keep(poll)),
            }
        }
        self.metrics.waiting(self.waiting.len());
    }

    fn answer(&mut self, due: Vec<Poll>, answers: Vec<Answer<Vec<Leased>>>) {
        let (claims, mut leases) = (due.len(), 0);
        for (mut poll, answer) in due.into_iter().zip(answers) {
            let abort = self.abort.remove(&poll.claim.node).unwrap_or_default();
            match answer.map(|leased| Brought { leased, abort }) {
                Ok(brought) if brought.is_empty() && poll.until > Instant::now() => {
                    // What the node had not seen was sent again now; nothing of it can come later.
                    poll.claim.resync = None;
                    self.waiting.keep(poll);
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
            return due.into_iter().for_each(|poll| self.waiting.keep(poll));
        }
        for poll in due {
            let refusal = Refusal::new(Code::Unavailable, "the database does not answer; ask another server, or again");
            // Whoever broke off needs no answer.
            let _ = poll.reply.send(Err(refusal));
        }
    }
}

/// Answers polls with nothing. Whoever broke off needs no answer.
fn end(polls: Vec<Poll>) {
    for poll in polls {
        let _ = poll.reply.send(Ok(Brought::default()));
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
