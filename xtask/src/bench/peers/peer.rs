//! One peer: installed into a folder of its own below `target/` from the lockfile in `bench/`, and run against an empty
//! database. It prints one JSON object.
//!
//! Nothing is installed on the host: an interpreter or a package client that is missing is an error that says so.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hostler_e2e::rabbitmq::RabbitMq;
use hostler_fixture::Postgres;
use postgres::config::Host;
use serde::Deserialize;

/// Where they are installed.
const INSTALLED: &str = "target/peers";
/// How long one may take for all its figures: some three times what the slowest took.
const PATIENCE: Duration = Duration::from_secs(900);

/// What a peer is made with.
#[derive(Clone, Copy)]
pub(super) enum Toolchain {
    /// npm, and the Node.js that it brings: distributions have older ones than the peers run on.
    Node,
    /// The host's Python, and pip.
    Python,
    /// cargo.
    Cargo,
}

/// A queue that is not ours.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) toolchain: Toolchain,
    /// Its program in `bench/`, or what cargo makes of it.
    pub(super) program: &'static str,
    /// Where it keeps what waits.
    pub(super) keeps: Keeps,
}

/// What a peer stands on.
#[derive(Clone, Copy)]
pub(super) enum Keeps {
    /// PostgreSQL.
    Postgres,
    /// RabbitMQ.
    RabbitMq,
}

/// What it printed.
#[derive(Deserialize)]
pub(super) struct Figures {
    /// Its name and version.
    pub(super) peer: String,
    /// How it was set, in words.
    pub(super) settings: String,
    /// Submits a second by 32 clients.
    pub(super) single: f64,
    /// Submits a second, 1,000 to a call; `None` where there is no such call.
    pub(super) bulk: Option<f64>,
    /// Tasks a second, of what had gathered.
    pub(super) drain: f64,
    /// Milliseconds from the call to the handler's start.
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Peer {
    /// Installs it if need be, and runs it with so many tasks for each figure.
    pub(super) async fn measure(&self, tasks: usize) -> Result<Figures> {
        let mut command = self.toolchain.install(self.program)?;
        command.env("TASKS", tasks.to_string());
        let answer = match self.keeps {
            Keeps::Postgres => over_postgres(command)?,
            Keeps::RabbitMq => {
                let broker = RabbitMq::start().await?;
                command.env("AMQP_URL", broker.url());
                in_time(command)?
            }
        };
        serde_json::from_str(&answer).with_context(|| format!("it printed {answer:?}"))
    }
}

fn over_postgres(mut command: Command) -> Result<String> {
    let server = Postgres::at_work("target".as_ref())?;
    let database = server.database()?;
    let config: postgres::Config = database.url().parse()?;
    let Some(Host::Unix(folder)) = config.get_hosts().first() else { bail!("a database without a socket") };
    command
        .env("PGHOST", folder)
        .env("PGUSER", config.get_user().context("a user")?)
        .env("PGDATABASE", config.get_dbname().context("a name")?);
    in_time(command)
}

impl Toolchain {
    /// What runs a program of this kind, once it is installed.
    fn install(self, program: &str) -> Result<Command> {
        match self {
            Toolchain::Node => node(program),
            Toolchain::Python => python(program),
            Toolchain::Cargo => cargo(program),
        }
    }
}

fn node(program: &str) -> Result<Command> {
    let (from, to) = (Path::new("bench/node"), folder("node")?);
    let lock = "package-lock.json";
    // The lockfile is copied last: with it the folder is complete.
    let complete = fs::read(to.join(lock)).ok() == Some(fs::read(from.join(lock))?);
    for entry in fs::read_dir(from)?.flatten() {
        if entry.file_name() != lock {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    if !complete {
        let _ = fs::remove_file(to.join(lock));
        let fresh = tempfile::Builder::new().prefix("node").tempdir_in(INSTALLED)?;
        for name in ["package.json", lock] {
            fs::copy(from.join(name), fresh.path().join(name))?;
        }
        // Some of them ask for a newer Node.js than npm itself may run on; they get it below.
        let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        done(Command::new("npm").args(options).current_dir(fresh.path()))?;
        let modules = to.join("node_modules");
        drop(fs::remove_dir_all(&modules));
        fs::rename(fresh.path().join("node_modules"), modules)?;
        fs::copy(from.join(lock), to.join(lock))?;
    }
    let mut command = Command::new(to.join("node_modules/.bin/node"));
    command.arg(to.join(program));
    Ok(command)
}

fn python(program: &str) -> Result<Command> {
    let (from, to) = (Path::new("bench/python").canonicalize()?, folder("python")?);
    done(Command::new("python3").args(["-m", "venv"]).arg(&to))?;
    let options = ["install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"];
    done(Command::new(to.join("bin/pip")).args(options).arg(from.join("requirements.txt")))?;
    let mut command = Command::new(to.join("bin/python"));
    // -B: nothing is written beside the program.
    command.arg("-B").arg(from.join(program));
    Ok(command)
}

fn cargo(program: &str) -> Result<Command> {
    let to = folder("cargo")?;
    let options = ["build", "--quiet", "--release", "--locked", "--manifest-path", "bench/apalis/Cargo.toml"];
    done(Command::new("cargo").args(options).arg("--target-dir").arg(&to))?;
    Ok(Command::new(to.join("release").join(program)))
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new(INSTALLED).join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}

fn done(command: &mut Command) -> Result<()> {
    // What is measured is what stands on standard output.
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// What a program prints, unless it takes too long.
fn in_time(mut command: Command) -> Result<String> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if begun.elapsed() > PATIENCE => {
                child.kill()?;
                child.wait()?;
                bail!("it did not end within {PATIENCE:?}");
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    ensure!(status.success(), "it failed: {status}");
    let mut answer = String::new();
    child.stdout.take().context("its output")?.read_to_string(&mut answer)?;
    Ok(answer)
}
