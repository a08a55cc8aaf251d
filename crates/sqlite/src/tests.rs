//! The writer's promises.

use serde_json::json;

use super::*;

const MIGRATIONS: Migrations = &["CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"];

fn open(dir: &tempfile::TempDir) -> Sqlite {
    Sqlite::open(&dir.path().join("t.db"), Mode::Threads, MIGRATIONS).unwrap()
}

fn insert(tx: &Tx<'_>, numbers: &[i64]) -> Result<usize> {
    tx.execute("INSERT INTO t SELECT value FROM json_each(?1)", &json!(numbers))
}

async fn all(db: &Sqlite) -> Vec<i64> {
    db.read(|tx| tx.query("SELECT n FROM t ORDER BY n", &json!(null), |row| row.get(0))).await.unwrap()
}

#[tokio::test]
async fn a_step_that_fails_takes_nothing_else_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let good = db.write("t", |tx| insert(tx, &[1, 2]));
    let bad = db.write("t", |tx| insert(tx, &[3, 1]));
    let other = db.write("t", |tx| insert(tx, &[4]));
    let (good, bad, other) = tokio::join!(good, bad, other);
    assert_eq!((good.unwrap(), other.unwrap()), (2, 1));
    assert!(bad.is_err());
    assert_eq!(all(&db).await, [1, 2, 4]);
}

#[tokio::test]
async fn a_panic_in_a_step_is_that_steps_failure_only() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let panicked: Result<()> = db
        .write("t", |tx| {
            insert(tx, &[1])?;
            panic!("on purpose");
        })
        .await;
    assert!(panicked.unwrap_err().to_string().contains("on purpose"));
    db.write("t", |tx| insert(tx, &[2])).await.unwrap();
    assert_eq!(all(&db).await, [2]);
}

#[tokio::test]
async fn what_was_answered_is_there_for_the_next_who_opens_the_file() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).write("t", |tx| insert(tx, &[7])).await.unwrap();
    assert_eq!(all(&open(&dir)).await, [7]);
}

#[tokio::test]
async fn a_file_of_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let error = Sqlite::open(&dir.path().join("t.db"), Mode::Inline, &[]).unwrap_err();
    assert!(error.to_string().contains("newer"));
}

#[test]
fn a_full_disk_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let db = Sqlite::open(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let full = rt.block_on(db.write("t", |tx| {
        tx.script("PRAGMA max_page_count = 3")?;
        insert(tx, &(0..100_000).collect::<Vec<_>>())
    }));
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
}
