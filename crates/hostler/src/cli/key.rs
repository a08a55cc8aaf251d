//! `hostler key`: the keys that sign tasks, and how one follows another.

use clap::Subcommand;
use hostler_model::{
    Timestamp,
    key::{KeyEvent, Retired, Rotated, SigningKey},
};

use super::{Globals, Session};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

const ROTATE: &str = "\
Examples:
  hostler key list
  hostler key stage                 another key; agents learn it with their next heartbeats
  hostler key activate KID          it signs from now on, the one before it is in grace
  hostler key retire KID            the one in grace, once what it signed has been begun
  hostler key revoke KID            somebody else may have it: at once, whatever it signed";

/// The verbs of keys.
#[derive(clap::Args, Debug)]
#[command(after_help = ROTATE)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the keys that sign tasks, or did
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler key list\n  hostler key list -o json")]
    List,
    /// Make another key, which signs nothing before it is activated
    #[command(after_help = "Examples:\n  hostler key stage\n  hostler key stage -o json | jq -r .kid")]
    Stage,
    /// Sign with a key from now on; what the one before it signed is still believed
    #[command(after_help = "Examples:\n  hostler key activate kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")]
    Activate(Which),
    /// Believe a key in grace no longer
    ///
    /// What it signed is refused from then on. Tasks of agents that poll are begun within a lease; an offer by RabbitMQ lives
    /// as long as its task may wait.
    #[command(after_help = "Examples:\n  hostler key retire kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")]
    Retire(Which),
    /// Refuse whatever a key signed, from now on
    ///
    /// Where it signs, the newest key that is staged takes its place, or a new one. Tasks that were under way to a node are
    /// refused there, and sent again once their leases are over.
    #[command(after_help = "Examples:\n  hostler key revoke kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")]
    Revoke(Which),
    /// Let another master key wrap the keys under which secrets are sealed
    ///
    /// Secrets need not be sealed anew. Keep a copy of the new file: without it nothing that is sealed can be read. The keys
    /// before it stay in the file, for backups, until --retire removes them.
    #[command(after_help = "Examples:\n  hostler key rotate-master\n  hostler key rotate-master --retire")]
    RotateMaster {
        /// In place of a rotation: remove the master keys that wrap nothing any more
        ///
        /// Backups that were taken under them can then be read only with an earlier copy of the file.
        #[arg(long)]
        retire: bool,
    },
}

#[derive(clap::Args, Debug)]
struct Which {
    /// Its kid
    #[arg(value_name = "KID")]
    key: String,
}

/// Runs a verb of keys.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    match args.verb {
        Verb::List => {
            let keys = session.client.keys().await?;
            session.print(&keys, || table(&keys, session.now()))?;
            Ok(Exit::Done)
        }
        Verb::Stage => {
            let key = session.client.stage_key().await?;
            tell(&session, &key)
        }
        Verb::RotateMaster { retire: false } => {
            let rotated = session.client.rotate_master_key().await?;
            session.print(&rotated, || output::fields(rotation(&rotated)))?;
            Ok(Exit::Done)
        }
        Verb::RotateMaster { retire: true } => {
            let retired = session.client.retire_master_keys().await?;
            session.print(&retired, || output::fields(retirement(&retired)))?;
            Ok(Exit::Done)
        }
        Verb::Activate(Which { key }) => change(&session, &key, KeyEvent::Activate).await,
        Verb::Retire(Which { key }) => change(&session, &key, KeyEvent::Retire).await,
        Verb::Revoke(Which { key }) => change(&session, &key, KeyEvent::Revoke).await,
    }
}

async fn change(session: &Session, kid: &str, event: KeyEvent) -> Result<Exit, Failure> {
    let key = session.client.change_key(kid, event).await?;
    tell(session, &key)
}

fn tell(session: &Session, key: &SigningKey) -> Result<Exit, Failure> {
    session.print(key, || show(key, session.now()))?;
    Ok(Exit::Done)
}

/// What a command is called where a master key's name stands.
const COMMAND: &str = "master_key_command, which has versions of its own";

fn rotation(Rotated { keys, master, older }: &Rotated) -> Vec<(&'static str, String)> {
    let mut fields =
        vec![("wraps", master.clone().unwrap_or_else(|| COMMAND.to_owned())), ("keys", format!("{keys} wrapped anew"))];
    if !older.is_empty() {
        fields.push(("kept", format!("{}: backups taken under them need them", older.join(", "))));
        fields.push(("next", "copy the file to where you keep it, and to hosts that do not share it".to_owned()));
    }
    fields
}

fn retirement(Retired { master, removed }: &Retired) -> Vec<(&'static str, String)> {
    let gone = match &removed[..] {
        [] => "nothing".to_owned(),
        names => format!("{}: backups taken under them need an earlier copy of the file", names.join(", ")),
    };
    vec![("wraps", master.clone().unwrap_or_else(|| COMMAND.to_owned())), ("removed", gone)]
}

fn table(keys: &[SigningKey], now: Timestamp) -> Table {
    let rows = keys.iter().map(|key| {
        [
            key.kid.to_string(),
            key.state.to_string(),
            output::ago(key.changed_at, now),
            output::ago(key.created_at, now),
            key.public.clone(),
        ]
    });
    output::table(["KID", "STATE", "SINCE", "MADE", "PUBLIC"], rows).wide(&["PUBLIC"])
}

fn show(key: &SigningKey, now: Timestamp) -> String {
    output::fields([
        ("kid", key.kid.to_string()),
        ("state", key.state.to_string()),
        ("since", output::ago(key.changed_at, now)),
        ("made", output::ago(key.created_at, now)),
        ("public", key.public.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use hostler_model::key::{KeyState, Kid};

    use super::*;
    use crate::cli::fixture::NOW;

    #[test]
    fn a_list_of_keys() {
        let key = |kid: char, state| SigningKey {
            kid: Kid(kid.to_string().repeat(43)),
            state,
            public: "x".to_owned(),
            created_at: NOW,
            changed_at: NOW,
        };
        insta::assert_snapshot!(table(&[key('b', KeyState::Active), key('a', KeyState::Grace)], NOW), @"
        KID                                          STATE   SINCE  MADE
        bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  active  now    now
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  grace   now    now
        ");
    }

    #[test]
    fn a_rotation_names_what_stays_and_a_retirement_what_is_gone() {
        let rotated = Rotated { keys: 2, master: Some("0b0b".into()), older: vec!["0a0a".into()] };
        insta::assert_snapshot!(output::fields(rotation(&rotated)), @"
        wraps  0b0b
        keys   2 wrapped anew
        kept   0a0a: backups taken under them need them
        next   copy the file to where you keep it, and to hosts that do not share it
        ");
        let retired = Retired { master: Some("0b0b".into()), removed: vec!["0a0a".into()] };
        insta::assert_snapshot!(output::fields(retirement(&retired)), @"
        wraps    0b0b
        removed  0a0a: backups taken under them need an earlier copy of the file
        ");
    }
}
