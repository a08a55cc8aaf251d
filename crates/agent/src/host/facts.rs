//! What a host is: its kernel, processors, memory, disk, and whether KVM serves.
//!
//! What the host does not say is zero or empty: a node that reports no memory gets no machines, which is visible.

use std::{
    fs::{self, OpenOptions},
    path::Path,
};

/// Facts about a host.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    /// The kernel's release.
    pub kernel: String,
    /// How long the host has been up.
    pub uptime_seconds: u64,
    /// Processors that the kernel sees.
    pub cpus: i64,
    /// One-minute load.
    pub load_1m: f64,
    /// Memory in all.
    pub memory_total_mib: i64,
    /// Memory that could be had without swapping.
    pub memory_available_mib: i64,
    /// The size of the file system that holds the data folder.
    pub disk_total_gib: i64,
    /// What is free there for us.
    pub disk_available_gib: i64,
    /// Whether and why KVM serves.
    pub kvm: Kvm,
}

/// What can be said of KVM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kvm {
    /// Whether the processor reports vmx or svm.
    pub cpu_virtualization: bool,
    /// Whether `/dev/kvm` exists.
    pub device: bool,
    /// Whether machines can be run on it: the processor reports vmx or svm, and the device opens for writing.
    pub usable: bool,
    /// Why, or why not, in a sentence.
    pub detail: String,
}

/// Reads the facts below `root` (`/`, but for tests), the disk's of the file system that holds `data`.
pub fn facts(root: &Path, data: &Path) -> Facts {
    let proc = |name: &str| fs::read_to_string(root.join("proc").join(name)).unwrap_or_default();
    let (meminfo, cpuinfo) = (proc("meminfo"), proc("cpuinfo"));
    let (disk_total_gib, disk_available_gib) = disk(data);
    Facts {
        kernel: proc("sys/kernel/osrelease").trim().to_owned(),
        uptime_seconds: first_number(&proc("uptime")) as u64,
        cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as i64,
        load_1m: first_number(&proc("loadavg")),
        memory_total_mib: meminfo_mib(&meminfo, "MemTotal:"),
        memory_available_mib: meminfo_mib(&meminfo, "MemAvailable:"),
        disk_total_gib,
        disk_available_gib,
        kvm: kvm_from(root, &cpuinfo),
    }
}

/// Whether KVM serves on the host below `root`.
pub fn kvm(root: &Path) -> Kvm {
    kvm_from(root, &fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default())
}

fn kvm_from(root: &Path, cpuinfo: &str) -> Kvm {
    let path = root.join("dev/kvm");
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    let device = path.exists();
    let flag = virtualization_flag(cpuinfo);
    let detail = match (flag, &opened) {
        (Some(flag), Ok(_)) => format!("the processor reports {flag} and /dev/kvm opens"),
        (Some(flag), Err(error)) if device => {
            format!(
                "the processor reports {flag}, but /dev/kvm does not open for writing ({error}); add the agent's user to the group kvm"
            )
        }
        (Some(flag), Err(_)) => {
            format!("the processor reports {flag}, but there is no /dev/kvm; load the module kvm_intel or kvm_amd")
        }
        (None, Ok(_)) => {
            "/dev/kvm opens, but the processor reports neither vmx nor svm, and guests hang on such a KVM; \
                          switch virtualization on in the firmware, or nested virtualization on in the outer host"
                .to_owned()
        }
        (None, Err(_)) => "the processor reports neither vmx nor svm, and there is no usable /dev/kvm".to_owned(),
    };
    Kvm { cpu_virtualization: flag.is_some(), device, usable: flag.is_some() && opened.is_ok(), detail }
}

fn virtualization_flag(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    ["vmx", "svm"].into_iter().find(|wanted| flags.split_ascii_whitespace().any(|flag| flag == *wanted))
}

fn first_number(text: &str) -> f64 {
    text.split_ascii_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

fn meminfo_mib(meminfo: &str, key: &str) -> i64 {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix(key)).map_or(0.0, first_number);
    kib as i64 / 1024
}

/// Total and available GiB of the file system that holds a path.
fn disk(path: &Path) -> (i64, i64) {
    let Ok(stat) = rustix::fs::statvfs(path) else { return (0, 0) };
    let gib = |blocks: u64| (blocks.saturating_mul(stat.f_frsize) >> 30) as i64;
    (gib(stat.f_blocks), gib(stat.f_bavail))
}
