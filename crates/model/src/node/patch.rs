//! Editing a node's record: what a merge patch makes of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Node, OvercommitPatch, OwnOvercommit};
use crate::{
    edit::labels_over,
    error::{Code, Refusal},
    patch::Patch,
};

/// A merge patch of a node: what is not named stays, null removes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NodePatch {
    /// Labels by key; a null takes one away, and null instead of the object all of them. Those of its agent stay.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    pub labels: Patch<BTreeMap<String, Option<String>>>,
    /// How much may be promised here, in percent of what is there; null lets it be as on all nodes.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    #[schema(value_type = Option<OvercommitPatch>)]
    pub overcommit: Patch<OvercommitPatch>,
}

impl NodePatch {
    /// Changes a node; what was changed, for the log: nothing where nothing differs.
    ///
    /// # Errors
    /// For what cannot be, with the field; then the node is as it was.
    pub fn apply(&self, node: &mut Node) -> Result<Option<Value>, Refusal> {
        let labels = labels_over(&node.labels, &self.labels)?;
        let overcommit = match &self.overcommit {
            Patch::Keep => node.overcommit,
            Patch::Remove => OwnOvercommit::default(),
            Patch::Set(patch) => patch.over(node.overcommit)?,
        };
        let mut changed = serde_json::Map::new();
        if labels != node.labels {
            changed.insert("labels".into(), json!({"was": node.labels, "are": labels}));
        }
        if overcommit != node.overcommit {
            changed.insert("overcommit".into(), json!({"was": node.overcommit, "is": overcommit}));
        }
        if changed.is_empty() {
            return Ok(None);
        }
        (node.labels, node.overcommit) = (labels, overcommit);
        node.generation = node.generation.saturating_add(1);
        Ok(Some(Value::Object(changed)))
    }
}

impl Node {
    /// Refuses an edit of a node that is not as whoever edits it believes. `expected`: the generations it may have; `None`
    /// where nothing was said.
    pub fn check_generation(&self, expected: Option<&[u32]>) -> Result<(), Refusal> {
        if expected.is_none_or(|expected| expected.contains(&self.generation)) {
            return Ok(());
        }
        let (name, generation) = (&self.name, self.generation);
        let detail = format!(
            "the node {name} was changed since it was read: its generation is {generation}; read it again, and decide anew"
        );
        let refusal = Refusal::new(Code::PreconditionFailed, detail).with("node", self.id.to_string());
        Err(refusal.with("generation", generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{node::Overcommit, unit::Resources};

    fn node() -> Node {
        serde_json::from_value(json!({
            "id": "0190f1f0-0000-7000-8000-00000000000a", "name": "a", "state": "ready", "freshness": "fresh",
            "facts": {"capacity": {"vcpus": 4, "memory_mib": 1000, "disk_gib": 10, "vms": 7}, "labels": {"zone": "a", "arch": "x86_64"}},
            "book": {}, "schedulable": {}, "created_at": "2026-01-01T00:00:00Z", "generation": 1,
        }))
        .unwrap()
    }

    fn patched(node: &mut Node, patch: Value) -> Result<Option<Value>, Refusal> {
        serde_json::from_value::<NodePatch>(patch).unwrap().apply(node)
    }

    #[test]
    fn an_operators_labels_stand_before_the_agents() {
        let mut node = node();
        patched(&mut node, json!({"labels": {"zone": "b", "disk": "ssd"}})).unwrap().unwrap();
        assert_eq!(node.generation, 2);
        let labels = node.all_labels();
        assert_eq!((labels["zone"].as_str(), labels["disk"].as_str(), labels["arch"].as_str()), ("b", "ssd", "x86_64"));
        patched(&mut node, json!({"labels": {"zone": null}})).unwrap().unwrap();
        assert_eq!(node.all_labels()["zone"], "a");
        assert_eq!(patched(&mut node, json!({"labels": {"disk": "ssd"}})).unwrap(), None, "nothing differs");
        assert_eq!(node.generation, 3);
    }

    #[test]
    fn a_node_may_promise_another_share_than_all_others() {
        let mut node = node();
        patched(&mut node, json!({"overcommit": {"vcpus_percent": 50, "memory_percent": 150}})).unwrap().unwrap();
        node.promise(&Overcommit::default());
        assert_eq!(node.schedulable, Resources { vcpus: 2, memory_mib: 1500, disk_gib: 10, vms: 7 });
        patched(&mut node, json!({"overcommit": {"vcpus_percent": null}})).unwrap().unwrap();
        node.promise(&Overcommit::default());
        assert_eq!((node.schedulable.vcpus, node.schedulable.memory_mib), (16, 1500));
        patched(&mut node, json!({"overcommit": null})).unwrap().unwrap();
        assert!(node.overcommit.is_none());
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field_and_changes_nothing() {
        let mut node = node();
        let before = node.clone();
        for (patch, field) in [
            (json!({"overcommit": {"disk_percent": 0}}), "overcommit.disk_percent"),
            (json!({"labels": {"a": "b"}, "overcommit": {"memory_percent": 10_001}}), "overcommit.memory_percent"),
            (json!({"labels": {"": "x"}}), "labels (bytes in a key)"),
        ] {
            assert_eq!(patched(&mut node, patch).unwrap_err().facts["field"], field);
        }
        assert_eq!(node, before);
    }

    #[test]
    fn an_edit_of_another_generation_is_refused() {
        let node = node();
        assert!(node.check_generation(None).is_ok() && node.check_generation(Some(&[1])).is_ok());
        assert_eq!(node.check_generation(Some(&[2])).unwrap_err().code, Code::PreconditionFailed);
    }
}
