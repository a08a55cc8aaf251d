//! `echo`: gives back what it was told. It takes a little memory on the books while it lives, so that it exercises
//! everything a task does but a machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Trace, Turn, within};
use crate::{error::Refusal, retry::RetryPolicy, unit::Resources};

/// The kind.
#[derive(Debug)]
pub struct Echo;

/// What is echoed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EchoParams {
    /// At most 4,096 bytes.
    #[serde(default)]
    pub message: String,
    /// How long it takes, in milliseconds, at most an hour.
    #[serde(default)]
    pub delay_ms: u64,
}

/// What came back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EchoOutput {
    /// As it was sent.
    pub message: String,
}

impl Kind for Echo {
    const NAME: &'static str = "echo";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::TaskWrite;
    const AIM: Aim = Aim::AnyNode;
    const TURN: Turn = Turn::None;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Rerun;
    const TRACE: Trace = Trace::None;
    const RETRY: RetryPolicy = RetryPolicy::exponential(3, 1, 60);
    const RETRY_WHY: &'static str = "It has no effect, and shows what a task does whose node comes and goes.";
    const TIMEOUT: Duration = Duration::from_secs(60);

    type Params = EchoParams;
    type Output = EchoOutput;

    fn fill(params: EchoParams, _: &FillContext<'_>) -> Result<EchoParams, Refusal> {
        within("params.message (bytes)", params.message.len(), 0, 4096)?;
        within("params.delay_ms", params.delay_ms, 0, 3_600_000)?;
        Ok(params)
    }

    fn delta(_: &EchoParams) -> Resources {
        Resources { memory_mib: 1, ..Resources::ZERO }
    }

    fn timeout(params: &EchoParams) -> Duration {
        Self::TIMEOUT + Duration::from_millis(params.delay_ms)
    }
}
