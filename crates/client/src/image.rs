//! Images and their imports: `/api/v1/images`, `/api/v1/imports`, `/api/v1/catalogue`.

use hostler_link::{Body, with_timeout};
use hostler_model::{
    Code,
    api::Page,
    catalogue::KnownImage,
    disk::SourceFormat,
    id::ImportId,
    image::{ImageInfo, ImageTasks, NewAlias, NewPull, Sha256Hex},
    import::{Import, Importing, NewImport, NewShape},
    schedule::Asked,
};
use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Client, ClientError, Submit,
    call::{Call, segment},
};

/// What is said of an upload.
#[derive(Clone, PartialEq, Debug)]
pub struct Upload {
    /// What the bytes are.
    pub sha256: Sha256Hex,
    /// Their format.
    pub format: Option<SourceFormat>,
    /// What the image is like.
    pub image: NewShape,
}

/// An upload that is only asked about.
#[derive(Clone, PartialEq, Debug)]
pub struct DryUpload {
    /// What the bytes would be, where that is known.
    pub sha256: Option<Sha256Hex>,
    /// Their format.
    pub format: Option<SourceFormat>,
    /// What the image would be like.
    pub image: NewShape,
    /// How many they would be.
    pub length: u64,
}

/// What of a file is sent: all that follows `from`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rest {
    /// How much of it is there already.
    pub from: u64,
    /// How long it is.
    pub of: u64,
}

impl Rest {
    fn mark(self, call: Call) -> Result<Call, ClientError> {
        match self.from {
            0 => Ok(call),
            from => call.header("content-range", &format!("bytes {from}-{}/{}", self.of.saturating_sub(1), self.of)),
        }
    }
}

/// How much of a file a server has.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Held {
    /// How many bytes.
    pub size: u64,
    /// Whether these are all.
    pub complete: bool,
}

/// How long the server may take from the last byte to its answer, per GiB that was sent, and at least: it makes the bytes
/// durable and looks at them.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(600);

fn path(image: &str) -> Result<String, ClientError> {
    Ok(format!("/api/v1/images/{}", segment(image, Code::ImageNotFound)?))
}

/// What is said of an upload beside its bytes.
fn content(
    name: &str,
    sha256: Option<&Sha256Hex>,
    format: Option<SourceFormat>,
    image: &NewShape,
) -> Result<Call, ClientError> {
    let word = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    Ok(Call::put(format!("{}/content", path(name)?))
        .query("sha256", sha256)
        .query("format", format.map(SourceFormat::as_str))
        .query("arch", image.arch.as_ref())
        .query("firmware", word(image.firmware.map(|firmware| json!(firmware))))
        .query("vcpus", image.vcpus)
        .query("memory_mib", image.memory_mib)
        .query("disk_gib", image.disk_gib)
        .query("ready", image.ready.as_ref()))
}

impl Client {
    /// All images: the server gives them on one page.
    pub async fn images(&self) -> Result<Vec<ImageInfo>, ClientError> {
        let page: Page<ImageInfo> = self.call(Call::get("/api/v1/images")).await?;
        Ok(page.items)
    }

    /// One image, by name or digest.
    pub async fn image(&self, image: &str) -> Result<ImageInfo, ClientError> {
        self.call(Call::get(path(image)?)).await
    }

    /// Lets a name stand for an image.
    pub async fn name_image(&self, name: &str, image: &str) -> Result<ImageInfo, ClientError> {
        self.call(Call::put(path(name)?).json(&NewAlias { image: image.to_owned() })?).await
    }

    /// Removes a name of an image, and with its last one the image; or the image from a node's cache only.
    /// `when` is for the nodes that remove it.
    pub async fn delete_image(&self, image: &str, node: Option<&str>, when: &Asked) -> Result<ImageTasks, ClientError> {
        self.once(Call::delete(path(image)?).query("node", node).scheduled(when)).await
    }

