//! Whoever verifies a chain walks along it, link by link.

use std::collections::VecDeque;

use super::{
    HexHash, Joint, Link, Stand, link,
    wrong::{self, Strangers},
};

/// Walks along a chain, and names what is not as it was written.
#[derive(Clone, Debug)]
pub struct Walk {
    stand: Stand,
    links: usize,
    signed: Option<i64>,
    passed: VecDeque<Stand>,
    strangers: Strangers,
    wrongs: Vec<String>,
}

/// How many links a checkpoint may be behind the walk: a server signs the chain as it is, not as it was long ago.
const PASSED: usize = 1 << 16;

impl Walk {
    /// From here on.
    pub fn from(stand: Stand) -> Walk {
        Walk {
            stand,
            links: 0,
            signed: None,
            passed: [stand].into(),
            strangers: Strangers::default(),
            wrongs: Vec::new(),
        }
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
        let gap = wrong::gap(self.stand, link.first, link.last);
        // Behind a gap nothing tells what the link goes on from.
        let before = gap.is_none().then_some(self.stand.hash.0);
        let numbers = wrong::numbers(link);
        let in_order = numbers.is_empty();
        self.wrongs.extend(gap.into_iter().chain(numbers));
        self.wrongs.extend(self.strangers.of(link, before, in_order));
        self.pass(link.last, link.hash);
    }

