//! `vm.create`: makes a machine and waits until its guest answers.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Settled, Turn, undone, within};
use crate::{
    alloc::Settlement,
    edit,
    error::{Code, Refusal, excerpt},
    forward::{self, PortForward},
    id::ImageDigest,
    name::Name,
    restart::RestartPolicy,
    task::Verdict,
    unit::Resources,
    vm::{VmChange, VmReason, VmSpec, VmState},
};

/// The image of machines that name none.
const DEFAULT_IMAGE: &str = "tiny";

/// The kind.
#[derive(Debug)]
pub struct VmCreate;

/// What a machine is to be. Everything may be left out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct VmCreateParams {
    /// Its name; made from its id where there is none.
    pub name: Option<Name>,
    /// Its image, by name; `tiny` where there is none.
    pub image: Option<String>,
    /// The image by digest: filled in at submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<ImageDigest>,
    /// Virtual processors, 1 to 256; the image says how many where this does not.
    pub vcpus: Option<i64>,
    /// Memory in MiB, 64 to 16,777,216.
    pub memory_mib: Option<i64>,
    /// The root disk in GiB, 1 to 65,536.
    pub disk_gib: Option<i64>,
    /// How long the guest may take to answer, in seconds, 1 to 3,600; 120 where nothing is said.
    pub ready_timeout_seconds: Option<u32>,
    /// The only node that will do, by id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Free words: at most 64, keys up to 63 bytes, values up to 255.
    pub labels: BTreeMap<String, String>,
    /// When it is started again after its process ended by itself; `never` where nothing is said.
    pub restart: RestartPolicy,
    /// Whether it is started again when its host was restarted while it ran.
    pub autostart: bool,
    /// Ports of the host that lead to the guest, at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_forwards: Vec<PortForward>,
    /// Whether it is protected from deletion.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
    /// After how many seconds from its submission it is deleted by itself: 1 to 315,360,000; never where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 315_360_000)]
    pub ttl_seconds: Option<u64>,
}

impl VmCreateParams {
    /// The image that is asked for.
    pub fn image_name(&self) -> &str {
        self.image.as_deref().unwrap_or(DEFAULT_IMAGE)
    }

