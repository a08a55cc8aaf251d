//! Kinds of task. A kind is one file here that says everything about itself, one handler in the agent, and one line
//! in [`for_each_kind!`]. A kind without a handler does not compile.

mod diag_health_probe;
mod echo;
mod image_delete;
mod image_pull;
mod info;
mod inventory_refresh;
mod snapshot_delete;
mod vm_create;
mod vm_delete;
mod vm_edit;
mod vm_exec;
mod vm_pause;
mod vm_reboot;
mod vm_rename;
mod vm_restore;
mod vm_resume;
mod vm_snapshot;
mod vm_start;
mod vm_stop;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::{
    diag_health_probe::{DiagHealthProbe, FabricLink, GpuDevice, HealthProbeOutput, HealthProbeParams},
    echo::{Echo, EchoOutput, EchoParams},
    image_delete::{ImageDelete, ImageDeleteOutput, ImageDeleteParams},
    image_pull::{ImagePull, ImagePullOutput, ImagePullParams},
    info::KindInfo,
    inventory_refresh::{InventoryRefresh, InventoryRefreshOutput, InventoryRefreshParams},
    snapshot_delete::{SnapshotDelete, SnapshotDeleteOutput, SnapshotDeleteParams, SnapshotShare},
    vm_create::{VmCreate, VmCreateOutput, VmCreateParams, is_plausible},
    vm_delete::{VmDelete, VmDeleteOutput, VmDeleteParams},
    vm_edit::{Effect, Filed, VmEdit, VmEditOutput},
    vm_exec::{OUTPUT_LIMIT, VmExec, VmExecOutput, VmExecParams},
    vm_pause::{VmPause, VmPauseOutput, VmPauseParams},
    vm_reboot::{RebootHow, VmReboot, VmRebootOutput, VmRebootParams},
    vm_rename::{VmRename, VmRenameOutput, VmRenameParams},
    vm_restore::{VmRestore, VmRestoreOutput, VmRestoreParams},
    vm_resume::{VmResume, VmResumeOutput, VmResumeParams},
    vm_snapshot::{VmSnapshot, VmSnapshotOutput, VmSnapshotParams},
    vm_start::{StartHow, VmStart, VmStartOutput, VmStartParams},
    vm_stop::{STOP_TIMEOUT_SECONDS, StopHow, VmStop, VmStopOutput, VmStopParams},
};
use crate::{
    alloc::Settlement,
    caller::Access,
    defaults::Defaults,
    error::{Code, Refusal, excerpt},
    image::Image,
    planted::{Bug, is_planted},
    retry::RetryPolicy,
    role::Role,
    scope::Scope,
    snapshot::Use,
    task::{Effects, Verdict},
    unit::Resources,
    vm::{VmChange, VmState},
};

/// The list of kinds: hands every kind's type to a macro of the caller's.
#[macro_export]
macro_rules! for_each_kind {
    ($then:ident) => {
        $then! {
            Echo, VmCreate, VmStart, VmStop, VmReboot, VmPause, VmResume, VmExec, VmEdit, VmRename, VmDelete, VmSnapshot,
            VmRestore, SnapshotDelete, DiagHealthProbe, InventoryRefresh, ImagePull, ImageDelete
        }
    };
}

macro_rules! name_kinds {
    ($($kind:ident),*) => {
        /// A kind, by name.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum KindName {
            $(
                #[doc = concat!("[`", stringify!($kind), "`]")]
                $kind,
            )*
        }

        impl KindName {
            /// Every kind.
            pub const ALL: &'static [KindName] = &[$(KindName::$kind),*];

            /// The kind as people and programs spell it, such as `vm.create`.
            pub const fn as_str(self) -> &'static str {
                match self { $(KindName::$kind => <$kind as Kind>::NAME,)* }
            }

            /// What the kind says about itself, without its types.
            pub fn spec(self) -> &'static Spec {
                match self { $(KindName::$kind => const { &Spec::of::<$kind>(KindName::$kind) },)* }
            }
        }
    };
}
for_each_kind!(name_kinds);

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KindName {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        KindName::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let known: Vec<&str> = KindName::ALL.iter().map(|kind| kind.as_str()).collect();
            Refusal::new(
                Code::UnknownAction,
                format!("there is no kind of task {:?}; there are {}", excerpt(text), known.join(", ")),
            )
        })
    }
}

