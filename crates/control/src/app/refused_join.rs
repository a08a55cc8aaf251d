//! Joins that were refused though their tokens are known: gathered for a moment, and then in the audit, one entry for all with
//! one token. Of tokens that nobody made anybody can show any number: those are counted in the metrics only.

use std::collections::BTreeMap;

use hostler_model::{Refusal, TokenId, event::RequestOrigin, name::Name};
use hostler_store::RefusedJoin;

use super::{App, Result, untold::Gather};

/// How many tokens are kept at once; of more, only those that are kept are told.
const TOKENS: usize = 256;

/// What was refused and is not yet told.
#[derive(Debug, Default)]
pub(crate) struct RefusedJoins(BTreeMap<TokenId, RefusedJoin>);

impl RefusedJoins {
    /// One more.
    pub(crate) fn add(&mut self, token: TokenId, name: &Name, refusal: &Refusal, origin: RequestOrigin) {
        let count = self.0.get(&token).map_or(0, |refused| refused.count);
        if count > 0 || self.0.len() < TOKENS {
            let (name, why) = (name.clone(), refusal.detail.clone());
            self.0.insert(token, RefusedJoin { token, name, why, count: count + 1, origin });
        }
    }
}

impl Gather for RefusedJoins {
    type Told = RefusedJoin;

    fn take(&mut self) -> Vec<RefusedJoin> {
        std::mem::take(&mut self.0).into_values().collect()
    }

    fn put_back(&mut self, earlier: Vec<RefusedJoin>) {
        for earlier in earlier {
            let later = self.0.get(&earlier.token).map_or(0, |refused| refused.count);
            let count = earlier.count + later;
            self.0.entry(earlier.token).or_insert(earlier).count = count;
        }
    }
}

impl App {
    /// Writes down what was refused since this was last done.
    pub async fn tell_refused_joins(&self) -> Result<()> {
        Ok(self.refused_joins.tell(|refused| self.store.refused_joins(refused)).await?)
    }
}