    /// Passes a link without a look at its entries.
    pub fn joint(&mut self, joint: &Joint) {
        let before = self.stand;
        if let Some(wrong) = wrong::gap(before, joint.first, joint.last) {
            self.wrongs.push(wrong);
        } else if link(&before.hash.0, &joint.hashes.digest()) != joint.hash.0 {
            let whose = wrong::span(joint.first, joint.last);
            self.wrongs.push(format!("the link of {whose} does not go on from the one before it"));
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
        if !entries.is_empty() {
            self.wrongs.push(format!("no link covers {}", wrong::named(entries)));
        }
    }

    /// Compares with where the log says that it ends.
    pub fn end(&mut self, head: Stand) {
        if head != self.stand {
            self.wrongs.push(format!("the head is at {}, the chain ends at {}", head.seq, self.stand.seq));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::{
        super::{BEGINNING, GENESIS, Hashed, Hashes, Line, Shown, hash_of},
        *,
    };
    use crate::{
        clock::Timestamp,
        event::{Class, Entry},
    };

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
            let hashes = Hashes::of(&entries);
            hash = super::link(&hash, &hashes.digest());
            let shown = entries.iter().map(|e| if e.seq % 3 == 0 { Shown::hashed(e) } else { Shown::Whole(e.clone()) });
            links.push(Link {
                first: seq + 1,
                last: seq + length,
                hash: HexHash(hash),
                hashes: Some(hashes),
                entries: shown.collect(),
            });
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

    /// What is found after a change.
    fn wrong(change: impl FnOnce(&mut Vec<Link>)) -> String {
        let mut changed = chain(&[1, 3, 1, 5]);
        change(&mut changed);
        walked(&changed).wrongs().join("; ")
    }

    /// What stands at an entry's place instead of it.
    fn edited(seq: i64) -> Shown {
        Shown::Whole(Entry { kind: "b".into(), ..entry(seq) })
    }

    /// One whose text is another's.
    fn posing(seq: i64, other: i64) -> Shown {
        Shown::Whole(Entry { seq, ..entry(other) })
    }

    #[test]
    fn what_was_edited_removed_added_or_moved_is_named() {
        assert_eq!(wrong(|links| links[0].entries[0] = edited(1)), "the entry 1 is not what was written");
        assert_eq!(wrong(|links| links[1].entries[0] = edited(2)), "the entry 2 is not what was written");
        let hidden = Shown::Hashed(Hashed { seq: 3, sha256: HexHash(GENESIS) });
        assert_eq!(wrong(|links| links[1].entries[1] = hidden), "the entry 3 is not what was written");
        let two = wrong(|links| (links[3].entries[1], links[3].entries[4]) = (edited(7), edited(10)));
        assert_eq!(two, "the entry 7 is not what was written; the entry 10 is not what was written");
        assert_eq!(wrong(|links| drop(links[1].entries.remove(1))), "the entry 3 is missing");
        assert_eq!(wrong(|links| drop(links[3].entries.pop())), "the entry 10 is missing");
        assert_eq!(wrong(|links| links[3].entries.truncate(2)), "the entries 8 to 10 are missing");
        assert_eq!(wrong(|links| links[1].entries.swap(0, 1)), "the entry 2 stands behind the entry 3");
        assert_eq!(wrong(|links| links[2].entries.push(Shown::Whole(entry(99)))), "no link covers the entry 99");
        assert_eq!(wrong(|links| links[2].entries.push(Shown::Whole(entry(5)))), "the entry 5 is there twice");
        assert_eq!(wrong(|links| drop(links.remove(1))), "a link is missing between the entries 1 and 5");
        assert!(wrong(|links| links.swap(1, 2)).starts_with("a link is missing"));
        let both = wrong(|links| {
            links.remove(0);
            links[2].entries[1] = edited(7);
        });
        assert_eq!(both, "a link is missing between the entries 0 and 2; the entry 7 is not what was written");
    }

    #[test]
    fn entries_that_stand_at_each_others_numbers_are_named_together() {
        let within = wrong(|links| (links[3].entries[1], links[3].entries[4]) = (posing(7, 10), posing(10, 7)));
        assert_eq!(within, "the entry 7 is not what was written; the entries 7 and 10 were swapped");
        let across = wrong(|links| (links[0].entries[0], links[3].entries[1]) = (posing(1, 7), posing(7, 1)));
        assert_eq!(across, "the entry 1 is not what was written; the entries 1 and 7 were swapped");
        // One was removed, and those behind it moved up.
        let up = wrong(|links| {
            (links[3].entries[1], links[3].entries[2]) = (posing(7, 8), posing(8, 10));
            links[3].entries.truncate(3);
        });
        let told = "the entries 9 to 10 are missing; the entry 7 is not what was written; the entry 8 is not what was \
                    written; the entry 7 is what was written as 8";
        assert_eq!(up, told);
        let down = wrong(|links| (links[3].entries[1], links[3].entries[4]) = (edited(7), posing(10, 7)));
        assert_eq!(down, "the entry 7 is not what was written; the entry 10 is what was written as 7");
    }

    #[test]
    fn hashes_that_are_kept_of_entries_prove_nothing_by_themselves() {
        let kept = |link: &Link, changed: &[(i64, Entry)]| -> Option<Hashes> {
            let hash = |seq| changed.iter().find(|(of, _)| *of == seq).map_or(entry(seq), |(_, other)| other.clone());
            Some((link.first..=link.last).map(|seq| hash_of(&hash(seq))).collect())
        };
        let other = Entry { kind: "b".into(), ..entry(7) };
        let alone =
            "the hashes that are kept of the entries 6 to 10 were changed, what they are of is as it was written";
        assert_eq!(wrong(|links| links[3].hashes = kept(&links[3], &[(7, other.clone())])), alone);
        assert_eq!(wrong(|links| links[3].hashes = Some(Hashes::default())), alone);
        let together = wrong(|links| {
            links[3].hashes = kept(&links[3], &[(7, other.clone())]);
            links[3].entries[1] = Shown::Whole(other.clone());
        });
        assert!(
            together.starts_with("the link of the entries 6 to 10 does not go on from the one before"),
            "{together}"
        );
        let apart = wrong(|links| {
            links[3].hashes = kept(&links[3], &[(8, other.clone())]);
            links[3].entries[1] = Shown::Whole(other.clone());
        });
        assert!(apart.starts_with("of the entries 6 to 10 not all") && apart.ends_with("the entries 7, 8"), "{apart}");
        // And where a link was made anew for both, the next one does not go on from it.
        let anew = wrong(|links| {
            let hashes = Hashes::of([&Entry { seq: 5, ..entry(99) }]);
            links[2].entries[0] = posing(5, 99);
            links[2].hash = HexHash(super::link(&links[1].hash.0, &hashes.digest()));
            links[2].hashes = Some(hashes);
        });
        assert!(anew.starts_with("the link of the entries 6 to 10 does not go on from the one before"), "{anew}");
    }

    #[test]
    fn an_export_without_hashes_of_entries_verifies_as_well_and_names_less() {
        let old = |change: &dyn Fn(&mut Vec<Link>)| {
            wrong(|links| {
                links.iter_mut().for_each(|link| link.hashes = None);
                change(links);
            })
        };
        assert_eq!(old(&|_| {}), "");
        let told = "the entries 2 to 4: not all of it is what was written, or what is before it is not";
        assert_eq!(old(&|links| links[1].entries[0] = edited(2)), told);
        let text = serde_json::to_value(Line::Link(Link { hashes: None, ..chain(&[3]).remove(0) })).unwrap();
        assert!(text["link"].get("hashes").is_none() && serde_json::from_value::<Line>(text).is_ok());
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
            let joint = |link: &Link| Joint {
                first: link.first,
                last: link.last,
                hashes: link.hashes.clone().unwrap(),
                hash: link.hash,
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
