//! `hostler node`: the hosts that run machines, and how much room they have.

mod drain;
mod edit;
mod orphans;
mod refresh;
mod road;

use clap::Subcommand;
use hostler_client::Decision;
use hostler_model::{
    Timestamp,
    broker::Transport,
    join_token::{IssuedJoinToken, NewJoinToken},
    name::Name,
    node::{Node, NodeFacts, OwnOvercommit, Slots},
};

use super::{Globals, Session, WatchArgs, quota, read};
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

const LIST: &str = "\
Examples:
  hostler node list
  hostler node list --watch
  hostler node list -o wide
  hostler node list -o json";

const TOKEN: &str = "\
Examples:
  hostler node token rack1-a         a host joins under this name, once, within 15 minutes; where there is such a node,
                                     it takes that node's place
  hostler node token                 a new node of any name that no node has
  hostler node token --pending       it gets no tasks before `hostler node approve`
  hostler node token --no-headers -o json | jq -r .token > token";

/// The verbs of nodes.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the nodes, with what is promised or in use of what may be
    #[command(visible_alias = "ls", after_help = LIST)]
    List(WatchArgs),
    /// Lease nothing more to a node until it is resumed; what it has under way goes on
    ///
    /// Tasks for it stay queued, and say that they wait for this; the time they may wait goes on. What is to be stopped
    /// and undone still reaches it. To place no new machines there, cordon it.
    #[command(after_help = "Examples:\n  hostler node pause local")]
    Pause {
        /// Its name or id
        node: String,
    },
    /// Lease to a node again
    #[command(after_help = "Examples:\n  hostler node resume local")]
    Resume {
        /// Its name or id
        node: String,
    },
    /// Show one node
    #[command(after_help = "Examples:\n  hostler node show local")]
    Show {
        /// Its name or id
        node: String,
        #[command(flatten)]
        watch: WatchArgs,
    },
    /// Make a token by which one host joins. It is shown only now
    #[command(after_help = TOKEN)]
    Token {
        /// The only name under which a host may join with it; only so may it take a node's place
        #[arg(value_parser = read::model::<Name>)]
        name: Option<Name>,
        /// The node gets no tasks before it is approved
        #[arg(long)]
        pending: bool,
    },
    /// Add a node whose agent is somebody else's: a consumer of RabbitMQ
    #[command(after_help = road::ADD)]
    Add(road::AddArgs),
    /// Send a node's tasks by another road
    ///
    /// Agents of ours decide between poll and amqp by themselves, when they start. `plain` hands the node over to a consumer
    /// of RabbitMQ that is not ours.
    #[command(after_help = road::TRANSPORT)]
    Transport {
        /// Its name or id
        node: String,
        /// By which road
        #[arg(value_enum)]
        road: road::Road,
    },
    /// Let a node that joined get tasks
    #[command(after_help = "Examples:\n  hostler node approve rack1-a")]
    Approve(Which),
    /// Place no new machines on a node
    #[command(after_help = "Examples:\n  hostler node cordon rack1-a")]
    Cordon(Which),
    /// Place new machines on a node again
    #[command(after_help = "Examples:\n  hostler node uncordon rack1-a")]
    Uncordon(Which),
    /// Empty a node: nothing new comes there, and what is there ends
    ///
    /// Machines that nobody has begun to make go to other nodes. The others stay until they are deleted, for nothing moves a
    /// disk between hosts; `hostler node show` names them, each with why.
    #[command(after_help = drain::DRAIN)]
    Drain(drain::DrainArgs),
    /// Remove a node that is drained, or whose host is gone
    #[command(visible_alias = "rm", after_help = drain::REMOVE)]
    Remove(drain::RemoveArgs),
    /// Set labels of a node, by which machines choose it, or take them away
    #[command(after_help = edit::LABEL)]
    Label(edit::LabelArgs),
    /// Say how much may be promised on a node
    #[command(after_help = edit::EDIT)]
    Edit(edit::EditArgs),
    /// Make a node's certificate good for nothing, at once
    ///
    /// No server takes anything from it any more, and its connections are cut within a second. Its machines go on, and are
    /// unknown after a while. With a new token it may join again.
    #[command(after_help = "Examples:\n  hostler node revoke rack1-a")]
    Revoke(Which),
    /// Count what is promised and in use on a node anew from what exists, and say what differed
    #[command(after_help = "Examples:\n  hostler node recalculate rack1-a")]
    Recalculate(Which),
    /// List the machines on all hosts that no record knows
    #[command(after_help = orphans::EXAMPLES)]
    Orphans,
    /// Let a node look at everything on its host and tell at once
    #[command(after_help = refresh::EXAMPLES)]
    Refresh(refresh::Args),
}

