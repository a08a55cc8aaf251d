//! How SQLite means to run the texts that run all the time.

use hostler_db::{Db, Mode};
use serde_json::json;

use crate::{
    allocation, idempotency, image, import, log, node, secret, snapshot, store::MIGRATIONS, task, task_log, tenant,
    token, vm,
};

/// Names of scans that are meant: the batch itself, and what an index already narrowed.
const MEANT: &[&str] = &["SCAN wanted", "SCAN c ", "SCAN jsonb_each", "SCAN json_each", "SCAN tasks USING"];

fn scans(plan: &[String]) -> Vec<&String> {
    plan.iter().filter(|line| line.contains("SCAN") && !MEANT.iter().any(|meant| line.contains(meant))).collect()
}

async fn plan(db: &Db, text: &str) -> Vec<String> {
    let explain: &'static str = format!("EXPLAIN QUERY PLAN {text}").leak();
    db.read(move |tx| tx.query(explain, &json!([]), |row| row.get(3))).await.unwrap()
}

#[tokio::test]
async fn a_list_by_a_filter_walks_that_filters_index() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    for (text, index) in
        [vm::INDEXED, snapshot::INDEXED, log::INDEXED, task::list::INDEXED, task::later::INDEXED].into_iter().flatten()
    {
        let plan = plan(&db, text).await;
        assert!(plan.iter().any(|line| line.contains(index)), "{index}: {text}\n{plan:#?}");
        assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{text}\n{plan:#?}");
    }
}

#[tokio::test]
async fn what_may_be_leased_is_found_in_its_order_without_a_look_at_what_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    for (text, index) in task::INDEXED {
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
    let texts = [
        task::HOT,
        task::list::HOT,
        task::stats::HOT,
        task::later::HOT,
        task::bound::HOT,
        task::outbox::HOT,
        task_log::HOT,
        vm::HOT,
        snapshot::HOT,
        allocation::HOT,
        log::HOT,
        tenant::HOT,
        node::HOT,
        idempotency::HOT,
        token::HOT,
        image::HOT,
        import::HOT,
        secret::HOT,
    ];
    for text in texts.into_iter().flatten() {
        let plan = plan(&db, text).await;
        assert!(scans(&plan).is_empty(), "{text}\n{plan:#?}");
    }
}
