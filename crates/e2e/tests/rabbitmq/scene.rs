//! A broker, a server that knows it, and an agent whose tasks come by it.

use std::fs;

use anyhow::{Context, Result, bail};
use hostler_e2e::{pair::Pair, rabbitmq::RabbitMq};
use serde_json::Value;

pub struct Scene {
    pub pair: Pair,
    pub broker: RabbitMq,
}

impl Scene {
    /// A broker and a server; no agent.
    pub async fn new() -> Result<Scene> {
        hostler_trust::install_crypto();
        let broker = RabbitMq::start().await?;
        let mut pair = Pair::new()?;
        let file = broker.url_file()?;
        pair.configure("server", &format!("amqp_file = \"{}\"", file.display()))?;
        pair.configure(
            "agent",
            &format!("transport = \"amqp\"\namqp_file = \"{}\"\ndriver = \"sim\"", file.display()),
        )?;
        pair.start_server().await?;
        Ok(Scene { pair, broker })
    }

    /// And an agent that has its first heartbeat behind it.
    pub async fn with_agent() -> Result<Scene> {
        let mut scene = Scene::new().await?;
        let issued = scene.pair.json(&["node", "token"])?;
        fs::write(scene.pair.token_file(), issued["token"].as_str().unwrap_or_default())?;
        scene.pair.start_agent().await?;
        let node = scene.pair.json(&["node", "show", "n1"])?;
        scene.pair.until("its queue is there", |_| scene.broker.queue(&format!("agent.{}.tasks", id(&node)?))).await?;
        // A queue that was made a moment ago is not safe from a power cut in this RabbitMQ: its copies are, once it ended
        // in order. That much is between an operator and the broker.
        scene.broker.restart().await?;
        Ok(scene)
    }

    /// Submits an echo.
    pub fn echo(&self, words: &[&str]) -> Result<Value> {
        self.pair.json(&[&["task", "submit", "echo", "--param", "message=hi"], words].concat())
    }

    /// A task as it is now.
    pub fn task(&self, task: &Value) -> Result<Value> {
        self.pair.json(&["task", "show", id(task)?])
    }

    /// Waits until a task is in this state.
    pub async fn until(&self, task: &Value, state: &str) -> Result<Value> {
        let id = id(task)?.to_owned();
        self.pair
            .until(&format!("the task {id} is {state}"), |pair| {
                let task = pair.json(&["task", "show", &id])?;
                Ok((task["state"] == state).then_some(task))
            })
            .await
    }

    /// What the server counts.
    pub async fn metrics(&self) -> Result<String> {
        let file: Value = serde_json::from_str(&fs::read_to_string(self.pair.folder("server/client.json"))?)?;
        let (url, token) = (file["url"].as_str().context("a url")?, file["token"].as_str().context("a token")?);
        let answer = reqwest::Client::builder().no_proxy().build()?.get(format!("{url}/metrics")).bearer_auth(token);
        Ok(answer.send().await?.error_for_status()?.text().await?)
    }

    /// Waits until nothing is left in a node's queue or in the server's.
    pub async fn empty(&self, node: &Value) -> Result<()> {
        self.drained(&format!("agent.{}.tasks", id(node)?)).await?;
        self.taken().await
    }

    /// Waits until the server has taken all that was sent to it.
    pub async fn taken(&self) -> Result<()> {
        for queue in ["hostler.results", "hostler.jobs.dead", "hostler.telemetry"] {
            self.drained(queue).await?;
        }
        Ok(())
    }

    async fn drained(&self, queue: &str) -> Result<()> {
        let look = |_: &Pair| match self.broker.queue(queue)? {
            Some((0, 0)) => Ok(Some(())),
            Some(_) => Ok(None),
            None => bail!("there is no queue {queue}"),
        };
        self.pair.until(&format!("{queue} is empty"), look).await
    }
}

/// The id of a task or a node.
pub fn id(thing: &Value) -> Result<&str> {
    thing["id"].as_str().with_context(|| format!("an id: {thing}"))
}