#[derive(clap::Args, Debug)]
struct Which {
    /// Its name or id
    node: String,
}

/// Runs a verb of nodes.
pub async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let session = globals.session()?;
    match args.verb {
        Verb::List(watch) => {
            let look = async || {
                let nodes = session.client.nodes().await?;
                let text = table(&nodes, session.now());
                Ok((nodes, text))
            };
            session.view(watch, None, look).await
        }
        Verb::Pause { node } => decide(&session, &node, Decision::Pause).await,
        Verb::Resume { node } => decide(&session, &node, Decision::Resume).await,
        Verb::Show { node, watch } => {
            let look = async || {
                let node = session.client.node(&node).await?;
                let text = show(&node, session.now());
                Ok((node, text))
            };
            session.view(watch, None, look).await
        }
        Verb::Token { name, pending } => {
            let issued = session.client.make_join_token(&NewJoinToken { node: name, approve: !pending }).await?;
            session.print(&issued, || told(&issued, session.now()))?;
            Ok(Exit::Done)
        }
        Verb::Add(args) => road::add(args, &session).await,
        Verb::Transport { node, road } => road::transport(&node, road, &session).await,
        Verb::Approve(Which { node }) => decide(&session, &node, Decision::Approve).await,
        Verb::Cordon(Which { node }) => decide(&session, &node, Decision::Cordon).await,
        Verb::Uncordon(Which { node }) => decide(&session, &node, Decision::Uncordon).await,
        Verb::Drain(args) => drain::drain(args, &session).await,
        Verb::Remove(args) => drain::remove(args, &session).await,
        Verb::Label(args) => edit::label(args, &session).await,
        Verb::Edit(args) => edit::edit(args, &session).await,
        Verb::Revoke(Which { node }) => decide(&session, &node, Decision::Revoke).await,
        Verb::Recalculate(Which { node }) => {
            let done = session.client.recalculate_node(&node).await?;
            session.print(&done, || quota::told(&done.kept, &done.book))?;
            Ok(Exit::Done)
        }
        Verb::Orphans => orphans::run(&session).await,
        Verb::Refresh(args) => refresh::run(args, &session).await,
    }
}

async fn decide(session: &Session, node: &str, decision: Decision) -> Result<Exit, Failure> {
    let node = session.client.change_node(node, decision).await?;
    session.print(&node, || show(&node, session.now()))?;
    Ok(Exit::Done)
}

/// The token, and what to do with it on the host that is to join.
fn told(issued: &IssuedJoinToken, now: Timestamp) -> String {
    let name = issued.node.as_ref().map(|name| format!(" --name {name}")).unwrap_or_default();
    output::fields([
        ("token", issued.token.clone()),
        ("node", issued.node.as_ref().map_or_else(|| "a new one".to_owned(), ToString::to_string)),
        ("id", issued.id.to_string()),
        ("works", format!("once, for {}", output::took(issued.expires_at.since(now)))),
        ("then", if issued.approve { "" } else { "`hostler node approve NODE`, before it gets tasks" }.to_owned()),
        ("there", format!("hostler agent join {} --server https://SERVER:9091{name}", issued.token)),
    ])
}

/// What an operator decided about it.
fn state(node: &Node) -> String {
    match (node.revoked_at, node.paused_at) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(_)) => format!("{}, paused", node.state),
        (None, None) => node.state.to_string(),
    }
}

/// What is promised or in use, and what may be.
pub fn room(node: &Node) -> [String; 4] {
    let (taken, all) = (node.book.total(), node.schedulable);
    [
        format!("{}/{}", taken.vcpus, all.vcpus),
        format!("{}/{} MiB", taken.memory_mib, all.memory_mib),
        format!("{}/{} GiB", taken.disk_gib, all.disk_gib),
        format!("{}/{}", taken.vms, all.vms),
    ]
}

