//! Images, their names, and imports.

use std::collections::BTreeMap;

use hostler_model::{
    Code,
    event::Actor,
    id::ImportId,
    image::{Image, ImageDefaults, ImageFile, Manifest, Part, Sha256Hex},
    import::{Import, ImportPhase, ImportProgress, ImportState},
    kind::KindName,
    ready::Readiness,
    task::{Target, TaskError},
    tenant::{Limits, UNLIMITED},
};
use hostler_store::{Answer, EditTenant, Idempotency, NewImportRow, Origin, Submission};
use serde_json::json;

use crate::world::{self, TENANT, World};

pub fn manifest(cmdline: &str) -> Manifest {
    let file = |bytes: &[u8]| ImageFile { sha256: Sha256Hex::of(bytes), size: 1, format: None };
    Manifest {
        name: "tiny".into(),
        arch: "x86_64".into(),
        files: BTreeMap::from([(Part::Kernel, file(b"k")), (Part::Rootfs, file(b"r"))]),
        cmdline: cmdline.into(),
        firmware: None,
        defaults: ImageDefaults { vcpus: 1, memory_mib: 128, disk_gib: 1 },
        ready: Readiness::GuestAgent,
        ready_timeout_seconds: None,
        cloud_init: false,
    }
}

async fn put(world: &World, cmdline: &str) -> hostler_model::image::Image {
    world.store.put_image(TENANT, manifest(cmdline), Vec::new(), Actor::system()).await.unwrap().unwrap()
}

/// Those that a test put there, newest first.
async fn images(world: &World) -> Vec<Image> {
    let mut images = world.store.images(TENANT).await.unwrap();
    images.retain(|image| image.digest != world::spec().image_digest);
    images
}

pub async fn an_image_is_known_by_its_name_and_its_digest(world: &mut World) {
    let old = put(world, "quiet").await;
    world.advance(1);
    let head = world.head().await;
    assert_eq!(put(world, "quiet").await, old);
    assert_eq!(world.head().await, head);
    let new = put(world, "loud").await;
    assert_ne!(old.digest, new.digest);
    assert_eq!(world.store.image_by_name(TENANT, "tiny".into()).await.unwrap(), Some(new.clone()));
    assert_eq!(world.store.image_by_name(world.id(), "tiny".into()).await.unwrap(), None);
    assert_eq!(world.store.image_by_name(TENANT, "ti\0ny".into()).await.unwrap(), None);
    assert_eq!(world.store.image(old.digest.clone()).await.unwrap(), Some(old.clone()));
    assert_eq!(images(world).await, [new, old]);
}

pub async fn a_name_stands_for_one_image_of_its_tenant(world: &mut World) {
    let (old, new) = (put(world, "quiet").await, put(world, "loud").await);
    let name = async |digest| world.store.name_image(TENANT, "latest".into(), digest, Actor::system()).await.unwrap();
    name(old.digest.clone()).await.unwrap();
    name(new.digest.clone()).await.unwrap();
    let uses = world.store.image_uses(TENANT).await.unwrap();
    assert_eq!(uses.get(&new.digest), Some(&(vec!["latest".to_owned(), "tiny".to_owned()], 0)));
    assert_eq!(uses.get(&old.digest), None);
    let head = world.head().await;
    name(new.digest.clone()).await.unwrap();
    assert_eq!(world.head().await, head);
    let unknown = hostler_model::ImageDigest("f".repeat(64));
    assert_eq!(name(unknown).await.unwrap_err().code, Code::ImageNotFound);
    let remove = async |text: &str| world.store.remove_image(TENANT, text.to_owned(), Actor::system()).await.unwrap();
    assert_eq!(remove("latest").await.unwrap(), (new.clone(), vec!["tiny".to_owned()]));
    assert_eq!(world.store.image_by_name(TENANT, "latest".into()).await.unwrap(), None);
    assert_eq!(remove("latest").await.unwrap_err().code, Code::ImageNotFound);
    // A name that stands for another by now takes that one's name, or that one.
    world.store.name_image(TENANT, "tiny".into(), old.digest.clone(), Actor::system()).await.unwrap().unwrap();
    assert_eq!(remove("tiny").await.unwrap(), (old, Vec::new()));
    assert_eq!(images(world).await, [new]);
}

