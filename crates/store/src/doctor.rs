//! The doctor: recomputes what is kept twice (the books, the chain) and looks for what must not be. It changes nothing.

use std::collections::BTreeMap;

use hostler_db::{Result, Tx};
use hostler_model::{
    api::{Check, Diagnosis},
    book::{Book, recompute},
    chain::{BEGINNING, Line, Walk},
};

use crate::{
    allocation,
    chain::{self, Eyes},
    node, tenant,
};

/// Links that are read at once.
const PIECE: usize = 2000;

/// How many wrongs of the chain are told; `hostler audit verify` tells all.
const TOLD: usize = 10;

/// Looks at everything, in one state of the store.
pub(crate) fn examine(tx: &Tx<'_>) -> Result<Diagnosis> {
    let sums = recompute(&allocation::all(tx)?);
    Ok(Diagnosis {
        checks: vec![
            books("the tenants' books", &tenant::books(tx)?, &sums.tenants),
            books("the nodes' books", &node::books(tx)?, &sums.nodes),
            owners(tx)?,
            log_chain(tx)?,
            found(
                tx,
                "one change at a time on each VM",
                RIVALS,
                "VMs with two changes under way",
                "cancel one of them",
            )?,
            found(
                tx,
                "machines that run are charged as such",
                UNCHARGED,
                "machines that run and are not charged",
                "report this fault",
            )?,
            found(tx, "running tasks have leases", LEASELESS, "running without a lease", "restore from a backup")?,
            found(
                tx,
                "VMs name the change under way",
                MISNAMED,
                "VMs that name a task that has ended",
                "report this fault",
            )?,
        ],
    })
}

/// Counters against the sums of what exists.
fn books<K: Ord + std::fmt::Display>(name: &str, kept: &BTreeMap<K, Book>, sums: &BTreeMap<K, Book>) -> Check {
    let none = Book::default();
    let keys = kept.keys().chain(sums.keys().filter(|key| !kept.contains_key(key)));
    let wrong: Vec<String> = keys
        .filter(|key| kept.get(key).unwrap_or(&none) != sums.get(key).unwrap_or(&none))
        .map(ToString::to_string)
        .collect();
    if wrong.is_empty() {
        return Check::new(name, true, format!("{} counters equal the sums of the allocations", kept.len()));
    }
    let advice = "compare with `hostler vm list` and restore the last backup whose doctor was well";
    Check::new(
        name,
        false,
        format!("counters that differ from the sums of the allocations: {}; {advice}", wrong.join(", ")),
    )
}

fn owners(tx: &Tx<'_>) -> Result<Check> {
    let name = "allocations have owners";
    let orphaned: Vec<String> =
        allocation::orphaned(tx)?.into_iter().map(|(noun, id)| format!("{noun} {id}")).collect();
    Ok(if orphaned.is_empty() {
        Check::new(name, true, "every allocation belongs to something that exists")
    } else {
        Check::new(name, false, format!("charged for what does not exist: {}; report this fault", orphaned.join(", ")))
    })
}

/// The log from its beginning: no number missing, every link as it must be.
fn log_chain(tx: &Tx<'_>) -> Result<Check> {
    let (name, walk) = ("the log's chain", walk(tx)?);
    Ok(match walk.wrongs() {
        [] => Check::new(name, true, format!("{} entries in {} links verify", walk.stand().seq, walk.links())),
        wrongs => {
            let (told, more) = wrongs.split_at(wrongs.len().min(TOLD));
            let more = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
            let advice = "the log was changed outside hostler: keep this file and compare it with a backup";
            Check::new(name, false, format!("{}{more}; {advice}", told.join("; ")))
        }
    })
}

/// The chain from its beginning to its end. What was signed is verified by whoever has the authority's certificate
/// (`hostler audit verify`).
fn walk(tx: &Tx<'_>) -> Result<Walk> {
    let mut walk = Walk::from(BEGINNING);
    loop {
        let lines = chain::lines(tx, Eyes::Doctor, walk.stand().seq, PIECE)?;
        for line in lines {
            match line {
                Line::From(_) | Line::Checkpoint(_) => {}
                Line::Link(link) => walk.link(&link),
                Line::Stray(entries) => walk.stray(&entries),
                Line::End(head) => {
                    walk.end(head);
                    return Ok(walk);
                }
            }
        }
    }
}

const RIVALS: &str = "
SELECT vm
  FROM tasks
 WHERE vm IS NOT NULL AND state IN ('queued', 'running', 'aborting') AND turn IN ('exclusive', 'final')
   AND lease_until IS NOT NULL
 GROUP BY vm
HAVING COUNT(*) > 1
 LIMIT 20";

const LEASELESS: &str = "
SELECT id
  FROM tasks
 WHERE (state = 'running' AND lease_until IS NULL)
    OR (lease_until IS NOT NULL AND state NOT IN ('running', 'aborting'))
 LIMIT 20";

const UNCHARGED: &str = "
SELECT v.id
  FROM vms v
  LEFT JOIN allocations a ON a.noun = 'vm' AND a.id = v.id
 WHERE v.state IN ('running', 'paused') AND COALESCE(a.running_vms, 0) <> 1
 LIMIT 20";

const MISNAMED: &str = "
SELECT v.id
  FROM vms v
  LEFT JOIN tasks t ON t.id = v.task
 WHERE v.task IS NOT NULL AND (t.id IS NULL OR t.state IN ('succeeded', 'failed', 'cancelled'))
 LIMIT 20";

/// Rows that must not be.
fn found(tx: &Tx<'_>, name: &str, sql: &'static str, what: &str, advice: &str) -> Result<Check> {
    let ids: Vec<String> = tx.query(sql, &(), |row| row.get(0))?;
    Ok(if ids.is_empty() {
        Check::new(name, true, "so it is")
    } else {
        Check::new(name, false, format!("{what}: {}; {advice}", ids.join(", ")))
    })
}

/// Texts that run all the time: none may read a whole table.
#[cfg(test)]
pub(crate) const HOT: &[&str] = &[RIVALS];
