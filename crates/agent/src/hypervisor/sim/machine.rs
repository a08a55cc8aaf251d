//! A simulated machine: a guest that answers after its boot, and programs whose output follows from their arguments.

use std::time::Duration;

use async_trait::async_trait;
use hostler_model::{
    VmId,
    error::Code,
    kind::{OUTPUT_LIMIT, VmExecOutput, VmExecParams},
    ready::Readiness,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    SimConfig,
    dice::{Dice, Throw},
    host::{Boot, Number, SimHost},
    injected,
};
use crate::hypervisor::{DriverError, Exit, Machine, Power, Restart};

/// What a program gets when nothing is said: the default of `vm.exec`.
const DEFAULT_TIMEOUT_SECONDS: u32 = 60;

/// A share of a simulated machine.
pub(super) struct SimMachine {
    config: SimConfig,
    host: SimHost,
    id: VmId,
    process: Number,
}

impl SimMachine {
    pub(super) fn new(config: &SimConfig, host: &SimHost, id: VmId, process: Number) -> SimMachine {
        SimMachine { config: config.clone(), host: host.clone(), id, process }
    }

    fn readiness(&self) -> Readiness {
        self.host.plan(self.id).map(|plan| plan.spec.ready).unwrap_or_default()
    }

    /// Until the guest answers: for ever, when it never does. One that nobody waits for has answered as soon as it is asked.
    async fn boot(&self) -> Option<Boot> {
        let boot = self.host.boot(self.process)?;
        match boot.done() {
            _ if self.readiness() == Readiness::None => {}
            Some(done) => sleep_until(done).await,
            None => std::future::pending().await,
        }
        Some(boot)
    }

    fn not_ready(&self, waited: Duration) -> DriverError {
        let detail = format!(
            "the guest of simulated machine {} did not answer within {} s; its console is empty",
            self.id,
            waited.as_secs_f64()
        );
        DriverError { code: Code::GuestNotReady, detail, retryable: true }
    }

    fn set_power(&self, power: Power) -> Result<(), DriverError> {
        if self.host.set_power(self.process, power) { Ok(()) } else { Err(gone(self.id)) }
    }

    /// What the guest makes of being asked to turn itself off or begin anew: how long it takes; `None`: it ignores it.
    fn obeys(&self) -> Option<Duration> {
        let mut dice = self.dice(Throw::Power);
        let (ignores, takes) = (dice.happens(self.config.power_failures), dice.within(&self.config.power));
        let done = self.host.boot(self.process).and_then(|boot| boot.done());
        let hears =
            self.host.power(self.process) == Some(Power::Running) && done.is_some_and(|at| at <= Instant::now());
        (hears && !ignores).then_some(takes)
    }

    fn dice(&self, throw: Throw) -> Dice {
        Dice::new(self.config.seed, self.id, throw, self.host.count(self.id, throw))
    }

    fn boot_anew(&self) {
        self.host.restart(self.process, Boot::of(&self.config, &mut self.dice(Throw::Boot)));
    }

    async fn program(&self, params: &VmExecParams) -> Result<VmExecOutput, DriverError> {
        self.host.begin_program(self.id, &params.argv);
        // What a program does is done once it has begun: tests count these lines, which outlive this process.
        tracing::debug!(vm.id = %self.id, argv = ?params.argv, "a program begins");
        let mut dice = self.dice(Throw::Exec);
        sleep(dice.within(&self.config.exec) + naps(params)).await;
        if dice.happens(self.config.exec_failures) {
            return Err(DriverError {
                retryable: false,
                ..injected(format!("the program in machine {} was lost, as the seed has it", self.id))
            });
        }
        Ok(output(&self.host.name(self.id), params))
    }
}

#[async_trait]
impl Machine for SimMachine {
    async fn ready(&self, patience: Duration) -> Result<(), DriverError> {
        let booted = tokio::select! {
            biased;
            exit = self.exited() => return Err(ended(self.id, &exit)),
            booted = timeout(patience, self.boot()) => booted,
        };
        let boot = booted.ok().flatten().ok_or_else(|| self.not_ready(patience))?;
        self.host.complete(self.id, self.process, boot.takes.unwrap_or_default().as_secs_f64() * 1e3);
        Ok(())
    }

    async fn settled(&self, _: Duration) -> Result<Option<String>, DriverError> {
        let mut dice = Dice::new(self.config.seed, self.id, Throw::FirstBoot, 0);
        if self.readiness() != Readiness::CloudInit || !dice.happens(self.config.first_boot_errors) {
            return Ok(None);
        }
        self.host.note_not_ready(self.id);
        Ok(Some("cloud-init ended with errors in modules-final, as the seed has it".to_owned()))
    }

    async fn answers(&self) -> bool {
        let done = self.host.boot(self.process).and_then(|boot| boot.done());
        let runs = self.host.power(self.process) == Some(Power::Running);
        runs && done.is_some_and(|done| done <= Instant::now())
    }

