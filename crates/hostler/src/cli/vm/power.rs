//! `hostler vm start | stop | reboot | pause | resume`: the power of machines. Each machine by itself: one that cannot
//! be switched does not keep the others waiting.

use clap::Subcommand;
use hostler_client::{ClientError, Submit};
use hostler_model::{
    Timestamp,
    api::{NewReboot, NewStart, NewStop, Submitted},
    kind::{RebootHow, StartHow, StopHow, VmPauseOutput, VmRebootOutput, VmResumeOutput, VmStartOutput, VmStopOutput},
    restart::RestartPolicy,
    task::Task,
    vm::Vm,
};
use serde::de::DeserializeOwned;

use crate::{
    cli::{ScheduleArgs, Session, WaitArgs, read, succeeded},
    exit::{Exit, Failure},
    output,
};

const START: &str = "\
Examples:
  hostler vm start web-1
  hostler vm start web-1 web-2 --no-wait
  hostler vm start web-1 --ready-timeout 10m    for a guest that takes its time";

const STOP: &str = "\
Examples:
  hostler vm stop web-1
  hostler vm stop web-1 --grace 5m      wait longer for its guest before the plug is pulled
  hostler vm stop web-1 --hard          pull the plug at once";

const REBOOT: &str = "\
Examples:
  hostler vm reboot web-1
  hostler vm reboot web-1 --hard        press the reset button at once";

const PAUSE: &str = "\
Examples:
  hostler vm pause web-1
  hostler vm pause web-1 web-2";

const RESUME: &str = "\
Examples:
  hostler vm resume web-1
  hostler vm resume web-1 web-2";

/// The verbs of power.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Start machines that are stopped or in error
    #[command(after_help = START)]
    Start {
        #[command(flatten)]
        which: Which,

        /// How long the guest may take to answer, 1 h at most [default: as at its creation]
        #[arg(long, value_name = "TIME", value_parser = read::seconds)]
        ready_timeout: Option<u32>,
    },
    /// Stop machines; their disks stay
    #[command(after_help = STOP)]
    Stop {
        #[command(flatten)]
        which: Which,

        /// How long the guest may take to turn itself off, 1 h at most [default: 1m]
        #[arg(long, value_name = "TIME", value_parser = read::seconds)]
        grace: Option<u32>,

        /// Do not ask the guest: what it has not written to its disk is lost
        #[arg(long, conflicts_with = "grace")]
        hard: bool,
    },
    /// Restart machines
    #[command(visible_alias = "restart", after_help = REBOOT)]
    Reboot {
        #[command(flatten)]
        which: Which,

        /// How long the guest may take to go down, 1 h at most [default: 1m]
        #[arg(long, value_name = "TIME", value_parser = read::seconds)]
        grace: Option<u32>,

        /// Do not ask the guest: what it has not written to its disk is lost
        #[arg(long, conflicts_with = "grace")]
        hard: bool,
    },
    /// Hold machines' processors
    #[command(after_help = PAUSE)]
    Pause(Which),
    /// Let paused machines go on
    #[command(after_help = RESUME)]
    Resume(Which),
}

/// Which machines, and how long to wait for them.
#[derive(clap::Args, Debug)]
pub struct Which {
    /// Their names or ids
    #[arg(required = true)]
    vm: Vec<String>,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    schedule: ScheduleArgs,
}

/// What is to be done, as the API takes it.
enum Switch {
    Start(NewStart),
    Stop(NewStop),
    Reboot(NewReboot),
    Pause,
    Resume,
}

impl Verb {
    fn switch(self) -> (Switch, Which) {
        match self {
            Verb::Start { which, ready_timeout } => {
                (Switch::Start(NewStart { ready_timeout_seconds: ready_timeout }), which)
            }
            Verb::Stop { which, grace, hard } => (
                Switch::Stop(NewStop { timeout_seconds: if hard { Some(0) } else { grace }, ..NewStop::default() }),
                which,
            ),
            Verb::Reboot { which, grace, hard } => (Switch::Reboot(NewReboot { hard, timeout_seconds: grace }), which),
            Verb::Pause(which) => (Switch::Pause, which),
            Verb::Resume(which) => (Switch::Resume, which),
        }
    }
}

impl Switch {
    async fn submit(&self, session: &Session, vm: &str, how: &Submit) -> Result<Submitted, ClientError> {
        let client = &session.client;
        match self {
            Switch::Start(start) => client.start_vm(vm, start, how).await,
            Switch::Stop(stop) => client.stop_vm(vm, stop, how).await,
            Switch::Reboot(reboot) => client.reboot_vm(vm, reboot, how).await,
            Switch::Pause => client.pause_vm(vm, how).await,
            Switch::Resume => client.resume_vm(vm, how).await,
        }
    }

