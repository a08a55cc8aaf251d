//! Joins that were refused though their tokens are known: gathered for a moment, and then in the audit, one entry for all with
//! one token. Of tokens that nobody made anybody can show any number: those are counted in the metrics only.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use hostler_model::{Refusal, TokenId, event::RequestOrigin, name::Name};
use hostler_store::RefusedJoin;

use super::{App, Result};

/// How many tokens are kept at once; of more, only those that are kept are told.
const TOKENS: usize = 256;

/// What was refused and is not yet told.
#[derive(Debug, Default)]
pub(crate) struct RefusedJoins(Mutex<BTreeMap<TokenId, RefusedJoin>>);

impl RefusedJoins {
    /// One more.
    pub(crate) fn add(&self, token: TokenId, name: &Name, refusal: &Refusal, origin: RequestOrigin) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.get(&token).map_or(0, |refused| refused.count);
        if count > 0 || all.len() < TOKENS {
            let (name, why) = (name.clone(), refusal.detail.clone());
            all.insert(token, RefusedJoin { token, name, why, count: count + 1, origin });
        }
    }

    /// Those that could not be told yet.
    fn put_back(&self, refused: Vec<RefusedJoin>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for earlier in refused {
            let later = all.get(&earlier.token).map_or(0, |refused| refused.count);
            let count = earlier.count + later;
            all.entry(earlier.token).or_insert(earlier).count = count;
        }
    }

    fn take(&self) -> Vec<RefusedJoin> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect()
    }
}

impl App {
    /// Writes down what was refused since this was last done.
    pub async fn tell_refused_joins(&self) -> Result<()> {
        let refused = self.refused_joins.take();
        if refused.is_empty() {
            return Ok(());
        }
        let told = self.store.refused_joins(refused.clone()).await;
        if told.is_err() {
            self.refused_joins.put_back(refused);
        }
        Ok(told?)
    }
}
