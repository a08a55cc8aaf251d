//! Sealed values: what rests encrypted in the store, under a key of its owner's, which rests there wrapped by a master key.
//!
//! Keys that were unwrapped are kept in memory. Never here: a value or a key in a log or an error.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use hostler_model::{TenantId, event::Actor};
use hostler_store::{Rewrapped, Store, WrappedKey};
use hostler_trust::{DataKey, seal::SealError};

use super::{
    Error, Result,
    master::{Master, WrapError},
};

/// How many unwrapped keys are kept; beyond that all are forgotten, and unwrapped again when they are needed.
const KEPT: usize = 1024;

/// Whose values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// The control plane's own: the private parts of the keys that sign tasks.
    Control,
    /// A tenant's.
    Tenant(TenantId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Control => f.write_str("control"),
            Owner::Tenant(id) => id.fmt(f),
        }
    }
}

/// Seals and opens. Clones share it.
#[derive(Clone)]
pub struct Sealer(Arc<Inner>);

struct Inner {
    store: Store,
    master: Master,
    known: Mutex<HashMap<Owner, Arc<DataKey>>>,
}

impl Sealer {
    /// Over what is in this store.
    pub fn new(store: Store, master: Master) -> Sealer {
        Sealer(Arc::new(Inner { store, master, known: Mutex::default() }))
    }

    /// Lets another master key wrap from now on, and wraps every key anew under it; says how many there are.
    pub async fn rotate(&self, actor: Actor) -> Result<usize> {
        // What an earlier rotation left, or another server wrapped meanwhile, before that key is taken out.
        self.wrap_anew(Actor::system()).await?;
        self.0.master.advance().map_err(|error| unwrapping(&error))?;
        self.wrap_anew(actor).await
    }

    async fn wrap_anew(&self, actor: Actor) -> Result<usize> {
        let keys = self.0.store.data_keys().await?;
        let mut anew = Vec::with_capacity(keys.len());
        for WrappedKey { owner, wrapped } in keys {
            let place = place(&owner);
            let key = self.0.master.unwrap(&place, &wrapped).await.map_err(|error| unwrapping(&error))?;
            let again = self.0.master.wrap(&place, &key).await.map_err(|error| unwrapping(&error))?;
            anew.push(Rewrapped { owner, before: wrapped, after: again });
        }
        let count = anew.len();
        self.0.store.rewrap(anew, actor).await?;
        Ok(count)
    }

    /// Seals a text of an owner's. `place` says what it is.
    pub async fn seal(&self, owner: Owner, place: &str, text: &str) -> Result<String> {
        self.key(owner).await?.seal(place, text.as_bytes()).map_err(|error| sealing(&error))
    }

    /// Opens a text of an owner's.
    pub async fn open_text(&self, owner: Owner, place: &str, sealed: &str) -> Result<String> {
        let bytes = self.key(owner).await?.open(place, sealed).map_err(|error| sealing(&error))?;
        String::from_utf8(bytes).map_err(|_| sealing(&SealError::DoesNotOpen))
    }

    /// The owner's key: a new one where it has none. Of two that are made at once, the first that was written counts.
    async fn key(&self, owner: Owner) -> Result<Arc<DataKey>> {
        if let Some(key) = self.known().get(&owner) {
            return Ok(key.clone());
        }
        let name = owner.to_string();
        let place = place(&name);
        let wrapped = match self.0.store.data_key(name.clone()).await? {
            Some(wrapped) => wrapped,
            None => {
                let key = DataKey::generate().map_err(|error| sealing(&error))?;
                let wrapped = self.0.master.wrap(&place, &key).await.map_err(|error| unwrapping(&error))?;
                self.0.store.put_data_key(WrappedKey { owner: name, wrapped }).await?
            }
        };
        let key = Arc::new(self.0.master.unwrap(&place, &wrapped).await.map_err(|error| unwrapping(&error))?);
        let mut known = self.known();
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(owner, key.clone());
        Ok(key)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Owner, Arc<DataKey>>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealer").field(&self.0.master).finish()
    }
}

fn sealing(error: &SealError) -> Error {
    Error::Trust { doing: "seal or open a stored value", cause: error.to_string() }
}

/// What a key is wrapped as.
fn place(owner: &str) -> String {
    format!("data key of {owner}")
}

fn unwrapping(error: &WrapError) -> Error {
    Error::Trust { doing: "unwrap the key of stored values", cause: error.to_string() }
}
