//! A machine whose QEMU lives: its process, its control socket, its guest.
//!
//! ```text
//! started ──guest answers──► ready (the folder is marked complete)
//!    └───────────┴──guest shuts down │ we end it │ a signal, an error──► ended, with the reason
//! ```
//!
//! It is shared by all who have hold of the machine in this agent, because QMP and the guest agent serve one client
//! each. Dropping it closes both sockets and leaves the machine running.

use std::{
    process::ExitStatus,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hostler_model::{
    error::Code,
    image::{Firmware, Part},
    kind::{VmExecOutput, VmExecParams},
};
use rustix::process::Signal;
use tokio::time::timeout;

use super::{
    blocking,
    error::{failed, storage},
    folder::{CompleteFile, Folder},
    launch::{Status, words},
    qmp::{Qmp, QmpError, Shutdown},
};
use crate::{
    guest::{ExecError, Guest, GuestError, Mode, exec},
    host::{Handle, process::uptime_ms},
    hypervisor::{DriverError, Exit, Machine, Power, Restart},
};

/// How long a process that has ended may take to be accounted for: its last event read, itself reaped.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How long QEMU may take to end when asked by QMP, and again by SIGTERM: it flushes its disks first.
const POLITELY: Duration = Duration::from_secs(5);

/// How long the kernel may take to end a killed process: one that waits for a stuck disk ends when that wait does.
const FORCIBLY: Duration = Duration::from_secs(20);

/// How long a guest may take to show that it answers now.
pub(super) const ANSWERS: Duration = Duration::from_secs(2);

/// How much of the console an error shows.
const CONSOLE_LINES: usize = 15;

/// What it means that QEMU was ended by a signal, and not by us.
pub(super) const SIGNALLED: &str =
    "QEMU was told to end by a signal that did not come from hostler (SIGTERM, SIGINT or SIGHUP)";

/// What is held of a living machine.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) folder: Folder,
    pub(super) handle: Handle,
    /// `None` when it does not answer: another client has it, or QEMU hangs.
    pub(super) qmp: Option<Qmp>,
    pub(super) guest: Arc<Guest>,
    /// Known only of a QEMU that this agent started.
    pub(super) status: Option<Status>,
    /// The host's uptime when the process began, in milliseconds.
    pub(super) began_ms: f64,
    pub(super) boot_ms: OnceLock<f64>,
    pub(super) requested: AtomicBool,
    /// Whether its guest is being told to write again.
    pub(super) thawing: AtomicBool,
    /// Held by whoever tells the guest to hold or to write, with the note of it: a new note is never taken for an old one.
    pub(super) telling: tokio::sync::Mutex<()>,
}

impl Live {
    /// Ends the process: by QMP, by SIGTERM, by SIGKILL; returns when it is gone.
    pub(super) async fn end(&self) -> Result<(), DriverError> {
        self.requested.store(true, Ordering::Relaxed);
        if let Some(qmp) = &self.qmp {
            let told = async { qmp.quit().await.is_ok() && self.gone(POLITELY).await };
            if timeout(POLITELY, told).await.unwrap_or(false) {
                return Ok(());
            }
        }
        for (signal, patience) in [(Signal::TERM, POLITELY), (Signal::KILL, FORCIBLY)] {
            self.handle
                .signal(signal)
                .map_err(|error| storage(format!("QEMU {} cannot be signalled", self.pid()), &error))?;
            if self.gone(patience).await {
                return Ok(());
            }
        }
        Err(failed(format!(
            "QEMU {} of machine {} was killed and is still there after {} s; it waits for a disk of the node that does \
             not answer; look at the node's kernel log, then try again",
            self.pid(),
            self.folder.id(),
            FORCIBLY.as_secs()
        )))
    }

    async fn gone(&self, patience: Duration) -> bool {
        timeout(patience, self.handle.ended()).await.is_ok()
    }

    fn pid(&self) -> i32 {
        self.handle.process().pid
    }

