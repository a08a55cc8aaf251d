//! QEMU's command line, out of a machine's plan. Pure: it touches no file and starts nothing.
//!
//! Nothing of what a user wrote gets here but a checked name and amounts; the kernel's command line is the image's.

use std::{ffi::OsString, path::Path};

use hostler_model::{error::Code, image::Part};

use super::{accel::Acceleration, error::refused, folder::Folder};
use crate::hypervisor::{DriverError, MachinePlan};

/// The devices that every machine has, behind the disk: network without a boot ROM (nothing boots from it), entropy,
/// and the guest agent's port.
const DEVICES: [&str; 12] = [
    "-netdev",
    "user,id=net0",
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

/// What QEMU may not do once it runs, whatever a guest makes of it.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

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
) -> Result<Vec<OsString>, DriverError> {
    check(plan)?;
    let mut out: Vec<OsString> = Vec::with_capacity(64);
    let mut add = |arguments: &[&str]| out.extend(arguments.iter().map(OsString::from));
    let (pidfile, disk) = (text(&folder.pidfile())?, disk(folder)?);
    add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    add(&["-name", &format!("guest={},process={}", plan.name, process_name(&plan.name))]);
    add(&["-uuid", &plan.id.to_string(), "-pidfile", &pidfile]);
    add(&[
        "-machine",
        "q35",
        "-smp",
        &format!("cpus={}", plan.spec.vcpus),
        "-m",
        &format!("{}M", plan.spec.memory_mib),
    ]);
    add(acceleration.arguments());
    add(&["-kernel", &text(&plan.image_dir.join(Part::Kernel.file_name()))?, "-append", &kernel_line(plan)]);
    if plan.manifest.files.contains_key(&Part::Initrd) {
        add(&["-initrd", &text(&plan.image_dir.join(Part::Initrd.file_name()))?]);
    }
    add(&["-blockdev", &disk, "-device", "virtio-blk-pci,drive=disk0"]);
    add(&["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", option(&folder.agent())?)]);
    add(&DEVICES);
    add(&["-chardev", &format!("file,id=console,path={},append=on", option(&folder.console())?)]);
    add(&["-serial", "chardev:console"]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", option(&folder.qmp())?)]);
    add(&["-sandbox", SANDBOX]);
    Ok(out)
}

/// What is wrong with a plan, before anything of it is written.
pub(super) fn check(plan: &MachinePlan) -> Result<(), DriverError> {
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
    plan.manifest.check().map_err(|refusal| DriverError {
        code: Code::ImageFetchFailed,
        detail: format!("the image {} cannot be booted: {}", plan.spec.image, refusal.detail),
        retryable: false,
    })
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
    let file = serde_json::json!({ "driver": "file", "filename": text(&folder.disk())? });
    let disk = serde_json::json!({ "driver": "qcow2", "node-name": "disk0", "discard": "unmap", "file": file });
    Ok(disk.to_string())
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
