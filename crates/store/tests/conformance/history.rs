//! Random histories: whatever people, agents and time do, the doctor finds nothing and a task ends at most once.

use std::collections::BTreeMap;

use hostler_model::{
    VmId,
    kind::KindName,
    task::{Effects, End, TaskState},
    vm::VmState,
};
use hostler_store::{Leased, Submission};
use proptest::prelude::*;

use crate::world::{Agent, Sqlite, World, cancelled, failed, output, seen};

#[derive(Clone, Debug)]
enum Act {
    Echo,
    Create(u8),
    OnVm(KindName, u8),
    Lease(u8, u8),
    Resync(u8),
    Progress(u8),
    Settle(u8, Told),
    Cancel(u8),
    Force(u8),
    Beat(u8, bool),
    Wait(u16),
    Sweep,
    Rejoin(u8),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    Success,
    Failure(bool, bool),
    Cancelled(bool),
    Twice,
}

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        4 => Just(Told::Success),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(retryable, undone)| Told::Failure(retryable, undone)),
        1 => any::<bool>().prop_map(Told::Cancelled),
        1 => Just(Told::Twice),
    ]
}

fn power() -> impl Strategy<Value = KindName> {
    proptest::sample::select(vec![
        KindName::VmStart,
        KindName::VmStop,
        KindName::VmReboot,
        KindName::VmPause,
        KindName::VmResume,
    ])
}

fn acts() -> impl Strategy<Value = Act> {
    let n = || any::<u8>();
    prop_oneof![
        2 => Just(Act::Echo),
        3 => (0u8..4).prop_map(Act::Create),
        2 => n().prop_map(|vm| Act::OnVm(KindName::VmExec, vm)),
        2 => n().prop_map(|vm| Act::OnVm(KindName::VmDelete, vm)),
        3 => (power(), n()).prop_map(|(kind, vm)| Act::OnVm(kind, vm)),
        6 => (n(), 1u8..4).prop_map(|(node, max)| Act::Lease(node, max)),
        1 => n().prop_map(Act::Resync),
        2 => n().prop_map(Act::Progress),
        6 => (n(), told()).prop_map(|(n, told)| Act::Settle(n, told)),
        1 => n().prop_map(Act::Cancel),
        1 => n().prop_map(Act::Force),
        2 => (n(), any::<bool>()).prop_map(|(node, all)| Act::Beat(node, all)),
        2 => (0u16..200).prop_map(Act::Wait),
        2 => Just(Act::Sweep),
        1 => n().prop_map(Act::Rejoin),
        1 => Just(Act::Reopen),
    ]
}

/// What has happened so far, as those outside the store know it.
struct History {
    agents: Vec<Agent>,
    tasks: Vec<Submission>,
    vms: Vec<VmId>,
    leased: Vec<(usize, Leased)>,
}

impl History {
    async fn act(&mut self, world: &mut World, act: Act) {
        let node = |n: u8| usize::from(n) % self.agents.len();
        match act {
            Act::Echo => self.submit(world, world.echo()).await,
            Act::Create(name) => self.submit(world, world.create(&format!("vm-{name}"))).await,
            Act::OnVm(kind, n) => {
                if let Some(vm) = pick(&self.vms, n).copied() {
                    self.submit(world, world.on_vm(kind, vm)).await;
                }
            }
            Act::Lease(n, max) => {
                let node = node(n);
                let leased = world.lease(self.agents[node], usize::from(max)).await;
                self.leased.extend(leased.into_iter().map(|leased| (node, leased)));
            }
            Act::Resync(n) => {
                let node = node(n);
                let again = world.claim(self.agents[node], 2, Some(Vec::new())).await.unwrap();
                self.leased.extend(again.into_iter().map(|leased| (node, leased)));
            }
            Act::Progress(n) => {
                if let Some((node, leased)) = pick(&self.leased, n) {
                    let _ = world.progress(self.agents[*node], leased, &format!("phase {n}"), &["line"]).await;
                }
            }
            Act::Settle(n, told) => self.settle(world, n, told).await,
            Act::Cancel(n) => {
                if let Some(task) = pick(&self.tasks, n) {
                    let _ = world.cancel(task.task).await;
                }
            }
            Act::Force(n) => {
                if let Some(task) = pick(&self.tasks, n) {
                    let _ = world.force(task.task).await;
                }
            }
            Act::Beat(n, all) => self.beat(world, node(n), all).await,
            Act::Wait(seconds) => world.serve(u64::from(seconds)).await,
            Act::Sweep => {
                world.store.lapse_leases().await.unwrap();
                world.store.expire_queued().await.unwrap();
                world.store.expire_running().await.unwrap();
                world.store.judge_nodes().await.unwrap();
                world.store.drop_idempotency_keys().await.unwrap();
                world.store.fold_stats().await.unwrap();
            }
            Act::Rejoin(n) => {
                let node = node(n);
                self.agents[node] = world.node(["a", "b"][node]).await;
            }
            Act::Reopen => world.reopen(),
        }
    }

