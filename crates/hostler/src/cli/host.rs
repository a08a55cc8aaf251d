//! What `doctor` looks at on this machine: the token's file, QEMU, KVM, the disk. It starts nothing but `--version`.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use hostler_model::{Clock, Timestamp};
use hostler_trust::Credentials;

use super::doctor::Finding;
use crate::{
    output,
    settings::{self, FileArgs},
};

/// Less room than this in the data folder is soon none: a machine's disk and its image are this large.
const LITTLE: u64 = 5 << 30;
/// A renewal that is late by more than this does not work.
const RENEWAL: Duration = Duration::from_secs(3600);
/// With less than this not even the log can be written for long.
const NOTHING: u64 = 256 << 20;

/// What the agent needs of this host.
pub fn examine(data: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![
        program("qemu-system-x86_64", "qemu-system-x86"),
        program("qemu-img", "qemu-utils"),
        kvm(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), open_kvm()),
    ];
    findings.extend(data.map(disk));
    findings.extend(data.and_then(certificate));
    findings.push(configuration());
    findings
}

/// Whether nobody else can read the token's file.
pub fn token(file: Option<&Path>) -> Option<Finding> {
    let file = file?;
    let metadata = fs::metadata(file).ok()?;
    let (mode, owner) = (metadata.permissions().mode() & 0o777, metadata.uid());
    let seen = format!("{} has mode {mode:04o}", file.display());
    let ours = owner == rustix::process::geteuid().as_raw();
    Some(match (mode & 0o077, ours) {
        (0, true) => Finding::ok("token", seen),
        (0, false) => Finding::warn("token", format!("{seen} and belongs to user {owner}"), "use a token of your own"),
        _ => {
            let advice = format!("others may have read it: make a new one, and `chmod 600 {}`", file.display());
            Finding::fail("token", seen, advice)
        }
    })
}

/// Where no server is known: whether something else sits where one would listen.
pub fn port() -> Option<Finding> {
    let usual = SocketAddr::from(([127, 0, 0, 1], 9090));
    match TcpListener::bind(usual) {
        Ok(_) => None,
        Err(error) => Some(Finding::warn(
            "port 9090",
            format!("{usual} is taken ({error}), and not by a server known here"),
            "`ss -ltnp sport = :9090` says by whom; a server that is not yours is reached with --url and a token",
        )),
    }
}

fn configuration() -> Finding {
    let read = settings::layers::File::read(&FileArgs::default());
    let checked = read.and_then(|file| {
        settings::layers::in_force::<settings::Server>(&file)?;
        settings::layers::in_force::<settings::Agent>(&file)
    });
    match checked {
        Ok(_) if Path::new(settings::FILE).exists() => {
            Finding::ok("configuration", format!("{} makes sense", settings::FILE))
        }
        Ok(_) => Finding::ok("configuration", format!("there is no {}: the defaults are in force", settings::FILE)),
        Err(failure) => Finding::of("configuration", &failure),
    }
}

/// The certificate of the agent whose data folder this is.
fn certificate(data: &Path) -> Option<Finding> {
    let credentials = match Credentials::load(&data.join("agent").join("identity")) {
        Ok(credentials) => credentials?,
        Err(error) => {
            let advice = "stop the agent, remove agent/identity in its data folder, and join again with a new token";
            return Some(Finding::fail("certificate", error.to_string(), advice));
        }
    };
    Some(validity(credentials.renew_at(), credentials.expires_at(), Clock::system().now()))
}

fn validity(renew_at: Timestamp, expires_at: Timestamp, now: Timestamp) -> Finding {
    if now > expires_at {
        let seen = format!("the agent's ended {}", output::ago(expires_at, now));
        return Finding::fail(
            "certificate",
            seen,
            "start the agent: it may renew it for 30 days after its end; then it must join again",
        );
    }
    let seen = format!("the agent's is good for {}", output::took(expires_at.since(now)));
    // It is renewed at two thirds of its life, and tried again each minute.
    if now.since(renew_at) > RENEWAL {
        return Finding::warn(
            "certificate",
            format!("{seen}, and should have been renewed"),
            "see that the agent runs, and its log",
        );
    }
    Finding::ok("certificate", seen)
}

fn program(name: &str, package: &str) -> Finding {
    let install = format!("machines need it: apt install {package}");
    match Command::new(name).arg("--version").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
            Finding::ok(name, said)
        }
        Ok(output) => Finding::fail(name, format!("`{name} --version` ended with {}", output.status), install),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::fail(name, "it is not on PATH", install),
        Err(error) => Finding::fail(name, format!("it cannot be started: {error}"), install),
    }
}

