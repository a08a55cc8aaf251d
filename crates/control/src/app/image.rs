//! Images: registered by a manifest whose blobs are here, taken from a folder, named, shown, deleted. How one comes from
//! outside is in `import.rs`. Never here: how one is booted.

use std::path::Path;

use hostler_model::{
    Code, ImageDigest, Refusal, TenantId, Timestamp,
    api::strict,
    event::Actor,
    id::ImportId,
    image::{DiskFormat, Image, ImageFile, ImageInfo, ImageTasks, Manifest, Part, Sha256Hex, check_name},
    kind::KindName,
    node::{Freshness, Node},
    schedule::{Asked, Schedule},
    task::{Target, Task},
};
use hostler_store::{Origin, ShippedImage, Submission};
use serde_json::json;

use super::{App, Error, Result, blob::Among, caller::Call, not_found, room::Charge};

/// The manifest's name in a folder that holds an image.
const MANIFEST: &str = "image.json";
const GIB: u64 = 1 << 30;

impl App {
    /// The caller's images, newest first, with what depends on each.
    pub async fn images(&self, call: &Call) -> Result<Vec<ImageInfo>> {
        let images = self.store.images(call.tenant()?).await?;
        self.describe(call.tenant()?, images).await
    }

    /// One of the caller's images, by name or digest.
    pub async fn image_info(&self, call: &Call, text: &str) -> Result<ImageInfo> {
        let image = self.image(call.tenant()?, text).await?;
        let described = self.describe(call.tenant()?, vec![image]).await?.pop();
        described.ok_or(Error::Fault("an image was not described"))
    }

    /// A tenant's image, by name or digest.
    pub(super) async fn image(&self, tenant: TenantId, text: &str) -> Result<Image> {
        let found = match text.parse::<Sha256Hex>() {
            Ok(_) => self.store.image_of(tenant, ImageDigest(text.to_owned())).await?,
            Err(_) => self.store.image_by_name(tenant, text.to_owned()).await?,
        };
        found.ok_or_else(|| not_found(Code::ImageNotFound, "image", text).into())
    }

    async fn describe(&self, tenant: TenantId, images: Vec<Image>) -> Result<Vec<ImageInfo>> {
        let (mut uses, nodes) = (self.store.image_uses(tenant).await?, self.store.nodes().await?);
        let describe = |image: Image| {
            let (names, vms) = uses.remove(&image.digest).unwrap_or_default();
            let has = |node: &&Node| node.facts.images.contains(&image.digest.0);
            ImageInfo {
                names,
                vms,
                format: image.manifest.root().and_then(|(_, file)| file.format).unwrap_or(DiskFormat::Raw),
                size: image.manifest.files.values().map(|file| file.size).sum(),
                nodes: nodes.iter().filter(has).map(|node| node.name.to_string()).collect(),
                image,
            }
        };
        Ok(images.into_iter().map(describe).collect())
    }

    /// Registers an image, whose blobs must be here already.
    pub async fn put_image(&self, tenant: TenantId, manifest: Manifest, actor: Actor) -> Result<Image> {
        let _claim = self.blobs.claim().await;
        for (part, file) in &manifest.files {
            if self.blob_of(tenant, &file.sha256).await?.is_none() {
                return Err(missing_blob(*part, file).into());
            }
        }
        self.fit(&manifest).await?;
        let image = self.store.put_image(tenant, manifest, Vec::new(), actor).await??;
        self.settle_room(image).await
    }

    /// How long a blob is that this tenant has sent, or has an image with; `None` where it has neither, whoever else has it.
    pub async fn blob_of(&self, tenant: TenantId, sha256: &Sha256Hex) -> Result<Option<u64>> {
        let Some(size) = self.blobs.size(sha256).await? else { return Ok(None) };
        let is_its = self.blobs.was_sent_by(tenant, sha256).await || self.has_image_with(tenant, sha256).await?;
        if is_its {
            self.blobs.touch(sha256).await;
        }
        Ok(is_its.then_some(size))
    }

    async fn has_image_with(&self, tenant: TenantId, sha256: &Sha256Hex) -> Result<bool> {
        let images = self.store.images(tenant).await?;
        Ok(images.iter().flat_map(|image| image.manifest.files.values()).any(|file| file.sha256 == *sha256))
    }

    /// Registers an image that an import made, with its other names. The caller claims its blobs until this is done.
    pub(super) async fn register(
        &self,
        manifest: Manifest,
        (id, named): (ImportId, (Origin, Vec<String>)),
        actor: Actor,
    ) -> Result<Image> {
        self.fit(&manifest).await?;
        let image = self.store.finish_import(id, manifest, named, actor).await??;
        self.settle_room(image).await
    }