impl Serialize for KindName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for KindName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|refusal: Refusal| serde::de::Error::custom(refusal.detail))
    }
}

/// How many of a kind an agent runs at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
// In the API document `Class` is that of an entry of the log.
#[schema(as = ConcurrencyClass)]
pub enum Class {
    /// Starts machines.
    Boot,
    /// Moves bytes.
    Disk,
    /// Everything short.
    Quick,
    /// Runs programs in guests. They take as long as their users want, and would keep what is short (a stop, a deletion)
    /// from its slots.
    Guest,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 4] = [Class::Boot, Class::Disk, Class::Quick, Class::Guest];

    /// The class as the store and a poll spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Boot => "boot",
            Class::Disk => "disk",
            Class::Quick => "quick",
            Class::Guest => "guest",
        }
    }
}

/// How a kind stands to the other tasks on the same VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It has nothing to do with a VM.
    None,
    /// It waits for the changes before it and runs beside others like it.
    Shared,
    /// It changes the VM: it waits for the changes before it, and holds its turn until it ends, backoff included.
    Exclusive,
    /// As `Exclusive`, and the changes before it are aborted.
    Final,
}

/// What a handler does when it finds its own unfinished attempt in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUncertain {
    /// Looks at what is there, and completes or undoes it.
    Inspect,
    /// Does it again: it has no effect, or the same one.
    Rerun,
    /// Ends with OUTCOME_UNKNOWN; nobody retries it by itself.
    Fail,
}

/// Whether an attempt, however far it came, can be told from one that was never made by anything on its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trace {
    /// It may have done something.
    Left,
    /// It only looks, or gives back what it was told: its node need not know of it before it has ended.
    None,
}

/// What follows an attempt that failed, might be made again, and left something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRemains {
    /// It ends: what is left is for a person to look at.
    End,
    /// Another attempt: it looks at what is there (`ON_UNCERTAIN`), and what is left is only what is still to be done.
    GoOn,
}

/// What a kind's target must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// Any node will do; one may be named.
    AnyNode,
    /// The node that is named, whether it takes new machines or not.
    Node,
    /// A VM that does not exist yet.
    NewVm,
    /// A VM that does.
    Vm,
}

/// What `fill` may look at.
#[derive(Clone, Debug)]
pub struct FillContext<'a> {
    /// The image that the parameters name, when they name one that exists.
    pub image: Option<&'a Image>,
    /// What machines get that do not say it.
    pub defaults: &'a Defaults,
}

/// Whether a task may work on its VM now.
#[derive(Clone, PartialEq, Debug)]
pub enum Admission {
    /// It may.
    Go,
    /// There is nothing left to do.
    Moot(Value),
    /// It may not.
    Refuse(Code, String),
}

/// What a task's end does to its VM and the VM's allocation.
#[derive(Clone, PartialEq, Debug)]
pub struct Settled {
    /// The VM afterwards; `None` leaves it as it is.
    pub vm: Option<VmChange>,
    /// The VM's allocation afterwards.
    pub allocation: Settlement,
}

impl Settled {
    /// Nothing changes.
    pub const NOTHING: Settled = Settled { vm: None, allocation: Settlement::Keep };

    /// The machine changes, and its charge stays.
    fn vm(change: VmChange) -> Settled {
        Settled { vm: Some(change), ..Settled::NOTHING }
    }
}

/// What a submission changes of its machine's record at once, with its task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    /// Nothing: what its node does is what changes the machine.
    Stays,
    /// What the machine is to be, as the parameters say.
    Edited,
    /// Its name, which the parameters say.
    Renamed,
}

