//! The package as a host gets it: built, installed into a folder that stands for the host's root, upgraded, purged.
//!
//! dpkg runs the maintainer scripts outside of that folder, with `DPKG_ROOT` naming it: they must touch nothing else.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};
use hostler_e2e::dev::binary;

fn repository() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?)
}

fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    bail!("{command:?}: {}\n{}", output.status, said.join("\n"))
}

/// A folder that stands for a host's root, with dpkg's own database in it.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Result<Host> {
        let root = tempfile::Builder::new().prefix("hostler-root").tempdir()?;
        fs::create_dir_all(root.path().join("var/lib/dpkg/info"))?;
        fs::create_dir_all(root.path().join("var/lib/dpkg/updates"))?;
        fs::create_dir_all(root.path().join("etc"))?;
        fs::write(root.path().join("var/lib/dpkg/status"), "")?;
        Ok(Host(root))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn dpkg(&self, words: &[&str]) -> Result<Output> {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        run(Command::new("dpkg")
            .env("PATH", path)
            .arg(format!("--root={}", self.0.path().display()))
            .args(["--force-not-root", "--force-script-chrootless", "--force-depends", "--force-confold"])
            .args(words))
    }
}

fn package() -> Result<String> {
    let mut command = Command::new(repository()?.join("scripts/deb.sh"));
    let built = run(command.env("BIN", binary()?).env("LEVEL", "0"))?;
    let path = repository()?.join(String::from_utf8(built.stdout)?.trim());
    Ok(path.display().to_string())
}

#[test]
fn the_package_installs_upgrades_and_goes_and_data_stays() -> Result<()> {
    let (deb, host) = (package()?, Host::new()?);
    host.dpkg(&["--install", &deb])?;
    let hostler = host.path("/usr/bin/hostler");
    let version = run(Command::new(&hostler).arg("--version"))?;
    assert!(String::from_utf8(version.stdout)?.starts_with("hostler "));
    let config = host.path("/etc/hostler/hostler.toml");
    run(Command::new(&hostler).args(["config", "check", "--config"]).arg(&config))?;
    for installed in [
        "/usr/share/man/man1/hostler-vm-create.1.gz",
        "/usr/share/bash-completion/completions/hostler",
        "/usr/share/zsh/vendor-completions/_hostler",
        "/usr/share/fish/vendor_completions.d/hostler.fish",
        "/usr/share/doc/hostler/install.md",
        "/usr/share/doc/hostler/copyright",
        "/usr/share/doc/hostler/changelog.gz",
        "/usr/lib/sysusers.d/hostler.conf",
    ] {
        assert!(host.path(installed).is_file(), "{installed}");
    }
    let users = fs::read_to_string(host.path("/etc/passwd"))?;
    assert!(users.lines().any(|line| line.starts_with("hostler:")), "{users}");
    units(&host)?;

    // What a person wrote, and what a server wrote, outlive an upgrade.
    fs::write(&config, "[server]\nlease_seconds = 20\n")?;
    fs::create_dir_all(host.path("/var/lib/hostler/server"))?;
    fs::write(host.path("/var/lib/hostler/server/hostler.db"), "facts")?;
    host.dpkg(&["--install", &deb])?;
    assert!(fs::read_to_string(&config)?.contains("lease_seconds = 20"));

    host.dpkg(&["--purge", "hostler"])?;
    assert!(!hostler.exists() && !host.path("/etc/hostler").exists());
    assert!(!host.path("/usr/lib/systemd/system/hostler-agent.service").exists());
    assert_eq!(fs::read_to_string(host.path("/var/lib/hostler/server/hostler.db"))?, "facts");
    Ok(())
}

/// systemd reads both units without a complaint, and machines outlive the agent's.
fn units(host: &Host) -> Result<()> {
    let agent = fs::read_to_string(host.path("/usr/lib/systemd/system/hostler-agent.service"))?;
    assert!(agent.contains("\nKillMode=process\n") && agent.contains("\nRuntimeDirectoryPreserve=yes\n"), "{agent}");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    for name in ["hostler-server.service", "hostler-agent.service"] {
        let unit = fs::read_to_string(host.path(&format!("/usr/lib/systemd/system/{name}")))?;
        // Verified where the program is, which is not where it will be.
        let unit = unit.replace("/usr/bin/hostler", &host.path("/usr/bin/hostler").display().to_string());
        let path = folder.path().join(name);
        fs::write(&path, unit)?;
        let verified =
            run(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).arg(&path))?;
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(!said.contains(name), "{said}");
    }
    Ok(())
}

#[test]
fn what_make_installs_it_takes_away_again() -> Result<()> {
    let dest = tempfile::tempdir()?;
    let make = |target: &str| -> Result<Output> {
        let mut command = Command::new("make");
        command.arg("--no-print-directory").arg(target).current_dir(repository()?);
        run(command.arg(format!("BIN={}", binary()?.display())).arg(format!("DESTDIR={}", dest.path().display())))
    };
    make("install")?;
    let program = dest.path().join("usr/local/bin/hostler");
    assert_eq!(fs::metadata(&program)?.permissions().mode() & 0o777, 0o755);
    let unit = fs::read_to_string(dest.path().join("usr/local/lib/systemd/system/hostler-agent.service"))?;
    assert!(unit.contains("ExecStart=/usr/local/bin/hostler agent"), "{unit}");
    make("uninstall")?;
    let left: Vec<PathBuf> = files(dest.path())?;
    assert_eq!(left, [dest.path().join("etc/hostler/hostler.toml")], "only what a person may have changed");
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}
