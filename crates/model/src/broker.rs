//! What travels by a message broker, and under which names: offers of tasks, results, telemetry.
//!
//! ```text
//!         exchange jobs, key agent.<id>            ┌─ an agent of ours: a signed task, begun only once the server granted it
//! server ───────────────────────────► agent.<id>.tasks ─┤
//!    ▲                                                  └─ anybody's consumer: plain JSON, one attempt
//!    │     exchange results, key task.<id>        results of both
//!    ├───────────────────────────────────────────
//!    │     exchange agent.telemetry               heartbeats of anybody's consumer; copies of those of our agents
//!    └───────────────────────────────────────────
//! ```
//!
//! Never here: a connection. What comes from outside is read leniently; its limits are here too.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    clock::Timestamp,
    error::excerpt,
    fence::Fence,
    id::{NodeId, TaskId, TenantId},
    internal::Receipt,
    kind::KindName,
    name::Name,
    task::Target,
    unit::Resources,
};

/// The exchange of offers: direct.
pub const JOBS: &str = "jobs";
/// Where offers go that came to nothing: fanout.
pub const JOBS_DEAD: &str = "jobs.dead";
/// The exchange of results: topic.
pub const RESULTS: &str = "results";
/// Where results go that nobody could take: fanout.
pub const RESULTS_DEAD: &str = "results.dead";
/// The exchange of telemetry: topic.
pub const TELEMETRY: &str = "agent.telemetry";
/// The server's queue of dead offers.
pub const DEAD_QUEUE: &str = "hostler.jobs.dead";
/// The server's queue of results.
pub const RESULTS_QUEUE: &str = "hostler.results";
/// What could not be taken of them: for people.
pub const RESULTS_DEAD_QUEUE: &str = "hostler.results.dead";
/// The server's queue of telemetry.
pub const TELEMETRY_QUEUE: &str = "hostler.telemetry";

/// The form of a result that is signed: one of `internal::Reports`.
pub const SIGNED_RESULT: &str = "application/vnd.hostler.result+json";

/// One result's bytes, at most: as over HTTP.
pub const RESULT_BYTES: usize = 2 << 20;
/// One heartbeat's bytes, at most.
pub const TELEMETRY_BYTES: usize = 256 << 10;

/// The key of a node's offers.
pub fn offers_key(node: NodeId) -> String {
    format!("agent.{node}")
}

/// The queue of a node's offers.
pub fn offers_queue(node: NodeId) -> String {
    format!("agent.{node}.tasks")
}

/// The key of a task's result.
pub fn result_key(task: TaskId) -> String {
    format!("task.{task}")
}

/// The key of a node's heartbeats.
pub fn telemetry_key(node: NodeId) -> String {
    format!("heartbeat.{node}")
}

/// The id of an offer's message: the attempt that it offers.
pub fn offer_id(task: TaskId, fence: Fence) -> String {
    format!("{task}:{fence}")
}

/// The attempt that a message of this id offers.
pub fn read_offer_id(text: &str) -> Option<(TaskId, Fence)> {
    let (task, fence) = text.split_once(':')?;
    Some((task.parse().ok()?, fence.parse().ok()?))
}

/// By which road a node's tasks travel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Its agent asks the server for them.
    #[default]
    Poll,
    /// They are offered to its agent by the broker.
    Amqp,
    /// They are sent in plain form to a consumer that is not ours.
    Plain,
}

impl Transport {
    /// As the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Transport::Poll => "poll",
            Transport::Amqp => "amqp",
            Transport::Plain => "plain",
        }
    }

    /// By which road a node's tasks travel when its agent says this of itself. A node of somebody else's stays that until
    /// an operator says otherwise.
    pub const fn told(self, by_agent: Option<Transport>) -> Transport {
        match (self, by_agent) {
            (Transport::Poll | Transport::Amqp, Some(Transport::Poll)) => Transport::Poll,
            (Transport::Poll | Transport::Amqp, Some(Transport::Amqp)) => Transport::Amqp,
            (Transport::Poll | Transport::Amqp | Transport::Plain, _) => self,
        }
    }
}

/// `PUT …/nodes/{node}/transport`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChangeTransport {
    /// By which road from now on.
    pub transport: Transport,
}

/// `POST …/nodes`: a node whose agent is somebody else's, so that it never joins.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewPlainNode {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// What is there.
    #[serde(default)]
    pub capacity: Resources,
    /// What it can do: kinds of task, `*` as a wildcard at the end.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The broker's user that alone may speak for it. Its messages say in their property `user_id` who they are of, which
    /// the broker does not let anybody else say; without one, whoever may publish may speak for the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Whether a message of this user, if it says one, may speak for a node that only `of` may speak for, if anybody.
pub fn may_speak(of: Option<&str>, user: Option<&str>) -> bool {
    of.is_none_or(|of| user == Some(of))
}