    /// Waits for the end, and finds out why.
    async fn exit(&self) -> Exit {
        self.handle.ended().await;
        let said = match &self.qmp {
            Some(qmp) => timeout(LAST_WORD, qmp.shutdown()).await.ok().flatten(),
            None => None,
        };
        if self.requested.load(Ordering::Relaxed) {
            return Exit::Requested;
        }
        match explain(said) {
            Some(exit) => exit,
            None => Exit::Crashed(format!("{}{}", self.obituary().await, words(&self.folder))),
        }
    }

    /// How the process ended, as far as its parent was told.
    async fn obituary(&self) -> String {
        let pid = self.pid();
        let Some(mut status) = self.status.clone() else {
            return format!(
                "QEMU {pid} ended by itself or was killed; an earlier agent started it, so its exit code is not known"
            );
        };
        match timeout(LAST_WORD, status.wait_for(Option::is_some)).await {
            Ok(Ok(status)) => format!("QEMU {pid} ended with {}", status.map(describe).unwrap_or_default()),
            Ok(Err(_)) | Err(_) => format!("QEMU {pid} ended by itself or was killed"),
        }
    }

    /// That the guest has answered. What else is known of this process stays.
    async fn complete(&self) -> Result<(), DriverError> {
        self.write_complete(false).await
    }

    /// That it runs and will not be ready.
    async fn note_not_ready(&self) -> Result<(), DriverError> {
        self.write_complete(true).await
    }

    async fn write_complete(&self, not_ready: bool) -> Result<(), DriverError> {
        let boot_ms = *self.boot_ms.get_or_init(|| uptime_ms() - self.began_ms);
        let (folder, process) = (self.folder.clone(), self.handle.process());
        blocking(move || {
            let known = folder.complete()?.filter(|known| known.process == process);
            let complete =
                CompleteFile { boot_ms, process, not_ready: not_ready || known.is_some_and(|k| k.not_ready) };
            if known == Some(complete) {
                return Ok(());
            }
            folder.write_complete(&complete)
        })
        .await
        .map_err(|error| storage("the machine's completion cannot be written down", &error))
    }

    pub(super) async fn not_ready(&self, error: &GuestError, waited: Duration) -> DriverError {
        let status = match &self.qmp {
            Some(qmp) => qmp.status().await.unwrap_or_else(|error| error.to_string()),
            None => "unknown".to_owned(),
        };
        let console = match super::console::last_lines(&self.folder, CONSOLE_LINES) {
            lines if lines.is_empty() => format!("; its console is empty{}", self.other_firmware().await),
            lines => format!("; its console's last lines:{lines}"),
        };
        let detail = format!(
            "the guest of machine {} did not answer within {} s ({error}; QEMU's status: {status}); it may need a longer \
             ready_timeout_seconds, or its image has no qemu-guest-agent: then choose another readiness, such as auto{console}",
            self.folder.id(),
            waited.as_secs_f64()
        );
        DriverError { code: Code::GuestNotReady, detail, retryable: true }
    }

