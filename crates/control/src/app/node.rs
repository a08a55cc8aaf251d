//! Nodes: how they join and renew, what an operator decides about them, and what their agents report.
//!
//! Whatever an agent says goes to the store with its certificate's identity; the store refuses an enrolment that is
//! not the node's current one. Never here: which tasks a node gets (`dispatch.rs`).

use std::{collections::BTreeSet, sync::Arc};

use hostler_model::{
    Code, Fence, NodeId, Refusal, TaskId,
    broker::{NewPlainNode, Transport},
    event::RequestOrigin,
    id::EnrolmentId,
    internal::{Heartbeat, HeartbeatAnswer, Join, Joined, ProgressAnswer, ProgressReport, Receipt, Reports},
    join_token,
    name::Name,
    node::{Drain, Node, NodeEvent, NodeFacts, NodePatch, NodeState, Removal},
};
use hostler_store::{
    Answer, Beat, Force, HeardBeat, JoinNode, Leased, NodeCertificate, Progressed, Proof, Queue, Settle, Started,
};
use hostler_trust::{CsrError, JoinToken, NodeIdentity, ResultRefusal, requested_key, result::thumbprint_of_pem};

use super::{
    App, Error, Result,
    caller::{Call, Reach},
    not_found, only,
};

impl App {
    /// A node by id or name.
    pub async fn node(&self, text: &str) -> Result<Node> {
        if let Ok(id) = text.parse::<NodeId>()
            && let Some(node) = self.store.node(id).await?
        {
            return Ok(node);
        }
        if let Ok(name) = text.parse::<Name>()
            && let Some(node) = self.store.node_by_name(name).await?
        {
            return Ok(node);
        }
        Err(not_found(Code::NodeNotFound, "node", text).into())
    }

    /// A node as this caller may see it; while it is drained, with what is left there.
    pub async fn shown_node(&self, call: &Call, text: &str) -> Result<Node> {
        let node = self.node(text).await?;
        let mut node = self.seen(call, vec![node]).await?.pop().ok_or(Error::Fault("a node was not shown"))?;
        if node.state == NodeState::Draining {
            let (vms, tasks) = self.store.left_on(node.id).await?;
            node.drain = Some(Drain::of(&vms, &tasks, |tenant| call.may_see(tenant)));
        }
        Ok(node)
    }

    /// Removes a node and cuts its connections, or says what keeps it.
    pub async fn remove_node(&self, call: &Call, text: &str, force: Force, dry_run: bool) -> Result<Removal> {
        let node = self.node(text).await?.id;
        let removal = self.store.remove_node(node, force, dry_run, call.actor()).await??;
        if !dry_run {
            self.refresh_trust().await?;
        }
        Ok(removal)
    }

    /// Every node, as this caller may see it.
    pub async fn nodes(&self, call: &Call) -> Result<Vec<Node>> {
        self.seen(call, self.store.nodes().await?).await
    }

    /// Somebody of a tenant sees which of the tenant's own images are there, and not who speaks for a node at the broker.
    async fn seen(&self, call: &Call, mut nodes: Vec<Node>) -> Result<Vec<Node>> {
        let Reach::Tenant(tenant) = call.reach else { return Ok(nodes) };
        let own: BTreeSet<String> = self.store.images(tenant).await?.into_iter().map(|image| image.digest.0).collect();
        for node in &mut nodes {
            node.facts.images.retain(|digest| own.contains(digest));
            node.facts.broker_user = None;
        }
        Ok(nodes)
    }

    /// What an operator decided about a node.
    pub async fn change_node(&self, call: &Call, text: &str, event: NodeEvent) -> Result<Node> {
        let node = self.node(text).await?.id;
        Ok(self.store.change_node(node, event, call.actor()).await??)
    }

    /// Edits a node's record.
    pub async fn edit_node(
        &self,
        call: &Call,
        text: &str,
        patch: NodePatch,
        if_match: Option<Vec<u32>>,
    ) -> Result<Node> {
        let node = self.node(text).await?.id;
        Ok(self.store.edit_node(node, patch, if_match, call.actor()).await??)
    }

    /// Makes a node's certificate good for nothing, and cuts its connections.
    pub async fn revoke_node(&self, call: &Call, text: &str) -> Result<Node> {
        let node = self.node(text).await?.id;
        let revoked = self.store.revoke_node(node, call.actor()).await??;
        self.refresh_trust().await?;
        Ok(revoked)
    }

    /// Looks at the keys that sign tasks, and at the nodes that were revoked or removed. Connections of those end.
    pub async fn refresh_trust(&self) -> Result<()> {
        self.keys.refresh().await?;
        let revoked: BTreeSet<NodeId> = self.store.revoked_nodes().await?.into_iter().collect();
        self.revoked.send_if_modified(|known| {
            let others = *known != revoked;
            *known = revoked;
            others
        });
        Ok(())
    }

