//! Several servers over one PostgreSQL database.

use std::process::Command;

use anyhow::{Context, Result};
use hostler_e2e::{dev::binary, fleet::Fleet};
use hostler_fixture::Postgres;
use serde_json::{Value, json};

#[tokio::test]
async fn any_client_reaches_any_agent_by_any_server() -> Result<()> {
    let fleet = Fleet::started(Postgres::shared()?, 2, 2).await?;
    for server in [0, 1] {
        for node in ["n0", "n1"] {
            let body = json!({"kind": "echo", "target": {"node": node}, "params": {"message": "hello"}});
            let (status, answer) = fleet.call(server, "POST", "/tasks", Some(body)).await?;
            assert_eq!((status, &answer["task"]["state"]), (200, &Value::from("succeeded")), "{answer}");
        }
    }
    // What one server was told stands at the other.
    let machine = json!({"name": "web", "image": "none"});
    let (refused, answer) = fleet.call(0, "POST", "/vms", Some(machine)).await?;
    assert_eq!((refused, &answer["code"]), (404, &Value::from("IMAGE_NOT_FOUND")), "{answer}");
    assert_eq!(fleet.ills(1).await?, [Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_killed_is_replaced_by_the_other_and_no_task_is_lost() -> Result<()> {
    let mut fleet = Fleet::started(Postgres::shared()?, 2, 2).await?;
    let mut tasks = fleet.echoes(0, 300).await?;
    tasks.extend(fleet.echoes(1, 300).await?);
    fleet.kill_server(0)?;
    assert_eq!(fleet.echo(1).await?.0, 200, "the other goes on at once");
    tasks.extend(fleet.echoes(1, 100).await?);
    let ends = fleet.ends(1, &tasks).await?;
    assert_eq!((tasks.len(), ends.iter().filter(|end| *end == "succeeded").count()), (700, 700), "{ends:?}");
    fleet.start_server(0).await?;
    assert_eq!(fleet.echo(0).await?.0, 200);
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn servers_are_replaced_one_by_one_and_every_request_is_answered() -> Result<()> {
    let mut fleet = Fleet::started(Postgres::shared()?, 2, 1).await?;
    for server in [0, 1] {
        let other = 1 - server;
        let tasks = fleet.echoes(server, 200).await?;
        fleet.stop_server(server).await?;
        for _ in 0..20 {
            assert_eq!(fleet.echo(other).await?.0, 200);
        }
        assert!(fleet.ends(other, &tasks).await?.iter().all(|end| end == "succeeded"));
        fleet.start_server(server).await?;
    }
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_killed_costs_no_attempt_and_no_node() -> Result<()> {
    let postgres = Postgres::start(true)?;
    let fleet = Fleet::started(&postgres, 2, 2).await?;
    let mut tasks = Vec::new();
    for round in 0..3 {
        tasks.extend(fleet.echoes(round % 2, 200).await?);
        postgres.kill()?;
        let (status, answer) = fleet.echo(0).await?;
        assert_eq!((status, &answer["code"]), (503, &Value::from("UNAVAILABLE")), "{answer}");
        postgres.restart()?;
        fleet
            .until("both servers are at work again", async |fleet: &Fleet<'_>| {
                Ok((fleet.echo(0).await?.0 == 200 && fleet.echo(1).await?.0 == 200).then_some(()))
            })
            .await?;
    }
    assert!(fleet.ends(0, &tasks).await?.iter().all(|end| end == "succeeded"));
    let (_, again) = fleet.call(0, "GET", "/events?limit=1", None).await?;
    let lost = fleet.store().ask("SELECT COUNT(*)::text FROM log WHERE kind IN ('node.lost', 'task.lapsed')")?;
    assert_eq!(lost, "0", "{again}");
    assert_eq!(fleet.ills(1).await?, [Value::Null; 0]);
    Ok(())
}

#[tokio::test]
async fn a_server_with_another_authority_is_refused() -> Result<()> {
    let fleet = Fleet::started(Postgres::shared()?, 1, 0).await?;
    let mut words = fleet.server_words(0);
    for word in &mut words {
        if word.starts_with("--data=") {
            *word = format!("--data={}", fleet.folder("other").display());
        }
        if word.starts_with("--ca=") {
            *word = format!("--ca={}", fleet.folder("other-ca").display());
        }
        if word.starts_with("--listen=") || word.starts_with("--agents-listen=") {
            let (flag, _) = word.split_once('=').unwrap();
            *word = format!("{flag}=127.0.0.1:0");
        }
    }
    let output = Command::new(binary()?).args(words).env("HOSTLER_CONFIG", "/dev/null").output()?;
    let said = String::from_utf8(output.stderr)?;
    assert!(!output.status.success() && said.contains("another certificate authority"), "{said}");
    assert!(said.contains("--ca"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_standby_that_is_promoted_is_gone_on_with_in_one_new_epoch() -> Result<()> {
    let primary = Postgres::start(true)?;
    let standby = primary.standby()?;
    let fleet = Fleet::with_standby(&primary, &standby, 2, 2).await?;
    let mut tasks = fleet.echoes(0, 100).await?;
    fleet.ends(0, &tasks).await?;
    let copy = fleet.store().database()?.on(&standby);
    let ended = "SELECT CAST(COUNT(*) >= 100 AS TEXT) FROM log WHERE class = 'event' AND kind = 'task.succeeded'";
    fleet.until("the standby has it all", async |_: &Fleet<'_>| Ok((copy.ask(ended)? == "true").then_some(()))).await?;
    primary.kill()?;
    copy.run("SELECT pg_promote()")?;
    fleet
        .until("both servers are at work again", async |fleet: &Fleet<'_>| {
            Ok((fleet.echo(0).await?.0 == 200 && fleet.echo(1).await?.0 == 200).then_some(()))
        })
        .await?;
    let told = copy.ask("SELECT CAST(COUNT(*) AS TEXT) FROM log WHERE class = 'event' AND kind = 'store.restored'")?;
    assert_eq!(told, "1", "{}", fleet.log());
    assert!(fleet.log().contains("the database was promoted"), "{}", fleet.log());
    tasks.extend(fleet.echoes(1, 100).await?);
    assert!(fleet.ends(0, &tasks).await?.iter().all(|end| end == "succeeded"));
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}

/// Runs the program until its end, or until it kills itself at a point; whether it went well, and what it said.
fn run(words: &[&str], killed_at: &str) -> Result<(bool, String)> {
    let point = tempfile::NamedTempFile::new()?;
    std::fs::write(&point, killed_at)?;
    let mut program = Command::new(binary()?);
    program.args(words).env("HOSTLER_CONFIG", "/dev/null").env("HOSTLER_CRASH_FILE", point.path());
    let output = program.output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(said)?))
}

async fn until_nobody_is_connected(fleet: &Fleet<'_>) -> Result<()> {
    fleet
        .until("the killed server's connections are gone", async |fleet: &Fleet<'_>| {
            Ok((fleet.store().ask(
                "SELECT CAST(COUNT(*) AS TEXT) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name LIKE 'hostler%'",
            )? == "0")
                .then_some(()))
        })
        .await
}

#[tokio::test]
async fn a_restore_that_is_broken_off_keeps_servers_away_until_it_is_done() -> Result<()> {
    let mut fleet = Fleet::started(Postgres::shared()?, 1, 1).await?;
    let before = fleet.echoes(0, 3).await?;
    fleet.ends(0, &before).await?;
    let folder = fleet.folder("backup").display().to_string();
    let database = fleet.store().flag().context("it is PostgreSQL's")?;
    let ca = format!("--ca={}", fleet.folder("ca").display());
    let (taken, said) = run(&["backup", &database, &folder], "")?;
    assert!(taken, "{said}");
    let lost = fleet.echoes(0, 1).await?;
    fleet.kill_server(0)?;
    until_nobody_is_connected(&fleet).await?;
    let (restored, said) = run(&["restore", &database, &ca, &folder], "restore.before_epoch")?;
    assert!(!restored && said.is_empty(), "it is killed: {said}");
    until_nobody_is_connected(&fleet).await?;
    let epoch = || fleet.store().ask("SELECT CAST(store_epoch AS TEXT) FROM log_head");
    assert_eq!(epoch()?, "1", "the copy is there, and nothing else");
    let words = fleet.server_words(0);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (served, said) = run(&words, "")?;
    assert!(!served && said.contains("was broken off") && said.contains("hostler restore FOLDER"), "{said}");
    let (restored, said) = run(&["restore", &database, &ca, &folder], "")?;
    assert!(restored, "{said}");
    assert_ne!(epoch()?, "1");
    fleet.start_server(0).await?;
    assert_eq!(fleet.call(0, "GET", &format!("/tasks/{}", lost[0]), None).await?.0, 404);
    assert!(fleet.ends(0, &before).await?.iter().all(|end| end == "succeeded"));
    Ok(())
}

#[tokio::test]
async fn a_database_that_was_put_back_goes_on_from_what_its_nodes_have() -> Result<()> {
    let mut fleet = Fleet::started(Postgres::shared()?, 1, 1).await?;
    let before = fleet.echoes(0, 5).await?;
    fleet.ends(0, &before).await?;
    let folder = fleet.folder("backup").display().to_string();
    let database = fleet.store().flag().context("it is PostgreSQL's")?;
    let ca = format!("--ca={}", fleet.folder("ca").display());
    let run = |words: &[&str]| run(words, "");
    let (taken, said) = run(&["backup", &database, &folder])?;
    assert!(taken, "{said}");
    let lost = fleet.echoes(0, 5).await?;
    fleet.ends(0, &lost).await?;
    let (put_back, said) = run(&["restore", &database, &ca, &folder])?;
    assert!(!put_back && said.contains("servers run"), "{said}");
    fleet.kill_server(0)?;
    until_nobody_is_connected(&fleet).await?;
    let (put_back, said) = run(&["restore", &database, &ca, &folder])?;
    assert!(put_back && said.contains("epoch"), "{said}");
    fleet.start_server(0).await?;
    for task in &lost {
        assert_eq!(fleet.call(0, "GET", &format!("/tasks/{task}"), None).await?.0, 404);
    }
    assert!(fleet.ends(0, &before).await?.iter().all(|end| end == "succeeded"));
    fleet
        .until("the node gets tasks again", async |fleet: &Fleet<'_>| {
            Ok((fleet.echo(0).await?.1["task"]["state"] == "succeeded").then_some(()))
        })
        .await?;
    let kinds = fleet.store().ask("SELECT string_agg(kind, ' ') FROM log WHERE kind LIKE 'store.%'")?;
    assert!(kinds.contains("store.restored"), "{kinds}");
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}
