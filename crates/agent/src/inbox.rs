//! The inbox: polls for tasks, believes those that are signed for this node and in time, writes them down, and starts
//! or answers them.
//!
//! ```text
//! poll ──► verify ──► journal.accept (one commit for the whole answer) ──► begin | adopt | answer | refuse | ignore
//! ```
//!
//! Polling and working go on at once; a poll asks for no more than there are free slots of its class. Never here: an effect before
//! the journal has it.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use hostler_model::{
    Fence, Ids, TaskId,
    internal::{Assignment, Assignments},
    kind::Class,
    node::Slots,
    planted::{Bug, is_planted},
    refused::Why,
};
use hostler_trust::{Expected, TaskRefusal};
use tokio::time::Instant;

use crate::{
    agent::Node,
    backoff::Outage,
    journal::{Accepted, Start},
    metrics::Counter,
    server::Held,
    work,
};

/// How long a heartbeat is waited for that may tell of a new key, and how often one is asked for at most.
const LEARN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));

/// A poll that brings nothing sooner than this comes from a server that is going away: it is not asked at once again.
const EMPTY: Duration = Duration::from_millis(100);

/// Polls for as long as the agent lives: for each class by itself, so that a poll is under way for every class that has
/// a free slot, and none waits for a slot of another.
pub async fn poll(node: &Arc<Node>, ids: Ids) {
    // What an agent before this one was sent and never saw is sent again, whatever its class, to the first that asks.
    tokio::join!(
        poll_class(node, ids.clone(), Class::Quick, true),
        poll_class(node, ids.clone(), Class::Guest, false),
        poll_class(node, ids.clone(), Class::Boot, false),
        poll_class(node, ids, Class::Disk, false),
    );
}

async fn poll_class(node: &Arc<Node>, ids: Ids, class: Class, mut resync: bool) {
    let mut outage = Outage::none(ids, "tasks");
    loop {
        let free = Slots::only(class, node.works.wait_free(class).await);
        let since = Instant::now();
        match poll_once(node, free, resync).await {
            Ok(tasks) => {
                resync = false;
                outage.over();
                if tasks == 0 && since.elapsed() < EMPTY {
                    tokio::time::sleep(EMPTY).await;
                }
            }
            Err(error) => {
                resync = true;
                outage.pause(&error).await;
            }
        }
    }
}

/// Why a poll came to nothing.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Link(#[from] hostler_link::LinkError),
    #[error("the journal failed, so nothing was accepted: {0}")]
    Journal(#[from] hostler_db::Error),
}

async fn poll_once(node: &Arc<Node>, free: Slots, resync: bool) -> Result<usize, PollError> {
    let held = if resync { Held::Resync(node.journal.held().await?) } else { Held::AsBefore };
    let Assignments { tasks, abort } = node.server.wait(&free, &held).await?;
    receive(node, &tasks).await?;
    abort.iter().for_each(|task| node.works.abort(*task));
    Ok(tasks.len() + abort.len())
}

/// Takes in an answer of the server.
pub(crate) async fn receive(node: &Arc<Node>, tokens: &[String]) -> Result<(), hostler_db::Error> {
    let assignments = believe(node, tokens).await;
    let _intake = node.intake.lock().await;
    if is_planted(Bug::ActsBeforeJournal) {
        return act_first(node, assignments).await;
    }
    let now = node.clock.now();
    let answers = node.journal.accept(assignments.clone(), node.works.in_work(), now).await?;
    for (assignment, answer) in assignments.into_iter().zip(answers) {
        act(node, &assignment, answer);
    }
    Ok(())
}

/// A bug that is planted: what is new is begun, and written down a little later.
async fn act_first(node: &Arc<Node>, assignments: Vec<Assignment>) -> Result<(), hostler_db::Error> {
    let held: Vec<TaskId> = node.journal.held().await?.into_iter().map(|held| held.task).collect();
    for assignment in assignments.iter().filter(|assignment| !held.contains(&assignment.sub)) {
        if !node.works.in_work().contains(&assignment.sub) {
            work::begin(node, assignment.clone(), Start::Fresh);
        }
    }
    tokio::time::sleep(EMPTY).await;
    let (now, in_work) = (node.clock.now(), node.works.in_work());
    let answers = node.journal.accept(assignments.clone(), Default::default(), now).await?;
    for (assignment, answer) in assignments.into_iter().zip(answers) {
        if !in_work.contains(&assignment.sub) {
            act(node, &assignment, answer);
        }
    }
    Ok(())
}