    /// What is happening.
    fn doing(&self) -> &'static str {
        match self {
            Switch::Start(_) => "is being started",
            Switch::Stop(_) => "is being stopped",
            Switch::Reboot(_) => "is being restarted",
            Switch::Pause => "is being paused",
            Switch::Resume => "is being resumed",
        }
    }

    /// What has happened.
    fn done(&self, task: &Task) -> String {
        match self {
            Switch::Start(_) => match output::<VmStartOutput>(task) {
                Some(VmStartOutput { how: StartHow::Already, .. }) => "was running already".to_owned(),
                Some(VmStartOutput { boot_ms: Some(ms), .. }) => {
                    format!("runs; its guest answered after {}", output::took(output::millis(ms)))
                }
                Some(_) | None => "runs".to_owned(),
            },
            Switch::Stop(_) => match output::<VmStopOutput>(task).map(|output| output.how) {
                Some(StopHow::Graceful) | None => "is stopped".to_owned(),
                Some(StopHow::Hard) => "is stopped, hard: its guest did not turn itself off".to_owned(),
                Some(StopHow::Already) => "was stopped already".to_owned(),
            },
            Switch::Reboot(_) => match output::<VmRebootOutput>(task) {
                Some(VmRebootOutput { how, boot_ms }) => {
                    let hard = if how == RebootHow::Hard { ", hard" } else { "" };
                    format!("is restarted{hard}; its guest answered after {}", output::took(output::millis(boot_ms)))
                }
                None => "is restarted".to_owned(),
            },
            Switch::Pause => match output::<VmPauseOutput>(task) {
                Some(VmPauseOutput { already: true }) => "was paused already".to_owned(),
                Some(VmPauseOutput { already: false }) | None => "is paused".to_owned(),
            },
            Switch::Resume => match output::<VmResumeOutput>(task) {
                Some(VmResumeOutput { already: true, .. }) => "was running already".to_owned(),
                Some(VmResumeOutput { already: false, .. }) | None => "runs again".to_owned(),
            },
        }
    }
}

fn output<T: DeserializeOwned>(task: &Task) -> Option<T> {
    serde_json::from_value(task.output.clone()?).ok()
}

/// When a machine is started by itself, where it ever is.
pub fn restarts(vm: &Vm) -> String {
    let policy = match vm.spec.restart {
        RestartPolicy::Never => None,
        RestartPolicy::OnFailure => Some("on failure"),
        RestartPolicy::Always => Some("always"),
    };
    let host = vm.spec.autostart.then_some("with its host");
    policy.into_iter().chain(host).collect::<Vec<_>>().join(", ")
}

/// When it is started next, where it is to be.
pub fn next_start(vm: &Vm, now: Timestamp) -> String {
    match vm.restart_at {
        None => String::new(),
        Some(at) if at > now => format!("again in {} by itself", output::took(at.since(now))),
        Some(_) => "again by itself".to_owned(),
    }
}

/// Runs a verb of power.
pub async fn run(verb: Verb, session: &Session) -> Result<Exit, Failure> {
    let (switch, which) = verb.switch();
    let (how, mut tasks, mut failures) = (which.schedule.submit(), Vec::new(), Vec::new());
    for vm in &which.vm {
        match switch.submit(session, vm, &how).await {
            Ok(submitted) => tasks.push((vm, submitted.task)),
            Err(error) => failures.push(Failure::from(error).explained(&session.client).await),
        }
    }
    let mut ended = Vec::new();
    for (vm, task) in tasks {
        match switched(session, &switch, vm, task, &which.wait).await {
            Ok(task) => ended.push(task),
            Err(failure @ Failure { exit: Exit::Signalled(_), .. }) => return Err(failure),
            Err(failure) => failures.push(failure),
        }
    }
    if session.is_data() {
        session.data(&ended)?;
    }
    let last = failures.pop();
    failures.iter().for_each(|failure| session.complain(failure));
    last.map_or(Ok(Exit::Done), Err)
}

async fn switched(session: &Session, switch: &Switch, vm: &str, task: Task, wait: &WaitArgs) -> Result<Task, Failure> {
    if wait.no_wait() {
        if !session.is_data() {
            output::text(&format!("{vm} {}: task {}", switch.doing(), task.id))?;
        }
        return Ok(task);
    }
    let task = succeeded(session.ended(task, Some(wait.timeout), session.tell()).await?)?;
    if !session.is_data() {
        output::text(&format!("{vm} {}", switch.done(&task)))?;
    }
    Ok(task)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::fixture;

    #[test]
    fn when_a_machine_is_started_by_itself_is_told() {
        let mut vm = fixture::vm("web", "error");
        assert_eq!((restarts(&vm), next_start(&vm, fixture::NOW)), (String::new(), String::new()));
        (vm.spec.restart, vm.spec.autostart) = (RestartPolicy::OnFailure, true);
        vm.restart_at = Some(fixture::NOW.plus(std::time::Duration::from_secs(8)));
        assert_eq!(restarts(&vm), "on failure, with its host");
        assert_eq!(next_start(&vm, fixture::NOW), "again in 8.0 s by itself");
    }

    #[test]
    fn what_has_happened_is_said_as_it_was() {
        let said = |switch: Switch, output: serde_json::Value| {
            let mut task = fixture::task("succeeded");
            task.output = Some(output);
            switch.done(&task)
        };
        let stop = || Switch::Stop(NewStop::default());
        assert_eq!(said(stop(), json!({"how": "graceful"})), "is stopped");
        assert_eq!(said(stop(), json!({"how": "hard"})), "is stopped, hard: its guest did not turn itself off");
        assert_eq!(said(stop(), json!({"how": "already"})), "was stopped already");
        let start = || Switch::Start(NewStart::default());
        assert_eq!(said(start(), json!({"how": "already"})), "was running already");
        assert_eq!(said(start(), json!({"how": "started", "boot_ms": 3012.4})), "runs; its guest answered after 3.0 s");
        let reboot = Switch::Reboot(NewReboot::default());
        assert_eq!(
            said(reboot, json!({"how": "hard", "boot_ms": 2000.0})),
            "is restarted, hard; its guest answered after 2.0 s"
        );
        assert_eq!(said(Switch::Pause, json!({"already": true})), "was paused already");
        assert_eq!(said(Switch::Resume, json!({"already": false, "ready": true})), "runs again");
    }
}
