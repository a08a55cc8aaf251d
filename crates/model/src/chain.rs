//! The chain: one link per batch of log entries, so that nothing can be edited, removed or reordered unseen.
//!
//! `hash(n) = sha256(hash(n-1) ‖ digest of the batch)`; the digest covers every entry of the batch with its number.

use sha2::{Digest, Sha256};

use crate::event::Entry;

/// A link's hash.
pub type Hash = [u8; 32];

/// The hash before the first link.
pub const GENESIS: Hash = [0; 32];

/// The digest of a batch: of the entries' JSON forms, each preceded by its length.
pub fn digest<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Hash {
    let mut hasher = Sha256::new();
    for entry in entries {
        let text = serde_json::to_vec(entry).expect("an entry is plain data");
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(&text);
    }
    hasher.finalize().into()
}

/// The next link.
pub fn link(previous: &Hash, batch: &Hash) -> Hash {
    Sha256::new().chain_update(previous).chain_update(batch).finalize().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::{clock::Timestamp, event::Class};

    fn entry(seq: i64, kind: &str) -> Entry {
        Entry {
            seq,
            at: Timestamp::from_micros(seq),
            class: Class::Event,
            tenant: None,
            kind: kind.into(),
            noun: "task".into(),
            subject: Uuid::nil(),
            data: json!({}),
        }
    }

    #[test]
    fn any_change_or_other_order_gives_another_digest() {
        let (a, b) = (entry(1, "a"), entry(2, "b"));
        let whole = digest([&a, &b]);
        assert_ne!(whole, digest([&b, &a]));
        assert_ne!(whole, digest([&a]));
        assert_ne!(whole, digest([&a, &entry(2, "c")]));
        assert_ne!(link(&GENESIS, &whole), link(&whole, &whole));
    }
}
