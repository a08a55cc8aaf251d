//! Tasks: their rows, and the texts that read and write them.

/// The columns of a task in the order in which [`read`] expects them.
macro_rules! columns {
    () => {
        "t.id, t.seq, t.tenant, t.kind, t.vm, t.target_node, t.params, t.state, t.node, t.store_epoch, t.attempt,
         t.max_attempts, t.clean, t.enrolment, t.lease_until, t.abort_reason, t.progress, t.phases, t.output, t.error,
         t.retry_of, t.created_by, t.created_at, t.not_before, t.queue_deadline, t.deadline, t.started_at,
         t.finished_at, t.priority, t.queue_timeout_s, t.timeout_s, t.retry, t.dead_letter, t.turn = 'later', t.ripe, t.proof IS NOT NULL"
    };
}

/// Whether an earlier task that changes the VM has not ended.
macro_rules! waits_for_turn {
    () => {
        "EXISTS (SELECT 1
                   FROM tasks e
                  WHERE e.vm = t.vm AND e.vm IS NOT NULL AND e.state IN ('queued', 'running', 'aborting')
                    AND e.turn IN ('exclusive', 'final') AND e.seq < t.seq)"
    };
}

/// Whether another task is at the snapshot that a task is to remove: such a task would only stand at the head of its lane.
macro_rules! waits_for_snapshot {
    () => {
        "EXISTS (SELECT 1 FROM snapshots s WHERE s.id = t.snapshot AND s.task IS NOT NULL AND s.task <> t.id)"
    };
}

/// Whether a task waits for its turn, and whether for its node's queue to be resumed.
macro_rules! waits {
    () => {
        concat!(waits_for_turn!(), ", EXISTS (SELECT 1 FROM nodes n WHERE n.id = t.node AND n.paused_at IS NOT NULL)")
    };
}

/// Whether a task has not ended, by the three indexes that together have all of those.
macro_rules! has_not_ended {
    () => {
        "t.id IN (SELECT id FROM tasks WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 1
                UNION ALL
                SELECT id FROM tasks WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 0
                UNION ALL
                SELECT id FROM tasks WHERE lease_until IS NOT NULL)"
    };
}

pub(crate) mod bound;
mod lane;
pub(crate) mod later;
mod left;
pub(crate) mod list;
pub(crate) mod outbox;
pub(crate) mod stats;
pub(crate) mod wanted;

use std::cmp::Reverse;

