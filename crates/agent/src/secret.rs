//! The texts that are kept apart from tasks, fetched under the fence of the attempt that needs them. They are handed to
//! handlers and live in memory; never here: a text in the journal, a log or an error.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use hostler_link::LinkError;
use hostler_model::{
    error::Code,
    internal::HeldLease,
    secret::{SecretRef, Sensitive},
};

use crate::{handler::Failure, server::Server};

/// Pauses between tries to reach the server. A task that cannot have its text fails and comes again.
const AGAIN: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Where texts come from. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Arc<OnceLock<Server>>);

impl Secrets {
    /// From now on, from there.
    pub fn fetch_from(&self, server: Server) {
        // A second server would be the same one.
        drop(self.0.set(server));
    }

    /// The text, fetched where it is kept apart.
    ///
    /// # Errors
    /// When the server cannot be reached, or says that this attempt may not have it.
    pub async fn open(&self, lease: HeldLease, text: &Sensitive) -> Result<String, Failure> {
        let kept = match text {
            Sensitive::Text(text) => return Ok(text.clone()),
            Sensitive::Kept(kept) => kept,
        };
        let server = self.0.get().ok_or_else(|| failed(true, "this agent has not joined a server yet"))?;
        for pause in AGAIN {
            match fetch(server, lease, kept).await {
                Err(failure) if failure.retryable => tokio::time::sleep(pause).await,
                done => return done,
            }
        }
        fetch(server, lease, kept).await
    }
}

async fn fetch(server: &Server, lease: HeldLease, kept: &SecretRef) -> Result<String, Failure> {
    let text = server.secret(lease, kept.secret).await.map_err(|error| unreachable(&error))?.text;
    if SecretRef::of(kept.secret, &text) != *kept {
        return Err(failed(false, "the server sent another text than the one that the task names"));
    }
    Ok(text)
}

fn failed(retryable: bool, why: &str) -> Failure {
    let detail = format!("a text that belongs to the task could not be had: {why}");
    Failure { code: Code::HandlerFailed, detail, retryable }
}

fn unreachable(error: &LinkError) -> Failure {
    // A refusal will be repeated; a connection that broke may hold the next time.
    let refused = error.status().is_some_and(|status| status.is_client_error());
    failed(!refused, &error.to_string())
}
