//! What the doctor and the check of the configuration see of a broker.

use anyhow::Result;
use serde_json::{Value, json};

use super::scene::{Scene, id};

/// What the doctor says of the broker and what is there, by name: whether it is well, and the words.
fn told(doctor: &Value, name: &str) -> (bool, String) {
    let check = doctor.as_array().into_iter().flatten().find(|check| check["name"] == name);
    let check = check.cloned().unwrap_or_default();
    (check["verdict"] == json!("ok"), check["seen"].as_str().unwrap_or_default().to_owned())
}

/// The doctor's findings, also where he is not content.
fn doctor(scene: &Scene) -> Result<Value> {
    Ok(serde_json::from_slice(&scene.pair.hostler(&["doctor", "-o", "json"])?.stdout)?)
}

/// Whether the configuration is right, and what is said of it.
fn check(scene: &Scene) -> Result<(bool, String)> {
    let file = scene.pair.config().display().to_string();
    let output = scene.pair.hostler(&["config", "check", "--config", &file])?;
    Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
}

#[tokio::test]
async fn the_doctor_and_the_check_of_the_configuration_look_at_the_broker() -> Result<()> {
    let mut scene = Scene::with_agent_and_own_broker().await?;
    assert_eq!(scene.echo(&[])?["state"], "succeeded");
    let findings = doctor(&scene)?;
    for name in ["broker", "broker queues", "broker offers", "broker dead letters"] {
        assert!(told(&findings, name).0, "{name}: {findings:#}");
    }
    let (well, said) = check(&scene)?;
    assert!(well && said.contains("answers, and has the exchanges"), "{said}");

    scene.python("channel.basic_publish('results', 'task.x', b'nothing that can be read')", &[])?;
    scene
        .pair
        .until("it was put aside", |_| Ok(scene.broker.queue("hostler.results.dead")?.filter(|(n, _)| *n == 1)))
        .await?;
    scene.pair.kill_agent()?;
    scene.echo(&["--no-wait"])?;
    let queue = format!("agent.{}.tasks", id(&scene.pair.json(&["node", "show", "n1"])?)?);
    scene.pair.until("the offer is there", |_| Ok(scene.broker.queue(&queue)?.filter(|(n, _)| *n == 1))).await?;
    let findings = doctor(&scene)?;
    let (well, said) = told(&findings, "broker dead letters");
    assert!(!well && said.contains("1 results") && said.contains("purge_queue"), "{said}");
    let (well, said) = told(&findings, "broker offers");
    assert!(!well && said.contains("1 offers wait for n1"), "{said}");

    scene.broker.ctl(&["change_password", "guest", "another"])?;
    let (well, said) = check(&scene)?;
    assert!(!well && said.contains("cannot be reached") && said.contains("a user of it"), "{said}");
    assert!(!said.contains("guest:"), "no password is told: {said}");
    scene.broker.kill()?;
    let (well, said) = told(&doctor(&scene)?, "broker");
    assert!(!well && said.contains("cannot be reached") && said.contains("amqp_file"), "{said}");
    Ok(())
}