    /// Refuses an image whose blobs are not here, or must not be opened.
    async fn fit(&self, manifest: &Manifest) -> Result<()> {
        manifest.check()?;
        for (part, file) in &manifest.files {
            match self.blobs.size(&file.sha256).await? {
                Some(size) if size == file.size => {}
                Some(size) => return Err(wrong_size(*part, file, size).into()),
                None => return Err(missing_blob(*part, file).into()),
            }
        }
        self.examine(manifest).await
    }

    /// What was kept for an image is accounted for by the image from now on.
    async fn settle_room(&self, image: Image) -> Result<Image> {
        let left = self.store.room_for_images(image.tenant).await?;
        self.blobs.room.claimed(image.tenant, image.manifest.files.values().map(|file| &file.sha256), left);
        Ok(image)
    }

    /// An account for a file that is to come for this tenant.
    pub(crate) async fn charge(&self, tenant: TenantId) -> Result<Charge> {
        Ok(self.blobs.room.charge(tenant, self.store.room_for_images(tenant).await?))
    }

    /// Lets a name stand for one of the caller's images from now on.
    pub async fn name_image(&self, call: &Call, name: &str, image: &str) -> Result<ImageInfo> {
        check_name(name)?;
        let digest = self.image(call.tenant()?, image).await?.digest;
        self.store.name_image(call.tenant()?, name.to_owned(), digest, call.actor()).await??;
        self.image_info(call, name).await
    }

    /// Brings an image to a node, or to every node that can be reached and lacks it.
    pub async fn pull_image(&self, call: &Call, text: &str, node: Option<&str>, when: &Asked) -> Result<ImageTasks> {
        let at = self.when(KindName::ImagePull, when)?;
        let image = self.image_info(call, text).await?;
        let nodes = match node {
            Some(node) => vec![self.node(node).await?],
            None => {
                let lacks = |node: &Node| !node.facts.images.contains(&image.image.digest.0);
                let may = |node: &Node| node.state.takes_tasks() && node.freshness == Freshness::Fresh && lacks(node);
                self.store.nodes().await?.into_iter().filter(may).collect()
            }
        };
        let tasks = self.on_nodes(call, KindName::ImagePull, &image, &nodes, at).await?;
        Ok(ImageTasks { image, tasks })
    }

    /// Takes an image out of a node's cache; the node refuses while machines there are made of it.
    pub async fn evict_image(&self, call: &Call, text: &str, node: &str, when: &Asked) -> Result<ImageTasks> {
        let at = self.when(KindName::ImageDelete, when)?;
        let (image, node) = (self.image_info(call, text).await?, self.node(node).await?);
        let tasks = self.on_nodes(call, KindName::ImageDelete, &image, &[node], at).await?;
        Ok(ImageTasks { image, tasks })
    }

    /// The schedule of a kind whose tasks are all alike, and the time before which they are not leased.
    fn when(&self, kind: KindName, asked: &Asked) -> Result<(Schedule, Timestamp)> {
        Ok(Schedule::asked(kind.spec(), &json!({}), asked, self.clock.now())?)
    }

