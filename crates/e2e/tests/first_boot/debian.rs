//! A real Debian, told at its first boot what to become.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hostler_e2e::dev::{Dev, binary};
use serde_json::{Value, json};

use super::repository::{self, INSTALLED, PACKAGE, SAYS};

/// For what boots a Debian: emulated it takes a minute or two, and several on a busy host.
const SLOW: Duration = Duration::from_secs(1800);

/// The same for the machine itself, which has 900 s where nothing is said.
const READY_SECONDS: u32 = 1800;

async fn debian() -> Result<Dev> {
    let mut dev = Dev::new(&[])?;
    dev.with_image("debian");
    dev.start().await?;
    Ok(dev)
}

async fn done(dev: &mut Dev, path: &str, body: Value) -> Result<Value> {
    dev.done_within(SLOW, "POST", &format!("/api/v1/vms{path}"), Some(body)).await
}

// --- the typed form ------------------------------------------------------------------------------------------------

/// A key pair; gives the private one's file, and the public one.
fn key(folder: &Path) -> Result<(PathBuf, String)> {
    let private = folder.join("key");
    let words = ["-q", "-t", "ed25519", "-N", "", "-C", "ada@here", "-f"];
    let made = Command::new("ssh-keygen").args(words).arg(&private).status()?;
    ensure!(made.success(), "ssh-keygen of openssh-client is needed");
    let public = fs::read_to_string(private.with_extension("pub"))?.trim().to_owned();
    Ok((private, public))
}

/// Addresses that no DHCP would give, beside the one that QEMU's network needs.
fn network() -> Value {
    json!({"version": 2, "ethernets": {"eth0": {
        "addresses": ["10.0.2.15/24", "192.168.77.5/24"],
        "routes": [{"to": "0.0.0.0/0", "via": "10.0.2.2"}],
    }}})
}

/// A file of the vendor's, and where packages come from. (`apt.sources_list` would not do: Debian's cloud-init is told to
/// keep the one that is there.)
fn vendor_data(sources: &str) -> String {
    let file = |path: &str, content: &str| json!({"path": path, "content": format!("{content}\n")});
    let files = [file("/root/vendor", "by the vendor"), file("/etc/apt/sources.list", sources)];
    format!("#cloud-config\n{}\n", json!({"write_files": files}))
}

