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
use hostler_trust::{Credentials, Current, NodeKey, NodeSigner, TaskVerifier, file, task};
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
/// How many names of revoked keys are kept: of a server that revokes one every day, those of most of a year.
const MOST_REVOKED: usize = 256;
/// How long after a renewal that failed it is tried again: often enough in the third of a day that is left.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// The longest that a timer sleeps before it looks again: at the clock, which jumps where a host is suspended, and at the file
/// of the credentials.
const LOOK: Duration = Duration::from_secs(60);

/// How the server's tasks are known, and our results to it.
#[derive(Clone, Debug)]
pub struct Trust {
    /// With which keys they are signed.
    pub verifier: TaskVerifier,
    /// What that set of keys is told from another by.
    pub keys: String,
    /// The names of keys that were revoked, the oldest first. They stay so, whatever the server says later: its database may
    /// have gone back in time, or another server may not have heard of it yet.
    pub revoked: Vec<String>,
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
    #[serde(default)]
    revoked: Vec<String>,
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
    let identity = keep(&dir, &key, &joined, &[])?;
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
    let trust = trust(&server.task_keys, &server.revoked, server.issuer, &credentials)?;
    Ok(Some(Identity { credentials, trust }))
}

/// Writes down what the server said: the server's part first, for with the credentials the identity is complete.
fn keep(dir: &Path, key: &NodeKey, joined: &Joined, revoked: &[String]) -> Result<Identity, AgentError> {
    let credentials = Credentials::new(key, &joined.certificate_pem, &joined.ca_pem)?;
    let trust = trust(&joined.task_keys, revoked, joined.issuer.clone(), &credentials)?;
    write_server(dir, &trust, &joined.task_keys)?;
    credentials.save(dir)?;
    Ok(Identity { credentials, trust })
}

fn write_server(dir: &Path, trust: &Trust, keys: &Value) -> Result<(), AgentError> {
    let server = ServerFile { issuer: trust.issuer.clone(), task_keys: keys.clone(), revoked: trust.revoked.clone() };
    let text = serde_json::to_vec_pretty(&server).map_err(|_| AgentError::Damaged { path: dir.join(SERVER_FILE) })?;
    Ok(file::write_private(&dir.join(SERVER_FILE), &text)?)
}

fn trust(keys: &Value, revoked: &[String], issuer: String, credentials: &Credentials) -> Result<Trust, AgentError> {
    let (verifier, revoked) = believing(keys, revoked)?;
    Ok(Trust { verifier, keys: task::digest(keys), revoked, issuer, signer: NodeSigner::new(credentials) })
}

/// What believes these keys and none that was ever revoked; and the names of those.
fn believing(keys: &Value, revoked: &[String]) -> Result<(TaskVerifier, Vec<String>), AgentError> {
    let verifier = TaskVerifier::from_jwks(keys)?.refusing(revoked.iter().cloned());
    let mut named: Vec<String> =
        verifier.revoked().filter(|kid| !revoked.iter().any(|old| old == kid)).map(str::to_owned).collect();
    named.sort_unstable();
    let mut all = [revoked, &named].concat();
    all.drain(..all.len().saturating_sub(MOST_REVOKED));
    Ok((verifier, all))
}

/// Knows tasks by these keys from now on, also after the next start; what was revoked stays so.
pub fn adopt_keys(node: &Node, keys: &Value) -> Result<(), AgentError> {
    let before = node.trust.read().unwrap_or_else(PoisonError::into_inner).clone();
    let (verifier, revoked) = believing(keys, &before.revoked)?;
    let after = Trust { verifier, keys: task::digest(keys), revoked, ..Trust::clone(&before) };
    write_server(&folder(&node.tools.data), &after, keys)?;
    *node.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
    tracing::info!(node.id = %node.server.node(), "the server's tasks are known by other keys from now on");
    Ok(())
}