use hostler_db::{Document, Result, Row, Texts, Tx};
use hostler_model::{
    Fence, NodeId, PrincipalId, SnapshotId, TaskId, TenantId, Timestamp, VmId,
    id::EnrolmentId,
    kind::{KindName, Turn},
    retry::RetryPolicy,
    schedule::{Priority, Schedule},
    snapshot::{Use, named_by},
    task::{AbortReason, DeadLetter, Lease, Left, Life, PhaseTiming, Progress, Target, Task, TaskError, TaskState},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::proof::KeptProof;

pub(crate) use lane::{Lane, Lanes, Wanted};
pub(crate) use list::{Held, list, one, waiting_for};

/// A task with what only transitions see.
#[derive(Clone, Debug)]
pub(crate) struct TaskRow {
    /// The number of the log entry that says it was queued, or that its time has come: the order of turns.
    pub(crate) seq: i64,
    pub(crate) task: Task,
    pub(crate) left: Left,
    pub(crate) lease: Option<Lease>,
    /// Whether its time is yet to come: until then it takes no turn on its VM. Never so of a task that waits for another
    /// attempt.
    pub(crate) later: bool,
    /// Whether it could be leased since it last began to wait: the clock may have stepped back since.
    pub(crate) ripe: bool,
    /// What proves what its node reported, where it is to be written: an earlier one is not read, and stays.
    pub(crate) proof: Option<KeptProof>,
}

impl TaskRow {
    /// The part that transitions change.
    pub(crate) fn life(&self) -> Life {
        Life {
            state: self.task.state,
            fence: self.task.fence,
            left: self.left,
            lease: self.lease,
            abort_reason: self.task.abort_reason,
            not_before: self.task.not_before,
            deadline: self.task.deadline,
            dead_letter: self.task.dead_letter,
        }
    }

    /// Takes over what a transition changed.
    pub(crate) fn set_life(&mut self, life: Life) {
        let Life { state, fence, left, lease, abort_reason, not_before, deadline, dead_letter } = life;
        (self.left, self.lease) = (left, lease);
        let task = &mut self.task;
        self.ripe &= task.not_before == not_before;
        (task.state, task.fence, task.abort_reason) = (state, fence, abort_reason);
        (task.not_before, task.deadline, task.dead_letter) = (not_before, deadline, dead_letter);
    }

    /// Whether it has ended.
    pub(crate) fn ended(&self) -> bool {
        self.task.state.is_terminal()
    }

    /// Whether it holds or wants a turn of its own on its VM.
    pub(crate) fn changes_vm(&self) -> bool {
        match self.task.kind.spec().turn {
            Turn::Exclusive | Turn::Final => !self.later,
            Turn::None | Turn::Shared => false,
        }
    }

    /// Whether its VM goes with it, as soon as its turn comes.
    pub(crate) fn is_final(&self) -> bool {
        self.changes_vm() && self.task.kind.spec().turn == Turn::Final
    }

    fn turn_word(&self) -> &'static str {
        if self.later { "later" } else { turn_word(self.task.kind.spec().turn) }
    }
}

const fn turn_word(turn: Turn) -> &'static str {
    match turn {
        Turn::None => "none",
        Turn::Shared => "shared",
        Turn::Exclusive => "exclusive",
        Turn::Final => "final",
    }
}

const BY_IDS: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN tasks t ON t.id = wanted.value"
);

/// Says that [`by_ids`] will be asked for these.
pub(crate) fn expect(tx: &Tx<'_>, ids: &[TaskId]) -> Result<()> {
    tx.expect(BY_IDS, &ids)
}

/// Those that exist among the wanted.
pub(crate) fn by_ids(tx: &Tx<'_>, ids: &[TaskId]) -> Result<Vec<TaskRow>> {
    tx.query(BY_IDS, &ids, read)
}

const LIVE_ON_VMS: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM jsonb_each(?1) wanted
  JOIN tasks t ON t.vm = wanted.value
   AND t.vm IS NOT NULL AND t.state IN ('queued', 'running', 'aborting')
 ORDER BY t.seq"
);

/// Tasks on these VMs that have not ended, in the order of their turns.
pub(crate) fn live_on_vms(tx: &Tx<'_>, vms: &[VmId]) -> Result<Vec<TaskRow>> {
    tx.query(LIVE_ON_VMS, &vms, read)
}

const ON_NODE: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM tasks t
 WHERE t.node = ?1->>'node' AND ",
    has_not_ended!(),
    "
 ORDER BY t.seq"
);

/// Tasks at a node that have not ended, in the order in which they were queued.
pub(crate) fn on_node(tx: &Tx<'_>, node: NodeId) -> Result<Vec<TaskRow>> {
    tx.query(ON_NODE, &json!({"node": node}), read)
}

const UNPLACED: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY tenant ORDER BY priority DESC, seq) AS place
          FROM tasks
         WHERE state = 'queued' AND node IS NULL AND kind = 'vm.create'
         ORDER BY place, priority DESC, seq
         LIMIT CAST(?1->>'limit' AS BIGINT)) w
  JOIN tasks t ON t.id = w.id
 ORDER BY t.priority DESC, t.seq"
);

/// Creates that wait for a node with room, in the order in which they get it. Of more than so many, as many of each tenant: one
/// that asks for what no node has keeps nobody else from being looked at.
pub(crate) fn unplaced(tx: &Tx<'_>, limit: usize) -> Result<Vec<TaskRow>> {
    tx.query(UNPLACED, &json!({"limit": limit}), read)
}

