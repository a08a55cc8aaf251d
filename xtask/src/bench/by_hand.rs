//! A machine without hostler: QEMU started with the driver's options, spoken to over its own sockets. What the figures
//! of machines are compared with.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);
const IMAGE: &str = "target/images/tiny";

/// A running QEMU; it ends with this value.
pub(crate) struct ByHand {
    child: Child,
    folder: TempDir,
    memory_mib: u32,
}

impl ByHand {
    /// Starts one with so much memory, on a disk of its own.
    pub(crate) fn start(memory_mib: u32) -> Result<ByHand> {
        let folder = tempfile::Builder::new().prefix("bench").tempdir_in("target")?;
        let base = fs::canonicalize(IMAGE)?.join("rootfs");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(base)
            .arg(folder.path().join("disk.qcow2"))
            .arg("1G")
            .status()?;
        if !made.success() {
            bail!("qemu-img: {made}");
        }
        let child = launch(folder.path(), memory_mib, None)?;
        Ok(ByHand { child, folder, memory_mib })
    }

    /// Ends QEMU and starts another on the same disk, whose memory comes from this file.
    pub(crate) fn start_again_from(&mut self, state: &Path) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        for socket in ["qmp.sock", "agent.sock"] {
            let _ = fs::remove_file(self.path(socket));
        }
        self.child = launch(self.folder.path(), self.memory_mib, Some(state))?;
        Ok(())
    }

    /// A file in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its control socket.
    pub(crate) fn qmp(&self) -> Result<Lines> {
        let mut qmp = Lines::open(&self.path("qmp.sock"))?;
        qmp.line()?;
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Its guest agent, once that answers.
    pub(crate) fn agent(&self) -> Result<Lines> {
        let mut agent = Lines::open(&self.path("agent.sock"))?;
        agent.call("guest-sync", json!({"id": 1}))?;
        Ok(agent)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(folder: &Path, memory_mib: u32, incoming: Option<&Path>) -> Result<Child> {
    let manifest: Value = serde_json::from_slice(&fs::read(Path::new(IMAGE).join("image.json"))?)?;
    let line = manifest["cmdline"].as_str().context("cmdline")?;
    let at = |name: &str| folder.join(name).display().to_string();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-cpu", "max"])
        .args(["-accel", "tcg,thread=multi", "-smp", "1", "-m", &memory_mib.to_string()])
        .args(["-kernel", &format!("{IMAGE}/kernel"), "-initrd", &format!("{IMAGE}/initrd"), "-append", line])
        .args(["-drive", &format!("if=none,id=root,format=qcow2,file={}", at("disk.qcow2"))])
        .args(["-device", "virtio-blk-pci,drive=root", "-device", "virtio-serial-pci", "-device", "virtio-rng-pci"])
        .args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", at("agent.sock"))])
        .args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"])
        .args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="])
        .args(["-serial", &format!("file:{}", at("console.log"))])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp.sock"))]);
    if let Some(state) = incoming {
        qemu.args(["-incoming", &format!("exec:cat {}", state.display())]);
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().context("qemu-system-x86_64")
}

/// Questions and answers, a JSON document on each line.
pub(crate) struct Lines {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines> {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if begun.elapsed() > PATIENCE => bail!("{}: {error}", path.display()),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Lines { read: BufReader::new(stream.try_clone()?), write: stream })
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.read.read_line(&mut line)? == 0 {
            bail!("QEMU hung up");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// One question and its answer; what comes unasked in between is passed over.
    pub(crate) fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let question = json!({"execute": command, "arguments": arguments});
        self.write.write_all(format!("{question}\n").as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Asks until the answer is the one that is waited for.
    pub(crate) fn until(&mut self, command: &str, done: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let answer = self.call(command, json!({}))?;
            if done(&answer) {
                return Ok(answer);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("{command}: not what was waited for after {PATIENCE:?}")
    }
}