    /// Pauses a node's queue, or resumes it.
    pub async fn queue_node(&self, call: &Call, text: &str, queue: Queue) -> Result<Node> {
        let node = self.node(text).await?.id;
        Ok(self.store.queue_node(node, queue, call.actor()).await??)
    }

    /// Sends a node's tasks by another road from now on.
    pub async fn reroute_node(&self, call: &Call, text: &str, transport: Transport) -> Result<Node> {
        let node = self.node(text).await?.id;
        Ok(self.store.reroute_node(node, transport, call.actor()).await??)
    }

    /// Adds a node whose agent is somebody else's.
    pub async fn add_plain_node(&self, call: &Call, new: NewPlainNode) -> Result<Node> {
        let now = self.clock.now();
        let NewPlainNode { name, capacity, capabilities, user } = new;
        let facts = NodeFacts {
            capacity: crate::broker::sane(&capacity),
            capabilities,
            broker_user: user,
            ..NodeFacts::default()
        };
        // Nobody joins with it, so no token is spent and no key certified.
        let (node, enrolment, none) = (self.ids.next(now), self.ids.next(now), String::new());
        let origin = RequestOrigin::default();
        let adding = JoinNode { token_hash: none.clone(), key: none, node, name, enrolment, facts, origin };
        Ok(self.store.add_plain_node(adding, call.actor()).await??)
    }

    /// Takes a node in: its token is spent, its certificate signed. A host that asks once more with the token that it spent
    /// and the same key gets the same answer. Anybody may ask: a token that nobody made costs a look, and neither a
    /// signature nor a step.
    pub async fn join(&self, join: Join, origin: RequestOrigin) -> Result<Joined> {
        let token: JoinToken = join.token.parse().map_err(|_| token_invalid())?;
        let name: Name = join.name.parse()?;
        let token_hash = token.hash().to_string();
        let known = self.store.join_token(token_hash.clone()).await?;
        let known = known.ok_or_else(|| join_token::unknown(&name))?;
        // A request that cannot be signed must not spend the token.
        let key = requested_key(&join.csr_pem).map_err(csr_refused)?;
        let answer = match known.judge(&name, &key, self.store.now()) {
            Ok(_) => {
                let now = self.clock.now();
                let (node, enrolment, name) = (self.ids.next(now), self.ids.next(now), name.clone());
                self.store.join(JoinNode { token_hash, key, node, name, enrolment, facts: join.facts, origin }).await?
            }
            Err(refusal) => Err(refusal),
        };
        let node = answer.inspect_err(|refusal| self.refused_joins.lock().add(known.id, &name, refusal, origin))?;
        let enrolment = node.enrolment.ok_or(Error::Fault("a node that joined has no enrolment"))?;
        let (joined, certificate) = self.joined(&join.csr_pem, NodeIdentity { node: node.id, enrolment })?;
        self.store.keep_certificate(certificate).await?;
        Ok(joined)
    }

    /// A new certificate for a node that has one; `late`: that one is over.
    pub async fn renew(
        &self,
        identity: NodeIdentity,
        csr_pem: &str,
        late: bool,
        origin: RequestOrigin,
    ) -> Result<Joined> {
        self.current(identity).await?;
        let (joined, certificate) = self.joined(csr_pem, identity)?;
        self.store.renew_node(identity.node, identity.enrolment, late, origin, certificate).await??;
        Ok(joined)
    }

    /// Refuses an enrolment that is not the node's current one.
    pub async fn current(&self, identity: NodeIdentity) -> Result<Node> {
        let node = self.store.node(identity.node).await?;
        let is_current = |node: &Node| node.enrolment == Some(identity.enrolment);
        node.filter(is_current).ok_or_else(|| enrolment_over(identity.enrolment).into())
    }

    /// Refuses an enrolment that is not the node's current one, and a node that nobody has approved: it gets nothing that
    /// only tasks need.
    pub async fn working(&self, identity: NodeIdentity) -> Result<Node> {
        let node = self.current(identity).await?;
        if node.state.takes_tasks() {
            return Ok(node);
        }
        let Node { name, state, .. } = &node;
        let detail =
            format!("the node {name} is {state}; it gets images once an operator runs `hostler node approve {name}`");
        Err(Refusal::new(Code::NodeStateConflict, detail).with("state", state.as_str()).into())
    }

    /// What a node gets, and its certificate as it is to be kept.
    fn joined(&self, csr_pem: &str, identity: NodeIdentity) -> Result<(Joined, NodeCertificate)> {
        let NodeIdentity { node, enrolment } = identity;
        let now = self.clock.now();
        let signed = self.authority.get().sign_node(csr_pem, node, enrolment, now, self.node_validity);
        let pem = signed.map_err(csr_refused)?;
        let thumbprint = thumbprint_of_pem(&pem).ok_or(Error::Fault("a certificate that was signed is none"))?;
        let joined = Joined {
            node,
            enrolment,
            certificate_pem: pem.clone(),
            ca_pem: self.authority.get().ca_pem().to_owned(),
            task_keys: self.keys.now().set.clone(),
            issuer: self.issuer.clone(),
        };
        Ok((joined, NodeCertificate { thumbprint, pem, ends_at: now.plus(self.node_validity) }))
    }

