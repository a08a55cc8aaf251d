//! The store's face for images, their names and their imports.

use std::collections::BTreeSet;

use hostler_db::Tx;
use hostler_model::{
    Code, ImageDigest, Refusal, TenantId, Timestamp,
    event::Actor,
    id::ImportId,
    image::{Image, Manifest, Sha256Hex},
    import::{Import, ImportProgress, ImportState},
    task::TaskError,
};
use serde_json::json;

use super::Store;
use crate::{
    Answer, BegunImport, Idempotency, NewImportRow, Result, ShippedImage, Swept, Uses,
    idempotency::{self, FirstAnswer, Key},
    image::{self, Origin},
    import,
    step::tenant::no_tenant,
    work::Work,
};

const GIB: i64 = 1 << 30;
/// How many imports a tenant may have under way.
const IMPORTS: i64 = 4;

/// Images.
impl Store {
    /// Writes an image down, and lets its name and others stand for it. What is there already is left as it is. One that
    /// would take the tenant's images over their limit is refused.
    pub async fn put_image(
        &self,
        tenant: TenantId,
        manifest: Manifest,
        aliases: Vec<String>,
        actor: Actor,
    ) -> Result<Answer<Image>> {
        self.step("store.image", move |work| put(work, tenant, manifest, (Origin::Asked, &aliases), &actor)).await
    }

    /// Writes an image down that was shipped with the software. Its name stands for it where nothing else has it, or an
    /// image that was shipped before; what somebody gave the name to keeps it.
    pub async fn ship_image(&self, tenant: TenantId, manifest: Manifest, actor: Actor) -> Result<Answer<ShippedImage>> {
        self.step("store.image", move |work| {
            let image = match put(work, tenant, manifest, (Origin::Shipped, &[]), &actor)? {
                Ok(image) => image,
                Err(refusal) => return Ok(Err(refusal)),
            };
            Ok(Ok(shipped(work.tx, image)?))
        })
        .await
    }

    /// An image that was shipped before, if it is still there.
    pub async fn shipped_image(&self, tenant: TenantId, digest: ImageDigest) -> Result<Option<ShippedImage>> {
        self.read(move |tx| {
            let image = image::of_tenant_and_digest(tx, tenant, &digest)?;
            image.map(|image| shipped(tx, image)).transpose()
        })
        .await
    }

    /// Lets a name stand for an image from now on.
    pub async fn name_image(
        &self,
        tenant: TenantId,
        name: String,
        digest: ImageDigest,
        actor: Actor,
    ) -> Result<Answer<()>> {
        self.step("store.image", move |work| {
            if image::of_tenant_and_digest(work.tx, tenant, &digest)?.is_none() {
                return Ok(Err(gone(&digest.0)));
            }
            if image::name(work.tx, tenant, &name, &digest)? {
                tell(work, &actor, tenant, "image.named", json!({"name": name, "digest": digest}));
            }
            Ok(Ok(()))
        })
        .await
    }

    /// Removes one of an image's names; with its last one, or by its digest, the image, unless machines are made of it.
    /// Gives the image and the names it has left; with none it is gone, and its bytes are another's to remove.
    pub async fn remove_image(
        &self,
        tenant: TenantId,
        text: String,
        actor: Actor,
    ) -> Result<Answer<(Image, Vec<String>)>> {
        self.step("store.image", move |work| {
            let by_digest = text.parse::<Sha256Hex>().is_ok();
            let found = match by_digest {
                true => image::of_tenant_and_digest(work.tx, tenant, &ImageDigest(text.clone()))?,
                false => image::by_name(work.tx, tenant, &text)?,
            };
            let Some(found) = found else { return Ok(Err(gone(&text))) };
            let mut names = image::names(work.tx, tenant, &found.digest)?;
            names.retain(|name| !by_digest && *name != text);
            if !names.is_empty() {
                image::unname(work.tx, tenant, &text)?;
                tell(work, &actor, tenant, "image.unnamed", json!({"name": text}));
                return Ok(Ok((found, names)));
            }
            let users = image::users(work.tx, tenant, &found.digest)?;
            if !users.is_empty() {
                return Ok(Err(in_use(&found, &users)));
            }
            image::delete(work.tx, tenant, &found.digest)?;
            let data = json!({"name": found.manifest.name, "digest": found.digest});
            tell(work, &actor, tenant, "image.deleted", data);
            Ok(Ok((found, names)))
        })
        .await
    }

