//! Tenants: made, changed, deleted once they have nothing. What makes something for a tenant looks for it in its own step,
//! so that whichever of that and the deletion comes second sees the other.

use hostler_db::Result;
use hostler_model::{
    Code, Refusal, TenantId,
    event::Actor,
    name::Name,
    tenant::{Limits, Tenant, TenantPatch, check_deletable},
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    Answer, EditTenant, MadeTenant, NewTenantRow,
    idempotency::{self, FirstAnswer, Key},
    key, tenant,
    work::{Did, Work},
};

/// Whose the keys of work on tenants are: the platform's, and so no tenant's.
const NOBODY: TenantId = TenantId(Uuid::nil());

/// Makes a tenant.
pub(crate) fn create(work: &mut Work<'_>, new: &NewTenantRow) -> Result<Answer<MadeTenant>> {
    let sent = new.idempotency.as_ref().filter(|_| !new.dry_run);
    let key = sent.map(|sent| Key::new(NOBODY, &new.actor, sent));
    let first = key.as_ref().map(|key| idempotency::by_key::<Tenant>(work.tx, key)).transpose()?.flatten();
    if let (Some(first), Some(sent)) = (first, sent) {
        return Ok(first.again(sent).map(|tenant| MadeTenant { tenant, replayed: true }));
    }
    if let Err(refusal) = new.limits.check().and(free(work, &new.name, new.id)?) {
        return Ok(Err(refusal));
    }
    let made = Tenant::new(new.id, new.name.clone(), new.limits, work.now);
    if !new.dry_run {
        tenant::insert(work.tx, &made)?;
        tell(work, &new.actor, &made, Did { kind: "tenant.created", by: "tenant.create" });
        if let (Some(key), Some(sent)) = (key, sent) {
            let first = FirstAnswer { key, body: sent.body.clone(), answer: made.clone() };
            idempotency::insert(work.tx, &[first], work.now)?;
        }
    }
    Ok(Ok(MadeTenant { tenant: made, replayed: false }))
}

/// Changes a tenant's name and limits. Limits below what it has take nothing away.
pub(crate) fn edit(work: &mut Work<'_>, edit: &EditTenant) -> Result<Answer<Tenant>> {
    let Some(before) = work.tenant(edit.tenant)? else { return Ok(Err(no_tenant(edit.tenant))) };
    let after = match before.check_generation(edit.if_match.as_deref()) {
        Ok(()) => edit.patch.apply(&before, &edit.usual, work.now),
        Err(refusal) => Err(refusal),
    };
    let after = match after {
        Ok(after) => after,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Err(refusal) = free(work, &after.name, after.id)? {
        return Ok(Err(refusal));
    }
    if !edit.dry_run && after != before {
        tenant::update(work.tx, &after)?;
        tell(work, &edit.actor, &after, Did { kind: "tenant.edited", by: "tenant.edit" });
    }
    Ok(Ok(after))
}

/// Deletes a tenant that has nothing.
pub(crate) fn delete(work: &mut Work<'_>, edit: &EditTenant) -> Result<Answer<Tenant>> {
    let Some(before) = work.tenant(edit.tenant)? else { return Ok(Err(no_tenant(edit.tenant))) };
    let remains = tenant::remains(work.tx, before.id, work.now)?;
    let may = before.check_generation(edit.if_match.as_deref()).and(check_deletable(&before, &remains));
    if may.is_ok() && !edit.dry_run {
        tenant::delete(work.tx, before.id)?;
        key::drop_data_key(work.tx, &before.id.to_string())?;
        tell(work, &edit.actor, &before, Did { kind: "tenant.deleted", by: "tenant.delete" });
    }
    Ok(may.map(|()| before))
}

fn tell(work: &mut Work<'_>, actor: &Actor, tenant: &Tenant, did: Did) {
    let data = json!({"name": tenant.name, "limits": tenant.limits, "generation": tenant.generation});
    work.act(actor, Some(tenant.id), "tenant", did, tenant.id.0, &data);
}

/// Refuses a name that another tenant has.
fn free(work: &Work<'_>, name: &Name, id: TenantId) -> Result<Answer<()>> {
    let other = tenant::named(work.tx, name)?.filter(|other| *other != id);
    Ok(other.map_or(Ok(()), |other| {
        let detail = format!("a tenant named {name} exists; choose another name");
        Err(Refusal::new(Code::NameTaken, detail).with("name", name.as_str()).with("tenant", other.to_string()))
    }))
}

/// A tenant that is not there, or no longer.
pub(crate) fn no_tenant(id: TenantId) -> Refusal {
    let detail = "there is no such tenant, or it was deleted meanwhile; `hostler tenant list` shows those there are";
    Refusal::new(Code::NotFound, detail).with("tenant", id.to_string())
}

impl NewTenantRow {
    /// One that the system makes.
    pub fn of_system(id: TenantId, name: Name, limits: Limits) -> NewTenantRow {
        NewTenantRow { id, name, limits, idempotency: None, dry_run: false, actor: Actor::system() }
    }
}

impl EditTenant {
    /// A change by the system.
    pub fn of_system(tenant: TenantId, patch: TenantPatch) -> EditTenant {
        let actor = Actor::system();
        EditTenant { tenant, patch, usual: Limits::default(), if_match: None, dry_run: false, actor }
    }
}
