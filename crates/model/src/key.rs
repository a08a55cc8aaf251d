//! The keys that sign tasks: a set in which each has a state, so that one follows another without a task that is refused.
//!
//! ```text
//! staged ──activate──► active ──another is activated──► grace ──retire──► retired
//!    │ ▲ nodes know it already   │                        │ ▲ what it signed is still believed
//!    │                           └──────── revoke ────────┤
//!    └──────────────── retire, revoke ────────────────────┴──► revoked: at once, whatever it signed is refused
//! ```
//!
//! At any time exactly one is active. Never here: a private key, a signature.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    error::{Code, Refusal, excerpt},
};

/// How many keys may be believed at once: every agent holds them all.
pub const MOST: usize = 8;

/// A key's name: the RFC 7638 thumbprint of its public part, 43 characters of base64url.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Kid(pub String);

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Kid {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.len() == 43 && text.chars().all(is_good) {
            return Ok(Kid(text.to_owned()));
        }
        let detail = "a key is named by the 43 characters of its kid; `hostler key list` shows them";
        Err(Refusal::new(Code::KeyNotFound, detail).with("key", excerpt(text)))
    }
}

/// What a key is good for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Agents learn it; it signs nothing yet.
    Staged,
    /// It signs.
    Active,
    /// It signs nothing any more; what it signed is believed.
    Grace,
    /// It is no longer believed: what it signed has long run out.
    Retired,
    /// It is not believed, whatever it signed and whenever: somebody else may have it.
    Revoked,
}

impl KeyState {
    /// Every state.
    pub const ALL: [KeyState; 5] =
        [KeyState::Staged, KeyState::Active, KeyState::Grace, KeyState::Retired, KeyState::Revoked];

    /// As the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyState::Staged => "staged",
            KeyState::Active => "active",
            KeyState::Grace => "grace",
            KeyState::Retired => "retired",
            KeyState::Revoked => "revoked",
        }
    }

    /// Whether agents believe what it signed.
    pub const fn is_believed(self) -> bool {
        match self {
            KeyState::Staged | KeyState::Active | KeyState::Grace => true,
            KeyState::Retired | KeyState::Revoked => false,
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key as people see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SigningKey {
    /// Its name, which stands in each task that it signed.
    pub kid: Kid,
    /// What it is good for.
    pub state: KeyState,
    /// The public part: Ed25519, 32 bytes as base64url (`x` of its JWK).
    pub public: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it is what it is.
    pub changed_at: Timestamp,
}

/// What a rotation of the master key came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Rotated {
    /// How many keys it wraps: one for each tenant with secrets, and the control plane's own.
    pub keys: usize,
    /// The name of the master key that wraps from now on; none where a command does.
    pub master: Option<String>,
    /// The names of those that stay in the file: backups that were taken under them need them.
    pub older: Vec<String>,
}

/// What became of the master keys that wrapped nothing any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Retired {
    /// The name of the master key that wraps; none where a command does.
    pub master: Option<String>,
    /// The names of those that were removed from the file: backups that were taken under them need an earlier copy of it.
    pub removed: Vec<String>,
}

/// What an operator does to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyEvent {
    /// It signs from now on.
    Activate,
    /// It is no longer believed.
    Retire,
    /// Nothing that it ever signed is believed.
    Revoke,
}

impl KeyEvent {
    /// As routes and the audit spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyEvent::Activate => "activate",
            KeyEvent::Retire => "retire",
            KeyEvent::Revoke => "revoke",
        }
    }
}

/// What becomes of one key.
pub type Change = (Kid, KeyState);

/// What becomes of the set when something happens to one of its keys. `spare` is a new key, which signs from then on where
/// the one that signed is revoked and none is staged: nothing is to wait for an operator then.
///
/// # Errors
/// There is no such key, or its state does not allow this.
pub fn after(set: &[Change], kid: &Kid, event: KeyEvent, spare: &Kid) -> Result<Vec<Change>, Refusal> {
    use KeyEvent as E;
    use KeyState as S;
    let Some((_, state)) = set.iter().find(|(known, _)| known == kid) else { return Err(not_found(kid)) };
    let one = |to: S| vec![(kid.clone(), to)];
    match (*state, event) {
        (S::Active, E::Activate) | (S::Retired, E::Retire) | (S::Revoked, E::Revoke) => Ok(Vec::new()),
        (S::Staged | S::Grace, E::Activate) => {
            let signed = set.iter().filter(|(_, state)| *state == S::Active);
            Ok(signed.map(|(other, _)| (other.clone(), S::Grace)).chain(one(S::Active)).collect())
        }
        (S::Staged | S::Grace, E::Retire) => Ok(one(S::Retired)),
        (S::Staged | S::Grace | S::Retired, E::Revoke) => Ok(one(S::Revoked)),
        (S::Active, E::Revoke) => {
            let staged = set.iter().rev().find(|(_, state)| *state == S::Staged);
            let next = staged.map_or(spare, |(kid, _)| kid).clone();
            Ok(vec![(kid.clone(), S::Revoked), (next, S::Active)])
        }
        (S::Active, E::Retire) => Err(conflict(kid, *state, event, "activate another key first")),
        (S::Retired, E::Activate) => Err(conflict(kid, *state, event, "stage another with `hostler key stage`")),
        (S::Revoked, E::Activate | E::Retire) => {
            Err(conflict(kid, *state, event, "stage another with `hostler key stage`"))
        }
    }
}

