//! Starting machines again by themselves: whether one is to be, and when. Pure: the store asks, and files ordinary
//! tasks; it remembers the tries of the last hour.
//!
//! ```text
//! ended by itself ──policy──► due ──a pause that doubles with each try of the last hour──► vm.start ──► runs
//!                              ▲                                                            │ failed
//!                              └────────────────────────────────────────────────────────────┘
//! ```
//!
//! Never here: a machine that somebody stopped. Whoever does that takes the reason away by which it would be started.
//! One that was stopped because its host was going down has that for its reason, once its host is back and says so.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    error::{Refusal, excerpt},
    vm::{Vm, VmReason, VmState},
};

/// Tries within an hour, at most: a machine that dies at once uses them up in a quarter of one.
pub const PER_HOUR: usize = 10;

/// Over which tries are counted: no start is planned for later than this.
pub const WINDOW: Duration = Duration::from_secs(3600);

/// The pause before the first try of an hour; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// When a machine whose process ended by itself is started again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never by itself.
    #[default]
    Never,
    /// When its process crashed or was killed.
    OnFailure,
    /// Then, and when its guest turned itself off.
    Always,
}

impl RestartPolicy {
    /// Every policy.
    pub const ALL: [RestartPolicy; 3] = [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always];

    /// As the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            RestartPolicy::Never => "never",
            RestartPolicy::OnFailure => "on_failure",
            RestartPolicy::Always => "always",
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RestartPolicy {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        // People write a hyphen where the API has an underscore.
        let wanted = text.replace('-', "_");
        RestartPolicy::ALL.into_iter().find(|policy| policy.as_str() == wanted).ok_or_else(|| {
            let known = RestartPolicy::ALL.map(RestartPolicy::as_str).join(", ");
            Refusal::field("restart", format!("{:?} is no restart policy; there are {known}", excerpt(text)))
        })
    }
}

/// When a machine is to be started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Why.
    pub cause: VmReason,
    /// When.
    pub at: Timestamp,
    /// Whether the tries of this hour are used up: then `at` is when the hour of the first of them is over.
    pub held: bool,
}

/// Why a machine is to be started again by itself; `None` where it is not.
pub fn cause(vm: &Vm) -> Option<VmReason> {
    let reason = vm.reason?;
    let ran = matches!(vm.last_state, Some(VmState::Running | VmState::Paused));
    let wanted = match (reason, vm.state) {
        (VmReason::Crashed, VmState::Error) => ran && vm.spec.restart != RestartPolicy::Never,
        (VmReason::GuestShutdown, VmState::Stopped) => vm.spec.restart == RestartPolicy::Always,
        (VmReason::HostWentDown, VmState::Error) => ran && vm.spec.autostart,
        (VmReason::HostWentDown, VmState::Stopped) => vm.spec.autostart,
        (
            VmReason::Crashed
            | VmReason::GuestShutdown
            | VmReason::HostWentDown
            | VmReason::Missing
            | VmReason::NodeLost
            | VmReason::CreateFailed
            | VmReason::DeleteFailed
            | VmReason::OutcomeUnknown
            | VmReason::IoError,
            _,
        ) => false,
    };
    wanted.then_some(reason)
}

/// When a machine is to be started again, given the tries before; `None` where it is not.
pub fn plan(vm: &Vm, tries: &[Timestamp], now: Timestamp) -> Option<Plan> {
    let cause = cause(vm)?;
    let recent = || tries.iter().filter(|at| counts(**at, now));
    let count = recent().count();
    if count >= PER_HOUR {
        let first = recent().min().copied().unwrap_or(now);
        return Some(Plan { cause, at: first.plus(WINDOW), held: true });
    }
    Some(Plan { cause, at: now.plus(pause(count)), held: false })
}

/// Whether a try is of the last hour.
pub fn counts(at: Timestamp, now: Timestamp) -> bool {
    // A try that is yet to come is of before the clock stepped back.
    at <= now && now.since(at) < WINDOW
}

