//! The journal: what this node took on, and how it ended, on disk before anything else happens.
//!
//! ```text
//!            accept                finish               the server has it
//! (nothing) ───────► accepted ───────────────► ended ───────────────────► settled ──► pruned
//!                     │    ▲                     │  ▲                        ▲
//!      the lease is over   │ a later fence       │  │ a later fence          │
//!                     ▼    │                     ▼  │                        │
//!                    abandoned ◄─┘              parked (stale when reported)─┘
//! ```
//!
//! `accept` is committed before any effect, `finish` before the result is reported, and the report goes under the
//! fence that the row has then: an adoption that came in between is not lost. Decisions are [`crate::fence`]'s; they
//! are taken inside the transaction, so that they and a finish never cross. A kind that leaves no trace on its host has no
//! effect that could come too early: what is accepted of it is in memory until it ends, where the server sends again what
//! is lost (`traceless`). Never here: the network, a clock.

use std::{
    collections::{HashMap, HashSet},
    mem,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hostler_db::{Db, Document, Migrations, Mode, Result, Row, Texts, Tx};
use hostler_model::{
    Fence, NodeId, TaskId, Timestamp, VmId,
    error::Code,
    internal::{Assignment, HeldLease, Receipt, Report},
    refused::{Counted, Why},
    task::{Effects, End, Intent},
};
use serde::Serialize;
use serde_json::{Value, json};

use self::{
    receipts::{Noted, Receipts},
    traceless::{Before, Traceless},
};
use crate::fence::{self, Decision, InWork, Known, Standing};

const MIGRATIONS: Migrations = &[include_str!("../migrations/0001_init.sql")];

/// How long a settled task's fence is kept to refuse older ones: far longer than any lease or envelope lives.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// At most this many of them, so that a busy node's journal stays small (about 15 MB).
const KEEP_ROWS: i64 = 100_000;

/// The journal of one agent. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    db: Db,
    traceless: Traceless,
    receipts: Receipts,
    mode: Mode,
}

/// What becomes of an attempt that is lost with this process before anything was written of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// It is sent again under the same fence: the first poll after a start says what is held.
    SentAgain,
    /// Its lease has to lapse first.
    Gone,
}

/// How the work on an accepted assignment is to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Nothing of it was done before.
    Fresh,
    /// An earlier attempt may have done something: as the kind says (`on_uncertain`).
    Uncertain,
}

/// What became of one assignment.
#[derive(Clone, PartialEq, Debug)]
pub enum Accepted {
    /// Written down: to be worked on.
    Begin(Box<Assignment>, Start),
    /// Written down: the work under way goes on under this fence, or is stopped.
    Adopt {
        /// Which work.
        task: TaskId,
        /// Its fence now.
        fence: Fence,
        /// Whether to stop it.
        intent: Intent,
    },
    /// It has ended: to be reported (again).
    Answer(Box<Report>),
    /// About an earlier placement of its machine: refused, and the server is to know that this attempt came to nothing.
    OldEpoch(Box<Report>),
    /// Under way already.
    Ignored,
    /// Of a fence that has been passed.
    Stale(Why),
    /// Of the same attempt as one that was taken, and not the same: what was taken counts.
    OtherContent,
}

/// One row that a step writes.
struct Entry<'a> {
    task: TaskId,
    fence: Fence,
    state: &'static str,
    assignment: Option<&'a Assignment>,
    report: Option<Report>,
}

impl Journal {
    /// Opens or makes the file.
    pub fn open(path: &Path, mode: Mode) -> Result<Journal> {
        let db = Db::sqlite(path, mode, MIGRATIONS)?;
        Ok(Journal { db, traceless: Traceless::default(), receipts: Receipts::default(), mode })
    }