const RETRY_OF: &str = "
SELECT id
  FROM tasks
 WHERE retry_of = ?1->>'id' AND retry_of IS NOT NULL
 ORDER BY seq
 LIMIT 1";

/// The task that does this one again; of several, the first.
pub(crate) fn retry_of(tx: &Tx<'_>, id: TaskId) -> Result<Option<TaskId>> {
    tx.query_one(RETRY_OF, &json!({"id": id}), |row| row.parse(0))
}

const RIPEN: &str = "
UPDATE tasks
   SET ripe = 1
 WHERE id IN (SELECT id
                FROM tasks
               WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 0
                 AND not_before <= CAST(?1->>'now' AS BIGINT) AND turn <> 'later'
               ORDER BY not_before
               LIMIT CAST(?1->>'limit' AS BIGINT))";

/// Lets tasks be leased whose time has come, at most `limit` of them. Until then [`leasable`] does not come across them,
/// however many there are. Those that then take their turn on a VM are not among them ([`later::due`]).
pub(crate) fn ripen(tx: &Tx<'_>, now: Timestamp, limit: usize) -> Result<()> {
    tx.put(RIPEN, &json!({"now": now.as_micros(), "limit": limit}))?;
    Ok(())
}

/// What one pair of a node and a lane may fetch, in its order.
macro_rules! leasable {
    ($limit:literal) => {
        concat!(
            "
         FROM tasks t
        WHERE t.node = wanted.value->>'node' AND t.lane = wanted.value->>'lane'
          AND t.state IN ('queued', 'aborting') AND t.lease_until IS NULL AND t.ripe = 1
          AND (t.state = 'aborting' OR t.queue_deadline > CAST(?1->>'now' AS BIGINT))
          AND (t.vm IS NULL OR NOT ",
            waits_for_turn!(),
            ")
          AND (t.kind <> 'snapshot.delete' OR t.state = 'aborting' OR NOT ",
            waits_for_snapshot!(),
            ")
        ORDER BY t.priority DESC, t.seq
        LIMIT CAST(?1->>'",
            $limit,
            "' AS BIGINT))"
        )
    };
}

/// The same for many such pairs.
macro_rules! leasable_in_a_file {
    ($pairs:literal, $limit:literal) => {
        concat!(
            "
SELECT ",
            columns!(),
            "
  FROM jsonb_each(?1, '$.",
            $pairs,
            "') wanted
  JOIN tasks t ON t.id IN (
       SELECT t.id",
            leasable!($limit)
        )
    };
}

/// The same on a server.
macro_rules! leasable_on_a_server {
    ($pairs:literal, $limit:literal) => {
        concat!(
            "
SELECT ",
            columns!(),
            "
  FROM jsonb_each(?1, '$.",
            $pairs,
            "') wanted
 CROSS JOIN LATERAL (
       SELECT t.*",
            leasable!($limit),
            " t"
        )
    };
}

const LEASABLE: Texts = Texts {
    sqlite: concat!(
        leasable_in_a_file!("many", "most_of_many"),
        "
 UNION ALL",
        leasable_in_a_file!("few", "most_of_few")
    ),
    postgres: concat!(
        leasable_on_a_server!("many", "most_of_many"),
        "
 UNION ALL",
        leasable_on_a_server!("few", "most_of_few")
    ),
};

/// What nodes may fetch now from these lanes, at most so many from each, by priority and then in the order in which it was
/// queued. Lanes with many slots and those with few have bounds of their own: the tasks of the latter are large, and are not
/// read by the number of the others.
pub(crate) fn leasable(tx: &Tx<'_>, wanted: &Wanted, now: Timestamp) -> Result<Vec<TaskRow>> {
    let pairs = |of: &Lanes| -> Vec<Value> {
        of.keys().map(|(node, lane)| json!({"node": node, "lane": lane.word()})).collect()
    };
    let most = |of: &Lanes| of.values().copied().max().unwrap_or(0);
    let (many, few) = (&wanted.many, &wanted.few);
    let asked = json!({
        "many": pairs(many), "most_of_many": most(many), "few": pairs(few), "most_of_few": most(few),
        "now": now.as_micros(),
    });
    let mut rows = tx.query(tx.pick(&LEASABLE), &asked, read)?;
    rows.sort_by_key(|row| (Reverse(row.task.schedule.priority), row.seq));
    Ok(rows)
}

const HELD: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM tasks t
 WHERE t.lease_until IS NOT NULL
   AND t.node = ?1->>'node' AND t.enrolment = ?1->>'enrolment'
 ORDER BY t.seq"
);

/// What an enrolment of a node holds.
pub(crate) fn held(tx: &Tx<'_>, node: NodeId, enrolment: EnrolmentId) -> Result<Vec<TaskRow>> {
    tx.query(HELD, &json!({"node": node, "enrolment": enrolment}), read)
}

const LAPSED: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM tasks t
 WHERE t.lease_until IS NOT NULL AND t.lease_until <= CAST(?1->>'now' AS BIGINT)
 ORDER BY t.lease_until
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

const PAST_QUEUE_DEADLINE: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM tasks t
 WHERE t.state = 'queued' AND t.queue_deadline <= CAST(?1->>'now' AS BIGINT)
 ORDER BY t.queue_deadline
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

const PAST_DEADLINE: &str = concat!(
    "
SELECT ",
    columns!(),
    "
  FROM tasks t
 WHERE t.deadline IS NOT NULL AND t.state IN ('queued', 'running') AND t.deadline <= CAST(?1->>'now' AS BIGINT)
 ORDER BY t.deadline
 LIMIT CAST(?1->>'limit' AS BIGINT)"
);

/// Which time has run out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    /// The lease's.
    Lease,
    /// To be leased at all.
    Queue,
    /// To end.
    End,
}

/// Tasks whose time has run out, the longest overdue first.
pub(crate) fn due(tx: &Tx<'_>, due: Due, now: Timestamp, limit: usize) -> Result<Vec<TaskRow>> {
    let sql = match due {
        Due::Lease => LAPSED,
        Due::Queue => PAST_QUEUE_DEADLINE,
        Due::End => PAST_DEADLINE,
    };
    tx.query(sql, &json!({"now": now.as_micros(), "limit": limit}), read)
}

/// The columns of a new task.
macro_rules! inserted {
    () => {
        "
INSERT INTO tasks (id, seq, tenant, kind, turn, vm, target_node, params, state, node, store_epoch, attempt,
                   max_attempts, clean, abort_reason, phases, output, error, code, retry_of, created_by, created_at,
                   not_before, queue_deadline, deadline, finished_at, lane, ripe, priority, queue_timeout_s, timeout_s,
                   retry, dead_letter, snapshot)"
    };
}

const INSERT: Texts = Texts {
    sqlite: concat!(
        inserted!(),
        "
VALUES (:id, :seq, :tenant, :kind, :turn, :vm, :target_node, :params, :state, :node, :store_epoch, :attempt,
        :max_attempts, :clean, :abort_reason, :phases, :output, :error, :code, :retry_of, :created_by, :created_at,
        :not_before, :queue_deadline, :deadline, :finished_at, :lane, :ripe, :priority, :queue_timeout_s, :timeout_s,
        :retry, :dead_letter, :snapshot)"
    ),
    postgres: concat!(
        inserted!(),
        "
SELECT *
  FROM rows(id, seq bigint, tenant, kind, turn, vm, target_node, params, state, node, store_epoch bigint,
            attempt bigint, max_attempts bigint, clean bigint, abort_reason, phases, output, error, code, retry_of,
            created_by, created_at bigint, not_before bigint, queue_deadline bigint, deadline bigint,
            finished_at bigint, lane, ripe bigint, priority bigint, queue_timeout_s bigint, timeout_s bigint, retry,
            dead_letter, snapshot)"
    ),
};

#[derive(Serialize)]
struct Inserted<'a> {
    tenant: TenantId,
    kind: KindName,
    vm: Option<VmId>,
    target_node: Option<NodeId>,
    params: Document<&'a Value>,
    /// What the parameters name, for texts that look for it.
    snapshot: Option<SnapshotId>,
    max_attempts: u32,
    retry_of: Option<TaskId>,
    created_by: PrincipalId,
    created_at: i64,
    priority: Priority,
    queue_timeout_s: u32,
    timeout_s: u32,
    /// Where it is not the kind's own.
    retry: Option<Document<RetryPolicy>>,
    #[serde(flatten)]
    rest: Updated<'a>,
}

/// Writes new tasks.
pub(crate) fn insert<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a TaskRow>, now: Timestamp) -> Result<()> {
    tx.put_each(&INSERT, &rows.map(|row| inserted(row, now)).collect::<Vec<_>>())
}

fn snapshot(task: &Task) -> Option<SnapshotId> {
    match task.kind.spec().snapshot {
        Use::None => None,
        Use::Make | Use::Read | Use::Remove => named_by(&task.params),
    }
}

fn inserted(row: &TaskRow, now: Timestamp) -> Inserted<'_> {
    let task = &row.task;
    let Schedule { priority, queue_timeout_seconds, timeout_seconds, retry } = task.schedule;
    Inserted {
        tenant: task.tenant,
        kind: task.kind,
        vm: task.target.vm,
        target_node: task.target.node,
        params: Document(&task.params),
        snapshot: snapshot(task),
        max_attempts: task.max_attempts,
        retry_of: task.retry_of,
        created_by: task.created_by,
        created_at: task.created_at.as_micros(),
        priority,
        queue_timeout_s: queue_timeout_seconds,
        timeout_s: timeout_seconds,
        retry: Some(retry).filter(|retry| *retry != task.kind.spec().retry).map(Document),
        rest: updated(row, now),
    }
}

const UPDATE: Texts = Texts {
    sqlite: "
UPDATE tasks
   SET seq = :seq, turn = :turn, state = :state, node = :node, store_epoch = :store_epoch, attempt = :attempt,
       clean = :clean, enrolment = :enrolment, lease_until = :lease_until, abort_reason = :abort_reason,
       progress = :progress, phases = :phases, output = :output, error = :error, code = :code,
       not_before = :not_before, queue_deadline = :queue_deadline, deadline = :deadline, started_at = :started_at,
       finished_at = :finished_at, lane = :lane, ripe = :ripe, dead_letter = :dead_letter,
       proof = COALESCE(:proof, proof)
 WHERE id = :id",
    postgres: "
UPDATE tasks
   SET seq = c.seq, turn = c.turn, state = c.state, node = c.node, store_epoch = c.store_epoch, attempt = c.attempt,
       clean = c.clean, enrolment = c.enrolment, lease_until = c.lease_until, abort_reason = c.abort_reason,
       progress = c.progress, phases = c.phases, output = c.output, error = c.error, code = c.code,
       not_before = c.not_before, queue_deadline = c.queue_deadline, deadline = c.deadline, started_at = c.started_at,
       finished_at = c.finished_at, lane = c.lane, ripe = c.ripe, dead_letter = c.dead_letter,
       proof = COALESCE(c.proof, tasks.proof)
  FROM rows(id, seq bigint, turn, state, node, store_epoch bigint, attempt bigint, clean bigint, enrolment,
            lease_until bigint, abort_reason, progress, phases, output, error, code, not_before bigint,
            queue_deadline bigint, deadline bigint, started_at bigint, finished_at bigint, lane, ripe bigint,
            dead_letter, proof) c
 WHERE tasks.id = c.id",
};

#[derive(Serialize)]
struct Updated<'a> {
    id: TaskId,
    seq: i64,
    turn: &'static str,
    state: TaskState,
    node: Option<NodeId>,
    store_epoch: u32,
    attempt: u32,
    clean: u8,
    enrolment: Option<EnrolmentId>,
    lease_until: Option<i64>,
    abort_reason: Option<AbortReason>,
    progress: Option<Document<&'a Progress>>,
    phases: Document<&'a [PhaseTiming]>,
    output: Option<Document<&'a Value>>,
    error: Option<Document<&'a TaskError>>,
    code: Option<&'static str>,
    not_before: i64,
    queue_deadline: i64,
    deadline: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    lane: &'static str,
    ripe: u8,
    dead_letter: Option<DeadLetter>,
    proof: Option<Document<&'a KeptProof>>,
}

/// Writes what may change of tasks.
pub(crate) fn update<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a TaskRow>, now: Timestamp) -> Result<()> {
    tx.put_each(&UPDATE, &rows.map(|row| updated(row, now)).collect::<Vec<_>>())
}

