//! What a machine is to be, as flags of whatever makes one.

use std::{collections::BTreeMap, time::Duration};

use hostler_model::{api::NewVm, forward::PortForward, name::Name, placement::Placement, restart::RestartPolicy};

use super::first_boot;
use crate::{cli::read, exit::Failure};

/// What a machine is to be.
#[derive(clap::Args, Debug, Default)]
pub struct Shape {
    /// The image; `hostler image list` shows those there are [default: the server's, which is tiny unless configured]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,

    /// Virtual processors; the server or the image says how many by default
    #[arg(long, value_name = "N")]
    pub vcpus: Option<i64>,

    /// Memory, such as 256M or 2GiB
    #[arg(long, value_name = "SIZE", value_parser = read::memory)]
    pub memory: Option<i64>,

    /// The root disk, such as 10G
    #[arg(long, value_name = "SIZE", value_parser = read::disk)]
    pub disk: Option<i64>,

    /// A label; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = read::pair)]
    pub label: Vec<(String, String)>,

    /// The only node that will do, by name or id
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,

    /// A label that its node must have; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = read::pair)]
    pub node_label: Vec<(String, String)>,

    /// A group of machines no two of which share a node, by any name
    #[arg(long, value_name = "GROUP", value_parser = read::model::<Name>)]
    pub anti_affinity: Option<Name>,

    /// Wait for a node with room where there is none, instead of being refused
    #[arg(long)]
    pub wait_for_capacity: bool,

    /// Forward a port of the host to one of the guest, such as 8080:80, or only 80 to let the node choose; may be given
    /// more than once
    #[arg(long, value_name = "[[ADDRESS:]PORT:]GUEST_PORT[/udp]", value_parser = read::model::<PortForward>)]
    pub publish: Vec<PortForward>,

    /// Protect it from deletion
    #[arg(long)]
    pub protect: bool,

    /// Delete it by itself after this time, such as 8h
    #[arg(long, value_name = "TIME", value_parser = read::duration)]
    pub ttl: Option<Duration>,

    /// Start it again when its process ended by itself: never, on-failure, always
    #[arg(long, value_name = "POLICY", value_parser = read::model::<RestartPolicy>, default_value = "never")]
    pub restart: RestartPolicy,

    /// Start it again when its host was restarted while it ran
    #[arg(long)]
    pub autostart: bool,

    #[command(flatten)]
    pub first_boot: first_boot::Flags,
}

impl Shape {
    /// As the API takes it. Reads the files that are named.
    pub fn vm(self, name: Option<Name>) -> Result<NewVm, Failure> {
        let vm = NewVm {
            name,
            image: self.image,
            vcpus: self.vcpus,
            memory_mib: self.memory,
            disk_gib: self.disk,
            node: self.node,
            placement: Placement { labels: BTreeMap::from_iter(self.node_label), anti_affinity: self.anti_affinity },
            labels: BTreeMap::from_iter(self.label),
            wait_for_capacity: self.wait_for_capacity,
            port_forwards: self.publish,
            protected: self.protect,
            ttl_seconds: self.ttl.map(|ttl| ttl.as_secs().max(1)),
            restart: self.restart,
            autostart: self.autostart,
            ..NewVm::default()
        };
        self.first_boot.add(vm)
    }
}
