//! A `hostler dev` to measure, in a process and a folder of its own.

use std::{
    fs,
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

impl Server {
    /// Starts one, and waits until so many nodes are fresh.
    pub(crate) async fn start(flags: &[&str], nodes: usize) -> Result<Server> {
        Server::over(None, flags, nodes).await
    }

    /// The same, over a database of a server's where one is named.
    pub(crate) async fn over(database: Option<String>, flags: &[&str], nodes: usize) -> Result<Server> {
        // Beside the build, so that the disk is the one that the floors are measured on.
        let folder = tempfile::Builder::new().prefix("bench").tempdir_in("target")?;
        let data = folder.path().canonicalize()?.join("data");
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new(binary())
            .args(["dev", "--ephemeral", "--listen", "127.0.0.1:0", "--images", "target/images", "--data"])
            .arg(&data)
            .args(flags)
            .args(database.map(|url| format!("--database={url}")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(binary)?;
        let mut server = Server { child, folder, address: String::new(), token: String::new() };
        let begun = Instant::now();
        while !server.is_up(&data, nodes).await? {
            if begun.elapsed() > Duration::from_secs(60) {
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