    /// Of a whole disk that shows nothing: that it may be for other firmware than its image names.
    async fn other_firmware(&self) -> &'static str {
        let folder = self.folder.clone();
        let plan = blocking(move || folder.spec()).await.ok().flatten();
        let disk = plan.filter(|plan| plan.manifest.files.contains_key(&Part::Disk));
        match disk.map(|plan| plan.manifest.firmware.unwrap_or_default()) {
            Some(Firmware::Bios) => ": if its disk is for UEFI, import it again with that firmware",
            Some(Firmware::Uefi) => ": if its disk is for BIOS, import it again with that firmware",
            None => "",
        }
    }

    /// The control socket, or why there is none.
    pub(super) fn qmp(&self) -> Result<&Qmp, DriverError> {
        self.qmp.as_ref().ok_or_else(|| {
            failed(format!(
                "the control socket of machine {} did not answer when the agent took hold of it: another program may \
                 have it, or QEMU hangs; restart the agent, or stop the machine hard",
                self.folder.id()
            ))
        })
    }

    /// Says of a command what came of it.
    fn told<T>(&self, what: &str, told: Result<T, QmpError>) -> Result<T, DriverError> {
        told.map_err(|error| failed(format!("machine {} cannot be {what}: {error}", self.folder.id())))
    }

    /// Asks the guest's agent, if it answers, and otherwise presses the power button.
    async fn ask_guest(&self, mode: Mode) -> Result<(), DriverError> {
        match self.guest.ping(ANSWERS).await {
            Ok(()) => match self.guest.shutdown(mode).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!(vm.id = %self.folder.id(), %error, "the guest agent was asked in vain"),
            },
            Err(error) => tracing::debug!(vm.id = %self.folder.id(), %error, "the guest agent does not answer"),
        }
        self.told("turned off by its power button", self.qmp()?.press_power().await)
    }

    fn ended_early(&self, exit: &Exit) -> DriverError {
        let console = super::console::last_lines(&self.folder, CONSOLE_LINES);
        failed(format!(
            "machine {} ended before its guest answered: {exit}; its console's last lines:{console}",
            self.folder.id()
        ))
    }
}

