//! The chain: one link per batch of log entries, so that nothing can be edited, removed or reordered unseen.
//!
//! `hash(n) = sha256(hash(n-1) ‖ digest of the batch)`; the digest is of the hashes of the batch's entries, in their order, so
//! that whoever may not read an entry can verify those around it.
//!
//! A chain by itself can be written anew from any place on by whoever may write to the database. Checkpoints are what that
//! person cannot write: now and then a server signs where the chain stands. It does so only where the chain goes on from what
//! it signed before, which it sees by the digests alone (a [`Joint`] for each link): whether the entries are those of a digest
//! is seen by whoever verifies.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

impl Serialize for HexHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HexHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut out = Hash::default();
        hex::decode_to_slice(&text, &mut out).map_err(|_| serde::de::Error::custom("a hash is 64 hex digits"))?;
        Ok(HexHash(out))
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

    fn seq(&self) -> i64 {
        match self {
            Shown::Hashed(entry) => entry.seq,
            Shown::Whole(entry) => entry.seq,
        }
    }

    fn hash(&self) -> Hash {
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
    /// Its entries.
    pub entries: Vec<Shown>,
}

/// A link without its entries: how it goes on from the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joint {
    /// Its first entry's number.
    pub first: i64,
    /// Its last one's.
    pub last: i64,
    /// The digest of its entries, as it was written down.
    pub digest: HexHash,
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

/// Walks along a chain, and names what is not as it was written.
#[derive(Clone, Debug)]
pub struct Walk {
    stand: Stand,
    links: usize,
    signed: Option<i64>,
    passed: std::collections::VecDeque<Stand>,
    wrongs: Vec<String>,
}

/// How many links a checkpoint may be behind the walk: a server signs the chain as it is, not as it was long ago.
const PASSED: usize = 1 << 16;

impl Walk {
    /// From here on.
    pub fn from(stand: Stand) -> Walk {
        Walk { stand, links: 0, signed: None, passed: [stand].into(), wrongs: Vec::new() }
    }

    /// Where it has come.
    pub fn stand(&self) -> Stand {
        self.stand
    }

    /// How many links it has passed.
    pub fn links(&self) -> usize {
        self.links
    }

    /// Up to which entry a checkpoint vouches for what was passed.
    pub fn signed(&self) -> Option<i64> {
        self.signed
    }

    /// What was found.
    pub fn wrongs(&self) -> &[String] {
        &self.wrongs
    }

    /// Passes a link. What is wrong with it is named, and the walk goes on from what it says of itself.
    pub fn link(&mut self, link: &Link) {
        let before = self.stand;
        if let Some(wrong) = gap(before, link.first, link.last) {
            self.wrongs.push(wrong);
        } else if let Some(wrong) = order(link) {
            self.wrongs.push(wrong);
        } else if self::link(&before.hash.0, &digest(link.entries.iter().map(Shown::hash))) != link.hash.0 {
            self.wrongs.push(match link.first == link.last {
                true => format!("the entry {} is not what was written, or what is before it", link.first),
                false => format!("among the entries {} to {} one is not what was written", link.first, link.last),
            });
        }
        self.pass(link.last, link.hash);
    }

    /// Passes a link without a look at its entries.
    pub fn joint(&mut self, joint: &Joint) {
        let before = self.stand;
        if let Some(wrong) = gap(before, joint.first, joint.last) {
            self.wrongs.push(wrong);
        } else if link(&before.hash.0, &joint.digest.0) != joint.hash.0 {
            let Joint { first, last, .. } = joint;
            self.wrongs
                .push(format!("the link of the entries {first} to {last} does not go on from the one before it"));
        }
        self.pass(joint.last, joint.hash);
    }

    fn pass(&mut self, last: i64, hash: HexHash) {
        self.stand = Stand { seq: last.max(self.stand.seq), hash };
        self.links += 1;
        self.passed.push_back(self.stand);
        if self.passed.len() > PASSED {
            self.passed.pop_front();
        }
    }