    /// Decides about assignments and writes down those that are taken, in one commit, before any effect; of those that have
    /// none, and would be sent again, nothing. The answers are in the order of the assignments. `in_work` are the tasks that
    /// this process works on.
    pub async fn accept(
        &self,
        assignments: Vec<Assignment>,
        in_work: HashSet<TaskId>,
        lost: Lost,
        now: Timestamp,
    ) -> Result<Vec<Accepted>> {
        if assignments.is_empty() {
            return Ok(Vec::new());
        }
        let tasks = assignments.iter().map(|assignment| assignment.sub).collect();
        let receipts: Arc<[Noted]> = self.receipts.take_of(&tasks).into();
        let (traceless, before) = (self.traceless.clone(), Arc::<Mutex<Before>>::default());
        let (noted, taken) = (receipts.clone(), before.clone());
        let accepted = self.db.write("agent.accept", move |tx| {
            receipts::write(tx, &noted)?;
            let (answers, unwritten) = accept(tx, &traceless, &assignments, in_work, lost, now)?;
            *taken.lock().unwrap_or_else(PoisonError::into_inner) = traceless.put(unwritten);
            Ok(answers)
        });
        accepted.await.inspect_err(|_| {
            self.receipts.add(receipts.iter().copied());
            self.traceless.restore(mem::take(&mut before.lock().unwrap_or_else(PoisonError::into_inner)));
        })
    }

    /// Writes down how an attempt ended, before that is reported. The answer is the report under the fence that is
    /// current now; `None` when the attempt was abandoned, or another one is current, and nobody is to hear of it.
    ///
    /// `over` is asked within the transaction. An attempt that was not over when a later fence was taken has adopted
    /// it, whether it knows that yet or not; under one that is over, the later fence is its successor's.
    pub async fn finish(
        &self,
        report: Report,
        over: impl FnOnce() -> bool + Send + 'static,
        now: Timestamp,
    ) -> Result<Option<Report>> {
        let (task, traceless, noted) = (report.task, self.traceless.clone(), self.receipts.take());
        let receipts: Arc<[Noted]> = noted.into();
        let shared = receipts.clone();
        let finished = self.db.write("agent.finish", move |tx| {
            receipts::write(tx, &shared)?;
            finish(tx, &traceless, report, over(), now)
        });
        match finished.await {
            Ok(report) => {
                if report.is_some() {
                    self.traceless.remove(task);
                }
                Ok(report)
            }
            Err(error) => {
                self.receipts.add(receipts.iter().copied());
                Err(error)
            }
        }
    }

    /// The latest attempt at a task that this node took.
    pub async fn latest(&self, task: TaskId) -> Result<Option<Fence>> {
        const SQL: &str = "SELECT store_epoch, attempt FROM attempt WHERE task = ?1 ->> 'task'";
        let traceless = self.traceless.get(task).map(|one| one.fence);
        let row = self.db.read(move |tx| tx.query_one(SQL, &json!({"task": task}), |row| fence_at(row, 0))).await?;
        Ok(row.max(traceless))
    }

    /// Whether this assignment is still to be worked on: accepted, under this fence or a later one that adopted it.
    pub async fn is_open(&self, held: HeldLease) -> Result<bool> {
        const SQL: &str = "SELECT store_epoch, attempt, state = 'accepted' FROM attempt WHERE task = ?1 ->> 'task'";
        let traceless = self.traceless.get(held.task).map(|one| one.fence);
        let read = |row: &Row<'_>| Ok((fence_at(row, 0)?, row.get::<bool>(2)?));
        let row = self.db.read(move |tx| tx.query_one(SQL, &json!({"task": held.task}), read)).await?;
        Ok(match row {
            Some((fence, accepted)) => accepted && fence >= held.fence,
            None => traceless.is_some_and(|fence| fence >= held.fence),
        })
    }

    /// The server says that this attempt is over: it is kept as one that may have done something.
    pub async fn abandon(&self, held: HeldLease, now: Timestamp) -> Result<()> {
        let traceless = self.traceless.clone();
        self.db.write("agent.abandon", move |tx| abandon(tx, &traceless, held, now)).await?;
        self.traceless.remove_at(held);
        Ok(())
    }

    /// Notes what the server did with results: those it has need not be kept. It is written with the next end.
    pub async fn forget(&self, receipts: Vec<(HeldLease, Receipt)>, now: Timestamp) -> Result<()> {
        let first = self.receipts.add(receipts.into_iter().map(|(held, receipt)| (held, receipt, now)));
        match self.mode {
            // Commits cost nothing there that others could share.
            Mode::Inline => self.write_receipts().await,
            Mode::Threads if first => {
                tokio::time::sleep(receipts::SOON).await;
                self.write_receipts().await
            }
            Mode::Threads => Ok(()),
        }
    }

