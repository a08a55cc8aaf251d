//! When a machine is ready: what its spec asks to be seen of its guest, looked for until it is there.
//!
//! ```text
//! answered   guest_agent, marker: the guest agent │ cloud_init: that, or its last message on the console │ auto: any of
//!            them, or a login prompt │ tcp: a connection that the guest took │ none: nothing
//! settled    cloud_init: its first boot has ended, well or with errors │ marker: the file is there │ auto: whether anything
//!            was seen │ the rest: nothing
//! ```
//!
//! A connection is tried through a port of the node's loopback that QEMU forwards for it, on an address that nothing
//! else here uses. QEMU takes such a connection itself, before the guest: only what it says of the guest's half counts.
//! Never here: what becomes of a machine that is not ready.

use std::{net::SocketAddr, time::Duration};

use hostler_model::{
    error::Code,
    kind::{VmExecOutput, VmExecParams},
    ready::Readiness,
    vm::VmSpec,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    blocking,
    console::{Console, Seen},
    error::storage,
    machine::Live,
};
use crate::{
    guest::{ExecError, GuestError, exec},
    hypervisor::DriverError,
};

/// Between two looks: each costs a guest whose processor is emulated some of its time.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the guest agent may take to say more of a first boot whose end was seen on the console.
const LOOK: Duration = Duration::from_secs(10);

/// How long one look may take, in seconds: python starts in it, on a guest that swaps.
const LOOK_SECONDS: u32 = 60;

/// How long a connection may take to be the guest's: a SYN to a guest that is not there yet is sent again after a while.
const CONNECT: Duration = Duration::from_secs(3);

/// Where ports are forwarded from to try a connection: of the loopback network, and not the address that others use.
const TRIAL: &str = "127.66.0.1";

/// Says 0 once cloud-init has ended or will not run, 127 where there is none.
const ENDED: &str = "command -v cloud-init >/dev/null || exit 127; \
                     test -e /run/cloud-init/result.json || test -e /run/cloud-init/disabled";

/// The lines that are wanted of cloud-init's log, of this boot alone: it goes on with those before it.
const LOG: &str =
    "sed -n \"H; /running 'init-local'/h; \\${x; p}\" /var/log/cloud-init.log | grep -E \"$1\" | tail -n 10";

/// What it complained of.
const COMPLAINTS: &str = r"\[(WARNING|ERROR|CRITICAL)\]";

/// That it could not read what it was told. To cloud-init of 2022 (Debian 12) this is no error: it ends well, and has done
/// nothing.
const UNREAD: &str = "Failed loading yaml blob|Failed at merging in cloud config|Unhandled non-multipart";

/// How much of a line of the guest's is shown.
const LINE: usize = 400;

/// What came of a look into the guest.
enum Look {
    Seen(VmExecOutput),
    /// The guest did not answer, or was reset meanwhile: it may answer the next time.
    Nothing,
}

impl Live {
    /// Waits until the guest shows itself.
    pub(super) async fn answered(&self, patience: Duration) -> Result<(), DriverError> {
        match self.readiness().await? {
            Readiness::None => Ok(()),
            Readiness::Tcp { port } => self.takes_connections(port, patience).await,
            Readiness::GuestAgent | Readiness::Marker { .. } => self.agent_answers(patience).await,
            Readiness::CloudInit => tokio::select! {
                answered = self.agent_answers(patience) => answered,
                _ = self.sees(|seen| seen.ended) => Ok(()),
            },
            Readiness::Auto => {
                // Where cloud-init has something to do, a prompt comes before it has done it.
                let awaits_more = self.spec().await?.is_some_and(|spec| spec.first_boot.is_some());
                tokio::select! {
                    // Nothing in all the time is said when it is over.
                    _ = self.guest.answered(patience) => {}
                    _ = self.sees(|seen| seen.ended || (seen.login && !awaits_more)) => {}
                }
                Ok(())
            }
        }
    }

