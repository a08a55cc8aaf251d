//! Signed offers that somebody read at the broker and sends again: to another node, when they are over, with one byte changed.
//! Nothing is done of them, their task goes on, and each is counted and in the audit.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, bail};
use hostler_e2e::{fleet::Fleet, rabbitmq::RabbitMq};
use hostler_fixture::Postgres;
use serde_json::{Value, json};

use super::scene::PYTHON;

/// Copies the offer that waits in a queue to a file, and leaves it there.
const READ: &str = "
method, properties, body = channel.basic_get(sys.argv[1])
open(sys.argv[2], 'wb').write(body)
channel.basic_nack(method.delivery_tag, requeue=True)
";

/// Sends it to a queue as it is, or with one character of what was signed changed.
const SEND: &str = "
body = bytearray(open(sys.argv[2], 'rb').read())
if sys.argv[3] == 'changed':
    place = body.index(b'.') + 40
    body[place] = ord('A') if body[place] != ord('A') else ord('B')
channel.basic_publish('', sys.argv[1], bytes(body), pika.BasicProperties(content_type='application/jose', message_id=sys.argv[4]))
";

fn python(broker: &RabbitMq, script: &str, words: &[&str]) -> Result<()> {
    const HEAD: &str = "
import os, sys, pika
channel = pika.BlockingConnection(pika.URLParameters(os.environ['AMQP_URL'])).channel()
channel.confirm_delivery()
";
    let mut command = Command::new(PYTHON);
    let output = command.arg("-c").arg(format!("{HEAD}{script}")).args(words).env("AMQP_URL", broker.url()).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// What the audit says was refused: how many for each reason and node.
async fn refused(fleet: &Fleet<'_>) -> Result<BTreeMap<(String, String), u64>> {
    let (_, page) = fleet.call(0, "GET", "/audit?limit=500", None).await?;
    let mut counts = BTreeMap::new();
    for entry in page["items"].as_array().context("a page")?.iter().filter(|entry| entry["kind"] == "task.refused") {
        let (what, text) = (&entry["data"]["what"], |value: &Value| value.as_str().unwrap_or_default().to_owned());
        *counts.entry((text(&what["why"]), text(&entry["subject"]))).or_default() +=
            what["count"].as_u64().unwrap_or(0);
    }
    Ok(counts)
}

#[tokio::test]
async fn a_captured_offer_sent_elsewhere_later_or_changed_does_nothing_but_be_counted_and_told() -> Result<()> {
    let broker = RabbitMq::shared().await?;
    let mut fleet = Fleet::by_broker(Postgres::shared()?, 1, 2, &broker).await?;
    let (_, nodes) = fleet.call(0, "GET", "/nodes", None).await?;
    let id = |number: usize| nodes["items"][number]["id"].as_str().context("a node").map(str::to_owned);
    let (own, other) = (id(0)?, id(1)?);
    let queue = |node: &str| format!("agent.{node}.tasks");
    fleet.kill_agent(0)?;
    let body = json!({"tasks": [{"kind": "echo", "target": {"node": "n0"}, "params": {"message": "once"}}]});
    let (_, answer) = fleet.call(0, "POST", "/tasks/batch", Some(body)).await?;
    let task = answer["answers"][0]["task"]["id"].as_str().context("a task")?.to_owned();
    let waits = async |_: &Fleet<'_>| Ok(broker.queue(&queue(&own))?.filter(|(n, _)| *n == 1));
    fleet.until("the offer waits for its agent", waits).await?;
    let copy = fleet.folder("captured").display().to_string();
    python(&broker, READ, &[&queue(&own), &copy])?;
    let attempt = format!("{task}.1.1");

    // To another node, while it waits: that node's rejection is not its task's end.
    python(&broker, SEND, &[&queue(&other), &copy, "as it is", &attempt])?;
    let counted = async |fleet: &Fleet<'_>, why: &str, n: u64| {
        let name = format!("hostler_agent_refused_total{{why=\"{why}\"}}");
        fleet.until(&name, async |fleet| Ok((fleet.counted(0, &name).await? == n).then_some(()))).await
    };
    counted(&fleet, "wrong_audience", 1).await?;
    let (_, waiting) = fleet.call(0, "GET", &format!("/tasks/{task}"), None).await?;
    assert_eq!(waiting["state"], "queued", "{waiting}");
    fleet.start_agent(0)?;
    assert_eq!(fleet.ends(0, std::slice::from_ref(&task)).await?, ["succeeded"]);

    // When it is over, and with one byte changed.
    python(&broker, SEND, &[&queue(&own), &copy, "as it is", &attempt])?;
    python(&broker, SEND, &[&queue(&own), &copy, "changed", &attempt])?;
    counted(&fleet, "old_fence", 1).await?;
    counted(&fleet, "bad_signature", 1).await?;
    let told = refused(&fleet).await?;
    let of = |why: &str, node: &str| told.get(&(why.to_owned(), node.to_owned())).copied();
    assert_eq!(of("wrong_audience", &other), Some(1), "{told:?}");
    assert_eq!((of("old_fence", &own), of("bad_signature", &own)), (Some(1), Some(1)), "{told:?}");
    let (_, after) = fleet.call(0, "GET", &format!("/tasks/{task}"), None).await?;
    assert_eq!((&after["state"], &after["fence"]["attempt"]), (&json!("succeeded"), &json!(1)), "{after}");
    let done = format!("done task.id={task}");
    assert_eq!((fleet.agent_log(0).matches(&done).count(), fleet.agent_log(1).matches(&done).count()), (1, 0));
    assert_eq!(fleet.ills(0).await?, [Value::Null; 0]);
    Ok(())
}
