//! Keys that sign tasks are staged, activated, retired and revoked; each is written down with who did it.

use hostler_db::Result;
use hostler_model::{
    event::Actor,
    key::{self, Change, KeyEvent, KeyState, Kid, SigningKey},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Answer, NewSigningKey,
    key::{self as keys, KeyRow},
    work::Work,
};

/// A key that signs at once, where none does: in a new store, and after it went back in time.
pub(crate) fn put_active(work: &mut Work<'_>, new: &NewSigningKey) -> Result<()> {
    if keys::all(work.tx)?.iter().any(|row| row.key.state == KeyState::Active) {
        return Ok(());
    }
    keys::insert(work.tx, new, KeyState::Active, work.now)?;
    tell(work, &Actor::system(), "create", &new.kid, &[(new.kid.clone(), KeyState::Active)]);
    Ok(())
}

/// The store went back in time: none of its keys signs any more. What became of each.
pub(crate) fn set_aside(work: &mut Work<'_>) -> Result<Vec<Change>> {
    let changes = key::after_restore(&states(&keys::all(work.tx)?));
    for (kid, state) in &changes {
        keys::update(work.tx, kid, *state, work.now)?;
    }
    work.trust_changed();
    Ok(changes)
}

/// Another key, which agents learn before it signs.
pub(crate) fn stage(work: &mut Work<'_>, new: &NewSigningKey, actor: &Actor) -> Result<Answer<SigningKey>> {
    if let Err(refusal) = key::may_stage(&states(&keys::all(work.tx)?)) {
        return Ok(Err(refusal));
    }
    keys::insert(work.tx, new, KeyState::Staged, work.now)?;
    tell(work, actor, "stage", &new.kid, &[(new.kid.clone(), KeyState::Staged)]);
    one(work, &new.kid)
}

/// What an operator does to a key. `spare` signs from then on where none is left that does.
pub(crate) fn change(
    work: &mut Work<'_>,
    kid: &Kid,
    event: KeyEvent,
    spare: &NewSigningKey,
    actor: &Actor,
) -> Result<Answer<SigningKey>> {
    let changes = match key::after(&states(&keys::all(work.tx)?), kid, event, &spare.kid) {
        Ok(changes) => changes,
        Err(refusal) => return Ok(Err(refusal)),
    };
    for (kid, state) in &changes {
        if *kid == spare.kid {
            keys::insert(work.tx, spare, *state, work.now)?;
        } else {
            keys::update(work.tx, kid, *state, work.now)?;
        }
    }
    tell(work, actor, event.as_str(), kid, &changes);
    one(work, kid)
}

fn states(rows: &[KeyRow]) -> Vec<Change> {
    rows.iter().map(|row| (row.key.kid.clone(), row.key.state)).collect()
}

fn one(work: &Work<'_>, kid: &Kid) -> Result<Answer<SigningKey>> {
    let found = keys::all(work.tx)?.into_iter().map(|row| row.key).find(|key| key.kid == *kid);
    Ok(found.ok_or_else(|| key::not_found(kid)))
}

/// What is so already is a wish that is written down all the same.
fn tell(work: &mut Work<'_>, actor: &Actor, verb: &str, kid: &Kid, changes: &[Change]) {
    let data = json!({"kid": kid, "changes": told(changes)});
    work.audit(actor, None, "key", &format!("key.{verb}"), Uuid::nil(), data);
    work.trust_changed();
}

/// Changes as the log has them.
pub(crate) fn told(changes: &[Change]) -> Vec<Value> {
    changes.iter().map(|(kid, state)| json!({"kid": kid, "state": state})).collect()
}
