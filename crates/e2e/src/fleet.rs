//! Several `hostler server`s over one PostgreSQL database, and agents that only pretend to run machines: each a process
//! of its own, killed and started by itself.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hostler_fixture::{Database, Postgres};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    dev::{Answer, PATIENCE, binary},
    process,
    rabbitmq::RabbitMq,
};

/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// Servers, agents and their database. Whatever they leave behind ends with this value.
pub struct Fleet<'a> {
    home: TempDir,
    database: Database<'a>,
    /// How servers reach it.
    url: String,
    servers: Vec<Process>,
    agents: Vec<Process>,
    http: reqwest::Client,
    token: String,
    /// What is said to servers and agents of a broker.
    broker: Option<String>,
}

struct Process {
    /// Where people reach a server, and where agents do.
    ports: (u16, u16),
    words: Vec<String>,
    child: Option<Child>,
}

impl<'a> Fleet<'a> {
    /// So many servers and agents over an empty database, running.
    pub async fn started(postgres: &'a Postgres, servers: usize, agents: usize) -> Result<Fleet<'a>> {
        Fleet::over(postgres.database()?, None, servers, agents, None).await
    }

    /// The same, with a server that follows that of the database, and may be promoted.
    pub async fn with_standby(
        postgres: &'a Postgres,
        standby: &Postgres,
        servers: usize,
        agents: usize,
    ) -> Result<Fleet<'a>> {
        Fleet::over(postgres.database()?, Some(standby), servers, agents, None).await
    }