    async fn submit(&mut self, world: &World, submission: Submission) {
        if let Ok(accepted) = world.submit(submission.clone()).await {
            self.vms.extend(accepted.vm.map(|vm| vm.id));
            self.tasks.push(submission);
        }
    }

    async fn settle(&self, world: &World, n: u8, told: Told) {
        let Some((node, leased)) = pick(&self.leased, n) else { return };
        let effects = |undone| if undone { Effects::Undone } else { Effects::Remain };
        let end = match told {
            Told::Success | Told::Twice => End::Succeeded { output: output(leased.kind) },
            Told::Failure(retryable, undone) => failed(retryable, effects(undone)),
            Told::Cancelled(undone) => cancelled(effects(undone)),
        };
        let result = world.result(self.agents[*node], leased, end);
        let batch = if matches!(told, Told::Twice) { vec![result.clone(), result] } else { vec![result] };
        world.store.settle(batch).await.unwrap();
    }

    /// An inventory of everything that may be there, or of nothing.
    async fn beat(&self, world: &World, node: usize, all: bool) {
        let vms = if all { self.vms.iter().map(|vm| seen(*vm, VmState::Running)).collect() } else { Vec::new() };
        let leases: Vec<&Leased> = self.leased.iter().filter(|(on, _)| *on == node).map(|(_, leased)| leased).collect();
        let beat = world.heartbeat(self.agents[node], &leases, true, vms);
        world.store.heartbeat(vec![beat]).await.unwrap();
    }
}

fn pick<T>(all: &[T], n: u8) -> Option<&T> {
    // Rather the newest ones.
    all.iter().rev().nth(usize::from(n) % all.len().clamp(1, 6))
}

async fn run(acts: Vec<Act>) {
    let mut world = World::open(Sqlite::inline());
    let agents = vec![world.node("a").await, world.node("b").await];
    let mut history = History { agents, tasks: Vec::new(), vms: Vec::new(), leased: Vec::new() };
    for act in acts {
        history.act(&mut world, act).await;
    }
    let diagnosis = world.store.doctor().await.unwrap();
    assert!(diagnosis.is_well(), "{diagnosis:#?}");
    let mut ends: BTreeMap<uuid::Uuid, usize> = BTreeMap::new();
    for entry in world.entries().await {
        if ["task.succeeded", "task.failed", "task.cancelled"].contains(&entry.kind.as_str()) {
            *ends.entry(entry.subject).or_default() += 1;
        }
    }
    for submission in &history.tasks {
        let ended = world.task(submission.task).await.state.is_terminal();
        assert_eq!(ends.get(&submission.task.0).copied().unwrap_or(0), usize::from(ended));
    }
    assert_nothing_is_charged_without_need(&world, &history).await;
    crate::stats::assert_they_are_what_the_log_says(&world).await;
}

/// A tenant with nothing that lives and nothing in error has empty books.
async fn assert_nothing_is_charged_without_need(world: &World, history: &History) {
    for submission in &history.tasks {
        let task = world.task(submission.task).await;
        let left = matches!(task.state, TaskState::Failed | TaskState::Cancelled) && task.fence.attempt > 0;
        if !task.state.is_terminal() || left {
            return;
        }
    }
    for vm in &history.vms {
        if world.vm(*vm).await.state != VmState::Deleted {
            return;
        }
    }
    assert!(world.book().await.total().is_zero());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_store_stays_whole(acts in prop::collection::vec(acts(), 1..80)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(acts));
    }
}
