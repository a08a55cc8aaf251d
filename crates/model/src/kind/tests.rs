//! What kinds say about themselves.

use super::*;

#[test]
fn a_kind_is_found_by_its_name_and_by_no_other() {
    for kind in KindName::ALL {
        assert_eq!(kind.as_str().parse::<KindName>().unwrap(), *kind);
        assert_eq!(kind.spec().name, *kind);
    }
    assert_eq!("vm.explode".parse::<KindName>().unwrap_err().code, Code::UnknownAction);
}

/// What a kind makes of a machine in each state, in the order of [`VmState::ALL`].
fn admitted(kind: KindName) -> String {
    let word = |state: &VmState| match (kind.spec().admit)(*state) {
        Admission::Go => 'g',
        Admission::Moot(_) => 'm',
        Admission::Refuse(code, detail) => {
            assert!(code == Code::VmStateConflict && detail.contains(state.as_str()), "{kind} {state}: {detail}");
            '-'
        }
    };
    VmState::ALL.iter().map(word).collect()
}

#[test]
fn each_kind_states_retries_that_could_be_asked_for_and_says_why() {
    for kind in KindName::ALL {
        let spec = kind.spec();
        let asked = crate::retry::RetryAsked::from(spec.retry);
        assert_eq!(spec.retry.with(&asked, crate::retry::Repeatable::No).unwrap(), spec.retry, "{kind}");
        assert!(spec.retry_why.ends_with('.') && spec.retry_why.len() < 120, "{kind}: {}", spec.retry_why);
    }
}

#[test]
fn each_kind_works_on_the_states_it_can_work_on() {
    // provisioning, running, paused, stopped, sleeping, error, unknown, deleted
    for (kind, table) in [
        (KindName::VmStart, "-m-g-g--"),
        (KindName::VmStop, "-ggg-g--"),
        (KindName::VmReboot, "-g------"),
        (KindName::VmPause, "-gm-----"),
        (KindName::VmResume, "-mg-----"),
        (KindName::VmExec, "-g------"),
        (KindName::VmDelete, "gggggggm"),
    ] {
        assert_eq!(admitted(kind), table, "{kind}");
    }
}

#[test]
fn a_switch_of_power_never_touches_the_charge_and_leads_where_it_says() {
    let succeeded = |output: Value| Verdict::Succeeded { output };
    for (kind, output, to) in [
        (KindName::VmStart, serde_json::json!({"how": "started"}), VmState::Running),
        (KindName::VmStop, serde_json::json!({"how": "hard"}), VmState::Stopped),
        (KindName::VmReboot, serde_json::json!({"how": "hard", "boot_ms": 1.0}), VmState::Running),
        (KindName::VmPause, serde_json::json!({"already": false}), VmState::Paused),
        (KindName::VmResume, serde_json::json!({"already": false, "ready": true}), VmState::Running),
    ] {
        for state in VmState::ALL {
            let settled = (kind.spec().settle)(state, &succeeded(output.clone()));
            assert_eq!(settled.allocation, Settlement::Keep, "{kind} {state}");
            // A machine that is so already is left as it is known.
            let after = settled.vm.map_or(state, |change| change.state);
            assert_eq!(after, to, "{kind} {state}");
            for effects in [Effects::Undone, Effects::Remain] {
                let error = crate::task::TaskError { code: Code::HypervisorFailed, detail: String::new() };
                let settled = (kind.spec().settle)(state, &Verdict::Unsuccessful { error, effects });
                assert_eq!(settled, Settled::NOTHING, "{kind} {state}");
            }
        }
    }
}

#[test]
fn what_ends_without_success_gives_nothing_back_unless_nothing_is_left() {
    let verdict = |effects| Verdict::Unsuccessful {
        error: crate::task::TaskError { code: Code::HandlerFailed, detail: String::new() },
        effects,
    };
    for kind in KindName::ALL {
        for state in VmState::ALL {
            let settled = (kind.spec().settle)(state, &verdict(Effects::Remain));
            assert_ne!(settled.allocation, Settlement::Release, "{kind} {state}");
        }
    }
}
