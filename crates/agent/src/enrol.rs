//! How a node comes to be known: it joins once, with a token and a certificate request, and renews its certificate when
//! two thirds of its life are over.
//!
//! ```text
//! no identity ──a key, kept──► join(token, request) ──► <data>/agent/identity ──at two thirds──► renew ──► the link is swapped
//! ```
//!
//! The key is written down before it is shown: where the answer to a join is lost, by the network or with this process, the
//! same token with the same key gets it once more. The identity is written whole before it is used. Never here: whether the server welcomes the node.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hostler_link::{Link, LinkError};
use hostler_model::{
    NodeId,
    internal::{Join, Joined, Renew},
    node::NodeFacts,
};
use hostler_trust::{Credentials, NodeKey, NodeSigner, TaskVerifier, file, task};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    agent::{AgentError, Node},
    backoff::Outage,
    config::AgentConfig,
    server,
};

/// Beside the credentials: how the server's tasks are known.
const SERVER_FILE: &str = "server.json";
/// How long after a renewal that failed it is tried again: often enough in the third of a day that is left.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// The longest that a timer sleeps before it looks at the clock again: a suspended host's clock jumps.
const LOOK: Duration = Duration::from_secs(60);

/// How the server's tasks are known, and our results to it.
#[derive(Clone, Debug)]
pub struct Trust {
    /// With which keys they are signed.
    pub verifier: TaskVerifier,
    /// What that set of keys is told from another by.
    pub keys: String,
    /// What the server calls itself.
    pub issuer: String,
    /// Signs results for where nobody shows a certificate.
    pub signer: NodeSigner,
}

/// Who this node is, and whom it trusts.
#[derive(Debug)]
pub struct Identity {
    /// Its certificate and key.
    pub credentials: Credentials,
    /// The server.
    pub trust: Trust,
}

/// A way to replace [`Trust`] while it is in use.
pub type TrustCell = Arc<RwLock<Arc<Trust>>>;

#[derive(Serialize, Deserialize)]
struct ServerFile {
    issuer: String,
    task_keys: Value,
}

/// The folder of the identity.
pub fn folder(data: &Path) -> PathBuf {
    data.join("agent").join("identity")
}

/// The identity of this node: the one on disk, or a new one by joining. Waits for a server that is away; a token that
/// the server refuses is an error.
pub async fn enrol(config: &AgentConfig, facts: &NodeFacts) -> Result<Identity, AgentError> {
    let dir = folder(&config.data);
    let joining = joining_key(&config.data);
    if let Some(identity) = load(&dir)? {
        file::remove(&joining)?;
        return Ok(identity);
    }
    let token = config.join.as_ref().ok_or(AgentError::NoIdentity)?;
    let link = connect(config, None)?;
    let key = key_to_join_with(&joining)?;
    let join = Join {
        token: token.reveal(),
        name: config.name.clone(),
        csr_pem: key.csr(&config.name)?,
        facts: facts.clone(),
    };
    let mut outage = Outage::none(config.ids.clone(), "join");
    let joined = loop {
        match server::join(&link, &join).await {
            Ok(joined) => break joined,
            Err(error) if is_final(&error) => return Err(AgentError::JoinRefused(error)),
            Err(error) => outage.pause(&error).await,
        }
    };
    let identity = keep(&dir, &key, &joined)?;
    file::remove(&joining)?;
    tracing::info!(node.id = %joined.node, enrolment = %joined.enrolment, "joined");
    Ok(identity)
}

/// The key of a node that has shown it to a server, and has not heard yet who it is.
fn joining_key(data: &Path) -> PathBuf {
    data.join("agent").join("joining.key")
}

fn key_to_join_with(path: &Path) -> Result<NodeKey, AgentError> {
    if let Some(key) = NodeKey::load(path)? {
        return Ok(key);
    }
    let key = NodeKey::generate()?;
    key.save(path)?;
    Ok(key)
}

/// A refusal that another try will not change.
fn is_final(error: &LinkError) -> bool {
    error.status().is_some_and(|status| status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS)
}

/// A link with these credentials.
pub fn connect(config: &AgentConfig, credentials: Option<&Credentials>) -> Result<Link, AgentError> {
    (config.connect)(credentials).map_err(|source| AgentError::Connect { source })
}

