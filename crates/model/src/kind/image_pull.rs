//! `image.pull`: an image into a node's cache, before a machine needs it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Turn};
use crate::{
    defaults::Defaults,
    error::{Code, Refusal, excerpt},
    id::ImageDigest,
    retry::RetryPolicy,
};

/// The kind.
#[derive(Debug)]
pub struct ImagePull;

/// Which image; `target.node` names the node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ImagePullParams {
    /// By name or digest.
    pub image: String,
    /// By digest: filled in at submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<ImageDigest>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImagePullOutput {
    /// Whether it had to be fetched.
    pub fetched: bool,
    /// Bytes of its files in all.
    pub bytes: u64,
}

impl Kind for ImagePull {
    const NAME: &'static str = "image.pull";
    const CLASS: Class = Class::Disk;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::ImageWrite;
    const AIM: Aim = Aim::AnyNode;
    const TURN: Turn = Turn::None;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Rerun;
    const RETRY: RetryPolicy = RetryPolicy::exponential(8, 5, 300);
    const RETRY_WHY: &'static str =
        "What it fetches may be away for minutes, many nodes may ask at once, and what was fetched is kept.";
    const TIMEOUT: Duration = Duration::from_secs(2 * 3600);

    type Params = ImagePullParams;
    type Output = ImagePullOutput;

    fn image(params: &Value, _: &Defaults) -> Option<String> {
        params.get("image")?.as_str().map(str::to_owned)
    }

    fn fill(mut params: ImagePullParams, context: &FillContext<'_>) -> Result<ImagePullParams, Refusal> {
        params.image_digest = Some(resolved(&params.image, context)?);
        Ok(params)
    }
}

/// The digest of the image that was named.
pub(super) fn resolved(name: &str, context: &FillContext<'_>) -> Result<ImageDigest, Refusal> {
    match context.image {
        Some(image) => Ok(image.digest.clone()),
        None if name.is_empty() => Err(Refusal::field("params.image", "name an image")),
        None => {
            let name = excerpt(name);
            let detail = format!("there is no image {name:?}; `hostler image list` shows those there are");
            Err(Refusal::new(Code::ImageNotFound, detail).with("image", name))
        }
    }
}