    /// Writes what is noted and waits for nothing.
    pub async fn write_receipts(&self) -> Result<()> {
        let noted = self.receipts.take();
        if noted.is_empty() {
            return Ok(());
        }
        self.db.write("agent.forget", move |tx| receipts::write(tx, &noted)).await
    }

    /// Writes an offer down, before it is acknowledged: from then on it is ours to begin or to forget.
    pub async fn offered(&self, assignment: &Assignment, now: Timestamp) -> Result<()> {
        let row = offer::row(assignment, now);
        self.db.write("agent.offered", move |tx| offer::put(tx, &row)).await
    }

    /// Offers that were neither begun nor forgotten.
    pub async fn offers(&self) -> Result<Vec<Assignment>> {
        self.db.read(offer::all).await
    }

    /// An offer was begun, or is over.
    pub async fn forget_offer(&self, held: HeldLease) -> Result<()> {
        self.db.write("agent.forget", move |tx| offer::remove(tx, held)).await
    }

    /// What this node has counted of what it refused.
    pub async fn refusals(&self, node: NodeId) -> Result<Option<Counted>> {
        self.db.read(move |tx| refusals::all(tx, node)).await
    }

    /// Keeps how many were refused, before that is said.
    pub async fn keep_refusals(&self, node: NodeId, counted: &Counted) -> Result<()> {
        let counted = counted.clone();
        self.db.write("agent.refused", move |tx| refusals::put(tx, node, &counted)).await
    }

    /// Everything begun and not ended.
    pub async fn unfinished(&self) -> Result<Vec<Assignment>> {
        self.db.read(|tx| tx.query(UNFINISHED, &Value::Null, |row| row.json(0))).await
    }

    /// Every result that the server has not acknowledged.
    pub async fn unreported(&self) -> Result<Vec<Report>> {
        self.db.read(|tx| tx.query(UNREPORTED, &Value::Null, |row| report_at(row, 0))).await
    }

    /// Every attempt that is unfinished or unreported: what a poll with `resync` says that the agent holds.
    pub async fn held(&self) -> Result<Vec<HeldLease>> {
        let read = |row: &Row<'_>| Ok(HeldLease { task: row.parse(0)?, fence: fence_at(row, 1)? });
        // First those of which a row may come meanwhile.
        let mut held = self.traceless.leases();
        let rows = self.db.read(move |tx| tx.query(HELD, &Value::Null, read)).await?;
        held.retain(|one| rows.iter().all(|row| row.task != one.task));
        held.extend(rows);
        Ok(held)
    }

    /// Removes what is too old to matter.
    pub async fn prune(&self, now: Timestamp) -> Result<usize> {
        let keep = i64::try_from(KEEP.as_micros()).unwrap_or(i64::MAX);
        let old = json!({ "before": now.as_micros().saturating_sub(keep), "rows": KEEP_ROWS });
        self.db.write("agent.prune", move |tx| Ok(tx.execute(PRUNE_OLD, &old)? + tx.execute(PRUNE_MANY, &old)?)).await
    }
}

mod offer;
mod receipts;
mod refusals;
mod traceless;

const UNFINISHED: &str = "SELECT assignment FROM attempt WHERE state = 'accepted' ORDER BY task";

const UNREPORTED: &str = "SELECT store_epoch, attempt, report FROM attempt WHERE state = 'ended' ORDER BY task";

const HELD: &str = "SELECT task, store_epoch, attempt FROM attempt WHERE state IN ('accepted', 'ended') ORDER BY task";

const PRUNE_OLD: &str = "
    DELETE FROM attempt
    WHERE state IN ('abandoned', 'parked', 'settled') AND changed_at < ?1 ->> 'before'";

const PRUNE_MANY: &str = "
    DELETE FROM attempt WHERE task IN (
        SELECT task FROM attempt WHERE state IN ('abandoned', 'parked', 'settled')
        ORDER BY changed_at DESC LIMIT -1 OFFSET ?1 ->> 'rows')";

