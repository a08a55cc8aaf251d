//! One hot tenant beside 64: the same submissions over as many connections, once all by one tenant, whose book every one
//! of them changes, and once by 64 in turn.

use anyhow::Result;
use hostler_model::Ids;
use hostler_trust::ApiToken;

use super::{
    commit::{Engine, Floor},
    queue,
    server::Server,
    sql,
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
    let tokens = tokens(&floor, &server)?;
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

/// Tenants, with a token each. No route makes tenants yet, so their rows are written beside the server.
fn tokens(floor: &Floor, server: &Server) -> Result<Vec<String>> {
    let ids = Ids::system();
    let (mut statements, mut tokens) = (String::new(), Vec::new());
    for number in 0..TENANTS {
        let (token, id) = (ApiToken::generate(&ids), format!("01900000-0000-7000-8000-{number:012}"));
        statements.push_str(&format!(
            "INSERT INTO tenants (id, name, limit_vcpus, limit_memory_mib, limit_disk_gib, limit_vms)
             VALUES ('{id}', 'bench-{number}', -1, -1, -1, -1);
             INSERT INTO api_tokens (hash, principal, tenant, role, label, created_at)
             VALUES ('{}', '{id}', '{id}', 'operator', 'bench', 0);",
            token.hash()
        ));
        tokens.push(token.reveal());
    }
    sql::run(floor, server, &statements)?;
    Ok(tokens)
}
