//! Command lines as they look.

use std::{collections::BTreeMap, path::PathBuf};

use hostler_model::{
    VmId,
    cloud_init::FirstBoot,
    image::{DiskFormat, ImageDefaults, ImageFile, Manifest, Sha256Hex},
    ready::Readiness,
    vm::VmSpec,
};

use super::*;
use crate::{host::Kvm, hypervisor::qemu::accel::Accel};

fn plan() -> MachinePlan {
    let file = |format| ImageFile { sha256: Sha256Hex::of(b""), size: 0, format };
    let parts = [(Part::Kernel, None), (Part::Initrd, None), (Part::Rootfs, Some(DiskFormat::Raw))];
    let manifest = Manifest {
        name: "tiny".into(),
        arch: "x86_64".into(),
        files: parts.map(|(part, format)| (part, file(format))).into(),
        cmdline: "console=ttyS0 root=/dev/vda".into(),
        firmware: None,
        defaults: ImageDefaults { vcpus: 1, memory_mib: 128, disk_gib: 1 },
        ready: Readiness::GuestAgent,
        ready_timeout_seconds: None,
        cloud_init: false,
    };
    let spec = VmSpec {
        image: "tiny".into(),
        image_digest: manifest.digest(),
        vcpus: 2,
        memory_mib: 256,
        disk_gib: 1,
        ready: Readiness::GuestAgent,
        ready_timeout_seconds: 60,
        first_boot: None,
        placement: Default::default(),
        labels: BTreeMap::new(),
        restart: Default::default(),
        autostart: false,
        port_forwards: Vec::new(),
    };
    let id: VmId = "01900000-0000-7000-8000-0123456789ab".parse().unwrap();
    let (name, image_dir) = ("a-rather-long-name".to_owned(), "/images/tiny".into());
    MachinePlan { id, epoch: 1, name, spec, manifest, image_dir, seed: None }
}

fn line(plan: &MachinePlan, data: &str) -> Result<Vec<String>, DriverError> {
    let folder = Folder::new(&PathBuf::from(data), &PathBuf::from("/run/h"), plan.id);
    let uefi = Uefi { code: "/ovmf/code".into(), vars: "/ovmf/vars".into() };
    let arguments = arguments(plan, &folder, &Acceleration::decide(Accel::Tcg, &Kvm::default()), Some(&uefi))?;
    Ok(arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect())
}

fn value<'a>(line: &'a [String], option: &str) -> &'a str {
    &line[line.iter().position(|word| word == option).unwrap() + 1]
}

#[test]
fn a_machine_is_what_its_plan_says() {
    let line = line(&plan(), "/data").unwrap();
    assert_eq!(value(&line, "-smp"), "cpus=2");
    assert_eq!(value(&line, "-m"), "256M");
    assert_eq!(value(&line, "-uuid"), "01900000-0000-7000-8000-0123456789ab");
    assert_eq!(value(&line, "-kernel"), "/images/tiny/kernel");
    assert_eq!(value(&line, "-initrd"), "/images/tiny/initrd");
    assert_eq!(value(&line, "-append"), "console=ttyS0 root=/dev/vda hostname=a-rather-long-name");
    assert_eq!(value(&line, "-name"), "guest=a-rather-long-name,process=vm-a-rather-lon");
    assert_eq!(value(&line, "-pidfile"), "/data/vms/01900000-0000-7000-8000-0123456789ab/qemu.pid");
    assert_eq!(value(&line, "-qmp"), "unix:/run/h/0123456789ab/qmp.sock,server=on,wait=off");
    assert!(line.contains(&SANDBOX.to_owned()));
}

#[test]
fn a_seed_is_a_disk_that_nobody_writes_to() {
    let mut plan = plan();
    assert!(!line(&plan, "/data").unwrap().iter().any(|word| word.contains("seed")));
    plan.spec.first_boot = Some(FirstBoot::default());
    let line = line(&plan, "/data").unwrap();
    let seed: serde_json::Value =
        serde_json::from_str(line.iter().find(|word| word.contains("seed.img")).unwrap()).unwrap();
    assert_eq!((&seed["driver"], &seed["read-only"]), (&"raw".into(), &true.into()));
    let place = |device: &str| line.iter().position(|word| word.starts_with(device)).unwrap();
    assert!(place("virtio-blk-pci,drive=seed0") > place("virtio-net-pci"), "the others keep their slots");
}

#[test]
fn a_comma_in_a_path_is_not_an_option_of_its_own() {
    let line = line(&plan(), "/da,server=off").unwrap();
    assert!(line.iter().any(|word| word.starts_with("file,id=console,path=/da,,server=off/vms/")), "{line:?}");
}

#[test]
fn names_that_would_be_options_are_refused() {
    for name in ["", "a,b", "a b", "../x", "\"", "a=b"] {
        assert!(line(&MachinePlan { name: name.into(), ..plan() }, "/data").is_err(), "{name:?}");
    }
}

#[test]
fn an_image_that_names_its_host_keeps_its_word() {
    let mut plan = plan();
    plan.manifest.cmdline = "hostname=mine quiet".into();
    assert_eq!(value(&line(&plan, "/data").unwrap(), "-append"), "hostname=mine quiet");
}

fn whole_disk(firmware: Option<Firmware>) -> MachinePlan {
    let mut plan = plan();
    let disk = plan.manifest.files.remove(&Part::Rootfs).unwrap();
    plan.manifest = Manifest { files: [(Part::Disk, disk)].into(), cmdline: String::new(), firmware, ..plan.manifest };
    plan
}

#[test]
fn a_whole_disk_is_started_by_firmware() {
    let bios = line(&whole_disk(None), "/data").unwrap();
    assert!(!bios.contains(&"-kernel".to_owned()) && !bios.contains(&"-append".to_owned()), "{bios:?}");
    assert_eq!(value(&bios, "-machine"), "q35");
    assert!(bios.iter().any(|word| word == "virtio-blk-pci,drive=disk0,bootindex=1"));
    let uefi = line(&whole_disk(Some(Firmware::Uefi)), "/data").unwrap();
    assert_eq!(value(&uefi, "-machine"), "q35,pflash0=code,pflash1=vars");
    assert!(uefi.iter().any(|word| word.contains("/ovmf/code") && word.contains("\"read-only\":true")), "{uefi:?}");
    assert!(uefi.iter().any(|word| word.contains("efi-vars.fd")), "{uefi:?}");
}

#[test]
fn what_this_host_cannot_boot_is_refused() {
    let uefi = whole_disk(Some(Firmware::Uefi));
    assert!(check(&uefi, None).unwrap_err().detail.contains("install the package ovmf"));
    let mut foreign = whole_disk(None);
    foreign.manifest.arch = "aarch64".into();
    assert!(check(&foreign, None).unwrap_err().detail.contains("aarch64"));
    let mut mixed = plan();
    mixed.manifest.files.insert(Part::Disk, mixed.manifest.files[&Part::Rootfs].clone());
    assert!(check(&mixed, None).unwrap_err().detail.contains("stands alone"));
}
