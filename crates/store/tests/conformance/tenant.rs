//! Tenants: made once under a key, changed under their generation, deleted once they have nothing.

use hostler_model::{
    Code, TenantId,
    event::{Actor, Class},
    patch::Patch,
    tenant::{Limits, LimitsPatch, TenantPatch, UNLIMITED},
};
use hostler_store::{Cancel, EditTenant, Idempotency, LogFilter, NewTenantRow, Submission, TaskFilter, WrappedKey};
use serde_json::json;

use crate::{
    image::manifest,
    world::{TENANT, World, one_vm},
};

fn other(world: &World, name: &str) -> NewTenantRow {
    NewTenantRow::of_system(world.id(), name.parse().unwrap(), UNLIMITED)
}

fn named(tenant: TenantId, name: &str) -> EditTenant {
    let name = Some(name.parse().unwrap());
    EditTenant::of_system(tenant, TenantPatch { name, limits: LimitsPatch::default() })
}

pub async fn a_tenant_is_made_once_under_a_key(world: &mut World) {
    let sent =
        |body: &str| Idempotency { key: "k".into(), route: "POST /tenants".into(), body: body.into(), part: None };
    let new = |body| NewTenantRow { idempotency: Some(sent(body)), ..other(world, "acme") };
    let first = world.store.create_tenant(new("a")).await.unwrap().unwrap();
    let again = world.store.create_tenant(new("a")).await.unwrap().unwrap();
    assert_eq!((first.replayed, again.replayed, &first.tenant), (false, true, &again.tenant));
    let another = world.store.create_tenant(new("b")).await.unwrap().unwrap_err();
    assert_eq!((another.code, &another.facts["tenant"]), (Code::IdempotencyMismatch, &json!(first.tenant.id)));
    let taken = world.store.create_tenant(other(world, "acme")).await.unwrap().unwrap_err();
    assert_eq!(taken.code, Code::NameTaken);
    let log = LogFilter { subject: Some(first.tenant.id.0), ..LogFilter::default() };
    let entries = world.store.log(log, 0, 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    let kinds = [Class::Event, Class::Audit].map(|class| entries[0].clone().seen_as(class).kind);
    assert_eq!(kinds, ["tenant.created", "tenant.create"]);
}

pub async fn a_dry_run_makes_and_changes_nothing(world: &mut World) {
    let dry = NewTenantRow { dry_run: true, ..other(world, "acme") };
    let head = world.head().await;
    assert_eq!(world.store.create_tenant(dry).await.unwrap().unwrap().tenant.name.as_str(), "acme");
    let would = EditTenant { dry_run: true, ..named(TENANT, "renamed") };
    assert_eq!(world.store.edit_tenant(would).await.unwrap().unwrap().name.as_str(), "renamed");
    let names: Vec<String> =
        world.store.tenants(None, 10).await.unwrap().iter().map(|tenant| tenant.name.to_string()).collect();
    assert_eq!((names, world.head().await), (vec!["default".to_owned()], head));
}

pub async fn a_tenant_is_changed_under_its_generation(world: &mut World) {
    let id = world.tenant("acme").await;
    let tight = EditTenant {
        patch: TenantPatch { name: None, limits: LimitsPatch { vms: Patch::Set(3), ..LimitsPatch::default() } },
        if_match: Some(vec![1]),
        ..named(id, "acme")
    };
    let after = world.store.edit_tenant(tight.clone()).await.unwrap().unwrap();
    assert_eq!((after.limits, after.generation), (Limits { vms: 3, ..UNLIMITED }, 2));
    assert_eq!(world.store.tenant(id).await.unwrap().unwrap(), after);
    assert_eq!(world.store.edit_tenant(tight).await.unwrap().unwrap_err().code, Code::PreconditionFailed);
    let taken = world.store.edit_tenant(named(id, "default")).await.unwrap().unwrap_err();
    assert_eq!((taken.code, &taken.facts["tenant"]), (Code::NameTaken, &json!(TENANT)));
    assert_eq!(world.store.edit_tenant(named(world.id(), "x")).await.unwrap().unwrap_err().code, Code::NotFound);
}

pub async fn tenants_are_listed_newest_first(world: &mut World) {
    let (first, second) = (world.tenant("first").await, world.tenant("second").await);
    let page = async |before, limit| {
        let tenants = world.store.tenants(before, limit).await.unwrap();
        tenants.iter().map(|tenant| tenant.id).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 10).await, [second, first, TENANT]);
    assert_eq!(page(None, 1).await, [second]);
    assert_eq!(page(Some(second), 10).await, [first, TENANT]);
}

pub async fn a_tenant_is_deleted_once_it_has_nothing(world: &mut World) {
    world.node("a").await;
    let id = world.tenant("acme").await;
    let image = world.store.put_image(id, manifest("quiet"), Vec::new(), Actor::system()).await.unwrap().unwrap();
    let mut create = Submission { tenant: id, ..world.create("web") };
    let machine = create.vm.as_mut().unwrap();
    machine.spec.image_digest = image.digest.clone();
    let vm = machine.id;
    world.ok(create).await;
    let gone = EditTenant::of_system(id, TenantPatch::default());
    let refused = world.store.delete_tenant(gone.clone()).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::TenantInUse);
    assert_eq!(refused.facts["remains"], json!({"vms": 1, "images": 1, "open_tasks": 1, "allocations": 1}));
    assert_eq!(world.store.tenant(id).await.unwrap().unwrap().book.held.room(), one_vm());

    // Cancelled before anybody had it: nothing is left of it.
    let tasks = world.store.tasks(TaskFilter { vm: Some(vm), ..TaskFilter::default() }, None, 10).await.unwrap();
    for task in tasks {
        let wish = Cancel { tenant: id, ..world.wish(task.id) };
        world.store.cancel(vec![wish]).await.unwrap().pop().unwrap().unwrap();
    }
    world.store.remove_image(id, image.digest.0, Actor::system()).await.unwrap().unwrap();
    let dry = EditTenant { dry_run: true, ..gone.clone() };
    assert!(world.store.delete_tenant(dry).await.unwrap().is_ok());
    let key = WrappedKey { owner: id.to_string(), master: "m".into(), wrapped: "w".into() };
    world.store.put_data_key(key).await.unwrap();
    assert_eq!(world.store.delete_tenant(gone.clone()).await.unwrap().unwrap().id, id);
    assert_eq!(world.store.data_key(id.to_string()).await.unwrap(), None, "what was sealed for it opens never again");
    assert_eq!(world.store.tenant(id).await.unwrap(), None);
    assert_eq!(world.store.delete_tenant(gone).await.unwrap().unwrap_err().code, Code::NotFound);
    let late = Submission { tenant: id, ..world.echo() };
    assert_eq!(world.submit(late).await.unwrap_err().code, Code::NotFound);
}

pub async fn the_default_tenant_stays(world: &mut World) {
    let gone = EditTenant::of_system(TENANT, TenantPatch::default());
    assert_eq!(world.store.delete_tenant(gone).await.unwrap().unwrap_err().code, Code::TenantInUse);
}