    /// The same task on each of these nodes, written down together. One node's refusal is everybody's only if it is
    /// the only one's.
    async fn on_nodes(
        &self,
        call: &Call,
        kind: KindName,
        image: &ImageInfo,
        nodes: &[Node],
        (schedule, not_before): (Schedule, Timestamp),
    ) -> Result<Vec<Task>> {
        let (digest, name) = (&image.image.digest, &image.image.manifest.name);
        let params = json!({"image": name, "image_digest": digest});
        let (now, tenant) = (self.clock.now(), call.tenant()?);
        let submission = |node: &Node| Submission {
            task: self.ids.next(now),
            tenant,
            actor: call.actor(),
            kind,
            params: params.clone(),
            secrets: Vec::new(),
            target: Target { vm: None, node: Some(node.id) },
            schedule,
            not_before,
            vm: None,
            snapshot: None,
            retry_of: None,
            idempotency: None,
            if_match: None,
            dry_run: false,
        };
        let answers = self.store.submit(nodes.iter().map(submission).collect()).await?;
        let (tasks, refusals): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.is_ok());
        if let ([], Some(Err(refusal))) = (&tasks[..], refusals.into_iter().next()) {
            return Err(refusal.into());
        }
        Ok(tasks.into_iter().flatten().map(|accepted| accepted.task).collect())
    }

    /// Removes one of an image's names; with its last one, or by its digest, the image and the bytes that no other needs.
    /// What was asked of the schedule is for the nodes that have it.
    pub async fn delete_image(&self, call: &Call, text: &str, when: &Asked) -> Result<ImageTasks> {
        let (tenant, at) = (call.tenant()?, self.when(KindName::ImageDelete, when)?);
        let (image, names) = self.store.remove_image(tenant, text.to_owned(), call.actor()).await??;
        let info = self.describe(tenant, vec![image]).await?.pop();
        let mut info = info.ok_or(Error::Fault("an image was not described"))?;
        if !names.is_empty() {
            return Ok(ImageTasks { image: ImageInfo { names, ..info }, tasks: Vec::new() });
        }
        let files = info.image.manifest.files.values();
        let blobs: Vec<Sha256Hex> = files.map(|file| file.sha256.clone()).collect();
        self.collect_blobs(Among::These(&blobs)).await?;
        info.names.clear();
        let tasks = self.evict_everywhere(call, &info, at).await;
        Ok(ImageTasks { image: info, tasks })
    }

    /// Nodes need not keep what nobody has any more. One that cannot be told finds out by itself, some day.
    async fn evict_everywhere(&self, call: &Call, image: &ImageInfo, at: (Schedule, Timestamp)) -> Vec<Task> {
        let evict = async {
            if self.store.image(image.image.digest.clone()).await?.is_some() {
                return Ok(Vec::new());
            }
            let mut nodes = self.store.nodes().await?;
            nodes.retain(|node| node.facts.images.contains(&image.image.digest.0));
            self.on_nodes(call, KindName::ImageDelete, image, &nodes, at).await
        };
        evict.await.unwrap_or_else(|error: Error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "nodes keep an image that was deleted for a while"
            );
            Vec::new()
        })
    }

    /// Removes blobs that no image needs; says how many.
    pub(crate) async fn collect_blobs(&self, among: Among<'_>) -> Result<usize> {
        let used = async { Ok(self.store.image_blobs().await?) };
        self.blobs.collect(used, among).await
    }

    /// Refuses a disk that must not be opened.
    async fn examine(&self, manifest: &Manifest) -> Result<()> {
        let Some((part, file)) = manifest.root() else { return Ok(()) };
        let format = file.format.unwrap_or(DiskFormat::Raw);
        let size = self.blobs.inspect(&file.sha256, format.into()).await?;
        Ok(holds(manifest, part, size)?)
    }

    /// Takes in an image from a folder with an `image.json` and a file for each part. The bytes are copied, and what is
    /// hashed is what is written; never linked, for a build may later write into its own files. One that was taken in
    /// before is left as it is, and no other loses its name to it but one that was shipped as well.
    pub async fn import_dir(&self, tenant: TenantId, dir: &Path, actor: Actor) -> Result<ShippedImage> {
        let text = tokio::fs::read(dir.join(MANIFEST)).await.map_err(Error::file("read image.json"))?;
        let value = serde_json::from_slice(&text)
            .map_err(|error| Refusal::new(Code::MalformedBody, format!("image.json is not JSON: {error}")))?;
        let manifest: Manifest = strict(&value)?;
        manifest.check()?;
        if let Some(known) = self.store.shipped_image(tenant, manifest.digest()).await? {
            return Ok(known);
        }
        for (part, file) in &manifest.files {
            self.import_file(tenant, &dir.join(part.file_name()), &file.sha256).await?;
        }
        let _claim = self.blobs.claim().await;
        self.fit(&manifest).await?;
        let shipped = self.store.ship_image(tenant, manifest, actor).await??;
        self.settle_room(shipped.image.clone()).await?;
        Ok(shipped)
    }

    async fn import_file(&self, tenant: TenantId, path: &Path, sha256: &Sha256Hex) -> Result<()> {
        if self.blobs.size(sha256).await?.is_some() {
            return Ok(());
        }
        let file = tokio::fs::File::open(path).await.map_err(Error::file("open a file of the image"))?;
        let charge = self.charge(tenant).await?;
        self.blobs.put(sha256, self.ids.next(self.clock.now()), charge, file).await?;
        Ok(())
    }

    /// An image by its digest, for nodes.
    pub async fn manifest(&self, digest: &str) -> Result<Manifest> {
        let image = self.store.image(ImageDigest(digest.to_owned())).await?;
        let image = image.ok_or_else(|| not_found(Code::ImageNotFound, "image", digest))?;
        Ok(image.manifest)
    }
}

/// Refuses an image whose machines would get a smaller disk than it has.
pub(super) fn holds(manifest: &Manifest, part: Part, virtual_size: u64) -> Result<(), Refusal> {
    let gib = virtual_size.div_ceil(GIB);
    if u64::try_from(manifest.defaults.disk_gib).is_ok_and(|disk| disk >= gib) {
        return Ok(());
    }
    let detail = format!("the {} needs {gib} GiB; machines that do not say get less", part.file_name());
    Err(Refusal::field("defaults.disk_gib", detail))
}

fn wrong_size(part: Part, file: &ImageFile, size: u64) -> Refusal {
    let part = part.file_name();
    Refusal::field(&format!("files.{part}.size"), format!("{} is said, the blob has {size} bytes", file.size))
}

fn missing_blob(part: Part, file: &ImageFile) -> Refusal {
    let detail = format!("no blob has this digest; send it first: PUT /api/v1/blobs/{}", file.sha256);
    Refusal::field(&format!("files.{}.sha256", part.file_name()), detail)
}