/// Everything a kind says about itself.
pub trait Kind: Send + Sync + 'static {
    /// Its name, such as `vm.create`: also the capability that its node must advertise.
    const NAME: &'static str;
    /// How many run at once.
    const CLASS: Class;
    /// Who may ask.
    const ROLE: Role;
    /// What a credential that is narrowed must be narrowed to, to ask for it.
    const SCOPE: Scope;
    /// What it works on.
    const AIM: Aim;
    /// How it stands to others on the same VM.
    const TURN: Turn;
    /// What to do about an attempt whose end is not known.
    const ON_UNCERTAIN: OnUncertain;
    /// What follows a failure of which something is left.
    const ON_REMAINS: OnRemains = OnRemains::End;
    /// Whether it leaves anything on its host.
    const TRACE: Trace = Trace::Left;
    /// How many attempts, and the pauses between them.
    const RETRY: RetryPolicy;
    /// Why these, in a sentence for people: docs/tasks.md shows it.
    const RETRY_WHY: &'static str;
    /// From the first lease to the end.
    const TIMEOUT: Duration;
    /// How long it may wait for a node.
    const QUEUE_DEADLINE: Duration = Duration::from_secs(15 * 60);
    /// Where in its parameters are texts that may hold secrets, as JSON pointers: they are kept apart from the task.
    const SENSITIVE: &'static [&'static str] = &[];

    /// What it does with a snapshot, which its parameters then name as `snapshot`.
    const SNAPSHOT: Use = Use::None;
    /// What its submission changes of its machine's record.
    const RECORD: Record = Record::Stays;
    /// Whether its machine runs once it has succeeded: it counts as running from its submission on.
    const STARTS: bool = false;

    /// What it is told. Stored and signed documents are read leniently; the API refuses unknown fields.
    type Params: Serialize + DeserializeOwned + Send + Sync;
    /// What it gives back.
    type Output: Serialize + DeserializeOwned + Send + Sync;

    /// Fills in defaults and refuses what makes no sense.
    fn fill(params: Self::Params, context: &FillContext<'_>) -> Result<Self::Params, Refusal>;

    /// The image that its parameters name, by name or digest.
    fn image(_params: &Value, _defaults: &Defaults) -> Option<String> {
        None
    }

    /// What a task of this kind takes while it lives (for [`Aim::NewVm`]: what its VM takes).
    fn delta(_params: &Self::Params) -> Resources {
        Resources::ZERO
    }

    /// From the first lease to the end, where the parameters say more than [`Kind::TIMEOUT`].
    fn timeout(_params: &Self::Params) -> Duration {
        Self::TIMEOUT
    }

    /// Whether it may work on a VM in this state.
    fn admit(_vm: VmState) -> Admission {
        Admission::Go
    }

    /// What its end does to its VM, which was in this state.
    fn settle(_vm: VmState, _verdict: &Verdict) -> Settled {
        Settled::NOTHING
    }
}

/// A kind without its types: what the store and the server work with.
pub struct Spec {
    /// Which kind.
    pub name: KindName,
    /// How many run at once.
    pub class: Class,
    /// Who may ask.
    pub role: Role,
    /// What a credential that is narrowed must be narrowed to.
    pub scope: Scope,
    /// What it works on.
    pub aim: Aim,
    /// How it stands to others on the same VM.
    pub turn: Turn,
    /// What to do about an attempt whose end is not known.
    pub on_uncertain: OnUncertain,
    /// What follows a failure of which something is left.
    pub on_remains: OnRemains,
    /// Whether it leaves anything on its host.
    pub trace: Trace,
    /// Attempts and backoff.
    pub retry: RetryPolicy,
    /// Why these.
    pub retry_why: &'static str,
    /// How long it may wait for a node.
    pub queue_deadline: Duration,
    /// What it does with a snapshot.
    pub snapshot: Use,
    /// What its submission changes of its machine's record.
    pub record: Record,
    /// Whether its machine runs once it has succeeded.
    pub starts: bool,
    /// Where in its parameters are texts that are kept apart from the task.
    pub sensitive: &'static [&'static str],
    /// Reads, fills in and checks parameters at the edge: unknown fields are refused.
    pub fill: fn(&Value, &FillContext<'_>) -> Result<Value, Refusal>,
    /// The image that parameters name.
    pub image: fn(&Value, &Defaults) -> Option<String>,
    /// What it takes.
    pub delta: fn(&Value) -> Resources,
    /// From the first lease to the end.
    pub timeout: fn(&Value) -> Duration,
    /// Whether it may work on a VM in this state.
    pub admit: fn(VmState) -> Admission,
    /// What its end does to its VM.
    pub settle: fn(VmState, &Verdict) -> Settled,
}

