//! Starts QEMU so that it outlives us: in a session of its own, with nothing of ours open.
//!
//! ```text
//! spawned ──recorded──► answers QMP
//!    │           └──────────┴── failed: it is ended again
//!    └──ended──► an error with QEMU's own words
//! ```
//!
//! `setsid` of util-linux gives it the session: doing so between fork and exec would need `unsafe`, and QEMU's own
//! `-daemonize` cannot be had together with a sandbox that denies spawning. Ctrl-C, a hang-up and our own death do not
//! reach it then. It stays our child, so we reap it and learn how it ended; when we die, init does.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    sync::{oneshot, watch},
    time::timeout,
};

use super::{
    error::{disk_full, failed, storage},
    folder::{Folder, ProcessFile},
};
use crate::{
    host::{Process, boot_id, process::uptime_ms},
    hypervisor::DriverError,
};

/// How long the kernel may take to end a process that was just started.
const KILL: Duration = Duration::from_secs(20);

/// How our child ended, once it has.
pub(super) type Status = watch::Receiver<Option<ExitStatus>>;

/// A QEMU that was just started.
pub(super) struct Started {
    pub(super) process: Process,
    /// The host's uptime just before, in milliseconds.
    pub(super) began_ms: f64,
    pub(super) status: Status,
    /// Ends it; dropped, it leaves it alone.
    kill: oneshot::Sender<()>,
}

impl Started {
    /// Ends it, because of this error: nobody has hold of it, and who is told that its start failed takes it for gone.
    pub(super) async fn end(mut self, error: DriverError) -> DriverError {
        // Its parent ends it, so it is this very process; one that has ended has no reaper any more.
        let _ = self.kill.send(());
        if timeout(KILL, self.status.wait_for(Option::is_some)).await.is_ok() {
            return error;
        }
        let (pid, seconds) = (self.process.pid, KILL.as_secs());
        let detail = format!("{}; its process {pid} was killed and is still there after {seconds} s", error.detail);
        DriverError { detail, ..error }
    }
}

/// Starts QEMU. It may end again at once: whoever waits for it must watch the process too.
pub(super) fn spawn(binary: &Path, arguments: &[std::ffi::OsString], folder: &Folder) -> Result<Started, DriverError> {
    let began_ms = uptime_ms();
    let child = command(binary, arguments, folder)
        .map_err(|error| storage("QEMU's log cannot be opened", &error))?
        .spawn()
        .map_err(|error| not_started(binary, &error))?;
    let pid = child.id().unwrap_or_default() as i32;
    let (status, kill) = reap(child);
    // It is ours to reap and that needs the runtime, so its pid cannot be another's; but it may have ended already.
    let process = match Process::of(pid) {
        Ok(process) => process,
        Err(error) => {
            let _ = kill.send(());
            return Err(storage(format!("the process {pid}, which is to become QEMU, cannot be looked at"), &error));
        }
    };
    let process = process.ok_or_else(|| failed(format!("QEMU ended as soon as it was started{}", words(folder))))?;
    Ok(Started { process, began_ms, status, kill })
}

fn command(binary: &Path, arguments: &[std::ffi::OsString], folder: &Folder) -> io::Result<Command> {
    // Appending, so that what `logs` takes off its beginning stays off.
    let log = OpenOptions::new().create(true).append(true).open(folder.log())?;
    log.set_len(0)?;
    let mut command = Command::new("setsid");
    command.arg(binary).args(arguments).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(false);
    Ok(command)
}

fn not_started(binary: &Path, error: &io::Error) -> DriverError {
    failed(format!(
        "`setsid {}` cannot be started: {error}; install util-linux and qemu-system-x86 on the node",
        binary.display()
    ))
}

fn reap(mut child: Child) -> (Status, oneshot::Sender<()>) {
    let (tell, status) = watch::channel(None);
    let (kill, killed) = oneshot::channel();
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = child.wait() => ended,
            Ok(()) = killed => {
                // One that cannot be signalled has ended.
                let _ = child.start_kill();
                child.wait().await
            }
        };
        if let Ok(ended) = ended {
            tell.send_replace(Some(ended));
        }
    });
    (status, kill)
}

/// Writes down which process is the machine's, unless that is written there already: a full disk is no reason then.
pub(super) fn record(folder: &Folder, process: Process) -> io::Result<()> {
    let record = ProcessFile { boot_id: boot_id()?, process };
    if folder.process().is_ok_and(|known| known.as_ref() == Some(&record)) {
        return Ok(());
    }
    folder.write_process(&record)
}

/// QEMU's own last words, for an error.
pub(super) fn words(folder: &Folder) -> String {
    match Folder::last_lines(&folder.log(), 5) {
        lines if lines.is_empty() => "; it said nothing".to_owned(),
        lines => format!("; it said:{lines}"),
    }
}

pub(super) fn ended_at_start(folder: &Folder) -> DriverError {
    let detail = format!("QEMU of machine {} ended before it answered{}", folder.id(), words(folder));
    if detail.contains("No space left on device") { disk_full(detail) } else { failed(detail) }
}

/// The binary, as an absolute path.
pub(super) fn binary(name: &Path) -> io::Result<PathBuf> {
    let is_file = |path: &PathBuf| path.is_file();
    if name.components().count() > 1 {
        return std::path::absolute(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(name)).filter(is_file);
    candidates.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is in no folder of PATH"))
}
