//! How the engines mean to run the texts that run all the time: here SQLite, on a server in [`server`].

mod server;
mod texts;

use hostler_db::{Db, Mode};
use serde_json::json;

use crate::{
    store::{MIGRATIONS, ON_A_SERVER},
    task,
};

/// Names of scans that are meant: the batch itself, what an index already narrowed, and indexes of the few that are not as
/// usual.
const MEANT: &[&str] = &[
    "SCAN w",
    "SCAN (subquery",
    "SCAN CONSTANT ROW",
    "SCAN c ",
    "SCAN jsonb_each",
    "SCAN json_each",
    "SCAN tasks USING",
    "USING INDEX nodes_paused",
    "INDEX nodes_draining",
    "INDEX nodes_set_aside",
    "INDEX tasks_unplaced",
    "INDEX nodes_offered",
    "INDEX nodes_revoked",
    "SCAN removed_nodes",
];

fn scans(plan: &[String]) -> Vec<&String> {
    plan.iter().filter(|line| line.contains("SCAN") && !MEANT.iter().any(|meant| line.contains(meant))).collect()
}

/// The text with one parameter, whatever those of its rows are called.
fn unnamed(text: &str) -> String {
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or_default().to_owned();
    let is_named = |c: char| c.is_ascii_lowercase() || c == '_';
    parts.fold(first, |out, part| out + "?1" + part.trim_start_matches(is_named))
}

async fn plan(db: &Db, text: &str) -> Vec<String> {
    let explain: &'static str = format!("EXPLAIN QUERY PLAN {}", unnamed(text)).leak();
    db.read(move |tx| tx.query(explain, &json!([]), |row| row.get(3))).await.unwrap()
}

#[tokio::test]
async fn a_list_by_a_filter_walks_that_filters_index() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    for (text, index) in texts::lists() {
        let plan = plan(&db, text).await;
        assert!(plan.iter().any(|line| line.contains(index)), "{index}: {text}\n{plan:#?}");
        assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{text}\n{plan:#?}");
    }
}

#[tokio::test]
async fn what_has_not_ended_is_listed_without_a_look_at_what_has() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    for text in task::list::OPEN {
        let plan = plan(&db, text).await;
        assert!(plan.iter().any(|line| line.contains("tasks_leased")), "{text}\n{plan:#?}");
        // Along the ids it would come by everything that ever ended.
        assert!(!plan.iter().any(|line| line.contains("(id<?)")), "{text}\n{plan:#?}");
    }
}

#[tokio::test]
async fn what_may_be_leased_is_found_in_its_order_without_a_look_at_what_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    for (text, index) in [task::INDEXED, task::wanted::INDEXED].into_iter().flatten() {
        let plan = plan(&db, text).await;
        assert!(plan.iter().any(|line| line.contains(index)), "{index}: {text}\n{plan:#?}");
        // The few that were found are sorted once more; those that wait are not.
        let sorts = plan.iter().filter(|line| line.contains("TEMP B-TREE")).count();
        assert!(sorts <= usize::from(text.contains("wanted")), "{text}\n{plan:#?}");
    }
}

#[tokio::test]
async fn no_text_that_runs_all_the_time_reads_a_whole_table() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    for text in texts::hot() {
        let plan = plan(&db, text).await;
        assert!(scans(&plan).is_empty(), "{text}\n{plan:#?}");
    }
}

/// What the columns of each table are, in their order and whatever their types are called.
async fn columns(db: &Db, of: &'static str) -> Vec<String> {
    let read = |row: &hostler_db::Row<'_>| {
        let (table, column): (String, String) = (row.get(0)?, row.get(1)?);
        Ok(format!("{table}.{column} {}", row.get::<i64>(2)?))
    };
    let mut columns = db.read(move |tx| tx.query(of, &(), read)).await.unwrap();
    columns.sort();
    columns
}

#[tokio::test]
async fn both_engines_have_the_same_tables_with_the_same_columns() {
    let dir = tempfile::tempdir().unwrap();
    let file = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    let database = hostler_fixture::Postgres::shared().unwrap().database().unwrap();
    let server = Db::postgres(&database.url(), ON_A_SERVER, None).unwrap();
    let in_a_file = columns(
        &file,
        "SELECT m.name, c.name, NOT c.\"notnull\" AND c.pk = 0
           FROM sqlite_master m JOIN pragma_table_info(m.name) c
          WHERE m.type = 'table'",
    )
    .await;
    let on_a_server = columns(
        &server,
        "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), CAST(is_nullable = 'YES' AS INT)
           FROM information_schema.columns
          WHERE table_schema = 'public' AND table_name <> 'hostler_schema'",
    )
    .await;
    assert!(in_a_file.len() > 100);
    assert_eq!(in_a_file, on_a_server);
}

#[tokio::test]
async fn both_engines_have_the_same_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let file = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    let database = hostler_fixture::Postgres::shared().unwrap().database().unwrap();
    let server = Db::postgres(&database.url(), ON_A_SERVER, None).unwrap();
    let names = |db: Db, of: &'static str| async move {
        let mut names: Vec<String> = db.read(move |tx| tx.query(of, &(), |row| row.get(0))).await.unwrap();
        names.sort();
        names
    };
    let in_a_file = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL";
    let on_a_server = "SELECT CAST(c.relname AS TEXT) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                        WHERE c.relnamespace = CAST('public' AS regnamespace)
                          AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)";
    let names = (names(file, in_a_file).await, names(server, on_a_server).await);
    assert!(names.0.len() > 20);
    assert_eq!(names.0, names.1);
}
