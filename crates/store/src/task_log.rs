//! The logs of tasks: lines for people, the last ones of each task.

use std::collections::BTreeMap;

use hostler_db::{Document, Result, Row, Tx};
use hostler_model::{
    TaskId, Timestamp,
    task_log::{Line, NewLine, Tail},
};
use serde::Serialize;
use serde_json::json;

const TAILS: &str = "
SELECT l.task, l.number, l.bytes, l.attempt, l.said, l.at
  FROM jsonb_each(?1) wanted
  JOIN task_log l ON l.task = wanted.value
   AND l.number = (SELECT MAX(m.number) FROM task_log m WHERE m.task = wanted.value)";

fn tails(tx: &Tx<'_>, tasks: &[TaskId]) -> Result<BTreeMap<TaskId, Tail>> {
    let read = |row: &Row<'_>| {
        let tail =
            Tail { number: row.get(1)?, bytes: row.get(2)?, attempt: row.get(3)?, said: row.get(4)?, at: row.get(5)? };
        Ok((row.parse(0)?, tail))
    };
    Ok(tx.query(TAILS, &tasks, read)?.into_iter().collect())
}

const INSERT: &str = "
INSERT INTO task_log (task, number, at, attempt, author, text, said, bytes)
SELECT value->>'task', CAST(value->>'number' AS BIGINT), CAST(value->>'at' AS BIGINT),
       CAST(value->>'attempt' AS BIGINT), value->>'author', value->>'text', CAST(value->>'said' AS BIGINT),
       CAST(value->>'bytes' AS BIGINT)
  FROM jsonb_each(?1)
 WHERE true";

#[derive(Serialize)]
struct Written {
    task: TaskId,
    number: i64,
    at: i64,
    attempt: u32,
    author: hostler_model::task_log::Author,
    text: Document<String>,
    said: i64,
    bytes: i64,
}

const TRIM: &str = "
DELETE FROM task_log
 WHERE (task, number) IN (
       SELECT l.task, l.number
         FROM jsonb_each(?1) wanted
         JOIN task_log l ON l.task = wanted.value->>'task'
          AND (l.number <= CAST(wanted.value->>'number' AS BIGINT)
               OR l.bytes <= CAST(wanted.value->>'bytes' AS BIGINT)))";

/// Adds lines to the ends of their tasks' logs, and drops from their beginnings what is too much.
pub(crate) fn append(tx: &Tx<'_>, new: &[NewLine], now: Timestamp) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let mut tasks: Vec<TaskId> = new.iter().map(|line| line.task).collect();
    tasks.sort();
    tasks.dedup();
    let mut tails = tails(tx, &tasks)?;
    let mut rows = Vec::new();
    for line in new {
        let tail = tails.entry(line.task).or_default();
        let mut bytes = tail.bytes;
        for Line { number, at, attempt, by, text } in tail.add(line, now) {
            bytes += i64::try_from(text.len()).unwrap_or(i64::MAX);
            let (at, said) = (at.as_micros(), tail.said);
            rows.push(Written { task: line.task, number, at, attempt, author: by, text: Document(text), said, bytes });
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    tx.put(INSERT, &rows)?;
    let too_long = |(task, tail): (&TaskId, &Tail)| {
        tail.dropped().map(|(number, bytes)| json!({"task": task, "number": number, "bytes": bytes}))
    };
    let long: Vec<_> = tails.iter().filter_map(too_long).collect();
    if !long.is_empty() {
        tx.put(TRIM, &long)?;
    }
    Ok(())
}

const AFTER: &str = "
SELECT number, at, attempt, author, text
  FROM task_log
 WHERE task = ?1->>'task' AND number > CAST(?1->>'after' AS BIGINT)
 ORDER BY number
 LIMIT CAST(?1->>'limit' AS BIGINT)";

/// Lines of a task with a number above `after`, oldest first.
pub(crate) fn after(tx: &Tx<'_>, task: TaskId, after: i64, limit: usize) -> Result<Vec<Line>> {
    tx.query(AFTER, &json!({"task": task, "after": after, "limit": limit}), |row| {
        Ok(Line {
            number: row.get(0)?,
            at: Timestamp::from_micros(row.get(1)?),
            attempt: row.get(2)?,
            by: row.word(3)?,
            text: row.json(4)?,
        })
    })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[TAILS, TRIM, AFTER, INSERT];
