//! Texts that are kept apart from tasks: taken out of parameters, given to the node with the lease, put back for a retry.
//! Never here: a text in a log, an error or an answer to a person.

use hostler_model::{
    Code, Fence, Refusal, TaskId,
    id::SecretId,
    kind::Spec,
    secret::{Secret, put_back, take_apart},
    task::Task,
};
use hostler_store::Reveal;
use hostler_trust::NodeIdentity;
use serde_json::Value;

use super::{App, Result};

impl App {
    /// A text, for the node that works on its task.
    pub async fn reveal(&self, identity: NodeIdentity, task: TaskId, fence: Fence, secret: SecretId) -> Result<String> {
        self.current(identity).await?;
        let (node, enrolment) = (identity.node, identity.enrolment);
        let text = self.store.reveal(Reveal { node, enrolment, task, fence, secret }).await?;
        text.ok_or_else(|| {
            let detail = format!("this node has no lease on task {task} under {fence}, or the task has no such text");
            Refusal::new(Code::StaleFence, detail).into()
        })
    }

    /// Takes the texts out of filled parameters.
    pub(super) fn take_apart(&self, spec: &Spec, params: &mut Value) -> Vec<Secret> {
        take_apart(spec.sensitive, params, || self.ids.next(self.clock.now()))
    }

    /// The parameters of a task as they were sent.
    pub(super) async fn whole_params(&self, task: &Task) -> Result<Value> {
        let (spec, mut params) = (task.kind.spec(), task.params.clone());
        if !spec.sensitive.is_empty() {
            put_back(spec.sensitive, &mut params, self.store.secrets(task.id).await?)?;
        }
        Ok(params)
    }
}
