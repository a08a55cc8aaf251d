//! `vm.create`: makes a machine and waits until its guest answers.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Admission, Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Settled, Turn, undone, within};
use crate::{
    alloc::Settlement,
    cloud_init::{CloudInit, FirstBoot, USER_DATA_LIMIT},
    defaults::Defaults,
    edit,
    error::{Code, Refusal, excerpt},
    forward::{self, PortForward},
    id::ImageDigest,
    image::Manifest,
    name::Name,
    placement::Placement,
    ready::Readiness,
    restart::RestartPolicy,
    retry::RetryPolicy,
    secret::Sensitive,
    task::Verdict,
    unit::Resources,
    vm::{VmChange, VmReason, VmSpec, VmState},
};

/// The kind.
#[derive(Debug)]
pub struct VmCreate;

/// What a machine is to be. Everything may be left out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct VmCreateParams {
    /// Its name; made from its id where there is none.
    pub name: Option<Name>,
    /// Its image, by name; the server's default where there is none, which is `tiny` unless it is configured.
    pub image: Option<String>,
    /// The image by digest: filled in at submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<ImageDigest>,
    /// Virtual processors, 1 to 256; the server's default where there is none, and else what the image says.
    pub vcpus: Option<i64>,
    /// Memory in MiB, 64 to 16,777,216; likewise.
    pub memory_mib: Option<i64>,
    /// The root disk in GiB, 1 to 65,536; likewise, and no less than the image says.
    pub disk_gib: Option<i64>,
    /// When it is ready; the image says so where this does not.
    pub ready: Option<Readiness>,
    /// How long it may take to be, in seconds, 1 to 3,600; the image says how long where this does not, and else it is
    /// 600 where cloud-init or a marker is waited for, and 120 for the rest.
    pub ready_timeout_seconds: Option<u32>,
    /// What its guest is to become at its first boot, for images with cloud-init. Once the task is written down, only
    /// the host name and the network are left here; the rest is in `user_data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInit>,
    /// User-data for cloud-init, handed to it byte for byte; at most 256 KiB. It is kept apart from the task and shown
    /// to nobody. Beside it `cloud_init` may say the host name and the network only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub user_data: Option<Sensitive>,
    /// Vendor-data for cloud-init, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub vendor_data: Option<Sensitive>,
    /// The only node that will do, by id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Where it may go, beside a node that is named.
    #[serde(skip_serializing_if = "Placement::is_any")]
    pub placement: Placement,
    /// Free words: at most 64, keys up to 63 bytes, values up to 255.
    pub labels: BTreeMap<String, String>,
    /// When it is started again after its process ended by itself; `never` where nothing is said.
    pub restart: RestartPolicy,
    /// Whether it is started again when its host was restarted while it ran.
    pub autostart: bool,
    /// Ports of the host that lead to the guest, at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_forwards: Vec<PortForward>,
    /// Where no node will do now: wait for one, as long as a task of it may be queued, instead of being refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wait_for_capacity: bool,
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
    fn image_or<'a>(&'a self, defaults: &'a Defaults) -> &'a str {
        self.image.as_deref().unwrap_or(&defaults.image)
    }

    /// The spec, once everything is filled in.
    pub fn spec(&self) -> Option<VmSpec> {
        Some(VmSpec {
            image: self.image.clone()?,
            image_digest: self.image_digest.clone()?,
            vcpus: self.vcpus?,
            memory_mib: self.memory_mib?,
            disk_gib: self.disk_gib?,
            ready: self.ready.clone().unwrap_or_default(),
            ready_timeout_seconds: self.ready_timeout_seconds?,
            first_boot: self.first_boot(),
            labels: self.labels.clone(),
            placement: self.placement.clone(),
            restart: self.restart,
            autostart: self.autostart,
            port_forwards: self.port_forwards.clone(),
        })
    }

    /// What the guest finds at its first boot, once everything is filled in.
    fn first_boot(&self) -> Option<FirstBoot> {
        let form = self.cloud_init.as_ref()?;
        Some(FirstBoot {
            hostname: form.hostname.clone(),
            user_data: self.user_data.clone(),
            vendor_data: self.vendor_data.clone(),
            network: form.network.clone(),
        })
    }

    /// Checks what the guest is to become, and brings it into the form in which it is written down: with a `cloud_init`
    /// where there is to be a seed, and what the typed form says in `user_data`.
    fn fill_first_boot(&mut self, image: &Manifest) -> Result<(), Refusal> {
        // An empty text says nothing, and there is nothing of it to keep apart.
        let said = |text: &Sensitive| text.text().is_none_or(|text| !text.is_empty());
        self.user_data = self.user_data.take().filter(said);
        self.vendor_data = self.vendor_data.take().filter(said);
        let asked = self.cloud_init.is_some() || self.user_data.is_some() || self.vendor_data.is_some();
        if !asked && !image.cloud_init {
            return Ok(());
        }
        let form = self.cloud_init.take().unwrap_or_default();
        form.check()?;
        if form.has_user_data() {
            if self.user_data.is_some() {
                let why = "cloud_init says what user-data says: send the one or the other; beside user_data it may say \
                           hostname and network only";
                return Err(Refusal::field("user_data", why));
            }
            self.user_data = Some(form.user_data().into());
        }
        self.cloud_init = Some(form.without_user_data());
        check_text("user_data", self.user_data.as_ref())?;
        check_text("vendor_data", self.vendor_data.as_ref())
    }
}

