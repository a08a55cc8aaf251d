//! What `hostler vm create` and `hostler run` say of a machine's first boot: the flags of cloud-init and of readiness.

use std::{fs, path::Path};

use hostler_model::{
    api::NewVm,
    cloud_init::{CloudInit, FirstBoot, Run},
    kind::VmCreateOutput,
    ready::Readiness,
    secret::Sensitive,
    task::Task,
    vm::{Vm, VmSpec},
};
use serde::Deserialize as _;
use serde_json::Value;

use super::super::read;
use crate::exit::Failure;

/// What stands above these flags in the help; `next_help_heading` would also stand above whatever comes behind them.
const FIRST_BOOT: &str = "First boot, for images with cloud-init";
const READINESS: &str = "Readiness";

/// What the guest is to become, and when it is ready.
#[derive(clap::Args, Debug, Default)]
pub struct Flags {
    /// A file with user-data, handed to cloud-init as it is
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "ssh_key", "package", "runcmd", "enable_serial"], help_heading = FIRST_BOOT)]
    user_data: Option<String>,

    /// A file with vendor-data, likewise
    #[arg(long, value_name = "FILE", help_heading = FIRST_BOOT)]
    vendor_data: Option<String>,

    /// A file with cloud-init's network configuration, version 2, as JSON
    #[arg(long, value_name = "FILE", help_heading = FIRST_BOOT)]
    network_config: Option<String>,

    /// The guest's host name; the machine's name by default
    #[arg(long, value_name = "NAME", help_heading = FIRST_BOOT)]
    hostname: Option<String>,

    /// A user to be made, who may use sudo
    #[arg(long, value_name = "NAME", help_heading = FIRST_BOOT)]
    user: Option<String>,

    /// A file with public keys that may log in, or one such key; may be given more than once
    #[arg(long, value_name = "FILE", help_heading = FIRST_BOOT)]
    ssh_key: Vec<String>,

    /// A package to be installed; may be given more than once
    #[arg(long, value_name = "NAME", help_heading = FIRST_BOOT)]
    package: Vec<String>,

    /// A line for the guest's shell, run once; may be given more than once
    #[arg(long, value_name = "LINE", help_heading = FIRST_BOOT)]
    runcmd: Vec<String>,

    /// Let people log in on the serial console
    #[arg(long, help_heading = FIRST_BOOT)]
    enable_serial: bool,

    /// When it is ready: auto, guest-agent, cloud-init, tcp:PORT, marker:/PATH or none [default: as the image says]
    #[arg(long, value_name = "WHAT", value_parser = read::model::<Readiness>, help_heading = READINESS)]
    ready: Option<Readiness>,

    /// How long that may take, such as 10m [default: as the image says]
    #[arg(long, value_name = "TIME", value_parser = read::seconds, help_heading = READINESS)]
    ready_timeout: Option<u32>,
}

impl Flags {
    /// Adds to a machine what is said here. Reads the files that are named.
    pub fn add(self, mut vm: NewVm) -> Result<NewVm, Failure> {
        let mut keys = Vec::new();
        for key in &self.ssh_key {
            keys.extend(public_keys(key)?);
        }
        let network = self.network_config.as_deref().map(json_file).transpose()?;
        let form = CloudInit {
            hostname: self.hostname,
            user: self.user,
            ssh_authorized_keys: keys,
            packages: self.package,
            runcmd: self.runcmd.into_iter().map(Run::Line).collect(),
            enable_serial: self.enable_serial,
            network,
        };
        vm.cloud_init = Some(form).filter(|form| *form != CloudInit::default());
        vm.user_data = self.user_data.as_deref().map(text_file).transpose()?.map(Sensitive::from);
        vm.vendor_data = self.vendor_data.as_deref().map(text_file).transpose()?.map(Sensitive::from);
        (vm.ready, vm.ready_timeout_seconds) = (self.ready, self.ready_timeout);
        Ok(vm)
    }
}

/// The keys of a file, or the one that stands there itself.
fn public_keys(text: &str) -> Result<Vec<String>, Failure> {
    let is_key = text.contains(' ') && !Path::new(text).exists();
    let lines = if is_key { text.to_owned() } else { text_file(text)? };
    let keys = lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(keys.map(str::to_owned).collect())
}

