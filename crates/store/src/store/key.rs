//! Keys: those that sign tasks, and those under which values are sealed.

use hostler_model::{
    event::Actor,
    key::{KeyEvent, Kid, SigningKey},
};

use serde_json::json;
use uuid::Uuid;

use super::Store;
use crate::{Answer, NewSigningKey, Result, Rewrapped, WrappedKey, key as keys, step::key};

impl Store {
    /// The keys that sign tasks, each with its sealed private part while it may sign; in the order in which they were made.
    pub async fn signing_keys(&self) -> Result<Vec<(SigningKey, Option<String>)>> {
        self.read(|tx| Ok(keys::all(tx)?.into_iter().map(|row| (row.key, row.private)).collect())).await
    }

    /// A key that signs at once, where none does: in a new store, and after it went back in time.
    pub async fn put_active_key(&self, new: NewSigningKey) -> Result<()> {
        self.step("store.key", move |work| key::put_active(work, &new)).await
    }

    /// Another key, which does not sign yet.
    pub async fn stage_key(&self, new: NewSigningKey, actor: Actor) -> Result<Answer<SigningKey>> {
        self.step("store.key", move |work| key::stage(work, &new, &actor)).await
    }

    /// What an operator does to a key. `spare` signs from then on where none is left that does.
    pub async fn change_key(
        &self,
        kid: Kid,
        event: KeyEvent,
        spare: NewSigningKey,
        actor: Actor,
    ) -> Result<Answer<SigningKey>> {
        self.step("store.key", move |work| key::change(work, &kid, event, &spare, &actor)).await
    }

    /// The wrapped key under which an owner's values are sealed.
    pub async fn data_key(&self, owner: String) -> Result<Option<String>> {
        self.read(move |tx| keys::data_key(tx, &owner)).await
    }

    /// Every wrapped key.
    pub async fn data_keys(&self) -> Result<Vec<WrappedKey>> {
        self.read(keys::data_keys).await
    }

    /// The name of what wraps them; `None` while there are none.
    pub async fn master(&self) -> Result<Option<String>> {
        self.read(keys::master).await
    }

    /// Wraps all keys anew, or none: `false` where these are not all that there are by now, or not as they are.
    pub async fn rewrap(&self, anew: Vec<Rewrapped>, actor: Actor) -> Result<bool> {
        self.step("store.key", move |work| {
            let done = keys::rewrap(work.tx, &anew)?;
            if done {
                let what = json!({"keys": anew.len(), "master": anew.first().map(|key| &key.master)});
                work.audit(&actor, None, "key", "key.rotate_master", Uuid::nil(), what);
            }
            Ok(done)
        })
        .await
    }

    /// Master keys are about to be removed by somebody: `false` where by now another one wraps than `wraps`, and none may be.
    pub async fn retire_masters(&self, wraps: Option<String>, names: Vec<String>, actor: Actor) -> Result<bool> {
        self.step("store.key", move |work| {
            let same = keys::master(work.tx)? == wraps;
            if same {
                work.audit(&actor, None, "key", "key.retire_master", Uuid::nil(), json!({"removed": names}));
            }
            Ok(same)
        })
        .await
    }

    /// Writes an owner's key down where it has none; the one that it then has. `None`: by now another master key wraps than
    /// that of this one, and it is to be wrapped under that.
    pub async fn put_data_key(&self, key: WrappedKey) -> Result<Option<String>> {
        self.step("store.key", move |work| keys::put_data_key(work.tx, &key, work.now)).await
    }
}