fn load(dir: &Path) -> Result<Option<Identity>, AgentError> {
    let Some(credentials) = Credentials::load(dir)? else { return Ok(None) };
    let path = dir.join(SERVER_FILE);
    let text = file::read_private(&path)?.ok_or_else(|| AgentError::Damaged { path: path.clone() })?;
    let server: ServerFile = serde_json::from_str(&text).map_err(|_| AgentError::Damaged { path: path.clone() })?;
    let trust = trust(&server.task_keys, server.issuer, &credentials)?;
    Ok(Some(Identity { credentials, trust }))
}

/// Writes down what the server said: the server's part first, for with the credentials the identity is complete.
fn keep(dir: &Path, key: &NodeKey, joined: &Joined) -> Result<Identity, AgentError> {
    let credentials = Credentials::new(key, &joined.certificate_pem, &joined.ca_pem)?;
    let trust = trust(&joined.task_keys, joined.issuer.clone(), &credentials)?;
    write_server(dir, &joined.issuer, &joined.task_keys)?;
    credentials.save(dir)?;
    Ok(Identity { credentials, trust })
}

fn write_server(dir: &Path, issuer: &str, keys: &Value) -> Result<(), AgentError> {
    let server = ServerFile { issuer: issuer.to_owned(), task_keys: keys.clone() };
    let text = serde_json::to_vec_pretty(&server).map_err(|_| AgentError::Damaged { path: dir.join(SERVER_FILE) })?;
    Ok(file::write_private(&dir.join(SERVER_FILE), &text)?)
}

fn trust(keys: &Value, issuer: String, credentials: &Credentials) -> Result<Trust, AgentError> {
    let verifier = TaskVerifier::from_jwks(keys)?;
    Ok(Trust { verifier, keys: task::digest(keys), issuer, signer: NodeSigner::new(credentials) })
}

/// Knows tasks by these keys from now on, also after the next start: what was revoked stays so.
pub fn adopt_keys(node: &Node, keys: &Value) -> Result<(), AgentError> {
    let before = node.trust.read().unwrap_or_else(PoisonError::into_inner).clone();
    let verifier = TaskVerifier::from_jwks(keys)?;
    write_server(&folder(&node.tools.data), &before.issuer, keys)?;
    let after = Trust { verifier, keys: task::digest(keys), ..Trust::clone(&before) };
    *node.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
    tracing::info!(node.id = %node.server.node(), "the server's tasks are known by other keys from now on");
    Ok(())
}

/// Renews the certificate for as long as the agent lives.
pub async fn renew(node: &Node, config: &AgentConfig, mut credentials: Credentials) {
    loop {
        wait_until(config, &credentials).await;
        match renew_once(node, config, &credentials).await {
            Ok(identity) => {
                tracing::info!(node.id = %node.server.node(), until = %identity.credentials.expires_at(), "renewed the certificate");
                credentials = identity.credentials;
            }
            Err(error) => {
                let until = credentials.expires_at();
                tracing::warn!(node.id = %node.server.node(), %error, %until, "the certificate cannot be renewed; trying again");
                // Where little is left of a short life, sooner.
                let left = until.since(config.clock.now()) / 4;
                let pause = left.clamp(Duration::from_secs(1), RENEW_AGAIN);
                tokio::time::sleep(pause.mul_f64(0.5 + config.ids.unit())).await;
            }
        }
    }
}

async fn wait_until(config: &AgentConfig, credentials: &Credentials) {
    loop {
        let left = credentials.renew_at().since(config.clock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

async fn renew_once(node: &Node, config: &AgentConfig, old: &Credentials) -> Result<Identity, AgentError> {
    let key = old.key()?;
    let renew = Renew { csr_pem: key.csr(&config.name)? };
    let joined = node.server.renew(&renew).await.map_err(AgentError::Renew)?;
    let identity = keep(&folder(&config.data), &key, &joined)?;
    node.server.swap(connect(config, Some(&identity.credentials))?);
    *node.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity.trust.clone());
    Ok(identity)
}

/// The node that these credentials are of.
pub fn node_of(credentials: &Credentials) -> NodeId {
    credentials.identity().node
}
