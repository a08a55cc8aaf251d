//! How the driver is set up: where it works, with which QEMU, and what that offers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{
    Driver,
    accel::{Accel, Acceleration},
    error::{refused, storage},
    firmware::Uefi,
    launch,
};
use crate::{
    host,
    hypervisor::{DriverError, turns::Turns},
};

/// How the driver is set up.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// The node's data folder; machines lie in `vms` below it.
    pub data: PathBuf,
    /// A short folder for sockets, private to this node: a unix socket's path has at most 107 bytes.
    pub run: PathBuf,
    /// Which acceleration.
    pub acceleration: Accel,
    /// QEMU's binary: a name to be found on PATH, or a path.
    pub binary: PathBuf,
}

impl QemuConfig {
    /// With what QEMU and the host offer.
    pub fn new(data: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        QemuConfig {
            data: data.into(),
            run: run.into(),
            acceleration: Accel::Auto,
            binary: "qemu-system-x86_64".into(),
        }
    }

    /// Makes the folders, asks QEMU for its version and decides on the acceleration.
    pub(super) fn driver(self) -> Result<Driver, DriverError> {
        let binary = launch::binary(&self.binary).map_err(|error| missing(&self.binary, "qemu-system-x86", &error))?;
        launch::binary(Path::new("setsid")).map_err(|error| missing(Path::new("setsid"), "util-linux", &error))?;
        Ok(Driver {
            data: own_folder(&self.data)?,
            run: own_folder(&self.run)?,
            version: version(&binary)?,
            acceleration: Acceleration::decide(self.acceleration, &host::facts::kvm(Path::new("/"))),
            uefi: Uefi::find(),
            binary,
            turns: Turns::default(),
            flattening: tokio::sync::Mutex::default(),
            live: Mutex::default(),
        })
    }
}

fn missing(binary: &Path, package: &str, error: &io::Error) -> DriverError {
    refused(format!("{} cannot be used: {error}; install the package {package} on this node", binary.display()))
}

/// A folder that is there, by its real and absolute path: QEMU's command line must prove whose it is.
fn own_folder(path: &Path) -> Result<PathBuf, DriverError> {
    let made = fs::create_dir_all(path).and_then(|()| fs::canonicalize(path));
    made.map_err(|error| storage(format!("the folder {} cannot be made", path.display()), &error))
}

/// `QEMU emulator version 7.2.22 (Debian …)`, as `qemu 7.2.22`.
fn version(binary: &Path) -> Result<String, DriverError> {
    let output = std::process::Command::new(binary).arg("--version").output();
    let output = output.map_err(|error| missing(binary, "qemu-system-x86", &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace().skip_while(|word| *word != "version").skip(1);
    let version =
        words.next().ok_or_else(|| refused(format!("{} --version does not say a version", binary.display())))?;
    Ok(format!("qemu {version}"))
}
