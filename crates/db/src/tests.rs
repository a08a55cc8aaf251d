//! The writer's promises.

use serde_json::json;

use super::*;

const MIGRATIONS: Migrations = &["CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"];

fn open(dir: &tempfile::TempDir) -> Db {
    Db::sqlite(&dir.path().join("t.db"), Mode::Threads, MIGRATIONS).unwrap()
}

fn insert(tx: &Tx<'_>, numbers: &[i64]) -> Result<usize> {
    tx.execute("INSERT INTO t SELECT value FROM json_each(?1)", &json!(numbers))
}

async fn all(db: &Db) -> Vec<i64> {
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
async fn rows_are_bound_by_the_names_of_their_fields_and_what_does_not_fit_is_refused() {
    const PUT: Texts = Texts::of_a_file("INSERT INTO t (n) VALUES (:n + :more)");
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let put = |rows: Vec<serde_json::Value>| db.write("t", move |tx| tx.put_each(&PUT, &rows));
    put(vec![json!({"more": 1, "n": 1, "unnamed": "?"}), json!({"more": 1, "n": 2, "unnamed": null})]).await.unwrap();
    for rows in [
        vec![json!({"n": 5})],
        vec![json!({"more": 0, "n": 5}), json!({"more": 1})],
        vec![json!({"more": 0, "n": 5}), json!({"more": 0, "other": 1})],
        vec![json!({"more": 0, "n": [5]})],
        vec![json!([5, 0])],
    ] {
        let error = put(rows.clone()).await.unwrap_err().to_string();
        assert!(error.contains("cannot be bound"), "{rows:?}: {error}");
    }
    assert_eq!(all(&db).await, [2, 3]);
}

#[tokio::test]
async fn a_part_of_a_step_that_fails_leaves_nothing_and_the_step_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let step = db.write("t", |tx| {
        insert(tx, &[1])?;
        let failed = tx.part(|tx| insert(tx, &[2]).and_then(|_| insert(tx, &[1]))).is_err();
        tx.part(|tx| insert(tx, &[3]))?;
        Ok(failed)
    });
    assert!(step.await.unwrap());
    assert_eq!(all(&db).await, [1, 3]);
    let fatal = db.write("t", |tx| {
        let gone = tx.part(|tx| tx.execute("INSERT OR ROLLBACK INTO t VALUES (1)", &()));
        Ok(gone.is_err_and(|error| error.is_outage()))
    });
    assert!(matches!(fatal.await, Err(Error::Lost(_))), "nothing may be written after it");
    assert_eq!(all(&db).await, [1, 3]);
}

#[tokio::test]
async fn a_file_of_other_tables_is_refused_and_a_later_program_adds_its_own() {
    const OTHER: Migrations = &["CREATE TABLE t (n INTEGER PRIMARY KEY, more TEXT) STRICT"];
    const LATER: Migrations = &["CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT", "CREATE TABLE u (n INTEGER) STRICT"];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    drop(open(&dir));
    let refused = |with| Db::sqlite(&path, Mode::Threads, with).err().map(|error| error.to_string());
    assert!(refused(OTHER).unwrap().contains("another build"));
    assert_eq!(refused(LATER), None);
    assert_eq!(refused(LATER), None);
    assert!(refused(MIGRATIONS).unwrap().contains("newer"));
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

/// Holds the writer until told to go on: what is queued meanwhile shares the next transaction.
async fn together<T>(db: &Db, queue: impl Future<Output = T>) -> T {
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go, may_go) = std::sync::mpsc::channel();
    let held = db.write("t", move |_| {
        begun.send(()).expect("the test waits");
        may_go.recv().map_err(|_| Error::Closed)
    });
    let queued = async {
        has_begun.await.unwrap();
        // All of it is polled once, and so queued, before the writer goes on.
        let release = async { go.send(()).unwrap() };
        tokio::join!(queue, release).0
    };
    let (held, outcome) = tokio::join!(held, queued);
    held.unwrap();
    outcome
}

