//! Images: registered by a manifest whose blobs are here, imported from a folder. Never here: how one is booted.

use std::path::Path;

use hostler_model::{
    Code, ImageDigest, Refusal, TenantId,
    api::strict,
    event::Actor,
    image::{DiskFormat, Image, ImageFile, Manifest, Part, Sha256Hex},
};

use super::{App, Error, Result, caller::Call, not_found};

/// The manifest's name in a folder that holds an image.
const MANIFEST: &str = "image.json";
const GIB: u64 = 1 << 30;

impl App {
    /// The caller's images.
    pub async fn images(&self, call: &Call) -> Result<Vec<Image>> {
        Ok(self.store.images(call.caller.tenant).await?)
    }

    /// Registers an image, whose blobs must be here already.
    pub async fn put_image(&self, tenant: TenantId, manifest: Manifest, actor: Actor) -> Result<Image> {
        manifest.check()?;
        for (part, file) in &manifest.files {
            match self.blobs.size(&file.sha256).await? {
                Some(size) if size == file.size => {}
                Some(size) => return Err(wrong_size(*part, file, size).into()),
                None => return Err(missing_blob(*part, file).into()),
            }
        }
        self.examine(&manifest).await?;
        Ok(self.store.put_image(tenant, manifest, actor).await?)
    }

    /// Refuses a disk that must not be opened.
    async fn examine(&self, manifest: &Manifest) -> Result<()> {
        let Some((part, file)) = manifest.root() else { return Ok(()) };
        let format = file.format.unwrap_or(DiskFormat::Raw);
        let size = self.blobs.inspect(&file.sha256, format.into()).await?;
        let gib = size.div_ceil(GIB);
        if manifest.defaults.disk_gib < 0 || (manifest.defaults.disk_gib as u64) < gib {
            let detail = format!("the {} needs {gib} GiB; machines that do not say get less", part.file_name());
            return Err(Refusal::field("defaults.disk_gib", detail).into());
        }
        Ok(())
    }

    /// Takes in an image from a folder with an `image.json` and a file for each part. The bytes are copied, and what is
    /// hashed is what is written; never linked, for a build may later write into its own files.
    pub async fn import_dir(&self, tenant: TenantId, dir: &Path, actor: Actor) -> Result<Image> {
        let text = tokio::fs::read(dir.join(MANIFEST)).await.map_err(Error::file("read image.json"))?;
        let value = serde_json::from_slice(&text)
            .map_err(|error| Refusal::new(Code::MalformedBody, format!("image.json is not JSON: {error}")))?;
        let manifest: Manifest = strict(&value)?;
        manifest.check()?;
        for (part, file) in &manifest.files {
            self.import_file(&dir.join(part.file_name()), &file.sha256).await?;
        }
        self.put_image(tenant, manifest, actor).await
    }

    async fn import_file(&self, path: &Path, sha256: &Sha256Hex) -> Result<()> {
        if self.blobs.size(sha256).await?.is_some() {
            return Ok(());
        }
        let file = tokio::fs::File::open(path).await.map_err(Error::file("open a file of the image"))?;
        self.blobs.put(sha256, self.ids.next(self.clock.now()), file).await?;
        Ok(())
    }

    /// An image by its digest, for nodes.
    pub async fn manifest(&self, digest: &str) -> Result<Manifest> {
        let image = self.store.image(ImageDigest(digest.to_owned())).await?;
        let image = image.ok_or_else(|| not_found(Code::ImageNotFound, "image", digest))?;
        Ok(image.manifest)
    }
}

fn wrong_size(part: Part, file: &ImageFile, size: u64) -> Refusal {
    let part = part.file_name();
    Refusal::field(&format!("files.{part}.size"), format!("{} is said, the blob has {size} bytes", file.size))
}

fn missing_blob(part: Part, file: &ImageFile) -> Refusal {
    let detail = format!("no blob has this digest; send it first: PUT /api/v1/blobs/{}", file.sha256);
    Refusal::field(&format!("files.{}.sha256", part.file_name()), detail)
}
