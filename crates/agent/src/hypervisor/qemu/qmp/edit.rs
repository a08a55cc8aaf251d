//! QMP's commands with which a machine is changed while it runs. Port forwards belong to the user network, which speaks
//! by the human monitor only: its words are made of addresses and ports, never of a text of somebody's.

use std::net::Ipv4Addr;

use hostler_model::forward::{PortForward, Protocol};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ANSWER, Qmp, QmpError};
use crate::hypervisor::Runs;

/// The user network's name on the command line.
const NETWORK: &str = "net0";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MemoryAnswer {
    base_memory: u64,
}

fn malformed(error: serde_json::Error) -> QmpError {
    QmpError::Malformed(error.to_string())
}

impl Qmp {
    /// What the machine's process was started with.
    pub(in super::super) async fn runs(&self) -> Result<Runs, QmpError> {
        let cpus: Vec<Value> =
            serde_json::from_value(self.ask("query-cpus-fast", Value::Null, None, ANSWER).await?).map_err(malformed)?;
        let memory: MemoryAnswer =
            serde_json::from_value(self.ask("query-memory-size-summary", Value::Null, None, ANSWER).await?)
                .map_err(malformed)?;
        let bytes = i64::try_from(memory.base_memory).unwrap_or(i64::MAX);
        Ok(Runs { vcpus: i64::try_from(cpus.len()).unwrap_or(i64::MAX), memory_mib: bytes >> 20 })
    }

    /// Grows a disk to this many bytes; the guest is told.
    pub(in super::super) async fn resize(&self, node: &str, size: u64) -> Result<(), QmpError> {
        self.ask("block_resize", json!({"node-name": node, "size": size}), None, ANSWER).await.map(drop)
    }

    /// The port forwards that there are.
    pub(in super::super) async fn forwards(&self) -> Result<Vec<PortForward>, QmpError> {
        let said = self.monitor("info usernet").await?;
        Ok(said.lines().filter_map(forward).collect())
    }

    /// Adds one; says whether the port could be had.
    pub(in super::super) async fn add_forward(&self, forward: &PortForward) -> Result<bool, QmpError> {
        let line = format!("hostfwd_add {NETWORK} {}", rule(forward));
        Ok(self.monitor(&line).await?.trim().is_empty())
    }

    /// Takes one away. One that is not there is none to complain about.
    pub(in super::super) async fn remove_forward(&self, forward: &PortForward) -> Result<(), QmpError> {
        let PortForward { protocol, host_address, host_port, .. } = forward;
        let line = format!("hostfwd_remove {NETWORK} {}:{host_address}:{host_port}", protocol.as_str());
        self.monitor(&line).await.map(drop)
    }
}

/// As QEMU's options spell it.
pub(in super::super) fn rule(forward: &PortForward) -> String {
    let PortForward { protocol, host_address, host_port, guest_port } = forward;
    format!("{}:{host_address}:{host_port}-:{guest_port}", protocol.as_str())
}

/// A line such as `TCP[HOST_FORWARD]  13  127.0.0.1  8080  10.0.2.15  80  0  0`.
fn forward(line: &str) -> Option<PortForward> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [kind, _, address, host_port, _, guest_port, ..] = fields[..] else { return None };
    let protocol = match kind {
        "TCP[HOST_FORWARD]" => Protocol::Tcp,
        "UDP[HOST_FORWARD]" => Protocol::Udp,
        _ => return None,
    };
    let host_address = if address == "*" { Ipv4Addr::UNSPECIFIED } else { address.parse().ok()? };
    Some(PortForward {
        protocol,
        host_address,
        host_port: host_port.parse().ok()?,
        guest_port: guest_port.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_qemu_tells_them() {
        let said = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
            TCP[HOST_FORWARD]  13       127.0.0.1  8080       10.0.2.15    80     0     0\r\n  \
            TCP[ESTABLISHED]   14       127.0.0.1  8080       10.0.2.15    80     0     0\r\n  \
            UDP[HOST_FORWARD]  15               *  5353       10.0.2.15    53     0     0\r\n";
        let found: Vec<String> = said.lines().filter_map(forward).map(|forward| forward.to_string()).collect();
        assert_eq!(found, ["127.0.0.1:8080 -> 80/tcp", "0.0.0.0:5353 -> 53/udp"]);
    }

    #[test]
    fn a_rule_is_made_of_addresses_and_ports() {
        assert_eq!(rule(&"0.0.0.0:5353:53/udp".parse().unwrap()), "udp:0.0.0.0:5353-:53");
    }
}
