//! The inbox: polls for tasks, believes those that are signed for this node and in time, writes them down, and starts
//! or answers them.
//!
//! ```text
//! poll ──► verify ──► journal.accept (one commit for the whole answer) ──► begin | adopt | answer | refuse | ignore
//! ```
//!
//! Polling and working go on at once. One poll is under way at a time, for all classes of tasks: it says how many slots of each
//! are free, and asks for no more. When a class that was full has a slot again, the server is told to end the poll, which is
//! answered with whatever it brings, and the next one says so: nothing is on its way here that nobody waits for, and no slot is
//! promised twice. Never here: an effect before the journal has it.

use std::{
    pin::pin,
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
use tokio::time::{Instant, timeout};

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

/// How long a poll that was told to end may take to be answered: a way there and back and a commit. What takes longer waits at
/// another server, where a call between here and there went; it is given up, and what it may bring is sent again.
const ENDING: Duration = Duration::from_secs(2);

/// After an answer that filled a class, the next poll waits this long for a slot of it: as long as short tasks take, so that
/// while many of them come no poll goes out that would have to be ended at once.
const FILLED: Duration = Duration::from_millis(10);

/// Polls for as long as the agent lives.
pub async fn poll(node: &Arc<Node>, ids: Ids) {
    let mut outage = Outage::none(ids, "tasks");
    // What an agent before this one was sent and never saw is sent again.
    let mut resync = true;
    loop {
        let (free, since) = (node.works.free(), Instant::now());
        match poll_once(node, &free, resync).await {
            Ok(came) => {
                outage.over();
                resync = came == Came::Unknown;
                match came {
                    Came::Nothing if since.elapsed() < EMPTY => tokio::time::sleep(EMPTY).await,
                    Came::Tasks => not_filled(node, &free).await,
                    Came::Nothing | Came::Unknown | Came::Ended => {}
                }
            }
            Err(error) => {
                resync = true;
                outage.pause(&error).await;
            }
        }
    }
}

/// What a poll came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Came {
    /// Tasks, or word of what is to stop.
    Tasks,
    /// Nothing in its time.
    Nothing,
    /// It was ended from here; what it brought was received.
    Ended,
    /// It was given up unanswered.
    Unknown,
}

/// Waits a moment for a slot of a class that had some free and has none now.
async fn not_filled(node: &Node, then: &Slots) {
    let filled = |free: &Slots| Class::ALL.into_iter().any(|class| then.of(class) > 0 && free.of(class) == 0);
    let free = node.works.free();
    if filled(&free) {
        // The time that is up is all that there was to be waited for.
        let _ = timeout(FILLED, node.works.opened(&free)).await;
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

async fn poll_once(node: &Arc<Node>, free: &Slots, resync: bool) -> Result<Came, PollError> {
    let held = if resync { Held::Resync(node.journal.held().await?) } else { Held::AsBefore };
    let mut answer = pin!(node.server.wait(free, &held));
    let (answer, ended) = tokio::select! {
        biased;
        answer = &mut answer => (answer?, false),
        () = node.works.opened(free) => {
            let (told, answer) = tokio::join!(timeout(ENDING, node.server.end_wait()), timeout(ENDING, answer));
            match (told, answer) {
                (_, Ok(answer)) => (answer?, true),
                (Ok(Err(error)), Err(_)) => return Err(error.into()),
                (Ok(Ok(())) | Err(_), Err(_)) => return Ok(Came::Unknown),
            }
        }
    };
    let Assignments { tasks, abort } = answer;
    receive(node, &tasks).await?;
    abort.iter().for_each(|task| node.works.abort(*task));
    Ok(match (ended, tasks.is_empty() && abort.is_empty()) {
        (true, _) => Came::Ended,
        (false, true) => Came::Nothing,
        (false, false) => Came::Tasks,
    })
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
