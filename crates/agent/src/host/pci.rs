//! What sits on the PCI bus and matters here: GPUs and the ports of a fabric. Read from sysfs, never written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use hostler_model::kind::{FabricLink, GpuDevice};

/// PCI vendors. Source: the PCI ID repository.
const NVIDIA: &str = "0x10de";
const AMD: &str = "0x1002";
const INTEL: &str = "0x8086";
const MELLANOX: &str = "0x15b3";

/// The PCI functions below `root`, in order of their addresses.
fn devices(root: &Path) -> Vec<PathBuf> {
    entries(&root.join("sys/bus/pci/devices"))
}

/// GPUs: display controllers (class 0x03), and the processing accelerators (0x12) of those who make GPUs.
pub fn gpus(root: &Path) -> Vec<GpuDevice> {
    devices(root)
        .iter()
        .filter(|device| is_gpu(&word(device, "class"), &word(device, "vendor")))
        .map(|d| gpu(d))
        .collect()
}

fn is_gpu(class: &str, vendor: &str) -> bool {
    class.starts_with("0x03") || (class.starts_with("0x12") && [NVIDIA, AMD, INTEL].contains(&vendor))
}

fn gpu(device: &Path) -> GpuDevice {
    let driver = fs::read_link(device.join("driver")).ok();
    GpuDevice {
        pci_address: name(device),
        vendor: word(device, "vendor"),
        device: word(device, "device"),
        driver: driver.map(|target| name(&target)),
        // The kernel says -1 where the host has no nodes.
        numa_node: word(device, "numa_node").parse().ok().filter(|node| *node >= 0),
    }
}

/// Ports of Mellanox (NVIDIA networking) adapters and their virtual functions: network devices, then InfiniBand ports.
pub fn fabric(root: &Path) -> Vec<FabricLink> {
    let adapters = devices(root).into_iter().filter(|device| word(device, "vendor") == MELLANOX);
    adapters
        .flat_map(|adapter| network_links(&adapter).into_iter().chain(infiniband_links(&adapter)).collect::<Vec<_>>())
        .collect()
}

fn network_links(adapter: &Path) -> Vec<FabricLink> {
    let link = |net: PathBuf| FabricLink {
        device: name(&net),
        pci_address: name(adapter),
        state: word(&net, "operstate"),
        // Reading the speed of a link that is down fails, or gives -1.
        speed_mbps: word(&net, "speed").parse().ok().filter(|speed| *speed > 0),
    };
    entries(&adapter.join("net")).into_iter().map(link).collect()
}

fn infiniband_links(adapter: &Path) -> Vec<FabricLink> {
    let ports = |hca: PathBuf| entries(&hca.join("ports")).into_iter().map(move |port| (name(&hca), port));
    let link = |(hca, port): (String, PathBuf)| FabricLink {
        device: format!("{hca}/{}", name(&port)),
        pci_address: name(adapter),
        state: port_state(&word(&port, "state")),
        speed_mbps: port_speed(&word(&port, "rate")),
    };
    entries(&adapter.join("infiniband")).into_iter().flat_map(ports).map(link).collect()
}

/// `4: ACTIVE` is up, `1: DOWN` down; the states between them as the kernel says.
fn port_state(state: &str) -> String {
    match state.rsplit(": ").next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "active" => "up".to_owned(),
        other => other.to_owned(),
    }
}

/// `100 Gb/sec (4X EDR)`, in Mbit/s.
fn port_speed(rate: &str) -> Option<i64> {
    let (gigabits, _) = rate.split_once(" Gb/sec")?;
    gigabits.parse::<f64>().ok().map(|rate| (rate * 1000.0) as i64).filter(|speed| *speed > 0)
}

/// How many IOMMU groups there are.
pub fn iommu_groups(root: &Path) -> u64 {
    entries(&root.join("sys/kernel/iommu_groups")).len() as u64
}

/// Modules of VFIO that are loaded.
pub fn vfio_modules(root: &Path) -> Vec<String> {
    let modules = fs::read_to_string(root.join("proc/modules")).unwrap_or_default();
    let names = modules.lines().filter_map(|line| line.split_ascii_whitespace().next());
    let mut vfio: Vec<String> = names.filter(|name| name.starts_with("vfio")).map(str::to_owned).collect();
    vfio.sort();
    vfio
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn word(device: &Path, file: &str) -> String {
    fs::read_to_string(device.join(file)).unwrap_or_default().trim().to_owned()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
