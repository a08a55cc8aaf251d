//! Against a real pooler, and a real promotion.

use hostler_fixture::{Pgbouncer, Postgres};

use crate::{Db, Heard, Migrations};

const MIGRATIONS: Migrations = &["CREATE TABLE t (n BIGINT)"];

#[test]
fn a_pooler_that_hands_connections_on_is_refused_with_what_to_do() {
    let server = Postgres::start(false).unwrap();
    let database = server.database().unwrap();
    for mode in ["transaction", "statement"] {
        let pooler = Pgbouncer::before(&database, mode).unwrap();
        // Also where connections wait in it: then others are handed out.
        for _ in 0..3 {
            let error = Db::postgres(&pooler.url(&database), MIGRATIONS, None).unwrap_err();
            assert!(!error.is_outage() && error.to_string().contains("pool_mode = session"), "{mode}: {error}");
        }
    }
    assert_eq!(database.ask("SELECT CAST(to_regclass('t') IS NULL AS TEXT)").unwrap(), "true", "nothing was done");
}

#[tokio::test]
async fn with_sessions_of_its_own_a_pooler_is_no_matter() {
    let server = Postgres::start(false).unwrap();
    let database = server.database().unwrap();
    let pooler = Pgbouncer::before(&database, "session").unwrap();
    let open = || Db::postgres(&pooler.url(&database), MIGRATIONS, None).unwrap();
    let (one, other) = (open(), open());
    for db in [&one, &other] {
        let count = db.write("t", |tx| {
            tx.execute("INSERT INTO t VALUES (1)", &())?;
            tx.query_one("SELECT COUNT(*) FROM t", &(), |row| row.get::<i64>(0))
        });
        count.await.unwrap();
    }
    let (heard, words) = std::sync::mpsc::channel();
    let hear = move |word| drop(heard.send(word));
    let _listener = other.channel(hear, |words: Vec<&str>| words.join(" ")).unwrap().unwrap();
    let speaker = one.channel(|_| {}, |words: Vec<&str>| words.join(" ")).unwrap().unwrap();
    let listening = "SELECT CAST(COUNT(*) = 2 AS TEXT) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'
                        AND datname = current_database()";
    while database.ask(listening).unwrap() != "true" {
        tokio::task::yield_now().await;
    }
    speaker.say("hello");
    assert_eq!(words.recv(), Ok(Heard::Word("hello".into())));
}

#[tokio::test]
async fn after_a_promotion_nothing_is_done_before_a_step_that_hears_of_it() {
    let primary = Postgres::start(false).unwrap();
    let database = primary.database().unwrap();
    let standby = primary.standby().unwrap();
    let db = Db::postgres(&database.url_on_both(&standby), MIGRATIONS, None).unwrap();
    let insert = |db: &Db| {
        let db = db.clone();
        async move { db.write("t", |tx| tx.execute("INSERT INTO t VALUES (1)", &())).await }
    };
    insert(&db).await.unwrap();
    let (before, copy) = (db.timeline().unwrap(), database.on(&standby));
    while copy.ask("SELECT CAST(to_regclass('t') IS NOT NULL AS TEXT)").unwrap() != "true" {}
    primary.kill().unwrap();
    copy.run("SELECT pg_promote()").unwrap();
    while db.moved().is_none() {
        assert!(insert(&db).await.unwrap_err().is_outage());
    }
    let error = insert(&db).await.unwrap_err();
    assert!(error.is_outage() && error.to_string().contains("promoted"), "{error}");
    let failed = db.adopt("t", |_, _| Err::<(), _>(crate::Error::Aborted("on purpose".into())));
    assert!(failed.await.is_err());
    assert!(insert(&db).await.is_err(), "it has not been heard of yet");
    let heard = db.adopt("t", |_, now| Ok(now.clone())).await.unwrap().unwrap();
    assert_eq!((&heard.system, heard.number), (&before.system, before.number + 1));
    insert(&db).await.unwrap();
    assert_eq!(db.adopt("t", |_, _| Ok(())).await.unwrap(), None);
    // The old one starts again, and nobody keeps it from being written to: it is not gone back to.
    primary.restart().unwrap();
    copy.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hostler'").unwrap();
    let error = insert(&db).await.unwrap_err();
    assert!(error.is_outage() && error.to_string().contains("left behind"), "{error}");
    assert_eq!((db.moved(), db.timeline()), (None, Some(heard)));
    primary.kill().unwrap();
    insert(&db).await.unwrap();
    assert_eq!(copy.ask("SELECT CAST(COUNT(*) AS TEXT) FROM t").unwrap(), "3");
}
