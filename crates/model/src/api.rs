//! What travels between people's programs and the server, and how strictly it is read.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    book::Book,
    clock::Timestamp,
    error::{Code, Refusal},
    event::Entry,
    id::{RequestId, TaskId, TenantId, VmId},
    kind::{KindName, VmCreateParams, VmExecParams, VmRebootParams, VmRestoreParams, VmStartParams, VmStopParams},
    name::Name,
    placement::Choice,
    retry::RetryAsked,
    schedule::{Asked, Priority, Schedule},
    snapshot::Snapshot,
    task::{Target, Task},
    tenant::Limits,
    vm::Vm,
};

/// Reads a document from outside: every field must be known. Stored and agent-bound documents are read leniently
/// instead, so that versions can mix.
pub fn strict<T: DeserializeOwned>(value: &Value) -> Result<T, Refusal> {
    // serde would also read a struct from a list of its fields' values.
    if !value.is_object() {
        return Err(Refusal::new(Code::ValidationError, "a JSON object is needed here, with its fields by name"));
    }
    let mut unknown = BTreeSet::new();
    let mut path_track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut path_track);
    let read = serde_ignored::deserialize(deserializer, |path| {
        unknown.insert(path.to_string());
    });
    let read: T = match read {
        Ok(read) => read,
        Err(error) => {
            let path = path_track.path().to_string();
            return Err(if path == "." {
                Refusal::new(Code::ValidationError, unquoted(&error.to_string()))
            } else {
                Refusal::field(&path, unquoted(&error.to_string()))
            });
        }
    };
    if unknown.is_empty() {
        return Ok(read);
    }
    let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
    Err(Refusal::new(
        Code::ValidationError,
        format!("unknown field {}; remove it or correct its spelling", names.join(", ")),
    )
    .with("unknown", names.clone()))
}

/// serde quotes a text that stands where something else belongs, and it may be a secret in the wrong place.
fn unquoted(error: &str) -> String {
    const BEFORE: &str = "invalid type: string ";
    match (error.find(BEFORE), error.rfind("\", expected")) {
        (Some(from), Some(to)) if from + BEFORE.len() <= to => {
            format!("{}invalid type: string{}", &error[..from], &error[to + 1..])
        }
        _ => error.to_owned(),
    }
}

/// A new task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewTask {
    /// The kind, such as `echo`.
    pub kind: String,
    /// What it works on.
    #[serde(default)]
    pub target: TargetRef,
    /// Its parameters; each kind has its own.
    #[serde(default = "empty")]
    #[schema(value_type = Object)]
    pub params: Value,
    /// How soon, compared with other tasks of its node: -100 to 100, higher first, 0 where nothing is said. Of equals the
    /// older comes first. Tasks on one VM keep their order.
    #[serde(default)]
    pub priority: Priority,
    /// Not leased before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not leased before so many seconds have passed, at most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<u32>,
    /// How long it may wait for its node, from each time on at which it may be leased, at most 30 days; as the kind says
    /// where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout_seconds: Option<u32>,
    /// How long it may take, from the first lease to the end, at most ten times what its kind says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// How often it may be tried, and how long apart; as the kind says where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryAsked>,
}

impl NewTask {
    /// A task with the schedule of its kind.
    pub fn new(kind: impl ToString, target: TargetRef, params: Value) -> NewTask {
        NewTask {
            kind: kind.to_string(),
            target,
            params,
            priority: Priority::default(),
            not_before: None,
            delay_seconds: None,
            queue_timeout_seconds: None,
            timeout_seconds: None,
            retry: None,
        }
    }

    /// A task with the schedule of one that is done again: its priority, its time and its retries, but at once.
    pub fn again(kind: KindName, target: TargetRef, params: Value, schedule: &Schedule) -> NewTask {
        let Schedule { priority, queue_timeout_seconds, timeout_seconds, retry } = *schedule;
        NewTask {
            priority,
            queue_timeout_seconds: Some(queue_timeout_seconds),
            timeout_seconds: Some(timeout_seconds),
            retry: Some(retry.into()),
            ..NewTask::new(kind, target, params)
        }
    }

    /// What it says about its schedule.
    pub fn asked(&self) -> Asked {
        Asked {
            priority: Some(self.priority),
            not_before: self.not_before,
            delay_seconds: self.delay_seconds,
            queue_timeout_seconds: self.queue_timeout_seconds,
            timeout_seconds: self.timeout_seconds,
            retry: self.retry,
        }
    }
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Many new tasks: `POST /tasks/batch`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewTasks {
    /// 1 to 1,000 of them. Each is read by itself.
    #[schema(value_type = Vec<NewTask>)]
    pub tasks: Vec<Value>,
}

/// What is answered to one of many.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Answered {
    /// As if it had been asked alone: 200, 202, or the status of the problem.
    pub status: u16,
    /// The task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// The machine it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
    /// Of a dry run: which node it would be, and what speaks for and against each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Choice>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl Answered {
    /// It is written down.
    pub fn accepted(task: Task, vm: Option<Vm>) -> Answered {
        Answered { status: 202, task: Some(task), vm, placement: None, problem: None }
    }

    /// It would be written down.
    pub fn dry(task: Task, vm: Option<Vm>, placement: Option<Choice>) -> Answered {
        Answered { status: 200, task: Some(task), vm, placement, problem: None }
    }

    /// It is done.
    pub fn done(task: Task) -> Answered {
        Answered { status: 200, task: Some(task), vm: None, placement: None, problem: None }
    }

