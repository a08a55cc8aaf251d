//! `hostler tenant`: whose things are whose, and how much each may have.

use clap::Subcommand;
use hostler_client::Mode;
use hostler_model::{
    Timestamp,
    name::Name,
    patch::Patch,
    tenant::{LimitsPatch, NewTenant, Tenant, TenantPatch},
};

use super::{Globals, Session, read};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

const CREATE: &str = "\
Examples:
  hostler tenant create acme                                   with the limits that the server gives new tenants
  hostler tenant create acme --vcpus 64 --memory 256G --disk 4T --vms 50
  hostler tenant create acme --vms none                        any number of machines
  hostler --tenant acme service-account create admin --role tenant-admin       then, somebody who looks after it
  hostler --tenant acme token create first --for admin";

const EDIT: &str = "\
Examples:
  hostler tenant edit acme --vcpus 128
  hostler tenant edit acme --vms default       as new tenants get it
  hostler tenant edit acme --name acme-corp

A limit below what the tenant has takes nothing away: it can only not grow.";

const DELETE: &str = "\
Examples:
  hostler tenant delete acme --dry-run         whether it could be, and what it still has
  hostler tenant delete acme";

/// The verbs of tenants.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a tenant
    #[command(after_help = CREATE)]
    Create {
        /// Its name
        #[arg(value_parser = read::model::<Name>)]
        name: Name,
        #[command(flatten)]
        limits: LimitArgs,
        /// Say what would be made, and make nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List the tenants, with what they have of what they may have
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler tenant list\n  hostler tenant list -o json")]
    List,
    /// Show a tenant
    #[command(after_help = "Examples:\n  hostler tenant show acme")]
    Show {
        /// Its name or id
        of: String,
    },
    /// Change a tenant's name and limits
    #[command(after_help = EDIT)]
    Edit {
        /// Its name or id
        of: String,
        /// The name that it is to have
        #[arg(long, value_parser = read::model::<Name>)]
        name: Option<Name>,
        #[command(flatten)]
        limits: LimitArgs,
        /// Only while it is of this generation, which `show` tells
        #[arg(long, value_name = "N")]
        if_generation: Option<u32>,
        /// Say what it would become, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete a tenant that has nothing any more
    #[command(visible_alias = "rm", after_help = DELETE)]
    Delete {
        /// Its name or id
        of: String,
        /// Say whether it could be deleted, and delete nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Limits: a number, `none`, or `default` for what the server gives new tenants.
#[derive(clap::Args, Debug)]
pub struct LimitArgs {
    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = count)]
    vcpus: Option<Patch<i64>>,
    /// Memory, such as 256G
    #[arg(long, value_name = "AMOUNT", value_parser = memory)]
    memory: Option<Patch<i64>>,
    /// Disk of machines and snapshots, such as 4T
    #[arg(long, value_name = "AMOUNT", value_parser = disk)]
    disk: Option<Patch<i64>>,
    /// Machines
    #[arg(long, value_name = "N", value_parser = count)]
    vms: Option<Patch<i64>>,
    /// Machines that run, or are about to
    #[arg(long, value_name = "N", value_parser = count)]
    running: Option<Patch<i64>>,
    /// Snapshots
    #[arg(long, value_name = "N", value_parser = count)]
    snapshots: Option<Patch<i64>>,
    /// Images, such as 100G
    #[arg(long, value_name = "AMOUNT", value_parser = disk)]
    images: Option<Patch<i64>>,
}

fn limit(text: &str, read: impl Fn(&str) -> Result<i64, String>) -> Result<Patch<i64>, String> {
    match text {
        "none" | "-1" => Ok(Patch::Set(-1)),
        "default" => Ok(Patch::Remove),
        _ => read(text).map(Patch::Set).map_err(|words| format!("{words}, none or default")),
    }
}

fn count(text: &str) -> Result<Patch<i64>, String> {
    let number = |text: &str| text.parse::<u32>().map(i64::from).map_err(|_| "write a number".to_owned());
    limit(text, number)
}

fn memory(text: &str) -> Result<Patch<i64>, String> {
    limit(text, read::memory)
}

fn disk(text: &str) -> Result<Patch<i64>, String> {
    limit(text, read::disk)
}

impl From<LimitArgs> for LimitsPatch {
    fn from(args: LimitArgs) -> LimitsPatch {
        let LimitArgs { vcpus, memory, disk, vms, running, snapshots, images } = args;
        LimitsPatch {
            vcpus: vcpus.unwrap_or_default(),
            memory_mib: memory.unwrap_or_default(),
            disk_gib: disk.unwrap_or_default(),
            vms: vms.unwrap_or_default(),
            running_vms: running.unwrap_or_default(),
            snapshots: snapshots.unwrap_or_default(),
            images_gib: images.unwrap_or_default(),
        }
    }
}

/// Runs a verb of tenants.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    match args.verb {
        Verb::Create { name, limits, dry_run } => {
            let new = NewTenant { name, limits: limits.into() };
            shown(&session, &session.client.create_tenant(&new, mode(dry_run)).await?)
        }
        Verb::List => {
            let tenants = session.client.tenants().await?;
            session.print(&tenants, || table(&tenants))?;
            Ok(Exit::Done)
        }
        Verb::Show { of } => shown(&session, &session.client.tenant(&of).await?),
        Verb::Edit { of, name, limits, if_generation, dry_run } => {
            let patch = TenantPatch { name, limits: limits.into() };
            shown(&session, &session.client.edit_tenant(&of, &patch, if_generation, mode(dry_run)).await?)
        }
        Verb::Delete { of, dry_run } => {
            let tenant = session.client.delete_tenant(&of, mode(dry_run)).await?;
            let word = if dry_run { "could be deleted (dry run)" } else { "deleted" };
            session.print(&tenant, || format!("{word}  {}\n", tenant.name))?;
            Ok(Exit::Done)
        }
    }
}

