//! What the server does, one file per noun: who may ask, what the pure functions of the model decide, and the calls of
//! the store that write it down. Never here: HTTP, a route, a header, SQL.

pub mod bell;
pub mod blob;
pub mod caller;
mod chain;
mod denied;
pub mod event;
pub mod health;
mod hint;
pub mod image;
pub mod import;
pub mod join_token;
pub mod key;
pub mod letter;
mod login;
pub mod master;
pub mod node;
pub mod quota;
mod refused_join;
pub mod room;
pub mod seal;
pub mod secret;
pub mod snapshot;
pub mod stats;
pub mod submit;
pub mod task;
pub mod task_log;
pub mod tenant;
pub mod token;
pub mod unassigned;
mod untold;
pub mod vm;

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hostler_broker::Broker;
use hostler_model::{Clock, Code, Ids, NodeId, Refusal, defaults::Defaults};
use hostler_store::{Answer, Store};
use hostler_trust::{AccessIssuer, Authority, Current, ResultVerifier};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    bell::Bell,
    blob::Blobs,
    caller::Known,
    import::{Imports, Sources},
    key::Keyring,
    seal::Sealer,
    untold::Untold,
};
use crate::{dispatch::Dispatch, metrics::Metrics, oidc::Oidc, rate::Rates};

/// Everything a request or a loop works with. One per server; nothing in it that a restart would miss.
#[derive(Debug)]
pub struct App {
    /// Every durable fact.
    pub store: Store,
    /// Where time comes from.
    pub clock: Clock,
    /// Where ids come from.
    pub ids: Ids,
    /// Signs the certificates of nodes.
    pub authority: Current<Authority>,
    /// The keys that sign tasks.
    pub keys: Keyring,
    /// Seals what rests encrypted.
    pub sealer: Sealer,
    /// How long a node's certificate lives.
    pub node_validity: Duration,
    /// Nodes that were revoked: their connections end.
    pub(crate) revoked: watch::Sender<BTreeSet<NodeId>>,
    /// What known callers were refused.
    pub(crate) denials: Untold<denied::Denials>,
    /// Joins that were refused though their tokens are known.
    pub(crate) refused_joins: Untold<refused_join::RefusedJoins>,
    /// Who was sent by an identity provider.
    pub(crate) logins: Untold<login::Logins>,
    /// Issues access tokens, and knows its own again.
    pub access: AccessIssuer,
    /// An identity provider whose tokens are believed.
    pub oidc: Option<Oidc>,
    /// What this control plane calls itself: the `iss` of tasks.
    pub issuer: String,
    /// The bytes of images.
    pub blobs: Blobs,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Rings when something changed.
    pub bell: Bell,
    /// Hands tasks to nodes.
    pub dispatch: Dispatch,
    /// Cancelled when the server goes away: whatever waits ends at once.
    pub closing: CancellationToken,
    /// Where imports may come from.
    pub sources: Sources,
    /// What machines get that do not say it. Said anew at each start.
    pub(crate) defaults: RwLock<Defaults>,
    /// The message broker by which some nodes get their tasks.
    pub(crate) broker: Option<Broker>,
    pub(crate) importing: Imports,
    pub(crate) known: Arc<Known>,
    pub(crate) rates: Rates,
    /// Knows nodes by what they sign.
    pub(crate) results: ResultVerifier,
}

impl App {
    /// What machines get that do not say it.
    pub fn defaults(&self) -> Defaults {
        self.defaults.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Others, where what a server began with turns out not to be there.
    pub fn set_defaults(&self, defaults: Defaults) {
        *self.defaults.write().unwrap_or_else(PoisonError::into_inner) = defaults;
    }
}

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is told why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] hostler_store::Error),
    /// A file of ours failed.
    #[error("could not {doing}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A credential or a signature could not be made.
    #[error("could not {doing}: {cause}")]
    Trust {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        cause: String,
    },
    /// Something that cannot be, was.
    #[error("{0}")]
    Fault(&'static str),
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::File { doing, source }
    }
}

/// The answer to the only item of a batch of one.
pub(crate) fn only<T>(mut answers: Vec<Answer<T>>) -> Result<T> {
    let answer = answers.pop().ok_or(Error::Fault("the store answered fewer items than it was asked"))?;
    Ok(answer?)
}

/// A thing that is not there, or not for this caller: both sound the same.
pub(crate) fn not_found(code: Code, noun: &str, text: &str) -> Refusal {
    let text = hostler_model::error::excerpt(text);
    Refusal::new(code, format!("there is no {noun} {text:?}; `hostler {noun} list` shows those there are"))
        .with(noun, text)
}
