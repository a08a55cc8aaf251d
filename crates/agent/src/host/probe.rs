//! The health probe: everything that can be said of a host without changing it.

use std::path::Path;

use hostler_model::kind::HealthProbeOutput;

use super::{facts::facts, pci};

/// Looks at the host below `root` (`/`, but for tests), and at the disk that holds `data`. It reads files only, and
/// takes milliseconds.
pub fn health_probe(root: &Path, data: &Path) -> HealthProbeOutput {
    let facts = facts(root, data);
    HealthProbeOutput {
        kernel: facts.kernel,
        uptime_seconds: facts.uptime_seconds,
        cpus: facts.cpus,
        load_1m: facts.load_1m,
        memory_total_mib: facts.memory_total_mib,
        memory_available_mib: facts.memory_available_mib,
        disk_available_gib: facts.disk_available_gib,
        cpu_virtualization: facts.kvm.cpu_virtualization,
        kvm_device: facts.kvm.device,
        kvm_usable: facts.kvm.usable,
        kvm_detail: facts.kvm.detail,
        vfio_modules: pci::vfio_modules(root),
        iommu_groups: pci::iommu_groups(root),
        gpus: pci::gpus(root),
        fabric: pci::fabric(root),
    }
}