/// In earnest or not.
pub fn mode(dry_run: bool) -> Mode {
    if dry_run { Mode::DryRun } else { Mode::Real }
}

fn shown(session: &Session, tenant: &Tenant) -> Result<Exit, Failure> {
    session.print(tenant, || show(tenant, session.now()))?;
    Ok(Exit::Done)
}

/// How much of how much.
fn of(has: i64, limit: i64, unit: &str) -> String {
    match limit {
        -1 => format!("{has}{unit}"),
        limit => format!("{has}/{limit}{unit}"),
    }
}

/// What a tenant has of what it may have.
fn room(tenant: &Tenant) -> [String; 6] {
    let (has, may) = (tenant.book.total(), &tenant.limits);
    [
        of(has.vcpus, may.vcpus, ""),
        of(has.memory_mib, may.memory_mib, " MiB"),
        of(has.disk_gib, may.disk_gib, " GiB"),
        of(has.vms, may.vms, ""),
        of(has.running_vms, may.running_vms, ""),
        of(has.snapshots, may.snapshots, ""),
    ]
}

fn images(tenant: &Tenant) -> String {
    match tenant.limits.images_gib {
        -1 => "no limit".to_owned(),
        limit => format!("at most {limit} GiB"),
    }
}

fn table(tenants: &[Tenant]) -> Table {
    let rows = tenants.iter().map(|tenant| {
        let [vcpus, memory, disk, vms, running, snapshots] = room(tenant);
        [tenant.name.to_string(), vcpus, memory, disk, vms, running, snapshots, tenant.id.to_string()]
    });
    output::table(["NAME", "VCPUS", "MEMORY", "DISK", "VMS", "RUNNING", "SNAPSHOTS", "ID"], rows)
}

fn show(tenant: &Tenant, now: Timestamp) -> String {
    let [vcpus, memory, disk, vms, running, snapshots] = room(tenant);
    let made = if tenant.created_at.as_micros() == 0 {
        "with the server".to_owned()
    } else {
        output::ago(tenant.created_at, now)
    };
    output::fields([
        ("name", tenant.name.to_string()),
        ("id", tenant.id.to_string()),
        ("vcpus", vcpus),
        ("memory", memory),
        ("disk", disk),
        ("vms", vms),
        ("running", running),
        ("snapshots", snapshots),
        ("images", images(tenant)),
        ("generation", tenant.generation.to_string()),
        ("made", made),
    ])
}

#[cfg(test)]
mod tests {
    use hostler_model::{
        Resources, TenantId,
        book::Book,
        tenant::{Limits, UNLIMITED},
    };

    use super::*;
    use crate::cli::fixture;

    fn tenant() -> Tenant {
        let limits = Limits { vcpus: 8, disk_gib: 100, ..UNLIMITED };
        let used = Resources { vcpus: 2, memory_mib: 512, disk_gib: 2, vms: 2 }.into();
        let now = Timestamp::from_micros(fixture::NOW.as_micros() - 60_000_000);
        let made = Tenant::new(TenantId::DEFAULT, "acme".parse().unwrap(), limits, now);
        Tenant { book: Book { used, ..Book::default() }, ..made }
    }

    #[test]
    fn tenants_are_listed() {
        insta::assert_snapshot!(table(&[tenant()]), @"
        NAME  VCPUS  MEMORY   DISK       VMS  RUNNING  SNAPSHOTS  ID
        acme  2/8    512 MiB  2/100 GiB  2    0        0          00000000-0000-7000-8000-000000000001
        ");
    }

    #[test]
    fn a_tenant_is_shown() {
        insta::assert_snapshot!(show(&tenant(), fixture::NOW), @"
        name        acme
        id          00000000-0000-7000-8000-000000000001
        vcpus       2/8
        memory      512 MiB
        disk        2/100 GiB
        vms         2
        running     0
        snapshots   0
        images      no limit
        generation  1
        made        60s ago
        ");
    }

    #[test]
    fn a_limit_is_a_number_none_or_the_servers() {
        assert_eq!(
            (count("none"), count("default"), count("7")),
            (Ok(Patch::Set(-1)), Ok(Patch::Remove), Ok(Patch::Set(7)))
        );
        assert_eq!((memory("2G"), disk("1T")), (Ok(Patch::Set(2048)), Ok(Patch::Set(1024))));
        assert!(count("-2").is_err() && memory("much").is_err());
    }
}