fn seen(node: &Node, now: Timestamp) -> String {
    output::or_dash(node.last_seen.map(|seen| output::ago(seen, now)))
}

fn table(nodes: &[Node], now: Timestamp) -> Table {
    let rows = nodes.iter().map(|node| {
        let [vcpus, memory, disk, vms] = room(node);
        let (state, heard) = (state(node), node.freshness.as_str().to_owned());
        [
            node.name.to_string(),
            state,
            heard,
            node.facts.acceleration.clone(),
            vcpus,
            memory,
            disk,
            vms,
            seen(node, now),
            node.facts.agent_version.clone(),
            node.facts.kernel.clone(),
            node.id.to_string(),
        ]
    });
    let header =
        ["NAME", "STATE", "AGENT", "ACCELERATION", "VCPUS", "MEMORY", "DISK", "VMS", "SEEN", "VERSION", "KERNEL", "ID"];
    output::table(header, rows).wide(&["VERSION", "KERNEL", "ID"])
}

/// What it does at once; an older agent does not say.
fn slots(facts: &NodeFacts) -> String {
    let Slots { boot, disk, quick, guest } = facts.slots;
    if facts.slots.total() == 0 {
        String::new()
    } else {
        format!("{boot} boot, {disk} disk, {quick} quick, {guest} guest")
    }
}

/// How much may be promised here, where it is not as on all nodes.
fn overcommit(node: &Node) -> String {
    let OwnOvercommit { vcpus_percent, memory_percent, disk_percent } = node.overcommit;
    let each = [("vcpus", vcpus_percent), ("memory", memory_percent), ("disk", disk_percent)];
    let said = each.into_iter().filter_map(|(name, percent)| Some(format!("{name} {}%", percent?)));
    said.collect::<Vec<_>>().join(", ")
}

fn show(node: &Node, now: Timestamp) -> String {
    let facts = &node.facts;
    let [vcpus, memory, disk, vms] = room(node);
    let labels: Vec<String> = node.all_labels().iter().map(|(key, value)| format!("{key}={value}")).collect();
    let why =
        if facts.acceleration_reason.is_empty() { String::new() } else { format!(": {}", facts.acceleration_reason) };
    output::fields([
        ("name", node.name.to_string()),
        ("id", node.id.to_string()),
        ("state", state(node)),
        ("revoked", node.revoked_at.map(|since| output::ago(since, now)).unwrap_or_default()),
        ("left", drain::left(node)),
        ("paused", node.paused_at.map(|since| output::ago(since, now)).unwrap_or_default()),
        ("agent", format!("{}, seen {}, version {}", node.freshness.as_str(), seen(node, now), facts.agent_version)),
        (
            "transport",
            if node.transport == Transport::Poll { String::new() } else { node.transport.as_str().to_owned() },
        ),
        ("hypervisor", facts.hypervisor.clone()),
        ("acceleration", format!("{}{why}", facts.acceleration)),
        ("kernel", facts.kernel.clone()),
        ("vcpus", vcpus),
        ("memory", memory),
        ("disk", disk),
        ("vms", vms),
        ("overcommit", overcommit(node)),
        ("slots", slots(facts)),
        ("can", facts.capabilities.join(", ")),
        ("images", facts.images.len().to_string()),
        ("labels", labels.join(", ")),
        ("joined", output::ago(node.created_at, now)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_list_of_nodes() {
        insta::assert_snapshot!(table(&[fixture::node()], fixture::NOW), @"
        NAME   STATE  AGENT  ACCELERATION  VCPUS  MEMORY        DISK      VMS    SEEN
        local  ready  fresh  tcg           1/8    257/8192 MiB  1/50 GiB  1/100  60s ago
        ");
    }

    #[test]
    fn a_node() {
        insta::assert_snapshot!(show(&fixture::node(), fixture::NOW), @"
        name          local
        id            0190f1f0-0000-7000-8000-00000000000a
        state         ready
        agent         fresh, seen 60s ago, version 0.1.0
        hypervisor    QEMU 10.0.2
        acceleration  tcg: the processor reports neither vmx nor svm
        kernel        6.12.0
        vcpus         1/8
        memory        257/8192 MiB
        disk          1/50 GiB
        vms           1/100
        can           vm.*, echo
        images        1
        joined        60s ago
        ");
    }
}
