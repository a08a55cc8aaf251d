//! The images that submissions name: an image may have been deleted since its name was looked up. Its deletion looks for
//! machines in a step of its own, so that whichever of the two comes second sees the other.

use std::collections::BTreeSet;

use hostler_db::{Result, Tx};
use hostler_model::{
    Code, ImageDigest, Refusal, TenantId,
    kind::{ImagePullParams, KindName},
};
use serde::Deserialize;

use crate::{Answer, Submission, image};

/// Those that are there, of those that are wanted.
pub(super) struct There(BTreeSet<(TenantId, ImageDigest)>);

impl There {
    pub(super) fn read(tx: &Tx<'_>, items: &[Submission]) -> Result<There> {
        let wanted: BTreeSet<(TenantId, ImageDigest)> =
            items.iter().filter_map(|item| Some((item.tenant, wanted(item)?))).collect();
        Ok(There(if wanted.is_empty() { wanted } else { image::known(tx, &wanted)? }))
    }

    /// Refuses a submission whose image is not there.
    pub(super) fn has(&self, item: &Submission) -> Answer<()> {
        match wanted(item) {
            Some(digest) if !self.0.contains(&(item.tenant, digest.clone())) => {
                let detail =
                    format!("the image {digest} was deleted meanwhile; `hostler image list` shows those there are");
                Err(Refusal::new(Code::ImageNotFound, detail).with("image", digest.0))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The image without which a submission makes no sense.
fn wanted(item: &Submission) -> Option<ImageDigest> {
    match (&item.vm, item.kind) {
        (Some(machine), _) => Some(machine.spec.image_digest.clone()),
        (None, KindName::ImagePull) => ImagePullParams::deserialize(&item.params).ok()?.image_digest,
        (None, _) => None,
    }
}