    async fn agent_answers(&self, patience: Duration) -> Result<(), DriverError> {
        match self.guest.answered(patience).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.not_ready(&error, patience).await),
        }
    }

    /// Waits until the console shows something.
    async fn sees(&self, enough: impl Fn(&Seen) -> bool) -> Seen {
        let mut console = Console::new(self.folder.console());
        loop {
            let (read, seen) = self.look_at(console).await;
            console = read;
            if enough(&seen) {
                return seen;
            }
            sleep(AGAIN).await;
        }
    }

    /// What the console shows now.
    async fn look_at(&self, mut console: Console) -> (Console, Seen) {
        let path = self.folder.console();
        let looked = tokio::task::spawn_blocking(move || {
            let seen = console.look();
            (console, seen)
        });
        match looked.await {
            Ok((console, Ok(seen))) => (console, seen),
            Ok((console, Err(error))) => {
                tracing::warn!(vm.id = %self.folder.id(), %error, "a console cannot be read");
                (console, Seen::default())
            }
            Err(_) => (Console::new(path), Seen::default()),
        }
    }

    /// Why a guest of which anything was to be seen is not ready; nothing when it is.
    async fn unseen(&self) -> Option<String> {
        if self.guest.ping(super::machine::ANSWERS).await.is_ok() {
            return None;
        }
        let (_, seen) = self.look_at(Console::new(self.folder.console())).await;
        (!seen.ended && !seen.login).then(|| {
            "its guest may have booted, and showed nothing by which that could be told: no answer of a guest agent, and \
             neither cloud-init's last message nor a login prompt on ttyS0. Say `ready` with the machine or with its image: \
             tcp and a port, or none"
                .to_owned()
        })
    }

    /// Waits for what follows the guest's first answer; says why it will not be ready although it runs.
    pub(super) async fn settled(&self, patience: Duration) -> Result<Option<String>, DriverError> {
        match self.readiness().await? {
            Readiness::GuestAgent | Readiness::Tcp { .. } | Readiness::None => Ok(None),
            Readiness::Marker { path } => {
                let argv = ["sh", "-c", "test -e \"$1\"", "sh", &path];
                self.until(&argv, patience, &format!("{path} was not there")).await.map(|_| None)
            }
            Readiness::CloudInit => self.first_boot(patience).await,
            Readiness::Auto => Ok(self.unseen().await),
        }
    }

    async fn readiness(&self) -> Result<Readiness, DriverError> {
        Ok(self.spec().await?.map(|spec| spec.ready).unwrap_or_default())
    }

    async fn spec(&self) -> Result<Option<VmSpec>, DriverError> {
        let folder = self.folder.clone();
        let plan = blocking(move || folder.spec()).await;
        let plan = plan.map_err(|error| storage("what the machine is made of cannot be read", &error))?;
        Ok(plan.map(|plan| plan.spec))
    }

    /// Runs a program in the guest until it ends with 0 or 127, and says which.
    async fn until(&self, argv: &[&str], patience: Duration, lacking: &str) -> Result<i32, DriverError> {
        let end = Instant::now() + patience;
        loop {
            if let Look::Seen(VmExecOutput { exit_code: Some(code @ (0 | 127)), .. }) = self.look(argv).await? {
                return Ok(code);
            }
            if Instant::now() + AGAIN > end {
                return Err(self.late(lacking, patience));
            }
            sleep(AGAIN).await;
        }
    }

    async fn look(&self, argv: &[&str]) -> Result<Look, DriverError> {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let params = VmExecParams { argv, timeout_seconds: Some(LOOK_SECONDS), ..VmExecParams::default() };
        match exec(&self.guest, &params).await {
            Ok(output) => Ok(Look::Seen(output)),
            Err(ExecError::NotStarted(error @ GuestError::Refused { .. })) => {
                let detail = format!(
                    "the guest agent of machine {} does not let us look ({error}); choose another readiness, such as \
                     guest_agent or tcp",
                    self.folder.id()
                );
                Err(DriverError { code: Code::GuestFailed, detail, retryable: false })
            }
            Err(_) => Ok(Look::Nothing),
        }
    }

    /// The end of the first boot, by whoever tells it first. A guest agent that runs no programs, as those of Red Hat's
    /// kind do not, leaves it to the console.
    async fn first_boot(&self, patience: Duration) -> Result<Option<String>, DriverError> {
        let asked = async {
            match self.first_boot_by_agent(patience).await {
                Err(error) if error.code == Code::GuestFailed => {
                    sleep(patience).await;
                    Err(unfit(error.detail))
                }
                told => told,
            }
        };
        let seen = async {
            let seen = self.sees(|seen| seen.ended).await;
            // The guest agent knows more of it, where there is one.
            match timeout(LOOK, self.first_boot_by_agent(LOOK)).await {
                Ok(Ok(told)) => told,
                Ok(Err(_)) | Err(_) => seen.failures().map(|complaints| explain("error", &[], &complaints)),
            }
        };
        tokio::select! {
            asked = asked => asked,
            seen = seen => Ok(seen),
        }
    }

    async fn first_boot_by_agent(&self, patience: Duration) -> Result<Option<String>, DriverError> {
        if self.until(&["sh", "-c", ENDED], patience, "cloud-init had not ended").await? == 127 {
            let id = self.folder.id();
            return Err(unfit(format!(
                "the guest of machine {id} has no cloud-init to wait for; choose another readiness, such as guest_agent"
            )));
        }
        let status = self.words(&["cloud-init", "status", "--long"]).await?;
        let status = status_of(&status);
        if status == "done" {
            let unread = self.words(&["sh", "-c", LOG, "sh", UNREAD]).await?;
            return Ok((!unread.trim().is_empty()).then(|| explain("done", &[], &unread)));
        }
        let errors = errors_of_stages(&self.words(&["cat", "/run/cloud-init/status.json"]).await?);
        let complaints = self.words(&["sh", "-c", LOG, "sh", COMPLAINTS]).await?;
        Ok(Some(explain(status, &errors, &complaints)))
    }

    /// What a program says, as far as it says anything.
    async fn words(&self, argv: &[&str]) -> Result<String, DriverError> {
        Ok(match self.look(argv).await? {
            Look::Seen(output) => output.stdout,
            Look::Nothing => String::new(),
        })
    }

    async fn takes_connections(&self, port: u16, patience: Duration) -> Result<(), DriverError> {
        let end = Instant::now() + patience;
        let qmp = self.qmp()?;
        let told = |told: Result<String, super::qmp::QmpError>| {
            told.map_err(|error| unfit(format!("QEMU forwards no port to try a connection with: {error}")))
        };
        self.forget_trials().await;
        // Port 0: one that is free.
        let said = told(qmp.monitor(&format!("hostfwd_add net0 tcp:{TRIAL}:0-:{port}")).await)?;
        let sockets = told(qmp.monitor("info usernet").await)?;
        let Some(trial) = trials(&sockets).into_iter().next() else {
            return Err(unfit(format!("QEMU forwards no port to try a connection with: {}", said.trim())));
        };
        let taken = loop {
            if self.takes_one(trial).await {
                break Ok(());
            }
            if Instant::now() + AGAIN > end {
                break Err(self.late(&format!("its guest took no connection on port {port}"), patience));
            }
            sleep(AGAIN).await;
        };
        self.forget_trials().await;
        taken
    }

    /// Whether the guest takes a connection now.
    async fn takes_one(&self, trial: SocketAddr) -> bool {
        let Ok(Ok(mut connection)) = timeout(CONNECT, TcpStream::connect(trial)).await else { return false };
        let said = async {
            // A refusal of the guest's closes our half; a word of its is an answer.
            connection.read_u8().await.is_ok()
        };
        let seen = async {
            loop {
                sleep(Duration::from_millis(50)).await;
                let Ok(qmp) = self.qmp() else { return false };
                if qmp.monitor("info usernet").await.is_ok_and(|sockets| is_taken(&sockets, trial)) {
                    return true;
                }
            }
        };
        let taken = async {
            tokio::select! {
                said = said => said,
                seen = seen => seen,
            }
        };
        timeout(CONNECT, taken).await.unwrap_or(false)
    }

    /// Closes the ports of trials, also of one that an agent before this one did not get to close.
    async fn forget_trials(&self) {
        let Ok(qmp) = self.qmp() else { return };
        for trial in trials(&qmp.monitor("info usernet").await.unwrap_or_default()) {
            if let Err(error) = qmp.monitor(&format!("hostfwd_remove net0 tcp:{trial}")).await {
                tracing::warn!(vm.id = %self.folder.id(), %error, "a port that a connection was tried with stays open");
            }
        }
    }

    fn late(&self, lacking: &str, waited: Duration) -> DriverError {
        let detail = format!(
            "machine {} runs, but {lacking} after {} s; give it a longer ready_timeout_seconds, or look into it \
             with another readiness",
            self.folder.id(),
            waited.as_secs_f64().round()
        );
        DriverError { code: Code::GuestNotReady, detail, retryable: false }
    }
}

