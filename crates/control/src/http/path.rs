//! What a path names, as text; what the text means is the app's to say.

use axum::extract::{FromRequestParts, RawPathParams};
use hostler_model::{Code, Refusal, TaskId, api::TargetRef};
use http::request::Parts;

use crate::app::{Error, Result, not_found};

/// The parameters of a path.
#[derive(Debug)]
pub(super) struct InPath(RawPathParams);

impl InPath {
    /// The parameter of this name.
    pub(super) fn get(&self, name: &str) -> Result<&str> {
        let found = self.0.iter().find(|(found, _)| *found == name);
        found.map(|(_, text)| text).ok_or(Error::Fault("a route lacks a parameter that its handler reads"))
    }

    /// The machine, as what a task works on.
    pub(super) fn on_vm(&self) -> Result<TargetRef> {
        Ok(TargetRef { vm: Some(self.get("vm")?.to_owned()), node: None })
    }

    /// The task: an id that cannot be one is one that is not there.
    pub(super) fn task(&self) -> Result<TaskId> {
        let text = self.get("task")?;
        text.parse().map_err(|_| not_found(Code::TaskNotFound, "task", text).into())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        params.map(InPath).map_err(|_| Refusal::new(Code::NotFound, "the path is not UTF-8 once decoded").into())
    }
}
