//! The plain form: `examples/plain_agent.py` is the agent, and what others send that makes no sense is put aside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use hostler_e2e::pair::Pair;
use serde_json::{Value, json};

use crate::scene::{PYTHON, Scene, id};

/// The example, as a process.
struct Example {
    child: Child,
    log: PathBuf,
}

impl Example {
    fn start(scene: &Scene, node: &Value) -> Result<Example> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/plain_agent.py");
        let log = scene.pair.folder("plain.log");
        let out = fs::File::options().create(true).append(true).open(&log)?;
        let child = Command::new(PYTHON)
            .arg(script)
            .env("AMQP_URL", scene.broker.url())
            .env("AGENT_ID", id(node)?)
            .env("DONE_FILE", scene.pair.folder("done.jsonl"))
            .env("HEARTBEAT_SECONDS", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("Debian's python3 cannot be started")?;
        Ok(Example { child, log })
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Publishes as anybody may: exchange, key, and the message as it stands.
fn publish(scene: &Scene, exchange: &str, key: &str, body: &[u8]) -> Result<()> {
    let file = scene.pair.folder("message");
    fs::write(&file, body)?;
    let script = "
said = pika.BasicProperties(user_id='guest')
channel.basic_publish(sys.argv[1], sys.argv[2], open(sys.argv[3], 'rb').read(), said)
";
    scene.python(script, &[exchange, key, &file.display().to_string()]).map(drop)
}

async fn with_plain_node() -> Result<(Scene, Value)> {
    let scene = Scene::new().await?;
    let can = "echo,diag.health_probe";
    let node = scene.pair.json(&["node", "add", "rack9", "--can", can, "--memory", "1G", "--user", "guest"])?;
    assert_eq!((&node["transport"], &node["state"]), (&json!("plain"), &json!("ready")));
    let queue = format!("agent.{}.tasks", id(&node)?);
    scene.pair.until("its queue is there", |_| scene.broker.queue(&queue)).await?;
    Ok((scene, node))
}

#[tokio::test]
async fn the_example_in_python_is_an_agent() -> Result<()> {
    let (scene, node) = with_plain_node().await?;
    let mut example = Example::start(&scene, &node)?;
    let task = scene.echo(&[])?;
    assert_eq!(
        (&task["state"], &task["output"]),
        (&json!("succeeded"), &json!({"message": "hi"})),
        "{}",
        example.log()
    );
    assert_eq!((&task["fence"]["attempt"], &task["node"]), (&json!(1), &node["id"]));
    let heard = |pair: &Pair| -> Result<Option<()>> {
        let node = pair.json(&["node", "show", "rack9"])?;
        Ok((node["facts"]["agent_version"] == "plain_agent.py").then_some(()))
    };
    let heard = scene.pair.until("it is heard", heard).await;
    assert!(heard.is_ok(), "{}", example.log());

    // While it is away its tasks wait; killed in the middle of one, it tells once what it did.
    example.kill()?;
    let waiting = scene.echo(&["--no-wait"])?;
    scene.until(&waiting, "running").await?;
    let mut example = Example::start(&scene, &node)?;
    scene.until(&waiting, "succeeded").await?;
    example.kill()?;
    let done = fs::read_to_string(scene.pair.folder("done.jsonl"))?;
    assert_eq!(done.lines().count(), 2, "{done}");
    scene.empty(&node).await
}

#[tokio::test]
async fn what_a_plain_agent_will_not_do_fails_with_that_reason() -> Result<()> {
    let (scene, node) = with_plain_node().await?;
    let _example = Example::start(&scene, &node)?;
    let refused = scene.pair.json(&["task", "submit", "diag.health_probe", "--node", "rack9", "--no-wait"])?;
    let ended = scene.until(&refused, "failed").await?;
    assert_eq!(ended["error"]["code"], "TASK_REFUSED", "{ended}");
    assert!(ended["error"]["detail"].as_str().unwrap_or_default().contains("rejected"), "{ended}");
    scene.empty(&node).await
}

#[tokio::test]
async fn of_a_plain_task_that_nobody_tells_of_in_time_nobody_knows_what_became() -> Result<()> {
    let (scene, node) = with_plain_node().await?;
    let task = scene.echo(&["--queue-timeout", "8s", "--no-wait"])?;
    let queue = format!("agent.{}.tasks", id(&node)?);
    scene.until(&task, "running").await?;
    // It takes the task, and ends without a word.
    let script = "
for _ in channel.consume(sys.argv[1]):
    break
";
    scene.python(script, &[&queue])?;
    let ended = scene.until(&task, "failed").await?;
    assert_eq!(ended["error"]["code"], "OUTCOME_UNKNOWN", "{ended}");
    assert_eq!(ended["dead_letter"], "waiting", "a person is to decide");
    scene.empty(&node).await
}

#[tokio::test]
async fn what_makes_no_sense_is_counted_put_aside_and_changes_nothing() -> Result<()> {
    let (scene, node) = with_plain_node().await?;
    let other = scene.pair.json(&["node", "add", "rack8", "--can", "diag.health_probe"])?;
    let task = scene.echo(&["--no-wait"])?;
    scene.until(&task, "running").await?;
    let (task_id, node_id, other_id) = (id(&task)?, id(&node)?, id(&other)?);
    let result = |task: &str, node: &str| {
        json!({"taskId": task, "agentId": node, "ok": true, "result": {"message": "forged"}}).to_string().into_bytes()
    };
    let stranger = "01900000-0000-7000-8000-000000000042";
    let key = format!("task.{task_id}");
    for body in [
        b"{".to_vec(),
        b"\xff\xfe".to_vec(),
        b"eyJhbGciOiJFUzI1NiJ9.e30.AAAA".to_vec(),
        vec![b' '; 3 << 20],
        result(task_id, other_id),
        result(task_id, stranger),
        result(stranger, node_id),
        Vec::new(),
    ] {
        publish(&scene, "results", &key, &body)?;
    }
    // It says that it is signed, and is not.
    let forge = "
unsigned = b'{\"results\": [], \"together\": 8, \"signed\": [\"a.b.c\"], \"certificate\": \"\"}'
for body in (unsigned, b'a.b.c'):
    said = pika.BasicProperties(content_type='application/vnd.hostler.result+json')
    channel.basic_publish('results', sys.argv[1], body, said)
";
    scene.python(forge, &[&key])?;
    for body in [b"[]".to_vec(), vec![b' '; 1 << 20], json!({"agentId": stranger}).to_string().into_bytes()] {
        publish(&scene, "agent.telemetry", "heartbeat.x", &body)?;
    }
    publish(&scene, "jobs.dead", "x", b"nothing")?;
    scene.taken().await?;
    assert_eq!(scene.task(&task)?["state"], "running");
    for (queue, outcome, count) in [
        ("hostler.results", "malformed", 5),
        ("hostler.results", "not_believed", 1),
        ("hostler.results", "too_large", 1),
        ("hostler.results", "identity", 2),
        ("hostler.results", "unknown", 1),
        ("hostler.telemetry", "malformed", 2),
        ("hostler.telemetry", "unknown", 1),
        ("hostler.jobs.dead", "malformed", 1),
    ] {
        let line = format!(r#"hostler_broker_messages_total{{queue="{queue}",outcome="{outcome}"}} {count}"#);
        scene.counted(&line).await?;
    }
    // All but the unknown one are kept for people; the broker puts them aside when it comes to it.
    scene
        .pair
        .until(
            "they are put aside",
            |_| Ok((scene.broker.queue("hostler.results.dead")? == Some((9, 0))).then_some(())),
        )
        .await?;
    // And it goes on as before.
    publish(&scene, "results", &key, &result(task_id, node_id))?;
    assert_eq!(scene.until(&task, "succeeded").await?["output"]["message"], "forged");
    Ok(())
}

#[tokio::test]
async fn nobody_but_its_own_user_speaks_for_a_plain_node() -> Result<()> {
    let (scene, node) = with_plain_node().await?;
    let task = scene.echo(&["--no-wait"])?;
    scene.until(&task, "running").await?;
    scene.broker.ctl(&["-q", "add_user", "other", "secret"])?;
    scene.broker.permit("other")?;
    let other = scene.broker.url().replace("guest:guest", "other:secret");
    let result =
        json!({"taskId": id(&task)?, "agentId": id(&node)?, "ok": true, "result": {"message": "forged"}}).to_string();
    let beat = json!({"agentId": id(&node)?, "version": "forged"}).to_string();
    // It does not say who it is, or says who it is, or says that it is somebody else.
    let forge = "
url, result, beat = sys.argv[1:]
for user in (None, 'other', 'guest'):
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.confirm_delivery()
    said = pika.BasicProperties(user_id=user)
    try:
        channel.basic_publish('results', 'task.x', result.encode(), said)
        channel.basic_publish('agent.telemetry', 'heartbeat.x', beat.encode(), said)
    except pika.exceptions.ChannelClosedByBroker as error:
        print(user, error.reply_code)
";
    assert_eq!(scene.python(forge, &[&other, &result, &beat])?, "guest 406\n", "the broker refuses the lie");
    scene.counted(r#"hostler_broker_messages_total{queue="hostler.results",outcome="identity"} 2"#).await?;
    scene.counted(r#"hostler_broker_messages_total{queue="hostler.telemetry",outcome="identity"} 2"#).await?;
    assert_eq!(scene.task(&task)?["state"], "running");
    assert_ne!(scene.pair.json(&["node", "show", "rack9"])?["facts"]["agent_version"], "forged");
    publish(&scene, "results", "task.x", result.as_bytes())?;
    scene.until(&task, "succeeded").await?;
    Ok(())
}