fn typed(key: &str, vendor_data: &str) -> Value {
    json!({
        "name": "web",
        "image": "debian",
        "ready_timeout_seconds": READY_SECONDS,
        "port_forwards": [{"guest_port": 22}],
        "vendor_data": vendor_data,
        "cloud_init": {
            "hostname": "web-1.example.org",
            "user": "ada",
            "ssh_authorized_keys": [key],
            "packages": [PACKAGE],
            "runcmd": ["echo \"it's $((6 * 7))\" >/root/line", ["touch", "/root/a b; $x"], "echo ran >>/root/runs"],
            "enableSerial": true,
            "network": network(),
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debian_becomes_what_the_typed_form_says_and_does_so_once() -> Result<()> {
    let (folder, sources) = (tempfile::tempdir()?, repository::serve()?);
    let ((private, public), vendor_data) = (key(folder.path())?, vendor_data(&sources));
    let mut dev = debian().await?;
    let task = done(&mut dev, "", typed(&public, &vendor_data)).await?;
    assert_eq!(task["output"]["not_ready"], Value::Null, "{task}");
    let (_, vm) = dev.get("/api/v1/vms/web").await?;
    assert_eq!((&vm["state"], &vm["ready"]), (&json!("running"), &json!(true)), "{vm}");
    is_as_told(&mut dev, &public).await?;
    has_what_the_vendor_said(&mut dev, &vendor_data).await?;
    has_its_seed(&mut dev, &vm["id"]).await?;
    can_be_logged_in_to(&dev, &vm, &private)?;
    goes_back_to_its_snapshot(&mut dev).await?;
    is_not_told_again_at_its_next_start(&mut dev, &vm["id"]).await?;
    can_be_logged_in_to(&dev, &vm, &private)?;
    dev.assert_well().await
}

async fn is_as_told(dev: &mut Dev, key: &str) -> Result<()> {
    assert_eq!(dev.says("web", "cloud-init status").await?, "status: done");
    assert_eq!(dev.says("web", "hostname; hostname -f").await?, "web-1\nweb-1.example.org");
    let keys = "stat -c '%U %a' /home/ada/.ssh/authorized_keys; cat /home/ada/.ssh/authorized_keys";
    assert_eq!(dev.says("web", keys).await?, format!("ada 600\n{key}"));
    assert_eq!(dev.says("web", "cat /root/line /root/runs; ls -1 /root/a*").await?, "it's 42\nran\n/root/a b; $x");
    let package = format!("dpkg-query -W -f '${{Status}}\\n' {PACKAGE}; cat {INSTALLED}");
    assert_eq!(dev.says("web", &package).await?, format!("install ok installed\n{SAYS}"));
    assert_eq!(dev.says("web", "systemctl is-active serial-getty@ttyS0.service").await?, "active");
    let addresses = dev.says("web", "ip -4 -o address show dev eth0").await?;
    let fixed = addresses.contains("10.0.2.15/24") && addresses.contains("192.168.77.5/24");
    assert!(fixed && !addresses.contains("dynamic"), "{addresses}");
    fills_its_disk(dev).await
}

/// The file system has grown to the disk, as large as that is by now.
async fn fills_its_disk(dev: &mut Dev) -> Result<()> {
    let (_, vm) = dev.get("/api/v1/vms/web").await?;
    let gib = vm["spec"]["disk_gib"].as_u64().context("a disk has a size")?;
    let mib = dev.says("web", "df --output=size -BM / | tail -n 1").await?;
    let mib: u64 = mib.trim_end_matches('M').parse()?;
    assert!(mib > gib * 1024 * 9 / 10, "{mib} MiB of {gib} GiB");
    Ok(())
}

async fn has_what_the_vendor_said(dev: &mut Dev, vendor_data: &str) -> Result<()> {
    assert_eq!(dev.says("web", "cat /root/vendor").await?, "by the vendor");
    assert_eq!(dev.says("web", &hex("/var/lib/cloud/instance/vendor-data.txt")).await?, hex_of(vendor_data));
    Ok(())
}

/// What cloud-init read, as the guest sees it.
async fn has_its_seed(dev: &mut Dev, id: &Value) -> Result<()> {
    assert_eq!(dev.says("web", "blkid -s LABEL -o value /dev/vdb").await?, "cidata");
    let file = |name: &str| format!("mount -o ro /dev/vdb /mnt && cat /mnt/{name}; umount /mnt");
    let meta_data: Value = serde_json::from_str(&dev.says("web", &file("meta-data")).await?)?;
    assert_eq!(meta_data, json!({"instance-id": id, "local-hostname": "web-1.example.org"}));
    let network_config: Value = serde_json::from_str(&dev.says("web", &file("network-config")).await?)?;
    assert_eq!(network_config, network());
    let user_data = dev.says("web", &file("user-data")).await?;
    let config: Value = serde_json::from_str(user_data.strip_prefix("#cloud-config").context("its first line")?)?;
    assert_eq!((&config["packages"], &config["package_update"]), (&json!([PACKAGE]), &json!(true)));
    Ok(())
}

/// From outside, with the key, and on to root without a password.
fn can_be_logged_in_to(dev: &Dev, vm: &Value, key: &Path) -> Result<()> {
    let port = vm["spec"]["port_forwards"][0]["host_port"].as_u64().context("a port")?;
    let said = Command::new("ssh")
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=120", "-i"])
        .arg(key)
        .args(["-p", &port.to_string(), "ada@127.0.0.1", "sudo -n cat /root/runs"])
        .output()?;
    assert_eq!(String::from_utf8_lossy(&said.stdout), "ran\n", "{said:?}");
    let console = dev.data().join("vms").join(vm["id"].as_str().context("id")?).join("console.log");
    let console = String::from_utf8_lossy(&fs::read(console)?).into_owned();
    assert!(console.contains("web-1 login:"), "the serial console ends with {:?}", &console[console.len() - 200..]);
    Ok(())
}

async fn goes_back_to_its_snapshot(dev: &mut Dev) -> Result<()> {
    done(dev, "/web/snapshots", json!({"name": "fresh", "memory": true})).await?;
    let before = dev.says("web", "cat /proc/sys/kernel/random/boot_id; sha256sum </dev/vdb").await?;
    dev.says("web", "echo again >>/root/runs; rm -r /home/ada; hostname other").await?;
    let task = done(dev, "/web/restore", json!({"snapshot": "fresh"})).await?;
    assert_eq!(task["output"]["memory"], true, "{task}");
    assert_eq!(dev.says("web", "cat /proc/sys/kernel/random/boot_id; sha256sum </dev/vdb").await?, before);
    assert_eq!(dev.says("web", "cat /root/runs; ls -A /home/ada/.ssh; hostname").await?, "ran\nauthorized_keys\nweb-1");
    Ok(())
}

/// Edited, stopped and started it is the same instance to cloud-init: what was changed since stays changed.
async fn is_not_told_again_at_its_next_start(dev: &mut Dev, id: &Value) -> Result<()> {
    let seed = dev.says("web", "rm /root/line /root/vendor; sha256sum </dev/vdb").await?;
    let memory: u64 = dev.says("web", "awk '/MemTotal/{print $2}' /proc/meminfo").await?.parse()?;
    dev.done_within(SLOW, "PATCH", "/api/v1/vms/web", Some(json!({"memory_mib": 768, "disk_gib": 5}))).await?;
    done(dev, "/web/stop", json!({"timeout_seconds": 600})).await?;
    done(dev, "/web/start", json!({})).await?;
    assert_eq!(dev.says("web", "cloud-init status").await?, "status: done");
    assert_eq!(json!(dev.says("web", "cat /var/lib/cloud/data/instance-id").await?), *id);
    assert_eq!(dev.says("web", "sha256sum </dev/vdb").await?, seed);
    assert_eq!(
        dev.says("web", "cat /root/runs; hostname -f; ls /root/line /root/vendor 2>/dev/null || true").await?,
        "ran\nweb-1.example.org"
    );
    let now: u64 = dev.says("web", "awk '/MemTotal/{print $2}' /proc/meminfo").await?.parse()?;
    assert!(now > memory + 200 * 1024, "{memory} KiB, then {now}");
    fills_its_disk(dev).await
}

// --- user-data as it is --------------------------------------------------------------------------------------------

/// Odd in every way that text can be: a script, with an end of line of each kind, letters of many bytes, no end to its
/// last line. And it fails.
const ODD: &str = "#!/bin/sh\n# \u{e4}\u{f6}\u{fc} \u{1f427}\r\n\techo from-the-script >/root/ran\n\
                   echo words-of-its-own >&2\nexit 3";

fn hex(file: &str) -> String {
    format!("od -An -v -tx1 {file} | tr -d ' \\n'")
}

fn hex_of(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The command line, as a person would type it.
async fn hostler(dev: &Dev, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.arg("--data").arg(dev.data()).args(words);
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

#[tokio::test(flavor = "multi_thread")]
async fn user_data_arrives_byte_for_byte_and_what_fails_in_it_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("odd.sh");
    fs::write(&file, ODD)?;
    let dev = &mut debian().await?;
    let file = file.to_str().context("a path in UTF-8")?;
    let made =
        ["vm", "create", "odd", "--image", "debian", "--user-data", file, "--ready-timeout", "30m", "--timeout", "30m"];
    let said = hostler(dev, &made).await?;
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    for word in ["odd runs, and is not ready", "modules-final", "scripts-user", "part-001", "[GUEST_NOT_READY]"] {
        assert!(words.contains(word), "{word:?} is not in {words}");
    }
    assert!(!words.contains("from-the-script") && !words.contains("words-of-its-own"), "{words}");

    // It is kept, so that somebody can look.
    let (_, vm) = dev.get("/api/v1/vms/odd").await?;
    assert_eq!((&vm["state"], &vm["ready"]), (&json!("running"), &json!(false)), "{vm}");
    assert!(vm["detail"].as_str().is_some_and(|detail| detail.contains("scripts-user")), "{vm}");
    assert_eq!(dev.says("odd", "cat /root/ran").await?, "from-the-script");
    assert_eq!(dev.says("odd", &hex("/var/lib/cloud/instance/user-data.txt")).await?, hex_of(ODD));
    let shown =
        hostler(dev, &["vm", "exec", "odd", "--", "grep", "-c", "words-of-its-own", "/var/log/cloud-init-output.log"]);
    assert_eq!(String::from_utf8_lossy(&shown.await?.stdout), "1\n");
    assert_eq!(dev.says("odd", "hostname; cloud-init status || true").await?, "odd\nstatus: error");
    dev.assert_well().await
}