fn open_kvm() -> Result<(), io::Error> {
    File::options().read(true).write(true).open("/dev/kvm").map(|_| ())
}

/// KVM is used only where the processor reports vmx or svm *and* the device opens: on some hosts it opens, and guests
/// hang on it.
fn kvm(cpuinfo: &str, device: Result<(), io::Error>) -> Finding {
    let slow = "machines run under software emulation, about ten times slower";
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let Some(flag) = flags.split_whitespace().find(|flag| matches!(*flag, "vmx" | "svm")) else {
        let device = if device.is_ok() { "; /dev/kvm opens, but guests would hang on it" } else { "" };
        let seen = format!("not usable: the processor reports neither vmx nor svm{device}");
        return Finding::warn(
            "kvm",
            seen,
            format!("{slow}; turn virtualization on in the firmware, or nesting in the host above"),
        );
    };
    match device {
        Ok(()) => Finding::ok("kvm", format!("usable: {flag}, and /dev/kvm opens")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::warn(
            "kvm",
            format!("not usable: /dev/kvm: {error}"),
            format!("{slow}; add yourself to the group kvm, and log in again"),
        ),
        Err(error) => {
            Finding::warn("kvm", format!("not usable: /dev/kvm: {error}"), format!("{slow}; `modprobe kvm` may help"))
        }
    }
}

fn disk(data: &Path) -> Finding {
    // The folder may not be there yet; then the first of those above it that is.
    let there = data.ancestors().find(|folder| folder.exists()).unwrap_or(data);
    match rustix::fs::statvfs(there) {
        Ok(found) => room(data, found.f_bavail.saturating_mul(found.f_frsize)),
        Err(error) => Finding::fail(
            "disk",
            format!("{} cannot be looked at: {error}", there.display()),
            "name another folder with --data",
        ),
    }
}

fn room(data: &Path, free: u64) -> Finding {
    let seen = format!("{} free in {}", output::bytes(free), data.display());
    let advice = "free some space, or name another folder with --data";
    match free {
        ..NOTHING => Finding::fail("disk", seen, advice),
        NOTHING..LITTLE => Finding::warn("disk", seen, advice),
        LITTLE.. => Finding::ok("disk", seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_the_processor_and_the_device() {
        let (with, without) = ("flags\t\t: fpu svm sse", "flags\t\t: fpu sse");
        let said = |finding: Finding| serde_json::to_value(finding).unwrap()["seen"].as_str().unwrap().to_owned();
        assert_eq!(said(kvm(with, Ok(()))), "usable: svm, and /dev/kvm opens");
        assert!(said(kvm(without, Ok(()))).contains("guests would hang"));
        assert!(said(kvm(with, Err(io::ErrorKind::PermissionDenied.into()))).starts_with("not usable: /dev/kvm"));
        assert!(said(kvm("", Err(io::ErrorKind::NotFound.into()))).contains("neither vmx nor svm"));
    }

    #[test]
    fn a_certificate_that_is_not_renewed_is_a_warning_and_one_that_ended_a_fault() {
        let at = |hours: u64| Timestamp::from_micros(0).plus(Duration::from_secs(hours * 3600));
        let verdict = |now| serde_json::to_value(validity(at(16), at(24), at(now))).unwrap()["verdict"].clone();
        assert_eq!([verdict(1), verdict(17), verdict(20), verdict(25)], ["ok", "ok", "warn", "fail"]);
    }

    #[test]
    fn little_room_is_a_warning_and_none_a_fault() {
        let verdict = |free| serde_json::to_value(room(Path::new("/x"), free)).unwrap()["verdict"].clone();
        assert_eq!([verdict(1 << 20), verdict(1 << 30), verdict(50 << 30)], ["fail", "warn", "ok"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_a_fault_with_its_package() {
        let finding = serde_json::to_value(program("no-such-program", "some-package")).unwrap();
        assert_eq!(finding["verdict"], "fail");
        assert!(finding["advice"].as_str().unwrap().contains("some-package"));
    }

    #[test]
    fn a_token_that_others_can_read_is_a_fault() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let verdict = || serde_json::to_value(token(Some(file.path())).unwrap()).unwrap()["verdict"].clone();
        assert_eq!(verdict(), "ok");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(verdict(), "fail");
    }
}