    /// Facts, leases and inventory of a node.
    pub async fn heartbeat(&self, from: NodeIdentity, heartbeat: Heartbeat) -> Result<HeartbeatAnswer> {
        let known = heartbeat.keys.clone();
        let beat = Beat { node: from.node, enrolment: from.enrolment, heartbeat };
        let HeardBeat { answer, refused } = only(self.store.heartbeat(vec![beat]).await?)?;
        refused.iter().for_each(|row| self.metrics.refused(row.why, row.count));
        let ring = self.keys.now();
        let others = ring.digest != known;
        Ok(HeartbeatAnswer { task_keys: others.then(|| ring.set.clone()), ..answer })
    }

    /// An agent is about to begin what it was offered: leased now, or refused.
    pub async fn start(&self, from: NodeIdentity, task: TaskId, fence: Fence) -> Result<Leased> {
        let started = Started { node: from.node, enrolment: from.enrolment, task, fence };
        only(self.store.start(vec![started]).await?)
    }

    /// How far an attempt has come.
    pub async fn progress(&self, from: NodeIdentity, task: TaskId, report: ProgressReport) -> Result<ProgressAnswer> {
        let progressed = Progressed { node: from.node, enrolment: from.enrolment, task, report };
        only(self.store.progress(vec![progressed]).await?)
    }

    /// How attempts ended, each answered by itself. What is refused for another reason than being over refuses all:
    /// the agent sends them again, and what was settled stays settled.
    pub async fn settle(&self, from: NodeIdentity, reports: Reports) -> Result<Vec<Receipt>> {
        let (who, batch) = self.believe(reports).map_err(not_believed)?;
        if who != from {
            return Err(not_its_own().into());
        }
        let answers = self.store.settle(batch).await?;
        answers.into_iter().map(receipt).collect()
    }

    /// Whose results these are, and each with what proves it, if all of them are to be believed.
    pub(crate) fn believe(&self, reports: Reports) -> Result<(NodeIdentity, Vec<Settle>), ResultRefusal> {
        let by = self.results.believe(&reports, &self.issuer, self.clock.now())?;
        let NodeIdentity { node, enrolment } = by.identity;
        let Reports { results, together, signed, certificate: _ } = reports;
        let signatures = signed.into_iter().flat_map(|signed| std::iter::repeat_n(Arc::<str>::from(signed), together));
        let settle = |(report, signed)| {
            let proof = Proof { signed, certificate: by.thumbprint.clone() };
            Settle { node, enrolment, report, proof }
        };
        Ok((by.identity, results.into_iter().zip(signatures).map(settle).collect()))
    }
}

fn receipt(answer: Answer<Receipt>) -> Result<Receipt> {
    match answer {
        Ok(receipt) => Ok(receipt),
        Err(refusal) if refusal.code == Code::StaleFence => Ok(Receipt::Stale),
        Err(refusal) if refusal.code == Code::TaskNotFound => Ok(Receipt::Unknown),
        Err(refusal) => Err(refusal.into()),
    }
}

fn csr_refused(error: CsrError) -> Error {
    match error {
        CsrError::NotMade(cause) => Error::Trust { doing: "sign a certificate", cause },
        CsrError::Malformed | CsrError::BadSignature | CsrError::UnsupportedKey => {
            Refusal::new(Code::CsrInvalid, error.to_string()).into()
        }
    }
}

fn not_believed(refusal: ResultRefusal) -> Refusal {
    match refusal {
        // Its agent renews it, and signs anew.
        ResultRefusal::BadCertificate => Refusal::new(Code::Unauthenticated, refusal.to_string()),
        ResultRefusal::Malformed
        | ResultRefusal::BadSignature
        | ResultRefusal::WrongAudience
        | ResultRefusal::NotSigned => Refusal::field("signed", refusal.to_string()),
    }
}

fn not_its_own() -> Refusal {
    Refusal::new(
        Code::IdentityMismatch,
        "the results are signed by another node, or another enrolment, than the caller is",
    )
}

fn token_invalid() -> Refusal {
    let detail = "this is not a join token; make one with `hostler node token` and copy it whole";
    Refusal::new(Code::JoinTokenInvalid, detail)
}

fn enrolment_over(enrolment: EnrolmentId) -> Refusal {
    let detail = "this certificate's enrolment is not the node's current one: the node joined again, or is gone";
    Refusal::new(Code::IdentityMismatch, detail).with("enrolment", enrolment.to_string())
}