    async fn exec(&self, params: &VmExecParams) -> Result<VmExecOutput, DriverError> {
        if !self.answers().await {
            let detail =
                format!("the guest of simulated machine {} does not answer; try again when it is ready", self.id);
            return Err(DriverError { code: Code::GuestFailed, detail, retryable: true });
        }
        let seconds = params.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        tokio::select! {
            biased;
            exit = self.exited() => Err(ended(self.id, &exit)),
            output = timeout(Duration::from_secs(seconds.into()), self.program(params)) => {
                output.unwrap_or_else(|_| Err(timed_out(self.id, seconds)))
            }
        }
    }

    async fn exited(&self) -> Exit {
        let gone = || Exit::Crashed("the process ended some time ago".to_owned());
        let Some(exit) = self.host.exit(self.process) else { return gone() };
        exit.wait().await.unwrap_or_else(gone)
    }

    async fn power(&self) -> Result<Power, DriverError> {
        self.host.power(self.process).ok_or_else(|| gone(self.id))
    }

    async fn turned(&self, known: Power) -> Power {
        let Some(mut turns) = self.host.turns(self.process) else { return std::future::pending().await };
        let turned = turns.wait_for(|now| *now != known).await.map(|now| *now);
        match turned {
            Ok(now) => now,
            Err(_) => std::future::pending().await,
        }
    }

    async fn pause(&self) -> Result<(), DriverError> {
        self.set_power(Power::Paused)
    }

    async fn resume(&self) -> Result<(), DriverError> {
        self.set_power(Power::Running)
    }

    async fn shutdown(&self) -> Result<(), DriverError> {
        if let Some(takes) = self.obeys() {
            let (host, process) = (self.host.clone(), self.process);
            tokio::spawn(async move {
                sleep(takes).await;
                host.end(process, &Exit::GuestShutdown);
            });
        }
        Ok(())
    }

    async fn end(&self) -> Result<(), DriverError> {
        self.host.end(self.process, &Exit::Requested);
        Ok(())
    }

    async fn reboot(&self, patience: Duration) -> Result<Restart, DriverError> {
        let takes = self.obeys().filter(|takes| *takes <= patience);
        tokio::select! {
            biased;
            _ = self.exited() => return Ok(Restart::Off),
            () = sleep(takes.unwrap_or(patience)) => {}
        }
        if takes.is_none() {
            return Ok(Restart::Ignored);
        }
        self.boot_anew();
        Ok(Restart::Begun)
    }

    async fn reset(&self) -> Result<(), DriverError> {
        self.set_power(Power::Running)?;
        self.boot_anew();
        Ok(())
    }

    async fn set_clock(&self, _: i64) -> bool {
        self.answers().await
    }

    fn boot_ms(&self) -> f64 {
        self.host.boot_ms(self.id).unwrap_or_default()
    }
}

fn ended(id: VmId, exit: &Exit) -> DriverError {
    DriverError {
        code: Code::HypervisorFailed,
        detail: format!("simulated machine {id} ended: {exit}"),
        retryable: true,
    }
}

fn gone(id: VmId) -> DriverError {
    ended(id, &Exit::Crashed("its process is no more".to_owned()))
}

fn timed_out(id: VmId, seconds: u32) -> DriverError {
    let detail =
        format!("the program in simulated machine {id} was ended because it had not finished after {seconds} s");
    DriverError { code: Code::DeadlineExceeded, detail, retryable: false }
}

/// How long `sleep` sleeps.
fn naps(params: &VmExecParams) -> Duration {
    match params.argv.as_slice() {
        [program, seconds] if program == "sleep" => Duration::from_secs(seconds.parse().unwrap_or_default()),
        _ => Duration::ZERO,
    }
}

/// `uname`, `cat`, `true`, `false`, `sleep` do as ever; every other program says its arguments.
fn output(name: &str, params: &VmExecParams) -> VmExecOutput {
    let words: Vec<&str> = params.argv.iter().map(String::as_str).collect();
    let (exit_code, mut stdout) = match words.as_slice() {
        ["uname", ..] => (0, format!("Linux {name} 6.1.0-simulated #1 SMP x86_64 GNU/Linux\n")),
        ["cat"] => (0, params.stdin.text().unwrap_or_default().to_owned()),
        ["true" | "sleep", ..] => (0, String::new()),
        ["false", ..] => (1, String::new()),
        words => (0, format!("{}\n", words.join(" "))),
    };
    let stdout_truncated = stdout.len() > OUTPUT_LIMIT;
    let whole = (0..=OUTPUT_LIMIT.min(stdout.len())).rev().find(|at| stdout.is_char_boundary(*at));
    stdout.truncate(whole.unwrap_or_default());
    VmExecOutput {
        exit_code: Some(exit_code),
        signal: None,
        stdout,
        stderr: String::new(),
        stdout_truncated,
        stderr_truncated: false,
    }
}
