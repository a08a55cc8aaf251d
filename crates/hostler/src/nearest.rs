//! "Did you mean …?" for what clap does not know: kinds of task, and names of things on the server.

use hostler_client::{Client, SnapshotQuery, VmQuery};
use hostler_model::{Code, api::Problem};

/// More than this many are no help.
const MOST: usize = 3;

/// A thing that was named and is not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    noun: Noun,
    name: String,
    /// The machine that it would be of, for what machines have.
    of: Option<String>,
}

/// What has names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noun {
    /// A machine.
    Vm,
    /// A host.
    Node,
    /// What machines are made of.
    Image,
    /// A machine's kept state.
    Snapshot,
}

impl Missing {
    /// What a refusal says is not there.
    pub fn of(problem: &Problem) -> Option<Missing> {
        let (noun, fact) = match problem.code {
            Code::VmNotFound => (Noun::Vm, "vm"),
            Code::NodeNotFound => (Noun::Node, "node"),
            Code::ImageNotFound => (Noun::Image, "image"),
            Code::SnapshotNotFound => (Noun::Snapshot, "snapshot"),
            _ => return None,
        };
        let said = |fact: &str| Some(problem.facts.get(fact)?.as_str()?.to_owned());
        let of = if noun == Noun::Snapshot { said("vm") } else { None };
        Some(Missing { noun, name: said(fact)?, of })
    }

    /// The names that are there and look like it. A server that does not answer knows none.
    pub async fn meant(&self, client: &Client) -> Option<String> {
        did_you_mean(&self.name, &names(self.noun, self.of.clone(), client).await)
    }
}

/// The names of all things of a kind, or of those that a machine has; none where the server does not answer.
pub async fn names(noun: Noun, of: Option<String>, client: &Client) -> Vec<String> {
    match noun {
        Noun::Vm => {
            let vms = client.vms(&VmQuery::default(), None).await.unwrap_or_default();
            vms.into_iter().map(|vm| vm.name.to_string()).collect()
        }
        Noun::Node => client.nodes().await.unwrap_or_default().into_iter().map(|node| node.name.to_string()).collect(),
        Noun::Image => client.images().await.unwrap_or_default().into_iter().flat_map(|image| image.names).collect(),
        Noun::Snapshot => {
            let which = SnapshotQuery { vm: of, state: None };
            let snapshots = client.snapshots(&which, None).await.unwrap_or_default();
            snapshots.into_iter().map(|snapshot| snapshot.name.to_string()).collect()
        }
    }
}

/// "did you mean web-1 or web-2?", if something is near.
pub fn did_you_mean(word: &str, known: &[impl AsRef<str>]) -> Option<String> {
    let near = nearest(word, known);
    (!near.is_empty()).then(|| format!("did you mean {}?", near.join(" or ")))
}

/// The nearest first. Near is a slip of the fingers in every three letters, or the beginning of the name.
fn nearest<'a>(word: &str, known: &'a [impl AsRef<str>]) -> Vec<&'a str> {
    let reach = (word.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .map(AsRef::as_ref)
        .filter(|name| *name != word)
        .filter_map(|name| {
            let distance = strsim::damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase());
            let begun = word.len() >= 2 && name.starts_with(word);
            (distance <= reach || begun).then_some((distance, name))
        })
        .collect();
    near.sort();
    near.into_iter().map(|(_, name)| name).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use hostler_model::Refusal;

    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_recognised_and_a_stranger_is_not() {
        let known = ["web-1", "web-2", "database", "vm.create"];
        assert_eq!(nearest("wbe-1", &known), ["web-1"]);
        assert_eq!(nearest("web", &known), ["web-1", "web-2"]);
        assert_eq!(nearest("vm.craete", &known), ["vm.create"]);
        assert!(nearest("cache", &known).is_empty());
        assert_eq!(did_you_mean("web-3", &known).unwrap(), "did you mean web-1 or web-2?");
    }

    #[test]
    fn what_is_missing_is_read_from_the_refusal() {
        let problem = Problem::of(Refusal::new(Code::VmNotFound, "no").with("vm", "wbe"), None);
        assert_eq!(Missing::of(&problem), Some(Missing { noun: Noun::Vm, name: "wbe".into(), of: None }));
        let problem =
            Problem::of(Refusal::new(Code::SnapshotNotFound, "no").with("snapshot", "god").with("vm", "1"), None);
        let missing = Missing { noun: Noun::Snapshot, name: "god".into(), of: Some("1".into()) };
        assert_eq!(Missing::of(&problem), Some(missing));
        assert_eq!(Missing::of(&Problem::of(Refusal::new(Code::Forbidden, "no"), None)), None);
    }
}
