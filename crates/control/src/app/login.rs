//! Logins by an identity provider: the first time that this server believes one of its tokens is an entry of the audit. What
//! is done with tokens of our own begins with the entry of their making.

use std::collections::HashMap;

use hostler_model::{Timestamp, caller::Caller, event::Actor};
use hostler_store::Login;

use super::{App, Result, untold::Gather};

/// How many tokens are remembered as told, and how many logins wait to be told. Of more, some are told twice, never none.
const REMEMBERED: usize = 4096;

/// What a provider says of somebody whom it sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// sha256 of its token, in hex.
    pub token_hash: String,
    /// The provider.
    pub issuer: String,
    /// Who that is there.
    pub subject: String,
}

/// Logins that were told, as long as their tokens are good, and those that are not yet told.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    told: HashMap<String, Option<Timestamp>>,
    untold: Vec<Login>,
}

impl Logins {
    /// Somebody was believed by a provider's token. What there is no room for comes with a later call.
    pub(crate) fn add(&mut self, sent: Sent, caller: &Caller, actor: Actor, now: Timestamp) {
        let Sent { token_hash, issuer, subject } = sent;
        if self.told.contains_key(&token_hash) || self.untold.len() >= REMEMBERED {
            return;
        }
        if self.told.len() >= REMEMBERED {
            self.told.retain(|_, until| until.is_none_or(|until| until > now));
        }
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        let (tenant, until) = (caller.tenant, caller.expires_at);
        self.told.insert(token_hash, until);
        self.untold.push(Login { actor, tenant, issuer, subject, until });
    }
}

impl Gather for Logins {
    type Told = Login;

    fn take(&mut self) -> Vec<Login> {
        std::mem::take(&mut self.untold)
    }

    fn put_back(&mut self, earlier: Vec<Login>) {
        self.untold.splice(..0, earlier);
    }
}

impl App {
    /// Writes down who logged in since this was last done.
    pub async fn tell_logins(&self) -> Result<()> {
        Ok(self.logins.tell(|logins| self.store.logged_in(logins)).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hostler_model::{PrincipalId, TenantId, role::Role};

    use super::*;

    fn add(logins: &mut Logins, hash: &str, until: Timestamp, now: Timestamp) {
        let caller =
            Caller { expires_at: Some(until), ..Caller::new(PrincipalId::SYSTEM, TenantId::DEFAULT, Role::Viewer) };
        let sent = Sent { token_hash: hash.to_owned(), issuer: "https://a".into(), subject: "alice".into() };
        logins.add(sent, &caller, Actor::system(), now);
    }

    #[test]
    fn a_token_is_told_once_and_what_is_remembered_of_it_goes_with_its_time() {
        let (mut logins, now) = (Logins::default(), Timestamp::from_micros(0));
        let soon = now.plus(Duration::from_secs(1));
        for hash in ["a", "b", "a"] {
            add(&mut logins, hash, soon, now);
        }
        let told = logins.take();
        assert_eq!(told.len(), 2);
        // The store failed: they come again, before those who came since.
        add(&mut logins, "c", soon, now);
        logins.put_back(told);
        assert_eq!(logins.take().len(), 3);
        for number in 0..2 * REMEMBERED {
            add(&mut logins, &number.to_string(), soon, soon);
        }
        assert!(logins.told.len() <= REMEMBERED && logins.take().len() <= REMEMBERED);
    }
}