/// What another attempt would not change.
fn unfit(detail: String) -> DriverError {
    DriverError { code: Code::GuestNotReady, detail, retryable: false }
}

/// The word behind `status:`.
fn status_of(long: &str) -> &str {
    long.lines().find_map(|line| line.strip_prefix("status:")).map_or("unknown", str::trim)
}

/// The stages of cloud-init that had errors, each with them, out of its status.json.
fn errors_of_stages(json: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Status {
        v1: serde_json::Map<String, Value>,
    }
    let Ok(Status { v1 }) = serde_json::from_str(json) else { return Vec::new() };
    let of = |(name, stage): (String, Value)| {
        let errors: Vec<&str> = stage["errors"].as_array()?.iter().filter_map(Value::as_str).collect();
        (!errors.is_empty()).then(|| format!("{name}: {}", errors.join("; ")))
    };
    v1.into_iter().filter_map(of).collect()
}

fn explain(status: &str, errors: &[String], complaints: &str) -> String {
    let mut out = match status {
        "disabled" => "cloud-init is disabled in the guest, so that nothing of its first boot was done".to_owned(),
        "done" => "cloud-init ended, and could not read what it was told".to_owned(),
        _ if errors.is_empty() => format!("cloud-init ended with status {status}"),
        _ => "cloud-init ended with errors".to_owned(),
    };
    out.extend(errors.iter().map(|error| format!("\n  {}", shown(error))));
    let lines: Vec<&str> = complaints.lines().filter(|line| !line.trim().is_empty()).collect();
    if !lines.is_empty() {
        out.push_str("\nits log says");
        out.extend(lines.iter().map(|line| format!("\n  {}", shown(line))));
    }
    out
}

