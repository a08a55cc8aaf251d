//! The keys that sign tasks: as they stand in the store, and ready for use in this process.
//!
//! ```text
//! store (public parts, sealed private ones) ──refresh: at once after a change of ours, a hint, or a second──► Ring
//! Ring: one signer · the set that agents get · what every key signed that was not revoked
//! ```
//!
//! Never here: a private part outside of a signer, a decision about states (the model's).

use std::sync::{Arc, PoisonError, RwLock};

use hostler_model::{
    event::Actor,
    key::{KeyEvent, KeyState, Kid, Retired, Rotated, SigningKey},
};
use hostler_store::{NewSigningKey, Store};
use hostler_trust::{TaskKey, TaskSigner, TaskVerifier, task};
use serde_json::{Value, json};

use super::{
    App, Error, Result,
    caller::Call,
    seal::{Owner, Sealer},
};

/// The keys that sign tasks. Clones share them.
#[derive(Clone, Debug)]
pub struct Keyring {
    store: Store,
    sealer: Sealer,
    ring: Arc<RwLock<Arc<Ring>>>,
}

/// The keys as they were a moment ago.
#[derive(Debug)]
pub struct Ring {
    keys: Vec<SigningKey>,
    /// Signs.
    pub signer: Arc<TaskSigner>,
    /// What agents get: a JWK set.
    pub set: Value,
    /// What that is told from another by.
    pub digest: String,
    /// Knows what any of them signed, ever, but those that were revoked.
    pub signed: TaskVerifier,
}

impl Keyring {
    /// The keys of a store; one is made where none signs.
    ///
    /// # Errors
    /// When the store fails, or the key that signs cannot be opened: the master key is another one.
    pub async fn open(store: Store, sealer: Sealer) -> Result<Keyring> {
        let ring = read(&store, &sealer, None).await?;
        Ok(Keyring { store, sealer, ring: Arc::new(RwLock::new(Arc::new(ring))) })
    }

    /// As they are now, as far as this process knows.
    pub fn now(&self) -> Arc<Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the store again. Where nothing changed nothing is opened.
    pub async fn refresh(&self) -> Result<()> {
        let before = self.now();
        let after = read(&self.store, &self.sealer, Some(&before)).await?;
        if after.keys != before.keys {
            tracing::info!(signs = after.signer.kid(), keys = after.keys.len(), "the keys that sign tasks changed");
            *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        }
        Ok(())
    }

    async fn stage(&self, actor: Actor) -> Result<SigningKey> {
        let staged = self.store.stage_key(make(&self.sealer).await?, actor).await??;
        self.refresh().await?;
        Ok(staged)
    }

    async fn change(&self, kid: Kid, event: KeyEvent, actor: Actor) -> Result<SigningKey> {
        let spare = make(&self.sealer).await?;
        let changed = self.store.change_key(kid, event, spare, actor).await??;
        self.refresh().await?;
        Ok(changed)
    }
}

/// A new key, sealed.
async fn make(sealer: &Sealer) -> Result<NewSigningKey> {
    let key = TaskKey::generate().map_err(|error| failed("make a key that signs tasks", &error))?;
    let (kid, public) = (key.kid(), key.public());
    let private = sealer.seal(Owner::Control, &place(&kid), &key.to_pem()).await?;
    Ok(NewSigningKey { kid, public, private })
}

/// What a private part is sealed as.
fn place(kid: &Kid) -> String {
    format!("signing key {kid}")
}

/// As they are in the store. Where none signs, in a new one and after it went back in time, the first who looks makes one.
async fn read(store: &Store, sealer: &Sealer, before: Option<&Ring>) -> Result<Ring> {
    let signs = |(key, _): &&(SigningKey, Option<String>)| key.state == KeyState::Active;
    let mut rows = store.signing_keys().await?;
    if !rows.iter().any(|row| signs(&row)) {
        store.put_active_key(make(sealer).await?).await?;
        rows = store.signing_keys().await?;
    }
    let active = rows.iter().find(signs);
    let (active, private) = active.ok_or(Error::Fault("the store has no key that signs tasks"))?;
    let signer = match before.filter(|ring| ring.signer.kid() == active.kid.0) {
        Some(ring) => ring.signer.clone(),
        None => {
            let private = private.as_deref().ok_or(Error::Fault("the key that signs tasks has no private part"))?;
            let pem = sealer.open_text(Owner::Control, &place(&active.kid), private).await?;
            Arc::new(TaskKey::from_pem(&pem).map_err(|error| failed("use the key that signs tasks", &error))?.signer())
        }
    };
    let keys: Vec<SigningKey> = rows.into_iter().map(|(key, _)| key).collect();
    let set = task::key_set(&keys);
    let ever: Vec<Value> = keys.iter().filter(|key| key.state != KeyState::Revoked).map(task::jwk_of).collect();
    let signed = TaskVerifier::from_jwks(&json!({"keys": ever}));
    let signed = signed.map_err(|error| failed("use the keys that sign tasks", &error))?;
    Ok(Ring { digest: task::digest(&set), keys, signer, set, signed })
}

fn failed(doing: &'static str, error: &dyn std::fmt::Display) -> Error {
    Error::Trust { doing, cause: error.to_string() }
}

impl App {
    /// The keys that sign tasks, or did, newest first.
    pub async fn keys(&self) -> Result<Vec<SigningKey>> {
        let mut keys: Vec<SigningKey> = self.store.signing_keys().await?.into_iter().map(|(key, _)| key).collect();
        keys.reverse();
        Ok(keys)
    }

    /// Makes another key, which agents learn before it signs.
    pub async fn stage_key(&self, call: &Call) -> Result<SigningKey> {
        self.keys.stage(call.actor()).await
    }

    /// Lets another master key wrap the keys under which values are sealed.
    pub async fn rotate_master(&self, call: &Call) -> Result<Rotated> {
        self.sealer.rotate(call.actor()).await
    }

    /// Removes the master keys that wrap nothing any more.
    pub async fn retire_masters(&self, call: &Call) -> Result<Retired> {
        self.sealer.retire(call.actor()).await
    }

    /// What an operator does to a key.
    pub async fn change_key(&self, call: &Call, kid: &str, event: KeyEvent) -> Result<SigningKey> {
        self.keys.change(kid.parse()?, event, call.actor()).await
    }
}