    /// It is not.
    pub fn refused(refusal: Refusal) -> Answered {
        Answered {
            status: refusal.code.status(),
            task: None,
            vm: None,
            placement: None,
            problem: Some(Problem::of(refusal, None)),
        }
    }
}

/// Answers to many.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Answers {
    /// One for each, in their order.
    pub answers: Vec<Answered>,
    /// Whether there is more that was meant and not come to: ask again.
    #[serde(default)]
    pub more: bool,
}

/// Which dead letters are meant: those that are named, those that a filter finds, or all. Nothing said means nothing.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Letters {
    /// These tasks, at most 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<TaskId>>,
    /// Those of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub kind: Option<KindName>,
    /// Those that failed with this code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Those about this VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// All there are.
    pub all: bool,
}

/// What a task works on, by id or name.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct TargetRef {
    /// A VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// A node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl From<Target> for TargetRef {
    fn from(target: Target) -> Self {
        TargetRef { vm: target.vm.map(|id| id.to_string()), node: target.node.map(|id| id.to_string()) }
    }
}

/// A new machine: `POST /vms`.
pub type NewVm = VmCreateParams;

/// What an edit answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Edited {
    /// Its host must do something.
    Submitted(Box<Submitted>),
    /// All of it is done.
    Vm(Box<Vm>),
}

/// A program to run in a guest: `POST /vms/{vm}/exec`.
pub type NewExec = VmExecParams;

/// How a machine is to be started: `POST /vms/{vm}/start`.
pub type NewStart = VmStartParams;

/// How a machine is to be stopped: `POST /vms/{vm}/stop`.
pub type NewStop = VmStopParams;

/// How a machine is to be restarted: `POST /vms/{vm}/reboot`.
pub type NewReboot = VmRebootParams;

/// A snapshot to be taken: `POST /vms/{vm}/snapshots`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NewSnapshot {
    /// Its name, unique among the machine's; made from its id where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whether the memory is taken too: restored, the machine's programs go on where they were.
    pub memory: bool,
}

/// What to restore: `POST /vms/{vm}/restore`.
pub type NewRestore = VmRestoreParams;

/// What a submission answers: the task, and what it is about.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Submitted {
    /// The task.
    pub task: Task,
    /// The machine, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
    /// The snapshot, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// Of a dry run of what is to be placed: which node it would be, and what speaks for and against each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Choice>,
}

/// A page of a list, newest first.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// What there is.
    pub items: Vec<T>,
    /// Hand this back as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What a caller is, and what it has: `GET /quota`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Quota {
    /// Whose.
    pub tenant: TenantId,
    /// How much it may have; -1 is no limit.
    pub limits: Limits,
    /// How much it has.
    pub book: Book,
    /// How many bytes its images take, what they share counted once: what `images_gib` limits.
    #[serde(default)]
    pub images_bytes: u64,
}

/// An error: RFC 9457, as `application/problem+json`. Facts stand beside these fields.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A URI that names the kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of error in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What happened, to what, why, and what to do next.
    pub detail: String,
    /// The request, for whoever asks the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Numbers and names that a program can read.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub facts: serde_json::Map<String, Value>,
}

impl Problem {
    /// A refusal as an answer.
    pub fn of(refusal: Refusal, request_id: Option<RequestId>) -> Problem {
        Problem {
            kind: format!("urn:hostler:problem:{}", refusal.code.as_str().to_ascii_lowercase().replace('_', "-")),
            title: refusal.code.title().to_owned(),
            status: refusal.code.status(),
            code: refusal.code,
            detail: refusal.detail,
            request_id,
            facts: refusal.facts,
        }
    }

    /// An answer as a refusal.
    pub fn refusal(self) -> Refusal {
        Refusal { code: self.code, detail: self.detail, facts: self.facts }
    }
}

/// What `doctor` found in the store.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Diagnosis {
    /// Each thing that was looked at.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// Whether everything is well.
    pub fn is_well(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was seen, and what to do when it is not well.
    pub detail: String,
}

impl Check {
    /// A check with what was seen.
    pub fn new(name: &str, ok: bool, detail: impl Into<String>) -> Check {
        Check { name: name.to_owned(), ok, detail: detail.into() }
    }
}

/// An event as it goes over SSE: `id` is its number, `event` its kind, `data` this.
pub type StreamedEvent = Entry;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::EchoParams;

    #[test]
    fn an_unknown_field_is_named() {
        let refusal = strict::<EchoParams>(&json!({"message": "hi", "mesage": 1})).unwrap_err();
        assert_eq!(refusal.facts["unknown"], json!(["mesage"]));
    }

    #[test]
    fn fields_come_by_name_only() {
        for value in [json!([]), json!(["hi"]), json!("hi"), json!(null)] {
            assert_eq!(strict::<EchoParams>(&value).unwrap_err().code, Code::ValidationError, "{value}");
        }
    }

    #[test]
    fn a_text_in_the_wrong_place_is_not_quoted() {
        let refusal = strict::<NewTask>(&json!({"kind": "echo", "target": "a \", expected b"})).unwrap_err();
        assert!(refusal.detail.contains("invalid type: string, expected struct"), "{}", refusal.detail);
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        let refusal = strict::<NewTask>(&json!({"kind": "echo", "target": {"vm": 5}})).unwrap_err();
        assert_eq!(refusal.facts["field"], "target.vm");
    }
}
