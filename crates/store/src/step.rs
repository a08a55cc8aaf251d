//! The steps: one file per verb. Each reads what its batch needs, decides item by item, and leaves the writing to
//! [`crate::work::Work::finish`].

pub(crate) mod cancel;
pub(crate) mod drain;
pub(crate) mod edit;
pub(crate) mod expire;
pub(crate) mod forget;
pub(crate) mod heartbeat;
pub(crate) mod join;
pub(crate) mod key;
pub(crate) mod lease;
pub(crate) mod letter;
pub(crate) mod look;
pub(crate) mod offer;
mod place;
pub(crate) mod plain;
mod port;
pub(crate) mod progress;
pub(crate) mod remove;
pub(crate) mod reservation;
pub(crate) mod restart;
pub(crate) mod restored;
pub(crate) mod settle;
pub(crate) mod start;
pub(crate) mod submit;
pub(crate) mod sweep;
pub(crate) mod tenant;
pub(crate) mod unassigned;
pub(crate) mod waiting;

use std::collections::BTreeMap;

use hostler_model::{Code, NodeId, Refusal, id::EnrolmentId};

use crate::{Answer, node::Identity};

/// Refuses a caller whose certificate is not that of the node's current enrolment.
fn identify(known: &BTreeMap<NodeId, Identity>, node: NodeId, enrolment: EnrolmentId) -> Answer<Identity> {
    match known.get(&node) {
        Some(identity) if identity.enrolment == Some(enrolment) => Ok(*identity),
        Some(_) => Err(Refusal::new(
            Code::IdentityMismatch,
            "this certificate belongs to another enrolment of the node; join again with a new token",
        )
        .with("node", node.to_string())),
        None => Err(Refusal::new(Code::NodeNotFound, "there is no such node; join with a new token")
            .with("node", node.to_string())),
    }
}
