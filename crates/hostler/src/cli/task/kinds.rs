//! `hostler task kinds`: what can be done on a host, and what holds for each kind.

use hostler_model::kind::KindInfo;

use super::Session;
use crate::{
    exit::{Exit, Failure},
    output::{self, Table},
};

pub const EXAMPLES: &str = "\
Examples:
  hostler task kinds
  hostler task kinds -o wide               also who may ask, and why each is tried so
  hostler task kinds -o json";

/// Shows them.
pub async fn run(session: &Session) -> Result<Exit, Failure> {
    let kinds = session.client.task_kinds().await?;
    session.print(&kinds, || table(&kinds))?;
    Ok(Exit::Done)
}

fn table(kinds: &[KindInfo]) -> Table {
    let rows = kinds.iter().map(|kind| {
        [
            kind.kind.to_string(),
            kind.class.as_str().to_owned(),
            kind.begins_within(),
            kind.ends_within(),
            kind.attempts(),
            kind.role.as_str().to_owned(),
            kind.because.clone(),
        ]
    });
    output::table(["KIND", "SLOTS", "BEGINS WITHIN", "ENDS WITHIN", "ATTEMPTS, PAUSES", "ROLE", "BECAUSE"], rows)
        .wide(&["ROLE", "BECAUSE"])
}

#[cfg(test)]
mod tests {
    use hostler_model::kind::KindName;

    use super::*;

    #[test]
    fn a_list_of_kinds() {
        let kinds = [KindName::VmExec, KindName::SnapshotDelete].map(KindInfo::of);
        insta::assert_snapshot!(table(&kinds), @"
        KIND             SLOTS  BEGINS WITHIN  ENDS WITHIN  ATTEMPTS, PAUSES
        vm.exec          guest  15 min         1 min        3, exponential 1 s to 10 s; never when it may have begun
        snapshot.delete  quick  15 min         6 h          5, exponential 5 s to 2 min; also from what a failure left
        ");
    }
}
