//! The look for what nobody was woken for: which nodes have something to fetch.

use hostler_db::Result;
use hostler_model::NodeId;

use super::submit;
use crate::{task, work::Work};

/// Nodes behind this one that have something to fetch, as many as this at most. Tasks whose time has come count.
pub(crate) fn nodes_with_work(work: &mut Work<'_>, behind: Option<NodeId>, limit: usize) -> Result<Vec<NodeId>> {
    submit::later::ripen(work)?;
    task::wanted::nodes(work.tx, behind, limit)
}
