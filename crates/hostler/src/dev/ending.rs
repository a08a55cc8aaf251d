//! What becomes of the machines when `hostler dev` ends: what is about to begin one is cancelled, each that runs is asked
//! to turn itself off, and those that do not are ended. Ordinary tasks, filed through the API; what is left is named.
//!
//! ```text
//! look ─► cancel creates, starts and restores ─► stop all that run, side by side ─► look again: nothing more? ─► over
//! ```
//!
//! Whoever ends `dev` stops no machine for good: one with `autostart` is told that its host goes down, and is started again
//! by the next `hostler dev`. The others stay stopped.
//!
//! A second Ctrl-C leaves what still runs; so do `--keep`, a crash and kill -9. The next `hostler dev` takes it up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hostler_client::{Client, ClientError, Submit, TaskQuery, VmQuery};
use hostler_model::{
    TaskId, VmId,
    api::NewStop,
    kind::{KindName, StopHow, VmStopOutput},
    task::{Task, TaskState, WaitingFor},
    vm::{Vm, VmState},
};
use serde::Deserialize;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{exit::Failure, interrupt::Interrupt, output::note};

/// How long a guest may take to turn itself off: who pressed Ctrl-C waits for it.
const GRACE: u32 = 30;
/// Beyond its grace, an end takes its agent seconds; an agent that hangs must not keep us.
const LIMIT: Duration = Duration::from_secs(60);
/// How often we look whether a task has ended: it is our own server, over loopback.
const PULSE: Duration = Duration::from_millis(50);
/// How often we look for more: a start by policy, or one that was under way, may come after the first look.
const LOOKS: usize = 4;

/// Stops every machine that has a process, or is about to have one.
pub async fn stop_machines(client: &Client, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let mut left = BTreeMap::new();
    let stopped = tokio::select! {
        stopped = stop_all(client, &mut left) => stopped,
        _ = interrupt.caught() => {
            note("what still runs is left; the next `hostler dev` takes it up");
            return Ok(());
        }
    };
    for (name, why) in left.values() {
        note(format_args!("  {name} {why}; the next `hostler dev` takes it up"));
    }
    Ok(stopped?)
}

/// Machines that are not looked at again, by name, with why.
type Left = BTreeMap<VmId, (String, String)>;

async fn stop_all(client: &Client, left: &mut Left) -> Result<(), ClientError> {
    let mut tried = BTreeSet::new();
    for look in 0..LOOKS {
        let begun = cancel_begun(client, &mut tried).await?;
        let mut vms = client.vms(&VmQuery::default(), None).await?;
        vms.retain(|vm| runs(vm) && !left.contains_key(&vm.id));
        if vms.is_empty() && !begun {
            return Ok(());
        }
        if look == 0 && !vms.is_empty() {
            let names: Vec<&str> = vms.iter().map(|vm| vm.name.as_str()).collect();
            note(format_args!("stopping {}; Ctrl-C again leaves what still runs", names.join(", ")));
        }
        let mut stopping = JoinSet::new();
        for vm in vms {
            let client = client.clone();
            stopping.spawn(async move { (stop(&client, &vm).await, vm) });
        }
        while let Some(Ok((stopped, vm))) = stopping.join_next().await {
            match stopped {
                Ok(how) => note(format_args!("  {} {how}", vm.name)),
                Err(why) => drop(left.insert(vm.id, (vm.name.to_string(), why))),
            }
        }
    }
    Ok(())
}

/// Cancels what would give a machine a process, each once, and waits for its end; whether there was any.
async fn cancel_begun(client: &Client, tried: &mut BTreeSet<TaskId>) -> Result<bool, ClientError> {
    let mut ending = JoinSet::new();
    for state in [TaskState::Queued, TaskState::Running, TaskState::Aborting] {
        let live = client.tasks(&TaskQuery { state: Some(state), ..TaskQuery::default() }, None).await?;
        for task in live.into_iter().filter(|task| begins(task) && tried.insert(task.id)) {
            let client = client.clone();
            ending.spawn(async move { (cancel(&client, &task).await, task) });
        }
    }
    let any = !ending.is_empty();
    while let Some(Ok((ended, task))) = ending.join_next().await {
        match ended {
            Ok(ended) if ended.state.is_terminal() => {
                note(format_args!("  {} {}: {}", task.kind, task.id, ended.state));
            }
            Ok(ended) => {
                note(format_args!("  {} {} is not over ({}): its machine may run", task.kind, task.id, ended.state));
            }
            Err(error) => note(format_args!("  {} {} cannot be cancelled: {error}", task.kind, task.id)),
        }
    }
    Ok(any)
}