fn updated(row: &TaskRow, now: Timestamp) -> Updated<'_> {
    let task = &row.task;
    Updated {
        id: task.id,
        seq: row.seq,
        turn: row.turn_word(),
        state: task.state,
        node: task.node,
        store_epoch: task.fence.store_epoch,
        attempt: task.fence.attempt,
        clean: left::number(row.left),
        enrolment: row.lease.map(|lease| lease.enrolment),
        lease_until: row.lease.map(|lease| lease.expires_at.as_micros()),
        abort_reason: task.abort_reason,
        progress: task.progress.as_ref().map(Document),
        phases: Document(&task.phases),
        output: task.output.as_ref().map(Document),
        error: task.error.as_ref().map(Document),
        code: task.error.as_ref().map(|error| error.code.as_str()),
        not_before: task.not_before.as_micros(),
        queue_deadline: task.queue_deadline.as_micros(),
        deadline: task.deadline.map(Timestamp::as_micros),
        started_at: task.started_at.map(Timestamp::as_micros),
        finished_at: task.finished_at.map(Timestamp::as_micros),
        lane: Lane::of(task).word(),
        ripe: u8::from((row.ripe || task.not_before <= now) && !row.later),
        dead_letter: task.dead_letter,
        proof: row.proof.as_ref().map(Document),
    }
}

