//! `vm.exec`: runs a program in a guest. Always a list of arguments, never a shell line.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Turn, within};
use crate::{
    error::{Code, Refusal},
    retry::RetryPolicy,
    secret::Sensitive,
    vm::VmState,
};

/// How much of stdin, stdout and stderr travels, each: 64 KiB. Longer output is cut, and said to be.
pub const OUTPUT_LIMIT: usize = 64 * 1024;

/// The kind.
#[derive(Debug)]
pub struct VmExec;

/// What to run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmExecParams {
    /// The program and its arguments: 1 to 256, 32 KiB in all.
    pub argv: Vec<String>,
    /// What it reads, at most 64 KiB. It is kept apart from the task and shown to nobody.
    #[serde(default)]
    #[schema(value_type = String)]
    pub stdin: Sensitive,
    /// How long it may take, in seconds, 1 to 3,600; 60 where nothing is said.
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmExecOutput {
    /// The program's exit code; `None` when a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it wrote, at most 64 KiB; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to stderr, likewise.
    pub stderr: String,
    /// Whether stdout was cut.
    #[serde(default)]
    pub stdout_truncated: bool,
    /// Whether stderr was cut.
    #[serde(default)]
    pub stderr_truncated: bool,
}

impl Kind for VmExec {
    const NAME: &'static str = "vm.exec";
    const CLASS: Class = Class::Guest;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmExec;
    const AIM: Aim = Aim::Vm;
    const TURN: Turn = Turn::Shared;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Fail;
    const RETRY: RetryPolicy = RetryPolicy::exponential(3, 1, 10);
    const RETRY_WHY: &'static str =
        "Only a program that provably never began is begun again, and somebody waits for its output.";
    const TIMEOUT: Duration = Duration::from_secs(60);
    const SENSITIVE: &'static [&'static str] = &["/stdin"];

    type Params = VmExecParams;
    type Output = VmExecOutput;

    fn fill(mut params: VmExecParams, _: &FillContext<'_>) -> Result<VmExecParams, Refusal> {
        within("argv", params.argv.len(), 1, 256)?;
        within("argv (bytes in all)", params.argv.iter().map(String::len).sum(), 1, 32 * 1024)?;
        if params.argv[0].is_empty() || params.argv.iter().any(|arg| arg.contains('\0')) {
            return Err(Refusal::field("argv", "the program has no name, or an argument has a NUL byte"));
        }
        within("stdin (bytes)", params.stdin.text().map_or(0, str::len), 0, OUTPUT_LIMIT)?;
        params.timeout_seconds = Some(within("timeout_seconds", params.timeout_seconds.unwrap_or(60), 1, 3600)?);
        Ok(params)
    }

    // The program's own time, and enough for the agent to say that it is over.
    fn timeout(params: &VmExecParams) -> Duration {
        Duration::from_secs(u64::from(params.timeout_seconds.unwrap_or(60)) + 30)
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Running => Admission::Go,
            VmState::Provisioning
            | VmState::Paused
            | VmState::Stopped
            | VmState::Sleeping
            | VmState::Error
            | VmState::Unknown
            | VmState::Deleted => Admission::Refuse(
                Code::VmStateConflict,
                format!("the VM is {vm}; a program can run only while it is running"),
            ),
        }
    }
}
