//! `image.delete`: an image out of this node's cache, unless machines here are made of it.
//!
//! It goes as a whole, under another name first; what a stopped attempt leaves under that name, the next agent removes.

use hostler_model::kind::{ImageDelete, ImageDeleteOutput};

use super::{Begun, Failure, Handler, Job, Undo};
use crate::image;

impl Handler for ImageDelete {
    async fn run(job: &Job<ImageDelete>) -> Result<ImageDeleteOutput, Failure> {
        let digest = super::filled_in(job.params.image_digest.as_ref())?;
        let used = image::used(&*job.tools.hypervisor);
        Ok(ImageDeleteOutput { existed: job.tools.images.remove(digest, used).await? })
    }

    async fn undo(_: &Job<ImageDelete>, _: Begun) -> Undo<ImageDeleteOutput> {
        Undo::Undone
    }
}
