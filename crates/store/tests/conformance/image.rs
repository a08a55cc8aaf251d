//! Images, their names, and imports.

use std::collections::BTreeMap;

use hostler_model::{
    Code,
    event::Actor,
    id::ImportId,
    image::{ImageDefaults, ImageFile, Manifest, Part, Sha256Hex},
    import::{Import, ImportPhase, ImportProgress, ImportState},
    ready::Readiness,
    task::TaskError,
};
use hostler_store::NewImportRow;

use crate::world::{TENANT, World};

fn manifest(cmdline: &str) -> Manifest {
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
    assert_eq!(world.store.image(old.digest.clone()).await.unwrap(), Some(old.clone()));
    assert_eq!(world.store.images(TENANT).await.unwrap(), [new, old]);
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
    assert_eq!(world.store.images(TENANT).await.unwrap(), [new]);
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

pub async fn what_images_share_counts_once(world: &mut World) {
    put(world, "quiet").await;
    world.store.limit_images(TENANT, 0, Actor::system()).await.unwrap();
    // The same files with another command line.
    put(world, "loud").await;
    let mut other = manifest("quiet");
    other.files.insert(Part::Initrd, ImageFile { sha256: Sha256Hex::of(b"i"), size: 1, format: None });
    let refused = world.store.put_image(TENANT, other, Vec::new(), Actor::system()).await.unwrap();
    assert_eq!(refused.unwrap_err().code, Code::QuotaExceeded);
    assert_eq!(world.store.may_add_images(TENANT, 1).await.unwrap().unwrap_err().code, Code::QuotaExceeded);
}

async fn begin(world: &World) -> Import {
    let id: ImportId = world.id();
    let new = NewImportRow { id, tenant: TENANT, name: "web".into(), source: "upload".into(), bytes: 7 };
    world.store.begin_import(new, Actor::system()).await.unwrap().unwrap()
}

pub async fn a_tenant_has_few_imports_under_way_and_not_all_that_ever_were(world: &mut World) {
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(begin(world).await);
    }
    let another =
        || NewImportRow { id: world.id(), tenant: TENANT, name: "web".into(), source: "upload".into(), bytes: 7 };
    let refused = world.store.begin_import(another(), Actor::system()).await.unwrap();
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
        world.store.finish_import(import.id, manifest("quiet"), aliases, Actor::system()).await.unwrap()
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
    let late = world.store.finish_import(import.id, manifest("quiet"), Vec::new(), Actor::system()).await.unwrap();
    assert_eq!(late.unwrap_err().code, Code::Cancelled);
    assert!(world.store.images(TENANT).await.unwrap().is_empty(), "what was cancelled leaves no image");
    let cancelled = TaskError { code: Code::Cancelled, detail: "it was cancelled".into() };
    world.store.end_import(import.id, Err(cancelled)).await.unwrap();
    assert_eq!(world.store.import(import.id).await.unwrap().unwrap().state, ImportState::Cancelled);
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
