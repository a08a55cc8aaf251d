//! A machine is made something else than it was: more of this, less of that, another name.
//!
//! What its process can take it gets at once; the rest is in its folder, for the next start. It takes a moment and is
//! never broken off.

use hostler_model::{VmId, edit::Shape};

use super::{
    Vms,
    admit::Ask,
    drive::{Done, Drive, Reply, Then, answer},
    power::no_plan,
    verb::{Before, Verb},
};
use crate::{
    handler::Failure,
    hypervisor::{Applied, Hypervisor, NotApplied},
};

/// What is to differ.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Change {
    /// What concerns the host.
    pub shape: Option<Shape>,
    /// The name.
    pub name: Option<String>,
}

/// An edit that came to its end, one way or the other.
pub type Edited = Result<Applied, NotApplied>;

impl Vms {
    /// Makes a machine something else. The outer error: it was never tried, or nobody knows what became of it.
    pub async fn edit(&self, vm: VmId, epoch: u32, change: Change) -> Result<Edited, Failure> {
        self.change(vm, epoch, change).await
    }
}

impl Verb for Change {
    type Answer = Edited;
    const ASK: Ask = Ask::Edit;

    fn begin(self, drive: &mut Drive, reply: Reply<Edited>) {
        let before = Before::of(drive);
        drive.change(async move {
            let edited = apply(&*before.hypervisor, before.id, self).await;
            let standing = before.now().await;
            let done: Done = Box::new(move |drive| {
                if let Ok(applied) = &edited {
                    drive.behind = applied.is_behind();
                }
                drive.rest(standing);
                answer(reply, Ok(edited));
                Then::Continue
            });
            done
        });
    }
}

async fn apply(hypervisor: &dyn Hypervisor, id: VmId, change: Change) -> Edited {
    let mut plan = hypervisor.plan(id).await?.ok_or_else(|| no_plan(id))?;
    if let Some(shape) = change.shape {
        shape.put(&mut plan.spec);
    }
    if let Some(name) = change.name {
        plan.name = name;
    }
    hypervisor.edit(&plan).await
}