pub async fn a_shipped_image_takes_its_name_only_from_one_that_was_shipped(world: &mut World) {
    let ship =
        async |cmdline| world.store.ship_image(TENANT, manifest(cmdline), Actor::system()).await.unwrap().unwrap();
    let stands = async || world.store.image_by_name(TENANT, "tiny".into()).await.unwrap().unwrap().digest;
    let first = ship("quiet").await;
    assert!(first.named && stands().await == first.image.digest, "the name was free");
    let second = ship("loud").await;
    assert!(second.named && stands().await == second.image.digest, "the next build of it");
    let own = put(world, "own").await;
    assert_eq!(stands().await, own.digest, "what somebody asks for is done");
    let third = ship("third").await;
    assert!(!third.named && stands().await == own.digest);
    assert_eq!(world.store.shipped_image(TENANT, third.image.digest.clone()).await.unwrap(), Some(third.clone()));
    // Somebody who gives the name to a shipped one has decided too.
    world.store.name_image(TENANT, "tiny".into(), third.image.digest.clone(), Actor::system()).await.unwrap().unwrap();
    assert!(!ship("fourth").await.named);
    assert_eq!(stands().await, third.image.digest);
    assert_eq!(images(world).await.len(), 5, "all of them are there by their digests");
}

pub async fn an_image_of_machines_is_not_deleted(world: &mut World) {
    // The machines of these tests are made of the image `d`.
    let agent = world.node("a").await;
    world.running(agent, "web").await;
    let used = hostler_model::ImageDigest("d".into());
    assert_eq!(world.store.image_users(TENANT, used.clone()).await.unwrap(), ["web"]);
    assert_eq!(world.store.image_users(world.id(), used).await.unwrap(), Vec::<String>::new());
    let image = put(world, "quiet").await;
    assert_eq!(world.store.image_blobs().await.unwrap().len(), 2);
    let delete = async || world.store.remove_image(TENANT, image.digest.0.clone(), Actor::system()).await.unwrap();
    assert_eq!(delete().await.unwrap(), (image.clone(), Vec::new()));
    assert_eq!(delete().await.unwrap_err().code, Code::ImageNotFound);
    assert_eq!(world.store.image_by_name(TENANT, "tiny".into()).await.unwrap(), None);
    assert!(world.store.image_blobs().await.unwrap().is_empty());
}

/// Deletes the image that the machines of these tests are made of.
async fn delete(world: &World) -> Answer<(Image, Vec<String>)> {
    let text = world::spec().image_digest.0;
    world
        .store
        .name_image(TENANT, "latest".into(), world::spec().image_digest, Actor::system())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(text, "d", "no digest, so that it goes by its name");
    world.store.remove_image(TENANT, "latest".into(), Actor::system()).await.unwrap()
}

pub async fn of_a_deletion_and_a_create_whichever_comes_second_is_refused(world: &mut World) {
    let agent = world.node("a").await;
    let vm = world.ok(world.create("web")).await.target.vm.unwrap();
    assert_eq!(delete(world).await.unwrap_err().code, Code::ImageInUse, "it is still being made");
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    assert_eq!(delete(world).await.unwrap_err().code, Code::ImageInUse);
    world.ok(world.on_vm(KindName::VmDelete, vm)).await;
    let leased = world.lease_one(agent).await;
    world.succeed(agent, &leased).await;
    delete(world).await.unwrap();
    let head = world.head().await;
    // Its name was looked up before, and its digest is in the submission.
    world.refused(world.create("late"), Code::ImageNotFound).await;
    world.refused(Submission { dry_run: true, ..world.create("dry") }, Code::ImageNotFound).await;
    let params = json!({"image": "tiny", "image_digest": "d"});
    let target = Target { vm: None, node: Some(agent.node) };
    let pull = Submission { kind: KindName::ImagePull, params, target, ..world.echo() };
    world.refused(pull.clone(), Code::ImageNotFound).await;
    assert_eq!(world.head().await, head);
    // What takes it off a node is wanted all the more.
    world.ok(Submission { kind: KindName::ImageDelete, task: world.id(), ..pull }).await;
}

pub async fn a_create_that_waits_keeps_the_image_that_its_name_stood_for(world: &mut World) {
    let agent = world.node("a").await;
    let (old, new) = (put(world, "quiet").await, put(world, "loud").await);
    let name = async |digest| {
        world.store.name_image(TENANT, "latest".into(), digest, Actor::system()).await.unwrap().unwrap();
    };
    name(old.digest.clone()).await;
    let mut create = world.create("web");
    create.params["image_digest"] = json!(old.digest);
    create.vm.as_mut().unwrap().spec.image_digest = old.digest.clone();
    let task = world.ok(create).await;
    name(new.digest.clone()).await;
    let leased = world.lease_one(agent).await;
    assert_eq!((leased.task, &leased.params["image_digest"]), (task.id, &json!(old.digest)));
    let gone = world.store.remove_image(TENANT, old.digest.0.clone(), Actor::system()).await.unwrap();
    assert_eq!(gone.unwrap_err().code, Code::ImageInUse);
}

