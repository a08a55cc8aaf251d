//! What the agent says of its host. What cannot change while it runs is read once.

use hostler_model::{Resources, broker::Transport, node::NodeFacts};

use crate::{agent::Node, blocking, config::AgentConfig, handler, host};

/// Machines that one agent looks after at the most: each has a few file descriptors and a task here.
const MOST_VMS: i64 = 1000;
/// What the host keeps for itself: a twentieth of its memory, at least this much.
const LEAST_RESERVE_MIB: i64 = 256;

/// The facts that stay the same: all but the images. Reads `/proc`: blocks for a moment.
pub fn read(config: &AgentConfig) -> NodeFacts {
    let host = host::facts(&config.root, &config.data);
    let capacity = Resources {
        vcpus: host.cpus,
        memory_mib: host.memory_total_mib - LEAST_RESERVE_MIB.max(host.memory_total_mib / 20),
        // What machines and images take already is part of the capacity: the books know what is promised of it.
        disk_gib: host.disk_available_gib + (taken(&config.data) >> 30) as i64,
        vms: MOST_VMS,
    };
    NodeFacts {
        hypervisor: config.hypervisor.version(),
        acceleration: config.hypervisor.acceleration().to_owned(),
        acceleration_reason: config.hypervisor.acceleration_reason().to_owned(),
        kernel: host.kernel,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: config.capacity.unwrap_or(capacity),
        slots: config.slots,
        capabilities: handler::capabilities(),
        images: Vec::new(),
        labels: config.labels.clone(),
        transport: Some(if config.broker.is_some() { Transport::Amqp } else { Transport::Poll }),
        broker_user: None,
    }
}

/// The facts now.
pub async fn current(node: &Node) -> NodeFacts {
    let images = node.tools.images.clone();
    let images = blocking::run(node.tools.mode, move || images.list()).await.unwrap_or_default();
    NodeFacts { images, ..node.facts.clone() }
}

/// The bytes on disk below a folder: blocks, not lengths, for most files here are sparse.
fn taken(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => taken(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