impl Spec {
    /// Who may ask for it.
    pub const fn access(&self) -> Access {
        match self.role {
            Role::Viewer | Role::Operator | Role::TenantAdmin => Access::Tenant { from: self.role, scope: self.scope },
            Role::PlatformAdmin => Access::Admin { scope: self.scope },
        }
    }

    const fn of<K: Kind>(name: KindName) -> Spec {
        assert!(
            !matches!((K::ON_REMAINS, K::ON_UNCERTAIN), (OnRemains::GoOn, OnUncertain::Fail)),
            "who goes on from what is left looks at it"
        );
        assert!(
            matches!((K::TRACE, K::ON_UNCERTAIN, K::TURN), (Trace::Left, _, _) | (_, OnUncertain::Rerun, Turn::None)),
            "what leaves no trace is made again, and has nothing to do with a VM"
        );
        Spec {
            name,
            class: K::CLASS,
            role: K::ROLE,
            scope: K::SCOPE,
            aim: K::AIM,
            turn: K::TURN,
            on_uncertain: K::ON_UNCERTAIN,
            on_remains: K::ON_REMAINS,
            trace: K::TRACE,
            retry: K::RETRY,
            retry_why: K::RETRY_WHY,
            queue_deadline: K::QUEUE_DEADLINE,
            snapshot: K::SNAPSHOT,
            record: K::RECORD,
            starts: K::STARTS,
            sensitive: K::SENSITIVE,
            fill: |params, context| {
                let params: K::Params = crate::api::strict(params)?;
                let filled = K::fill(params, context)?;
                Ok(serde_json::to_value(filled).expect("parameters are plain data"))
            },
            image: K::image,
            // Stored parameters were filled by the function above; a document of another version that cannot be read
            // takes nothing and gets the kind's own time.
            delta: |params| K::Params::deserialize(params).map_or(Resources::ZERO, |params| K::delta(&params)),
            timeout: |params| K::Params::deserialize(params).map_or(K::TIMEOUT, |params| K::timeout(&params)),
            admit: K::admit,
            settle: K::settle,
        }
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spec").field(&self.name).finish()
    }
}

/// Refuses a number that is out of range.
pub(crate) fn within<N: PartialOrd + fmt::Display + Copy>(
    field: &str,
    value: N,
    least: N,
    most: N,
) -> Result<N, Refusal> {
    if value < least || value > most {
        return Err(Refusal::field(field, format!("{value} is not between {least} and {most}")));
    }
    Ok(value)
}

/// That a machine in this state cannot do what is asked, and what can be done instead.
fn cannot(vm: VmState, instead: &str) -> Admission {
    Admission::Refuse(Code::VmStateConflict, format!("the VM is {vm}; {instead}"))
}

/// Whether an unsuccessful end provably left nothing.
fn undone(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Unsuccessful { effects: Effects::Undone, .. } => true,
        Verdict::Unsuccessful { effects: Effects::Remain, .. } => is_planted(Bug::ReleasedUnproven),
        Verdict::Succeeded { .. } => false,
    }
}

#[cfg(test)]
mod tests;