/// A line of a guest's, which may be anything.
fn shown(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(LINE).collect()
}

/// The ports that are forwarded for trials, out of QEMU's list of sockets.
fn trials(sockets: &str) -> Vec<SocketAddr> {
    sockets.lines().filter(|line| line.contains("HOST_FORWARD")).filter_map(source).filter(is_trial).collect()
}

/// Whether the guest has taken a connection that came by this port.
fn is_taken(sockets: &str, trial: SocketAddr) -> bool {
    // What a connection may be once both sides have agreed on it.
    const TAKEN: [&str; 4] = ["TCP[ESTABLISHED]", "TCP[CLOSE_WAIT]", "TCP[FIN_WAIT_1]", "TCP[FIN_WAIT_2]"];
    let taken = |line: &&str| TAKEN.iter().any(|state| line.trim_start().starts_with(state));
    sockets.lines().filter(taken).filter_map(source).any(|source| source == trial)
}

fn is_trial(address: &SocketAddr) -> bool {
    address.ip().to_string() == TRIAL
}

/// `TCP[state] fd address port address port …`: the first address and port.
fn source(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(2);
    let (address, port) = (words.next()?, words.next()?);
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKETS: &str =
        "VLAN -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[ESTABLISHED]   16      127.66.0.1 40123       10.0.2.15    22     0     0\r
  TCP[SYN_SENT]      17      127.66.0.1 40124       10.0.2.15    80     0     0\r
  TCP[HOST_FORWARD]  12      127.66.0.1 40123       10.0.2.15    22     0     0\r
  TCP[HOST_FORWARD]  13       127.0.0.1  2222       10.0.2.15    22     0     0\r
  UDP[236 sec]       14       10.0.2.15    68        10.0.2.2    67     0     0\r\n";

    #[test]
    fn a_trial_is_told_from_a_forward_of_somebodys_own() {
        let trial: SocketAddr = "127.66.0.1:40123".parse().unwrap();
        assert_eq!(trials(SOCKETS), [trial]);
        assert!(is_taken(SOCKETS, trial));
        assert!(!is_taken(SOCKETS, "127.66.0.1:40124".parse().unwrap()), "only QEMU has taken it so far");
        assert_eq!(trials("unknown command: 'info usernet'"), []);
    }

    #[test]
    fn what_cloud_init_says_is_read_also_where_it_says_nothing() {
        assert_eq!(status_of("\nstatus: done\nboot_status_code: enabled-by-generator\n"), "done");
        assert_eq!(status_of("....\nstatus: error\ndetail:\n('runcmd', x)\n"), "error");
        assert_eq!(status_of(""), "unknown");
        let json = r#"{"v1": {"datasource": "DataSourceNoCloud", "stage": null, "init": {"errors": []},
            "modules-final": {"errors": ["('scripts-user', RuntimeError('x'))"], "finished": 1.0}}}"#;
        assert_eq!(errors_of_stages(json), ["modules-final: ('scripts-user', RuntimeError('x'))"]);
        assert!(errors_of_stages("").is_empty() && errors_of_stages("{}").is_empty());
        let why = explain("error", &errors_of_stages(json), "a WARNING\u{1b}[2J\n\nb ERROR");
        let shown = "cloud-init ended with errors\n  modules-final: ('scripts-user', RuntimeError('x'))\n\
                     its log says\n  a WARNING[2J\n  b ERROR";
        assert_eq!(why, shown);
        assert!(explain("disabled", &[], "").contains("disabled"));
        assert!(explain("done", &[], "Failed loading yaml blob").contains("could not read"));
    }

    #[test]
    fn of_the_log_the_last_boot_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let boot = |n: u32| {
            format!("x\n{n} [DEBUG]: running 'init-local' at\n{n} util.py[WARNING]: no\n{n} [DEBUG]: WARNING\n")
        };
        std::fs::write(&log, boot(1) + &boot(2)).unwrap();
        let line = LOG.replace("/var/log/cloud-init.log", log.to_str().unwrap());
        let said = |pattern: &str| {
            let output = std::process::Command::new("sh").args(["-c", &line, "sh", pattern]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(said(COMPLAINTS), "2 util.py[WARNING]: no\n");
        assert_eq!(said(UNREAD), "");
        std::fs::write(&log, "1 util.py[WARNING]: Failed loading yaml blob. Invalid\n").unwrap();
        assert_eq!(said(UNREAD).lines().count(), 1, "also where no boot is marked");
    }
}
