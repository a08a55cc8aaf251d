//! UEFI firmware for QEMU, where the host has it: OVMF's code, and the variables that each machine gets a copy of.

use std::path::{Path, PathBuf};

/// Where distributions put the two files: Debian and Ubuntu, Fedora and its kin, Arch, openSUSE.
const KNOWN: [(&str, &str); 6] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// The firmware's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Uefi {
    /// The code, which no machine writes.
    pub(super) code: PathBuf,
    /// Variables as they are in a new machine.
    pub(super) vars: PathBuf,
}

impl Uefi {
    /// What this host has.
    pub(super) fn find() -> Option<Uefi> {
        let there = |(code, vars): &(&str, &str)| Path::new(code).is_file() && Path::new(vars).is_file();
        let (code, vars) = KNOWN.into_iter().find(there)?;
        Some(Uefi { code: code.into(), vars: vars.into() })
    }
}
