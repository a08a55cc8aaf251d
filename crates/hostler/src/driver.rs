//! What runs machines here: QEMU, or a simulation.

use std::path::Path;

use hostler_agent::{
    Slots,
    hypervisor::qemu::{Accel, Qemu, QemuConfig},
};
use hostler_model::name::Name;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// What runs machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// QEMU: real machines
    Qemu,
    /// A simulation, for trying and testing
    Sim,
}

/// How QEMU runs machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// KVM where the processor and /dev/kvm allow it, else TCG
    Auto,
    /// The processor's own virtualisation
    Kvm,
    /// Software emulation
    Tcg,
}

impl From<Acceleration> for Accel {
    fn from(how: Acceleration) -> Accel {
        match how {
            Acceleration::Auto => Accel::Auto,
            Acceleration::Kvm => Accel::Kvm,
            Acceleration::Tcg => Accel::Tcg,
        }
    }
}

/// The driver of real machines, over a data folder and a folder for sockets.
pub async fn qemu(data: &Path, run: &Path, how: Acceleration) -> Result<Qemu, Failure> {
    let mut config = QemuConfig::new(data, run);
    config.acceleration = how.into();
    let made = tokio::task::spawn_blocking(|| Qemu::new(config)).await;
    let made = made.map_err(|error| Failure::new(Exit::Failed, error))?;
    made.map_err(|error| Failure::new(Exit::Failed, error).help("`hostler doctor` says what this host lacks"))
}

/// How much an agent does at once of each class (boot, disk, quick, guest): what was asked for, in place of what would be.
pub fn slots([boot, disk, quick, guest]: [Option<u16>; 4], usual: Slots) -> Slots {
    Slots {
        boot: boot.map_or(usual.boot, usize::from),
        disk: disk.map_or(usual.disk, usize::from),
        quick: quick.map_or(usual.quick, usize::from),
        guest: guest.map_or(usual.guest, usize::from),
    }
}

/// This host's name as far as it makes a name of ours; `local` where nothing is left of it.
pub fn host_name() -> Name {
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let first = host.split('.').next().unwrap_or_default();
    let clean: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let fallback = || "local".parse().expect("`local` is a name");
    clean.trim_matches('-').parse().unwrap_or_else(|_| fallback())
}
