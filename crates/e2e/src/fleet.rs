//! `hostler server`s over one database, several where that is PostgreSQL's, and agents that only pretend to run machines:
//! each a process of its own, killed and started by itself; where a test cuts them off from each other, on a host of its own.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hostler_fixture::{Database, Postgres, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    dev::{Answer, LOOK, PATIENCE, binary},
    netns::{Host, Net},
    process,
    rabbitmq::RabbitMq,
    store::Store,
};

/// How long an agent may be silent in most tests: short, so that what is lost is soon known to be.
const LEASE: Duration = Duration::from_secs(5);

/// An image for machines that nobody boots: its files are 4,096 zeros each.
const IMAGE: &str = r#"{
    "name": "tiny", "arch": "x86_64", "cmdline": "", "ready": "guest_agent",
    "files": {
        "kernel": {"sha256": "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7", "size": 4096},
        "rootfs": {"sha256": "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7", "size": 4096, "format": "raw"}
    },
    "defaults": {"vcpus": 1, "memory_mib": 128, "disk_gib": 1}
}"#;

/// Servers, agents and their database. Whatever they leave behind ends with this value.
pub struct Fleet<'a> {
    home: TempDir,
    store: Store<'a>,
    /// What servers are told of it.
    flag: Option<String>,
    /// What is said to servers and agents of a broker.
    broker: Option<String>,
    lease: Duration,
    /// What else is said to servers.
    more: Vec<String>,
    servers: Vec<Process>,
    agents: Vec<Process>,
    http: reqwest::Client,
    token: String,
    // Last, so that nothing runs any more on the hosts that go with it.
    net: Option<Net>,
}

struct Process {
    log: String,
    /// `None`: this machine, on loopback.
    host: Option<Host>,
    /// Where people reach a server, and where agents do.
    ports: (u16, u16),
    words: Vec<String>,
    child: Option<Child>,
}

impl Process {
    fn address(&self) -> Ipv4Addr {
        self.host.as_ref().map_or(Ipv4Addr::LOCALHOST, Host::address)
    }
}

/// Who can be cut off from whom.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// A server.
    Server(usize),
    /// An agent.
    Agent(usize),
    /// Whoever has this address.
    At(Ipv4Addr),
}

impl<'a> Fleet<'a> {
    /// So many servers and agents over an empty database, running.
    pub async fn started(postgres: &'a Postgres, servers: usize, agents: usize) -> Result<Fleet<'a>> {
        Fleet::empty(Some(postgres.database()?), None)?.filled(servers, agents).await
    }

    /// The same, with a server that follows that of the database, and may be promoted.
    pub async fn with_standby(
        postgres: &'a Postgres,
        standby: &Postgres,
        servers: usize,
        agents: usize,
    ) -> Result<Fleet<'a>> {
        let database = postgres.database()?;
        let flag = format!("--database={}", database.url_on_both(standby));
        let mut fleet = Fleet::empty(Some(database), None)?;
        fleet.flag = Some(flag);
        fleet.filled(servers, agents).await
    }

