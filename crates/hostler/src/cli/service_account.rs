//! `hostler service-account`: for whom programs' tokens stand.

use clap::Subcommand;
use hostler_model::{
    name::Name,
    role::Role,
    token::{NewServiceAccount, ServiceAccount},
};

use super::{Globals, read};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

const CREATE: &str = "\
Examples:
  hostler service-account create ci --role operator
  hostler token create build --for ci                  then, a token for it";

/// The verbs of service accounts.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a service account
    #[command(after_help = CREATE)]
    Create {
        /// Its name
        #[arg(value_parser = read::model::<Name>)]
        name: Name,
        /// What its tokens may at most: viewer, operator, tenant-admin or platform-admin
        #[arg(long, value_name = "ROLE", value_parser = read::model::<Role>)]
        role: Role,
    },
    /// List the tenant's service accounts
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler service-account list")]
    List,
    /// Delete a service account and revoke all its tokens at once
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler service-account delete ci")]
    Delete {
        /// Its name
        name: String,
    },
}

/// Runs a verb of service accounts.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    match args.verb {
        Verb::Create { name, role } => {
            let account = session.client.make_service_account(&NewServiceAccount { name, role }).await?;
            session.print(&account, || table(std::slice::from_ref(&account)))?;
        }
        Verb::List => {
            let accounts = session.client.service_accounts().await?;
            session.print(&accounts, || table(&accounts))?;
        }
        Verb::Delete { name } => {
            let account = session.client.delete_service_account(&name).await?;
            session.print(&account, || format!("deleted  {}\n", account.name))?;
        }
    }
    Ok(Exit::Done)
}

fn table(accounts: &[ServiceAccount]) -> Table {
    let rows =
        accounts.iter().map(|account| [account.name.to_string(), account.role.to_string(), account.id.to_string()]);
    output::table(["NAME", "ROLE", "ID"], rows)
}
