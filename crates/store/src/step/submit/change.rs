//! What a submission changes of its machine's record at once: what it is to be, or its name. A kind says which
//! (`Kind::RECORD`).

use hostler_db::Result;
use hostler_model::{
    NodeId, Refusal,
    kind::{Record, VmRenameParams},
    name::Name,
    task::Task,
    vm::Vm,
};
use serde::Deserialize;
use serde_json::json;

use super::{super::edit, Batch, name_taken};
use crate::{Answer, Submission, vm::VmRow, work::Work};

/// What is changed.
pub(super) enum Change {
    /// What the machine is to be.
    Edit(Box<edit::Plan>),
    /// Its name.
    Rename(Name),
}

impl Change {
    /// The machine as it is then; an edit is also told to its task.
    pub(super) fn told(&self, task: &mut Task, row: &VmRow) -> VmRow {
        let mut row = row.clone();
        match self {
            Change::Edit(plan) => {
                task.params = plan.params.clone();
                row.vm = plan.after.clone();
            }
            Change::Rename(name) if row.vm.name != *name => {
                row.vm.name = name.clone();
                row.vm.changed_in_record();
            }
            Change::Rename(_) => {}
        }
        row
    }
}

impl Batch {
    /// What the submission changes of the machine at once.
    pub(super) fn change(
        &self,
        work: &mut Work<'_>,
        item: &Submission,
        vm: &Vm,
        node: NodeId,
    ) -> Result<Answer<Option<Change>>> {
        match item.kind.spec().record {
            Record::Stays => Ok(Ok(None)),
            Record::Edited => {
                let plan = edit::plan(work, item, node)?;
                Ok(plan.map(|plan| Some(Change::Edit(Box::new(plan)))))
            }
            Record::Renamed => {
                let Some(name) = name_wanted(item) else {
                    return Ok(Err(Refusal::field("name", "a rename needs the name that the VM is to have")));
                };
                match self.names.get(&(item.tenant, name.clone())) {
                    Some(id) if *id != vm.id => Ok(Err(name_taken(&name, *id))),
                    Some(_) | None => Ok(Ok(Some(Change::Rename(name)))),
                }
            }
        }
    }

    /// Writes what was decided.
    pub(super) fn accept_change(&mut self, work: &mut Work<'_>, item: &Submission, change: Change) -> Result<()> {
        match change {
            Change::Edit(plan) => edit::accept(work, &plan),
            Change::Rename(name) => {
                self.rename(work, item, name);
                Ok(())
            }
        }
    }

    /// The name is the machine's from here on; the one it had is free.
    fn rename(&mut self, work: &mut Work<'_>, item: &Submission, name: Name) {
        let now = work.now;
        let Some(row) = item.target.vm.and_then(|id| work.vms.change(&id)) else { return };
        if row.vm.name == name {
            return;
        }
        let before = std::mem::replace(&mut row.vm.name, name.clone());
        row.vm.changed_in_record();
        row.vm.updated_at = now;
        let id = row.vm.id;
        work.renamed.insert(id);
        self.names.remove(&(item.tenant, before.clone()));
        self.names.insert((item.tenant, name.clone()), id);
        work.event(
            Some(item.tenant),
            "vm",
            "vm.renamed",
            id.0,
            json!({"name": name, "was": before, "task": item.task}),
        );
    }
}

/// The name that a submission wants for its machine.
pub(super) fn name_wanted(item: &Submission) -> Option<Name> {
    match (&item.vm, item.kind.spec().record) {
        (Some(machine), _) => Some(machine.name.clone()),
        (None, Record::Renamed) => VmRenameParams::deserialize(&item.params).ok().map(|params| params.name),
        (None, Record::Stays | Record::Edited) => None,
    }
}