    /// Compares with a checkpoint whose signature was verified.
    pub fn checkpoint(&mut self, signed: Stand) {
        match self.passed.iter().find(|stand| stand.seq == signed.seq) {
            Some(stand) if *stand == signed && self.wrongs.is_empty() => {
                self.signed = Some(self.signed.unwrap_or(0).max(signed.seq));
            }
            Some(stand) if *stand == signed => {}
            Some(_) => self.wrongs.push(format!(
                "the chain up to the entry {} is not the one that was signed: it was written anew",
                signed.seq
            )),
            None if signed.seq > self.stand.seq => {
                self.wrongs
                    .push(format!("a checkpoint was signed at the entry {}, and the chain ends before it", signed.seq));
            }
            None => {
                self.wrongs.push(format!("a checkpoint was signed at the entry {}, where no link ends", signed.seq))
            }
        }
    }

    /// Something else is wrong.
    pub fn wrong(&mut self, what: impl Into<String>) {
        self.wrongs.push(what.into());
    }

    /// Entries that no link covers.
    pub fn stray(&mut self, entries: &[i64]) {
        let named: Vec<String> = entries.iter().take(10).map(i64::to_string).collect();
        if !named.is_empty() {
            self.wrongs.push(format!("no link covers the entries {}", named.join(", ")));
        }
    }

    /// Compares with where the log says that it ends.
    pub fn end(&mut self, head: Stand) {
        if head != self.stand {
            self.wrongs.push(format!("the head is at {}, the chain ends at {}", head.seq, self.stand.seq));
        }
    }
}

/// Whether a link is not the next one.
fn gap(before: Stand, first: i64, last: i64) -> Option<String> {
    let is_next = first == before.seq + 1 && last >= first;
    (!is_next).then(|| format!("a link is missing between the entries {} and {first}", before.seq))
}

