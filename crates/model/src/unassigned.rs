//! What inventories found on hosts and no record knows. It is listed, and claimed for a tenant; it is never deleted by itself.
//!
//! ```text
//! a node names a machine ──no record has it there──► unassigned ──its node says what it is──► may be claimed ──► a VM
//! ```

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Refusal},
    id::{NodeId, VmId},
    name::Name,
    vm::{Observation, VmSpec, VmState},
};

/// What a host has written down of a machine: told where the server said that it does not know it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stranger {
    /// Which.
    pub vm: VmId,
    /// What it was called.
    pub name: String,
    /// What it is.
    pub spec: VmSpec,
}

/// A machine on a host that no record knows, as its node last told of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Orphan {
    /// What was seen of it.
    pub seen: Observation,
    /// What its host has written down of it, once that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stranger: Option<Stranger>,
}

impl Orphan {
    /// What a record needs.
    ///
    /// # Errors
    /// Where the node has not told it, or nobody knows what state it is in.
    pub fn known(&self) -> Result<&Stranger, Refusal> {
        let id = self.seen.vm;
        let refuse = |why: String| Refusal::new(Code::VmStateConflict, why).with("vm", id.to_string());
        if !self.seen.state.is_seen() {
            return Err(refuse(format!("the machine {id} is {}: wait until its node has seen it", self.seen.state)));
        }
        self.stranger.as_ref().ok_or_else(|| {
            refuse(format!(
                "its node has not said yet what the machine {id} is; ask again after its next heartbeat. An agent of an \
                 earlier version never says it, and one whose folder of the machine is damaged cannot"
            ))
        })
    }
}

/// A machine that no record knows: `GET /unassigned`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unassigned {
    /// On which node.
    pub node: NodeId,
    /// What that is called.
    #[schema(value_type = String)]
    pub node_name: Name,
    /// Its id.
    pub id: VmId,
    /// What it was called, as far as its host knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was last seen of it.
    pub state: VmState,
    /// What it is, as far as its host knows: without this it cannot be claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<VmSpec>,
}

impl Unassigned {
    /// One that this node told of.
    pub fn of(node: NodeId, node_name: &Name, orphan: Orphan) -> Unassigned {
        let Orphan { seen, stranger } = orphan;
        let (name, spec) = stranger.map(|stranger| (stranger.name, stranger.spec)).unzip();
        Unassigned { node, node_name: node_name.clone(), id: seen.vm, name, state: seen.state, spec }
    }
}

/// What is to be a tenant's: `POST /unassigned/claim`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewClaim {
    /// On which node it is, by id or name.
    pub node: String,
    /// Its id.
    pub id: VmId,
    /// For which tenant, by id or name.
    pub tenant: String,
    /// What it is to be called; what it was called, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<Name>,
}
