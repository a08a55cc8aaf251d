//! `hostler dev` as a process: started, spoken to over HTTP, killed, started again over the same data.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    guest, process,
    store::{Engine, Store},
};

/// How long anything here may take before the test says that it hangs: a boot under software emulation on a busy
/// machine takes several seconds, a lease 30.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often something is looked at that is waited for: each look costs a guest that boots beside it some of its time.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// A hostler in a folder of its own. Whatever it leaves behind ends with this value.
pub struct Dev {
    home: TempDir,
    store: Store<'static>,
    flags: Vec<String>,
    images: Vec<&'static str>,
    wrapper: Vec<String>,
    variables: Vec<(&'static str, &'static str)>,
    mounted: bool,
    child: Option<Child>,
    http: reqwest::Client,
}

/// The answer to a call.
pub type Answer = (u16, Value);

impl Dev {
    /// A folder, nothing running yet.
    pub fn new(flags: &[&str]) -> Result<Dev> {
        Dev::over(Engine::Sqlite, flags)
    }

    /// The same, its store in this engine.
    pub fn over(engine: Engine, flags: &[&str]) -> Result<Dev> {
        hostler_trust::install_crypto();
        let home = tempfile::Builder::new().prefix("hostler-e2e").tempdir()?;
        Ok(Dev {
            store: Store::new(engine, home.path().join("data/hostler.db"))?,
            home,
            flags: flags.iter().map(|s| (*s).to_owned()).collect(),
            images: vec!["tiny"],
            wrapper: Vec::new(),
            variables: Vec::new(),
            mounted: false,
            child: None,
            http: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    /// As [`Dev::new`], and started.
    pub async fn started(flags: &[&str]) -> Result<Dev> {
        let mut dev = Dev::new(flags)?;
        dev.start().await?;
        Ok(dev)
    }

    /// Its store.
    pub fn store(&self) -> &Store<'static> {
        &self.store
    }

    /// Offers this image too, beside `tiny`: it is copied when the process starts, and a large one takes seconds.
    pub fn with_image(&mut self, name: &'static str) {
        self.images.push(name);
    }

    /// Starts it with this in its environment.
    pub fn with_variable(&mut self, name: &'static str, value: &'static str) {
        self.variables.push((name, value));
    }

    /// The folder of the images that it offers; what is put there before it starts is offered, too.
    pub fn images(&self) -> PathBuf {
        self.home.path().join("images")
    }

    /// Puts the data folder on a file system of its own of this size. Root mounts it here, until this value ends; anybody
    /// else in a mount namespace of the process, with which it goes.
    pub fn on_a_disk_of(&mut self, mib: u32) -> Result<()> {
        let data = self.data();
        fs::create_dir_all(&data)?;
        let size = format!("size={mib}m");
        if rustix::process::geteuid().is_root() {
            let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&data).status()?;
            self.mounted = status.success();
            if !self.mounted {
                bail!("a small file system cannot be mounted on {}: {status}", data.display());
            }
            return Ok(());
        }
        let mount = format!("mount -t tmpfs -o {size} tmpfs '{}' && exec \"$@\"", data.display());
        let wrapper = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c", &mount, "sh"];
        self.wrapper = wrapper.map(str::to_owned).to_vec();
        Ok(())
    }

    /// Lets the process see this host name.
    pub fn on_a_host_named(&mut self, name: &str) {
        let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        let set = format!("hostname '{name}' && exec \"$@\"");
        let words = [&["unshare", "--uts"], user, &["sh", "-c", &set, "sh"]].concat();
        self.wrapper = words.into_iter().map(str::to_owned).collect();
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A path as the process sees it: it may live in a mount namespace of its own.
    pub fn inside(&self, path: &Path) -> PathBuf {
        match (&self.child, self.wrapper.is_empty()) {
            (Some(child), false) => {
                let root = PathBuf::from(format!("/proc/{}/root", child.id()));
                root.join(path.strip_prefix("/").unwrap_or(path))
            }
            (Some(_) | None, _) => path.to_owned(),
        }
    }

    /// The file that arms a crash point.
    fn crash_file(&self) -> PathBuf {
        self.home.path().join("crash-at")
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// From now on the process kills itself (signal 9) when it comes to this point.
    pub fn arm(&self, point: &str) -> Result<()> {
        Ok(fs::write(self.crash_file(), point)?)
    }

    /// Starts it and waits until its agent is there.
    pub async fn start(&mut self) -> Result<()> {
        let _ = fs::remove_file(self.crash_file());
        let _ = fs::remove_file(self.data().join("client.json"));
        let log = fs::File::options().create(true).append(true).open(self.home.path().join("log"))?;
        let mut words: Vec<String> = self.wrapper.clone();
        words.push(binary()?.display().to_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.data())
            .arg("--images")
            .arg(offer(self.home.path(), &self.images)?)
            .args(&self.flags)
            .args(self.store.flag())
            .env("HOSTLER_CRASH_FILE", self.crash_file())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .envs(self.variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().context("the binary under test cannot be started")?);
        self.until("the agent is there", async |dev| {
            dev.alive()?;
            if !dev.inside(&dev.data().join("client.json")).exists() {
                return Ok(None);
            }
            let (status, nodes) = dev.get("/api/v1/nodes").await?;
            Ok((status == 200 && nodes["items"][0]["freshness"] == "fresh").then_some(()))
        })
        .await
    }

    fn alive(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { bail!("it was not started") };
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow!("it ended ({status}):\n{}", self.log())),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.id() as i32)
    }

    /// Ends it without warning.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end, and waits.
    pub async fn stop(&mut self) -> Result<std::process::ExitStatus> {
        process_signal(self.pid())?;
        self.ended().await
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> Result<std::process::ExitStatus> {
        let status = self
            .until("the process ends", async |dev| match &mut dev.child {
                Some(child) => Ok(child.try_wait()?),
                None => bail!("it was not started"),
            })
            .await?;
        self.child = None;
        Ok(status)
    }

    /// Asks again and again until there is an answer. A guest that other work on this host keeps from working gets more time,
    /// as long as it works at all.
    pub async fn until<T>(&mut self, what: &str, ask: impl AsyncFnMut(&mut Dev) -> Result<Option<T>>) -> Result<T> {
        self.until_within(PATIENCE, what, ask).await
    }

    async fn until_within<T>(
        &mut self,
        patience: Duration,
        what: &str,
        mut ask: impl AsyncFnMut(&mut Dev) -> Result<Option<T>>,
    ) -> Result<T> {
        let (mut begun, mut worked) = (Instant::now(), Duration::ZERO);
        loop {
            if let Some(answer) = ask(self).await? {
                return Ok(answer);
            }
            if begun.elapsed() > patience {
                let by_now = guest::worked(self.home.path());
                if !guest::are_kept_from_work(worked, by_now, patience) {
                    let told = guest::told(self.home.path(), &self.inside(&self.data().join("vms")));
                    bail!("{what}: not after {patience:?}; the log says\n{}\n{told}", self.log());
                }
                (begun, worked) = (Instant::now(), by_now);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn client(&self) -> Result<(String, String)> {
        let file: Value = serde_json::from_slice(&fs::read(self.inside(&self.data().join("client.json")))?)?;
        let text = |key: &str| file[key].as_str().map(str::to_owned).context("client.json");
        Ok((text("url")?, text("token")?))
    }

    /// Where its API listens.
    pub fn url(&self) -> Result<String> {
        Ok(self.client()?.0)
    }

    /// A call with the token of `client.json`.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        let (url, token) = self.client()?;
        let mut request = self.http.request(method.parse()?, format!("{url}{path}")).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A read.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call("GET", path, None).await
    }

    /// A write. The process may be killed in the middle: then there is no answer.
    pub async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.call("POST", path, Some(body)).await
    }

    /// Waits until a task has ended, and hands it back.
    pub async fn ended_task(&mut self, id: &str) -> Result<Value> {
        self.ended_task_within(PATIENCE, id).await
    }

    /// The same for a task that takes longer than most.
    pub async fn ended_task_within(&mut self, patience: Duration, id: &str) -> Result<Value> {
        let path = format!("/api/v1/tasks/{id}");
        self.until_within(patience, "the task ends", async |dev| {
            dev.alive()?;
            let (status, task) = dev.get(&path).await?;
            if status != 200 {
                bail!("{path}: {status} {task}");
            }
            let ended = ["succeeded", "failed", "cancelled"].iter().any(|s| task["state"] == **s);
            Ok(ended.then_some(task))
        })
        .await
    }

    /// Does it, and waits until its task has succeeded.
    pub async fn done(&mut self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        self.done_within(PATIENCE, method, path, body).await
    }

    /// The same for a task that takes longer than most.
    pub async fn done_within(
        &mut self,
        patience: Duration,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value> {
        let (status, answer) = self.call(method, path, body).await?;
        if status != 202 {
            bail!("{method} {path} was refused: {status} {answer}");
        }
        let task = self.ended_task_within(patience, answer["task"]["id"].as_str().context("a task's id")?).await?;
        if task["state"] != "succeeded" {
            bail!("{method} {path} was not done: {task}\n{}", self.log());
        }
        Ok(task)
    }

    /// What a shell in a machine says, when it ends well.
    pub async fn says(&mut self, machine: &str, line: &str) -> Result<String> {
        let body = json!({"argv": ["sh", "-c", line], "timeout_seconds": 600});
        let task = self.done_within(PATIENCE * 6, "POST", &format!("/api/v1/vms/{machine}/exec"), Some(body)).await?;
        if task["output"]["exit_code"] != 0 {
            bail!("{line:?} in {machine}: {task}");
        }
        Ok(task["output"]["stdout"].as_str().unwrap_or_default().trim().to_owned())
    }

    /// Makes a machine and waits until it runs.
    pub async fn machine(&mut self, name: &str) -> Result<Value> {
        self.done("POST", "/api/v1/vms", Some(json!({"name": name}))).await?;
        Ok(self.get(&format!("/api/v1/vms/{name}")).await?.1)
    }

    /// Asserts that both books and the chain are right.
    pub async fn assert_well(&self) -> Result<()> {
        let (status, diagnosis) = self.get("/api/v1/doctor").await?;
        let checks = diagnosis["checks"].as_array().context("a diagnosis has checks")?;
        let bad: Vec<&Value> = checks.iter().filter(|check| check["ok"] != true).collect();
        if status != 200 || checks.is_empty() || !bad.is_empty() {
            bail!("the doctor found {bad:?} ({status})");
        }
        Ok(())
    }

    /// The machines' processes.
    pub fn qemus(&self) -> Vec<i32> {
        process::qemus(self.home.path())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.kill();
        for pid in process::naming(self.home.path()) {
            process::kill(pid);
        }
        if self.mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.data()).status();
        }
    }
}

fn process_signal(pid: i32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).context("it was not started")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
}

/// The binary under test: built by the same `cargo`, beside the tests (`target/<profile>/deps`) or beside who measures it.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("HOSTLER_BIN") {
        return Ok(named.into());
    }
    let here = std::env::current_exe()?;
    let binary = here.ancestors().skip(1).take(2).map(|folder| folder.join("hostler")).find(|binary| binary.exists());
    binary.with_context(|| {
        format!("hostler is not there beside {}: build the whole workspace with --all-features first", here.display())
    })
}

/// A folder below `home` with these images, and no others.
pub(crate) fn offer(home: &Path, images: &[&str]) -> Result<PathBuf> {
    let folder = home.join("images");
    fs::create_dir_all(&folder)?;
    for name in images {
        let link = folder.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(image(name)?, link)?;
        }
    }
    Ok(folder)
}

/// Where a guest image is.
pub fn image(name: &str) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let image = root.join("target/images").join(name);
    if !image.join("image.json").exists() {
        let target = if name == "tiny" { "image".to_owned() } else { format!("image-{name}") };
        bail!("the guest image {name} is not there: `make {target}` makes it");
    }
    Ok(image)
}
