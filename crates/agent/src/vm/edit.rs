//! A machine is made something else than it was: more of this, less of that, another name.
//!
//! What its process can take it gets at once; the rest is in its folder, for the next start. It takes a moment and is
//! never broken off.

use hostler_model::{VmId, edit::Shape, error::Code};

use super::{
    Vms,
    admit::{Admission, Ask},
    drive::{Done, Drive, Reply, Request, Standing, Then, answer},
};
use crate::{
    handler::Failure,
    hypervisor::{Applied, DriverError, Hypervisor, NotApplied},
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
        self.is_here(vm)?;
        self.ask(vm, Code::HypervisorFailed, |reply| Edit { epoch, change: change.clone(), reply }).await
    }
}

struct Edit {
    epoch: u32,
    change: Change,
    reply: Reply<Edited>,
}

impl Request for Edit {
    fn ask(&self) -> Ask {
        Ask::Edit
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        match admission {
            Admission::Accept | Admission::Ignore => self.begin(drive),
            Admission::Refuse(denial) => answer(self.reply, Err(denial.into())),
        }
    }
}

impl Edit {
    fn begin(self, drive: &mut Drive) {
        let Edit { change, reply, .. } = self;
        let (hypervisor, id) = (drive.vms.hypervisor.clone(), drive.id);
        let (live, trouble, answered) = (drive.live(), drive.trouble.clone(), drive.answered);
        drive.change(async move {
            let edited = apply(&*hypervisor, id, change).await;
            let standing = match live {
                Some((machine, power)) => Standing::of(&*hypervisor, id, machine, power, answered).await,
                None => Standing::Down(trouble),
            };
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
    let mut plan = hypervisor.plan(id).await?.ok_or_else(|| DriverError {
        code: Code::HypervisorFailed,
        detail: format!("what machine {id} is made of is not written in its folder; delete it and create another"),
        retryable: false,
    })?;
    if let Some(shape) = change.shape {
        shape.put(&mut plan.spec);
    }
    if let Some(name) = change.name {
        plan.name = name;
    }
    hypervisor.edit(&plan).await
}
