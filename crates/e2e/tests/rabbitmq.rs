//! Tasks by way of a real RabbitMQ, with the real server and the real agent: offered, begun, settled; with the broker
//! down, killed and back; and in plain form, with the example in Python as the agent.

#[cfg(feature = "crash-points")]
#[path = "rabbitmq/crash.rs"]
mod crash;
#[path = "rabbitmq/doctor.rs"]
mod doctor;
#[path = "rabbitmq/plain.rs"]
mod plain;
#[path = "rabbitmq/replay.rs"]
mod replay;
#[path = "rabbitmq/scene.rs"]
mod scene;
#[path = "rabbitmq/several.rs"]
mod several;

use anyhow::Result;
use hostler_e2e::{
    pair::Pair,
    rabbitmq::{RabbitMq, Wire},
};
use serde_json::{Value, json};

use self::scene::{Scene, id};

#[tokio::test]
async fn a_task_is_offered_begun_and_settled_by_the_broker() -> Result<()> {
    let scene = Scene::with_agent().await?;
    let node = scene.pair.json(&["node", "show", "n1"])?;
    assert_eq!((&node["transport"], &node["facts"]["transport"]), (&json!("amqp"), &json!("amqp")));
    let task = scene.echo(&[])?;
    assert_eq!((&task["state"], &task["output"]["message"]), (&json!("succeeded"), &json!("hi")));
    assert_eq!(task["fence"]["attempt"], 1);
    let settled = r#"hostler_broker_messages_total{queue="hostler.results",outcome="settled"} 1"#;
    scene.counted(settled).await?;
    scene.counted(r#"hostler_broker_offers_total{outcome="confirmed"} 1"#).await?;
    let watch = "
queue = channel.queue_declare('', exclusive=True).method.queue
channel.queue_bind(queue, 'agent.telemetry', 'heartbeat.#')
for _, _, body in channel.consume(queue):
    print(body.decode())
    break
";
    let said: Value = serde_json::from_str(&scene.python(watch, &[])?)?;
    assert_eq!((&said["agentId"], &said["inventory"]["full"]), (&node["id"], &json!(true)), "others may watch");
    scene.empty(&node).await
}

#[tokio::test]
async fn submits_go_on_while_the_broker_is_down_and_offers_go_out_when_it_is_back() -> Result<()> {
    let mut scene = Scene::with_agent_and_own_broker().await?;
    assert_eq!(scene.echo(&[])?["state"], "succeeded");
    scene.broker.kill()?;
    let tasks = (0..5).map(|_| scene.echo(&["--no-wait"])).collect::<Result<Vec<_>>>()?;
    // A task that is only in the outbox is cancelled at once.
    let cancelled = scene.echo(&["--no-wait"])?;
    scene.pair.says(&["task", "cancel", id(&cancelled)?])?;
    assert_eq!(scene.task(&cancelled)?["state"], "cancelled");
    assert_eq!(scene.task(&tasks[0])?["state"], "queued");
    scene.broker.again().await?;
    for task in &tasks {
        let ended = scene.until(task, "succeeded").await?;
        assert_eq!(ended["fence"]["attempt"], 1, "no attempt was lost to the broker");
    }
    assert_eq!(scene.pair.json(&["node", "show", "n1"])?["freshness"], "fresh", "heartbeats take another road");
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_killed_again_and_again_under_load_costs_no_task_and_no_attempt() -> Result<()> {
    const TASKS: usize = 60;
    let mut scene = Scene::with_agent_and_own_broker().await?;
    let mut tasks = Vec::new();
    for round in 0..3 {
        for _ in 0..TASKS / 3 {
            tasks.push(scene.pair.json(&[
                "task",
                "submit",
                "echo",
                "--params",
                "{\"message\": \"hi\", \"delay_ms\": 400}",
                "--no-wait",
            ])?);
        }
        // In the middle of it: some wait in the outbox, some in the queue, some are done and not yet told.
        let done = tasks.len() / 2;
        scene
            .pair
            .until("half of what was asked for has begun", |pair| {
                let all = pair.json(&["task", "list", "--kind", "echo", "--limit", "200"])?;
                let begun = all.as_array().into_iter().flatten().filter(|task| task["state"] != "queued").count();
                Ok((begun >= done).then_some(()))
            })
            .await?;
        scene.broker.kill()?;
        scene.broker.again().await?;
        eprintln!("round {round}: the broker is back");
    }
    for task in &tasks {
        let ended = scene.until(task, "succeeded").await?;
        assert_eq!(ended["fence"]["attempt"], 1, "{ended}");
        assert_eq!(ended["output"]["message"], "hi");
    }
    let node = scene.pair.json(&["node", "show", "n1"])?;
    scene.empty(&node).await?;
    let doctor = scene.pair.json(&["doctor"])?;
    let bad: Vec<&Value> =
        doctor["checks"].as_array().into_iter().flatten().filter(|check| check["ok"] == false).collect();
    assert!(bad.is_empty(), "{bad:?}");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_killed_with_offers_goes_on_with_them() -> Result<()> {
    let mut scene = Scene::with_agent().await?;
    assert_eq!(scene.echo(&[])?["state"], "succeeded");
    scene.pair.kill_agent()?;
    let tasks = (0..5).map(|_| scene.echo(&["--no-wait"])).collect::<Result<Vec<_>>>()?;
    let node = scene.pair.json(&["node", "show", "n1"])?;
    let queue = format!("agent.{}.tasks", id(&node)?);
    scene
        .pair
        .until("the offers are in the queue", |_| Ok(scene.broker.queue(&queue)?.filter(|(ready, _)| *ready == 5)))
        .await?;
    for task in &tasks {
        let shown = scene.task(task)?;
        assert_eq!(
            (&shown["state"], &shown["fence"]["attempt"]),
            (&json!("queued"), &json!(0)),
            "nothing is leased yet"
        );
    }
    // One of them is cancelled meanwhile: it ends at once, and its agent is told so when it begins.
    scene.pair.says(&["task", "cancel", id(&tasks[4])?])?;
    assert_eq!(scene.task(&tasks[4])?["state"], "cancelled");
    scene.pair.start_agent().await?;
    for task in &tasks[..4] {
        scene.until(task, "succeeded").await?;
    }
    scene.empty(&node).await?;
    assert_eq!(scene.task(&tasks[4])?["state"], "cancelled");
    assert!(scene.pair.log().contains("an offer is over; it was not begun"), "{}", scene.pair.log());
    Ok(())
}

#[tokio::test]
async fn an_agent_may_change_its_road_and_what_waits_goes_along() -> Result<()> {
    let mut scene = Scene::with_agent().await?;
    scene.pair.stop_agent().await?;
    let task = scene.echo(&["--no-wait"])?;
    let text = std::fs::read_to_string(scene.pair.config())?;
    std::fs::write(scene.pair.config(), text.replacen("transport = \"amqp\"", "transport = \"poll\"", 1))?;
    scene.pair.start_agent().await?;
    assert_eq!(scene.until(&task, "succeeded").await?["fence"]["attempt"], 1);
    assert_eq!(scene.pair.json(&["node", "show", "n1"])?["transport"], "poll");
    let text = std::fs::read_to_string(scene.pair.config())?;
    std::fs::write(scene.pair.config(), text.replacen("transport = \"poll\"", "transport = \"amqp\"", 1))?;
    scene.pair.stop_agent().await?;
    scene.pair.start_agent().await?;
    assert_eq!(scene.echo(&[])?["state"], "succeeded");
    Ok(())
}

#[tokio::test]
async fn the_brokers_password_is_in_no_log_and_no_answer() -> Result<()> {
    let scene = Scene::with_agent().await?;
    assert_eq!(scene.echo(&[])?["state"], "succeeded");
    let secret = "guest:guest";
    assert!(!scene.pair.log().contains(secret), "{}", scene.pair.log());
    let shown = std::process::Command::new(hostler_e2e::dev::binary()?)
        .args(["config", "show", "--config"])
        .arg(scene.pair.config())
        .env("HOSTLER_SERVER_AMQP", scene.broker.url())
        .output()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("amqp://(redacted)@127.0.0.1:{}", scene.broker.port())), "{shown}");
    assert!(!shown.contains(secret), "{shown}");
    Ok(())
}

#[tokio::test]
async fn an_offer_that_comes_again_and_again_is_done_once() -> Result<()> {
    let mut scene = Scene::with_agent().await?;
    let node = scene.pair.json(&["node", "show", "n1"])?;
    let queue = format!("agent.{}.tasks", id(&node)?);
    scene.pair.stop_agent().await?;
    let task = scene.echo(&["--no-wait"])?;
    scene
        .pair
        .until("the offer is in the queue", |_| Ok(scene.broker.queue(&queue)?.filter(|found| *found == (1, 0))))
        .await?;
    let again = "
method, properties, body = channel.basic_get(sys.argv[1])
open(sys.argv[2], 'wb').write(body)
for _ in range(3):
    channel.basic_publish('', sys.argv[1], body, properties)
channel.basic_ack(method.delivery_tag)
";
    let copy = scene.pair.folder("offer").display().to_string();
    scene.python(again, &[&queue, &copy])?;
    scene.pair.start_agent().await?;
    scene.until(&task, "succeeded").await?;
    scene.empty(&node).await?;
    // And once more, when it is long over.
    scene.python("channel.basic_publish('', sys.argv[1], open(sys.argv[2], 'rb').read())", &[&queue, &copy])?;
    scene.empty(&node).await?;
    let over = |pair: &Pair| Ok(pair.log().contains("old_fence").then_some(()));
    scene.pair.until("the agent is told that it is over", over).await?;
    let done = format!("done task.id={}", id(&task)?);
    assert_eq!(scene.pair.log().matches(&done).count(), 1, "{}", scene.pair.log());
    assert_eq!(scene.task(&task)?["fence"]["attempt"], 1);
    Ok(())
}

#[tokio::test]
async fn what_is_no_offer_of_the_servers_is_rejected_and_ends_nothing() -> Result<()> {
    let scene = Scene::with_agent().await?;
    let node = scene.pair.json(&["node", "show", "n1"])?;
    let forge = "
for body in [b'', b'{}', b'\\xff\\xfe', b'eyJhbGciOiJub25lIn0.e30.', b'x' * (1 << 20)]:
    channel.basic_publish('jobs', sys.argv[1], body)
";
    scene.python(forge, &[&format!("agent.{}", id(&node)?)])?;
    scene.empty(&node).await?;
    let line = r#"hostler_broker_messages_total{queue="hostler.jobs.dead",outcome="malformed"} 5"#;
    scene.counted(line).await?;
    assert_eq!(scene.echo(&[])?["state"], "succeeded");
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_that_no_server_signed_ends_nothing_and_the_offer_itself_does() -> Result<()> {
    let mut scene = Scene::with_agent().await?;
    scene.pair.kill_agent()?;
    let task = scene.echo(&["--no-wait"])?;
    let queue = format!("agent.{}.tasks", id(&scene.pair.json(&["node", "show", "n1"])?)?);
    scene.pair.until("the offer is there", |_| Ok(scene.broker.queue(&queue)?.filter(|(n, _)| *n == 1))).await?;
    // Its id can be guessed, and its reason can be written by anybody.
    let forge = "
method, properties, body = channel.basic_get(sys.argv[1])
forged = body[:-8] + (b'AAAAAAAA' if body[-8:] != b'AAAAAAAA' else b'BBBBBBBB')
for kind, text in [('application/jose', forged), ('application/jose', b'x'), ('application/json', b'{}')]:
    channel.basic_publish('jobs.dead', '', text, pika.BasicProperties(
        content_type=kind, message_id=properties.message_id,
        headers={'x-first-death-reason': 'rejected', 'x-first-death-queue': sys.argv[1]}))
channel.basic_nack(method.delivery_tag)
";
    scene.python(forge, &[&queue])?;
    scene.counted(r#"hostler_broker_messages_total{queue="hostler.jobs.dead",outcome="not_believed"} 2"#).await?;
    scene.counted(r#"hostler_broker_messages_total{queue="hostler.jobs.dead",outcome="rejected"} 1"#).await?;
    scene.taken().await?;
    assert_eq!(scene.task(&task)?["state"], "queued");
    let reject = "
method, _, _ = channel.basic_get(sys.argv[1])
channel.basic_reject(method.delivery_tag, requeue=False)
";
    scene.python(reject, &[&queue])?;
    assert_eq!(scene.until(&task, "failed").await?["error"]["code"], "TASK_REFUSED");
    Ok(())
}

#[tokio::test]
async fn a_broker_over_tls_is_believed_by_its_authority_only() -> Result<()> {
    let mut scene = Scene::over(RabbitMq::start_with(Wire::Tls).await?)?;
    scene.pair.start_server().await?;
    scene.join().await?;
    assert_eq!(scene.echo(&[])?["state"], "succeeded");

    // Another authority than the broker's.
    let text = std::fs::read_to_string(scene.pair.config())?;
    let system = "/etc/ssl/certs/ca-certificates.crt";
    std::fs::write(scene.pair.config(), text.replace(&scene.broker.authority().display().to_string(), system))?;
    scene.pair.stop_server().await?;
    scene.pair.start_server().await?;
    let said = |pair: &Pair| Ok(pair.log().contains("cannot be reached").then_some(()));
    scene.pair.until("the broker is not believed", said).await?;
    assert!(scene.metrics().await?.contains("hostler_broker_connected 0"));
    let task = scene.echo(&["--no-wait"])?;
    assert_eq!(scene.task(&task)?["state"], "queued");
    std::fs::write(scene.pair.config(), text)?;
    scene.pair.stop_server().await?;
    scene.pair.start_server().await?;
    scene.until(&task, "succeeded").await?;
    Ok(())
}

#[tokio::test]
async fn a_broker_that_hangs_lapses_no_lease() -> Result<()> {
    let mut scene = Scene::with_agent_and_own_broker().await?;
    let task = scene.pair.json(&[
        "task",
        "submit",
        "echo",
        "--param",
        "message=hi",
        "--param",
        "delay_ms=3000",
        "--no-wait",
    ])?;
    scene.until(&task, "running").await?;
    scene.broker.hang()?;
    let done = format!("done task.id={}", id(&task)?);
    scene.pair.until("it is done", |pair| Ok(pair.log().contains(&done).then_some(()))).await?;
    // Until the connection is given up a lease of 5 s passes several times.
    let gone = |pair: &Pair| Ok(pair.log().contains("the broker is not there").then_some(()));
    scene.pair.until("the connection is given up", gone).await?;
    assert_eq!(scene.task(&task)?["state"], "running", "its result has not come through");
    scene.broker.wake()?;
    assert_eq!(scene.until(&task, "succeeded").await?["fence"]["attempt"], 1);
    assert!(!scene.pair.log().contains("lapse_leases"), "{}", scene.pair.log());
    Ok(())
}

#[tokio::test]
async fn a_real_machine_comes_and_goes_by_the_broker() -> Result<()> {
    let mut scene = Scene::over(RabbitMq::start().await?)?;
    let text = std::fs::read_to_string(scene.pair.config())?;
    std::fs::write(scene.pair.config(), text.replace("driver = \"sim\"\n", ""))?;
    scene.pair.start_server().await?;
    scene.join().await?;
    scene.pair.says(&["vm", "create", "m"])?;
    assert_eq!(scene.pair.says(&["vm", "exec", "m", "--", "echo", "up"])?, "up\n");
    assert_eq!(scene.pair.qemus().len(), 1);
    scene.broker.kill()?;
    assert_eq!(scene.pair.qemus().len(), 1, "a machine needs no broker");
    scene.broker.again().await?;
    scene.pair.says(&["vm", "delete", "m"])?;
    assert!(scene.pair.qemus().is_empty());
    Ok(())
}
