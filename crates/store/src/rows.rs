//! Rows that a step has read, changed or made, so that each is written at most once, at the end.

use std::collections::BTreeMap;

/// What happened to a row since it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Read,
    Changed,
    New,
}

/// Rows by their key.
pub(crate) struct Rows<K, T>(BTreeMap<K, (T, Mark)>);

impl<K: Ord, T> Default for Rows<K, T> {
    fn default() -> Self {
        Rows(BTreeMap::new())
    }
}

impl<K: Ord, T> Rows<K, T> {
    /// A row as it is now.
    pub(crate) fn get(&self, key: &K) -> Option<&T> {
        self.0.get(key).map(|(row, _)| row)
    }

    /// A row that is about to be changed.
    pub(crate) fn change(&mut self, key: &K) -> Option<&mut T> {
        self.0.get_mut(key).map(|(row, mark)| {
            if *mark == Mark::Read {
                *mark = Mark::Changed;
            }
            row
        })
    }

    /// A row that was read; what the step has of it already is newer and stays.
    pub(crate) fn read(&mut self, key: K, row: T) {
        self.0.entry(key).or_insert((row, Mark::Read));
    }

    /// A row that did not exist.
    pub(crate) fn insert(&mut self, key: K, row: T) {
        self.0.insert(key, (row, Mark::New));
    }

    /// Whether a row was read or made.
    pub(crate) fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Rows to be inserted.
    pub(crate) fn made(&self) -> impl Iterator<Item = &T> {
        self.marked(Mark::New)
    }

    /// Rows to be updated.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &T> {
        self.marked(Mark::Changed)
    }

    /// Whether any row is to be written.
    pub(crate) fn any_dirty(&self) -> bool {
        self.0.values().any(|(_, mark)| *mark != Mark::Read)
    }

    /// Rows to be written, to be finished first.
    pub(crate) fn dirty_mut(&mut self) -> impl Iterator<Item = (bool, &mut T)> {
        self.0.values_mut().filter(|(_, mark)| *mark != Mark::Read).map(|(row, mark)| (*mark == Mark::New, row))
    }

    /// Every row.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|(row, _)| row)
    }

    fn marked(&self, wanted: Mark) -> impl Iterator<Item = &T> {
        self.0.values().filter(move |(_, mark)| *mark == wanted).map(|(row, _)| row)
    }
}
