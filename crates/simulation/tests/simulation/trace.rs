//! What happened, line by line, as one digest: two runs of one seed have the same. And what went wrong.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Whether lines are also said as they come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    Loud,
    Quiet,
}

/// The record of one simulation. Clones share it.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Record>>);

struct Record {
    began: Instant,
    voice: Voice,
    digest: Sha256,
    lines: u64,
    wrongs: Vec<String>,
    counts: Counts,
}

/// How often what happened.
pub type Counts = BTreeMap<String, u64>;

impl Trace {
    pub fn new(began: Instant, voice: Voice) -> Trace {
        Trace(Arc::new(Mutex::new(Record {
            began,
            voice,
            digest: Sha256::new(),
            lines: 0,
            wrongs: Vec::new(),
            counts: Counts::new(),
        })))
    }

    /// Something happened.
    pub fn note(&self, what: impl Display) {
        self.record().add(&what.to_string());
    }

    /// Something of this kind happened.
    pub fn count(&self, kind: &str) {
        *self.record().counts.entry(kind.to_owned()).or_default() += 1;
    }

    pub fn counts(&self) -> Counts {
        self.record().counts.clone()
    }

    /// A promise was broken.
    pub fn wrong(&self, what: impl Display) {
        let what = what.to_string();
        let mut record = self.record();
        record.add(&format!("WRONG {what}"));
        if !record.wrongs.contains(&what) {
            record.wrongs.push(what);
        }
    }

    /// Notes an error as something that must not be.
    pub fn unless<T, E: Display>(&self, doing: &str, result: Result<T, E>) -> Option<T> {
        result.inspect_err(|error| self.wrong(format!("{doing}: {error}"))).ok()
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.record().wrongs.clone()
    }

    pub fn is_well(&self) -> bool {
        self.record().wrongs.is_empty()
    }

    /// The digest of all lines, and how many there are.
    pub fn digest(&self) -> (String, u64) {
        let record = self.record();
        (hex::encode(record.digest.clone().finalize()), record.lines)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn add(&mut self, what: &str) {
        let line = format!("{:>10.3} {what}", self.began.elapsed().as_secs_f64());
        self.digest.update(line.as_bytes());
        self.digest.update(b"\n");
        self.lines += 1;
        if self.voice == Voice::Loud {
            eprintln!("{line}");
        }
    }
}
