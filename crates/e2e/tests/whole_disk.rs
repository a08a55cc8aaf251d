//! Whole disks, as clouds pass them around: imported through the command line, started by the firmware that they are for.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use hostler_e2e::dev::{Dev, binary};
use serde_json::{Value, json};

/// Firmware and boot loader, emulated on a busy host, read a kernel for half a minute.
const SLOW: Duration = Duration::from_secs(600);

/// A disk of `images/disk`.
fn disk(name: &str) -> Result<PathBuf> {
    let disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images/disk").join(name);
    ensure!(disk.exists(), "{} is not there: `make image-disk` makes it", disk.display());
    Ok(disk)
}

/// The same in another format.
fn converted(disk: &Path, format: &str, folder: &Path) -> Result<PathBuf> {
    let to = folder.join(format!("disk.{format}"));
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", format]).arg(disk).arg(&to);
    ensure!(convert.status()?.success(), "{convert:?}");
    Ok(to)
}

/// Imports a disk as a person would.
async fn import(dev: &Dev, name: &str, file: &Path, flags: &[&str]) -> Result<()> {
    let mut command = Command::new(binary()?);
    command.arg("--data").arg(dev.data()).args(["image", "import", name]).arg(file).args(flags);
    let said = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(said.status.success(), "{said:?}");
    Ok(())
}

/// Makes a machine of the image of its own name.
async fn make(dev: &mut Dev, name: &str) -> Result<Value> {
    let patience = SLOW.as_secs();
    let body = json!({"name": name, "image": name, "ready": "guest_agent", "ready_timeout_seconds": patience});
    dev.done_within(SLOW, "POST", "/api/v1/vms", Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_for_bios_is_imported_as_it_is_and_starts() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    import(&dev, "bios", &disk("bios.raw")?, &["--format", "raw"]).await?;
    make(&mut dev, "bios").await?;
    assert_eq!(dev.says("bios", "[ -d /sys/firmware/efi ] || echo bios").await?, "bios");
    assert_eq!(dev.says("bios", "awk '/vda/{print $4}' /proc/partitions").await?, "vda\nvda1\nvda2");
    let line = dev.says("bios", "cat /proc/cmdline").await?;
    assert!(line.contains("BOOT_IMAGE=linux") && line.contains("root=/dev/vda2"), "syslinux gave it {line}");
    dev.assert_well().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_for_uefi_is_imported_from_a_vmdk_starts_again_and_goes_back_to_its_snapshot() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut dev = Dev::started(&[]).await?;
    let vmdk = converted(&disk("uefi.raw")?, "vmdk", folder.path())?;
    import(&dev, "uefi", &vmdk, &["--firmware", "uefi"]).await?;
    make(&mut dev, "uefi").await?;
    assert_eq!(dev.says("uefi", "[ -d /sys/firmware/efi ] && echo uefi").await?, "uefi");
    dev.says("uefi", "echo kept >/note; sync").await?;
    for (verb, body) in [("stop", json!({})), ("start", json!({}))] {
        dev.done_within(SLOW, "POST", &format!("/api/v1/vms/uefi/{verb}"), Some(body)).await?;
    }
    assert_eq!(dev.says("uefi", "cat /note; echo running >/tmp/mark").await?, "kept");
    dev.done("POST", "/api/v1/vms/uefi/snapshots", Some(json!({"name": "s", "memory": true}))).await?;
    dev.says("uefi", "rm /note /tmp/mark").await?;
    dev.done("POST", "/api/v1/vms/uefi/restore", Some(json!({"snapshot": "s"}))).await?;
    assert_eq!(dev.says("uefi", "cat /note /tmp/mark").await?, "kept\nrunning");
    dev.assert_well().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_its_firmware_does_not_start_is_told_from_a_guest_without_an_agent() -> Result<()> {
    let mut dev = Dev::started(&[]).await?;
    import(&dev, "disk", &disk("uefi.raw")?, &["--format", "raw"]).await?;
    let body = json!({"name": "m", "image": "disk", "ready": "guest_agent", "ready_timeout_seconds": 5});
    let (_, answer) = dev.post("/api/v1/vms", body).await?;
    let task = dev.ended_task_within(SLOW, answer["task"]["id"].as_str().unwrap_or_default()).await?;
    assert_eq!(task["error"]["code"], "GUEST_NOT_READY", "{task}");
    assert!(
        task["error"]["detail"].as_str().is_some_and(|detail| detail.contains("if its disk is for UEFI")),
        "{task}"
    );
    dev.assert_well().await
}