#[tokio::test]
async fn a_transaction_that_sqlite_rolled_back_takes_all_with_it_and_nothing_runs_after() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let before = db.write("t", |tx| insert(tx, &[1]));
    let fatal = db.write("t", |tx| tx.execute("INSERT OR ROLLBACK INTO t VALUES (1)", &()));
    let after = db.write("t", |tx| insert(tx, &[3]));
    let answers = together(&db, async { tokio::join!(before, fatal, after) }).await;
    for answer in [answers.0, answers.1, answers.2] {
        assert!(matches!(answer, Err(Error::Lost(_))), "{answer:?}");
    }
    assert!(all(&db).await.is_empty());
    db.write("t", |tx| insert(tx, &[4])).await.unwrap();
    assert_eq!(all(&db).await, [4]);
}

#[tokio::test]
async fn a_step_that_ends_the_transaction_takes_those_with_it_that_share_it() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let (go, wait) = std::sync::mpsc::channel();
    // While this one stands still, the others gather.
    let busy = db.write("t", move |_| wait.recv().map_err(|e| Error::Aborted(e.to_string())));
    let shared = db.write("t", |tx| insert(tx, &[1]));
    let fatal = db.write("t", |tx| tx.execute("INSERT OR ROLLBACK INTO t VALUES (1)", &()));
    let (_, shared, fatal, ()) = tokio::join!(busy, shared, fatal, async { go.send(()).unwrap() });
    assert!(matches!((&shared, &fatal), (Err(Error::Lost(_)), Err(Error::Lost(_)))), "{shared:?} {fatal:?}");
    db.write("t", |tx| insert(tx, &[2])).await.unwrap();
    assert_eq!(all(&db).await, [2]);
}

#[tokio::test]
async fn a_step_that_ends_its_transaction_is_not_taken_for_a_success() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [Mode::Threads, Mode::Inline] {
        let db = Db::sqlite(&dir.path().join(format!("{mode:?}.db")), mode, MIGRATIONS).unwrap();
        let answer = db.write("t", |tx| {
            insert(tx, &[1])?;
            tx.script("ROLLBACK")
        });
        assert!(matches!(answer.await, Err(Error::Lost(_))), "{mode:?}");
        db.write("t", |tx| insert(tx, &[2])).await.unwrap();
        assert_eq!(all(&db).await, [2]);
    }
}

#[tokio::test]
async fn a_read_that_panics_leaves_nothing_open() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    for number in 1..=4 {
        let panicked: Result<()> = db.read(|_| panic!("on purpose")).await;
        assert!(panicked.unwrap_err().to_string().contains("on purpose"));
        db.write("t", move |tx| insert(tx, &[number])).await.unwrap();
        assert_eq!(all(&db).await, (1..=number).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    let (dropped, ran) = std::sync::mpsc::channel::<()>();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = Arc::new(Mutex::new(may_go));
    let hold = || {
        let may_go = may_go.clone();
        db.read(move |_| may_go.lock().unwrap().recv().map_err(|_| Error::Closed))
    };
    let forgotten = async {
        let read = db.read(move |_| dropped.send(()).map_err(|_| Error::Closed));
        // Queued by its first poll, and dropped with the losing branch.
        tokio::select! { biased; _ = read => {}, () = async {} => {} }
        go.send(()).unwrap();
        go.send(()).unwrap();
    };
    let (first, second, ()) = tokio::join!(hold(), hold(), forgotten);
    assert!(first.is_ok() && second.is_ok());
    all(&db).await;
    // The closure went without having been called: both its channel's ends say so.
    assert!(ran.recv().is_err());
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
    let error = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, &[]).unwrap_err();
    assert!(error.to_string().contains("newer"));
}

#[test]
fn a_full_disk_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::sqlite(&dir.path().join("t.db"), Mode::Inline, MIGRATIONS).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let full = rt.block_on(db.write("t", |tx| {
        tx.script("PRAGMA max_page_count = 3")?;
        insert(tx, &(0..100_000).collect::<Vec<_>>())
    }));
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
}
