//! `hostler vm claim`: a machine that no record knows becomes a tenant's.

use hostler_model::{VmId, name::Name, unassigned::NewClaim};

use super::{Session, edit};
use crate::{
    cli::read,
    exit::{Exit, Failure},
    output,
};

/// For its help.
pub const EXAMPLES: &str = "\
Examples:
  hostler node orphans
  hostler vm claim 0190f1f0-0000-7000-8000-00000000000b --node rack1-a --for acme
  hostler vm claim 0190f1f0-0000-7000-8000-00000000000b web-1 --node rack1-a --for acme";

/// Which, for whom, and how it is to be called.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its id, as `hostler node orphans` shows it
    id: VmId,
    /// What it is to be called; as it was called where nothing is said
    #[arg(value_parser = read::model::<Name>)]
    name: Option<Name>,
    /// On which node it is, by name or id
    #[arg(long)]
    node: String,
    /// For which tenant, by name or id
    #[arg(long = "for", value_name = "TENANT", default_value = "default")]
    tenant: String,
}

/// Makes a record of it.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let Args { id, name, node, tenant } = args;
    let vm = session.client.claim(&NewClaim { node, id, tenant, name }).await?;
    session.print(&vm, || {
        output::fields([
            ("name", vm.name.to_string()),
            ("id", vm.id.to_string()),
            ("state", vm.state.to_string()),
            ("ports", edit::ports(&vm)),
        ])
    })?;
    Ok(Exit::Done)
}
