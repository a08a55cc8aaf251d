//! A broker, a server that knows it, and an agent whose tasks come by it.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hostler_e2e::{dev::PATIENCE, pair::Pair, rabbitmq::RabbitMq};
use serde_json::Value;

/// Debian's, which has Debian's python3-pika.
pub const PYTHON: &str = "/usr/bin/python3";

/// The queues that a server takes from.
const OF_SERVERS: &[&str] = &["hostler.results", "hostler.jobs.dead", "hostler.telemetry"];

pub struct Scene {
    pub pair: Pair,
    pub broker: RabbitMq,
}

impl Scene {
    /// A server, and a virtual host of the broker that tests share; no agent.
    pub async fn new() -> Result<Scene> {
        let mut scene = Scene::over(RabbitMq::shared().await?)?;
        scene.pair.start_server().await?;
        Ok(scene)
    }

    /// This broker, and what is to be said of it; nothing else runs.
    pub fn over(broker: RabbitMq) -> Result<Scene> {
        hostler_trust::install_crypto();
        let pair = Pair::new()?;
        let (file, authority) = (broker.url_file()?, broker.authority());
        let way = format!("amqp_file = \"{}\"\namqp_authorities = \"{}\"", file.display(), authority.display());
        pair.configure("server", &way)?;
        pair.configure("agent", &format!("transport = \"amqp\"\n{way}\ndriver = \"sim\""))?;
        Ok(Scene { pair, broker })
    }

    /// And an agent that has its first heartbeat behind it.
    pub async fn with_agent() -> Result<Scene> {
        let mut scene = Scene::new().await?;
        scene.join_and_have_a_queue().await?;
        Ok(scene)
    }

    /// The same with a broker that may be killed.
    pub async fn with_agent_and_own_broker() -> Result<Scene> {
        let mut scene = Scene::over(RabbitMq::start().await?)?;
        scene.pair.start_server().await?;
        scene.join_and_have_a_queue().await?;
        // A queue that was made a moment ago is not safe from a power cut in this RabbitMQ: its copies are, once it ended
        // in order. That much is between an operator and the broker.
        scene.broker.restart().await?;
        Ok(scene)
    }

    async fn join_and_have_a_queue(&mut self) -> Result<()> {
        self.join().await?;
        let node = self.pair.json(&["node", "show", "n1"])?;
        self.pair.until("its queue is there", |_| self.broker.queue(&format!("agent.{}.tasks", id(&node)?))).await?;
        Ok(())
    }

    /// Starts the agent for the first time.
    pub async fn join(&mut self) -> Result<()> {
        let issued = self.pair.json(&["node", "token"])?;
        fs::write(self.pair.token_file(), issued["token"].as_str().unwrap_or_default())?;
        self.pair.start_agent().await
    }

    /// Runs a few lines of Python with a channel to the broker, `channel`, on which what is published is confirmed.
    pub fn python(&self, script: &str, words: &[&str]) -> Result<String> {
        const HEAD: &str = "
import os, sys, pika
channel = pika.BlockingConnection(pika.URLParameters(os.environ['AMQP_URL'])).channel()
channel.confirm_delivery()
";
        let mut command = Command::new(PYTHON);
        let output =
            command.arg("-c").arg(format!("{HEAD}{script}")).args(words).env("AMQP_URL", self.broker.url()).output()?;
        if !output.status.success() {
            bail!("{script}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

    /// Waits until the server counts this.
    pub async fn counted(&self, line: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let metrics = self.metrics().await?;
            if metrics.lines().any(|told| told == line) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let of_brokers: Vec<&str> = metrics.lines().filter(|line| line.starts_with("hostler_broker")).collect();
                bail!("{line} is not in\n{}\n{}", of_brokers.join("\n"), self.pair.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until nothing is left in a node's queue or in the server's.
    pub async fn empty(&self, node: &Value) -> Result<()> {
        self.drained(&[&format!("agent.{}.tasks", id(node)?)]).await?;
        self.taken().await
    }

    /// Waits until the server has taken all that was sent to it.
    pub async fn taken(&self) -> Result<()> {
        self.drained(OF_SERVERS).await
    }

    async fn drained(&self, names: &[&str]) -> Result<()> {
        let look = |_: &Pair| {
            let queues = self.broker.queues()?;
            let counts =
                names.iter().map(|name| queues.get(*name).with_context(|| format!("there is no queue {name}")));
            let counts = counts.collect::<Result<Vec<_>>>()?;
            Ok(counts.iter().all(|count| **count == (0, 0)).then_some(()))
        };
        self.pair.until(&format!("{names:?} are empty"), look).await
    }
}

/// The id of a task or a node.
pub fn id(thing: &Value) -> Result<&str> {
    thing["id"].as_str().with_context(|| format!("an id: {thing}"))
}
