//! `hostler node add`, `hostler node transport`: nodes whose tasks travel by a message broker.

use hostler_model::{
    Resources,
    broker::{NewPlainNode, Transport, offers_queue},
    name::Name,
    node::Node,
};

use crate::{
    cli::{Session, read},
    exit::{Exit, Failure},
    output,
};

pub(super) const ADD: &str = "\
Examples:
  hostler node add rack9 --can diag.health_probe --user rack9    it takes no room
  hostler node add hyperv1 --can 'vm.*' --vcpus 16 --memory 64G --disk 500G --vms 20

Its consumer takes JSON from the queue that is shown, and publishes results and heartbeats: docs/rabbitmq.md.";

pub(super) const TRANSPORT: &str = "\
Examples:
  hostler node transport rack9 plain     its consumer is not ours; tasks are sent as JSON, once
  hostler node transport rack9 poll      an agent of ours takes it over";

/// The flags of `node add`.
#[derive(clap::Args, Debug)]
pub struct AddArgs {
    /// Its name
    #[arg(value_parser = read::model::<Name>)]
    name: Name,
    /// Kinds of task that it can do, `*` at the end for all that begin so
    #[arg(long, value_name = "KIND", value_delimiter = ',', required = true)]
    can: Vec<String>,
    /// The broker's user that alone may speak for it; without one, whoever may publish may
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Processors that may be promised there
    #[arg(long, value_name = "N", default_value_t = 0)]
    vcpus: i64,
    /// Memory that may be promised there
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = amount)]
    memory: Amount,
    /// Disk that may be promised there
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = room)]
    disk: Amount,
    /// Machines that may be there
    #[arg(long, value_name = "N", default_value_t = 0)]
    vms: i64,
}

/// Nothing, or so much, in the unit of its flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Amount(i64);

fn amount(text: &str) -> Result<Amount, String> {
    if text == "0" { Ok(Amount(0)) } else { read::memory(text).map(Amount) }
}

fn room(text: &str) -> Result<Amount, String> {
    if text == "0" { Ok(Amount(0)) } else { read::disk(text).map(Amount) }
}

/// A road, as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Road {
    /// An agent of ours asks for its tasks
    Poll,
    /// An agent of ours is offered its tasks by RabbitMQ
    Amqp,
    /// A consumer that is not ours gets its tasks as JSON
    Plain,
}

impl From<Road> for Transport {
    fn from(road: Road) -> Transport {
        match road {
            Road::Poll => Transport::Poll,
            Road::Amqp => Transport::Amqp,
            Road::Plain => Transport::Plain,
        }
    }
}

/// Adds a node.
pub async fn add(args: AddArgs, session: &Session) -> Result<Exit, Failure> {
    let AddArgs { name, can, user, vcpus, memory, disk, vms } = args;
    let capacity = Resources { vcpus, memory_mib: memory.0, disk_gib: disk.0, vms };
    let new = NewPlainNode { name, capacity, capabilities: can, user };
    let node = session.client.add_plain_node(&new).await?;
    session.print(&node, || told(&node))?;
    Ok(Exit::Done)
}

fn told(node: &Node) -> String {
    output::fields([
        ("name", node.name.to_string()),
        ("id", node.id.to_string()),
        ("queue", offers_queue(node.id)),
        ("user", node.facts.broker_user.clone().unwrap_or_default()),
        ("can", node.facts.capabilities.join(", ")),
    ])
}

/// Changes a node's road.
pub async fn transport(node: &str, road: Road, session: &Session) -> Result<Exit, Failure> {
    let node = session.client.reroute_node(node, road.into()).await?;
    session.print(&node, || super::show(&node, session.now()))?;
    Ok(Exit::Done)
}