/// A task in its plain form, as a consumer that is not ours gets it. It is sent once; the broker may deliver it again, so
/// a consumer keeps in mind which tasks it has done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlainTask {
    /// Which.
    pub task_id: TaskId,
    /// For which node.
    pub agent_id: NodeId,
    /// Whose.
    pub tenant_id: TenantId,
    /// What to do.
    pub action: KindName,
    /// To what.
    pub target: Target,
    /// With which parameters.
    pub data: Value,
    /// When it must have ended.
    pub deadline: Timestamp,
}

/// What became of a task in its plain form.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlainResult {
    /// Which.
    pub task_id: TaskId,
    /// Of which node.
    pub agent_id: NodeId,
    /// Whether it was done.
    pub ok: bool,
    /// The kind's output.
    #[serde(default)]
    pub result: Value,
    /// Why it was not: a text, or an object with `message`.
    #[serde(default)]
    pub error: Value,
    /// Of one that was not: whether nothing of it is left. Room and quota are given back only then.
    #[serde(default)]
    pub undone: bool,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Option<String>,
}

impl PlainResult {
    /// Why it was not done, in words.
    pub fn reason(&self) -> String {
        match &self.error {
            Value::Null => "its agent says that it failed, and not why".to_owned(),
            Value::String(text) => text.clone(),
            error => match error.get("message").and_then(Value::as_str) {
                Some(text) => text.to_owned(),
                None => error.to_string(),
            },
        }
    }

    /// When it ended, as far as that can be read.
    pub fn ended_at(&self) -> Option<Timestamp> {
        serde_json::from_value(Value::from(self.finished_at.as_deref()?)).ok()
    }
}

/// A heartbeat of a node whose agent is somebody else's. What it leaves out stays as it was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlainHeartbeat {
    /// Which node.
    pub agent_id: NodeId,
    /// What is there.
    #[serde(default)]
    pub capacity: Option<Resources>,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Option<Vec<String>>,
    /// Its version.
    #[serde(default)]
    pub version: Option<String>,
}

/// The answer to a result of an agent of ours, which then need not keep it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    /// What became of it.
    Receipt(Receipt),
    /// It cannot be believed or read.
    Refused {
        /// Whether it is about who says so, so that the same may be believed later.
        identity: bool,
        /// Why.
        detail: String,
    },
}

/// The beginning of a message that makes no sense, for the log.
pub fn glimpse(body: &[u8]) -> String {
    excerpt(&String::from_utf8_lossy(&body[..body.len().min(200)]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "01900000-0000-7000-8000-000000000042";

    #[test]
    fn an_offers_id_is_read_as_it_was_written() {
        let (task, fence) = (ID.parse().unwrap(), Fence { store_epoch: 2, attempt: 3 });
        assert_eq!(read_offer_id(&offer_id(task, fence)), Some((task, fence)));
        for bad in ["", ID, "x:1.1", &format!("{ID}:1")] {
            assert_eq!(read_offer_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_a_nodes_own_user_speaks_for_it_where_it_has_one() {
        let told = [(None, None), (None, Some("b")), (Some("a"), Some("a")), (Some("a"), Some("b")), (Some("a"), None)];
        assert_eq!(told.map(|(of, user)| may_speak(of, user)), [true, true, true, false, false]);
    }

    #[test]
    fn an_agent_decides_between_its_own_roads_only() {
        assert_eq!(Transport::Poll.told(Some(Transport::Amqp)), Transport::Amqp);
        assert_eq!(Transport::Amqp.told(Some(Transport::Poll)), Transport::Poll);
        assert_eq!(Transport::Amqp.told(None), Transport::Amqp);
        assert_eq!(Transport::Plain.told(Some(Transport::Poll)), Transport::Plain);
        assert_eq!(Transport::Poll.told(Some(Transport::Plain)), Transport::Poll);
    }

    #[test]
    fn a_plain_result_is_read_as_others_write_it() {
        let read = |value: Value| serde_json::from_value::<PlainResult>(value);
        let whole = json!({
            "taskId": ID, "agentId": ID, "ok": true, "result": {"a": 1}, "error": null,
            "finishedAt": "2026-01-01T00:00:00Z", "more": 1,
        });
        let result = read(whole).unwrap();
        assert_eq!((result.ok, &result.result, result.undone), (true, &json!({"a": 1}), false));
        assert_eq!(result.ended_at().unwrap().to_string(), "2026-01-01T00:00:00.000000Z");
        for (error, reason) in
            [(json!("no disk"), "no disk"), (json!({"message": "no disk"}), "no disk"), (json!({"x": 1}), r#"{"x":1}"#)]
        {
            let result =
                read(json!({"taskId": ID, "agentId": ID, "ok": false, "error": error, "finishedAt": "soon"})).unwrap();
            assert_eq!((result.reason().as_str(), result.ended_at()), (reason, None));
        }
        assert!(read(json!({"taskId": ID, "ok": true})).is_err());
    }
}
