//! Tasks as people see them: one, or a page of a list by one of several indexes.

use hostler_db::{Result, Row, Texts, Tx};
use hostler_model::{
    TaskId, Timestamp,
    task::{Task, TaskState, WaitingFor},
};
use serde_json::json;

use super::{COLUMNS, read};
use crate::TaskFilter;

const ONE: &str = concat!(
    "
SELECT ",
    columns!(),
    ", ",
    waits!(),
    "
  FROM tasks t
 WHERE t.id = ?1->>'id'"
);

/// One task as people see it.
pub(crate) fn one(tx: &Tx<'_>, id: TaskId, now: Timestamp) -> Result<Option<Task>> {
    tx.query_one(ONE, &json!({"id": id}), |row| shown(row, now))
}

/// What every list of tasks filters by beside its own index. An id has no letter above `f`.
macro_rules! filters {
    () => {
        "   AND t.id < COALESCE(?1->>'before', 'g')
   AND (?1->>'tenant' IS NULL OR t.tenant = ?1->>'tenant')
   AND (?1->>'state' IS NULL OR t.state = ?1->>'state')
   AND (?1->>'kind' IS NULL OR t.kind = ?1->>'kind')
   AND (?1->>'vm' IS NULL OR t.vm = ?1->>'vm')
   AND (?1->>'code' IS NULL OR t.code = ?1->>'code')
 ORDER BY t.id DESC
 LIMIT CAST(?1->>'limit' AS BIGINT)"
    };
}

const ALL: &str = concat!(
    "
SELECT ",
    columns!(),
    ", ",
    waits!(),
    "
  FROM tasks t
 WHERE true
",
    filters!()
);

const OF_TENANT: &str = concat!(
    "
SELECT ",
    columns!(),
    ", ",
    waits!(),
    "
  FROM tasks t
 WHERE t.tenant = ?1->>'tenant'
",
    filters!()
);

const OF_VM: &str = concat!(
    "
SELECT ",
    columns!(),
    ", ",
    waits!(),
    "
  FROM tasks t
 WHERE t.vm = ?1->>'vm' AND t.vm IS NOT NULL
",
    filters!()
);

const WITH_CODE: &str = concat!(
    "
SELECT ",
    columns!(),
    ", ",
    waits!(),
    "
  FROM tasks t
 WHERE t.code = ?1->>'code' AND t.code IS NOT NULL
",
    filters!()
);

const DEAD: &str = concat!(
    "
SELECT ",
    columns!(),
    ", ",
    waits!(),
    "
  FROM tasks t
 WHERE t.dead_letter = 'waiting' AND t.tenant = ?1->>'tenant'
",
    filters!()
);

macro_rules! leased {
    ($tasks:literal) => {
        concat!(
            "
SELECT ",
            columns!(),
            ", ",
            waits!(),
            "
  FROM ",
            $tasks,
            "
 WHERE t.lease_until IS NOT NULL
",
            filters!()
        )
    };
}

/// What a node holds: those that run, and some that are to be undone. Left to itself SQLite takes the order of the ids, and
/// where few are held it reads all that ever ended to find them.
const LEASED: Texts = Texts { sqlite: leased!("tasks t INDEXED BY tasks_leased"), postgres: leased!("tasks t") };

const LIVE: Texts = Texts {
    sqlite: concat!(
        "
SELECT ",
        columns!(),
        ", ",
        waits!(),
        "
  FROM tasks t
 WHERE ",
        has_not_ended!(),
        "
",
        filters!()
    ),
    // The other text would compare each task, from the newest on, with each that has not ended.
    postgres: concat!(
        "
SELECT ",
        columns!(),
        ", ",
        waits!(),
        "
  FROM (SELECT * FROM tasks WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 1
        UNION ALL
        SELECT * FROM tasks WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 0
        UNION ALL
        SELECT * FROM tasks WHERE lease_until IS NOT NULL) t
 WHERE true
",
        filters!()
    ),
};

/// A page of tasks, newest first.
pub(crate) fn list(
    tx: &Tx<'_>,
    filter: &TaskFilter,
    before: Option<TaskId>,
    limit: usize,
    now: Timestamp,
) -> Result<Vec<Task>> {
    let sql = match filter {
        TaskFilter { dead: true, .. } => DEAD,
        TaskFilter { vm: Some(_), .. } => OF_VM,
        TaskFilter { code: Some(_), .. } => WITH_CODE,
        TaskFilter { state: Some(TaskState::Running), .. } => tx.pick(&LEASED),
        TaskFilter { state: Some(state), .. } if !state.is_terminal() => tx.pick(&LIVE),
        TaskFilter { tenant: Some(_), .. } => OF_TENANT,
        _ => ALL,
    };
    let wanted = json!({
        "tenant": filter.tenant, "state": filter.state, "kind": filter.kind, "vm": filter.vm, "code": filter.code,
        "before": before, "limit": limit,
    });
    tx.query(sql, &wanted, |row| shown(row, now))
}

fn shown(row: &Row<'_>, now: Timestamp) -> Result<Task> {
    let (turn, paused) = (row.get(COLUMNS)?, row.get(COLUMNS + 1)?);
    let mut task = read(row)?.task;
    task.waiting_for = waiting_for(&task, Held { turn, paused }, now);
    Ok(task)
}

/// What keeps a queued task, beside its time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// An earlier change of its VM.
    pub(crate) turn: bool,
    /// Its node's queue is paused.
    pub(crate) paused: bool,
}

/// What a queued task waits for.
pub(crate) fn waiting_for(task: &Task, held: Held, now: Timestamp) -> Option<WaitingFor> {
    waits_for(task.state, task.not_before > now, held)
}

/// What a task in this state waits for; `early`: its time has not come.
pub(super) fn waits_for(state: TaskState, early: bool, held: Held) -> Option<WaitingFor> {
    match state {
        TaskState::Queued if early => Some(WaitingFor::Time),
        TaskState::Queued if held.turn => Some(WaitingFor::Turn),
        TaskState::Queued if held.paused => Some(WaitingFor::Paused),
        TaskState::Queued => Some(WaitingFor::Node),
        TaskState::Running | TaskState::Aborting | TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => {
            None
        }
    }
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[ONE, OF_TENANT, OF_VM, WITH_CODE, DEAD, LEASED.sqlite, LIVE.sqlite, ALL];

/// Lists, and the index that each is to walk.
#[cfg(test)]
pub(crate) const INDEXED: &[(&str, &str)] = &[
    (OF_TENANT, "tasks_by_tenant (tenant=? AND id<?)"),
    (OF_VM, "tasks_by_vm (vm=? AND id<?)"),
    (WITH_CODE, "tasks_by_code (code=? AND id<?)"),
    (DEAD, "tasks_dead (tenant=? AND id<?)"),
];

/// Lists of what has not ended.
#[cfg(test)]
pub(crate) const OPEN: &[&str] = &[LIVE.sqlite, LEASED.sqlite];

/// Of these, those in two texts.
#[cfg(test)]
pub(crate) const BOTH: &[&Texts] = &[&LIVE, &LEASED];
