//! Scopes: how narrow a credential is, beside its role. A role says how much somebody may, a scope about what.
//!
//! `vm:write` includes `vm:read`, and so for every noun; nothing else includes anything. `vm:exec` stands alone, because
//! running a program inside of a machine is another thing than looking after it.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Refusal, excerpt};

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a credential may be narrowed to.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Scope {
            $($(#[$doc])* $name,)*
        }

        impl Scope {
            /// Every scope.
            pub const ALL: &'static [Scope] = &[$(Scope::$name),*];

            /// The scope as people and programs spell it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Scope::$name => $text,)* }
            }
        }
    };
}

scopes! {
    /// Tasks, their logs and their counts are read.
    TaskRead = "task:read";
    /// Tasks are submitted, cancelled and done again. A task of a kind asks for the kind's own scope as well.
    TaskWrite = "task:write";
    /// Machines are read.
    VmRead = "vm:read";
    /// Machines are made, changed, started, stopped and deleted.
    VmWrite = "vm:write";
    /// Programs run inside of machines.
    VmExec = "vm:exec";
    /// Snapshots are read.
    SnapshotRead = "snapshot:read";
    /// Snapshots are taken, gone back to and deleted.
    SnapshotWrite = "snapshot:write";
    /// Images are read.
    ImageRead = "image:read";
    /// Images are imported, named, brought to nodes and deleted.
    ImageWrite = "image:write";
    /// Nodes are read.
    NodeRead = "node:read";
    /// Nodes are let in, approved, cordoned and probed.
    NodeWrite = "node:write";
    /// The keys that sign tasks are read.
    KeyRead = "key:read";
    /// Keys that sign tasks are staged, activated, retired and revoked.
    KeyWrite = "key:write";
    /// Events are followed.
    EventRead = "event:read";
    /// The audit is read.
    AuditRead = "audit:read";
    /// The quota is read.
    QuotaRead = "quota:read";
    /// Limits are changed, and amounts held by hand.
    QuotaWrite = "quota:write";
    /// Tenants are read: by a tenant's own callers only theirs.
    TenantRead = "tenant:read";
    /// Tenants are made, changed and deleted.
    TenantWrite = "tenant:write";
    /// Tokens and service accounts are read.
    TokenRead = "token:read";
    /// Tokens and service accounts are made and revoked.
    TokenWrite = "token:write";
    /// The platform's measurements are read.
    MetricsRead = "metrics:read";
    /// The platform's books and chains are examined.
    DoctorRead = "doctor:read";
}

impl Scope {
    /// The scope that has this one in it, too.
    fn wider(self) -> Option<Scope> {
        let noun = self.as_str().strip_suffix(":read")?;
        Scope::ALL.iter().copied().find(|other| other.as_str().strip_suffix(":write") == Some(noun))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Scope, Refusal> {
        Scope::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or_else(|| {
            let known: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
            Refusal::field("scopes", format!("there is no scope {:?}; there are {}", excerpt(text), known.join(", ")))
        })
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|refusal: Refusal| serde::de::Error::custom(refusal.detail))
    }
}

/// What a credential is narrowed to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Option<BTreeSet<Scope>>", into = "Option<BTreeSet<Scope>>")]
pub enum Scopes {
    /// Nothing: whatever its role may.
    #[default]
    All,
    /// These only.
    Only(BTreeSet<Scope>),
}

impl From<Option<BTreeSet<Scope>>> for Scopes {
    fn from(scopes: Option<BTreeSet<Scope>>) -> Scopes {
        scopes.map_or(Scopes::All, Scopes::Only)
    }
}

impl From<Scopes> for Option<BTreeSet<Scope>> {
    fn from(scopes: Scopes) -> Option<BTreeSet<Scope>> {
        match scopes {
            Scopes::All => None,
            Scopes::Only(scopes) => Some(scopes),
        }
    }
}

impl Scopes {
    /// Whether this is among them.
    pub fn allow(&self, scope: Scope) -> bool {
        match self {
            Scopes::All => true,
            Scopes::Only(scopes) => {
                scopes.contains(&scope) || scope.wider().is_some_and(|wider| scopes.contains(&wider))
            }
        }
    }

    /// Whether nothing is narrowed.
    pub fn are_all(&self) -> bool {
        *self == Scopes::All
    }

    /// Whether all of these are allowed by others.
    pub fn within(&self, others: &Scopes) -> bool {
        match self {
            Scopes::All => *others == Scopes::All,
            Scopes::Only(scopes) => scopes.iter().all(|scope| others.allow(*scope)),
        }
    }

    /// With spaces between them, as a claim and the store have them; none where nothing is narrowed.
    pub fn words(&self) -> Option<String> {
        match self {
            Scopes::All => None,
            Scopes::Only(scopes) => Some(scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")),
        }
    }

    /// Those that are known among words. One that a later version knew narrows as well: it allows nothing here.
    pub fn of_words(words: Option<&str>) -> Scopes {
        match words {
            None => Scopes::All,
            Some(words) => Scopes::Only(words.split_whitespace().filter_map(|word| word.parse().ok()).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(words: &str) -> Scopes {
        Scopes::of_words(Some(words))
    }

    #[test]
    fn writing_includes_reading_and_nothing_else_includes_anything() {
        for scope in Scope::ALL {
            for other in Scope::ALL {
                let noun = |scope: &Scope| scope.as_str().split_once(':').unwrap().0;
                let read = scope.as_str().ends_with(":write") && other.as_str().ends_with(":read");
                let expected = scope == other || (read && noun(scope) == noun(other));
                assert_eq!(only(scope.as_str()).allow(*other), expected, "{scope} {other}");
            }
            assert!(Scopes::All.allow(*scope));
        }
    }

    #[test]
    fn what_is_narrower_lies_within_and_nothing_wider_does() {
        assert!(only("vm:read").within(&only("vm:write")));
        assert!(!only("vm:write").within(&only("vm:read")));
        assert!(only("vm:read task:read").within(&Scopes::All));
        assert!(!Scopes::All.within(&only("vm:read")));
        assert!(only("").within(&only("vm:read")));
    }

    #[test]
    fn words_that_are_not_known_allow_nothing() {
        assert_eq!(only("moon:write vm:read"), only("vm:read"));
        assert!(!Scope::ALL.iter().any(|scope| only("moon:write").allow(*scope)));
        assert_eq!(Scopes::of_words(only("vm:read task:write").words().as_deref()), only("task:write vm:read"));
        assert_eq!(Scopes::All.words(), None);
    }
}
