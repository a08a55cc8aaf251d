//! `image.delete`: an image out of a node's cache. Refused by the node while machines there are made of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Turn, image_pull::resolved};
use crate::{defaults::Defaults, error::Refusal, id::ImageDigest, retry::RetryPolicy};

/// The kind.
#[derive(Debug)]
pub struct ImageDelete;

/// Which image; `target.node` names the node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ImageDeleteParams {
    /// By name or digest.
    pub image: String,
    /// By digest: filled in at submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<ImageDigest>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageDeleteOutput {
    /// Whether it was there.
    pub existed: bool,
}

impl Kind for ImageDelete {
    const NAME: &'static str = "image.delete";
    const CLASS: Class = Class::Disk;
    const ROLE: Role = Role::TenantAdmin;
    const SCOPE: Scope = Scope::ImageWrite;
    const AIM: Aim = Aim::AnyNode;
    const TURN: Turn = Turn::None;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Rerun;
    const RETRY: RetryPolicy = RetryPolicy::exponential(5, 5, 300);
    const RETRY_WHY: &'static str =
        "Nobody waits for it, and an image that a machine is being made of is free a little later.";
    const TIMEOUT: Duration = Duration::from_secs(300);

    type Params = ImageDeleteParams;
    type Output = ImageDeleteOutput;

    fn image(params: &Value, _: &Defaults) -> Option<String> {
        params.get("image")?.as_str().map(str::to_owned)
    }

    fn fill(mut params: ImageDeleteParams, context: &FillContext<'_>) -> Result<ImageDeleteParams, Refusal> {
        params.image_digest = Some(resolved(&params.image, context)?);
        Ok(params)
    }
}