    /// Brings an image to a node, or to all that lack it.
    pub async fn pull_image(&self, image: &str, node: Option<&str>, when: &Asked) -> Result<ImageTasks, ClientError> {
        let new = NewPull { node: node.map(str::to_owned) };
        self.once(Call::post(format!("{}/pull", path(image)?)).json(&new)?.scheduled(when)).await
    }

    /// The well-known images that can be imported by name.
    pub async fn catalogue(&self) -> Result<Vec<KnownImage>, ClientError> {
        let page: Page<KnownImage> = self.call(Call::get("/api/v1/catalogue")).await?;
        Ok(page.items)
    }

    /// Begins an import from where it says, once however often it is sent.
    pub async fn import_image(&self, name: &str, new: &NewImport, how: &Submit) -> Result<Import, ClientError> {
        let call = Call::post(format!("{}/import", path(name)?)).json(new)?;
        Ok(self.submit::<Importing>(call, how).await?.import)
    }

    /// How much of a file is at the server: from there its sending goes on.
    pub async fn held(&self, sha256: &Sha256Hex) -> Result<Held, ClientError> {
        self.call(Call::get(format!("/api/v1/blobs/{sha256}"))).await
    }

    /// Sends a whole disk, or the rest of it. It is sent once: its bytes come from a stream. One that broke off can be gone
    /// on with; under the same key, one whose answer was lost is answered again.
    pub async fn upload_image(
        &self,
        name: &str,
        upload: &Upload,
        rest: Rest,
        key: &str,
        body: Body,
    ) -> Result<Import, ClientError> {
        let call = content(name, Some(&upload.sha256), upload.format, &upload.image)?.header("idempotency-key", key)?;
        Ok(self.send::<Importing>(rest.mark(call)?, rest, body).await?.import)
    }

    /// Whether a disk of so many bytes could be uploaded; nothing is sent of it.
    pub async fn upload_dry(&self, name: &str, upload: &DryUpload) -> Result<Import, ClientError> {
        let call = content(name, upload.sha256.as_ref(), upload.format, &upload.image)?.query("dry_run", Some(true));
        Ok(self.call::<Importing>(call.query("length", Some(upload.length))).await?.import)
    }

    /// Sends one file of an image that is registered by a manifest, or imported in parts; or the rest of it.
    pub async fn upload_blob(&self, sha256: &Sha256Hex, rest: Rest, body: Body) -> Result<(), ClientError> {
        let call = Call::put(format!("/api/v1/blobs/{sha256}"));
        self.send::<serde_json::Value>(rest.mark(call)?, rest, body).await.map(drop)
    }

    async fn send<T: serde::de::DeserializeOwned>(&self, call: Call, rest: Rest, body: Body) -> Result<T, ClientError> {
        let length = rest.of.saturating_sub(rest.from);
        let mut headers = self.headers(&call)?;
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        // A slow line is no fault; what stands still is ended by the server.
        let patience = SETTLING.saturating_mul(u32::try_from(rest.of >> 30).unwrap_or(u32::MAX).saturating_add(6));
        let address = self.address(&call);
        let sending = self.link.send_stream(call.method(), &address, body, headers);
        let answer = with_timeout(patience, sending).await;
        answer.map(|answer| answer.body).map_err(|error| ClientError::of(&call.name(), error))
    }

    /// One import.
    pub async fn import(&self, import: &str) -> Result<Import, ClientError> {
        self.call(Call::get(format!("/api/v1/imports/{}", segment(import, Code::ImportNotFound)?))).await
    }

    /// The newest `most` imports, or all of them.
    pub async fn imports(&self, most: Option<usize>) -> Result<Vec<Import>, ClientError> {
        self.every(Call::get("/api/v1/imports"), most).await
    }

    /// Stops an import.
    pub async fn cancel_import(&self, import: ImportId) -> Result<Import, ClientError> {
        self.call(Call::post(format!("/api/v1/imports/{import}/cancel"))).await
    }
}