    /// What a tenant's image name stands for now.
    pub async fn image_by_name(&self, tenant: TenantId, name: String) -> Result<Option<Image>> {
        self.read(move |tx| image::by_name(tx, tenant, &name)).await
    }

    /// The image of this digest.
    pub async fn image(&self, digest: ImageDigest) -> Result<Option<Image>> {
        self.read(move |tx| image::by_digest(tx, &digest)).await
    }

    /// A tenant's image of this digest.
    pub async fn image_of(&self, tenant: TenantId, digest: ImageDigest) -> Result<Option<Image>> {
        self.read(move |tx| image::of_tenant_and_digest(tx, tenant, &digest)).await
    }

    /// A tenant's images, newest first.
    pub async fn images(&self, tenant: TenantId) -> Result<Vec<Image>> {
        self.read(move |tx| image::of_tenant(tx, tenant)).await
    }

    /// What stands for a tenant's images, and how many machines are made of each, by digest.
    pub async fn image_uses(&self, tenant: TenantId) -> Result<Uses> {
        self.read(move |tx| image::uses(tx, tenant)).await
    }

    /// Machines that are made of an image and not deleted: up to ten of them, by name.
    pub async fn image_users(&self, tenant: TenantId, digest: ImageDigest) -> Result<Vec<String>> {
        self.read(move |tx| image::users(tx, tenant, &digest)).await
    }

    /// The blobs that images of anybody are made of.
    pub async fn image_blobs(&self) -> Result<BTreeSet<Sha256Hex>> {
        self.read(image::blobs).await
    }

    /// How many bytes a tenant's images may still grow by; `None` is no limit.
    pub async fn room_for_images(&self, tenant: TenantId) -> Result<Option<u64>> {
        self.read(move |tx| {
            let (limit, used) = (image::limit(tx, tenant)?, image::sizes(tx, tenant)?.values().sum::<u64>());
            Ok((limit >= 0).then(|| most(limit).saturating_sub(used)))
        })
        .await
    }

    /// Refuses an image that would take the tenant over its limit; a first word, before its bytes are kept.
    pub async fn may_put_image(&self, tenant: TenantId, manifest: Manifest) -> Result<Answer<()>> {
        self.read(move |tx| fits(tx, tenant, &manifest)).await
    }

    /// Refuses more bytes of images than a tenant may have; a first word, before they are sent.
    pub async fn may_add_images(&self, tenant: TenantId, bytes: u64) -> Result<Answer<()>> {
        self.read(move |tx| {
            let (limit, used) = (image::limit(tx, tenant)?, image::sizes(tx, tenant)?.values().sum());
            Ok(within(limit, used, bytes))
        })
        .await
    }
}

/// Imports.
impl Store {
    /// Refuses an import of a tenant that has enough under way; a first word, before its bytes are sent.
    pub async fn may_import(&self, tenant: TenantId) -> Result<Answer<()>> {
        self.read(move |tx| few(tx, tenant)).await
    }

    /// The import that was begun under this key; refused when that was with another body.
    pub async fn first_import(
        &self,
        tenant: TenantId,
        actor: Actor,
        sent: Idempotency,
    ) -> Result<Option<Answer<Import>>> {
        self.read(move |tx| {
            let first = idempotency::by_key::<Import>(tx, &Key::new(tenant, &actor, &sent))?;
            Ok(first.map(|first| first.again(&sent)))
        })
        .await
    }

    /// Writes an import down that begins, unless it began before under the same key, or the tenant has enough under way.
    /// Old ones that are over go.
    pub async fn begin_import(&self, new: NewImportRow, actor: Actor) -> Result<Answer<BegunImport>> {
        self.step("store.import", move |work| begin(work, &new, &actor)).await
    }

    /// Notes how far an import is, and that its server lives; says whether it is to go on.
    pub async fn beat_import(&self, id: ImportId, progress: ImportProgress) -> Result<bool> {
        self.step("store.import", move |work| {
            let before = import::one(work.tx, id)?;
            let goes_on = import::beat(work.tx, id, &progress, work.now)?;
            if let Some(before) = before.filter(|before| before.progress.phase != progress.phase) {
                let data = json!({"name": before.name, "phase": progress.phase, "bytes": progress.bytes});
                work.event(Some(before.tenant), "import", "import.progress", id.0, data);
            }
            Ok(goes_on)
        })
        .await
    }

