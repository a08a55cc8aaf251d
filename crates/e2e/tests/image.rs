//! Images over a bad line: sending goes on by itself, and again after it was interrupted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use hostler_e2e::dev::{Dev, binary};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const MIB: usize = 1 << 20;

/// A line to the server that breaks.
struct Line {
    /// How many bytes it brings before each break.
    holds: u64,
    /// How many breaks are left.
    breaks: AtomicU64,
    /// How many bytes it has brought in all.
    brought: AtomicU64,
}

impl Line {
    async fn to(server: &str, holds: u64, breaks: u64) -> Result<(Arc<Line>, String)> {
        let line = Arc::new(Line { holds, breaks: AtomicU64::new(breaks), brought: AtomicU64::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (url, server) = (format!("http://{}", listener.local_addr()?), server.replace("http://", ""));
        let ours = line.clone();
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(ours.clone().carry(caller, server.clone()));
            }
        });
        Ok((line, url))
    }

    async fn carry(self: Arc<Self>, caller: TcpStream, server: String) -> std::io::Result<()> {
        let (mut answers, mut asks) = TcpStream::connect(server).await?.into_split();
        let (mut from, mut to) = caller.into_split();
        let back = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to).await });
        let (mut piece, mut here) = (vec![0; 64 << 10], 0);
        loop {
            let read = from.read(&mut piece).await?;
            if read == 0 {
                break;
            }
            asks.write_all(&piece[..read]).await?;
            here += read as u64;
            self.brought.fetch_add(read as u64, Ordering::SeqCst);
            let spent = here > self.holds;
            if spent && self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                // Both ends see it end.
                back.abort();
                return Ok(());
            }
        }
        drop(asks);
        let _ = back.await;
        Ok(())
    }

    fn brought(&self) -> u64 {
        self.brought.load(Ordering::SeqCst)
    }
}

/// A place from which `hostler` calls by this line, and a disk to send.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(dev: &Dev, url: &str) -> Result<Place> {
        Place::with(&dev.data().join("client.json"), url)
    }

    fn with(client: &Path, url: &str) -> Result<Place> {
        let place = Place { dir: tempfile::tempdir()? };
        let mut client: Value = serde_json::from_slice(&fs::read(client)?)?;
        client["url"] = json!(url);
        let path = place.dir.path().join("client.json");
        fs::write(&path, client.to_string())?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let noise: Vec<u8> =
            (0..(4 * MIB / 4) as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::write(place.disk(), noise)?;
        Ok(place)
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    fn hostler(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.arg("--data").arg(self.dir.path()).args(words).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    fn import(&self) -> Result<Command> {
        let disk = self.disk();
        self.hostler(&[
            "image",
            "import",
            "noise",
            disk.to_str().context("a path")?,
            "--format",
            "raw",
            "--ready",
            "none",
        ])
    }
}

fn server(dev: &Dev) -> Result<String> {
    let client: Value = serde_json::from_slice(&fs::read(dev.data().join("client.json"))?)?;
    Ok(client["url"].as_str().context("client.json")?.to_owned())
}

async fn ended(mut command: Command) -> Result<Output> {
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_by_itself_when_its_line_breaks() -> Result<()> {
    let dev = Dev::started(&[]).await?;
    let (line, url) = Line::to(&server(&dev)?, 1_500_000, 2).await?;
    let place = Place::new(&dev, &url)?;
    let output = ended(place.import()?).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("the sending goes on").count(), 2, "{said}");
    assert!(line.brought() < 6 * MIB as u64, "{} bytes were sent of 4 MiB", line.brought());
    let (_, image) = dev.get("/api/v1/images/noise").await?;
    assert_eq!(image["manifest"]["ready"], "none", "{image}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_interrupted_goes_on_with_the_same_command() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    // It breaks again and again, so that there is time to interrupt it.
    let (line, url) = Line::to(&server(&dev)?, 1_000_000, u64::MAX).await?;
    let place = Place::new(&dev, &url)?;
    let mut sending = place.import()?.spawn()?;
    dev.until("a part of it is there", async |_| Ok((line.brought() > 1_000_000).then_some(()))).await?;
    let pid = rustix::process::Pid::from_raw(sending.id() as i32).context("a pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let output = tokio::task::spawn_blocking(move || {
        sending.wait()?;
        sending.wait_with_output()
    })
    .await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command goes on"), "{said}");
    // The server is restarted meanwhile, elsewhere.
    dev.stop().await?;
    dev.start().await?;
    let (line, url) = Line::to(&server(&dev)?, u64::MAX, 0).await?;
    let later = Place::new(&dev, &url)?;
    let output = ended(later.import()?).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(line.brought() < 7 * MIB as u64 / 2, "{} bytes were sent of what was left", line.brought());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fills_the_servers_disk_is_thrown_away_and_says_so() -> Result<()> {
    let mut dev = Dev::new(&[])?;
    dev.on_a_disk_of(128)?;
    dev.start().await?;
    let client = dev.inside(&dev.data().join("client.json"));
    let url = serde_json::from_slice::<Value>(&fs::read(&client)?)?["url"].as_str().context("url")?.to_owned();
    let place = Place::with(&client, &url)?;
    fs::File::create(place.disk())?.set_len(256 << 20)?;
    let output = ended(place.import()?).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("full"), "{said}");
    let blobs = fs::read_dir(dev.inside(&dev.data().join("blobs")))?.flatten();
    let left: Vec<_> =
        blobs.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");
    dev.assert_well().await
}