/// The tasks that are to be believed.
pub(crate) async fn believe(node: &Node, tokens: &[String]) -> Vec<Assignment> {
    let mut tasks = verify(node, tokens);
    if tasks.iter().any(|task| task.as_ref().is_err_and(|(refusal, _)| *refusal == TaskRefusal::UnknownKey)) {
        learn_keys(node).await;
        tasks = verify(node, tokens);
    }
    let believed =
        tasks.into_iter().filter_map(|task| task.map_err(|(refusal, of)| refuse(node, refusal.why(), of)).ok());
    believed.collect()
}

/// A task that is refused, and which attempt it is of, where its signature is right.
type Disbelieved = (TaskRefusal, Option<(TaskId, Fence)>);

fn verify(node: &Node, tokens: &[String]) -> Vec<Result<Assignment, Disbelieved>> {
    let trust = node.trust.read().unwrap_or_else(PoisonError::into_inner).clone();
    let expected = Expected { issuer: &trust.issuer, node: node.server.node() };
    let now = node.clock.now();
    let of = |token: &str| trust.verifier.signed(token).ok().map(|task| (task.sub, task.fence));
    let each = |token: &String| {
        let tasks = trust.verifier.verify(token, &expected, now).unwrap_or_else(|refusal| vec![Err(refusal)]);
        tasks.into_iter().map(|task| task.map_err(|refusal| (refusal, of(token)))).collect::<Vec<_>>()
    };
    tokens.iter().flat_map(each).collect()
}

/// A key that is not known may be one that signs since the last heartbeat: the server says so with the next, which is asked
/// for at once, though not more often than some stranger's tasks could make it.
async fn learn_keys(node: &Node) {
    let mut asked = node.keys_asked.lock().await;
    if asked.is_none_or(|at| at.elapsed() >= LEARN.1) {
        drop(tokio::time::timeout(LEARN.0, node.tools.beats.now()).await);
        *asked = Some(Instant::now());
    }
}

/// Counts what is not done, and says so with the next heartbeat. What is not signed is not even called by its name.
pub(crate) fn refuse(node: &Node, why: Why, of: Option<(TaskId, Fence)>) {
    node.metrics.refuse(why);
    node.refusals.add(why, of, node.clock.now());
    let task = of.map(|(task, fence)| format!("{task} {fence}")).unwrap_or_default();
    tracing::warn!(node.id = %node.server.node(), why = why.as_str(), task, "a task was refused; nothing of it was done");
}

fn act(node: &Arc<Node>, assignment: &Assignment, answer: Accepted) {
    let Assignment { sub: task, fence, kind, .. } = assignment;
    match answer {
        Accepted::Begin(assignment, start) => {
            node.metrics.add(Counter::Begun);
            work::begin(node, *assignment, start);
        }
        Accepted::Adopt { task, fence, intent } => {
            node.metrics.add(Counter::Adopted);
            tracing::info!(task.id = %task, task.kind = %kind, %fence, ?intent, "the work under way goes on under a later fence");
            node.works.adopt(task, fence, intent);
        }
        Accepted::Answer(report) => {
            node.metrics.add(Counter::Answered);
            node.outbox.push(*report);
        }
        Accepted::OldEpoch(report) => {
            refuse(node, Why::OldVmEpoch, Some((*task, *fence)));
            node.outbox.push(*report);
        }
        Accepted::Ignored => node.metrics.add(Counter::Ignored),
        Accepted::Stale(why) => {
            node.metrics.add(Counter::Stale);
            refuse(node, why, Some((*task, *fence)));
        }
        Accepted::OtherContent => refuse(node, Why::OtherContent, Some((*task, *fence))),
    }
}
