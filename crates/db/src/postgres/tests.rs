//! What holds on a server, and what of it only there: several who write, connections that break, commits whose answer is
//! lost.

use std::{
    sync::{Arc, Barrier, mpsc},
    time::Duration,
};

use hostler_fixture::{Database, Postgres};
use serde_json::json;

use crate::{Db, Document, Error, Heard, Migrations, Result, Row, Texts, Tx};

const MIGRATIONS: Migrations = &["CREATE TABLE t (n BIGINT PRIMARY KEY, text TEXT)"];

fn database() -> Database<'static> {
    Postgres::shared().unwrap().database().unwrap()
}

fn open(database: &Database<'_>) -> Db {
    Db::postgres(&database.url(), MIGRATIONS, None).unwrap()
}

fn insert(tx: &Tx<'_>, numbers: &[i64]) -> Result<usize> {
    tx.execute("INSERT INTO t (n) SELECT CAST(value AS BIGINT) FROM jsonb_each(?1)", &json!(numbers))
}

async fn all(db: &Db) -> Vec<i64> {
    db.read(|tx| tx.query("SELECT n FROM t ORDER BY n", &(), |row| row.get(0))).await.unwrap()
}

/// Ends all connections but those of listeners, as an operator or a broken network does.
const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'hostler'";

#[tokio::test]
async fn a_step_that_fails_takes_nothing_else_with_it_and_a_part_of_one_not_the_rest() {
    let database = database();
    let db = open(&database);
    let good = db.write("t", |tx| insert(tx, &[1, 2]));
    let bad = db.write("t", |tx| insert(tx, &[3, 1]));
    let parted = db.write("t", |tx| {
        let failed = tx.part(|tx| insert(tx, &[4]).and_then(|_| insert(tx, &[4]))).is_err();
        insert(tx, &[5])?;
        Ok(failed)
    });
    let (good, bad, parted) = tokio::join!(good, bad, parted);
    assert!(good.is_ok() && parted.unwrap());
    assert!(bad.is_err_and(|error| !error.is_outage()));
    assert_eq!(all(&db).await, [1, 2, 5]);
}

#[tokio::test]
async fn what_was_put_and_failed_is_the_failure_of_its_own_step_and_of_no_other() {
    const PUT: &str = "INSERT INTO t (n) SELECT CAST(value AS BIGINT) FROM jsonb_each(?1)";
    let database = database();
    let db = open(&database);
    let put = |numbers: Vec<i64>| db.write("t", move |tx| tx.put(PUT, &numbers));
    let is_its_own = |done: Result<()>| done.is_err_and(|error| !error.is_outage());
    assert!(is_its_own(put(vec![1, 1]).await));
    put(vec![1]).await.unwrap();
    let parted = db.write("t", |tx| {
        let failed = tx.part(|tx| tx.put(PUT, &[2, 2])).is_err();
        tx.put(PUT, &[3])?;
        Ok(failed)
    });
    assert!(parted.await.unwrap());
    let asked = db.write("t", |tx| {
        tx.put(PUT, &[4, 4])?;
        tx.query("SELECT n FROM t", &(), |row| row.get::<i64>(0)).map(drop)
    });
    assert!(asked.await.unwrap_err().to_string().contains("23505"));
    // While one step stands still, those that come gather, and share a transaction.
    let (go, gone) = mpsc::channel::<()>();
    let held = db.write("t", move |_| gone.recv().map_err(|e| Error::Aborted(e.to_string())));
    let release = async { go.send(()).unwrap() };
    let (held, first, bad, last, ()) = tokio::join!(held, put(vec![5]), put(vec![6, 5]), put(vec![7]), release);
    held.and(first).and(last).unwrap();
    assert!(is_its_own(bad));
    assert_eq!(all(&db).await, [1, 3, 5, 7]);
}

