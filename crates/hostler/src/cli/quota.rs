//! `hostler quota`: how much a tenant may have and has, and what is held for it by hand.

use std::time::Duration;

use clap::Subcommand;
use hostler_model::{
    Timestamp,
    amounts::Amounts,
    api::Quota,
    book::Book,
    reservation::{NewReservation, Reservation},
};

use super::{Globals, Session, read, tenant};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

/// Bytes.
const GIB: f64 = (1u64 << 30) as f64;

const SET: &str = "\
Examples:
  hostler quota set acme --vcpus 64 --memory 256G
  hostler quota set acme --running none --snapshots default

A limit below what the tenant has takes nothing away: it can only not grow.";

const RESERVE: &str = "\
Examples:
  hostler quota reserve acme --vcpus 16 --vms 4 --for 2h \"the fair on Monday\"
  hostler quota reserve acme --memory 64G --dry-run \"would it fit?\"";

const RECALCULATE: &str = "\
Examples:
  hostler quota recalculate acme

The counters always are the sums of what exists, unless somebody changed the database by hand: `hostler doctor` says so.";

/// The verbs of quotas.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Show what a tenant may have and has; your own where none is named
    #[command(after_help = "Examples:\n  hostler quota show\n  hostler quota show acme -o json")]
    Show {
        /// Its name or id
        of: Option<String>,
    },
    /// Change a tenant's limits
    #[command(after_help = SET)]
    Set {
        /// Its name or id
        of: String,
        #[command(flatten)]
        limits: tenant::LimitArgs,
        /// Say what they would become, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Hold amounts for a tenant, until they are released or their time is up
    #[command(after_help = RESERVE)]
    Reserve(ReserveArgs),
    /// List what is held for a tenant by hand
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler quota list acme")]
    List {
        /// Its name or id
        of: String,
    },
    /// Give back what was held
    #[command(after_help = "Examples:\n  hostler quota release acme 0190f1f0-0000-7000-8000-000000000001")]
    Release {
        /// Its name or id
        of: String,
        /// The reservation's id
        reservation: String,
    },
    /// Count a tenant's book anew from what exists, and say what differed
    #[command(after_help = RECALCULATE)]
    Recalculate {
        /// Its name or id
        of: String,
    },
}

#[derive(clap::Args, Debug)]
struct ReserveArgs {
    /// The tenant's name or id
    of: String,
    /// What for
    reason: String,
    /// Virtual processors
    #[arg(long, value_name = "N", default_value = "0")]
    vcpus: u32,
    /// Memory, such as 64G
    #[arg(long, value_name = "AMOUNT", value_parser = read::memory, default_value = "0")]
    memory: i64,
    /// Disk, such as 1T
    #[arg(long, value_name = "AMOUNT", value_parser = read::disk, default_value = "0")]
    disk: i64,
    /// Machines
    #[arg(long, value_name = "N", default_value = "0")]
    vms: u32,
    /// Machines that run
    #[arg(long, value_name = "N", default_value = "0")]
    running: u32,
    /// Snapshots
    #[arg(long, value_name = "N", default_value = "0")]
    snapshots: u32,
    /// How long
    #[arg(long = "for", value_name = "TIME", value_parser = read::duration, default_value = "15m")]
    time: Duration,
    /// Say whether it would fit, and hold nothing
    #[arg(long)]
    dry_run: bool,
}

impl From<&ReserveArgs> for NewReservation {
    fn from(args: &ReserveArgs) -> NewReservation {
        NewReservation {
            amount: Amounts {
                vcpus: args.vcpus.into(),
                memory_mib: args.memory,
                disk_gib: args.disk,
                vms: args.vms.into(),
                running_vms: args.running.into(),
                snapshots: args.snapshots.into(),
            },
            reason: args.reason.clone(),
            expires_in_seconds: Some(args.time.as_secs()),
        }
    }
}