fn text_file(path: &str) -> Result<String, Failure> {
    let bytes = fs::read(path).map_err(|error| Failure::usage(format!("{path} cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage(format!("{path} is not UTF-8 text, and only text travels"))
            .help("send packed user-data as a MIME part in base64, which cloud-init unpacks")
    })
}

fn json_file(path: &str) -> Result<Value, Failure> {
    serde_json::from_str(&text_file(path)?).map_err(|error| Failure::usage(format!("{path} is not JSON: {error}")))
}

/// Whether a machine that was made became what it was to become.
pub fn is_ready(vm: Option<&Vm>, task: &Task) -> Result<(), Failure> {
    let output = task.output.as_ref().and_then(|output| VmCreateOutput::deserialize(output).ok());
    match (vm, output.and_then(|output| output.not_ready)) {
        (Some(vm), Some(why)) => Err(Failure::not_ready(&vm.name, &why)),
        (Some(_) | None, None) | (None, Some(_)) => Ok(()),
    }
}

/// For `vm show`: when it is ready, and what its guest found at its first boot.
pub fn fields(spec: &VmSpec) -> [(&'static str, String); 3] {
    let FirstBoot { hostname, user_data, .. } = spec.first_boot.clone().unwrap_or_default();
    let user_data = match user_data {
        Some(Sensitive::Kept(kept)) => {
            let digest: String = kept.sha256.as_str().chars().take(12).collect();
            format!("{} bytes ({digest})", kept.bytes)
        }
        Some(Sensitive::Text(_)) | None => String::new(),
    };
    [
        ("ready by", format!("{}, within {} s", spec.ready, spec.ready_timeout_seconds)),
        ("hostname", hostname.unwrap_or_default()),
        ("user-data", user_data),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::fixture;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJvjSVYdnNVmWMZCSvmqPsGqFsSAzJmSzdTZO8hSKFqY me@here";

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn vm(words: &[&str]) -> Result<NewVm, Failure> {
        let line =
            Line::try_parse_from([&["vm"], words].concat()).map_err(|error| Failure::usage(error.to_string()))?;
        line.flags.add(NewVm::default())
    }

    #[test]
    fn nothing_said_is_nothing_asked() {
        assert_eq!(vm(&[]).unwrap(), NewVm::default());
    }

    #[test]
    fn flags_become_the_typed_form() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id.pub");
        fs::write(&file, format!("# mine\n{KEY}\n\n{KEY} 2\n")).unwrap();
        let words = ["--user", "ada", "--ssh-key", file.to_str().unwrap(), "--ssh-key", KEY, "--runcmd", "echo hi"];
        let vm =
            vm(&[&words[..], &["--hostname", "h", "--ready", "tcp:22", "--ready-timeout", "5m"]].concat()).unwrap();
        let form = vm.cloud_init.unwrap();
        assert_eq!((form.user.as_deref(), form.ssh_authorized_keys.len()), (Some("ada"), 3));
        assert_eq!(form.runcmd, [Run::Line("echo hi".to_owned())]);
        assert_eq!((vm.ready, vm.ready_timeout_seconds), (Some(Readiness::Tcp { port: 22 }), Some(300)));
    }

    #[test]
    fn user_data_travels_as_it_is_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (text, packed) = (dir.path().join("text"), dir.path().join("packed"));
        fs::write(&text, "#!/bin/sh\r\necho \u{e4}").unwrap();
        fs::write(&packed, [0x1f, 0x8b]).unwrap();
        let sent = vm(&["--user-data", text.to_str().unwrap()]).unwrap().user_data.unwrap();
        assert_eq!(sent.text(), Some("#!/bin/sh\r\necho \u{e4}"));
        assert!(vm(&["--user-data", packed.to_str().unwrap()]).is_err());
        assert!(vm(&["--user-data", text.to_str().unwrap(), "--user", "ada"]).is_err(), "the one or the other");
        assert!(vm(&["--user-data", "/no/such/file"]).is_err());
    }

    #[test]
    fn a_machine_that_is_not_ready_is_a_failure_that_says_why_and_how_to_look() {
        let (vm, mut task) = (fixture::vm("web", "running"), fixture::task("succeeded"));
        let output = |not_ready: Option<&str>| {
            let charge = serde_json::json!({"vcpus": 1, "memory_mib": 1, "disk_gib": 1, "vms": 1});
            Some(serde_json::json!({"charge": charge, "boot_ms": 1.0, "acceleration": "tcg", "not_ready": not_ready}))
        };
        task.output = output(None);
        assert_eq!(is_ready(Some(&vm), &task), Ok(()));
        task.output = output(Some("cloud-init ended with errors"));
        let failure = is_ready(Some(&vm), &task).unwrap_err();
        assert_eq!(failure.exit.code(), 1);
        let lines = failure.lines();
        assert!(lines[0].1.contains("web runs, and is not ready: cloud-init ended with errors [GUEST_NOT_READY]"));
        assert!(lines[1].1.contains("hostler vm exec web -- tail"), "{lines:?}");
    }
}
