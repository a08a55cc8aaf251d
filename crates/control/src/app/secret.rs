//! Texts that are kept apart from tasks: taken out of parameters, given to the node with the lease, put back for a retry.
//! Never here: a text in a log, an error or an answer to a person.

use hostler_model::{
    Code, Fence, Refusal, TaskId, TenantId,
    id::SecretId,
    kind::Spec,
    secret::{Secret, put_back, take_apart},
    task::Task,
};
use hostler_store::Reveal;
use hostler_trust::NodeIdentity;
use serde_json::Value;

use super::{App, Result, seal::Owner};

impl App {
    /// A text, for the node that works on its task.
    pub async fn reveal(&self, identity: NodeIdentity, task: TaskId, fence: Fence, secret: SecretId) -> Result<String> {
        self.current(identity).await?;
        let (node, enrolment) = (identity.node, identity.enrolment);
        let sealed = self.store.reveal(Reveal { node, enrolment, task, fence, secret }).await?;
        let (tenant, sealed) = sealed.ok_or_else(|| {
            let detail = format!("this node has no lease on task {task} under {fence}, or the task has no such text");
            Refusal::new(Code::StaleFence, detail)
        })?;
        self.sealer.open_text(Owner::Tenant(tenant), &place(secret), &sealed).await
    }

    /// Takes the texts out of filled parameters.
    pub(super) fn take_apart(&self, spec: &Spec, params: &mut Value) -> Vec<Secret> {
        take_apart(spec.sensitive, params, || self.ids.next(self.clock.now()))
    }

    /// The texts as they rest: sealed under the tenant's key.
    pub(super) async fn sealed(&self, tenant: TenantId, secrets: Vec<Secret>) -> Result<Vec<Secret>> {
        let mut sealed = Vec::with_capacity(secrets.len());
        for Secret { id, text } in secrets {
            sealed.push(Secret { id, text: self.sealer.seal(Owner::Tenant(tenant), &place(id), &text).await? });
        }
        Ok(sealed)
    }

    /// The parameters of a task as they were sent.
    pub(super) async fn whole_params(&self, task: &Task) -> Result<Value> {
        let (spec, mut params) = (task.kind.spec(), task.params.clone());
        if !spec.sensitive.is_empty() {
            let mut texts = Vec::new();
            for Secret { id, text } in self.store.secrets(task.id).await? {
                let text = self.sealer.open_text(Owner::Tenant(task.tenant), &place(id), &text).await?;
                texts.push(Secret { id, text });
            }
            put_back(spec.sensitive, &mut params, texts)?;
        }
        Ok(params)
    }
}

/// What a text is sealed as.
fn place(secret: SecretId) -> String {
    format!("text {secret}")
}
