//! `hostler node label` and `hostler node edit`: by what machines choose a node, and how much may be promised there.

use std::{collections::BTreeMap, str::FromStr};

use hostler_model::{
    node::{NodePatch, OvercommitPatch},
    patch::Patch,
};

use super::{Session, show};
use crate::exit::{Exit, Failure};

/// For its help.
pub const LABEL: &str = "\
Examples:
  hostler node label rack1-a zone=a disk=ssd
  hostler node label rack1-a disk-              take a label away

Machines ask for them with `hostler vm create --node-label zone=a`.";

/// For its help.
pub const EDIT: &str = "\
Examples:
  hostler node edit rack1-a --overcommit-vcpus 800      eight virtual processors for each one that is there
  hostler node edit rack1-a --overcommit-memory 90      keep a tenth of its memory for the host
  hostler node edit rack1-a --overcommit-vcpus usual    as on all nodes again";

/// What to label it with.
#[derive(clap::Args, Debug)]
pub struct LabelArgs {
    /// Its name or id
    node: String,
    /// KEY=VALUE sets a label, KEY- takes it away
    #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
    labels: Vec<Label>,
}

/// A label that is set or taken away.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Label {
    key: String,
    value: Option<String>,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let label = |key: &str, value: Option<&str>| Ok(Label { key: key.to_owned(), value: value.map(str::to_owned) });
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => label(key, Some(value)),
            (None, Some(key)) if !key.is_empty() => label(key, None),
            (Some(_) | None, _) => Err("write it as KEY=VALUE, or as KEY- to take it away".to_owned()),
        }
    }
}

/// How much may be promised.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = true)]
pub struct Shares {
    /// Virtual processors for each hundred that are there
    #[arg(long, value_name = "PERCENT|usual")]
    overcommit_vcpus: Option<Share>,
    /// Memory, in percent of what is there
    #[arg(long, value_name = "PERCENT|usual")]
    overcommit_memory: Option<Share>,
    /// Disk, in percent of what is there
    #[arg(long, value_name = "PERCENT|usual")]
    overcommit_disk: Option<Share>,
}

/// What to change.
#[derive(clap::Args, Debug)]
pub struct EditArgs {
    /// Its name or id
    node: String,
    #[command(flatten)]
    shares: Shares,
}

/// A share of what is there, or that of all nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Share(Patch<u32>);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "usual" {
            return Ok(Share(Patch::Remove));
        }
        let percent = text.strip_suffix('%').unwrap_or(text).parse();
        percent
            .map(|percent| Share(Patch::Set(percent)))
            .map_err(|_| "write it in percent, such as 400, or as usual".to_owned())
    }
}

/// Labels a node.
pub async fn label(args: LabelArgs, session: &Session) -> Result<Exit, Failure> {
    let labels: BTreeMap<_, _> = args.labels.into_iter().map(|label| (label.key, label.value)).collect();
    patch(&args.node, &NodePatch { labels: Patch::Set(labels), ..NodePatch::default() }, session).await
}

/// Says how much may be promised on a node.
pub async fn edit(args: EditArgs, session: &Session) -> Result<Exit, Failure> {
    let share = |given: Option<Share>| given.map_or(Patch::Keep, |Share(patch)| patch);
    let overcommit = OvercommitPatch {
        vcpus_percent: share(args.shares.overcommit_vcpus),
        memory_percent: share(args.shares.overcommit_memory),
        disk_percent: share(args.shares.overcommit_disk),
    };
    patch(&args.node, &NodePatch { overcommit: Patch::Set(overcommit), ..NodePatch::default() }, session).await
}

async fn patch(node: &str, patch: &NodePatch, session: &Session) -> Result<Exit, Failure> {
    let node = session.client.edit_node(node, patch).await?;
    session.print(&node, || show(&node, session.now()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_set_or_taken_away() {
        let read = |text: &str| text.parse::<Label>().map(|label| (label.key, label.value));
        assert_eq!(read("zone=a"), Ok(("zone".into(), Some("a".into()))));
        assert_eq!(read("zone="), Ok(("zone".into(), Some(String::new()))));
        assert_eq!(read("zone=a-"), Ok(("zone".into(), Some("a-".into()))));
        assert_eq!(read("zone-"), Ok(("zone".into(), None)));
        for bad in ["zone", "=a", "-", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_in_percent_or_as_usual() {
        let read = |text: &str| text.parse::<Share>().map(|share| share.0);
        assert_eq!(
            (read("400"), read("90%"), read("usual")),
            (Ok(Patch::Set(400)), Ok(Patch::Set(90)), Ok(Patch::Remove))
        );
        assert!(read("much").is_err() && read("-1").is_err());
    }
}
