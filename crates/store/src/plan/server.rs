//! How PostgreSQL means to run the texts that run all the time, over a long history.

use hostler_db::{Db, Tx, as_sent};

use super::texts;
use crate::store::ON_A_SERVER;

const HISTORY: &str = include_str!("history.sql");

/// Indexes that have what has not ended, or is not as usual, and nothing else: they may be walked whole.
const SHORT: &[&str] = &[
    "tasks_leasable",
    "tasks_later",
    "tasks_leased",
    "tasks_on_vm",
    "tasks_dead",
    "tasks_in_backoff",
    "nodes_paused",
    "nodes_draining",
    "nodes_set_aside",
    "tasks_unplaced",
    "nodes_offered",
    "nodes_revoked",
    "removed_nodes_pkey",
    "imports_running",
];

/// Tables of one row, or of a few.
const SMALL: &[&str] = &["log_head", "removed_nodes"];

/// The plan that a session of ours makes once for a text and keeps.
fn plan(tx: &Tx<'_>, number: usize, text: &'static str) -> hostler_db::Result<Vec<String>> {
    let (text, types) = as_sent(text);
    let listed = |words: Vec<&str>| if words.is_empty() { String::new() } else { format!("({})", words.join(", ")) };
    let empty = |kind: &String| if kind == "jsonb" { "'[]'" } else { "'{}'" };
    let (types, given) =
        (listed(types.iter().map(String::as_str).collect()), listed(types.iter().map(empty).collect()));
    tx.script(&format!("PREPARE text_{number} {types} AS {text}"))?;
    let explain: &'static str = format!("EXPLAIN EXECUTE text_{number} {given}").leak();
    tx.query(explain, &(), |row| row.get(0))
}

/// Steps of a plan that come across every row of a table, or every entry of an index that is as long as one.
fn whole_reads(plan: &[String]) -> Vec<&str> {
    let is_step = |line: &str| line.contains("(cost=");
    let steps = plan.iter().enumerate().filter(|(_, line)| is_step(line));
    let whole = steps.filter(|&(number, line)| {
        let conditions = plan[number + 1..].iter().take_while(|line| !is_step(line));
        let bounded = conditions.clone().any(|line| line.trim_start().starts_with("Index Cond"));
        let of = |word: &str| line.split_once(word).map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
        match (of("Seq Scan on "), of("Scan using "), of("Bitmap Index Scan on ")) {
            (Some(table), ..) => !SMALL.contains(&table),
            (_, Some(index), _) | (.., Some(index)) => !bounded && !SHORT.contains(&index),
            (None, None, None) => false,
        }
    });
    whole.map(|(_, line)| line.trim()).collect()
}

/// What a session of ours means to do for each of these texts, over a long history.
async fn plans(texts: Vec<&'static str>) -> Vec<(&'static str, Vec<String>)> {
    let database = hostler_fixture::Postgres::shared().unwrap().database().unwrap();
    let db = Db::postgres(&database.url(), ON_A_SERVER, None).unwrap();
    database.run(HISTORY).unwrap();
    let explained = db.read(move |tx| {
        let each = texts.into_iter().enumerate().map(|(number, text)| Ok((text, plan(tx, number, text)?)));
        each.collect::<hostler_db::Result<Vec<_>>>()
    });
    explained.await.unwrap()
}

#[tokio::test]
async fn no_text_that_runs_all_the_time_reads_a_whole_table() {
    let plans = plans(texts::hot().map(texts::on_a_server).collect()).await;
    let bad = plans.iter().filter(|(_, plan)| !whole_reads(plan).is_empty());
    let told: Vec<String> =
        bad.map(|(text, plan)| format!("{text}\n\n{}\n{:#?}\n", plan.join("\n"), whole_reads(plan))).collect();
    assert!(told.is_empty(), "{} of {}:\n{}", told.len(), plans.len(), told.join("\n--\n"));
}

#[tokio::test]
async fn a_list_by_a_filter_walks_that_filters_index_though_tenants_are_few() {
    let plans = plans(texts::lists().map(|(text, _)| texts::on_a_server(text)).collect()).await;
    for ((_, index), (text, plan)) in texts::lists().zip(plans) {
        let walk = format!("using {} ", index.split(' ').next().unwrap_or_default());
        assert!(plan.iter().any(|line| line.contains(&walk)), "{index}: {text}\n{plan:#?}");
        assert!(!plan.iter().any(|line| line.contains("Sort")), "{text}\n{plan:#?}");
    }
}

#[tokio::test]
async fn a_plan_that_reads_a_whole_table_is_noticed() {
    let texts = ["SELECT id FROM tasks WHERE created_by = ?1->>'by'", "SELECT COUNT(*) FROM tasks t"];
    let whole = plans(texts.to_vec()).await;
    assert!(whole.iter().all(|(_, plan)| !whole_reads(plan).is_empty()), "{whole:#?}");
}