pub async fn what_images_share_counts_once(world: &mut World) {
    put(world, "quiet").await;
    world
        .store
        .edit_tenant(EditTenant::of_system(TENANT, Limits { images_gib: 0, ..UNLIMITED }.into()))
        .await
        .unwrap()
        .unwrap();
    // The same files with another command line.
    put(world, "loud").await;
    let mut other = manifest("quiet");
    other.files.insert(Part::Initrd, ImageFile { sha256: Sha256Hex::of(b"i"), size: 1, format: None });
    let refused = world.store.put_image(TENANT, other, Vec::new(), Actor::system()).await.unwrap();
    assert_eq!(refused.unwrap_err().code, Code::QuotaExceeded);
    assert_eq!(world.store.may_add_images(TENANT, 1).await.unwrap().unwrap_err().code, Code::QuotaExceeded);
}

fn new_import(world: &World) -> NewImportRow {
    let id: ImportId = world.id();
    NewImportRow { id, tenant: TENANT, name: "web".into(), source: "upload".into(), bytes: 7, idempotency: None }
}

async fn begin(world: &World) -> Import {
    world.store.begin_import(new_import(world), Actor::system()).await.unwrap().unwrap().import
}

pub async fn an_import_asked_for_twice_under_a_key_is_begun_once(world: &mut World) {
    let sent = |key: &str, body: &str| Idempotency {
        key: key.into(),
        route: "POST /images/web/import".into(),
        body: body.into(),
        part: None,
    };
    let ask = async |idempotency: Idempotency| {
        let new = NewImportRow { idempotency: Some(idempotency), ..new_import(world) };
        world.store.begin_import(new, Actor::system()).await.unwrap()
    };
    let first_of = async |sent| world.store.first_import(TENANT, Actor::system(), sent).await.unwrap();
    assert!(first_of(sent("k", "b")).await.is_none());
    let first = ask(sent("k", "b")).await.unwrap();
    assert!(!first.replayed);
    let failed = TaskError { code: Code::ImportFailed, detail: "late".into() };
    world.store.end_import(first.import.id, Err(failed)).await.unwrap();
    let again = ask(sent("k", "b")).await.unwrap();
    assert_eq!((again.replayed, &again.import), (true, &first.import), "as it was when it began");
    assert_eq!(first_of(sent("k", "b")).await.unwrap().unwrap(), first.import);
    for mismatch in [ask(sent("k", "c")).await.unwrap_err(), first_of(sent("k", "c")).await.unwrap().unwrap_err()] {
        assert_eq!(mismatch.code, Code::IdempotencyMismatch);
        assert_eq!(mismatch.facts["import"], first.import.id.to_string());
    }
    assert_ne!(ask(sent("l", "b")).await.unwrap().import.id, first.import.id);
    assert_eq!(world.store.imports(TENANT, None, 10).await.unwrap().len(), 2);
}

pub async fn an_imports_key_is_kept_for_a_day_and_until_it_ends(world: &mut World) {
    let sent = Idempotency { key: "k".into(), route: "r".into(), body: "b".into(), part: None };
    let new = NewImportRow { idempotency: Some(sent.clone()), ..new_import(world) };
    let import = world.store.begin_import(new, Actor::system()).await.unwrap().unwrap().import;
    world.advance(25 * 3600);
    world.store.drop_idempotency_keys().await.unwrap();
    let first_of = async || world.store.first_import(TENANT, Actor::system(), sent.clone()).await.unwrap();
    assert_eq!(first_of().await.unwrap().unwrap(), import, "it is under way");
    let failed = TaskError { code: Code::ImportFailed, detail: "late".into() };
    world.store.end_import(import.id, Err(failed)).await.unwrap();
    world.store.drop_idempotency_keys().await.unwrap();
    assert!(first_of().await.is_none());
}

pub async fn a_tenant_has_few_imports_under_way_and_not_all_that_ever_were(world: &mut World) {
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(begin(world).await);
    }
    let refused = world.store.begin_import(new_import(world), Actor::system()).await.unwrap();
    assert_eq!(refused.unwrap_err().code, Code::QuotaExceeded);
    assert_eq!(world.store.may_import(TENANT).await.unwrap().unwrap_err().code, Code::QuotaExceeded);
    let failed = || Err(TaskError { code: Code::ImportFailed, detail: "late".into() });
    world.store.end_import(running.pop().unwrap().id, failed()).await.unwrap();
    for _ in 0..210 {
        world.store.end_import(begin(world).await.id, failed()).await.unwrap();
    }
    let left = world.store.imports(TENANT, None, 1000).await.unwrap();
    assert!(left.len() < 206, "{}", left.len());
    assert!(running.iter().all(|one| left.iter().any(|import| import.id == one.id)), "what runs stays");
}

