//! A host laid out in a folder, and the real one.

use std::{fs, os::unix::fs::symlink, path::Path};

use hostler_model::kind::{FabricLink, GpuDevice};

use super::health_probe;

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn pci(root: &Path, address: &str, class: &str, vendor: &str, device: &str) {
    for (file, text) in [("class", class), ("vendor", vendor), ("device", device)] {
        put(root, &format!("sys/bus/pci/devices/{address}/{file}"), &format!("{text}\n"));
    }
}

fn machine(root: &Path) {
    put(root, "proc/sys/kernel/osrelease", "6.1.0-31-amd64\n");
    put(root, "proc/uptime", "86400.52 170000.00\n");
    put(root, "proc/loadavg", "1.25 0.50 0.25 2/345 6789\n");
    put(root, "proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 5 kB\nMemAvailable:    8192000 kB\n");
    put(root, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx sse\n\nprocessor\t: 1\nflags\t\t: fpu vmx sse\n");
    put(root, "proc/modules", "vfio_pci 16384 0 - Live 0x0\nvfio 45056 2 vfio_pci, Live 0x0\nkvm 1 0 - Live 0x0\n");
    put(root, "dev/kvm", "");
    fs::create_dir_all(root.join("sys/kernel/iommu_groups/0")).unwrap();
    fs::create_dir_all(root.join("sys/kernel/iommu_groups/1")).unwrap();
}

#[test]
fn a_probe_sees_processors_memory_kvm_and_vfio() {
    let root = tempfile::tempdir().unwrap();
    machine(root.path());
    let probe = health_probe(root.path(), root.path());
    assert_eq!((probe.kernel.as_str(), probe.uptime_seconds, probe.cpus), ("6.1.0-31-amd64", 86400, 2));
    assert_eq!((probe.load_1m, probe.memory_total_mib, probe.memory_available_mib), (1.25, 16000, 8000));
    assert!(probe.cpu_virtualization && probe.kvm_device && probe.kvm_usable, "{}", probe.kvm_detail);
    assert_eq!(probe.vfio_modules, ["vfio", "vfio_pci"]);
    assert_eq!(probe.iommu_groups, 2);
    assert!(probe.gpus.is_empty() && probe.fabric.is_empty());
}

#[test]
fn a_probe_lists_gpus_with_their_drivers_and_nodes() {
    let root = tempfile::tempdir().unwrap();
    pci(root.path(), "0000:3b:00.0", "0x030200", "0x10de", "0x2330");
    put(root.path(), "sys/bus/pci/devices/0000:3b:00.0/numa_node", "1\n");
    fs::create_dir_all(root.path().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    symlink("../../drivers/vfio-pci", root.path().join("sys/bus/pci/devices/0000:3b:00.0/driver")).unwrap();
    pci(root.path(), "0000:41:00.0", "0x120000", "0x1002", "0x74a1");
    put(root.path(), "sys/bus/pci/devices/0000:41:00.0/numa_node", "-1\n");
    pci(root.path(), "0000:42:00.0", "0x120000", "0x1d0f", "0x7064");
    pci(root.path(), "0000:00:1f.0", "0x060100", "0x8086", "0x2918");
    let gpu = |address: &str, vendor: &str, device: &str, driver: Option<&str>, numa_node| GpuDevice {
        pci_address: address.into(),
        vendor: vendor.into(),
        device: device.into(),
        driver: driver.map(str::to_owned),
        numa_node,
    };
    assert_eq!(
        health_probe(root.path(), root.path()).gpus,
        [
            gpu("0000:3b:00.0", "0x10de", "0x2330", Some("vfio-pci"), Some(1)),
            gpu("0000:41:00.0", "0x1002", "0x74a1", None, None),
        ]
    );
}

#[test]
fn a_probe_lists_the_links_of_a_fabric_and_its_virtual_functions() {
    let root = tempfile::tempdir().unwrap();
    pci(root.path(), "0000:5e:00.0", "0x020700", "0x15b3", "0x1021");
    put(root.path(), "sys/bus/pci/devices/0000:5e:00.0/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
    put(root.path(), "sys/bus/pci/devices/0000:5e:00.0/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)\n");
    pci(root.path(), "0000:5e:00.2", "0x020000", "0x15b3", "0x101e");
    put(root.path(), "sys/bus/pci/devices/0000:5e:00.2/net/eth2/operstate", "up\n");
    put(root.path(), "sys/bus/pci/devices/0000:5e:00.2/net/eth2/speed", "200000\n");
    put(root.path(), "sys/bus/pci/devices/0000:5e:00.2/net/eth3/operstate", "down\n");
    put(root.path(), "sys/bus/pci/devices/0000:5e:00.2/net/eth3/speed", "-1\n");
    pci(root.path(), "0000:01:00.0", "0x020000", "0x8086", "0x1572");
    put(root.path(), "sys/bus/pci/devices/0000:01:00.0/net/eth0/operstate", "up\n");
    let link = |device: &str, address: &str, state: &str, speed_mbps| FabricLink {
        device: device.into(),
        pci_address: address.into(),
        state: state.into(),
        speed_mbps,
    };
    assert_eq!(
        health_probe(root.path(), root.path()).fabric,
        [
            link("mlx5_0/1", "0000:5e:00.0", "up", Some(400_000)),
            link("eth2", "0000:5e:00.2", "up", Some(200_000)),
            link("eth3", "0000:5e:00.2", "down", None),
        ]
    );
}

#[test]
fn kvm_without_the_processor_or_without_the_device_does_not_serve_and_says_why() {
    let root = tempfile::tempdir().unwrap();
    machine(root.path());
    put(root.path(), "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu svm_lock\n");
    let probe = health_probe(root.path(), root.path());
    assert!(probe.kvm_device && !probe.cpu_virtualization && !probe.kvm_usable);
    assert!(probe.kvm_detail.contains("neither vmx nor svm"), "{}", probe.kvm_detail);

    put(root.path(), "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu svm\n");
    fs::remove_file(root.path().join("dev/kvm")).unwrap();
    let probe = health_probe(root.path(), root.path());
    assert!(!probe.kvm_usable && probe.kvm_detail.contains("there is no /dev/kvm"), "{}", probe.kvm_detail);
}

#[test]
fn an_empty_root_says_nothing_and_does_not_fail() {
    let root = tempfile::tempdir().unwrap();
    let probe = health_probe(root.path(), &root.path().join("absent"));
    assert_eq!((probe.cpus, probe.memory_total_mib, probe.disk_available_gib), (0, 0, 0));
}

#[test]
fn the_real_host_has_a_kernel_processors_and_memory() {
    let probe = health_probe(Path::new("/"), Path::new("/"));
    assert!(!probe.kernel.is_empty() && probe.cpus > 0 && probe.memory_total_mib > 0 && probe.uptime_seconds > 0);
}
