//! A `hostler dev` to measure, in a process and a folder of its own.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::http::Connection;

/// The running server; it ends with this value, and so do its machines.
pub(crate) struct Server {
    child: Child,
    folder: tempfile::TempDir,
    address: String,
    token: String,
}

/// What loads of simulated agents start: nothing lies there that would be taken in as an image.
const NO_IMAGES: &str = "target/no-images";
/// Ticks a second in /proc: what Linux tells programs, whatever its own clock does.
const TICKS: u64 = 100;
/// How long a start may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    /// Starts one, and waits until so many nodes are fresh.
    pub(crate) async fn start(flags: &[&str], nodes: usize) -> Result<Server> {
        Server::over(None, flags, nodes).await
    }

    /// The same, over a database of a server's where one is named.
    pub(crate) async fn over(database: Option<String>, flags: &[&str], nodes: usize) -> Result<Server> {
        let own = ["dev", "--ephemeral", "--listen", "127.0.0.1:0", "--images", "target/images"];
        Server::launch(&[&own, flags].concat(), database, nodes).await
    }

    /// A `hostler server` with no agent in its process.
    pub(crate) async fn alone(database: Option<String>) -> Result<Server> {
        let own = [
            "server",
            "--listen",
            "127.0.0.1:0",
            "--agents-listen",
            "127.0.0.1:0",
            "--images",
            NO_IMAGES,
            "--rate-per-token",
            "0",
        ];
        Server::launch(&own, database, 0).await
    }

    async fn launch(words: &[&str], database: Option<String>, nodes: usize) -> Result<Server> {
        // Beside the build, so that the disk is the one that the floors are measured on.
        let folder = tempfile::Builder::new().prefix("bench").tempdir_in("target")?;
        let data = folder.path().canonicalize()?.join("data");
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new(binary())
            .args(words)
            .arg("--data")
            .arg(&data)
            .args(database.map(|url| format!("--database={url}")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(binary)?;
        let mut server = Server { child, folder, address: String::new(), token: String::new() };
        let begun = Instant::now();
        while !server.is_up(&data, nodes).await? {
            if begun.elapsed() > PATIENCE {
                bail!("the server does not come up:\n{}", server.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    async fn is_up(&mut self, data: &std::path::Path, nodes: usize) -> Result<bool> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended ({status}):\n{}", self.log());
        }
        let Ok(text) = fs::read(data.join("client.json")) else { return Ok(false) };
        let client: Value = serde_json::from_slice(&text)?;
        let text = |key: &str| client[key].as_str().map(str::to_owned).context("client.json");
        (self.address, self.token) = (text("url")?.replace("http://", ""), text("token")?);
        let (_, page) = self.connect().await?.json("GET", "/api/v1/nodes", "").await?;
        let fresh = page["items"].as_array().into_iter().flatten().filter(|node| node["freshness"] == "fresh").count();
        Ok(fresh == nodes)
    }

    /// A connection with the token.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.address, &self.token).await
    }

    /// A connection with somebody else's token.
    pub(crate) async fn connect_as(&self, token: &str) -> Result<Connection> {
        Connection::open(&self.address, token).await
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where it takes agents, as it said when it started.
    pub(crate) fn agents(&self) -> Result<String> {
        let log = self.log();
        let line = log.lines().find(|line| line.starts_with("agents")).context("a server that takes agents")?;
        Ok(line.split_whitespace().last().context("an address")?.to_owned())
    }

    /// Processor time that it has used since its start.
    pub(crate) fn processor(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // After the name, which may have spaces: the 12th and 13th of what follows are user and system time.
        let (_, after) = stat.rsplit_once(')').context("stat")?;
        let mut fields = after.split_whitespace().skip(11);
        let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).context("stat");
        let all = ticks()? + ticks()?;
        Ok(Duration::from_millis(all * 1000 / TICKS))
    }

    /// Resident memory, in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked first, so that it ends its machines.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// What is measured: the release build, or the binary that `HOSTLER_BIN` names.
pub(super) fn binary() -> String {
    std::env::var("HOSTLER_BIN").unwrap_or_else(|_| "target/release/hostler".to_owned())
}
