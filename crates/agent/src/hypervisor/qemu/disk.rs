//! The disk of a new machine: an overlay above its image's, and what its firmware remembers.
//!
//! A disk that a guest has lived on is never made again.

use std::{fs, io, path::Path};

use hostler_model::{
    disk::Unfit,
    error::Code,
    image::{DiskFormat, Firmware},
};

use super::{
    Driver, GIB,
    error::{failed, refused, storage},
    firmware::Uefi,
    folder::Folder,
    qcow2,
};
use crate::{
    host::file::write_durably,
    hypervisor::{DriverError, MachinePlan},
    image,
};

impl Driver {
    /// Writes what the machine is, then its disk. A disk that a guest has lived on is kept.
    pub(super) async fn prepare(&self, plan: &MachinePlan, folder: &Folder) -> Result<(), DriverError> {
        let (plan, folder, uefi) = (plan.clone(), folder.clone(), self.uefi.clone());
        let made = tokio::task::spawn_blocking(move || {
            let cannot = |what: &str, error: &io::Error| {
                storage(format!("the {what} of machine {} cannot be written", plan.id), error)
            };
            folder.write_spec(&plan).map_err(|error| cannot("spec", &error))?;
            folder.make_sockets().map_err(|error| cannot("socket folder", &error))?;
            let disk = folder.disk().map_err(|error| cannot("disk", &error))?;
            if folder.complete().map_err(|error| cannot("state", &error))?.is_some() && disk.exists() {
                return Ok(());
            }
            if let Some(seed) = &plan.seed {
                let written = seed.volume(plan.id).and_then(|volume| write_durably(&folder.seed(), &volume));
                written.map_err(|error| cannot("seed", &error))?;
            }
            make_firmware(&plan, &folder, uefi.as_ref()).map_err(|error| cannot("firmware's memory", &error))?;
            make_disk(&plan, &folder)
        });
        made.await.unwrap_or_else(|error| Err(failed(format!("the disk's making was broken off: {error}"))))
    }
}

/// The overlay above the image's root disk.
fn make_disk(plan: &MachinePlan, folder: &Folder) -> Result<(), DriverError> {
    for part in plan.manifest.files.keys() {
        let path = plan.image_dir.join(part.file_name());
        fs::metadata(&path).map_err(|error| unusable_image(plan, &path, &error))?;
    }
    let Some((part, file)) = plan.manifest.root() else {
        return Err(refused(format!("the image {} has no disk", plan.spec.image)));
    };
    let format = file.format.unwrap_or(DiskFormat::Raw);
    let base = plan.image_dir.join(part.file_name());
    // Looked at when it was fetched, and again: this is the last moment before QEMU opens it.
    let least = image::inspect(&base, format).map_err(|unfit| unfit_image(plan, &base, &unfit))?;
    let size = plan.spec.disk_gib as u64 * GIB;
    if size < least {
        return Err(refused(format!(
            "machine {} asks for a disk of {} GiB, but its image {} needs {} GiB; ask for at least that",
            plan.id,
            plan.spec.disk_gib,
            plan.spec.image,
            least.div_ceil(GIB)
        )));
    }
    let made = folder.disk().and_then(|disk| qcow2::create_overlay(&disk, &base, format, size));
    made.map_err(|error| storage(format!("the disk of machine {} cannot be made", plan.id), &error))
}

/// What UEFI firmware remembers, as it is in a new machine.
fn make_firmware(plan: &MachinePlan, folder: &Folder, uefi: Option<&Uefi>) -> io::Result<()> {
    match (plan.manifest.firmware.unwrap_or_default(), uefi) {
        (Firmware::Uefi, Some(uefi)) => fs::copy(&uefi.vars, folder.firmware_vars()).map(drop),
        (Firmware::Uefi, None) | (Firmware::Bios, _) => Ok(()),
    }
}

fn unfit_image(plan: &MachinePlan, file: &Path, unfit: &Unfit) -> DriverError {
    match unfit {
        Unfit::Read(error) => unusable_image(plan, file, error),
        Unfit::Refused(why) => DriverError {
            code: Code::ImageUnsafe,
            detail: format!("{} of image {} must not be opened: {why}", file.display(), plan.spec.image),
            retryable: false,
        },
    }
}

pub(super) fn unusable_image(plan: &MachinePlan, file: &Path, error: &io::Error) -> DriverError {
    DriverError {
        code: Code::ImageFetchFailed,
        detail: format!("{} of image {} cannot be used: {error}", file.display(), plan.spec.image),
        retryable: error.kind() == io::ErrorKind::NotFound,
    }
}
