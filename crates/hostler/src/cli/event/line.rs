//! An event as a line for people: names instead of ids, and in words what its data says.

use std::collections::HashMap;

use hostler_client::{Client, VmQuery};
use hostler_model::event::Entry;
use serde_json::Value;
use uuid::Uuid;

use crate::output::{paint, plain};

/// What things are called, as far as that is known: learned from the server at first, then from the events.
#[derive(Debug, Default)]
pub struct Known(HashMap<Uuid, String>);

impl Known {
    /// The names there are now. Who may not see something sees its id.
    pub async fn of(client: &Client) -> Known {
        let nodes = client.nodes().await.unwrap_or_default();
        let vms = client.vms(&VmQuery::default(), None).await.unwrap_or_default();
        let nodes = nodes.into_iter().map(|node| (node.id.0, node.name.to_string()));
        Known(nodes.chain(vms.into_iter().map(|vm| (vm.id.0, vm.name.to_string()))).collect())
    }

    /// The line of an event.
    pub fn line(&mut self, entry: &Entry) -> String {
        self.learn(entry);
        let Entry { seq, at, kind, subject, data, .. } = entry;
        // Microseconds help a program, not a person.
        let at = at.to_string();
        let at = at.split('.').next().unwrap_or_default().replacen('T', " ", 1);
        let state = kind.rsplit('.').next().unwrap_or_default();
        let painted = paint::state(state).replacen(state, &format!("{kind:<16}"), 1);
        let line = format!(
            "{}  {painted}  {:<24}  {}",
            paint::faint(&format!("{seq:<6} {at}")),
            self.name(*subject),
            self.words(data)
        );
        line.trim_end().to_owned()
    }

    fn learn(&mut self, entry: &Entry) {
        if let Some(name) = entry.data["name"].as_str() {
            self.0.insert(entry.subject, plain(name));
        }
        if let ("task", Some(kind)) = (entry.noun.as_str(), entry.data["kind"].as_str()) {
            self.0.insert(entry.subject, format!("{} {}", plain(kind), short(entry.subject)));
        }
    }

    fn name(&self, id: Uuid) -> String {
        self.0.get(&id).cloned().unwrap_or_else(|| short(id))
    }

    fn named(&self, value: &Value) -> Option<String> {
        Some(self.name(value.as_str()?.parse().ok()?))
    }

    /// What the data says, in the order in which people ask.
    fn words(&self, data: &Value) -> String {
        let text = |key: &str| data[key].as_str().map(plain);
        let mut words: Vec<String> = Vec::new();
        words.extend(text("phase").map(|phase| match data["percent"].as_u64() {
            Some(percent) => format!("{phase} {percent} %"),
            None => phase,
        }));
        words.extend(text("reason").map(|reason| reason.replace('_', " ")));
        words.extend(text("code"));
        words.extend(self.named(&data["vm"]).map(|vm| format!("for {vm}")));
        words.extend(self.named(&data["node"]).map(|node| format!("on {node}")));
        words.extend(data["fence"]["attempt"].as_u64().filter(|attempt| *attempt > 1).map(|n| format!("attempt {n}")));
        words.extend((data["ready"] == true).then(|| "ready".to_owned()));
        words.join(", ")
    }
}

fn short(id: Uuid) -> String {
    let id = id.to_string();
    format!("…{}", &id[id.len() - 12..])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::fixture;

    #[test]
    fn events_are_lines_with_names_and_words() {
        let node = fixture::node();
        let mut known = Known([(node.id.0, "local".to_owned())].into());
        let queued = fixture::entry();
        let mut lines = Vec::new();
        for (kind, data) in [
            ("task.queued", json!({"kind": "vm.create", "node": node.id})),
            ("task.progress", json!({"fence": {"store_epoch": 1, "attempt": 2}, "phase": "image", "percent": 40})),
            ("task.failed", json!({"kind": "vm.create", "node": node.id, "code": "GUEST_NOT_READY"})),
        ] {
            let entry = Entry { kind: kind.into(), data, ..queued.clone() };
            lines.push(anstream::adapter::strip_str(&known.line(&entry)).to_string());
        }
        let vm = Entry {
            kind: "vm.error".into(),
            noun: "vm".into(),
            subject: fixture::vm("web", "error").id.0,
            data: json!({"name": "web", "node": node.id, "ready": false, "reason": "io_error"}),
            ..queued
        };
        lines.push(anstream::adapter::strip_str(&known.line(&vm)).to_string());
        insta::assert_snapshot!(lines.join("\n"), @"
        42     2026-01-01 00:00:00  task.queued       vm.create …000000000001   on local
        42     2026-01-01 00:00:00  task.progress     vm.create …000000000001   image 40 %, attempt 2
        42     2026-01-01 00:00:00  task.failed       vm.create …000000000001   GUEST_NOT_READY, on local
        42     2026-01-01 00:00:00  vm.error          web                       io error, on local
        ");
    }
}