/// What becomes of the set when the database goes back in time: a key that was revoked since may sign again, and one whose
/// revocation agents remember would sign what none of them does. So none signs (a new one is to be made), what signed is
/// believed for tasks that are under way, and no other is.
pub fn after_restore(set: &[Change]) -> Vec<Change> {
    use KeyState as S;
    let change = |(kid, state): &Change| match state {
        S::Active => Some((kid.clone(), S::Grace)),
        S::Staged | S::Grace => Some((kid.clone(), S::Retired)),
        S::Retired | S::Revoked => None,
    };
    set.iter().filter_map(change).collect()
}

/// Whether one more may be staged.
///
/// # Errors
/// As many as there may be are believed already.
pub fn may_stage(set: &[Change]) -> Result<(), Refusal> {
    let believed = set.iter().filter(|(_, state)| state.is_believed()).count();
    if believed < MOST {
        return Ok(());
    }
    let detail = format!("{believed} keys are believed already, of at most {MOST}; retire those in grace first");
    Err(Refusal::new(Code::KeyStateConflict, detail).with("believed", believed).with("most", MOST))
}

fn conflict(kid: &Kid, state: KeyState, event: KeyEvent, next: &str) -> Refusal {
    let detail = format!("the key {kid} is {state}: {} does not apply; {next}", event.as_str());
    Refusal::new(Code::KeyStateConflict, detail).with("key", kid.0.as_str()).with("state", state.as_str())
}

/// There is no such key.
pub fn not_found(kid: &Kid) -> Refusal {
    let detail = format!("there is no key {kid} that signs tasks; `hostler key list` shows those there are");
    Refusal::new(Code::KeyNotFound, detail).with("key", kid.0.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kid(n: usize) -> Kid {
        Kid(format!("{n:043}"))
    }

    fn apply(set: &mut Vec<Change>, changes: Vec<Change>) {
        for (kid, state) in changes {
            match set.iter_mut().find(|(known, _)| *known == kid) {
                Some(row) => row.1 = state,
                None => set.push((kid, state)),
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_exactly_one_key_signs_and_what_was_revoked_stays_so(
            history in prop::collection::vec((0usize..6, prop_oneof![
                Just(None), Just(Some(KeyEvent::Activate)), Just(Some(KeyEvent::Retire)), Just(Some(KeyEvent::Revoke)),
            ]), 0..40),
        ) {
            let mut set = vec![(kid(0), KeyState::Active)];
            for (made, (at, event)) in (1..).zip(history) {
                let (which, before) = (set[at % set.len()].0.clone(), set.clone());
                match event {
                    None if may_stage(&set).is_ok() => set.push((kid(made), KeyState::Staged)),
                    None => {}
                    Some(event) => {
                        if let Ok(changes) = after(&set, &which, event, &kid(made)) {
                            apply(&mut set, changes);
                        }
                    }
                }
                prop_assert_eq!(set.iter().filter(|(_, state)| *state == KeyState::Active).count(), 1);
                prop_assert!(set.iter().filter(|(_, state)| state.is_believed()).count() <= MOST);
                for (kid, state) in &before {
                    let now = set.iter().find(|(known, _)| known == kid).unwrap().1;
                    prop_assert!(*state != KeyState::Revoked || now == KeyState::Revoked);
                    prop_assert!(*state != KeyState::Retired || !now.is_believed());
                }
            }
        }
    }

    #[test]
    fn a_key_that_signs_is_followed_before_it_goes() {
        let set = vec![(kid(1), KeyState::Active), (kid(2), KeyState::Staged)];
        let refusal = after(&set, &kid(1), KeyEvent::Retire, &kid(9)).unwrap_err();
        assert_eq!(refusal.code, Code::KeyStateConflict);
        let changes = after(&set, &kid(2), KeyEvent::Activate, &kid(9)).unwrap();
        assert_eq!(changes, [(kid(1), KeyState::Grace), (kid(2), KeyState::Active)]);
        let changes = after(&set, &kid(1), KeyEvent::Revoke, &kid(9)).unwrap();
        assert_eq!(changes, [(kid(1), KeyState::Revoked), (kid(2), KeyState::Active)]);
        let changes = after(&set[..1], &kid(1), KeyEvent::Revoke, &kid(9)).unwrap();
        assert_eq!(changes, [(kid(1), KeyState::Revoked), (kid(9), KeyState::Active)]);
        assert_eq!(after(&set, &kid(3), KeyEvent::Revoke, &kid(9)).unwrap_err().code, Code::KeyNotFound);
    }

    #[test]
    fn after_a_restore_no_key_of_before_signs_and_one_at_most_is_believed() {
        use KeyState as S;
        let mut set: Vec<Change> = S::ALL.into_iter().enumerate().map(|(n, state)| (kid(n), state)).collect();
        for _ in 0..2 {
            let changes = after_restore(&set);
            apply(&mut set, changes);
            let states: Vec<S> = set.iter().map(|(_, state)| *state).collect();
            assert_eq!(states[3..], [S::Retired, S::Revoked]);
            assert!(states.iter().filter(|state| state.is_believed()).all(|state| *state == S::Grace));
        }
        assert!(set.iter().all(|(_, state)| !state.is_believed()), "a second one leaves none");
    }

    #[test]
    fn a_kid_is_read_in_its_one_form() {
        assert_eq!("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".parse::<Kid>().unwrap().0.len(), 43);
        for bad in ["", "short", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4/", &"a".repeat(44)] {
            assert!(bad.parse::<Kid>().is_err(), "{bad}");
        }
    }
}
