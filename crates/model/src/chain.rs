//! The chain: one link per batch of log entries, so that nothing can be edited, removed or reordered unseen.
//!
//! `hash(n) = sha256(hash(n-1) ‖ digest of the batch)`; the digest is of the hashes of the batch's entries, in their order, so
//! that whoever may not read an entry can verify those around it. A link keeps those [`Hashes`]: they tell which of its entries
//! is not what was written, and are themselves what the digest is of.
//!
//! A chain by itself can be written anew from any place on by whoever may write to the database. Checkpoints are what that
//! person cannot write: now and then a server signs where the chain stands. It does so only where the chain goes on from what
//! it signed before, which it sees by the hashes alone (a [`Joint`] for each link): whether the entries are those of the hashes
//! is seen by whoever verifies ([`Walk`]).

mod walk;
mod wrong;

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::walk::Walk;
use crate::{clock::Timestamp, event::Entry};

/// A link's hash.
pub type Hash = [u8; 32];

/// The hash before the first link.
pub const GENESIS: Hash = [0; 32];

/// What an entry is told from any other by: the digest of its JSON form.
pub fn hash_of(entry: &Entry) -> Hash {
    Sha256::digest(serde_json::to_vec(entry).expect("an entry is plain data")).into()
}

/// The digest of a batch.
pub fn digest(entries: impl IntoIterator<Item = Hash>) -> Hash {
    let mut hasher = Sha256::new();
    entries.into_iter().for_each(|entry| hasher.update(entry));
    hasher.finalize().into()
}

/// The next link.
pub fn link(previous: &Hash, batch: &Hash) -> Hash {
    Sha256::new().chain_update(previous).chain_update(batch).finalize().into()
}

/// A hash as text: 64 digits of lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HexHash(pub Hash);

impl fmt::Display for HexHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for HexHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<HexHash, &'static str> {
        let mut out = Hash::default();
        hex::decode_to_slice(text, &mut out).map_err(|_| "a hash is 64 hex digits")?;
        Ok(HexHash(out))
    }
}

/// What is written as its text.
macro_rules! as_text {
    ($($what:ty)*) => {
        $(
            impl Serialize for $what {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $what {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                }
            }
        )*
    };
}

as_text!(HexHash Hashes);

/// The hashes of a batch's entries, in their order. As text, one base64 of all their bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hashes(Vec<Hash>);

impl Hashes {
    /// Those of a batch.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Hashes {
        entries.into_iter().map(hash_of).collect()
    }

    /// What the link is made of.
    pub fn digest(&self) -> Hash {
        digest(self.0.iter().copied())
    }

    /// Whether there is one for each entry of a link.
    fn are_of(&self, first: i64, last: i64) -> bool {
        i64::try_from(self.0.len()).is_ok_and(|many| first.checked_add(many - 1) == Some(last))
    }

    /// That of an entry of the link that begins there.
    fn get(&self, first: i64, seq: i64) -> Option<Hash> {
        let at = usize::try_from(seq.checked_sub(first)?).ok()?;
        self.0.get(at).copied()
    }
}

impl FromStr for Hashes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Hashes, &'static str> {
        const NONE: &str = "hashes are one base64 text, of 32 bytes for each";
        let bytes = BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| NONE)?;
        let (hashes, rest) = bytes.as_chunks::<{ size_of::<Hash>() }>();
        if rest.is_empty() { Ok(Hashes(hashes.to_vec())) } else { Err(NONE) }
    }
}

impl FromIterator<Hash> for Hashes {
    fn from_iter<T: IntoIterator<Item = Hash>>(hashes: T) -> Hashes {
        Hashes(hashes.into_iter().collect())
    }
}

impl fmt::Display for Hashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD_NO_PAD.encode(self.0.as_flattened()))
    }
}

/// An entry as whoever verifies the chain sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shown {
    /// Not for these eyes.
    Hashed(Hashed),
    /// Whole.
    Whole(Entry),
}

/// What stands for an entry that is not shown.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hashed {
    /// Its number.
    pub seq: i64,
    /// Its hash.
    pub sha256: HexHash,
}

impl Shown {
    /// An entry that is not to be shown.
    pub fn hashed(entry: &Entry) -> Shown {
        Shown::Hashed(Hashed { seq: entry.seq, sha256: HexHash(hash_of(entry)) })
    }

    /// What stands at an entry's number and can be none.
    pub fn unreadable(seq: i64) -> Shown {
        Shown::Hashed(Hashed { seq, sha256: HexHash(GENESIS) })
    }

    fn seq(&self) -> i64 {
        match self {
            Shown::Hashed(entry) => entry.seq,
            Shown::Whole(entry) => entry.seq,
        }
    }

    /// Its hash: what is said of it, where it is not shown.
    pub fn hash(&self) -> Hash {
        match self {
            Shown::Hashed(entry) => entry.sha256.0,
            Shown::Whole(entry) => hash_of(entry),
        }
    }
}

/// A link with what it covers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Link {
    /// Its first entry's number.
    pub first: i64,
    /// Its last one's.
    pub last: i64,
    /// Its hash.
    pub hash: HexHash,
    /// Its entries' hashes, as they were written down. An export that was made without them verifies as well: then a link says
    /// only that some of its entries are not what was written, and not which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
    /// Its entries.
    pub entries: Vec<Shown>,
}

/// A link without its entries: how it goes on from the one before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joint {
    /// Its first entry's number.
    pub first: i64,
    /// Its last one's.
    pub last: i64,
    /// Its entries' hashes, as they were written down.
    pub hashes: Hashes,
    /// Its hash.
    pub hash: HexHash,
}

/// Where a chain stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stand {
    /// The last entry's number; 0: none.
    pub seq: i64,
    /// The last link's hash.
    pub hash: HexHash,
}

/// Before the first entry.
pub const BEGINNING: Stand = Stand { seq: 0, hash: HexHash(GENESIS) };

/// What a server signs now and then.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which server's chain.
    pub iss: String,
    /// Where it stood.
    #[serde(flatten)]
    pub stand: Stand,
    /// When.
    pub at: Timestamp,
}

/// One line of an export.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// What it goes on from.
    From(Stand),
    /// The next link.
    Link(Link),
    /// A signed checkpoint: a compact JWS.
    Checkpoint(String),
    /// Entries that no link covers.
    Stray(Vec<i64>),
    /// What the log says of itself: where it ends.
    End(Stand),
}
