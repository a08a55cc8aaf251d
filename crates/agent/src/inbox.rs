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
    Fence, Ids, TaskId,
    internal::{Assignment, Assignments},
    kind::Class,
    node::Slots,
    planted::{Bug, is_planted},
    refused::Why,
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

/// How long a heartbeat is waited for that may tell of a new key, and for how long none is asked for after it was in vain.
const LEARN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// How often it is asked for one after another, and the pause between: servers tell each other of a key within moments.
const LEARN_TRIES: usize = 10;
const LEARN_AGAIN: Duration = Duration::from_millis(100);

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
    let assignments = believe(node, tokens).await;
    let _intake = node.intake.lock().await;
    if is_planted(Bug::ActsBeforeJournal) {
        return act_first(node, assignments).await;
    }
    let now = node.clock.now();
    let answers = node.journal.accept(assignments.clone(), node.works.in_work(), node.lost(), now).await?;
    for (assignment, answer) in assignments.into_iter().zip(answers) {
        act(node, &assignment, answer);
    }
    keep_refusals(node).await;
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
    let answers = node.journal.accept(assignments.clone(), Default::default(), node.lost(), now).await?;
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
    if has_unknown_key(&tasks) {
        learn_keys(node, tokens).await;
        tasks = verify(node, tokens);
    }
    let believed =
        tasks.into_iter().filter_map(|task| task.map_err(|(refusal, of)| refuse(node, refusal.why(), of)).ok());
    let believed = believed.collect();
    keep_refusals(node).await;
    believed
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
/// for at once, though some stranger's tasks do not make it ask again and again. Another server may answer than the one that signs, and hear of the key a moment later: then it is asked again.
async fn learn_keys(node: &Node, tokens: &[String]) {
    let mut asked = node.keys_asked.lock().await;
    if asked.is_some_and(|at| at.elapsed() < LEARN.1) {
        return;
    }
    let learnt = || !has_unknown_key(&verify(node, tokens));
    // Who asked before may have learnt it for us, too.
    if learnt() {
        return;
    }
    for _ in 0..LEARN_TRIES {
        drop(timeout(LEARN.0, node.tools.beats.now()).await);
        if learnt() {
            return;
        }
        tokio::time::sleep(LEARN_AGAIN).await;
    }
    *asked = Some(Instant::now());
}

fn has_unknown_key(tasks: &[Result<Assignment, Disbelieved>]) -> bool {
    tasks.iter().any(|task| task.as_ref().is_err_and(|(refusal, _)| *refusal == TaskRefusal::UnknownKey))
}

/// Writes down how many were refused. Where the journal fails that is tried again with the next one; until it has been done no
/// heartbeat says so.
pub(crate) async fn keep_refusals(node: &Node) {
    let Some(counted) = node.refusals.unkept(|| node.ids.next(node.clock.now())) else { return };
    match node.journal.keep_refusals(node.server.node(), &counted).await {
        Ok(()) => node.refusals.kept(&counted),
        Err(error) => tracing::error!(%error, "the journal cannot note that tasks were refused"),
    }
}

/// Counts what is not done; [`keep_refusals`] writes it down, and the next heartbeat says so. What is not signed is not even
/// called by its name.
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
