//! A host elsewhere becomes a node with one command, renews its certificate, comes back with one that has ended, and is cut off
//! when it is revoked.

use std::time::{Duration, Instant};

use anyhow::Result;
use hostler_e2e::fleet::Fleet;
use hostler_fixture::Postgres;
use serde_json::{Value, json};

/// How long a certificate lives here.
const LIFE: Duration = Duration::from_secs(10);

async fn works(fleet: &Fleet<'_>, server: usize) -> Result<()> {
    let (status, answer) = fleet.echo(server).await?;
    assert_eq!((status, &answer["task"]["state"]), (200, &Value::from("succeeded")), "{answer}");
    Ok(())
}

/// How often the agent said this.
fn said(fleet: &Fleet<'_>, words: &str) -> usize {
    fleet.agent_log(0).matches(words).count()
}

#[tokio::test]
async fn a_host_joins_with_one_command_renews_and_is_cut_off_when_it_is_revoked() -> Result<()> {
    let flag = format!("--node-certificate-seconds={}", LIFE.as_secs());
    let mut fleet = Fleet::apart_with(Postgres::shared()?, (2, 0), &[&flag]).await?;
    fleet.join().await?;
    works(&fleet, 0).await?;
    let renewed = async |fleet: &Fleet<'_>, times: usize| {
        let look = async |fleet: &Fleet<'_>| Ok((said(fleet, "renewed the certificate") >= times).then_some(()));
        fleet.until_within(LIFE * 2, "the certificate is renewed", look).await
    };
    renewed(&fleet, 1).await?;
    works(&fleet, 1).await?;

    // It is away for longer than its certificate lives, and comes back with that.
    fleet.kill_agent(0)?;
    tokio::time::sleep(LIFE + Duration::from_secs(1)).await;
    let before = said(&fleet, "renewed the certificate");
    fleet.start_agent(0)?;
    renewed(&fleet, before + 1).await?;
    works(&fleet, 0).await?;

    // Whichever server hears of it, the one that has its connections cuts them.
    let began = Instant::now();
    let (status, node) = fleet.call(1, "POST", "/nodes/n0/revoke", Some(json!({}))).await?;
    assert_eq!((status, node["revoked_at"].is_string()), (200, true), "{node}");
    let cut = async |fleet: &Fleet<'_>| {
        Ok(fleet.log().contains("a revoked or removed node's connection was cut").then_some(()))
    };
    fleet.until("its connections are cut", cut).await?;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let (status, answer) = fleet.echo(0).await?;
    assert_eq!((status, &answer["code"]), (409, &Value::from("NO_CAPACITY")), "{answer}");
    let before = said(&fleet, "renewed the certificate");
    tokio::time::sleep(LIFE).await;
    assert_eq!(said(&fleet, "renewed the certificate"), before, "{}", fleet.agent_log(0));
    let (_, audit) = fleet.call(0, "GET", "/audit?limit=500", None).await?;
    for kind in ["join_token.create", "node.join", "node.revoke"] {
        assert!(audit.to_string().contains(kind), "{kind}: {audit}");
    }
    Ok(())
}
