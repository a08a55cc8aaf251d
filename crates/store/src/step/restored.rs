//! The database went back in time: what was done since is not in it.

use hostler_db::Result;
use hostler_model::event::Actor;
use serde_json::json;
use uuid::Uuid;

use crate::{
    log,
    step::key,
    task::{self, outbox},
    token,
    work::Work,
};

/// Begins a new epoch, whose fences are above all of before; no node gets a task before it has said all that it has, and
/// nothing is deleted by itself. What was revoked since is not known, so no join token and no key that signs tasks of before is
/// good. Tasks that had not ended wait again, from now on and with attempts left: whether they were
/// done is for their nodes to say.
pub(crate) fn restored(work: &mut Work<'_>) -> Result<u32> {
    let epoch = log::raise_epoch(work.tx, work.now)?;
    task::begin_again(work.tx, work.now)?;
    token::use_up_joins(work.tx, work.now)?;
    outbox::anew(work.tx, epoch)?;
    let keys = key::set_aside(work)?;
    work.event(None, "store", "store.restored", Uuid::nil(), json!({"store_epoch": epoch}));
    let data = json!({"store_epoch": epoch, "keys": key::told(&keys)});
    work.audit(&Actor::system(), None, "store", "store.restored", Uuid::nil(), data);
    Ok(epoch)
}