const AMEND: &str = "
UPDATE tasks
   SET params = c.value->>'params'
  FROM jsonb_each(?1) c
 WHERE tasks.id = c.value->>'id'";

/// Writes the parameters of tasks, which hardly ever change.
pub(crate) fn amend<'a>(tx: &Tx<'_>, rows: impl Iterator<Item = &'a TaskRow>) -> Result<()> {
    let batch: Vec<Value> = rows.map(|row| json!({"id": row.task.id, "params": Document(&row.task.params)})).collect();
    if !batch.is_empty() {
        tx.put(AMEND, &batch)?;
    }
    Ok(())
}

const RENEW: &str = "
UPDATE tasks
   SET lease_until = CAST(?1->>'until' AS BIGINT)
  FROM jsonb_each(?1, '$.ids') c
 WHERE tasks.id = c.value AND tasks.lease_until < CAST(?1->>'until' AS BIGINT)";

/// Makes leases last until then.
pub(crate) fn renew(tx: &Tx<'_>, ids: &[TaskId], until: Timestamp) -> Result<()> {
    if !ids.is_empty() {
        tx.put(RENEW, &json!({"ids": ids, "until": until.as_micros()}))?;
    }
    Ok(())
}

const BEGIN_AGAIN: &str = "
UPDATE tasks
   SET state = 'queued', lease_until = NULL, enrolment = NULL, started_at = NULL, deadline = NULL,
       clean = CASE WHEN node IS NULL THEN clean ELSE 0 END,
       queue_deadline = CAST(?1->>'now' AS BIGINT) + 1000000 * queue_timeout_s,
       max_attempts = CASE WHEN max_attempts < attempt + 2 THEN attempt + 2 ELSE max_attempts END
 WHERE state IN ('queued', 'running') AND turn <> 'later'
   AND NOT (state = 'running' AND node IN (SELECT id FROM nodes WHERE transport = 'plain'))";