/// Refuses what is too long. What is kept apart already was checked before.
fn check_text(field: &str, text: Option<&Sensitive>) -> Result<(), Refusal> {
    let bytes = text.and_then(Sensitive::text).map_or(0, str::len);
    within(&format!("{field} (bytes)"), bytes, 0, USER_DATA_LIMIT).map(drop)
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
    /// Why it is not ready although its guest runs: cloud-init ended with errors. The machine stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
}

impl Kind for VmCreate {
    const NAME: &'static str = "vm.create";
    const CLASS: Class = Class::Boot;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::VmWrite;
    const AIM: Aim = Aim::NewVm;
    const TURN: Turn = Turn::Exclusive;
    const STARTS: bool = true;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Inspect;
    const RETRY: RetryPolicy = RetryPolicy::exponential(3, 2, 60);
    const RETRY_WHY: &'static str =
        "Somebody waits for it; a download that broke goes on, and what fails three times on a host has another cause.";
    const TIMEOUT: Duration = Duration::from_secs(600);
    const QUEUE_DEADLINE: Duration = Duration::from_secs(30 * 60);
    const SENSITIVE: &'static [&'static str] = &["/user_data", "/vendor_data"];

    type Params = VmCreateParams;
    type Output = VmCreateOutput;

    fn image(params: &Value, defaults: &Defaults) -> Option<String> {
        Some(VmCreateParams::deserialize(params).ok()?.image_or(defaults).to_owned())
    }

    fn fill(mut params: VmCreateParams, context: &FillContext<'_>) -> Result<VmCreateParams, Refusal> {
        let Some(image) = context.image else {
            let name = excerpt(params.image_or(context.defaults));
            return Err(Refusal::new(
                Code::ImageNotFound,
                format!("there is no image {name:?}; `hostler image list` shows those there are"),
            )
            .with("image", name));
        };
        let defaults = context.defaults.amounts(image.manifest.defaults);
        params.image = Some(params.image_or(context.defaults).to_owned());
        params.image_digest = Some(image.digest.clone());
        params.vcpus = Some(within("vcpus", params.vcpus.unwrap_or(defaults.vcpus), 1, 256)?);
        params.memory_mib = Some(within("memory_mib", params.memory_mib.unwrap_or(defaults.memory_mib), 64, 16 << 20)?);
        params.disk_gib = Some(within("disk_gib", params.disk_gib.unwrap_or(defaults.disk_gib), 1, 65_536)?);
        let ready = params.ready.unwrap_or_else(|| image.manifest.ready.clone());
        ready.check()?;
        let timeout = params.ready_timeout_seconds.or(image.manifest.ready_timeout_seconds);
        let timeout = timeout.unwrap_or_else(|| ready.default_timeout_seconds());
        params.ready_timeout_seconds = Some(within("ready_timeout_seconds", timeout, 1, 3600)?);
        params.ready = Some(ready);
        params.fill_first_boot(&image.manifest)?;
        edit::check_labels("labels", &params.labels)?;
        params.placement.check()?;
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
            Verdict::Succeeded { output } => {
                let output = VmCreateOutput::deserialize(output).ok();
                let detail = output.as_ref().and_then(|output| output.not_ready.clone());
                Settled {
                    vm: Some(VmChange { ready: detail.is_none(), detail, ..VmChange::to(VmState::Running) }),
                    allocation: match output {
                        Some(output) if is_plausible(&output.charge) => Settlement::Use(output.charge),
                        // It runs, and what its node says of it makes no sense: it is charged what was asked for.
                        Some(_) | None => Settlement::UseHeld,
                    },
                }
            }
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

    fn filled(params: serde_json::Value, cloud_init: bool) -> Result<VmCreateParams, Refusal> {
        filled_with(params, cloud_init, &Defaults::default())
    }

    fn filled_with(
        params: serde_json::Value,
        cloud_init: bool,
        defaults: &Defaults,
    ) -> Result<VmCreateParams, Refusal> {
        let manifest = json!({"name": "debian", "arch": "x86_64", "files": {}, "cloud_init": cloud_init});
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let image = crate::image::Image {
            digest: manifest.digest(),
            tenant: crate::TenantId::DEFAULT,
            manifest,
            created_at: crate::Timestamp::from_micros(0),
        };
        VmCreate::fill(serde_json::from_value(params).unwrap(), &FillContext { image: Some(&image), defaults })
    }

    #[test]
    fn an_image_that_says_nothing_has_the_usual_amounts() {
        let params = filled(json!({}), false).unwrap();
        assert_eq!((params.vcpus, params.memory_mib, params.disk_gib), (Some(1), Some(1024), Some(10)));
        assert_eq!((params.ready, params.ready_timeout_seconds), (Some(Readiness::GuestAgent), Some(120)));
        assert_eq!(params.cloud_init, None, "nobody asked for a seed, and its guest would not read it");
    }

    #[test]
    fn what_a_machine_does_not_say_is_as_the_operator_says() {
        let defaults = Defaults { image: "house".into(), memory_mib: Some(512), ..Defaults::default() };
        let params = filled_with(json!({"vcpus": 3}), false, &defaults).unwrap();
        assert_eq!((params.image.as_deref(), params.vcpus, params.memory_mib), (Some("house"), Some(3), Some(512)));
        assert_eq!(VmCreate::image(&json!({}), &defaults).as_deref(), Some("house"));
        assert_eq!(VmCreate::image(&json!({"image": "a"}), &defaults).as_deref(), Some("a"));
    }

    #[test]
    fn a_guest_with_cloud_init_always_gets_a_seed() {
        assert!(filled(json!({}), true).unwrap().spec().unwrap().first_boot.is_some());
    }

    #[test]
    fn the_typed_form_becomes_user_data_and_nothing_of_it_is_left_beside() {
        let form = json!({"hostname": "h", "user": "ada", "runcmd": ["echo hunter2"]});
        let params = filled(json!({"cloud_init": form}), false).unwrap();
        assert!(params.user_data.as_ref().unwrap().text().unwrap().contains("hunter2"));
        assert_eq!(json!(params.cloud_init), json!({"hostname": "h"}));
    }

    #[test]
    fn user_data_is_said_once() {
        let both = json!({"cloud_init": {"user": "ada"}, "user_data": "#!/bin/sh"});
        assert_eq!(filled(both, true).unwrap_err().facts["field"], "user_data");
        let beside = json!({"cloud_init": {"hostname": "h"}, "user_data": "#!/bin/sh"});
        assert_eq!(filled(beside, true).unwrap().user_data.unwrap().text(), Some("#!/bin/sh"));
        let empty = filled(json!({"user_data": "", "vendor_data": ""}), true).unwrap();
        assert_eq!((empty.user_data, empty.vendor_data), (None, None));
        let long = json!({"user_data": "x".repeat(USER_DATA_LIMIT + 1)});
        assert_eq!(filled(long, true).unwrap_err().code, Code::ValidationError);
    }

    #[test]
    fn a_guest_that_ended_its_first_boot_with_errors_is_kept_and_not_ready() {
        let output = json!({"charge": {"vcpus": 1, "memory_mib": 1, "disk_gib": 1, "vms": 1}, "boot_ms": 1.0,
            "acceleration": "tcg", "not_ready": "cloud-init: runcmd"});
        let settled = VmCreate::settle(VmState::Provisioning, &Verdict::Succeeded { output });
        let vm = settled.vm.unwrap();
        assert_eq!((vm.state, vm.ready, vm.detail.as_deref()), (VmState::Running, false, Some("cloud-init: runcmd")));
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
