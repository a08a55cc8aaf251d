//! `hostler server` and `hostler agent` as two processes, configured by files, each killed and started by itself.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use hostler_fixture::free_port;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    dev::{LOOK, PATIENCE, binary, offer},
    process,
};

/// A server and an agent in a folder of their own. Whatever they leave behind ends with this value.
pub struct Pair {
    home: TempDir,
    server: Option<Child>,
    agent: Option<Child>,
}

impl Pair {
    /// Their files; nothing runs yet.
    pub fn new() -> Result<Pair> {
        let home = tempfile::Builder::new().prefix("hostler-pair").tempdir()?;
        let pair = Pair { home, server: None, agent: None };
        fs::write(pair.config(), pair.configuration()?)?;
        Ok(pair)
    }

    /// One file for both, with a port for agents that stays the same across restarts.
    fn configuration(&self) -> Result<String> {
        let free = format!("127.0.0.1:{}", free_port()?);
        let (home, images) = (self.home.path().display(), offer(self.home.path(), &["tiny"])?);
        Ok(format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nagents_listen = \"{free}\"\ndata = \"{home}/server\"\n\
             images = \"{}\"\nlease_seconds = 5\n\n\
             [agent]\nserver = \"https://{free}\"\ndata = \"{home}/agent\"\nname = \"n1\"\nrun = \"{home}/run\"\n\
             join_token_file = \"{home}/token\"\n",
            images.display()
        ))
    }

    /// The file.
    pub fn config(&self) -> PathBuf {
        self.home.path().join("hostler.toml")
    }

    /// Writes keys at the beginning of a section of the file.
    pub fn configure(&self, section: &str, keys: &str) -> Result<()> {
        let head = format!("[{section}]\n");
        let text = fs::read_to_string(self.config())?.replacen(&head, &format!("{head}{keys}\n"), 1);
        Ok(fs::write(self.config(), text)?)
    }

    /// The file from which the agent reads its token.
    pub fn token_file(&self) -> PathBuf {
        self.home.path().join("token")
    }

    /// A folder in the pair's own.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn spawn(&self, verb: &str) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.folder("log"))?;
        let mut command = Command::new(binary()?);
        command.arg(verb).arg("--config").arg(self.config()).env_remove("HOSTLER_DATA").stdin(Stdio::null());
        command
            .env("PATH", self.path()?)
            .env("HOSTLER_CRASH_FILE", self.crash_file(verb))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the binary under test cannot be started")
    }

    /// Where their programs are found: those of [`Pair::host_is`] first.
    fn path(&self) -> Result<OsString> {
        let usual = env::var_os("PATH").unwrap_or_default();
        Ok(env::join_paths([self.folder("bin")].into_iter().chain(env::split_paths(&usual)))?)
    }

    /// From now on `systemctl is-system-running` answers this.
    pub fn host_is(&self, state: &str) -> Result<()> {
        let program = self.folder("bin/systemctl");
        fs::create_dir_all(self.folder("bin"))?;
        fs::write(&program, format!("#!/bin/sh\n[ \"$1\" = is-system-running ] && echo {state}\n"))?;
        Ok(fs::set_permissions(program, fs::Permissions::from_mode(0o755))?)
    }

    /// What both said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder("log")).unwrap_or_default()
    }

    /// Starts the server and waits until it answers.
    pub async fn start_server(&mut self) -> Result<()> {
        self.server = Some(self.spawn("server")?);
        self.until("the server answers", |pair| Ok(pair.hostler(&["node", "list"])?.status.success().then_some(())))
            .await
    }

    /// Starts the agent and waits until the server hears it.
    pub async fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(self.spawn("agent")?);
        self.until("the agent is heard", |pair| {
            let nodes = pair.json(&["node", "list"])?;
            Ok((nodes[0]["freshness"] == "fresh").then_some(()))
        })
        .await
    }

    /// Ends the server as systemd does, and waits.
    pub async fn stop_server(&mut self) -> Result<()> {
        let child = self.server.take().context("the server runs")?;
        self.end(child).await
    }

    /// Ends the agent as systemd does, and waits.
    pub async fn stop_agent(&mut self) -> Result<()> {
        let child = self.agent.take().context("the agent runs")?;
        self.end(child).await
    }

    async fn end(&self, mut child: Child) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(child.id() as i32).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.until("the process ends", move |_| Ok(child.try_wait()?)).await?;
        if status.success() { Ok(()) } else { bail!("it ended with {status}:\n{}", self.log()) }
    }

    /// Ends the agent without warning.
    pub fn kill_agent(&mut self) -> Result<()> {
        let mut child = self.agent.take().context("the agent runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Lets the process of this verb kill itself at a named point.
    pub fn arm(&self, verb: &str, point: &str) -> Result<()> {
        Ok(fs::write(self.crash_file(verb), point)?)
    }

    fn crash_file(&self, verb: &str) -> PathBuf {
        self.folder(&format!("{verb}.crash"))
    }

    /// Waits until the process of this verb has killed itself, and disarms it.
    pub async fn killed_itself(&mut self, verb: &str) -> Result<()> {
        let child = if verb == "server" { self.server.take() } else { self.agent.take() };
        let mut child = child.with_context(|| format!("the {verb} runs"))?;
        let status = self.until(&format!("the {verb} ends"), move |_| Ok(child.try_wait()?)).await?;
        fs::remove_file(self.crash_file(verb))?;
        if status.signal() == Some(9) { Ok(()) } else { bail!("the {verb} ended with {status}:\n{}", self.log()) }
    }

    /// Runs a verb of the client against the server.
    pub fn hostler(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command.arg("--data").arg(self.folder("server")).args(words).stdin(Stdio::null());
        Ok(command.output()?)
    }

    /// The same, and what it printed as JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let output = self.hostler(&[&["-o", "json"], words].concat())?;
        if !output.status.success() {
            bail!("{words:?}: {}\n{}", String::from_utf8_lossy(&output.stderr), self.log());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    /// The same, and what it printed.
    pub fn says(&self, words: &[&str]) -> Result<String> {
        let output = self.hostler(words)?;
        if !output.status.success() {
            bail!("{words:?}: {}\n{}", String::from_utf8_lossy(&output.stderr), self.log());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Asks again and again until there is an answer.
    pub async fn until<T>(&self, what: &str, mut ask: impl FnMut(&Pair) -> Result<Option<T>>) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask(self)? {
                return Ok(answer);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{what}: not after {PATIENCE:?}; the log says\n{}", self.log());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The machines' processes.
    pub fn qemus(&self) -> Vec<i32> {
        process::qemus(self.home.path())
    }

    /// Everything's folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.server].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        process::naming(self.home.path()).into_iter().for_each(process::kill);
    }
}
