//! One hot tenant beside 64: the same submissions over as many connections, once all by one tenant, whose book every one
//! of them changes, and once by 64 in turn.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    commit::{Engine, Floor},
    http::Connection,
    queue,
    server::Server,
    table::{Row, quantile},
};

const TENANTS: usize = 64;
const CONNECTIONS: usize = 32;
/// How often each is measured, in turn.
const ROUNDS: usize = 5;

/// So many tasks a round, over each engine.
pub(crate) async fn measure(tasks: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (engine, times) in [(Engine::Sqlite, 0.9), (Engine::Postgres, 0.8)] {
        let (hot, spread) = measure_on(engine, tasks / ROUNDS).await?;
        let name = format!("submits by one hot tenant beside those by {TENANTS}, {CONNECTIONS} connections, {engine}");
        rows.push(Row::at_least_times(&name, hot, "tasks/s", spread, times));
    }
    Ok(rows)
}

async fn measure_on(engine: Engine, tasks: usize) -> Result<(f64, f64)> {
    let floor = Floor::of(engine)?;
    let server = Server::over(floor.database(), &queue::FOUR_AGENTS, 4).await?;
    let tokens = tokens(&server).await?;
    queue::queues(&server, "pause").await?;
    let (mut hot, mut spread) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let one = by(&server, &tokens[..1], tasks).await?;
        let all = by(&server, &tokens, tasks).await?;
        // The first warms up.
        if round > 0 {
            hot.push(one);
            spread.push(all);
        }
    }
    Ok((quantile(&mut hot, 0.5), quantile(&mut spread, 0.5)))
}

/// Submissions by whoever these tokens are of, in turn. There are as many connections whoever they are.
async fn by(server: &Server, tokens: &[String], tasks: usize) -> Result<f64> {
    let mut tokens = tokens.iter().cycle();
    let mut callers = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut own = Vec::new();
        for token in tokens.by_ref().take(TENANTS / CONNECTIONS) {
            own.push(server.connect_as(token).await?);
        }
        callers.push(own);
    }
    queue::submit(callers, tasks).await
}

/// Tenants, each with a service account that submits, and a token of it.
async fn tokens(server: &Server) -> Result<Vec<String>> {
    let (mut admin, mut tokens) = (server.connect().await?, Vec::new());
    for number in 0..TENANTS {
        let name = format!("bench-{number}");
        made(&mut admin, "/api/v1/tenants", &json!({"name": name})).await?;
        let account = json!({"name": "submitter", "role": "operator"});
        made(&mut admin, &format!("/api/v1/service-accounts?tenant={name}"), &account).await?;
        let token = json!({"label": "bench", "service_account": "submitter"});
        let token = made(&mut admin, &format!("/api/v1/tokens?tenant={name}"), &token).await?;
        tokens.push(token["token"].as_str().context("a token")?.to_owned());
    }
    Ok(tokens)
}

async fn made(admin: &mut Connection, path: &str, body: &Value) -> Result<Value> {
    match admin.json("POST", path, &body.to_string()).await? {
        (201, made) => Ok(made),
        (status, answer) => bail!("POST {path}: {status} {answer}"),
    }
}
