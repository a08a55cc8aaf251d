//! What travels by the broker, as the store hands it out and takes it back.

use hostler_model::{
    Fence, NodeId, TaskId, TenantId, Timestamp,
    broker::{PlainResult, Transport},
    id::EnrolmentId,
};

use super::Leased;

/// What is to be sent to a node by the broker.
#[derive(Clone, Debug)]
pub struct Offer {
    /// To which node.
    pub node: NodeId,
    /// Whose task.
    pub tenant: TenantId,
    /// Signed, or plain.
    pub form: Transport,
    /// Nobody need take it after this.
    pub expires_at: Timestamp,
    /// The attempt that it is for: leased already in plain form, else once its agent begins.
    pub leased: Leased,
}

/// An agent that is about to begin what it was offered.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Which node.
    pub node: NodeId,
    /// Under which enrolment.
    pub enrolment: EnrolmentId,
    /// With which task.
    pub task: TaskId,
    /// Under which attempt.
    pub fence: Fence,
}

/// A result of a consumer that is not ours.
#[derive(Clone, PartialEq, Debug)]
pub struct PlainSettle {
    /// What it says.
    pub result: PlainResult,
    /// Whose it is, as far as the broker vouches for it.
    pub user: Option<String>,
}

/// Why an offer came back from the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// Who got it did not want it.
    Rejected,
    /// It lay there for too long.
    Expired,
    /// It was delivered too often.
    DeliveryLimit,
    /// There was no room for it.
    Overflow,
}

/// An offer that came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadOffer {
    /// Of which task.
    pub task: TaskId,
    /// Of which attempt.
    pub fence: Fence,
    /// Why.
    pub death: Death,
    /// Whether what came back is a server's own signed offer of that attempt. In plain form nothing is signed.
    pub signed: bool,
}
