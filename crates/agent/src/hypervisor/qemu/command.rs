//! QEMU's command line, out of a machine's plan. It writes no file and starts nothing.
//!
//! Nothing of what a user wrote gets here but a checked name and amounts; the kernel's command line is the image's.

use std::{ffi::OsString, path::Path};

use hostler_model::{
    error::Code,
    image::{Firmware, Part},
};

use super::{
    accel::Acceleration,
    error::{refused, storage},
    firmware::Uefi,
    folder::Folder,
    qmp::edit::rule,
};
use crate::hypervisor::{DriverError, MachinePlan};

/// The devices that every machine has, behind the disk and the network: a card without a boot ROM (nothing boots from
/// it), entropy, and the guest agent's port.
const DEVICES: [&str; 10] = [
    "-device",
    "virtio-net-pci,netdev=net0,romfile=",
    "-object",
    "rng-random,id=rng0,filename=/dev/urandom",
    "-device",
    "virtio-rng-pci,rng=rng0",
    "-device",
    "virtio-serial-pci",
    "-device",
    "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
];

/// What QEMU here emulates.
const ARCH: &str = "x86_64";

/// What QEMU may not do once it runs, whatever a guest makes of it.
pub(super) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Linux cuts a process's name at 15 bytes.
const PROCESS_NAME_LIMIT: usize = 15;

/// The arguments, without QEMU's own name.
///
/// # Errors
/// For a plan that must not reach a command line, or whose paths cannot be written there.
pub(super) fn arguments(
    plan: &MachinePlan,
    folder: &Folder,
    acceleration: &Acceleration,
    uefi: Option<&Uefi>,
) -> Result<Vec<OsString>, DriverError> {
    check(plan, uefi)?;
    let mut out: Vec<OsString> = Vec::with_capacity(64);
    let mut add = |arguments: &[&str]| out.extend(arguments.iter().map(OsString::from));
    let (pidfile, disk) = (text(&folder.pidfile())?, disk(folder)?);
    add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    add(&["-name", &format!("guest={},process={}", plan.name, process_name(&plan.name))]);
    add(&["-uuid", &plan.id.to_string(), "-pidfile", &pidfile]);
    add(&[
        "-machine",
        machine_type(plan),
        "-smp",
        &format!("cpus={}", plan.spec.vcpus),
        "-m",
        &format!("{}M", plan.spec.memory_mib),
    ]);
    add(acceleration.arguments());
    out.extend(boot(plan, folder, uefi)?);
    let mut add = |arguments: &[&str]| out.extend(arguments.iter().map(OsString::from));
    add(&["-blockdev", &disk, "-device", "virtio-blk-pci,drive=disk0,bootindex=1"]);
    add(&["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", option(&folder.agent())?)]);
    add(&["-netdev", &network(plan)]);
    add(&DEVICES);
    if plan.spec.first_boot.is_some() {
        // Behind the others, whose places it leaves as they are.
        add(&["-blockdev", &seed(folder)?, "-device", "virtio-blk-pci,drive=seed0,serial=cidata"]);
    }
    add(&["-chardev", &format!("file,id=console,path={},append=on", option(&folder.console())?)]);
    add(&["-serial", "chardev:console"]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", option(&folder.qmp())?)]);
    add(&["-sandbox", SANDBOX]);
    Ok(out)
}

/// The options that say what hardware a guest sees, each with its value: a saved memory is loaded by the same only.
const HARDWARE: [&str; 6] = ["-machine", "-smp", "-m", "-accel", "-cpu", "-device"];

/// What hardware a command line describes, in its order.
pub(super) fn hardware(arguments: &[String]) -> Vec<String> {
    let pairs = arguments.windows(2).filter(|pair| HARDWARE.contains(&pair[0].as_str()));
    pairs.map(|pair| format!("{} {}", pair[0], pair[1])).collect()
}

/// Makes the machine of a command line as large as the one of this hardware: its processors and memory.
pub(super) fn resize(arguments: &mut [OsString], hardware: &[String]) {
    for option in ["-smp", "-m"] {
        let was = hardware.iter().find_map(|one| one.strip_prefix(option)?.strip_prefix(' '));
        let at = arguments.iter().position(|argument| argument == option);
        if let (Some(was), Some(value)) = (was, at.and_then(|at| arguments.get_mut(at + 1))) {
            *value = was.into();
        }
    }
}

/// The user network, and the host's ports that lead into it.
fn network(plan: &MachinePlan) -> String {
    let forwards = plan.spec.port_forwards.iter().map(|forward| format!(",hostfwd={}", rule(forward)));
    format!("user,id=net0{}", forwards.collect::<String>())
}

fn machine_type(plan: &MachinePlan) -> &'static str {
    match plan.manifest.firmware.unwrap_or_default() {
        Firmware::Bios => "q35",
        Firmware::Uefi => "q35,pflash0=code,pflash1=vars",
    }
}

