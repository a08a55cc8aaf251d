//! Sealed values: what rests encrypted in the store, under a key of its owner's, which rests there wrapped by a master key.
//!
//! ```text
//! Changing (the file is locked) ──every key opens──► a master key more in the file ──one step──► every key is wrapped under it
//! a new key: wrapped under what wraps the others, and written only while that does (else again)
//! ```
//!
//! So at any time one master key wraps all, and one that wraps nothing wraps nothing ever again. Keys that were unwrapped are
//! kept in memory. Never here: a value or a key in a log or an error.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use hostler_model::{
    Code, Refusal, TenantId,
    event::Actor,
    key::{Retired, Rotated},
};
use hostler_store::{Rewrapped, Store, WrappedKey};
use hostler_trust::{DataKey, master::MasterError, seal::SealError};

use super::{
    Error, Result,
    master::{Master, WrapError},
};

/// How often something is tried that others undid meanwhile, each time by something of their own that was done.
const TRIES: usize = 10;

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
    known: Mutex<HashMap<Owner, Known>>,
}

/// A key, and as what it rests in the store. One that rests there otherwise, or not at all, is not it any more: a database that
/// went back in time has others.
#[derive(Clone)]
struct Known {
    wrapped: String,
    key: Arc<DataKey>,
}

impl Sealer {
    /// Over what is in this store.
    pub fn new(store: Store, master: Master) -> Sealer {
        Sealer(Arc::new(Inner { store, master, known: Mutex::default() }))
    }

    /// Lets another master key wrap from now on, and wraps every key anew under it: all in one step, or none. Of a file the old
    /// keys stay, for backups and for whoever has not read it again. One that breaks off leaves a key more in the file.
    pub async fn rotate(&self, actor: Actor) -> Result<Rotated> {
        let sealer = self.clone();
        to_its_end(async move { sealer.rotate_now(actor).await }).await
    }

    async fn rotate_now(&self, actor: Actor) -> Result<Rotated> {
        let mut file = self.0.master.change().map_err(|error| unwrapping(&error))?;
        let mut keys = self.unwrapped().await?;
        // In the file before it wraps.
        if let Some(file) = &mut file {
            file.add().map_err(|error| unwrapping(&error.into()))?;
        }
        let names = file.as_ref().map(|file| file.keys().names()).unwrap_or_default();
        let (newest, older) = names.split_first().map_or((None, &[][..]), |(first, rest)| (Some(first), rest));
        for _ in 0..TRIES {
            let count = keys.len();
            let anew = self.wrapped_anew(newest.map(String::as_str), keys).await?;
            if self.0.store.rewrap(anew, actor.clone()).await? {
                return Ok(Rotated { keys: count, master: newest.cloned(), older: older.to_vec() });
            }
            // A tenant got its key, or went, meanwhile.
            keys = self.unwrapped().await?;
        }
        Err(Error::Fault("keys are made faster than they are wrapped anew"))
    }

    /// Removes from the file the master keys that wrap nothing any more.
    pub async fn retire(&self, actor: Actor) -> Result<Retired> {
        let sealer = self.clone();
        to_its_end(async move { sealer.retire_now(actor).await }).await
    }

    async fn retire_now(&self, actor: Actor) -> Result<Retired> {
        let Some(mut file) = self.0.master.change().map_err(|error| unwrapping(&error))? else {
            return Ok(Retired { master: None, removed: Vec::new() });
        };
        let wraps = self.0.store.master().await?;
        let master = wraps.clone().unwrap_or_else(|| file.keys().newest().to_owned());
        let removed: Vec<String> = file.keys().names().into_iter().filter(|name| *name != master).collect();
        if !removed.is_empty() {
            self.unwrapped().await?;
            // A server that was killed while it rotated may have left a step behind that is committed only now.
            if !self.0.store.retire_masters(wraps, removed.clone(), actor).await? {
                return Err(rotated_meanwhile().into());
            }
            file.keep_only(std::slice::from_ref(&master)).map_err(|error| unwrapping(&error.into()))?;
        }
        Ok(Retired { master: Some(master), removed })
    }

    /// Every key there is, as it is wrapped and unwrapped.
    async fn unwrapped(&self) -> Result<Vec<(WrappedKey, DataKey)>> {
        let mut keys = Vec::new();
        for key in self.0.store.data_keys().await? {
            let unwrapped = self.0.master.unwrap(&place(&key.owner), &key.wrapped).await;
            keys.push((key, unwrapped.map_err(|error| unwrapping(&error))?));
        }
        Ok(keys)
    }

    async fn wrapped_anew(&self, under: Option<&str>, keys: Vec<(WrappedKey, DataKey)>) -> Result<Vec<Rewrapped>> {
        let mut anew = Vec::with_capacity(keys.len());
        for (WrappedKey { owner, wrapped, .. }, key) in keys {
            let again = self.0.master.wrap(under, &place(&owner), &key).await.map_err(|error| unwrapping(&error))?;
            let (master, after) = again;
            anew.push(Rewrapped { owner, before: wrapped, master, after });
        }
        Ok(anew)
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
        let name = owner.to_string();
        let place = place(&name);
        let wrapped = match self.0.store.data_key(name.clone()).await? {
            Some(wrapped) => wrapped,
            None => self.make(&name, &place).await?,
        };
        if let Some(known) = self.known().get(&owner).filter(|known| known.wrapped == wrapped) {
            return Ok(known.key.clone());
        }
        let key = Arc::new(self.0.master.unwrap(&place, &wrapped).await.map_err(|error| unwrapping(&error))?);
        let mut known = self.known();
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(owner, Known { wrapped, key: key.clone() });
        Ok(key)
    }

    /// A new key for an owner, wrapped by what wraps the others; or the one that somebody else made for it meanwhile.
    async fn make(&self, owner: &str, place: &str) -> Result<String> {
        let key = DataKey::generate().map_err(|error| sealing(&error))?;
        for _ in 0..TRIES {
            let under = self.0.store.master().await?;
            let wrapped = self.0.master.wrap(under.as_deref(), place, &key).await;
            let (master, wrapped) = wrapped.map_err(|error| unwrapping(&error))?;
            let new = WrappedKey { owner: owner.to_owned(), master, wrapped };
            if let Some(wrapped) = self.0.store.put_data_key(new).await? {
                return Ok(wrapped);
            }
        }
        Err(Error::Fault("the master key is rotated faster than a key is wrapped under it"))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Owner, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealer").field(&self.0.master).finish()
    }
}

/// Does what must not be broken off, whatever becomes of whoever asked for it: the file is locked until the store has answered.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|_| Error::Fault("the change of the master key broke down"))?
}

fn rotated_meanwhile() -> Refusal {
    Refusal::new(Code::KeyStateConflict, "the master key was rotated meanwhile, and nothing was removed; ask again")
}

fn sealing(error: &SealError) -> Error {
    Error::Trust { doing: "seal or open a stored value", cause: error.to_string() }
}

/// What a key is wrapped as.
fn place(owner: &str) -> String {
    format!("data key of {owner}")
}

fn unwrapping(error: &WrapError) -> Error {
    match error {
        WrapError::File(MasterError::Busy(_) | MasterError::Full(_)) => {
            Refusal::new(Code::KeyStateConflict, error.to_string()).into()
        }
        WrapError::File(_) | WrapError::Command { .. } | WrapError::OtherWay { .. } => {
            Error::Trust { doing: "unwrap the key of stored values", cause: error.to_string() }
        }
    }
}