/// Tasks that had not ended wait again. Nobody knows what is left of them, for nobody knows what was done since; of one that
/// waits for a node, its node will say if it has got one. One that was handed out in plain form stays with whoever has it:
/// it has one attempt.
pub(crate) fn begin_again(tx: &Tx<'_>, now: Timestamp) -> Result<()> {
    tx.put(BEGIN_AGAIN, &json!({"now": now.as_micros()}))
}

/// How many columns [`read`] reads.
const COLUMNS: usize = 36;

fn read(row: &Row<'_>) -> Result<TaskRow> {
    let kind: KindName = row.parse(3)?;
    let retry: Option<RetryPolicy> = row.json_opt(31)?;
    let schedule = Schedule {
        priority: Priority::try_from(row.get::<i32>(28)?).unwrap_or_default(),
        queue_timeout_seconds: row.get(29)?,
        timeout_seconds: row.get(30)?,
        retry: retry.unwrap_or(kind.spec().retry),
    };
    let lease_until: Option<i64> = row.get(14)?;
    let enrolment: Option<EnrolmentId> = row.parse_opt(13)?;
    let lease = enrolment
        .zip(lease_until)
        .map(|(enrolment, until)| Lease { enrolment, expires_at: Timestamp::from_micros(until) });
    let moment = |column: usize| Ok(row.get::<Option<i64>>(column)?.map(Timestamp::from_micros));
    let task = Task {
        id: row.parse(0)?,
        tenant: row.parse(2)?,
        kind,
        target: Target { vm: row.parse_opt(4)?, node: row.parse_opt(5)? },
        params: row.json(6)?,
        state: row.word(7)?,
        waiting_for: None,
        node: row.parse_opt(8)?,
        fence: Fence { store_epoch: row.get(9)?, attempt: row.get(10)? },
        max_attempts: row.get(11)?,
        schedule,
        abort_reason: row.word_opt(15)?,
        progress: row.json_opt(16)?,
        phases: row.json(17)?,
        output: row.json_opt(18)?,
        error: row.json_opt(19)?,
        dead_letter: row.word_opt(32)?,
        retry_of: row.parse_opt(20)?,
        created_by: row.parse(21)?,
        created_at: Timestamp::from_micros(row.get(22)?),
        not_before: Timestamp::from_micros(row.get(23)?),
        queue_deadline: Timestamp::from_micros(row.get(24)?),
        deadline: moment(25)?,
        started_at: moment(26)?,
        finished_at: moment(27)?,
        signed: row.get(35)?,
    };
    let (seq, left, later, ripe) = (row.get(1)?, left::read(row, 12)?, row.get(33)?, row.get(34)?);
    Ok(TaskRow { seq, task, left, lease, later, ripe, proof: None })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[
    BY_IDS,
    LIVE_ON_VMS,
    RIPEN,
    LEASABLE.sqlite,
    HELD,
    LAPSED,
    PAST_QUEUE_DEADLINE,
    PAST_DEADLINE,
    UPDATE.sqlite,
    AMEND,
    RENEW,
    RETRY_OF,
    UNPLACED,
    INSERT.sqlite,
];

/// Lists of what may be leased, and the index that each is to walk in its order.
#[cfg(test)]
pub(crate) const INDEXED: &[(&str, &str)] =
    &[(RIPEN, "tasks_later (not_before<?)"), (LEASABLE.sqlite, "tasks_leasable (node=? AND lane=?)")];

/// Of these, those in two texts.
#[cfg(test)]
pub(crate) const BOTH: &[&Texts] = &[&LEASABLE, &INSERT, &UPDATE];