#[tokio::test]
async fn a_document_comes_back_as_it_was_written() {
    let database = database();
    let db = open(&database);
    let document = json!({"b": 1e19, "a": "\0 ' \u{1f600}", "n": null});
    let written = Document(document.clone()).0.to_string();
    let batch = json!([{"n": 1, "text": Document(&document)}]);
    db.write("t", move |tx| {
        tx.execute("INSERT INTO t SELECT CAST(value->>'n' AS BIGINT), value->>'text' FROM jsonb_each(?1)", &batch)
    })
    .await
    .unwrap();
    let read = db.read(|tx| tx.query_one("SELECT text FROM t", &(), |row| row.get::<String>(0))).await.unwrap();
    assert_eq!(read, Some(written));
}

#[tokio::test]
async fn those_who_start_at_once_make_the_tables_once_and_one_of_another_build_is_refused() {
    let database = database();
    let barrier = Arc::new(Barrier::new(4));
    let start = |_| {
        let (url, barrier) = (database.url(), barrier.clone());
        std::thread::spawn(move || {
            barrier.wait();
            Db::postgres(&url, MIGRATIONS, None).map(drop)
        })
    };
    let threads: Vec<_> = (0..4).map(start).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    let refused = |with| Db::postgres(&database.url(), with, None).unwrap_err().to_string();
    assert!(refused(&["CREATE TABLE t (n BIGINT)"]).contains("another build"));
    assert!(refused(&[]).contains("newer"));
}

