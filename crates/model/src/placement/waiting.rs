//! What waits for room: in the order of priority and then of submission each takes what will do. A smaller one may go ahead
//! of a larger one, but not for ever: who has waited for some time has a node kept for it, where nothing else new comes
//! until it has its room; those that have waited longest first, whatever their priority.

use std::time::Duration;

use super::{Candidate, Objection, Wanted, Weights, better, objections, score};

/// How long one waits before a node is kept for it: long enough that what ends soon makes room by itself.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How many nodes are kept at once: a tenth of the fleet, at least one.
pub fn most_kept(nodes: usize) -> usize {
    (nodes / 10).max(1)
}

/// The node to be kept for what waits: of those that would do if they were empty the one with the most left. The one that
/// is kept for it already stays so.
pub fn keep<'a>(candidates: &'a [Candidate], wanted: &Wanted<'_>, weights: &Weights) -> Option<&'a Candidate> {
    let could = |candidate: &&Candidate| {
        let others = objections(candidate, wanted).all(|objection| matches!(objection, Objection::Room(_)));
        let fits =
            wanted.amount.each().into_iter().zip(candidate.schedulable.each()).all(|((_, a), (_, all))| a <= all);
        wanted.means(candidate) && others && fits
    };
    let kept = |candidate: &Candidate| wanted.waiting.is_some() && candidate.set_aside == wanted.waiting;
    let able = candidates.iter().filter(could).map(|candidate| (candidate, score(candidate, wanted, weights)));
    let best = able.max_by(|(a, of_a), (b, of_b)| kept(a).cmp(&kept(b)).then(better(a, *of_a, b, *of_b)));
    best.map(|(candidate, _)| candidate)
}
