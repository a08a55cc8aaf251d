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
    Ids, TaskId,
    internal::{Assignment, Assignments},
    kind::Class,
    node::Slots,
    planted::{Bug, is_planted},
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
    let assignments = believe(node, tokens);
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
pub(crate) fn believe(node: &Node, tokens: &[String]) -> Vec<Assignment> {
    let trust = node.trust.read().unwrap_or_else(PoisonError::into_inner).clone();
    let expected = Expected { issuer: &trust.issuer, node: node.server.node() };
    let now = node.clock.now();
    let mut believed = Vec::with_capacity(tokens.len());
    for token in tokens {
        let tasks = trust.verifier.verify(token, &expected, now).unwrap_or_else(|refusal| vec![Err(refusal)]);
        for task in tasks {
            match task {
                Ok(assignment) => believed.push(assignment),
                Err(refusal) => refuse(node, refusal),
            }
        }
    }
    believed
}

/// Nothing in what was refused can be believed, its task's id included: nobody is told but the operator.
fn refuse(node: &Node, refusal: TaskRefusal) {
    node.metrics.add(Counter::Refused);
    tracing::warn!(node.id = %node.server.node(), %refusal, "a task was refused before it was read");
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
        Accepted::Refused(report) => {
            node.metrics.add(Counter::Refused);
            tracing::warn!(task.id = %task, task.kind = %kind, %fence, end = ?report.end, "a task was refused");
            node.outbox.push(*report);
        }
        Accepted::Ignored => node.metrics.add(Counter::Ignored),
        Accepted::Stale => {
            node.metrics.add(Counter::Stale);
            tracing::info!(task.id = %task, task.kind = %kind, %fence, "a delivery of a fence that has been passed was ignored");
        }
    }
}