/// Renews the certificate for as long as the agent lives, and takes up one that somebody put into its place.
pub async fn renew(node: &Node, config: &AgentConfig, credentials: Credentials) {
    let held = Current::of(vec![Credentials::file(&folder(&config.data))], credentials);
    loop {
        let credentials = wait_until(node, config, &held).await;
        match renew_once(node, config, &credentials).await {
            Ok(identity) => {
                tracing::info!(node.id = %node.server.node(), until = %identity.credentials.expires_at(), "renewed the certificate");
                held.put(identity.credentials);
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

/// Those that are to be renewed now.
async fn wait_until(node: &Node, config: &AgentConfig, held: &Current<Credentials>) -> Arc<Credentials> {
    loop {
        follow_file(node, config, held);
        let credentials = held.get();
        let left = credentials.renew_at().since(config.clock.now());
        if left.is_zero() {
            return credentials;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// Takes up credentials that are in the place of ours, where they are this node's; what is not is complained of once.
fn follow_file(node: &Node, config: &AgentConfig, held: &Current<Credentials>) {
    let id = node.server.node();
    let used = match held.reload(|old| old.renewed(&folder(&config.data)).map_err(AgentError::Identity)) {
        Ok(false) => return,
        Ok(true) => {
            let (credentials, trust) = (held.get(), node.trust.read().unwrap_or_else(PoisonError::into_inner).clone());
            let trust = Trust { signer: NodeSigner::new(&credentials), ..Trust::clone(&trust) };
            adopt(node, config, &credentials, trust)
        }
        Err(error) => Err(error),
    };
    match used {
        Ok(()) => {
            tracing::info!(node.id = %id, until = %held.get().expires_at(), "goes on with the certificate that is in its file now")
        }
        Err(error) => tracing::error!(node.id = %id, %error, "goes on with the certificate that it has"),
    }
}

/// From now on the server is called with these credentials, and known by this.
fn adopt(node: &Node, config: &AgentConfig, credentials: &Credentials, trust: Trust) -> Result<(), AgentError> {
    node.server.swap(connect(config, Some(credentials))?);
    *node.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    Ok(())
}

async fn renew_once(node: &Node, config: &AgentConfig, old: &Credentials) -> Result<Identity, AgentError> {
    let key = old.key()?;
    let renew = Renew { csr_pem: key.csr(&config.name)? };
    let joined = node.server.renew(&renew).await.map_err(AgentError::Renew)?;
    let before = node.trust.read().unwrap_or_else(PoisonError::into_inner).clone();
    let identity = keep(&folder(&config.data), &key, &joined, &before.revoked)?;
    adopt(node, config, &identity.credentials, identity.trust.clone())?;
    Ok(identity)
}

/// The node that these credentials are of.
pub fn node_of(credentials: &Credentials) -> NodeId {
    credentials.identity().node
}

#[cfg(test)]
mod tests {
    use hostler_model::{
        Timestamp,
        key::{KeyState, Kid, SigningKey},
    };

    use super::*;

    /// A set in which one key signs and these were revoked.
    fn set(revoked: &[String]) -> Value {
        let key = |kid: String, state| SigningKey {
            kid: Kid(kid),
            state,
            public: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".into(),
            created_at: Timestamp::from_micros(0),
            changed_at: Timestamp::from_micros(0),
        };
        let signs = key("signs".into(), KeyState::Active);
        let over = revoked.iter().map(|kid| key(kid.clone(), KeyState::Revoked));
        task::key_set(&over.chain([signs]).collect::<Vec<_>>())
    }

    #[test]
    fn what_was_revoked_is_known_for_good_and_the_newest_of_them_at_least() {
        let (_, first) = believing(&set(&["a".into()]), &[]).unwrap();
        let (verifier, after) = believing(&set(&["b".into()]), &first).unwrap();
        assert_eq!(after, ["a", "b"]);
        assert_eq!(verifier.revoked().count(), 2);
        assert_eq!(believing(&set(&[]), &after).unwrap().1, after, "a server that forgot it does not change it");
        let many: Vec<String> = (0..MOST_REVOKED).map(|n| format!("{n:03}")).collect();
        let (_, bounded) = believing(&set(&many), &after).unwrap();
        assert_eq!(bounded, many);
    }
}
