//! `diag.health_probe`: what a host is and has: kernel, memory, KVM, VFIO, GPUs, fabric links.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Aim, Class, FillContext, Kind, OnUncertain, Role, Scope, Trace, Turn};
use crate::{error::Refusal, retry::RetryPolicy};

/// The kind.
#[derive(Debug)]
pub struct DiagHealthProbe;

/// Nothing needs to be said; `target.node` names the node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthProbeParams {}

/// A GPU on the PCI bus.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GpuDevice {
    /// Its PCI address, such as `0000:3b:00.0`.
    pub pci_address: String,
    /// Vendor id, such as `0x10de`.
    pub vendor: String,
    /// Device id.
    pub device: String,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// Its NUMA node.
    pub numa_node: Option<i32>,
}

/// A port of the fabric.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FabricLink {
    /// The network device.
    pub device: String,
    /// Its PCI address.
    pub pci_address: String,
    /// `up`, `down` or as the kernel says.
    pub state: String,
    /// Mbit/s, where the link is up.
    pub speed_mbps: Option<i64>,
}

/// What was found.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct HealthProbeOutput {
    /// The kernel's release.
    pub kernel: String,
    /// How long the host has been up.
    pub uptime_seconds: u64,
    /// Processors.
    pub cpus: i64,
    /// One-minute load.
    pub load_1m: f64,
    /// Memory in all.
    pub memory_total_mib: i64,
    /// Memory that could be had.
    pub memory_available_mib: i64,
    /// Disk that could be had under the data folder.
    pub disk_available_gib: i64,
    /// Whether the processor reports vmx or svm.
    pub cpu_virtualization: bool,
    /// Whether `/dev/kvm` exists.
    pub kvm_device: bool,
    /// Whether `/dev/kvm` opens, and why not.
    pub kvm_usable: bool,
    /// A sentence about KVM.
    pub kvm_detail: String,
    /// Modules of VFIO that are loaded.
    pub vfio_modules: Vec<String>,
    /// IOMMU groups; none means that nothing can be passed through.
    pub iommu_groups: u64,
    /// GPUs.
    pub gpus: Vec<GpuDevice>,
    /// Fabric links.
    pub fabric: Vec<FabricLink>,
}

impl Kind for DiagHealthProbe {
    const NAME: &'static str = "diag.health_probe";
    const CLASS: Class = Class::Quick;
    const ROLE: Role = Role::Operator;
    const SCOPE: Scope = Scope::TaskWrite;
    const AIM: Aim = Aim::AnyNode;
    const TURN: Turn = Turn::None;
    const ON_UNCERTAIN: OnUncertain = OnUncertain::Rerun;
    const TRACE: Trace = Trace::None;
    const RETRY: RetryPolicy = RetryPolicy::linear(3, 2, 10);
    const RETRY_WHY: &'static str = "A look at a host is as good a moment later, and an old answer is worth little.";
    const TIMEOUT: Duration = Duration::from_secs(30);

    type Params = HealthProbeParams;
    type Output = HealthProbeOutput;

    fn fill(params: HealthProbeParams, _: &FillContext<'_>) -> Result<HealthProbeParams, Refusal> {
        Ok(params)
    }
}