    /// The same, and all tasks travel by this broker.
    pub async fn by_broker(
        postgres: &'a Postgres,
        servers: usize,
        agents: usize,
        broker: &RabbitMq,
    ) -> Result<Fleet<'a>> {
        Fleet::over(
            postgres.database()?,
            None,
            servers,
            agents,
            Some(format!("--amqp-file={}", broker.url_file()?.display())),
        )
        .await
    }

    async fn over(
        database: Database<'a>,
        standby: Option<&Postgres>,
        servers: usize,
        agents: usize,
        broker: Option<String>,
    ) -> Result<Fleet<'a>> {
        hostler_trust::install_crypto();
        let mut fleet = Fleet {
            home: tempfile::Builder::new().prefix("hostler-fleet").tempdir()?,
            url: standby.map_or_else(|| database.url(), |standby| database.url_on_both(standby)),
            database,
            servers: Vec::new(),
            agents: Vec::new(),
            http: reqwest::Client::builder().no_proxy().build()?,
            token: String::new(),
            broker,
        };
        for number in 0..servers {
            fleet.add_server(number)?;
            fleet.start_server(number).await?;
        }
        for number in 0..agents {
            fleet.add_agent(number).await?;
        }
        Ok(fleet)
    }

    fn add_server(&mut self, number: usize) -> Result<()> {
        let (listen, agents) = (free_port()?, free_port()?);
        let home = self.home.path().display();
        let words = [
            "server".to_owned(),
            format!("--data={home}/server-{number}"),
            format!("--listen=127.0.0.1:{listen}"),
            format!("--agents-listen=127.0.0.1:{agents}"),
            format!("--database={}", self.url),
            format!("--ca={home}/ca"),
            format!("--blobs={home}/blobs"),
            format!("--images={home}/none"),
            "--lease-seconds=5".to_owned(),
        ];
        let words = words.into_iter().chain(self.broker.clone()).collect();
        self.servers.push(Process { ports: (listen, agents), words, child: None });
        Ok(())
    }

    async fn add_agent(&mut self, number: usize) -> Result<()> {
        let home = self.home.path().display();
        let (status, issued) = self.call(0, "POST", "/join-tokens", Some(json!({"approve": true}))).await?;
        let token = issued["token"].as_str().with_context(|| format!("a token: {status} {issued}"))?;
        let file = self.home.path().join(format!("token-{number}"));
        fs::write(&file, token)?;
        let known: Vec<String> =
            self.servers.iter().map(|server| format!("https://127.0.0.1:{}", server.ports.1)).collect();
        let words = [
            "agent".to_owned(),
            format!("--data={home}/agent-{number}"),
            format!("--server={}", known.join(",")),
            format!("--name=n{number}"),
            format!("--run={home}/run-{number}"),
            format!("--join-token-file={}", file.display()),
            "--driver=sim".to_owned(),
        ];
        let road = self.broker.iter().flat_map(|file| ["--transport=amqp".to_owned(), file.clone()]);
        let words = words.into_iter().chain(road).collect();
        self.agents.push(Process { ports: (0, 0), words, child: None });
        self.start_agent(number)?;
        let name = format!("n{number}");
        self.until("the agent is heard", async |fleet: &Fleet<'_>| {
            let (_, nodes) = fleet.call(0, "GET", "/nodes", None).await?;
            let fresh = |node: &Value| node["name"] == *name && node["freshness"] == "fresh";
            Ok(nodes["items"].as_array().is_some_and(|nodes| nodes.iter().any(fresh)).then_some(()))
        })
        .await
    }

    fn spawn(&self, words: &[String]) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.home.path().join("log"))?;
        let mut command = Command::new(binary()?);
        command.args(words).env("HOSTLER_CONFIG", "/dev/null").env_remove("HOSTLER_DATA");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().context("the binary under test cannot be started")
    }

    /// Starts a server and waits until it answers.
    pub async fn start_server(&mut self, number: usize) -> Result<()> {
        let mut child = self.spawn(&self.servers[number].words)?;
        let file = self.folder(&format!("server-{number}/client.json"));
        self.token = self
            .until("the server says how it is reached", async |_: &Fleet<'_>| {
                let text = fs::read_to_string(&file).unwrap_or_default();
                let client: Value = serde_json::from_str(&text).unwrap_or_default();
                if let Some(status) = child.try_wait()? {
                    bail!("the server ended with {status}");
                }
                Ok(client["token"].as_str().map(str::to_owned))
            })
            .await
            .with_context(|| self.log())?;
        self.servers[number].child = Some(child);
        self.until("the server answers", async |fleet: &Fleet<'_>| {
            Ok(fleet.call(number, "GET", "/nodes", None).await.is_ok_and(|(status, _)| status == 200).then_some(()))
        })
        .await
    }

    /// Starts an agent.
    pub fn start_agent(&mut self, number: usize) -> Result<()> {
        self.agents[number].child = Some(self.spawn(&self.agents[number].words)?);
        Ok(())
    }

    /// Ends a server without warning.
    pub fn kill_server(&mut self, number: usize) -> Result<()> {
        let mut child = self.servers[number].child.take().context("the server runs")?;
        drop(fs::remove_file(self.folder(&format!("server-{number}/client.json"))));
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends an agent without warning.
    pub fn kill_agent(&mut self, number: usize) -> Result<()> {
        let mut child = self.agents[number].child.take().context("the agent runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends a server as systemd does, and waits.
    pub async fn stop_server(&mut self, number: usize) -> Result<()> {
        let mut child = self.servers[number].child.take().context("the server runs")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.until("the server ends", async |_: &Fleet<'_>| Ok(child.try_wait()?)).await?;
        if status.success() { Ok(()) } else { bail!("it ended with {status}:\n{}", self.log()) }
    }

    /// The words by which another server over the same database would be started, with this data folder.
    pub fn server_words(&self, number: usize) -> Vec<String> {
        self.servers[number].words.clone()
    }

    /// A folder in the fleet's own.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The database.
    pub fn database(&self) -> &Database<'a> {
        &self.database
    }

    /// Calls one of the servers.
    pub async fn call(&self, server: usize, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        self.ask(&self.at(server), method, path, body).await
    }

    /// Where people reach a server.
    fn at(&self, server: usize) -> String {
        format!("http://127.0.0.1:{}", self.servers[server].ports.0)
    }

    async fn ask(&self, at: &str, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        let request = self.http.request(method.parse()?, format!("{at}/api/v1{path}")).bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.header("Prefer", "wait=20").json(&body),
            None => request,
        };
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Submits an `echo` to one of the servers and waits for its end there.
    pub async fn echo(&self, server: usize) -> Result<Answer> {
        self.call(server, "POST", "/tasks", Some(json!({"kind": "echo", "params": {"message": "hello"}}))).await
    }

    /// Submits many at once, without waiting; the ids of those that were accepted.
    pub async fn echoes(&self, server: usize, count: usize) -> Result<Vec<String>> {
        let one = json!({"kind": "echo", "params": {"message": "hello"}});
        let (status, answer) =
            self.call(server, "POST", "/tasks/batch", Some(json!({"tasks": vec![one; count]}))).await?;
        let items = answer["answers"].as_array().with_context(|| format!("{status} {answer}"))?;
        Ok(items.iter().filter_map(|item| item["task"]["id"].as_str().map(str::to_owned)).collect())
    }

    /// Waits until none of these is under way; how they ended.
    pub async fn ends(&self, server: usize, tasks: &[String]) -> Result<Vec<String>> {
        let mut ends = Vec::new();
        for task in tasks {
            let end = self
                .until("a task ends", async |fleet: &Fleet<'_>| {
                    let (_, task) = fleet.call(server, "GET", &format!("/tasks/{task}"), None).await?;
                    let state = task["state"].as_str().unwrap_or_default().to_owned();
                    Ok(["succeeded", "failed", "cancelled"].contains(&state.as_str()).then_some(state))
                })
                .await?;
            ends.push(end);
        }
        Ok(ends)
    }

    /// The number that a server counts under this name, with its labels.
    pub async fn counted(&self, server: usize, what: &str) -> Result<u64> {
        let asked = self.http.get(format!("{}/metrics", self.at(server))).bearer_auth(&self.token);
        let text = asked.send().await?.error_for_status()?.text().await?;
        let number = text.lines().find_map(|line| line.strip_prefix(what)?.trim().parse().ok());
        Ok(number.unwrap_or(0))
    }

    /// What the doctor found wrong.
    pub async fn ills(&self, server: usize) -> Result<Vec<Value>> {
        let (status, diagnosis) = self.call(server, "GET", "/doctor", None).await?;
        let checks = diagnosis["checks"].as_array().with_context(|| format!("{status} {diagnosis}"))?;
        Ok(checks.iter().filter(|check| check["ok"] != true).cloned().collect())
    }

    /// What all said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Asks again and again until there is an answer.
    pub async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask(self).await? {
                return Ok(answer);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{what}: not after {PATIENCE:?}; the log says\n{}", self.log());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().chain(&mut self.servers).filter_map(|process| process.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        process::naming(self.home.path()).into_iter().for_each(process::kill);
    }
}