/// The answers, and what was taken without being written.
fn accept(
    tx: &Tx<'_>,
    traceless: &Traceless,
    batch: &[Assignment],
    mut in_work: HashSet<TaskId>,
    lost: Lost,
    now: Timestamp,
) -> Result<(Vec<Accepted>, Vec<Assignment>)> {
    let mut known = read_known(tx, batch)?;
    let rows: HashSet<TaskId> = known.keys().copied().collect();
    for task in batch.iter().map(|assignment| assignment.sub).filter(|task| !rows.contains(task)) {
        known.extend(traceless.get(task).map(|one| (task, Entry::accepted(&one).row())));
    }
    let mut epochs = read_epochs(tx, batch)?;
    let (mut entries, mut unwritten) = (Vec::new(), Vec::new());
    let mut answers = Vec::with_capacity(batch.len());
    for assignment in batch {
        let (answer, entry) = consider(assignment, known.get(&assignment.sub), &in_work, &mut epochs, now)?;
        if let Some(entry) = entry {
            known.insert(entry.task, entry.row());
            match entry.assignment {
                Some(taken) if Traceless::may_have(taken, lost) && !rows.contains(&taken.sub) => {
                    unwritten.push(taken.clone());
                }
                Some(_) | None => entries.push(entry),
            }
        }
        if let Accepted::Begin(..) = answer {
            in_work.insert(assignment.sub);
        }
        answers.push(answer);
    }
    write_entries(tx, &entries, now)?;
    write_epochs(tx, &epochs)?;
    Ok((answers, unwritten))
}

impl Entry<'_> {
    fn row(&self) -> KnownRow {
        let standing = match &self.report {
            Some(report) => Standing::Ended(report.end.clone()),
            None => Standing::Unfinished,
        };
        let known = Known { fence: self.fence, standing };
        KnownRow { known, report: self.report.clone(), assignment: self.assignment.cloned() }
    }

    fn accepted(assignment: &Assignment) -> Entry<'_> {
        let Assignment { sub: task, fence, .. } = *assignment;
        Entry { task, fence, state: "accepted", assignment: Some(assignment), report: None }
    }

    fn ended(assignment: &Assignment, report: Report) -> Entry<'static> {
        Entry { task: report.task, fence: assignment.fence, state: "ended", assignment: None, report: Some(report) }
    }
}

/// What the journal has of a task.
#[derive(Clone)]
struct KnownRow {
    known: Known,
    report: Option<Report>,
    assignment: Option<Assignment>,
}

fn consider<'a>(
    assignment: &'a Assignment,
    row: Option<&KnownRow>,
    in_work: &HashSet<TaskId>,
    epochs: &mut HashMap<VmId, u32>,
    now: Timestamp,
) -> Result<(Accepted, Option<Entry<'a>>)> {
    let working = if in_work.contains(&assignment.sub) { InWork::Yes } else { InWork::No };
    if row.is_some_and(|row| is_other(row, assignment)) {
        return Ok((Accepted::OtherContent, None));
    }
    let decision = fence::decide(row.map(|row| &row.known), working, assignment.fence, assignment.intent);
    let report = row.and_then(|row| row.report.clone());
    let written = || Some(Entry::accepted(assignment));
    Ok(match decision {
        Decision::Begin | Decision::Resume if !raise_epoch(assignment, epochs) => {
            (Accepted::OldEpoch(Box::new(old_epoch(assignment, now))), None)
        }
        Decision::Begin => (Accepted::Begin(Box::new(assignment.clone()), Start::Fresh), written()),
        Decision::Resume => (Accepted::Begin(Box::new(assignment.clone()), Start::Uncertain), written()),
        Decision::Adopt | Decision::Abort => {
            let Assignment { sub, fence, intent, .. } = *assignment;
            (Accepted::Adopt { task: sub, fence, intent }, written())
        }
        Decision::Answer | Decision::Carry => match report {
            Some(report) => {
                let report = Report { fence: assignment.fence, ..report };
                (Accepted::Answer(Box::new(report.clone())), Some(Entry::ended(assignment, report)))
            }
            None => (Accepted::Ignored, None),
        },
        Decision::Ignore => (Accepted::Ignored, None),
        Decision::Stale => (Accepted::Stale(row.map_or(Why::OldFence, |row| passed(row, assignment))), None),
    })
}

/// By what an assignment is over.
fn passed(row: &KnownRow, assignment: &Assignment) -> Why {
    if assignment.fence.store_epoch < row.known.fence.store_epoch { Why::OldStoreEpoch } else { Why::OldFence }
}