fn pause(tries: usize) -> Duration {
    let doubled =
        u32::try_from(tries).ok().and_then(|tries| 2u32.checked_pow(tries)).and_then(|by| FIRST.checked_mul(by));
    doubled.map_or(LONGEST, |pause| pause.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

    fn vm(state: VmState, reason: Option<VmReason>, last: Option<VmState>) -> Vm {
        let id = "0190f1f0-0000-7000-8000-00000000000b";
        serde_json::from_value(json!({
            "id": id, "tenant": id, "name": "web", "state": state, "ready": false, "reason": reason,
            "last_state": last, "epoch": 1, "generation": 1,
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
            "spec": {"image": "tiny", "image_digest": "ab", "vcpus": 1, "memory_mib": 256, "disk_gib": 1,
                "ready_timeout_seconds": 60},
        }))
        .unwrap()
    }

    fn with(vm: Vm, restart: RestartPolicy, autostart: bool) -> Vm {
        let mut vm = vm;
        (vm.spec.restart, vm.spec.autostart) = (restart, autostart);
        vm
    }

    #[test]
    fn each_policy_starts_what_it_says_and_nothing_else() {
        use RestartPolicy::{Always, Never, OnFailure};
        let crashed = || vm(VmState::Error, Some(VmReason::Crashed), Some(VmState::Running));
        let off = || vm(VmState::Stopped, Some(VmReason::GuestShutdown), None);
        let host = || vm(VmState::Error, Some(VmReason::HostWentDown), Some(VmState::Paused));
        let orderly = || vm(VmState::Stopped, Some(VmReason::HostWentDown), None);
        for (policy, autostart, starts) in [
            (Never, false, [false, false, false]),
            (OnFailure, false, [true, false, false]),
            (Always, false, [true, true, false]),
            (Never, true, [false, false, true]),
            (Always, true, [true, true, true]),
        ] {
            let now = [crashed(), off(), host()].map(|vm| cause(&with(vm, policy, autostart)).is_some());
            assert_eq!(now, starts, "{policy:?} {autostart}");
            assert_eq!(cause(&with(orderly(), policy, autostart)).is_some(), autostart, "{policy:?}");
        }
    }

    #[test]
    fn what_somebody_stopped_or_what_never_ran_is_not_started() {
        for (state, reason, last) in [
            (VmState::Stopped, None, None),
            (VmState::Error, Some(VmReason::Crashed), Some(VmState::Stopped)),
            (VmState::Error, Some(VmReason::HostWentDown), Some(VmState::Stopped)),
            (VmState::Error, Some(VmReason::Crashed), Some(VmState::Provisioning)),
            (VmState::Running, None, None),
            (VmState::Unknown, Some(VmReason::NodeLost), Some(VmState::Running)),
            (VmState::Deleted, None, None),
        ] {
            assert_eq!(cause(&with(vm(state, reason, last), RestartPolicy::Always, true)), None, "{state} {reason:?}");
        }
    }

    #[test]
    fn pauses_double_and_the_hour_bounds_the_tries() {
        let crashed =
            with(vm(VmState::Error, Some(VmReason::Crashed), Some(VmState::Running)), RestartPolicy::Always, false);
        let (mut now, mut tries, mut pauses) = (NOW, Vec::new(), Vec::new());
        while let Some(Plan { at, held: false, .. }) = plan(&crashed, &tries, now) {
            pauses.push(at.since(now).as_secs());
            now = at;
            tries.push(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        let held = plan(&crashed, &tries, now).unwrap();
        assert_eq!((held.held, held.at), (true, tries[0].plus(WINDOW)));
        let later = plan(&crashed, &tries, held.at).unwrap();
        assert!(!later.held, "the first try is an hour ago");
        assert_eq!(plan(&crashed, &tries, now.plus(2 * WINDOW)).unwrap().at, now.plus(2 * WINDOW).plus(FIRST));
    }

    proptest! {
        #[test]
        fn there_are_never_more_tries_in_an_hour_than_allowed(steps in proptest::collection::vec(0u64..900, 1..200)) {
            let crashed = with(vm(VmState::Error, Some(VmReason::Crashed), Some(VmState::Running)), RestartPolicy::OnFailure, false);
            let (mut now, mut tries) = (NOW, Vec::<Timestamp>::new());
            for step in steps {
                let Some(plan) = plan(&crashed, &tries, now) else { panic!("it is to be started") };
                prop_assert!(plan.at > now);
                now = plan.at.plus(Duration::from_secs(step));
                tries.push(now);
                let recent = tries.iter().filter(|at| counts(**at, now)).count();
                prop_assert!(recent <= PER_HOUR, "{recent} tries in an hour");
            }
        }
    }
}
