//! `hostler agent join`: one command that makes a host a node. The token says which authority the server must show, so nothing
//! else needs to be known of it; where the server is found is remembered beside the node's identity.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use hostler_agent::enrol;
use hostler_trust::{
    Credentials, JoinToken,
    file::{read_private, write_private},
};

use super::{Until, work};
use crate::{
    exit::{Exit, Failure},
    output,
    settings::{Agent, AgentFlags, FileArgs, layers},
};

/// Where a server of this host takes agents.
const HERE: &str = "https://127.0.0.1:9091";

const EXAMPLES: &str = "\
Examples:
  hostler agent join hst_… --server https://hostler.example.com:9091
  hostler agent join hst_… --server https://hostler.example.com:9091 --no-run && systemctl enable --now hostler-agent
  hostler agent join - --server https://hostler.example.com:9091 <token       nobody on this host sees the token

The token is from `hostler node token` on the server's side; it works once, within 15 minutes. Whoever reads it before that
may join in this host's place, and this host is then refused.";

/// The flags of `agent join`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The token; - reads it from standard input
    #[arg(value_name = "TOKEN")]
    token: String,

    /// Join, and leave the work to an agent that is started afterwards
    #[arg(long)]
    no_run: bool,

    #[command(flatten)]
    file: FileArgs,

    #[command(flatten)]
    flags: AgentFlags,
}

/// Joins; then works until it is told to end, unless that is not wanted.
pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let token = token(&args.token)?;
    let mut settings: Agent = layers::merged(&args.flags, &layers::File::read(&args.file)?)?;
    if settings.server.is_empty() {
        settings.server = HERE.to_owned();
    }
    let identity = enrol::folder(&settings.data);
    if let Some(known) = Credentials::load(&identity).map_err(super::failed)? {
        let detail = format!("this host has joined already, as node {}", known.identity().node);
        return Err(Failure::new(Exit::Refused, detail).help(format!(
            "`hostler agent` goes on as that; to join anew, end its agent and remove {}",
            identity.display()
        )));
    }
    write_private(&remembered(&settings.data), settings.server.as_bytes()).map_err(super::failed)?;
    let data = settings.data.clone();
    let until = if args.no_run { Until::Joined } else { Until::Told };
    let exit = work(settings, Some(token), until).await?;
    if args.no_run {
        output::note(format!("joined; `hostler agent --data {}` works as this node from now on", data.display()));
    }
    Ok(exit)
}

fn token(said: &str) -> Result<JoinToken, Failure> {
    let mut text = said.to_owned();
    if said == "-" {
        text.clear();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|error| Failure::usage(format!("no token can be read from standard input: {error}")))?;
    }
    let parsed = text.trim().parse::<JoinToken>();
    parsed.map_err(|error| Failure::usage(error).help("`hostler node token` makes another"))
}

/// Where it is written down at which server this host joined.
fn remembered(data: &Path) -> PathBuf {
    enrol::folder(data).join("address")
}

/// At which server this host joined; that of this host, where it is not remembered.
pub(super) fn server(data: &Path) -> Result<String, Failure> {
    let known = read_private(&remembered(data)).map_err(super::failed)?;
    Ok(known.map_or_else(|| HERE.to_owned(), |text| text.trim().to_owned()))
}