#[tokio::test]
async fn what_one_reads_in_a_step_is_what_it_changes_whoever_else_writes() {
    let database = database();
    let (one, other) = (open(&database), open(&database));
    let next = |db: &Db| {
        let db = db.clone();
        async move {
            for _ in 0..50 {
                db.write("t", |tx| {
                    let most: Option<i64> = tx.query_one("SELECT MAX(n) FROM t", &(), |row| row.get(0))?.flatten();
                    insert(tx, &[most.unwrap_or(0) + 1])
                })
                .await
                .unwrap();
            }
        }
    };
    tokio::join!(next(&one), next(&other));
    assert_eq!(all(&one).await, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_read_sees_one_state_whatever_is_committed_meanwhile() {
    let database = database();
    let (reader, writer) = (open(&database), open(&database));
    let (has_read, read_once) = mpsc::channel();
    let (written, may_go) = mpsc::channel();
    let reading = reader.read(move |tx| {
        let count = |tx: &Tx<'_>| tx.query_one("SELECT COUNT(*) FROM t", &(), |row| row.get::<i64>(0));
        let before = count(tx)?;
        has_read.send(()).map_err(|_| Error::Closed)?;
        may_go.recv().map_err(|_| Error::Closed)?;
        Ok((before, count(tx)?))
    });
    let writing = async {
        tokio::task::spawn_blocking(move || read_once.recv()).await.unwrap().unwrap();
        writer.write("t", |tx| insert(tx, &[1])).await.unwrap();
        written.send(()).unwrap();
    };
    let (counts, ()) = tokio::join!(reading, writing);
    assert_eq!(counts.unwrap(), (Some(0), Some(0)));
}

#[tokio::test]
async fn a_connection_that_broke_is_made_again_and_a_step_in_it_is_lost_whole() {
    let database = database();
    let db = open(&database);
    database.run(CUT).unwrap();
    // Whoever comes across it first hears of it, and nothing of its step is there.
    while db.write("t", |tx| insert(tx, &[1])).await.is_err_and(|error| error.is_outage()) {}
    assert_eq!(all_patiently(&db).await, [1]);
    let url = database.url();
    let within = db.write("t", move |tx| {
        insert(tx, &[2])?;
        cut(&url);
        insert(tx, &[3])
    });
    assert!(within.await.unwrap_err().is_outage());
    db.write("t", |tx| insert(tx, &[4])).await.unwrap();
    assert_eq!(all_patiently(&db).await, [1, 4]);
}

/// Each reader may have a broken connection.
async fn all_patiently(db: &Db) -> Vec<i64> {
    loop {
        match db.read(|tx| tx.query("SELECT n FROM t ORDER BY n", &(), |row| row.get(0))).await {
            Err(error) if error.is_outage() => {}
            read => return read.unwrap(),
        }
    }
}

fn cut(url: &str) {
    let mut client = ::postgres::Client::connect(url, ::postgres::NoTls).unwrap();
    client.batch_execute(CUT).unwrap();
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_looked_up() {
    // A commit here waits for a standby that never comes: it is on the disk, and its answer is not on the way.
    let server = Postgres::start(false).unwrap();
    let database = server.database().unwrap();
    let db = open(&database);
    for word in ["ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"] {
        database.run(word).unwrap();
    }
    wait_for(&database, "SELECT CAST(current_setting('synchronous_standby_names') = 'nobody' AS TEXT)").await;
    let writing = db.write("t", |tx| insert(tx, &[1]));
    let cutting = async {
        wait_for(
            &database,
            "SELECT CAST(EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep') AS TEXT)",
        )
        .await;
        database.run(CUT).unwrap();
    };
    let (written, ()) = tokio::join!(writing, cutting);
    for word in ["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"] {
        database.run(word).unwrap();
    }
    assert_eq!(written.unwrap(), 1, "it was committed, and that is the answer");
    assert_eq!(database.ask("SELECT CAST(COUNT(*) AS TEXT) FROM t").unwrap(), "1");
}

#[tokio::test]
async fn a_commit_that_never_was_is_a_failure() {
    let database = database();
    let db = open(&database);
    // Its commit waits in a trigger, before anything is durable.
    database
        .run(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .unwrap();
    let writing = db.write("t", |tx| insert(tx, &[1]));
    let cutting = async {
        wait_for(
            &database,
            "SELECT CAST(EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%COMMIT'
                                    AND datname = current_database()) AS TEXT)",
        )
        .await;
        database.run(CUT).unwrap();
    };
    let (written, ()) = tokio::join!(writing, cutting);
    assert!(written.unwrap_err().is_outage());
    assert_eq!(database.ask("SELECT CAST(COUNT(*) AS TEXT) FROM t").unwrap(), "0");
}

async fn wait_for(database: &Database<'_>, sql: &str) {
    while database.ask(sql).unwrap() != "true" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_one_says_the_others_hear_and_a_gap_is_heard_too() {
    let database = database();
    let (one, other) = (open(&database), open(&database));
    let (heard_by_one, ones) = mpsc::channel();
    let (heard_by_other, others) = mpsc::channel();
    let listen = |db: &Db, heard: mpsc::Sender<Heard>| {
        db.channel(move |word| drop(heard.send(word)), |words: Vec<&str>| words.join(" ")).unwrap().unwrap()
    };
    let first = listen(&one, heard_by_one);
    let second = listen(&other, heard_by_other);
    wait_for(
        &database,
        "SELECT CAST(COUNT(*) = 2 AS TEXT) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'hostler listener' AND query LIKE 'LISTEN%'",
    )
    .await;
    first.say("hello");
    assert_eq!(others.recv(), Ok(Heard::Word("hello".into())));
    second.say("you");
    assert_eq!(ones.recv(), Ok(Heard::Word("you".into())), "and not its own word");
    database.run(&CUT.replace("'hostler'", "'hostler listener'")).unwrap();
    assert_eq!((ones.recv(), others.recv()), (Ok(Heard::Gap), Ok(Heard::Gap)));
}

#[tokio::test]
async fn many_rows_go_as_arrays_and_what_does_not_fit_is_refused() {
    const PUT: Texts =
        Texts { sqlite: "", postgres: "INSERT INTO t (n, text) SELECT c.n + 1, c.text FROM rows(text, n bigint) c" };
    const NOT_SAID: Texts = Texts { sqlite: "", postgres: "INSERT INTO t (n) SELECT 1" };
    let database = database();
    let db = open(&database);
    let put = |texts: &'static Texts, rows: Vec<serde_json::Value>| db.write("t", move |tx| tx.put_each(texts, &rows));
    let good = vec![
        json!({"n": 1, "text": "a,{}\"\\ é", "unnamed": true}),
        json!({"n": -5_000_000_000_i64, "text": null, "unnamed": null}),
        json!({"n": 7, "text": "", "unnamed": 3}),
    ];
    put(&PUT, good).await.unwrap();
    let read = |row: &Row<'_>| Ok((row.get::<i64>(0)?, row.get::<Option<String>>(1)?));
    let kept = db.read(move |tx| tx.query("SELECT n, text FROM t ORDER BY n", &(), read)).await.unwrap();
    assert_eq!(kept, [(-4_999_999_999, None), (2, Some("a,{}\"\\ é".to_owned())), (8, Some(String::new()))]);
    for rows in [
        vec![json!({"n": 20})],
        vec![json!({"n": 20, "text": "a"}), json!({"n": 21})],
        vec![json!({"n": 20, "text": "a"}), json!({"n": 21, "other": "a"})],
        vec![json!({"n": "20", "text": "a"})],
        vec![json!({"n": 20, "text": 5})],
        vec![json!({"n": 20.5, "text": "a"})],
        vec![json!({"n": [20], "text": "a"})],
    ] {
        let error = put(&PUT, rows.clone()).await.unwrap_err();
        assert!(error.to_string().contains("cannot be bound") && !error.is_outage(), "{rows:?}: {error}");
    }
    assert!(put(&NOT_SAID, vec![json!({"n": 1})]).await.is_err());
    assert_eq!(all(&db).await, [-4_999_999_999, 2, 8]);
}

#[tokio::test]
async fn what_is_expected_is_answered_once_and_never_from_before_a_write() {
    const COUNT: &str = "SELECT COUNT(*) FROM t WHERE n > CAST(?1->>'above' AS BIGINT)";
    const FIRST: &str = "SELECT COUNT(*) FROM t";
    let database = database();
    let db = Db::postgres(&database.url(), MIGRATIONS, Some(FIRST)).unwrap();
    let above = |tx: &Tx<'_>, above: i64| {
        Ok(tx.query_one(COUNT, &json!({"above": above}), |row| row.get::<i64>(0))?.unwrap_or(-1))
    };
    let step = db.write("t", move |tx| {
        let first = || Ok(tx.query_one(FIRST, &(), |row| row.get::<i64>(0))?.unwrap_or(-1));
        let mut counts = vec![first()?];
        for n in [1, 2, 3] {
            insert(tx, &[n])?;
        }
        counts.push(first()?);
        // Two on their way, taken in the other order, one of them twice.
        tx.expect(COUNT, &json!({"above": 1}))?;
        tx.expect(COUNT, &json!({"above": 1}))?;
        tx.expect(COUNT, &json!({"above": 2}))?;
        counts.extend([above(tx, 2)?, above(tx, 1)?]);
        tx.expect(COUNT, &json!({"above": 0}))?;
        tx.put("INSERT INTO t (n) SELECT CAST(value AS BIGINT) FROM jsonb_each(?1)", &json!([4]))?;
        counts.push(above(tx, 0)?);
        tx.expect(COUNT, &json!({"above": 0}))?;
        let gone = tx.part(|tx| insert(tx, &[5]).and_then(|_| insert(tx, &[5])));
        counts.extend([above(tx, 0)?, i64::from(gone.is_err())]);
        Ok(counts)
    });
    assert_eq!(step.await.unwrap(), [0, 3, 1, 2, 4, 4, 1]);
    let again = db.write("t", |tx| tx.query_one(FIRST, &(), |row| row.get::<i64>(0)));
    assert_eq!(again.await.unwrap(), Some(4));
    // Nobody asks for it: it is nobody's failure, unless it is wrong.
    db.write("t", |tx| tx.expect(COUNT, &json!({"above": 0}))).await.unwrap();
    let wrong = db.write("t", |tx| tx.expect(COUNT, &json!({"above": "no number"})));
    assert!(wrong.await.is_err_and(|error| !error.is_outage()));
    assert_eq!(all(&db).await, [1, 2, 3, 4]);
}
