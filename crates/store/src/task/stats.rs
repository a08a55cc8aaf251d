//! Statistics of tasks. What has not ended is looked at, by the indexes that leave out all that has; what happens is
//! counted by the steps as they do it, each counter once for a whole batch, and never looked for in the history.
//!
//! ```text
//! a step: count, count, count ──► one row for each (minute, tenant, node, kind, what, about how long)
//! an hour later                ──► the same without minute and node: counters only grow
//! ```

use std::{collections::BTreeMap, time::Duration};

use hostler_db::{Result, Row, Tx};
use hostler_model::{
    NodeId, TaskId, TenantId, Timestamp,
    kind::KindName,
    name::Name,
    stats::{Fact, Known, TaskStats, Took, WINDOWS, What, first_minute, minute},
    task::{Life, Task, TaskState},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::list::{Held, waits_for};
use crate::{Counter, StatsFilter, work::Work};

/// How many minutes one pass takes out of those that are told one by one.
const PIECE: i64 = 30;

/// What is counted apart.
type Key = (TenantId, Option<NodeId>, KindName, What, Took);

/// What a step has counted: how many, and their milliseconds in all.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<Key, (i64, i64)>);

impl Counts {
    fn add(&mut self, task: &Task, what: What, took: Option<Duration>) {
        let step = took.map_or(Took::UNKNOWN, Took::of);
        let counted = self.0.entry((task.tenant, task.node, task.kind, what, step)).or_default();
        counted.0 += 1;
        counted.1 += took.map_or(0, |took| i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
    }
}

impl Work<'_> {
    /// A task was written down.
    pub(crate) fn count_submitted(&mut self, task: &Task) {
        self.counts.add(task, What::Submitted, None);
    }

    /// A task changed, and has not ended.
    pub(crate) fn count_change(&mut self, id: TaskId, before: &Life) {
        let Some(row) = self.tasks.get(&id) else { return };
        match (before.state, row.task.state) {
            (TaskState::Queued, TaskState::Running) => {
                self.counts.add(&row.task, What::Started, Some(self.now.since(before.not_before)));
            }
            (TaskState::Running, TaskState::Queued) => self.counts.add(&row.task, What::Retried, None),
            _ => {}
        }
    }

    /// A task ended.
    pub(crate) fn count_end(&mut self, task: &Task) {
        let took = task.started_at.zip(task.finished_at).map(|(began, ended)| ended.since(began));
        if let Some(what) = What::end(task.state) {
            self.counts.add(task, what, took);
        }
    }
}

const ADD: &str = "
INSERT INTO task_stats (minute, tenant, node, kind, what, took, tasks, ms)
SELECT CAST(value->>'minute' AS BIGINT), value->>'tenant', value->>'node', value->>'kind', value->>'what',
       CAST(value->>'took' AS BIGINT), CAST(value->>'tasks' AS BIGINT), CAST(value->>'ms' AS BIGINT)
  FROM jsonb_each(?1)
 WHERE true
    ON CONFLICT (minute, tenant, node, kind, what, took) DO UPDATE
   SET tasks = task_stats.tasks + excluded.tasks, ms = task_stats.ms + excluded.ms";

#[derive(Serialize)]
struct Added {
    minute: i64,
    tenant: TenantId,
    node: String,
    kind: KindName,
    what: What,
    took: u8,
    tasks: i64,
    ms: i64,
}

/// Adds what a step has counted.
pub(crate) fn add(tx: &Tx<'_>, counts: &Counts, now: Timestamp) -> Result<()> {
    let minute = minute(now);
    let row = |(&(tenant, node, kind, what, took), &(tasks, ms)): (&Key, &(i64, i64))| Added {
        minute,
        tenant,
        node: node.map(|node| node.to_string()).unwrap_or_default(),
        kind,
        what,
        took: took.number(),
        tasks,
        ms,
    };
    let batch: Vec<Added> = counts.0.iter().map(row).collect();
    if !batch.is_empty() {
        tx.put(ADD, &batch)?;
    }
    Ok(())
}

const FOLD: &str = "
INSERT INTO task_stats (minute, tenant, node, kind, what, took, tasks, ms)
SELECT 0, tenant, '', kind, what, took, SUM(tasks), SUM(ms)
  FROM task_stats
 WHERE minute > 0 AND minute < CAST(?1->>'before' AS BIGINT)
 GROUP BY tenant, kind, what, took
    ON CONFLICT (minute, tenant, node, kind, what, took) DO UPDATE
   SET tasks = task_stats.tasks + excluded.tasks, ms = task_stats.ms + excluded.ms";

const FOLDED: &str = "DELETE FROM task_stats WHERE minute > 0 AND minute < CAST(?1->>'before' AS BIGINT)";

const FIRST: &str = "SELECT MIN(minute) FROM task_stats WHERE minute > 0";

/// Adds minutes that are no longer told one by one to what is told of all time, and takes them away; how many rows that
/// were, and whether there may be more.
pub(crate) fn fold(tx: &Tx<'_>, now: Timestamp) -> Result<(usize, bool)> {
    let first: Option<Option<i64>> = tx.query_one(FIRST, &json!([]), |row| row.get(0))?;
    let over = first_minute(WINDOWS[WINDOWS.len() - 1], now);
    let Some(first) = first.flatten().filter(|first| *first < over) else { return Ok((0, false)) };
    let before = over.min(first + PIECE);
    tx.put(FOLD, &json!({"before": before}))?;
    Ok((tx.execute(FOLDED, &json!({"before": before}))?, before < over))
}

const LIVE: &str = concat!(
    "
SELECT t.kind, t.node, t.state, t.not_before > CAST(?1->>'now' AS BIGINT), ",
    waits!(),
    ", COUNT(*), MIN(t.not_before)
  FROM tasks t
 WHERE ",
    has_not_ended!(),
    "
   AND (?1->>'tenant' IS NULL OR t.tenant = ?1->>'tenant')
 GROUP BY 1, 2, 3, 4, 5, 6"
);

/// What has not ended, of one tenant or of all.
pub(crate) fn live(tx: &Tx<'_>, tenant: Option<TenantId>, now: Timestamp) -> Result<Vec<Fact>> {
    tx.query(LIVE, &json!({"tenant": tenant, "now": now.as_micros()}), |row| {
        let node = row.parse_opt(1)?;
        let held = Held { turn: row.get(4)?, paused: row.get(5)?, unplaced: node.is_none() };
        let state = row.word(2)?;
        let known = Known::Live {
            state,
            waiting_for: waits_for(state, row.get(3)?, held),
            tasks: row.get(6)?,
            since: Timestamp::from_micros(row.get(7)?),
        };
        Ok(Fact { kind: row.parse(0)?, node, known })
    })
}

const DEAD: &str = "
SELECT kind, node, COUNT(*) FROM tasks WHERE dead_letter = 'waiting' GROUP BY kind, node";

const DEAD_OF: &str = "
SELECT kind, node, COUNT(*)
  FROM tasks
 WHERE dead_letter = 'waiting' AND tenant = ?1->>'tenant'
 GROUP BY kind, node";

/// What was given up and waits for somebody to decide.
pub(crate) fn dead(tx: &Tx<'_>, tenant: Option<TenantId>) -> Result<Vec<Fact>> {
    let (sql, wanted) = match tenant {
        Some(tenant) => (DEAD_OF, json!({"tenant": tenant})),
        None => (DEAD, json!({})),
    };
    tx.query(sql, &wanted, |row| {
        Ok(Fact { kind: row.parse(0)?, node: row.parse_opt(1)?, known: Known::Dead(row.get(2)?) })
    })
}

const COUNTED: &str = "
SELECT kind, node, what, took,
       CAST(SUM(CASE WHEN minute >= CAST(?1->>'first' AS BIGINT) THEN tasks ELSE 0 END) AS BIGINT),
       CAST(SUM(CASE WHEN minute >= CAST(?1->>'second' AS BIGINT) THEN tasks ELSE 0 END) AS BIGINT),
       CAST(SUM(tasks) AS BIGINT)
  FROM task_stats
 WHERE minute BETWEEN CAST(?1->>'third' AS BIGINT) AND CAST(?1->>'now' AS BIGINT)
   AND (?1->>'tenant' IS NULL OR tenant = ?1->>'tenant')
 GROUP BY kind, node, what, took";

fn counted(tx: &Tx<'_>, tenant: Option<TenantId>, now: Timestamp) -> Result<Vec<Fact>> {
    let [first, second, third] = WINDOWS.map(|window| first_minute(window, now));
    // Minutes after now's are of before the clock stepped back.
    let wanted = json!({"first": first, "second": second, "third": third, "now": minute(now), "tenant": tenant});
    tx.query(COUNTED, &wanted, |row| {
        let tasks = [row.get(4)?, row.get(5)?, row.get(6)?];
        let known = Known::Counted { what: row.word(2)?, took: Took::from_number(row.get(3)?), tasks };
        Ok(Fact { kind: row.parse(0)?, node: node(row, 1)?, known })
    })
}

fn node(row: &Row<'_>, column: usize) -> Result<Option<NodeId>> {
    match row.get::<String>(column)?.is_empty() {
        true => Ok(None),
        false => row.parse(column).map(Some),
    }
}

const NODES: &str = "SELECT id, name, paused_at IS NOT NULL FROM nodes WHERE id IN (SELECT value FROM jsonb_each(?1))";

/// Statistics as people see them.
pub(crate) fn read(tx: &Tx<'_>, of: &StatsFilter, now: Timestamp) -> Result<TaskStats> {
    let mut facts = live(tx, of.tenant, now)?;
    facts.extend(dead(tx, of.tenant)?);
    facts.extend(counted(tx, of.tenant, now)?);
    facts.retain(|fact| of.kind.is_none_or(|kind| fact.kind == kind));
    facts.retain(|fact| of.node.is_none_or(|node| fact.node == Some(node)));
    let mut stats = TaskStats::of(now, &facts);
    let ids: Vec<NodeId> = stats.nodes.iter().map(|figures| figures.node).collect();
    let known: BTreeMap<NodeId, (Name, bool)> =
        tx.query(NODES, &ids, |row| Ok((row.parse(0)?, (row.parse(1)?, row.get(2)?))))?.into_iter().collect();
    for figures in &mut stats.nodes {
        if let Some((name, paused)) = known.get(&figures.node) {
            (figures.name, figures.paused) = (Some(name.clone()), *paused);
        }
    }
    Ok(stats)
}

const TOTALS: &str = "
SELECT kind, what, took, CAST(SUM(tasks) AS BIGINT), CAST(SUM(ms) AS BIGINT)
  FROM task_stats
 GROUP BY kind, what, took";

/// What was ever counted, of all tenants and nodes.
pub(crate) fn totals(tx: &Tx<'_>) -> Result<Vec<Counter>> {
    tx.query(TOTALS, &Value::Null, |row| {
        Ok(Counter {
            kind: row.parse(0)?,
            what: row.word(1)?,
            took: Took::from_number(row.get(2)?),
            tasks: row.get(3)?,
            ms: row.get(4)?,
        })
    })
}

/// Texts that run all the time: none may read a whole table. [`TOTALS`] does, of counters: an hour's and no more.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[FOLD, FOLDED, FIRST, LIVE, DEAD, DEAD_OF, COUNTED, NODES, ADD];