/// Whether an attempt that was taken says something else now. What it is worth (its lease, its deadline, whether it is to be
/// undone) may change; what it is about may not.
fn is_other(row: &KnownRow, assignment: &Assignment) -> bool {
    let Some(taken) = row.assignment.as_ref().filter(|_| row.known.fence == assignment.fence) else { return false };
    let about = |one: &Assignment| (one.kind, one.target.clone(), one.params.clone(), one.epoch);
    about(taken) != about(assignment)
}

/// Whether the machine's epoch is not older than the highest seen, which it then becomes.
fn raise_epoch(assignment: &Assignment, epochs: &mut HashMap<VmId, u32>) -> bool {
    let (Some(vm), Some(epoch)) = (assignment.target.vm, assignment.epoch) else { return true };
    let highest = epochs.entry(vm).or_insert(epoch);
    *highest = epoch.max(*highest);
    epoch == *highest
}

/// The machine has had a later life here: nothing that this task is about may be touched, and nothing is said about
/// what is left of it.
fn old_epoch(assignment: &Assignment, now: Timestamp) -> Report {
    let detail = format!(
        "the task is about an earlier placement of the VM (epoch {}); this node has taken work of a later one",
        assignment.epoch.unwrap_or_default()
    );
    let end = End::Failed { code: Code::TaskRefused, detail, retryable: false, effects: Effects::Remain };
    let Assignment { sub: task, fence, .. } = *assignment;
    Report { task, fence, end, phases: Vec::new(), log: Vec::new(), started_at: now, finished_at: now }
}

fn read_known(tx: &Tx<'_>, batch: &[Assignment]) -> Result<HashMap<TaskId, KnownRow>> {
    const SQL: &str = "
        SELECT task, store_epoch, attempt, state, report, clean, assignment FROM attempt
        WHERE task IN (SELECT value FROM json_each(?1))";
    let tasks: Vec<TaskId> = batch.iter().map(|assignment| assignment.sub).collect();
    let rows = tx.query(SQL, &json!(tasks), |row| {
        let (fence, report) = (fence_at(row, 1)?, row.json_opt::<Report>(4)?);
        let standing = match (row.get::<String>(3)?.as_str(), &report) {
            ("ended" | "parked", Some(report)) => Standing::Ended(report.end.clone()),
            ("settled", _) if row.get(5)? => Standing::Settled(Effects::Undone),
            ("settled", _) => Standing::Settled(Effects::Remain),
            _ => Standing::Unfinished,
        };
        let known = Known { fence, standing };
        Ok((row.parse::<TaskId>(0)?, KnownRow { known, report, assignment: row.json_opt(6)? }))
    })?;
    Ok(rows.into_iter().collect())
}

fn read_epochs(tx: &Tx<'_>, batch: &[Assignment]) -> Result<HashMap<VmId, u32>> {
    const SQL: &str = "SELECT vm, epoch FROM vm_epoch WHERE vm IN (SELECT value FROM json_each(?1))";
    let vms: Vec<VmId> = batch.iter().filter_map(|assignment| assignment.target.vm).collect();
    if vms.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(tx.query(SQL, &json!(vms), |row| Ok((row.parse(0)?, row.get(1)?)))?.into_iter().collect())
}

/// A row as it is written.
#[derive(Serialize)]
struct Written<'a> {
    task: TaskId,
    store_epoch: u32,
    attempt: u32,
    state: &'static str,
    assignment: Option<Document<&'a Assignment>>,
    report: Option<Document<&'a Report>>,
    at: i64,
}

fn write_entries(tx: &Tx<'_>, entries: &[Entry<'_>], now: Timestamp) -> Result<()> {
    const SQL: Texts = Texts::of_a_file(
        "
        INSERT INTO attempt (task, store_epoch, attempt, state, assignment, report, changed_at)
        VALUES (:task, :store_epoch, :attempt, :state, :assignment, :report, :at)
        ON CONFLICT (task) DO UPDATE SET
            store_epoch = excluded.store_epoch, attempt = excluded.attempt, state = excluded.state,
            assignment = excluded.assignment, report = excluded.report, changed_at = excluded.changed_at",
    );
    tx.put_each(&SQL, &entries.iter().map(|entry| Written::new(entry, now)).collect::<Vec<_>>())
}

impl<'a> Written<'a> {
    fn new(entry: &'a Entry<'_>, now: Timestamp) -> Written<'a> {
        Written {
            task: entry.task,
            store_epoch: entry.fence.store_epoch,
            attempt: entry.fence.attempt,
            state: entry.state,
            assignment: entry.assignment.map(Document),
            report: entry.report.as_ref().map(Document),
            at: now.as_micros(),
        }
    }
}