fn fetching(bytes: u64) -> ImportProgress {
    ImportProgress { phase: ImportPhase::Fetching, percent: Some(50), bytes }
}

pub async fn an_import_goes_on_until_it_ends_once(world: &mut World) {
    let import = begin(world).await;
    assert!(world.store.beat_import(import.id, fetching(9)).await.unwrap());
    let head = world.head().await;
    assert!(world.store.beat_import(import.id, fetching(10)).await.unwrap());
    assert_eq!(world.head().await, head, "only a new phase is an event");
    let finish = async || {
        let aliases = vec!["latest".to_owned()];
        world
            .store
            .finish_import(import.id, manifest("quiet"), (Origin::Asked, aliases), Actor::system())
            .await
            .unwrap()
    };
    let image = finish().await.unwrap().digest;
    assert_eq!(world.store.image_by_name(TENANT, "latest".into()).await.unwrap().unwrap().digest, image);
    assert_eq!(finish().await.unwrap_err().code, Code::Cancelled, "it has ended");
    let late = TaskError { code: Code::ImportFailed, detail: "late".into() };
    world.store.end_import(import.id, Err(late)).await.unwrap();
    let ended = world.store.import(import.id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.image, ended.progress), (ImportState::Succeeded, Some(image), fetching(10)));
    assert!(!world.store.beat_import(import.id, fetching(11)).await.unwrap());
    assert_eq!(world.store.imports(TENANT, None, 10).await.unwrap().len(), 1);
    assert!(world.store.imports(TENANT, Some(import.id), 10).await.unwrap().is_empty());
}

pub async fn an_import_is_told_to_stop(world: &mut World) {
    let import = begin(world).await;
    world.store.cancel_import(import.id, Actor::system()).await.unwrap();
    assert!(!world.store.beat_import(import.id, fetching(9)).await.unwrap());
    let late = world
        .store
        .finish_import(import.id, manifest("quiet"), (Origin::Asked, Vec::new()), Actor::system())
        .await
        .unwrap();
    assert_eq!(late.unwrap_err().code, Code::Cancelled);
    assert!(images(world).await.is_empty(), "what was cancelled leaves no image");
    let cancelled = TaskError { code: Code::Cancelled, detail: "it was cancelled".into() };
    world.store.end_import(import.id, Err(cancelled)).await.unwrap();
    assert_eq!(world.store.import(import.id).await.unwrap().unwrap().state, ImportState::Cancelled);
}

pub async fn an_import_of_what_is_shipped_takes_its_name_only_from_what_was_shipped(world: &mut World) {
    let made = async |cmdline: &str, origin| {
        let import = begin(world).await;
        let named = (origin, Vec::new());
        world.store.finish_import(import.id, manifest(cmdline), named, Actor::system()).await.unwrap().unwrap().digest
    };
    let stands = async || world.store.image_by_name(TENANT, "tiny".into()).await.unwrap().unwrap().digest;
    let first = made("first", Origin::Shipped).await;
    assert_eq!(stands().await, first);
    let second = made("second", Origin::Shipped).await;
    assert_eq!(stands().await, second);
    let asked = made("asked", Origin::Asked).await;
    let third = made("third", Origin::Shipped).await;
    assert_eq!(stands().await, asked, "somebody's word holds");
    assert!(!world.store.shipped_image(TENANT, third).await.unwrap().unwrap().named);
}

pub async fn imports_of_an_earlier_life_are_over_and_do_not_count(world: &mut World) {
    let mut lost = Vec::new();
    for _ in 0..4 {
        lost.push(begin(world).await);
    }
    world.reopen();
    let swept = world.store.end_earlier_imports().await.unwrap();
    assert_eq!((swept.changed, swept.more), (4, false));
    for import in lost {
        let import = world.store.import(import.id).await.unwrap().unwrap();
        assert_eq!((import.state, import.error.unwrap().code), (ImportState::Failed, Code::ImportFailed));
    }
    begin(world).await;
}

pub async fn an_import_whose_server_is_silent_fails(world: &mut World) {
    let (lost, alive) = (begin(world).await, begin(world).await);
    world.advance(20);
    assert!(world.store.beat_import(alive.id, fetching(9)).await.unwrap());
    world.advance(20);
    assert_eq!(world.store.lapse_imports().await.unwrap().changed, 1);
    let import = world.store.import(lost.id).await.unwrap().unwrap();
    assert_eq!((import.state, import.error.unwrap().code), (ImportState::Failed, Code::ImportFailed));
    assert_eq!(world.store.import(alive.id).await.unwrap().unwrap().state, ImportState::Running);
    assert_eq!(world.store.lapse_imports().await.unwrap().changed, 0);
}