/// Runs a verb of quotas.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    let (client, now) = (&session.client, session.now());
    match args.verb {
        Verb::Show { of: None } => shown(&session, &client.quota().await?),
        Verb::Show { of: Some(of) } => shown(&session, &client.quota_of(&of).await?),
        Verb::Set { of, limits, dry_run } => {
            shown(&session, &client.set_quota(&of, &limits.into(), tenant::mode(dry_run)).await?)
        }
        Verb::Reserve(args) => {
            let held = client.reserve_quota(&args.of, &(&args).into(), tenant::mode(args.dry_run)).await?;
            session.print(&held, || table(std::slice::from_ref(&held), now))?;
            Ok(Exit::Done)
        }
        Verb::List { of } => {
            let held = client.reservations(&of).await?;
            session.print(&held, || table(&held, now))?;
            Ok(Exit::Done)
        }
        Verb::Release { of, reservation } => {
            let held = client.release_quota(&of, &reservation).await?;
            session.print(&held, || format!("released  {}  {}\n", held.id, held.reason))?;
            Ok(Exit::Done)
        }
        Verb::Recalculate { of } => {
            let done = client.recalculate_quota(&of).await?;
            session.print(&done, || told(&done.kept, &done.book))?;
            Ok(Exit::Done)
        }
    }
}

fn shown(session: &Session, quota: &Quota) -> Result<Exit, Failure> {
    session.print(quota, || show(quota))?;
    Ok(Exit::Done)
}

/// Each limit, with what is in use and what is held.
fn show(quota: &Quota) -> Table {
    let sides = quota.book.used.each().into_iter().zip(quota.book.held.each());
    let limits = quota.limits.amounts();
    let rows = limits.each().into_iter().zip(sides).map(|((name, limit), ((_, used), (_, held)))| {
        [name.to_owned(), used.to_string(), held.to_string(), of(limit)]
    });
    let images = quota.images_bytes as f64 / GIB;
    let images = ["images_gib".to_owned(), format!("{images:.2}"), "0".to_owned(), of(quota.limits.images_gib)];
    output::table(["RESOURCE", "USED", "HELD", "LIMIT"], rows.chain([images]))
}

fn of(limit: i64) -> String {
    if limit < 0 { "none".to_owned() } else { limit.to_string() }
}

fn table(held: &[Reservation], now: Timestamp) -> Table {
    let rows = held.iter().map(|one| {
        let amounts = one.amount.each().into_iter().filter(|(_, amount)| *amount > 0);
        let amounts: Vec<String> = amounts.map(|(name, amount)| format!("{name}={amount}")).collect();
        [one.id.to_string(), amounts.join(" "), output::took(one.expires_at.since(now)), one.reason.clone()]
    });
    output::table(["ID", "HOLDS", "ENDS IN", "REASON"], rows)
}

/// What a recalculation corrected.
pub fn told(kept: &Book, book: &Book) -> String {
    if kept == book {
        return "nothing differed: the book is the sum of what exists\n".to_owned();
    }
    let sides = [("used", kept.used, book.used), ("held", kept.held, book.held)];
    let mut text = String::new();
    for (side, kept, book) in sides {
        for ((name, kept), (_, now)) in kept.each().into_iter().zip(book.each()).filter(|((_, a), (_, b))| a != b) {
            text += &format!("corrected  {side} {name}: {kept} is {now}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use hostler_model::{
        TenantId,
        tenant::{Limits, UNLIMITED},
    };

    use super::*;

    fn quota() -> Quota {
        let held = Amounts { vms: 1, ..Amounts::ZERO };
        let used = Amounts { vcpus: 2, vms: 2, running_vms: 1, ..Amounts::ZERO };
        let limits = Limits { vcpus: 8, snapshots: 0, ..UNLIMITED };
        Quota { tenant: TenantId::DEFAULT, limits, book: Book { held, used }, images_bytes: 3 << 29 }
    }

    #[test]
    fn a_quota_is_shown() {
        insta::assert_snapshot!(show(&quota()), @"
        RESOURCE     USED  HELD  LIMIT
        vcpus        2     0     8
        memory_mib   0     0     none
        disk_gib     0     0     none
        vms          2     1     none
        running_vms  1     0     none
        snapshots    0     0     0
        images_gib   1.50  0     none
        ");
    }

    #[test]
    fn a_recalculation_says_what_differed() {
        let kept = quota().book;
        let book = Book { held: Amounts::ZERO, ..kept };
        assert_eq!(told(&kept, &book), "corrected  held vms: 1 is 0\n");
        assert!(told(&kept, &kept).starts_with("nothing differed"));
    }
}
