//! How long work stands still when a loaded server is killed (`kill -9`): until the next task that was not leased before
//! begins on its node. Over a file the same server is started again at once; over PostgreSQL another goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hostler_e2e::{fleet::Fleet, store::Store};
use hostler_fixture::Postgres;
use serde_json::json;

use super::table::{Row, quantile};

/// So many deaths for each figure.
const DEATHS: usize = 5;
const AGENTS: usize = 4;
/// What waits in the queue when the server dies, in requests of so many.
const BACKLOG: (usize, usize) = (8, 1000);
/// How long each of these tasks takes: the agents have room for many at once.
const TASK: Duration = Duration::from_millis(20);
/// Its time to the end, by which the moment of its first lease is told from its deadline.
const TIME: u64 = 60;

/// With so many ended tasks in the database.
pub(crate) async fn measure(history: usize) -> Result<Vec<Row>> {
    let row = |what: &str, of: &mut Vec<f64>, limit| {
        let name = format!("{what}, {history} tasks in it, until the next task begins");
        [(0.5, "median"), (1.0, "worst")]
            .map(|(share, word)| Row::at_most(&format!("{name}, {word} of {DEATHS}"), quantile(of, share), "ms", limit))
    };
    let mut again = started_again(history).await?;
    let mut by_another = by_another(history).await?;
    let mut rows = Vec::from(row("kill -9 of a loaded server over a file", &mut again, 300.0));
    rows.extend(row("kill -9 of one of two servers over PostgreSQL", &mut by_another, 1000.0));
    Ok(rows)
}

async fn started_again(history: usize) -> Result<Vec<f64>> {
    let mut fleet = Fleet::over_a_file(AGENTS).await?;
    ensure!(fleet.echo(0).await?.0 == 200, "an echo comes back");
    fleet.kill_server(0)?;
    fill(fleet.store(), history)?;
    fleet.start_server(0).await?;
    let mut took = Vec::new();
    for _ in 0..DEATHS {
        load(&fleet, 0).await?;
        fleet.kill_server(0)?;
        let restart = now();
        fleet.start_server(0).await?;
        took.push(until_the_next(&fleet, 0, restart).await?);
    }
    Ok(took)
}

async fn by_another(history: usize) -> Result<Vec<f64>> {
    let postgres = Postgres::at_work("target".as_ref())?;
    let mut fleet = Fleet::started(&postgres, 2, AGENTS).await?;
    ensure!(fleet.echo(0).await?.0 == 200, "an echo comes back");
    fill(fleet.store(), history)?;
    let mut took = Vec::new();
    for death in 0..DEATHS {
        // Whichever it is: the agents ask the one that answered last, which is the one that now dies.
        let (dies, lives) = (death % 2, 1 - death % 2);
        load(&fleet, dies).await?;
        let death = now();
        fleet.kill_server(dies)?;
        took.push(until_the_next(&fleet, lives, death).await?);
        fleet.start_server(dies).await?;
    }
    Ok(took)
}

/// So many tasks that have ended, each like one that has, without their entries in the log.
fn fill(store: &Store<'_>, tasks: usize) -> Result<()> {
    let (columns, series, number) = match store {
        Store::File(_) => (
            "SELECT group_concat(name) FROM pragma_table_info('tasks')",
            format!(
                "(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {tasks}) SELECT i FROM n)"
            ),
            "printf('%012x', i)",
        ),
        Store::Database(_) => (
            "SELECT string_agg(column_name, ',') FROM information_schema.columns
             WHERE table_name = 'tasks' AND table_schema = current_schema()",
            format!("(SELECT i FROM generate_series(1, {tasks}) i)"),
            "lpad(to_hex(i), 12, '0')",
        ),
    };
    let columns = store.ask(columns)?;
    let filled = columns.split(',').map(|column| match column {
        "id" => format!("'01000000-0000-7000-8000-' || {number}"),
        "seq" => "-i".to_owned(),
        column => format!("one.{column}"),
    });
    let filled = filled.collect::<Vec<_>>().join(", ");
    store.run(&format!(
        "INSERT INTO tasks ({columns})
         SELECT {filled} FROM (SELECT * FROM tasks WHERE state = 'succeeded' LIMIT 1) one, {series} n"
    ))?;
    match store {
        // Its log is taken over by the next server.
        Store::File(_) => Ok(()),
        // As they would be that have been there for a while: counted, and on the disk.
        Store::Database(_) => store.run("ANALYZE").and_then(|()| store.run("CHECKPOINT")),
    }
}

/// Until the agents are at work on a queue that is long enough for what comes.
async fn load(fleet: &Fleet<'_>, server: usize) -> Result<()> {
    let one = json!({"kind": "echo", "params": {"message": "hello", "delay_ms": TASK.as_millis()}});
    for _ in 0..BACKLOG.0 {
        let path = format!("/tasks/batch?timeout_seconds={TIME}");
        let (status, answer) = fleet.call(server, "POST", &path, Some(json!({"tasks": vec![&one; BACKLOG.1]}))).await?;
        ensure!(status == 200, "{status}: {answer}");
    }
    fleet
        .until("tasks run", async |fleet: &Fleet<'_>| {
            let (_, page) = fleet.call(server, "GET", "/tasks?state=running&limit=1", None).await?;
            Ok(page["items"].as_array().is_some_and(|items| !items.is_empty()).then_some(()))
        })
        .await
}

/// How many milliseconds after this moment the first task began that was leased after it. Looked up when the queue is
/// empty, so that the looking costs nobody anything.
async fn until_the_next(fleet: &Fleet<'_>, server: usize, moment: i64) -> Result<f64> {
    for state in ["queued", "running"] {
        fleet
            .until("the queue is empty", async |fleet: &Fleet<'_>| {
                let (_, page) = fleet.call(server, "GET", &format!("/tasks?state={state}&limit=1"), None).await?;
                Ok(page["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
            })
            .await?;
    }
    let next = fleet.store().ask(&format!(
        "SELECT CAST(MIN(started_at) AS TEXT) FROM tasks WHERE deadline - timeout_s * 1000000 > {moment}"
    ));
    let next: i64 = next.context("the queue was empty before the server died")?.parse()?;
    Ok((next - moment) as f64 / 1000.0)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