    /// Writes down how an import ended, unless it has ended.
    pub async fn end_import(&self, id: ImportId, end: std::result::Result<ImageDigest, TaskError>) -> Result<()> {
        self.step("store.import", move |work| end_one(work, id, &end)).await
    }

    /// Writes down the image that an import made, and with it that the import succeeded; refused when it is not to go on.
    pub async fn finish_import(
        &self,
        id: ImportId,
        manifest: Manifest,
        (origin, aliases): (Origin, Vec<String>),
        actor: Actor,
    ) -> Result<Answer<Image>> {
        self.step("store.import", move |work| {
            let Some(tenant) = import::going_on(work.tx, id)? else {
                return Ok(Err(Refusal::new(Code::Cancelled, "it was cancelled")));
            };
            let put = put(work, tenant, manifest, (origin, &aliases), &actor)?;
            if let Ok(image) = &put {
                end_one(work, id, &Ok(image.digest.clone()))?;
            }
            Ok(put)
        })
        .await
    }

    /// Asks that an import be stopped: its server sees that with its next beat.
    pub async fn cancel_import(&self, id: ImportId, actor: Actor) -> Result<()> {
        self.step("store.import", move |work| {
            if let Some(import) = import::one(work.tx, id)?.filter(|import| !import.state.is_terminal()) {
                import::cancel(work.tx, id)?;
                let data = json!({"name": import.name});
                work.audit(&actor, Some(import.tenant), "import", "import.cancel", id.0, data);
            }
            Ok(())
        })
        .await
    }

    /// One import.
    pub async fn import(&self, id: ImportId) -> Result<Option<Import>> {
        self.read(move |tx| import::one(tx, id)).await
    }

    /// A tenant's imports, newest first; `before` is the last id of the page before.
    pub async fn imports(&self, tenant: TenantId, before: Option<ImportId>, limit: usize) -> Result<Vec<Import>> {
        self.read(move |tx| import::of_tenant(tx, tenant, before, limit)).await
    }

    /// Imports whose server has been silent for too long, or is another life of itself.
    pub async fn lapse_imports(&self) -> Result<Swept> {
        self.step("store.lapse", |work| lose(work, import::too_long_ago(work.now))).await
    }

    /// Imports of an earlier life of the server, before it begins any of its own: nobody does them any more, and none may
    /// count among its tenant's.
    pub async fn end_earlier_imports(&self) -> Result<Swept> {
        self.step("store.lapse", |work| lose(work, Timestamp::from_micros(i64::MAX))).await
    }
}

/// Ends imports whose server has said nothing since then.
fn lose(work: &mut Work<'_>, before: Timestamp) -> hostler_db::Result<Swept> {
    let silent = import::silent(work.tx, before)?;
    for id in &silent {
        let detail = "the server that did it ended; import it again".to_owned();
        end_one(work, *id, &Err(TaskError { code: Code::ImportFailed, detail }))?;
    }
    Ok(Swept { changed: silent.len(), more: silent.len() == import::PIECE })
}

fn begin(work: &mut Work<'_>, new: &NewImportRow, actor: &Actor) -> hostler_db::Result<Answer<BegunImport>> {
    let sent = new.idempotency.as_ref().map(|sent| (Key::new(new.tenant, actor, sent), sent));
    if let Some((key, sent)) = &sent
        && let Some(first) = idempotency::by_key::<Import>(work.tx, key)?
    {
        return Ok(first.again(sent).map(|import| BegunImport { import, replayed: true }));
    }
    if work.tenant(new.tenant)?.is_none() {
        return Ok(Err(no_tenant(new.tenant)));
    }
    if let Err(refusal) = few(work.tx, new.tenant)? {
        return Ok(Err(refusal));
    }
    import::prune(work.tx, new.tenant)?;
    let import = new.import(actor.principal, work.now);
    import::insert(work.tx, &import)?;
    if let Some((key, sent)) = sent {
        let first = FirstAnswer { key, body: sent.body.clone(), answer: import.clone() };
        idempotency::insert(work.tx, &[first], work.now)?;
    }
    let data = json!({"name": import.name, "source": import.source});
    work.event(Some(import.tenant), "import", "import.started", import.id.0, data.clone());
    work.audit(actor, Some(import.tenant), "import", "import.start", import.id.0, data);
    Ok(Ok(BegunImport { import, replayed: false }))
}