    /// The same as [`Fleet::started`], and all tasks travel by this broker.
    pub async fn by_broker(
        postgres: &'a Postgres,
        servers: usize,
        agents: usize,
        broker: &RabbitMq,
    ) -> Result<Fleet<'a>> {
        let mut fleet = Fleet::empty(Some(postgres.database()?), None)?;
        fleet.broker = Some(format!("--amqp-file={}", broker.url_file()?.display()));
        fleet.filled(servers, agents).await
    }

    /// One server over a file, and so many agents, running.
    pub async fn over_a_file(agents: usize) -> Result<Fleet<'a>> {
        Fleet::empty(None, None)?.filled(1, agents).await
    }

    /// One server over a file, with leases as long as this; whoever measures it brings agents of his own.
    pub async fn alone(lease: Duration) -> Result<Fleet<'a>> {
        let mut fleet = Fleet::empty(None, None)?;
        fleet.lease = lease;
        fleet.filled(1, 0).await
    }

    /// As [`Fleet::started`], each on a host of its own.
    pub async fn apart(postgres: &'a Postgres, servers: usize, agents: usize) -> Result<Fleet<'a>> {
        Fleet::apart_in(Net::new()?, postgres, servers, agents).await
    }

    /// So many servers and agents, each on a host of its own, the servers with these flags too.
    pub async fn apart_with(
        postgres: &'a Postgres,
        (servers, agents): (usize, usize),
        flags: &[&str],
    ) -> Result<Fleet<'a>> {
        let mut fleet = Fleet::empty(Some(postgres.database()?), Some(Net::new()?))?;
        fleet.more = flags.iter().map(|flag| (*flag).to_owned()).collect();
        fleet.filled(servers, agents).await
    }

    /// The same, in a net where something else is already.
    pub async fn apart_in(net: Net, postgres: &'a Postgres, servers: usize, agents: usize) -> Result<Fleet<'a>> {
        Fleet::empty(Some(postgres.database()?), Some(net))?.filled(servers, agents).await
    }

    fn empty(database: Option<Database<'a>>, net: Option<Net>) -> Result<Fleet<'a>> {
        hostler_trust::install_crypto();
        let home = tempfile::Builder::new().prefix("hostler-fleet").tempdir()?;
        let file = home.path().join("server-0/hostler.db");
        Ok(Fleet {
            home,
            flag: database.as_ref().map(|database| format!("--database={}", database.url())),
            store: database.map_or(Store::File(file), Store::Database),
            broker: None,
            lease: LEASE,
            more: Vec::new(),
            servers: Vec::new(),
            agents: Vec::new(),
            http: reqwest::Client::builder().no_proxy().build()?,
            token: String::new(),
            net,
        })
    }

    async fn filled(mut self, servers: usize, agents: usize) -> Result<Fleet<'a>> {
        for number in 0..servers {
            self.add_server(number)?;
            self.start_server(number).await?;
        }
        for number in 0..agents {
            self.add_agent(number).await?;
        }
        Ok(self)
    }

    fn add_server(&mut self, number: usize) -> Result<()> {
        let (listen, agents) = (free_port()?, free_port()?);
        let host = self.host()?;
        let address = host.as_ref().map_or(Ipv4Addr::LOCALHOST, Host::address);
        let home = self.home.path();
        let images = offer(home)?;
        let home = home.display();
        let mut words = vec![
            "server".to_owned(),
            format!("--data={home}/server-{number}"),
            format!("--listen={address}:{listen}"),
            format!("--agents-listen={address}:{agents}"),
            format!("--ca={home}/ca"),
            format!("--master-key={home}/master.key"),
            format!("--blobs={home}/blobs"),
            format!("--images={}", images.display()),
            format!("--lease-seconds={}", self.lease.as_secs()),
        ];
        words.extend(self.flag.clone());
        words.extend(self.broker.clone());
        words.extend(self.more.clone());
        words.extend(host.is_some().then(|| "--insecure-listen".to_owned()));
        words.extend(host.is_some().then(|| format!("--names={address}")));
        let log = format!("server-{number}.log");
        self.servers.push(Process { log, host, ports: (listen, agents), words, child: None });
        Ok(())
    }

    fn host(&mut self) -> Result<Option<Host>> {
        self.net.as_mut().map(Net::host).transpose()
    }

    async fn add_agent(&mut self, number: usize) -> Result<()> {
        let home = self.home.path().display();
        let (status, issued) =
            self.call(0, "POST", "/join-tokens", Some(json!({"node": format!("n{number}")}))).await?;
        let token = issued["token"].as_str().with_context(|| format!("a token: {status} {issued}"))?;
        let file = self.home.path().join(format!("token-{number}"));
        fs::write(&file, token)?;
        let mut words = vec![
            "agent".to_owned(),
            format!("--data={home}/agent-{number}"),
            format!("--server={}", self.agents_address()),
            format!("--name=n{number}"),
            format!("--run={home}/run-{number}"),
            format!("--join-token-file={}", file.display()),
            "--driver=sim".to_owned(),
            "--log=info,hostler_agent::hypervisor::sim=debug".to_owned(),
        ];
        words.extend(self.broker.iter().flat_map(|file| ["--transport=amqp".to_owned(), file.clone()]));
        let (log, host) = (format!("agent-{number}.log"), self.host()?);
        self.agents.push(Process { log, host, ports: (0, 0), words, child: None });
        self.start_agent(number)?;
        let name = format!("n{number}");
        self.until("the agent is heard", async |fleet: &Fleet<'_>| {
            let (_, nodes) = fleet.call(0, "GET", "/nodes", None).await?;
            let fresh = |node: &Value| node["name"] == *name && node["freshness"] == "fresh";
            Ok(nodes["items"].as_array().is_some_and(|nodes| nodes.iter().any(fresh)).then_some(()))
        })
        .await
    }

    /// Makes a node of another host, with the one command that a person pastes there; later starts of its agent say nothing of
    /// servers or tokens.
    pub async fn join(&mut self) -> Result<()> {
        let (number, home) = (self.agents.len(), self.home.path().display().to_string());
        let name = format!("n{number}");
        let (status, issued) = self.call(0, "POST", "/join-tokens", Some(json!({"node": name}))).await?;
        let token = issued["token"].as_str().with_context(|| format!("a token: {status} {issued}"))?.to_owned();
        let rest = [
            format!("--name={name}"),
            format!("--data={home}/agent-{number}"),
            format!("--run={home}/run-{number}"),
            "--driver=sim".to_owned(),
        ];
        let server = format!("--server={}", self.agents_address());
        let pasted = ["agent".to_owned(), "join".to_owned(), token, server].into_iter().chain(rest.clone()).collect();
        let (log, host) = (format!("agent-{number}.log"), self.host()?);
        self.agents.push(Process { log, host, ports: (0, 0), words: pasted, child: None });
        self.start_agent(number)?;
        self.agents[number].words = std::iter::once("agent".to_owned()).chain(rest).collect();
        self.until("the node is heard", async |fleet: &Fleet<'_>| {
            let (_, node) = fleet.call(0, "GET", &format!("/nodes/{name}"), None).await?;
            Ok((node["freshness"] == "fresh" && node["state"] == "ready").then_some(()))
        })
        .await
    }

    /// Where agents reach the servers.
    pub fn agents_address(&self) -> String {
        let one = |server: &Process| format!("https://{}:{}", server.address(), server.ports.1);
        self.servers.iter().map(one).collect::<Vec<_>>().join(",")
    }

    /// The process of a server that runs.
    pub fn pid(&self, server: usize) -> Option<u32> {
        self.servers[server].child.as_ref().map(Child::id)
    }

    fn spawn(&self, process: &Process) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.folder(&process.log))?;
        let mut words: Vec<String> = process.host.iter().flat_map(Host::enter).collect();
        words.push(binary()?.display().to_string());
        words.extend_from_slice(&process.words);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("HOSTLER_CONFIG", "/dev/null").env_remove("HOSTLER_DATA");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().context("the binary under test cannot be started")
    }

    /// Starts a server and waits until it answers.
    pub async fn start_server(&mut self, number: usize) -> Result<()> {
        let mut child = self.spawn(&self.servers[number])?;
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
        self.agents[number].child = Some(self.spawn(&self.agents[number])?);
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

    /// How many servers it has.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// How many agents it has.
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    /// The words by which another server over the same database would be started, with this data folder.
    pub fn server_words(&self, number: usize) -> Vec<String> {
        self.servers[number].words.clone()
    }

    /// A folder in the fleet's own.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Its store.
    pub fn store(&self) -> &Store<'a> {
        &self.store
    }

    /// From now on what goes from the one to the other is lost without a word; the other way is open.
    pub fn cut(&self, from: End, to: End) -> Result<()> {
        self.net()?.cut(self.address(from), self.address(to))
    }

    /// What was cut is open again.
    pub fn mend(&self, from: End, to: End) -> Result<()> {
        self.net()?.mend(self.address(from), self.address(to))
    }

    fn net(&self) -> Result<&Net> {
        self.net.as_ref().context("only who is on a host of its own can be cut off")
    }

    fn address(&self, end: End) -> Ipv4Addr {
        match end {
            End::Server(number) => self.servers[number].address(),
            End::Agent(number) => self.agents[number].address(),
            End::At(address) => address,
        }
    }

    /// Calls one of the servers.
    pub async fn call(&self, server: usize, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        let more: &[_] = if body.is_some() { &[("Prefer", "wait=20")] } else { &[] };
        self.caller().call(server, method, path, more, body).await
    }

    /// Somebody who calls the servers while others kill them.
    pub fn caller(&self) -> Caller {
        let at = |server: &Process| format!("http://{}:{}", server.address(), server.ports.0);
        Caller { http: self.http.clone(), token: self.token.clone(), at: self.servers.iter().map(at).collect() }
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
        let asked = self.http.get(format!("{}/metrics", self.caller().at[server])).bearer_auth(&self.token);
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
        let all = self.servers.iter().chain(&self.agents);
        all.map(|process| format!("{}:\n{}", process.log, self.said(process))).collect()
    }

    /// What an agent said so far.
    pub fn agent_log(&self, number: usize) -> String {
        self.said(&self.agents[number])
    }

    fn said(&self, process: &Process) -> String {
        fs::read_to_string(self.folder(&process.log)).unwrap_or_default()
    }

    /// Asks again and again until there is an answer.
    pub async fn until<T>(&self, what: &str, ask: impl AsyncFnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        self.until_within(PATIENCE, what, ask).await
    }

    /// The same of what takes longer than most.
    pub async fn until_within<T>(
        &self,
        patience: Duration,
        what: &str,
        mut ask: impl AsyncFnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask(self).await? {
                return Ok(answer);
            }
            if begun.elapsed() > patience {
                bail!("{what}: not after {patience:?}; the log says\n{}", self.log());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A person with a token.
#[derive(Clone)]
pub struct Caller {
    http: reqwest::Client,
    token: String,
    at: Vec<String>,
}

impl Caller {
    /// The address of a server, and the token.
    pub fn context(&self, server: usize) -> (&str, &str) {
        (&self.at[server], &self.token)
    }

    /// How many there are to call.
    pub fn servers(&self) -> usize {
        self.at.len()
    }

    /// Calls one of the servers, with these headers.
    pub async fn call(
        &self,
        server: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Result<Answer> {
        let url = format!("{}/api/v1{path}", self.at[server]);
        let mut request = self.http.request(method.parse()?, url).bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

/// A folder with the image.
fn offer(home: &Path) -> Result<PathBuf> {
    let folder = home.join("images");
    let image = folder.join("tiny");
    fs::create_dir_all(&image)?;
    for file in ["kernel", "rootfs"] {
        fs::write(image.join(file), [0; 4096])?;
    }
    fs::write(image.join("image.json"), IMAGE)?;
    Ok(folder)
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
