//! What callers were refused who are known: counted for a moment, and then in the audit, one entry for all of a kind. Strangers
//! are counted in the metrics only, for anybody can make any number of those.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use hostler_model::event::Actor;
use hostler_store::Denied;

use super::{App, Result, caller::Call};

/// How many kinds are kept at once; of more, only those that are kept are told.
const KINDS: usize = 256;

/// What was refused and is not yet told.
#[derive(Debug, Default)]
pub(crate) struct Denials(Mutex<BTreeMap<String, Denied>>);

impl Denials {
    /// One more.
    pub(crate) fn add(&self, call: &Call, route: &str) {
        let actor = Actor { request: Some(call.request), ..call.actor() };
        let key = format!("{} {:?} {route}", actor.principal, actor.credential);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(denied) = all.get_mut(&key) {
            denied.count += 1;
        } else if all.len() < KINDS {
            all.insert(key, Denied { actor, tenant: call.caller.tenant, route: route.to_owned(), count: 1 });
        }
    }

    fn take(&self) -> Vec<Denied> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect()
    }
}

impl App {
    /// Writes down what was refused since this was last done.
    pub async fn tell_denied(&self) -> Result<()> {
        let denied = self.denials.take();
        if !denied.is_empty() {
            self.store.denied(denied).await?;
        }
        Ok(())
    }
}
