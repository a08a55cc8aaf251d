//! Running a program in a guest: `guest-exec`, then `guest-exec-status` until it has ended.
//!
//! ```text
//! asked ──pid──► running ──exited──► output
//!   │               │
//!   └──the caller is gone, or the time is up──► ended in the guest, with all its children, as far as the guest can
//! ```

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use hostler_model::kind::{OUTPUT_LIMIT, VmExecOutput, VmExecParams};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Guest, GuestError,
    wire::{Command, Started, Status, text},
};

/// What a program gets when nothing is said: the default of `vm.exec`.
const DEFAULT_TIMEOUT_SECONDS: u32 = 60;

/// Between two looks: at first about as long as one look takes, so that a short program is not kept waiting; later as
/// seldom as costs a long one nothing.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LONGEST_LOOK: Duration = Duration::from_millis(50);

/// Looks after a program that was ended, so that the guest agent may forget it: 20 looks take about a second.
const LAST_LOOKS: u32 = 20;

/// Ends a process and all that descend from it; each is stopped first so that it cannot start another.
const END_TREE: &str = "end() { kill -STOP \"$1\"; for c in $(cat /proc/$1/task/*/children); do (end \"$c\"); done; \
                        kill -KILL \"$1\"; }; end \"$1\" 2>/dev/null";

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program was not started.
    #[error("{0}")]
    NotStarted(#[source] GuestError),
    /// The guest broke off after the program was asked for: whether it ran is not known.
    #[error("what became of the program is not known: {0}")]
    Lost(#[source] GuestError),
    /// The program's time was used up; it was ended.
    #[error("the program was ended because it had not finished after {0} s")]
    TimedOut(u32),
}

/// How long the ending of a program may take: its caller waits for it.
const END: Duration = Duration::from_secs(15);

/// Runs a program. Dropping the future ends the program. All of it, reaching the guest included, lies within the time
/// that the program is given.
///
/// # Errors
/// When it could not be started, was lost, or ran out of time.
pub async fn exec(guest: &Arc<Guest>, params: &VmExecParams) -> Result<VmExecOutput, ExecError> {
    let seconds = params.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    let time = Duration::from_secs(u64::from(seconds));
    let until = Instant::now() + time;
    let reached = timeout_at(until, guest.reach()).await.unwrap_or(Err(GuestError::Silent(time)));
    reached.map_err(ExecError::NotStarted)?;
    // Given up, it ends the program as soon as it hears of it.
    let started = timeout_at(until, start(guest, params)).await;
    let mut running = started.unwrap_or(Err(ExecError::Lost(GuestError::Silent(time))))?;
    match timeout_at(until, running.output()).await {
        Ok(output) => output,
        Err(_) => {
            running.over = true;
            end(guest, running.pid).await;
            Err(running.unseen.take().map_or(ExecError::TimedOut(seconds), ExecError::Lost))
        }
    }
}

/// Starts the program in a task of its own: if the caller goes away between the command and its answer, the pid still
/// arrives somewhere, and the program is ended.
async fn start(guest: &Arc<Guest>, params: &VmExecParams) -> Result<Running, ExecError> {
    let (guest, params) = (Arc::clone(guest), params.clone());
    let (mut told, tell) = oneshot::channel();
    tokio::spawn(async move {
        let started = loop {
            match guest.call::<Started>(&command(&params)).await {
                // It starts nothing while it holds its file systems.
                Err(error) if error.is_not_allowed() && guest.holds() => tokio::select! {
                    () = guest.writes() => {}
                    () = told.closed() => return,
                },
                started => break started,
            }
        };
        let _ = told.send(started.map(|Started { pid }| Running { guest, pid, over: false, unseen: None }));
    });
    match tell.await.unwrap_or(Err(GuestError::Closed)) {
        Ok(running) => Ok(running),
        Err(error @ GuestError::Refused { .. }) => Err(ExecError::NotStarted(error)),
        Err(error) => Err(ExecError::Lost(error)),
    }
}

fn command(params: &VmExecParams) -> Command<'_> {
    let (path, arg) = params.argv.split_first().map_or(("", &[][..]), |(path, arg)| (path.as_str(), arg));
    Command::Exec {
        path,
        arg,
        input_data: Some(BASE64_STANDARD.encode(params.stdin.text().unwrap_or_default())),
        capture_output: true,
    }
}

