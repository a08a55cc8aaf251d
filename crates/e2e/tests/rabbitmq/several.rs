//! Several servers over one database and one broker.

use anyhow::Result;
use hostler_e2e::{fleet::Fleet, rabbitmq::RabbitMq};
use hostler_fixture::Postgres;
use serde_json::Value;

const CONFIRMED: &str = r#"hostler_broker_offers_total{outcome="confirmed"}"#;
const SETTLED: &str = r#"hostler_broker_messages_total{queue="hostler.results",outcome="settled"}"#;

/// How often the log says that one of these tasks ended, and how many of them it says so of.
fn ends(fleet: &Fleet<'_>) -> Result<(String, String)> {
    let count = |what: &str| {
        fleet.store().ask(&format!(
            "SELECT CAST(COUNT({what}) AS TEXT) FROM log l JOIN tasks t ON t.id = l.subject AND t.kind = 'echo'
              WHERE l.class = 'event' AND l.kind = 'task.succeeded'"
        ))
    };
    Ok((count("*")?, count("DISTINCT l.subject")?))
}

#[tokio::test]
async fn servers_share_a_broker_and_each_offer_and_each_result_counts_once() -> Result<()> {
    let broker = RabbitMq::shared().await?;
    let mut fleet = Fleet::by_broker(Postgres::shared()?, 2, 2, &broker).await?;
    let mut tasks = fleet.echoes(0, 150).await?;
    tasks.extend(fleet.echoes(1, 150).await?);
    assert!(fleet.ends(0, &tasks).await?.iter().all(|end| end == "succeeded"));
    for what in [CONFIRMED, SETTLED] {
        let counted = [fleet.counted(0, what).await?, fleet.counted(1, what).await?];
        assert_eq!(counted.iter().sum::<u64>(), 300, "{what}: {counted:?}");
    }
    assert_eq!(ends(&fleet)?, ("300".to_owned(), "300".to_owned()));
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);

    // One is killed while it has some of everything: offers that are not confirmed, results that are not acknowledged.
    tasks.extend(fleet.echoes(0, 300).await?);
    fleet.kill_server(0)?;
    tasks.extend(fleet.echoes(1, 100).await?);
    assert!(fleet.ends(1, &tasks).await?.iter().all(|end| end == "succeeded"));
    assert_eq!(ends(&fleet)?, ("700".to_owned(), "700".to_owned()));
    let again = "SELECT CAST(COUNT(*) AS TEXT) FROM tasks WHERE kind = 'echo' AND attempt <> 1";
    assert_eq!(fleet.store().ask(again)?, "0", "no attempt was lost to it");
    fleet.start_server(0).await?;
    assert_eq!(fleet.echo(0).await?.0, 200);
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}