/// The first entry of a link that is not where it belongs.
fn order(link: &Link) -> Option<String> {
    let mut expected = link.first..=link.last;
    for entry in &link.entries {
        match expected.next() {
            Some(seq) if seq == entry.seq() => {}
            Some(seq) if link.entries.iter().any(|other| other.seq() == seq) => {
                return Some(format!("the entry {} stands where {seq} belongs", entry.seq()));
            }
            Some(seq) => return Some(format!("the entry {seq} is missing")),
            None => return Some(format!("the entry {} was added", entry.seq())),
        }
    }
    expected.next().map(|seq| format!("the entry {seq} is missing"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::event::Class;

    fn entry(seq: i64) -> Entry {
        Entry {
            seq,
            at: Timestamp::from_micros(seq),
            class: Class::Audit,
            tenant: None,
            kind: "a".into(),
            noun: "task".into(),
            subject: Uuid::nil(),
            data: json!({"n": seq}),
        }
    }

    /// A chain of links with so many entries each.
    fn chain(lengths: &[i64]) -> Vec<Link> {
        let (mut seq, mut hash) = (0, GENESIS);
        let mut links = Vec::new();
        for length in lengths {
            let entries: Vec<Entry> = (seq + 1..=seq + length).map(entry).collect();
            hash = super::link(&hash, &digest(entries.iter().map(hash_of)));
            let shown = entries.iter().map(|e| if e.seq % 3 == 0 { Shown::hashed(e) } else { Shown::Whole(e.clone()) });
            links.push(Link { first: seq + 1, last: seq + length, hash: HexHash(hash), entries: shown.collect() });
            seq += length;
        }
        links
    }

    fn walked(links: &[Link]) -> Walk {
        let mut walk = Walk::from(BEGINNING);
        links.iter().for_each(|link| walk.link(link));
        walk
    }

    #[test]
    fn a_chain_is_as_it_was_written_also_for_who_sees_a_part_of_it() {
        let links = chain(&[1, 3, 1, 5]);
        let mut walk = walked(&links);
        assert_eq!((walk.wrongs(), walk.links(), walk.stand().seq), (&[][..], 4, 10));
        let stand = walk.stand();
        walk.checkpoint(Stand { seq: 4, hash: links[1].hash });
        assert_eq!(walk.signed(), Some(4));
        walk.checkpoint(stand);
        walk.end(stand);
        assert_eq!((walk.wrongs(), walk.signed()), (&[][..], Some(10)));
    }

    #[test]
    fn what_was_edited_removed_added_or_moved_is_named() {
        let links = chain(&[1, 3, 1, 5]);
        let wrong = |change: &dyn Fn(&mut Vec<Link>)| {
            let mut changed = links.clone();
            change(&mut changed);
            walked(&changed).wrongs().join("; ")
        };
        let edit = wrong(&|links| links[0].entries[0] = Shown::Whole(Entry { kind: "b".into(), ..entry(1) }));
        assert_eq!(edit, "the entry 1 is not what was written, or what is before it");
        let edit = wrong(&|links| links[1].entries[0] = Shown::Whole(Entry { data: json!({}), ..entry(2) }));
        assert_eq!(edit, "among the entries 2 to 4 one is not what was written");
        assert_eq!(wrong(&|links| drop(links[1].entries.remove(1))), "the entry 3 is missing");
        assert_eq!(wrong(&|links| drop(links[3].entries.pop())), "the entry 10 is missing");
        assert_eq!(wrong(&|links| links[1].entries.swap(0, 1)), "the entry 3 stands where 2 belongs");
        assert_eq!(wrong(&|links| links[2].entries.push(Shown::Whole(entry(99)))), "the entry 99 was added");
        assert!(wrong(&|links| drop(links.remove(1))).starts_with("a link is missing between the entries 1 and 5"));
        assert!(wrong(&|links| links.swap(1, 2)).starts_with("a link is missing"));
    }

    #[test]
    fn a_chain_that_was_written_anew_is_not_the_one_that_was_signed() {
        let links = chain(&[1, 3, 1]);
        let signed = Stand { seq: 4, hash: links[1].hash };
        let mut forged = walked(&chain(&[1, 1, 2, 1]));
        assert_eq!(forged.wrongs(), [""; 0], "by itself it looks whole");
        forged.checkpoint(signed);
        assert!(forged.wrongs()[0].contains("written anew"), "{:?}", forged.wrongs());
        let mut short = walked(&links[..1]);
        short.checkpoint(signed);
        assert!(short.wrongs()[0].contains("the chain ends before it"), "{:?}", short.wrongs());
        assert_eq!(short.signed(), None);
    }

    #[test]
    fn joints_tell_a_chain_that_goes_on_from_one_that_does_not() {
        let joints = |links: &[Link]| -> Vec<Joint> {
            let joint = |Link { first, last, hash, entries }: &Link| Joint {
                first: *first,
                last: *last,
                digest: HexHash(digest(entries.iter().map(Shown::hash))),
                hash: *hash,
            };
            links.iter().map(joint).collect()
        };
        let found = |joints: &[Joint]| {
            let mut walk = Walk::from(BEGINNING);
            joints.iter().for_each(|joint| walk.joint(joint));
            (walk.stand(), walk.wrongs().join("; "))
        };
        let (links, other) = (chain(&[1, 3, 1]), chain(&[1, 1, 2, 1]));
        let true_ones = joints(&links);
        assert_eq!(found(&true_ones), (walked(&links).stand(), String::new()));
        assert!(found(&true_ones[1..]).1.contains("a link is missing"));
        // One hash is put back among what was written anew, so that it is found where it was signed.
        let mut forged = joints(&other);
        forged[2].hash = true_ones[1].hash;
        assert!(found(&forged).1.contains("does not go on"), "{:?}", found(&forged));
    }

    #[test]
    fn an_export_survives_its_text_and_what_is_hashed_cannot_pass_for_an_entry() {
        let link = Line::Link(chain(&[3]).remove(0));
        assert_eq!(serde_json::from_str::<Line>(&serde_json::to_string(&link).unwrap()).unwrap(), link);
        let mut both = serde_json::to_value(entry(1)).unwrap();
        both["sha256"] = json!("00".repeat(32));
        assert!(matches!(serde_json::from_value::<Shown>(both).unwrap(), Shown::Whole(_)));
    }
}
