//! Handlers: one for each kind of task, and what is common to all of them.
//!
//! ```text
//! fresh ─────────────► run ──────────────────────────► succeeded
//! uncertain ─┬ inspect ─► inspect ┘ │ a failure, a stop
//!            ├ rerun ───► run       ▼
//!            └ fail ────► OUTCOME_UNKNOWN      undo ──► failed | cancelled, with what is left
//! ```
//!
//! A handler is a future: to stop it is to drop it, and then to undo what it did. A handler never reports, never looks
//! at fences and never decides about retries. A kind without a handler does not compile: see [`carry_out`].

mod diag_health_probe;
mod echo;
mod image_delete;
mod image_pull;
mod inventory_refresh;
mod snapshot_delete;
mod vm_create;
mod vm_delete;
mod vm_edit;
mod vm_exec;
mod vm_pause;
mod vm_reboot;
mod vm_rename;
mod vm_restore;
mod vm_resume;
mod vm_snapshot;
mod vm_start;
mod vm_stop;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use hostler_db::Mode;
use hostler_model::{
    Clock, ImageDigest, SnapshotId, TaskId, VmId,
    error::Code,
    for_each_kind,
    internal::Assignment,
    kind::{self, Kind, KindName, OnUncertain},
    secret::Sensitive,
    task::{Effects, End, Target},
};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    attempt::{Attempt, Cause},
    heartbeat::Beats,
    hypervisor::{DriverError, Hypervisor, Phases},
    image::Images,
    journal::Start,
    secret::Secrets,
    vm::{Vms, admit::Denial},
};

/// Why a handler gave up.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// By code.
    pub code: Code,
    /// What happened, to what, why, and what to do next.
    pub detail: String,
    /// Whether another attempt may help.
    pub retryable: bool,
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Failure {
        Failure { code: error.code, detail: error.detail, retryable: error.retryable }
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Failure {
        Failure { code: denial.code(), detail: denial.to_string(), retryable: false }
    }
}

/// What became of undoing.
#[derive(Clone, PartialEq, Debug)]
pub enum Undo<Output> {
    /// It is known that nothing is left.
    Undone,
    /// Something is left, or it cannot be known; why, where there is something to say.
    Remains(Option<String>),
    /// It could only be completed.
    Done(Output),
}

/// Whether a handler may have acted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// This attempt has not, and the journal knows of none before it.
    No,
    /// It may.
    Yes,
}

/// What a kind of task does on a host.
pub trait Handler: Kind + Sized {
    /// Does it. Dropping the future stops it; [`Handler::undo`] follows.
    fn run(job: &Job<Self>) -> impl Future<Output = Result<Self::Output, Failure>> + Send;

    /// Looks at what an attempt left whose end is not known, and completes it. For kinds whose `ON_UNCERTAIN` is
    /// [`OnUncertain::Inspect`]; the others never get here.
    fn inspect(job: &Job<Self>) -> impl Future<Output = Result<Self::Output, Failure>> + Send {
        Self::run(job)
    }

    /// Undoes what a failed or stopped attempt did. It may be called without one, when the server wants to be sure.
    fn undo(job: &Job<Self>, begun: Begun) -> impl Future<Output = Undo<Self::Output>> + Send;
}

/// What handlers work with.
#[derive(Clone)]
pub struct Tools {
    /// The machines.
    pub vms: Vms,
    /// Heartbeats that are asked for.
    pub beats: Beats,
    /// The image cache.
    pub images: Images,
    /// The texts that are kept apart from tasks.
    pub secrets: Secrets,
    /// The hypervisor, for what it says of itself. Machines are reached through `vms` only.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The host's root directory, `/` outside tests.
    pub root: PathBuf,
    /// The agent's data folder.
    pub data: PathBuf,
    /// The time, for the lines that they write.
    pub clock: Clock,
    /// Where work that waits for the disk is done.
    pub mode: Mode,
}

/// One attempt at a task, for its handler.
pub struct Job<K: Kind> {
    /// Which task.
    pub task: TaskId,
    /// With which parameters.
    pub params: K::Params,
    /// What to work with.
    pub tools: Tools,
    target: Target,
    epoch: Option<u32>,
    attempt: Arc<Attempt>,
}

impl<K: Kind> Job<K> {
    fn read(assignment: &Assignment, attempt: &Arc<Attempt>, tools: &Tools) -> Result<Job<K>, Failure> {
        let params = K::Params::deserialize(&assignment.params).map_err(|error| Failure {
            code: Code::TaskRefused,
            detail: format!("this agent cannot read the parameters of this {}: {error}", K::NAME),
            retryable: false,
        })?;
        Ok(Job {
            task: assignment.sub,
            params,
            tools: tools.clone(),
            target: assignment.target.clone(),
            epoch: assignment.epoch,
            attempt: attempt.clone(),
        })
    }