/// Whether a tenant may begin another import.
fn few(tx: &Tx<'_>, tenant: TenantId) -> hostler_db::Result<Answer<()>> {
    if import::running(tx, tenant)? < IMPORTS {
        return Ok(Ok(()));
    }
    let detail = format!("the tenant has {IMPORTS} imports under way; wait until one has ended, or cancel one");
    let over = json!([{"resource": "imports", "limit": IMPORTS}]);
    Ok(Err(Refusal::new(Code::QuotaExceeded, detail).with("over", over)))
}

fn end_one(
    work: &mut Work<'_>,
    id: ImportId,
    end: &std::result::Result<ImageDigest, TaskError>,
) -> hostler_db::Result<()> {
    let Some(import) = import::one(work.tx, id)?.filter(|import| !import.state.is_terminal()) else { return Ok(()) };
    let (state, kind) = match end {
        Ok(_) => (ImportState::Succeeded, "import.succeeded"),
        Err(error) if error.code == Code::Cancelled => (ImportState::Cancelled, "import.cancelled"),
        Err(_) => (ImportState::Failed, "import.failed"),
    };
    import::end(work.tx, id, state, end, work.now)?;
    let (image, error) = (end.as_ref().ok(), end.as_ref().err());
    let data = json!({"name": import.name, "image": image, "error": error});
    work.event(Some(import.tenant), "import", kind, id.0, data);
    Ok(())
}

fn put(
    work: &mut Work<'_>,
    tenant: TenantId,
    manifest: Manifest,
    (origin, aliases): (Origin, &[String]),
    actor: &Actor,
) -> hostler_db::Result<Answer<Image>> {
    if work.tenant(tenant)?.is_none() {
        return Ok(Err(no_tenant(tenant)));
    }
    let image = Image { digest: manifest.digest(), tenant, manifest, created_at: work.now };
    if let Err(refusal) = fits(work.tx, tenant, &image.manifest)? {
        return Ok(Err(refusal));
    }
    let mut changed = image::put(work.tx, &image, origin)?;
    for name in aliases {
        changed |= image::name(work.tx, tenant, name, &image.digest)?;
    }
    if changed {
        tell(work, actor, tenant, "image.put", json!({"name": image.manifest.name, "digest": image.digest}));
    }
    Ok(Ok(image::of_tenant_and_digest(work.tx, tenant, &image.digest)?.unwrap_or(image)))
}

fn shipped(tx: &Tx<'_>, image: Image) -> hostler_db::Result<ShippedImage> {
    let stands = image::by_name(tx, image.tenant, &image.manifest.name)?;
    Ok(ShippedImage { named: stands.is_some_and(|stands| stands.digest == image.digest), image })
}

fn tell(work: &mut Work<'_>, actor: &Actor, tenant: TenantId, kind: &str, data: serde_json::Value) {
    work.event(Some(tenant), "image", kind, tenant.0, data.clone());
    work.audit(actor, Some(tenant), "image", kind, tenant.0, data);
}

/// Whether a tenant may have this image too. What its images share counts once.
fn fits(tx: &Tx<'_>, tenant: TenantId, manifest: &Manifest) -> hostler_db::Result<Answer<()>> {
    let limit = image::limit(tx, tenant)?;
    if limit < 0 {
        return Ok(Ok(()));
    }
    let has = image::sizes(tx, tenant)?;
    let files = manifest.files.values();
    let new = files.filter(|file| !has.contains_key(&file.sha256)).map(|file| file.size).sum();
    Ok(within(limit, has.values().sum(), new))
}

fn most(limit: i64) -> u64 {
    u64::try_from(limit.saturating_mul(GIB)).unwrap_or(u64::MAX)
}

fn within(limit: i64, used: u64, new: u64) -> Answer<()> {
    if new == 0 || used.saturating_add(new) <= most(limit) {
        return Ok(());
    }
    let detail = format!(
        "the tenant's images may have {limit} GiB; they have {used} bytes, and {new} more are asked; delete some first"
    );
    let over = json!([{"resource": "images_gib", "limit": limit, "used_bytes": used, "asked_bytes": new}]);
    Err(Refusal::new(Code::QuotaExceeded, detail).with("over", over))
}

fn gone(text: &str) -> Refusal {
    let detail = format!("there is no image {text}; `hostler image list` shows those there are");
    Refusal::new(Code::ImageNotFound, detail).with("image", text)
}

fn in_use(image: &Image, users: &[String]) -> Refusal {
    let name = &image.manifest.name;
    let detail = format!("machines are made of the image {name}: {}; delete them first", users.join(", "));
    Refusal::new(Code::ImageInUse, detail).with("vms", users.to_vec())
}
