//! `image.pull`: an image into this node's cache, before a machine needs it.
//!
//! What a stopped attempt has fetched is gone on with by the next one; it takes nothing on the books.

use hostler_model::kind::{ImagePull, ImagePullOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for ImagePull {
    async fn run(job: &Job<ImagePull>) -> Result<ImagePullOutput, Failure> {
        let digest = super::filled_in(job.params.image_digest.as_ref())?;
        job.phase("image");
        let image = job.tools.images.get(digest, |percent| job.percent(percent)).await?;
        let bytes = image.manifest.files.values().map(|file| file.size).sum();
        Ok(ImagePullOutput { fetched: image.fetched, bytes })
    }

    async fn undo(_: &Job<ImagePull>, _: Begun) -> Undo<ImagePullOutput> {
        Undo::Undone
    }
}