    /// The machine that it is about, and the epoch of its placement.
    pub fn vm(&self) -> Result<(VmId, u32), Failure> {
        self.target.vm.zip(self.epoch).ok_or_else(|| Failure {
            code: Code::TaskRefused,
            detail: format!("a {} must name a VM and the epoch of its placement, and this one does not", K::NAME),
            retryable: false,
        })
    }

    /// Whether somebody wants it stopped: [`Handler::undo`] follows a failure as well.
    pub fn is_stopped(&self) -> bool {
        self.attempt.cause().is_some()
    }

    /// A text of the parameters, fetched where it is kept apart.
    pub async fn open(&self, text: &Sensitive) -> Result<String, Failure> {
        self.tools.secrets.open(self.attempt.lease(), text).await
    }

    /// The next phase begins: the one before it is timed, and the server hears of it.
    pub fn phase(&self, name: &str) {
        self.attempt.phase(name);
    }

    /// How much of the phase is done, in percent.
    pub fn percent(&self, percent: u8) {
        self.attempt.percent(percent);
    }

    /// Writes a line for people into the task's log: what was done and found, with amounts and times. It never says
    /// what is secret, and nothing depends on it. A text of several lines is as many lines.
    pub fn log(&self, text: impl AsRef<str>) {
        self.attempt.log(text.as_ref(), self.tools.clock.now());
    }
}

/// Works with a driver, with its phases as the task's.
async fn with_phases<K: Kind, T, F: Future<Output = Result<T, Failure>>>(
    job: &Job<K>,
    work: impl FnOnce(Phases) -> F,
) -> Result<T, Failure> {
    let (phases, mut begun) = mpsc::unbounded_channel();
    let working = work(phases);
    tokio::pin!(working);
    loop {
        tokio::select! {
            biased;
            Some(phase) = begun.recv() => job.phase(phase),
            done = &mut working => return done,
        }
    }
}

/// The snapshot that the parameters name: by id, once the server has filled them in.
fn snapshot_id<K: Kind>(text: &str) -> Result<SnapshotId, Failure> {
    text.parse().map_err(|_| Failure {
        code: Code::TaskRefused,
        detail: format!("a {} must name its snapshot by id, and this one does not", K::NAME),
        retryable: false,
    })
}

/// What becomes of undoing what cannot be: how the machine is, the node's next inventory says.
fn cannot_be_undone<Output>(begun: Begun) -> Undo<Output> {
    match begun {
        Begun::No => Undo::Undone,
        Begun::Yes => Undo::Remains(None),
    }
}

/// Pauses between the tries of a removal that may work the next time. A machine that is not removed stays charged and
/// needs a person, so a short wait is worth it.
const REMOVE_AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// The longest detail of a failure, in characters: a console's last lines fit in, a book does not.
const DETAIL_LIMIT: usize = 4096;

/// What the server fills in at submission.
fn filled_in(digest: Option<&ImageDigest>) -> Result<&ImageDigest, Failure> {
    let missing = || Failure {
        code: Code::TaskRefused,
        detail: "the image's digest is not filled in".to_owned(),
        retryable: false,
    };
    digest.ok_or_else(missing)
}

/// Removes a machine, trying again where that may help.
async fn remove<K: Kind>(job: &Job<K>) -> Result<bool, Failure> {
    let (vm, epoch) = job.vm()?;
    for pause in REMOVE_AGAIN {
        match job.tools.vms.remove(vm, epoch).await {
            Err(failure) if failure.retryable => tokio::time::sleep(pause).await,
            done => return done,
        }
    }
    job.tools.vms.remove(vm, epoch).await
}

/// The kinds this agent can do: all there are, for a kind without a handler does not compile.
pub fn capabilities() -> Vec<String> {
    KindName::ALL.iter().map(|kind| kind.as_str().to_owned()).collect()
}

/// Runs an attempt to its end. `None` when the server has said that it is over: then nobody is to hear of it.
pub async fn carry_out(assignment: &Assignment, start: Start, attempt: &Arc<Attempt>, tools: &Tools) -> Option<End> {
    macro_rules! by_kind {
        ($($kind:ident),*) => {
            match assignment.kind {
                $(KindName::$kind => match Job::<kind::$kind>::read(assignment, attempt, tools) {
                    Ok(job) => Box::pin(perform(&job, start)).await,
                    Err(failure) => Some(failed(failure, unread(start))),
                },)*
            }
        };
    }
    for_each_kind!(by_kind)
}

