//! The store's face towards the broker: what is to be sent, what was, and what came back. And the nodes that are reached by
//! no other road.

use hostler_model::{
    Fence, NodeId, TaskId, broker::Transport, event::Actor, internal::Receipt, node::Node, task::Intent,
};

use crate::{
    Answer, DeadOffer, JoinNode, Offer, PlainSettle, Result, Store,
    step::{join, offer, plain},
    task::outbox,
};

impl Store {
    /// What is to be offered now, at most so much. Nobody else is told of it for a while.
    pub async fn offers(&self, limit: usize) -> Result<Vec<Offer>> {
        self.step("store.offer", move |work| offer::take(work, limit)).await
    }

    /// The broker has these: they are never offered again.
    pub async fn confirm_offers(&self, sent: Vec<(TaskId, Fence, Intent)>) -> Result<()> {
        self.step("store.confirm", move |work| outbox::confirm(work.tx, &sent, work.now)).await
    }

    /// The broker may not have these: they are offered again.
    pub async fn return_offers(&self, tasks: Vec<TaskId>) -> Result<()> {
        self.step("store.confirm", move |work| outbox::postpone(work.tx, &tasks, work.now)).await
    }

    /// Offers that the broker gave back; how many tasks that changed.
    pub async fn bury_offers(&self, dead: Vec<DeadOffer>) -> Result<usize> {
        self.step("store.bury", move |work| offer::bury(work, &dead)).await
    }

    /// How many offers wait to be sent, and how many the broker has that no agent has begun.
    pub async fn outbox(&self) -> Result<(i64, i64)> {
        self.read(outbox::length).await
    }

    /// Writes results of consumers that are not ours down.
    pub async fn settle_plain(&self, results: Vec<PlainSettle>) -> Result<Vec<Answer<Receipt>>> {
        self.step("store.settle", move |work| plain::settle(work, &results)).await
    }

    /// Adds a node whose agent is not ours.
    pub async fn add_plain_node(&self, new: JoinNode, actor: Actor) -> Result<Answer<Node>> {
        self.step("store.node", move |work| join::add(work, &new, &actor)).await
    }

    /// Sends a node's tasks by another road from now on.
    pub async fn reroute_node(&self, node: NodeId, transport: Transport, actor: Actor) -> Result<Answer<Node>> {
        self.step("store.node", move |work| join::transport(work, node, transport, &actor)).await
    }
}
