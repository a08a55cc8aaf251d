//! What each kind says of itself, for people and programs: the API's list, the program's and the page's are this one.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Class, KindName, OnRemains, OnUncertain, Role, Scope};
use crate::{
    retry::{Backoff, RetryPolicy},
    schedule::Schedule,
};

/// A kind of task, and what holds for its tasks where nothing else is asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KindInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub kind: KindName,
    /// Which of a node's slots it takes.
    pub class: Class,
    /// Who may ask for it, at least.
    pub role: Role,
    /// What a credential that is narrowed must be narrowed to.
    #[schema(value_type = String)]
    pub scope: Scope,
    /// How long a task may wait for its node, in seconds.
    pub queue_timeout_seconds: u32,
    /// How long it may take from its first lease to its end, in seconds. Parameters may ask for more.
    pub timeout_seconds: u32,
    /// How often it is tried, and the pauses between.
    pub retry: RetryPolicy,
    /// What is done about an attempt whose end is not known.
    pub on_uncertain: OnUncertain,
    /// What follows a failure of which something is left.
    pub on_remains: OnRemains,
    /// Why it is tried so.
    pub because: String,
}

impl KindInfo {
    /// Of every kind, in the order of the list.
    pub fn all() -> Vec<KindInfo> {
        KindName::ALL.iter().copied().map(KindInfo::of).collect()
    }

    /// Of one.
    pub fn of(kind: KindName) -> KindInfo {
        let spec = kind.spec();
        let Schedule { queue_timeout_seconds, timeout_seconds, retry, .. } = Schedule::of(spec, &json!({}));
        KindInfo {
            kind,
            class: spec.class,
            role: spec.role,
            scope: spec.scope,
            queue_timeout_seconds,
            timeout_seconds,
            retry,
            on_uncertain: spec.on_uncertain,
            on_remains: spec.on_remains,
            because: spec.retry_why.to_owned(),
        }
    }

    /// How long it may wait, as people read it.
    pub fn begins_within(&self) -> String {
        long(self.queue_timeout_seconds)
    }

    /// How long it may take, likewise.
    pub fn ends_within(&self) -> String {
        long(self.timeout_seconds)
    }

    /// How often it is tried and how long apart, likewise.
    pub fn attempts(&self) -> String {
        let RetryPolicy { attempts, backoff, first_seconds, most_seconds } = self.retry;
        let backoff = match backoff {
            Backoff::Linear => "linear",
            Backoff::Exponential => "exponential",
        };
        let again = match (self.on_uncertain, self.on_remains) {
            (OnUncertain::Fail, _) => "; never when it may have begun",
            (OnUncertain::Inspect | OnUncertain::Rerun, OnRemains::GoOn) => "; also from what a failure left",
            (OnUncertain::Inspect | OnUncertain::Rerun, OnRemains::End) => "",
        };
        format!("{attempts}, {backoff} {} to {}{again}", long(first_seconds), long(most_seconds))
    }
}

fn long(seconds: u32) -> String {
    match seconds {
        s if s > 0 && s.is_multiple_of(3600) => format!("{} h", s / 3600),
        s if s > 0 && s.is_multiple_of(60) => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_kind_is_what_holds_for_its_tasks() {
        let all = KindInfo::all();
        assert_eq!(all.len(), KindName::ALL.len());
        for told in all {
            let spec = told.kind.spec();
            let schedule = Schedule::of(spec, &json!({}));
            assert_eq!((told.class, told.role, told.retry), (spec.class, spec.role, spec.retry), "{}", told.kind);
            assert_eq!(
                (told.queue_timeout_seconds, told.timeout_seconds),
                (schedule.queue_timeout_seconds, schedule.timeout_seconds)
            );
            let sent = serde_json::to_value(&told).unwrap();
            assert_eq!((&sent["kind"], &sent["class"]), (&json!(told.kind.as_str()), &json!(told.class.as_str())));
            assert_eq!(sent["role"], told.role.as_str());
            assert_eq!(serde_json::from_value::<KindInfo>(sent).unwrap(), told);
        }
    }

    #[test]
    fn people_read_times_in_the_largest_unit_that_fits() {
        let told = |kind| KindInfo::of(kind).attempts();
        assert_eq!(told(KindName::VmExec), "3, exponential 1 s to 10 s; never when it may have begun");
        assert_eq!(told(KindName::SnapshotDelete), "5, exponential 5 s to 2 min; also from what a failure left");
        assert_eq!(told(KindName::VmStop), "5, linear 2 s to 10 s");
        let delete = KindInfo::of(KindName::SnapshotDelete);
        assert_eq!((delete.begins_within(), delete.ends_within()), ("15 min".to_owned(), "6 h".to_owned()));
        assert_eq!(KindInfo::of(KindName::VmStop).ends_within(), "150 s");
    }
}