    /// The spec, once everything is filled in.
    pub fn spec(&self) -> Option<VmSpec> {
        Some(VmSpec {
            image: self.image_name().to_owned(),
            image_digest: self.image_digest.clone()?,
            vcpus: self.vcpus?,
            memory_mib: self.memory_mib?,
            disk_gib: self.disk_gib?,
            ready_timeout_seconds: self.ready_timeout_seconds?,
            labels: self.labels.clone(),
            restart: self.restart,
            autostart: self.autostart,
            port_forwards: self.port_forwards.clone(),
        })
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VmCreateOutput {
    /// What the machine takes, as its node sees it.
    pub charge: Resources,
    /// From the hypervisor's start to the guest's first answer, in milliseconds.
    pub boot_ms: f64,
    /// How it runs: `kvm`, `tcg` or `simulated`.
    pub acceleration: String,
    /// Its port forwards, with the ports that the node chose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_forwards: Vec<PortForward>,
}

impl Kind for VmCreate {
    const NAME: &'static str = "vm.create";
    const CLASS: Class = Class::Boot;
    const ROLE: Role = Role::Operator;
    const AIM: Aim = Aim::NewVm;
    const TURN: Turn = Turn::Exclusive;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const ATTEMPTS: u32 = 3;
    const TIMEOUT: Duration = Duration::from_secs(600);
    const QUEUE_DEADLINE: Duration = Duration::from_secs(30 * 60);

    type Params = VmCreateParams;
    type Output = VmCreateOutput;

    fn image(params: &Value) -> Option<String> {
        Some(VmCreateParams::deserialize(params).ok()?.image_name().to_owned())
    }

    fn fill(mut params: VmCreateParams, context: &FillContext<'_>) -> Result<VmCreateParams, Refusal> {
        let Some(image) = context.image else {
            let name = excerpt(params.image_name());
            return Err(Refusal::new(
                Code::ImageNotFound,
                format!("there is no image {name:?}; `hostler image list` shows those there are"),
            )
            .with("image", name));
        };
        let defaults = image.manifest.defaults;
        params.image = Some(params.image_name().to_owned());
        params.image_digest = Some(image.digest.clone());
        params.vcpus = Some(within("vcpus", params.vcpus.unwrap_or(defaults.vcpus), 1, 256)?);
        params.memory_mib = Some(within("memory_mib", params.memory_mib.unwrap_or(defaults.memory_mib), 64, 16 << 20)?);
        params.disk_gib = Some(within("disk_gib", params.disk_gib.unwrap_or(defaults.disk_gib), 1, 65_536)?);
        params.ready_timeout_seconds =
            Some(within("ready_timeout_seconds", params.ready_timeout_seconds.unwrap_or(120), 1, 3600)?);
        edit::check_labels(&params.labels)?;
        forward::check(&params.port_forwards)?;
        params.ttl_seconds.map(edit::ttl).transpose()?;
        Ok(params)
    }

    fn delta(params: &VmCreateParams) -> Resources {
        params.spec().map_or(Resources::ZERO, |spec| spec.charge())
    }

    fn timeout(params: &VmCreateParams) -> Duration {
        Self::TIMEOUT + Duration::from_secs(u64::from(params.ready_timeout_seconds.unwrap_or(0)))
    }

    fn admit(vm: VmState) -> Admission {
        match vm {
            VmState::Provisioning => Admission::Go,
            VmState::Running
            | VmState::Paused
            | VmState::Stopped
            | VmState::Sleeping
            | VmState::Error
            | VmState::Unknown
            | VmState::Deleted => Admission::Refuse(Code::VmStateConflict, format!("the VM is {vm}, not to be made")),
        }
    }

    fn settle(_: VmState, verdict: &Verdict) -> Settled {
        match verdict {
            Verdict::Succeeded { output } => Settled {
                vm: Some(VmChange { ready: true, ..VmChange::to(VmState::Running) }),
                allocation: match VmCreateOutput::deserialize(output) {
                    Ok(output) if is_plausible(&output.charge) => Settlement::Use(output.charge),
                    // It runs, and what its node says of it makes no sense: it is charged what was asked for.
                    Ok(_) | Err(_) => Settlement::UseHeld,
                },
            },
            Verdict::Unsuccessful { error, .. } if undone(verdict) => Settled {
                vm: Some(VmChange::because(VmState::Deleted, VmReason::CreateFailed, error.detail.clone())),
                allocation: Settlement::Release,
            },
            Verdict::Unsuccessful { error, .. } => Settled {
                vm: Some(VmChange::because(VmState::Error, VmReason::CreateFailed, error.detail.clone())),
                allocation: Settlement::Keep,
            },
        }
    }
}

/// More of anything than one machine takes: sums of as many machines as there will ever be stay far from an overflow.
const ABSURD: i64 = 1 << 40;

/// Whether a node can mean this charge: the books never become negative by an agent's word.
pub fn is_plausible(charge: &Resources) -> bool {
    charge.vms == 1 && charge.each().iter().all(|(_, amount)| (0..=ABSURD).contains(amount))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settled(charge: serde_json::Value) -> Settlement {
        let output = json!({"charge": charge, "boot_ms": 1.0, "acceleration": "tcg"});
        VmCreate::settle(VmState::Provisioning, &Verdict::Succeeded { output }).allocation
    }

    #[test]
    fn a_charge_that_makes_no_sense_is_not_booked() {
        let good = Resources { vcpus: 2, memory_mib: 300, disk_gib: 0, vms: 1 };
        assert_eq!(settled(json!(good)), Settlement::Use(good));
        for bad in [
            Resources { vcpus: -1, ..good },
            Resources { memory_mib: i64::MIN, ..good },
            Resources { disk_gib: ABSURD + 1, ..good },
            Resources { vms: 0, ..good },
            Resources { vms: 2, ..good },
        ] {
            assert_eq!(settled(json!(bad)), Settlement::UseHeld, "{bad:?}");
        }
        assert_eq!(settled(json!("much")), Settlement::UseHeld);
    }
}
