//! `hostler support-bundle`: what somebody needs who is asked for help, in one folder, and nothing that is secret.
//!
//! ```text
//! about.json · config.json (addresses without passwords) · doctor.json · metrics.txt · nodes.json · keys.json · stats.json ·
//! audit.json · server.log · agent.log (from the journal) · missing.txt (what could not be had, and why)
//! ```
//!
//! Tokens, private keys and sealed values are in none of these: nothing here reads a file that holds one.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
};

use hostler_client::StatsQuery;
use hostler_model::Clock;
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{Globals, config},
    exit::{Exit, Failure},
    output,
    settings::FileArgs,
};

const EXAMPLES: &str = "\
Examples:
  hostler support-bundle ./bundle
  sudo hostler --data /var/lib/hostler/server support-bundle ./bundle      with the logs of the services

Look through it before you send it: names of machines and of hosts, labels and addresses are in it.";

/// How many of the last lines of a log are taken.
const LINES: &str = "2000";
/// The services whose logs are taken.
const UNITS: [&str; 2] = ["server", "agent"];
/// How many of the last audit entries are taken.
const ENTRIES: usize = 200;

/// Where it goes.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    file: FileArgs,

    /// A folder that is made for it
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
}

/// What was had, and what was not.
struct Bundle {
    folder: PathBuf,
    missing: Vec<String>,
}

impl Bundle {
    fn text(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.folder.join(name);
        let written = hostler_trust::file::write_private(&path, text.as_bytes());
        written.map_err(|error| Failure::new(Exit::Failed, error))
    }

    fn json<T: Serialize, E: std::fmt::Display>(&mut self, name: &str, had: Result<T, E>) -> Result<(), Failure> {
        match had.map_err(|error| error.to_string()) {
            Ok(value) => {
                let text = serde_json::to_string_pretty(&value).map_err(|error| Failure::new(Exit::Failed, error))?;
                self.text(name, &text)
            }
            Err(why) => {
                self.missing.push(format!("{name}: {why}"));
                Ok(())
            }
        }
    }

    fn lines(&mut self, name: &str, had: Result<String, String>) -> Result<(), Failure> {
        match had {
            Ok(text) => self.text(name, &text),
            Err(why) => {
                self.missing.push(format!("{name}: {why}"));
                Ok(())
            }
        }
    }
}

/// Gathers what there is; what there is not is said.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    make(&args.to)?;
    let mut bundle = Bundle { folder: args.to.clone(), missing: Vec::new() };
    let about = json!({
        "version": env!("CARGO_PKG_VERSION"), "at": Clock::system().now(),
        "system": fs::read_to_string("/etc/os-release").unwrap_or_default(),
        "kernel": fs::read_to_string("/proc/version").unwrap_or_default().trim(),
    });
    bundle.json("about.json", Ok::<_, String>(about))?;
    bundle.json("config.json", config::everything(&args.file).map_err(|failure| failure.said().to_owned()))?;
    match globals.session() {
        Ok(session) => {
            let client = &session.client;
            bundle.json("doctor.json", client.doctor().await)?;
            bundle.json("nodes.json", client.nodes().await)?;
            bundle.json("keys.json", client.keys().await)?;
            bundle.json(
                "stats.json",
                client.task_stats(&StatsQuery { all_tenants: true, ..StatsQuery::default() }).await,
            )?;
            bundle.lines("metrics.txt", client.metrics().await.map_err(|error| error.to_string()))?;
            bundle.json("audit.json", client.last_audit(ENTRIES).await)?;
        }
        Err(failure) => bundle.missing.push(format!("what the server knows: {}", failure.said())),
    }
    for unit in UNITS {
        bundle.lines(&format!("{unit}.log"), journal(unit))?;
    }
    let missing = bundle.missing.join("\n");
    bundle.text("missing.txt", &missing)?;
    let seen = format!("{} was made; look through it before you send it", args.to.display());
    output::text(&if missing.is_empty() { seen } else { format!("{seen}\nnot there: {missing}") })?;
    Ok(Exit::Done)
}

fn make(folder: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().mode(0o700).create(folder).map_err(|error| {
        Failure::new(Exit::Failed, format!("the folder {} cannot be made: {error}", folder.display()))
            .help("name one that is not there, in a folder that is")
    })
}

/// The last lines of a service's log, where it is the journal's.
fn journal(unit: &str) -> Result<String, String> {
    let unit = format!("hostler-{unit}");
    let read = Command::new("journalctl").args(["--no-pager", "--lines", LINES, "--unit", &unit]).output();
    let output = read.map_err(|error| format!("journalctl: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr).trim().to_owned()) }
}
