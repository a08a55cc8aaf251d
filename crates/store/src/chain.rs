//! The log's chain, read to be verified by somebody: links with their entries, what was signed, where it ends.

use hostler_db::{Result, Tx};
use hostler_model::{
    TenantId,
    chain::{BEGINNING, HexHash, Joint, Line, Link, Shown, Stand},
    event::{Class, Entry},
};

use crate::log;

/// Whose entries are shown; of all others only the hash is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eyes {
    /// Audit entries of a tenant, or of everybody.
    Audit(Option<TenantId>),
    /// Everything: what verifies here shows nobody anything.
    Doctor,
}

impl Eyes {
    fn see(self, (seq, entry): (i64, Option<Entry>)) -> Shown {
        let Some(entry) = entry else { return Shown::unreadable(seq) };
        let seen = match self {
            Eyes::Doctor => true,
            Eyes::Audit(_) if entry.class == Class::Event => false,
            Eyes::Audit(None) => true,
            Eyes::Audit(Some(tenant)) => entry.tenant == Some(tenant),
        };
        if seen { Shown::Whole(entry) } else { Shown::hashed(&entry) }
    }
}

/// So many links behind `after`, which is where one ends, with what was signed there; at the chain's end what the log says of
/// itself follows.
pub(crate) fn lines(tx: &Tx<'_>, eyes: Eyes, after: i64, links: usize) -> Result<Vec<Line>> {
    let mut lines = vec![Line::From(stand(tx, after)?)];
    let found = log::links(tx, after, links)?;
    let mut last = after;
    let mut entries = Entries { tx, read: Default::default(), last: after };
    let end = found.len() < links;
    for Joint { first, last: ends, hashes, hash } in found {
        let shown = entries.up_to(ends)?.into_iter().map(|entry| eyes.see(entry)).collect();
        lines.push(Line::Link(Link { first, last: ends, hash, hashes: Some(hashes), entries: shown }));
        last = last.max(ends);
    }
    let up_to = if end { i64::MAX } else { last };
    lines.extend(log::checkpoints(tx, after, up_to)?.into_iter().map(Line::Checkpoint));
    if end {
        let stray = entries.rest()?;
        lines.extend((!stray.is_empty()).then_some(Line::Stray(stray)));
        lines.push(Line::End(end_of(tx)?));
    }
    Ok(lines)
}

/// A piece of the chain without its entries, and what was signed there.
#[derive(Clone, Debug)]
pub struct Piece {
    /// What it goes on from.
    pub from: Stand,
    /// Its links.
    pub joints: Vec<Joint>,
    /// What was signed there: compact JWS.
    pub checkpoints: Vec<String>,
    /// Where the log says that it ends, when this is the last piece.
    pub end: Option<Stand>,
}

/// So many links behind `after`, which is where one ends.
pub(crate) fn piece(tx: &Tx<'_>, after: i64, links: usize) -> Result<Piece> {
    let (from, joints) = (stand(tx, after)?, log::links(tx, after, links)?);
    let is_last = joints.len() < links;
    let up_to = joints.last().filter(|_| !is_last).map_or(i64::MAX, |joint| joint.last);
    let checkpoints = log::checkpoints(tx, after, up_to)?;
    Ok(Piece { from, joints, checkpoints, end: is_last.then(|| end_of(tx)).transpose()? })
}

/// Where the log says that it ends.
fn end_of(tx: &Tx<'_>) -> Result<Stand> {
    let head = log::head(tx)?;
    Ok(Stand { seq: head.seq, hash: HexHash(head.hash) })
}

/// Where the chain stands behind an entry.
fn stand(tx: &Tx<'_>, after: i64) -> Result<Stand> {
    let link = log::links(tx, after - 1, 1)?.pop().filter(|link| after > 0 && link.last == after);
    Ok(link.map_or(BEGINNING, |link| Stand { seq: after, hash: link.hash }))
}

/// The log's entries, read piece by piece.
struct Entries<'a> {
    tx: &'a Tx<'a>,
    read: std::collections::VecDeque<(i64, Option<Entry>)>,
    last: i64,
}

/// Entries that are read at once.
const PIECE: usize = 2000;

impl Entries<'_> {
    fn fill(&mut self) -> Result<bool> {
        let piece = log::numbered(self.tx, self.last, PIECE)?;
        self.last = piece.last().map_or(self.last, |(seq, _)| *seq);
        let more = !piece.is_empty();
        self.read.extend(piece);
        Ok(more)
    }

    /// Those up to this number that were not taken before.
    fn up_to(&mut self, last: i64) -> Result<Vec<(i64, Option<Entry>)>> {
        let mut out = Vec::new();
        loop {
            match self.read.front() {
                Some((seq, _)) if *seq > last => return Ok(out),
                Some(_) => out.extend(self.read.pop_front()),
                None if self.last < last => {
                    if !self.fill()? {
                        return Ok(out);
                    }
                }
                None => return Ok(out),
            }
        }
    }

    /// The numbers of some of those that are left.
    fn rest(&mut self) -> Result<Vec<i64>> {
        if self.read.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.read).into_iter().map(|(seq, _)| seq).collect())
    }
}
