//! What becomes of the machines when `hostler dev` ends: each is asked to turn itself off, and those that do not are
//! ended. Ordinary tasks, filed through the API.
//!
//! A second Ctrl-C leaves what still runs; so do `--keep`, a crash and kill -9. The next `hostler dev` takes it up.

use std::time::Duration;

use hostler_client::{Client, Submit, VmQuery};
use hostler_model::{
    api::NewStop,
    kind::{StopHow, VmStopOutput},
    task::{Task, TaskState},
    vm::{Vm, VmState},
};
use serde::Deserialize;

use crate::{
    exit::Failure,
    interrupt::Interrupt,
    output::note,
    watch::{Tell, Watched, watch},
};

/// How long a guest may take to turn itself off: who pressed Ctrl-C waits for it.
const GRACE: u32 = 30;
/// Beyond its grace, an end takes its agent seconds; an agent that hangs must not keep us.
const LIMIT: Duration = Duration::from_secs(60);

/// Stops every machine that has a process.
pub async fn stop_machines(client: &Client, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let mut vms = client.vms(&VmQuery::default(), None).await?;
    vms.retain(has_process);
    if vms.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = vms.iter().map(|vm| vm.name.to_string()).collect();
    note(format_args!("stopping {}; Ctrl-C again leaves what still runs", names.join(", ")));
    let mut stopping = Vec::new();
    for vm in vms {
        match client.stop_vm(&vm.id.to_string(), &NewStop { timeout_seconds: Some(GRACE) }, &Submit::default()).await {
            Ok(submitted) => stopping.push((vm, submitted.task)),
            Err(error) => Failure::from(error).tell(),
        }
    }
    for (vm, task) in stopping {
        match watch(client, task, Some(LIMIT), interrupt, Tell::Nothing).await? {
            Watched::Ended(task) => note(format_args!("  {} {}", vm.name, how(&task))),
            Watched::TimedOut(_) => note(format_args!("  {} still runs", vm.name)),
            Watched::Signalled(..) => {
                note("what still runs is left; the next `hostler dev` takes it up");
                return Ok(());
            }
        }
    }
    Ok(())
}

fn has_process(vm: &Vm) -> bool {
    match vm.state {
        VmState::Running | VmState::Paused => true,
        VmState::Provisioning
        | VmState::Stopped
        | VmState::Sleeping
        | VmState::Error
        | VmState::Unknown
        | VmState::Deleted => false,
    }
}

fn how(task: &Task) -> String {
    let output = task.output.as_ref().and_then(|output| VmStopOutput::deserialize(output).ok());
    match (task.state, output.map(|output| output.how)) {
        (TaskState::Succeeded, Some(StopHow::Hard)) => "was ended: its guest did not turn itself off".to_owned(),
        (TaskState::Succeeded, _) => "is stopped".to_owned(),
        (state, _) => {
            let why = task.error.as_ref().map(|error| format!(": {}", error.detail)).unwrap_or_default();
            format!("could not be stopped ({state}{why})")
        }
    }
}
