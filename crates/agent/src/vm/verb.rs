//! What the requests for a change of a complete machine have in common: they are begun, find that it is so already, or are
//! refused; and at their end the machine rests where it stands then, whatever came of them.
//!
//! ```text
//! asked ──admitted──► begun ──► work, for as long as somebody wants to know ──► where the machine stands, the answer
//!   │        └─ it is so already: begun all the same, or answered at once
//!   └─ refused
//! ```

use std::sync::Arc;

use hostler_model::{VmId, error::Code};

use super::{
    Vms,
    admit::{Admission, Ask},
    drive::{Drive, Reply, Request, Standing, Trouble, answer},
};
use crate::{
    handler::Failure,
    hypervisor::{Hypervisor, Machine, Power},
};

/// What changes a complete machine: started, stopped, paused, edited …
pub(super) trait Verb: Clone + Send + 'static {
    /// What came of it.
    type Answer: Send + 'static;
    /// What it is, for admission.
    const ASK: Ask;
    /// What an answer that was lost means: it may have acted.
    const LOST: Code = Code::HypervisorFailed;

    /// Begins it.
    fn begin(self, drive: &mut Drive, reply: Reply<Self::Answer>);

    /// What it asks for is so already, or under way.
    fn already(self, drive: &mut Drive, reply: Reply<Self::Answer>) {
        self.begin(drive, reply);
    }
}

struct Asked<V: Verb> {
    epoch: u32,
    verb: V,
    reply: Reply<V::Answer>,
}

impl<V: Verb> Request for Asked<V> {
    fn ask(&self) -> Ask {
        V::ASK
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn take(self: Box<Self>, drive: &mut Drive, admission: Admission) {
        if self.reply.is_closed() {
            // Who asked gave up before it was begun, and says that nothing was done.
            return;
        }
        match admission {
            Admission::Accept => self.verb.begin(drive, self.reply),
            Admission::Ignore => self.verb.already(drive, self.reply),
            Admission::Refuse(denial) => answer(self.reply, Err(denial.into())),
        }
    }
}

impl Vms {
    /// Asks a machine that is here for a change, and waits for what comes of it.
    pub(super) async fn change<V: Verb>(&self, vm: VmId, epoch: u32, verb: V) -> Result<V::Answer, Failure> {
        self.is_here(vm)?;
        self.ask(vm, V::LOST, |reply| Asked { epoch, verb: verb.clone(), reply }).await
    }
}

/// A machine as a change finds it.
pub(super) struct Before {
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) id: VmId,
    /// Its process, where one lives, and what its processors do.
    pub(super) live: Option<(Arc<dyn Machine>, Power)>,
    pub(super) answered: bool,
    pub(super) trouble: Option<Trouble>,
}

impl Before {
    pub(super) fn of(drive: &Drive) -> Before {
        Before {
            hypervisor: drive.vms.hypervisor.clone(),
            id: drive.id,
            live: drive.live(),
            answered: drive.answered,
            trouble: drive.trouble.clone(),
        }
    }

    /// Where it stands after something that may have come to nothing: with the process that it had, if that lives.
    pub(super) async fn now(self) -> Standing {
        match self.live {
            Some((machine, power)) => Standing::of(&*self.hypervisor, self.id, machine, power, self.answered).await,
            None => Standing::Down(self.trouble),
        }
    }

    /// The same after a start that was left alone: where its process has ended, another one may live.
    pub(super) async fn found(self) -> Standing {
        match self.live {
            Some((machine, power)) => Standing::after(&*self.hypervisor, self.id, machine, power, self.answered).await,
            None => Standing::found(&*self.hypervisor, self.id, self.trouble).await,
        }
    }
}