/// What starts the guest: a kernel of ours to load, or firmware that looks for a boot loader on the disk. Boot loaders
/// may want a screen, which nobody looks at.
fn boot(plan: &MachinePlan, folder: &Folder, uefi: Option<&Uefi>) -> Result<Vec<OsString>, DriverError> {
    let manifest = &plan.manifest;
    let file = |part: Part| text(&plan.image_dir.join(part.file_name()));
    let mut out = Vec::new();
    if manifest.files.contains_key(&Part::Kernel) {
        out.extend(["-kernel".into(), file(Part::Kernel)?, "-append".into(), kernel_line(plan)]);
    } else {
        out.extend(["-device".into(), "VGA".into()]);
    }
    if manifest.files.contains_key(&Part::Initrd) {
        out.extend(["-initrd".into(), file(Part::Initrd)?]);
    }
    if let (Firmware::Uefi, Some(uefi)) = (manifest.firmware.unwrap_or_default(), uefi) {
        for (node, path, read_only) in [("code", &uefi.code, true), ("vars", &folder.firmware_vars(), false)] {
            let file = serde_json::json!({ "driver": "file", "filename": text(path)? });
            let flash = serde_json::json!({ "driver": "raw", "node-name": node, "read-only": read_only, "file": file });
            out.extend(["-blockdev".into(), flash.to_string()]);
        }
    }
    Ok(out.into_iter().map(OsString::from).collect())
}

/// What is wrong with a plan, before anything of it is written.
pub(super) fn check(plan: &MachinePlan, uefi: Option<&Uefi>) -> Result<(), DriverError> {
    let plain = !plan.name.is_empty() && plan.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !plain {
        let name = hostler_model::error::excerpt(&plan.name);
        return Err(refused(format!("the name {name:?} is not one of letters, digits and hyphens")));
    }
    let spec = &plan.spec;
    if spec.vcpus < 1 || spec.memory_mib < 1 || spec.disk_gib < 1 {
        return Err(refused(format!(
            "machine {} asks for {} vcpus, {} MiB of memory and {} GiB of disk; each must be at least 1",
            plan.id, spec.vcpus, spec.memory_mib, spec.disk_gib
        )));
    }
    bootable(plan, uefi).map_err(|why| DriverError {
        code: Code::ImageFetchFailed,
        detail: format!("the image {} cannot be booted: {why}", plan.spec.image),
        retryable: false,
    })
}

/// Why this host cannot boot an image, if it cannot.
fn bootable(plan: &MachinePlan, uefi: Option<&Uefi>) -> Result<(), String> {
    let manifest = &plan.manifest;
    manifest.check().map_err(|refusal| refusal.detail)?;
    if manifest.arch != ARCH {
        return Err(format!("it is for {}, and this node runs {ARCH}", hostler_model::error::excerpt(&manifest.arch)));
    }
    match (manifest.firmware.unwrap_or_default(), uefi) {
        (Firmware::Uefi, None) => {
            Err("it asks for UEFI, and this node has no OVMF; install the package ovmf there, and restart its agent"
                .to_owned())
        }
        (Firmware::Uefi, Some(_)) | (Firmware::Bios, _) => Ok(()),
    }
}

/// The image's line, and the machine's name for guests that take it from there (Linux from 5.19 on).
fn kernel_line(plan: &MachinePlan) -> String {
    let line = plan.manifest.cmdline.trim();
    if line.split_ascii_whitespace().any(|word| word.starts_with("hostname=")) {
        return line.to_owned();
    }
    format!("{line} hostname={}", plan.name)
}

fn process_name(name: &str) -> String {
    let mut process = format!("vm-{name}");
    process.truncate(PROCESS_NAME_LIMIT);
    process
}

/// The disk: `discard` gives back to the host what the guest frees.
fn disk(folder: &Folder) -> Result<String, DriverError> {
    let file = serde_json::json!({ "driver": "file", "filename": text(&folder.disk().map_err(|error| storage("the layers of the disk cannot be listed", &error))?)? });
    let disk = serde_json::json!({ "driver": "qcow2", "node-name": "disk0", "discard": "unmap", "file": file });
    Ok(disk.to_string())
}

/// The NoCloud seed, which nobody writes to.
fn seed(folder: &Folder) -> Result<String, DriverError> {
    let file = serde_json::json!({ "driver": "file", "filename": text(&folder.seed())?, "read-only": true });
    let seed = serde_json::json!({ "driver": "raw", "node-name": "seed0", "read-only": true, "file": file });
    Ok(seed.to_string())
}

fn text(path: &Path) -> Result<String, DriverError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        refused(format!(
            "the path {} is not UTF-8, which QEMU's options need; choose another data folder",
            path.display()
        ))
    })
}

/// A path within an option: QEMU reads two commas as one.
fn option(path: &Path) -> Result<String, DriverError> {
    Ok(text(path)?.replace(',', ",,"))
}

#[cfg(test)]
mod tests;
