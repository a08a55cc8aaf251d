//! Bad days, by seed: the simulated driver fails, machines crash, the agent is killed again and again and everything is
//! delivered at least once. Each task ends once, one process at the most exists for one machine, and what an end says
//! of its machine is true.

use std::{collections::HashMap, time::Duration};

use hostler_agent::hypervisor::sim::{Sim, SimConfig, SimHost};
use hostler_model::{
    TaskId, VmId,
    internal::Assignment,
    task::{Effects, End},
};

use crate::server::{Server, folder};

const MACHINES: usize = 12;

/// An agent is killed after each of these, in milliseconds; the last one lives on.
const KILLS: [u64; 6] = [1, 30, 130, 400, 700, 2500];

/// What the host is and what runs it. The driver is shared by the agents that follow each other: its calls run to their
/// end though who asked is gone, and take turns for each machine.
struct Host {
    host: SimHost,
    sim: Sim,
}

impl Host {
    fn new(seed: u64) -> Host {
        let host = SimHost::new();
        let sim = Sim::new(SimConfig { crashes: 0.0, ..SimConfig::stormy(seed) }, host.clone());
        Host { host, sim }
    }
}

/// What is not answered is sent again, as a server does after a poll with `resync`.
fn send_again(server: &Server, tasks: &[Assignment]) {
    let ended: Vec<TaskId> = server.results().iter().map(|report| report.task).collect();
    server.with(|heard| heard.tokens.clear());
    tasks.iter().filter(|task| !ended.contains(&task.sub)).for_each(|task| server.give(task));
}

async fn all_end(server: &Server, tasks: &[Assignment]) -> HashMap<TaskId, End> {
    let all = |heard: &crate::server::Heard| {
        let ends: HashMap<TaskId, End> =
            heard.batches.iter().flatten().map(|report| (report.task, report.end.clone())).collect();
        tasks.iter().all(|task| ends.contains_key(&task.sub)).then_some(ends)
    };
    let ends = server.until(all).await;
    for report in server.results() {
        assert_eq!(ends[&report.task], report.end, "a task ended in two ways");
    }
    ends
}

async fn storm(seed: u64, data: &std::path::Path, server: &Server, sim: &Sim, tasks: &[Assignment]) {
    for after in KILLS {
        send_again(server, tasks);
        let agent = server.agent(data, sim.clone()).await;
        tokio::time::sleep(Duration::from_millis(after + seed * 7 % 50)).await;
        agent.kill().await;
    }
    send_again(server, tasks);
    let agent = server.agent(data, sim.clone()).await;
    all_end(server, tasks).await;
    agent.stop().await;
}

fn is_there(host: &SimHost, vm: VmId) -> bool {
    host.alive(vm) > 0
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_each_task_ends_once_and_its_end_is_true() {
    for seed in 0..12 {
        let (server, data, Host { host, sim }) = (Server::new(), folder(), Host::new(seed));
        let vms: Vec<VmId> = (0..MACHINES).map(|_| server.vm()).collect();
        let creates: Vec<_> = vms.iter().map(|vm| server.create(*vm)).collect();
        storm(seed, data.path(), &server, &sim, &creates).await;
        let ends = all_end(&server, &creates).await;
        for (vm, create) in vms.iter().zip(&creates) {
            match &ends[&create.sub] {
                End::Succeeded { .. } => assert!(is_there(&host, *vm), "seed {seed}: made, but not there"),
                End::Failed { effects: Effects::Undone, .. } | End::Cancelled { effects: Effects::Undone } => {
                    assert!(!is_there(&host, *vm), "seed {seed}: undone, but there");
                }
                End::Failed { .. } | End::Cancelled { .. } => {}
            }
            assert!(host.most_alive(*vm) <= 1, "seed {seed}: two processes for one machine");
        }
        assert_eq!(host.orphans(), [], "seed {seed}");

        let deletes: Vec<_> = vms.iter().map(|vm| server.delete(*vm)).collect();
        storm(seed, data.path(), &server, &sim, &deletes).await;
        let ends = all_end(&server, &deletes).await;
        for (vm, delete) in vms.iter().zip(&deletes) {
            if let End::Succeeded { .. } = ends[&delete.sub] {
                assert!(!is_there(&host, *vm), "seed {seed}: deleted, but there");
            }
        }
    }
}
