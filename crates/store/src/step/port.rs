//! Ports of nodes: which machine has one.

use std::collections::BTreeMap;

use hostler_db::Result;
use hostler_model::{
    NodeId, TenantId, VmId,
    forward::{self, PortForward},
    placement::PortTaken,
    vm::VmState,
};

use crate::{Answer, vm as vms, work::Work};

/// On which of these nodes machines have ports that this one is to have.
pub(super) fn taken(
    work: &mut Work<'_>,
    id: VmId,
    tenant: TenantId,
    wanted: &[PortForward],
    nodes: &[NodeId],
) -> Result<BTreeMap<NodeId, PortTaken>> {
    let mut taken = BTreeMap::new();
    for row in vms::on_nodes(work.tx, nodes)? {
        work.vms.read(row.vm.id, row);
    }
    for other in work.vms.all().map(|row| &row.vm) {
        let Some(node) = other.node.filter(|node| nodes.contains(node)) else { continue };
        if other.id == id || other.state == VmState::Deleted {
            continue;
        }
        let theirs = &other.spec.port_forwards;
        let Some(forward) = wanted.iter().find(|forward| theirs.iter().any(|theirs| theirs.collides(forward))) else {
            continue;
        };
        // Another tenant's machines have no names here.
        let ours = other.tenant == tenant;
        let by = if ours { format!("the VM {}", other.name) } else { "another machine".to_owned() };
        taken.entry(node).or_insert(PortTaken { forward: *forward, by });
    }
    Ok(taken)
}

/// Refuses ports of a node that machines there have.
pub(super) fn free(
    work: &mut Work<'_>,
    id: VmId,
    tenant: TenantId,
    wanted: &[PortForward],
    node: NodeId,
) -> Result<Answer<()>> {
    if wanted.iter().all(|forward| forward.host_port == 0) {
        return Ok(Ok(()));
    }
    let taken = taken(work, id, tenant, wanted, &[node])?;
    Ok(match taken.get(&node) {
        Some(PortTaken { forward, by }) => Err(forward::taken(forward, by)),
        None => Ok(()),
    })
}
