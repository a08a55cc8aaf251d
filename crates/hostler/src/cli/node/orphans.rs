//! `hostler node orphans`: machines on hosts that no record knows.

use hostler_model::unassigned::Unassigned;

use super::Session;
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

/// For its help.
pub const EXAMPLES: &str = "\
Examples:
  hostler node orphans
  hostler vm claim 0190f1f0-0000-7000-8000-00000000000b --node rack1-a --for acme

They are never deleted by themselves. After a restore these are the machines that were made since the backup.";

/// Lists them.
pub async fn run(session: &Session) -> Result<Exit, Failure> {
    let found = session.client.unassigned().await?;
    session.print(&found, || table(&found))?;
    Ok(Exit::Done)
}

fn table(found: &[Unassigned]) -> Table {
    let rows = found.iter().map(|one| {
        let size = one
            .spec
            .as_ref()
            .map(|spec| format!("{} vcpus, {}, {} GiB", spec.vcpus, output::mib(spec.memory_mib), spec.disk_gib));
        let image = one.spec.as_ref().map(|spec| spec.image.clone());
        [
            one.id.to_string(),
            one.node_name.to_string(),
            output::or_dash(one.name.clone()),
            one.state.to_string(),
            output::or_dash(image),
            output::or_dash(size),
        ]
    });
    output::table(["ID", "NODE", "NAME", "STATE", "IMAGE", "SIZE"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn machines_that_no_record_knows() {
        let (node, vm) = (fixture::node(), fixture::vm("web-1", "running"));
        let known = Unassigned {
            node: node.id,
            node_name: node.name.clone(),
            id: vm.id,
            name: Some("web-1".into()),
            state: vm.state,
            spec: Some(vm.spec),
        };
        let bare = Unassigned { name: None, spec: None, ..known.clone() };
        insta::assert_snapshot!(table(&[known, bare]), @"
        ID                                    NODE   NAME   STATE    IMAGE  SIZE
        0190f1f0-0000-7000-8000-00000000000b  local  web-1  running  tiny   1 vcpus, 256 MiB, 1 GiB
        0190f1f0-0000-7000-8000-00000000000b  local  -      running  -      -
        ");
    }
}
