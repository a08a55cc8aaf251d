//! What of a link is not as it was written: first the numbers of its entries, then what each of them holds.
//!
//! ```text
//! the link goes on from its hashes?   the entries are those of its hashes?
//!   yes                                 no: these entries are not what was written (or were swapped)
//!   no, but from the entries            the hashes were changed
//!   no                                  no: entries and hashes · yes: both together, or a link
//! ```

use std::collections::BTreeSet;

use super::{Hash, Hashes, Link, Shown, Stand, digest, hash_of, link};
use crate::event::Entry;

/// Whether a link is not the next one.
pub(super) fn gap(before: Stand, first: i64, last: i64) -> Option<String> {
    let is_next = before.seq.checked_add(1) == Some(first) && last >= first;
    (!is_next).then(|| format!("a link is missing between the entries {} and {first}", before.seq))
}

/// Which numbers are missing, are not the link's, or stand elsewhere.
pub(super) fn numbers(link: &Link) -> Vec<String> {
    let (mut wrongs, mut there, mut foreign) = (Vec::new(), BTreeSet::new(), Vec::new());
    for seq in link.entries.iter().map(Shown::seq) {
        let highest = there.last().copied().unwrap_or(seq);
        if !(link.first..=link.last).contains(&seq) {
            foreign.push(seq);
        } else if !there.insert(seq) {
            wrongs.push(format!("the entry {seq} is there twice"));
        } else if seq < highest {
            wrongs.push(format!("the entry {seq} stands behind the entry {highest}"));
        }
    }
    wrongs.extend((!foreign.is_empty()).then(|| format!("no link covers {}", named(&foreign))));
    let mut next = link.first;
    for seq in there.into_iter().chain([link.last.saturating_add(1)]) {
        wrongs.extend((next < seq).then(|| match seq - 1 {
            last if last == next => format!("the entry {next} is missing"),
            last => format!("the entries {next} to {last} are missing"),
        }));
        next = seq.saturating_add(1);
    }
    wrongs
}

/// Entries that are not what was written, kept so that one is recognised that stands at another's number.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers(Vec<Stranger>);

#[derive(Clone, Debug)]
struct Stranger {
    entry: Entry,
    /// The hash of what was written at its number.
    written: Hash,
}

/// How many are kept: each is compared with all of them.
const KEPT: usize = 64;

impl Strangers {
    /// Which entries of a link are not what was written. `before`: what the link goes on from, where that is known.
    pub(super) fn of(&mut self, link: &Link, before: Option<Hash>, in_order: bool) -> Vec<String> {
        let fits = |digest: Hash| before.map(|before| self::link(&before, &digest) == link.hash.0);
        let entries_fit = || in_order && fits(digest(link.entries.iter().map(Shown::hash))) == Some(true);
        let whose = span(link.first, link.last);
        let Some(hashes) = &link.hashes else {
            let unproven = in_order && before.is_some() && !entries_fit();
            return unproven
                .then(|| format!("{whose}: not all of it is what was written, or what is before it is not"))
                .into_iter()
                .collect();
        };
        let differing = differing(link, hashes);
        if hashes.are_of(link.first, link.last) && fits(hashes.digest()) != Some(false) {
            return differing.into_iter().flat_map(|(entry, written)| self.one(entry, written)).collect();
        }
        let numbers: Vec<i64> = differing.iter().map(|(entry, _)| entry.seq()).collect();
        vec![if entries_fit() {
            format!("the hashes that are kept of {whose} were changed, what they are of is as it was written")
        } else if numbers.is_empty() {
            format!(
                "the link of {whose} does not go on from the one before it: one of the two was changed, or what is written \
                 there was with the hashes that are kept of it"
            )
        } else {
            format!(
                "of {whose} not all is what was written, and the hashes that are kept of it were changed too: by those it \
                 is {}",
                named(&numbers)
            )
        }]
    }

    /// What is wrong with an entry that is not what was written.
    fn one(&mut self, shown: &Shown, written: Option<Hash>) -> Vec<String> {
        let seq = shown.seq();
        let mut is = format!("the entry {seq} is not what was written");
        let (Shown::Whole(entry), Some(written)) = (shown, written) else { return vec![is] };
        let mut wrongs = Vec::new();
        for other in &self.0 {
            let there = other.entry.seq;
            match (hash_as(entry, there) == other.written, hash_as(&other.entry, seq) == written) {
                (true, true) => is = format!("the entries {there} and {seq} were swapped"),
                (true, false) => is = format!("the entry {seq} is what was written as {there}"),
                (false, true) => wrongs.push(format!("the entry {there} is what was written as {seq}")),
                (false, false) => {}
            }
        }
        if self.0.len() < KEPT {
            self.0.push(Stranger { entry: entry.clone(), written });
        }
        wrongs.insert(0, is);
        wrongs
    }
}

/// The entries of a link that are not those of its hashes, each with the hash that it should have.
fn differing<'a>(link: &'a Link, hashes: &Hashes) -> Vec<(&'a Shown, Option<Hash>)> {
    let within = link.entries.iter().filter(|entry| (link.first..=link.last).contains(&entry.seq()));
    let with_hash = within.map(|entry| (entry, hashes.get(link.first, entry.seq())));
    with_hash.filter(|(entry, written)| *written != Some(entry.hash())).collect()
}

/// An entry's hash if it stood at another number.
fn hash_as(entry: &Entry, seq: i64) -> Hash {
    hash_of(&Entry { seq, ..entry.clone() })
}

/// What a link covers.
pub(super) fn span(first: i64, last: i64) -> String {
    if first == last { format!("the entry {first}") } else { format!("the entries {first} to {last}") }
}

/// The first of some entries.
pub(super) fn named(entries: &[i64]) -> String {
    let first: Vec<String> = entries.iter().take(10).map(i64::to_string).collect();
    let more = if entries.len() > first.len() { ", …" } else { "" };
    format!("the {} {}{more}", if entries.len() == 1 { "entry" } else { "entries" }, first.join(", "))
}