/// A program that runs in a guest. Dropped before its end, it is ended.
struct Running {
    guest: Arc<Guest>,
    pid: i64,
    over: bool,
    /// Why the last look at it came to nothing, if it did.
    unseen: Option<GuestError>,
}

impl Running {
    /// Waits for the end.
    async fn output(&mut self) -> Result<VmExecOutput, ExecError> {
        let mut pause = FIRST_LOOK;
        loop {
            match look(&self.guest, self.pid).await {
                Ok(status) if status.exited => {
                    self.over = true;
                    return output(status).map_err(ExecError::Lost);
                }
                Ok(_) => self.unseen = None,
                Err(error) if is_for_now(&error) => {
                    tracing::debug!(path = %self.guest.path.display(), pid = self.pid, %error, "a program in a guest cannot be looked at");
                    self.unseen = Some(error);
                    // To ask one that is busy with its file systems would only keep it from being told to let them go.
                    self.guest.writes().await;
                }
                Err(error) => {
                    // The guest does not know it any more: there is nothing to be ended.
                    self.over = true;
                    return Err(ExecError::Lost(error));
                }
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_LOOK);
        }
    }
}

/// Whether the same look may succeed later: the machine is paused, restarts its agent, or holds its file systems.
fn is_for_now(error: &GuestError) -> bool {
    match error {
        GuestError::Socket { .. } | GuestError::Closed | GuestError::Silent(_) => true,
        GuestError::Refused { .. } => error.is_not_allowed(),
        GuestError::Malformed(_) => false,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (guest, pid) = (Arc::clone(&self.guest), self.pid);
            runtime.spawn(async move { end(&guest, pid).await });
        }
    }
}

async fn look(guest: &Guest, pid: i64) -> Result<Status, GuestError> {
    guest.call_once(&Command::ExecStatus { pid }).await
}

fn output(status: Status) -> Result<VmExecOutput, GuestError> {
    let (stdout, stdout_truncated) = text(&status.out_data, status.out_truncated, OUTPUT_LIMIT)?;
    let (stderr, stderr_truncated) = text(&status.err_data, status.err_truncated, OUTPUT_LIMIT)?;
    Ok(VmExecOutput {
        exit_code: status.exitcode,
        signal: status.signal,
        stdout,
        stderr,
        stdout_truncated,
        stderr_truncated,
    })
}

/// Ends a program and what it started, and waits a moment for the end, so that the guest agent forgets it. Best effort:
/// a guest without `sh` or `kill` lets it run on.
async fn end(guest: &Guest, pid: i64) {
    // A guest that drags it out lets it run on.
    let _ = timeout(END, try_end(guest, pid)).await;
}

async fn try_end(guest: &Guest, pid: i64) {
    let tree = ["-c".to_owned(), END_TREE.to_owned(), "sh".to_owned(), pid.to_string()];
    if send_end(guest, "sh", &tree).await.is_err() {
        let _ = send_end(guest, "kill", &["-KILL".to_owned(), pid.to_string()]).await;
    }
    forget(guest, pid).await;
}

async fn send_end(guest: &Guest, path: &str, arg: &[String]) -> Result<(), GuestError> {
    let Started { pid } = guest.call(&Command::Exec { path, arg, input_data: None, capture_output: false }).await?;
    forget(guest, pid).await;
    Ok(())
}

/// The guest agent keeps what it knows of a program until somebody has seen its end.
async fn forget(guest: &Guest, pid: i64) {
    for _ in 0..LAST_LOOKS {
        match look(guest, pid).await {
            Ok(status) if !status.exited => sleep(LONGEST_LOOK).await,
            Ok(_) | Err(_) => return,
        }
    }
}