/// What QEMU's last event means; `None` when it said nothing.
fn explain(said: Option<Shutdown>) -> Option<Exit> {
    Some(match said? {
        Shutdown::Guest => Exit::GuestShutdown,
        Shutdown::HostQmpQuit => Exit::Requested,
        Shutdown::GuestPanic => Exit::Crashed("the guest's kernel panicked".to_owned()),
        Shutdown::HostSignal => Exit::Crashed(SIGNALLED.to_owned()),
        Shutdown::Other(reason) => Exit::Crashed(format!("QEMU ended, and gave as the reason {reason:?}")),
    })
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

/// A share of a living machine.
pub(super) struct QemuMachine(pub(super) Arc<Live>);

#[async_trait]
impl Machine for QemuMachine {
    async fn ready(&self, timeout: Duration) -> Result<(), DriverError> {
        let live = &*self.0;
        let answered = tokio::select! {
            biased;
            answered = live.answered(timeout) => answered,
            exit = live.exit() => return Err(live.ended_early(&exit)),
        };
        answered?;
        live.complete().await
    }

    async fn settled(&self, timeout: Duration) -> Result<Option<String>, DriverError> {
        let live = &*self.0;
        let not_ready = tokio::select! {
            biased;
            settled = live.settled(timeout) => settled?,
            exit = live.exit() => return Err(live.ended_early(&exit)),
        };
        if not_ready.is_some() {
            live.note_not_ready().await?;
        }
        Ok(not_ready)
    }

    async fn answers(&self) -> bool {
        self.0.guest.ping(ANSWERS).await.is_ok()
    }

    async fn exec(&self, params: &VmExecParams) -> Result<VmExecOutput, DriverError> {
        let live = &*self.0;
        tokio::select! {
            biased;
            output = exec(&live.guest, params) => output.map_err(|error| exec_failed(live, params, &error)),
            () = live.handle.ended() => Err(guest_failed(format!("machine {} ended while the program ran", live.folder.id()), false)),
        }
    }

    async fn exited(&self) -> Exit {
        self.0.exit().await
    }

    async fn power(&self) -> Result<Power, DriverError> {
        let live = &*self.0;
        let status = live.told("asked how it is", live.qmp()?.status().await)?;
        Ok(match status.as_str() {
            "running" => Power::Running,
            "io-error" => Power::IoError,
            _ => Power::Paused,
        })
    }

    async fn turned(&self, known: Power) -> Power {
        let Some(qmp) = &self.0.qmp else { return std::future::pending().await };
        let mut runs = qmp.runs_or_not();
        loop {
            // The event says that it turned, the status says to what. The connection ends with the process.
            if runs.wait_for(|now| now.is_some_and(|now| now != (known == Power::Running))).await.is_err() {
                return std::future::pending().await;
            }
            match self.power().await {
                Ok(now) if now != known => return now,
                // It has turned back since.
                Ok(_) | Err(_) if runs.changed().await.is_ok() => {}
                Ok(_) | Err(_) => return std::future::pending().await,
            }
        }
    }

    async fn pause(&self) -> Result<(), DriverError> {
        let live = &*self.0;
        live.told("paused", live.qmp()?.stop().await)
    }

    async fn resume(&self) -> Result<(), DriverError> {
        let live = &*self.0;
        live.told("resumed", live.qmp()?.cont().await)
    }

    async fn shutdown(&self) -> Result<(), DriverError> {
        self.0.ask_guest(Mode::Powerdown).await
    }

    async fn end(&self) -> Result<(), DriverError> {
        self.0.end().await
    }

    async fn reboot(&self, patience: Duration) -> Result<Restart, DriverError> {
        let live = &*self.0;
        let qmp = live.qmp()?;
        super::console::begin(&live.folder).await;
        let before = qmp.resets();
        let asked = async {
            live.ask_guest(Mode::Reboot).await?;
            std::future::pending().await
        };
        let seen = async {
            match qmp.reset_after(before).await {
                Ok(()) => Restart::Begun,
                // The connection ends with the process.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = live.handle.ended() => Ok(Restart::Off),
            begun = seen => Ok(begun),
            refused = asked => refused,
            () = tokio::time::sleep(patience) => Ok(Restart::Ignored),
        }
    }

    async fn reset(&self) -> Result<(), DriverError> {
        let live = &*self.0;
        let qmp = live.qmp()?;
        super::console::begin(&live.folder).await;
        let before = qmp.resets();
        // QEMU answers before it does it, and until then the old guest would answer for the new one.
        let done = async {
            qmp.press_reset().await?;
            qmp.reset_after(before).await
        };
        live.told("reset", timeout(POLITELY, done).await.unwrap_or(Err(QmpError::Silent(POLITELY))))
    }

    async fn set_clock(&self, now: i64) -> bool {
        match self.0.guest.set_time(now).await {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(vm.id = %self.0.folder.id(), %error, "the guest's clock was not set");
                false
            }
        }
    }

    fn boot_ms(&self) -> f64 {
        self.0.boot_ms.get().copied().unwrap_or_default()
    }

    fn pid(&self) -> Option<i32> {
        Some(self.0.pid())
    }
}

fn guest_failed(detail: String, retryable: bool) -> DriverError {
    DriverError { code: Code::GuestFailed, detail, retryable }
}

fn exec_failed(live: &Live, params: &VmExecParams, error: &ExecError) -> DriverError {
    let (id, program) =
        (live.folder.id(), hostler_model::error::excerpt(params.argv.first().map_or("", String::as_str)));
    match error {
        ExecError::NotStarted(GuestError::Refused { class, .. }) if class.starts_with("Command") => guest_failed(
            format!(
                "the guest agent of machine {id} does not allow programs to be run ({error}); its configuration must not block guest-exec"
            ),
            false,
        ),
        ExecError::NotStarted(GuestError::Refused { .. }) => guest_failed(
            format!(
                "{program:?} could not be started in machine {id}: {error}; the first of argv must be a program that is there and may be run"
            ),
            false,
        ),
        ExecError::NotStarted(_) => guest_failed(
            format!("{program:?} was not started in machine {id}: {error}; try again when the guest answers"),
            true,
        ),
        ExecError::Lost(_) => guest_failed(format!("{program:?} in machine {id}: {error}"), false),
        ExecError::TimedOut(_) => DriverError {
            code: Code::DeadlineExceeded,
            detail: format!("{program:?} in machine {id}: {error}; give it a longer timeout_seconds"),
            retryable: false,
        },
    }
}