/// What is left by an attempt whose parameters could not even be read.
fn unread(start: Start) -> Effects {
    match start {
        Start::Fresh => Effects::Undone,
        Start::Uncertain => Effects::Remain,
    }
}

async fn perform<K: Handler>(job: &Job<K>, start: Start) -> Option<End> {
    let begun = match (start, K::ON_UNCERTAIN) {
        (Start::Fresh, _) => Begun::No,
        (Start::Uncertain, OnUncertain::Inspect | OnUncertain::Rerun) => Begun::Yes,
        (Start::Uncertain, OnUncertain::Fail) => return Some(unknown(K::NAME)),
    };
    if let Some(cause) = job.attempt.cause() {
        return stopped(job, cause, begun).await;
    }
    let work = async {
        match (start, K::ON_UNCERTAIN) {
            (Start::Uncertain, OnUncertain::Inspect) => K::inspect(job).await,
            (Start::Uncertain, OnUncertain::Rerun | OnUncertain::Fail) | (Start::Fresh, _) => K::run(job).await,
        }
    };
    // A success that is there already outranks a stop.
    let done = tokio::select! {
        biased;
        done = work => Ok(done),
        cause = job.attempt.stopped() => Err(cause),
    };
    match done {
        Ok(Ok(output)) => Some(succeeded::<K>(&output)),
        Ok(Err(failure)) => Some(give_up(job, failure).await),
        Err(cause) => stopped(job, cause, Begun::Yes).await,
    }
}

async fn give_up<K: Handler>(job: &Job<K>, mut failure: Failure) -> End {
    match K::undo(job, Begun::Yes).await {
        Undo::Undone => failed(failure, Effects::Undone),
        Undo::Done(output) => succeeded::<K>(&output),
        Undo::Remains(why) => {
            if let Some(why) = why {
                failure.detail = format!("{}; what it left could not be removed: {why}", failure.detail);
            }
            failed(failure, Effects::Remain)
        }
    }
}

async fn stopped<K: Handler>(job: &Job<K>, cause: Cause, begun: Begun) -> Option<End> {
    if cause == Cause::Over {
        // Another attempt may be at work on the same thing: this one has no right to touch it.
        return None;
    }
    let (effects, why) = match K::undo(job, begun).await {
        Undo::Done(output) => return Some(succeeded::<K>(&output)),
        Undo::Undone => (Effects::Undone, None),
        Undo::Remains(why) => (Effects::Remain, why),
    };
    match (cause, why) {
        (Cause::Abort, None) => Some(End::Cancelled { effects }),
        (Cause::Abort, Some(why)) => {
            let detail = format!("the task was stopped, but what it left could not be removed: {why}");
            Some(failed(Failure { code: Code::Cancelled, detail, retryable: false }, effects))
        }
        (Cause::Deadline, why) => {
            let why = why.map_or(String::new(), |why| format!("; what it left could not be removed: {why}"));
            let detail = format!("the task's time was up before it was done{why}");
            Some(failed(Failure { code: Code::DeadlineExceeded, detail, retryable: false }, effects))
        }
        (Cause::Over, _) => None,
    }
}

fn succeeded<K: Kind>(output: &K::Output) -> End {
    match serde_json::to_value(output) {
        Ok(output) => End::Succeeded { output },
        Err(error) => {
            let detail = format!("the output of this {} cannot be written as JSON: {error}", K::NAME);
            failed(Failure { code: Code::HandlerFailed, detail, retryable: false }, Effects::Remain)
        }
    }
}

fn failed(failure: Failure, effects: Effects) -> End {
    let Failure { code, mut detail, retryable } = failure;
    if let Some((end, _)) = detail.char_indices().nth(DETAIL_LIMIT) {
        detail.truncate(end);
        detail.push('…');
    }
    End::Failed { code, detail, retryable, effects }
}

/// The agent before this one died in the middle, and the kind may not be done twice.
fn unknown(kind: &str) -> End {
    let detail = format!(
        "the agent ended while this {kind} was under way: whether it took effect is not known; look, then ask again"
    );
    failed(Failure { code: Code::OutcomeUnknown, detail, retryable: false }, Effects::Remain)
}

/// A handler that panicked: a fault of ours.
pub fn panicked(kind: KindName) -> End {
    let detail = format!("the handler of {kind} broke down; the agent's log says where");
    failed(Failure { code: Code::HandlerFailed, detail, retryable: false }, Effects::Remain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_cut() {
        let failure = Failure { code: Code::HandlerFailed, detail: "ä".repeat(DETAIL_LIMIT * 2), retryable: false };
        let End::Failed { detail, .. } = failed(failure, Effects::Undone) else { panic!("it is a failure") };
        assert_eq!(detail.chars().count(), DETAIL_LIMIT + 1);
    }
}