fn write_epochs(tx: &Tx<'_>, epochs: &HashMap<VmId, u32>) -> Result<()> {
    const SQL: &str = "
        INSERT INTO vm_epoch (vm, epoch) SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true
        ON CONFLICT (vm) DO UPDATE SET epoch = max(epoch, excluded.epoch)";
    if epochs.is_empty() {
        return Ok(());
    }
    tx.put(SQL, &json!(epochs.iter().collect::<Vec<_>>()))
}

fn finish(tx: &Tx<'_>, traceless: &Traceless, report: Report, over: bool, now: Timestamp) -> Result<Option<Report>> {
    // Two short statements: one that answers with what it changed would be gathered in a table of its own.
    const ROW: &str = "SELECT store_epoch, attempt, state = 'accepted' FROM attempt WHERE task = ?1 ->> 'task'";
    const SQL: Texts =
        Texts::of_a_file("UPDATE attempt SET state = 'ended', report = :report, changed_at = :at WHERE task = :task");
    #[derive(Serialize)]
    struct Finished<'a> {
        task: TaskId,
        report: Document<&'a Report>,
        at: i64,
    }
    let is_its = |fence: Fence| !over || fence == report.fence;
    let read = |row: &Row<'_>| Ok((fence_at(row, 0)?, row.get::<bool>(2)?));
    match (tx.query_one(ROW, &json!({"task": report.task}), read)?, traceless.get(report.task)) {
        (Some((fence, true)), _) if is_its(fence) => {
            tx.put_each(&SQL, &[Finished { task: report.task, report: Document(&report), at: now.as_micros() }])?;
            Ok(Some(Report { fence, ..report }))
        }
        (None, Some(taken)) if is_its(taken.fence) => {
            let report = Report { fence: taken.fence, ..report };
            let Assignment { sub: task, fence, .. } = taken;
            let ended = Entry { task, fence, state: "ended", assignment: Some(&taken), report: Some(report.clone()) };
            write_entries(tx, &[ended], now)?;
            Ok(Some(report))
        }
        (Some(_), _) | (None, _) => Ok(None),
    }
}

fn abandon(tx: &Tx<'_>, traceless: &Traceless, held: HeldLease, now: Timestamp) -> Result<()> {
    const SQL: &str = "
        UPDATE attempt SET state = 'abandoned', changed_at = ?1 ->> 'at'
        WHERE task = ?1 ->> 'task' AND state = 'accepted'
          AND store_epoch = ?1 ->> 'store_epoch' AND attempt = ?1 ->> 'attempt'";
    const ROW: &str = "SELECT 1 FROM attempt WHERE task = ?1 ->> 'task'";
    let row = tx.query_one(ROW, &json!({"task": held.task}), |row| row.get::<i64>(0))?;
    match (row, traceless.get(held.task)) {
        (Some(_), _) => tx.put(SQL, &HeldRow::new(&held, now)),
        // Later ones are told from it, and earlier ones refused.
        (None, Some(taken)) if taken.fence == held.fence => {
            let HeldLease { task, fence } = held;
            write_entries(tx, &[Entry { task, fence, state: "abandoned", assignment: Some(&taken), report: None }], now)
        }
        (None, _) => Ok(()),
    }
}

/// Which attempt a statement is about, and when.
#[derive(Serialize)]
struct HeldRow {
    task: TaskId,
    store_epoch: u32,
    attempt: u32,
    at: i64,
}

impl HeldRow {
    fn new(held: &HeldLease, now: Timestamp) -> HeldRow {
        let HeldLease { task, fence: Fence { store_epoch, attempt } } = *held;
        HeldRow { task, store_epoch, attempt, at: now.as_micros() }
    }
}

fn fence_at(row: &Row<'_>, column: usize) -> Result<Fence> {
    Ok(Fence { store_epoch: row.get(column)?, attempt: row.get(column + 1)? })
}

/// A report under its row's fence, which may be later than the one it was written under.
fn report_at(row: &Row<'_>, column: usize) -> Result<Report> {
    Ok(Report { fence: fence_at(row, column)?, ..row.json(column + 2)? })
}

#[cfg(test)]
mod tests;