/// Whether it is about to give a machine a process. What is to begin another time is left for then.
fn begins(task: &Task) -> bool {
    let later = task.fence.attempt == 0 && task.waiting_for == Some(WaitingFor::Time);
    matches!(task.kind, KindName::VmCreate | KindName::VmStart | KindName::VmRestore) && !later
}

async fn cancel(client: &Client, task: &Task) -> Result<Task, ClientError> {
    match client.cancel_task(task.id).await {
        Ok(task) => end(client, task, LIMIT).await,
        // It was done first.
        Err(_) => client.task(task.id).await,
    }
}

/// How a machine was stopped; or why it was not.
async fn stop(client: &Client, vm: &Vm) -> Result<String, String> {
    let told = |error: ClientError| format!("could not be stopped: {error}");
    let wanted = NewStop { timeout_seconds: Some(GRACE), host_goes_down: vm.spec.autostart };
    let task = client.stop_vm(&vm.id.to_string(), &wanted, &Submit::default()).await.map_err(told)?.task;
    let (paused, id) = (task.waiting_for == Some(WaitingFor::Paused), task.id);
    let task = if paused { task } else { end(client, task, LIMIT).await.map_err(told)? };
    if task.state.is_terminal() {
        return how(&task);
    }
    // A stop that nobody took must not meet the machine another day.
    let task = client.cancel_task(id).await.map_err(told)?;
    Err(match (paused, task.state) {
        (true, _) => "still runs: its node's queue is paused".to_owned(),
        (false, TaskState::Cancelled) => "still runs: its node did not take the task".to_owned(),
        (false, state) => format!("still runs: its vm.stop is {state}"),
    })
}

/// The task as it is once it ended, or when the time is up.
async fn end(client: &Client, mut task: Task, limit: Duration) -> Result<Task, ClientError> {
    let over = Instant::now() + limit;
    while !task.state.is_terminal() && Instant::now() < over {
        sleep(PULSE).await;
        task = client.task(task.id).await?;
    }
    Ok(task)
}

/// Whether it has a process, or is to get one by its policy.
fn runs(vm: &Vm) -> bool {
    match vm.state {
        VmState::Running | VmState::Paused => true,
        VmState::Stopped | VmState::Error => vm.restart_at.is_some(),
        VmState::Provisioning | VmState::Sleeping | VmState::Unknown | VmState::Deleted => false,
    }
}

fn how(task: &Task) -> Result<String, String> {
    let output = task.output.as_ref().and_then(|output| VmStopOutput::deserialize(output).ok());
    match (task.state, output.map(|output| output.how)) {
        (TaskState::Succeeded, Some(StopHow::Hard)) => Ok("was ended: its guest did not turn itself off".to_owned()),
        (TaskState::Succeeded, _) => Ok("is stopped".to_owned()),
        (state, _) => {
            let why = task.error.as_ref().map(|error| format!(": {}", error.detail)).unwrap_or_default();
            Err(format!("could not be stopped ({state}{why})"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn what_is_about_to_begin_a_machine_is_cancelled_and_what_is_for_later_is_not() {
        let of = |kind: KindName, waiting_for| Task { kind, waiting_for, ..fixture::task("queued") };
        assert!(begins(&of(KindName::VmCreate, Some(WaitingFor::Node))));
        assert!(begins(&of(KindName::VmStart, Some(WaitingFor::Turn))));
        assert!(!begins(&of(KindName::VmStart, Some(WaitingFor::Time))));
        let mut again = of(KindName::VmStart, Some(WaitingFor::Time));
        again.fence.attempt = 1;
        assert!(begins(&again), "a pause between attempts is over any moment");
        assert!(!begins(&of(KindName::VmStop, Some(WaitingFor::Node))));
    }

    #[test]
    fn a_machine_that_its_policy_would_start_is_stopped_too() {
        let stopped = fixture::vm("web", "stopped");
        assert!(runs(&fixture::vm("web", "paused")) && !runs(&stopped));
        assert!(runs(&Vm { restart_at: Some(stopped.created_at), ..stopped }));
    }
}
