//! One history: what people, agents, loops and clocks do, by chance from a seed, and how the server dies meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::PathBuf,
    pin::pin,
    task::Poll,
    time::Duration,
};

use hostler_db::planted;
use hostler_model::{
    ReservationId, SnapshotId, TaskId, TenantId, Timestamp, VmId,
    amounts::Amounts,
    edit::Shape,
    event::Actor,
    kind::{Filed, KindName},
    node::NodeEvent,
    reservation::{NewReservation, Reservation},
    schedule::Schedule,
    task::{Effects, End, Task},
    tenant::Limits,
    vm::VmState,
};
use hostler_store::{
    Cancel, EditTenant, Force, Idempotency, Leased, NewReservationRow, NewSnapshot, SnapshotFilter, Submission,
    VmFilter,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::{Agent, Sqlite, TENANT, World, cancelled, failed, output, seen};

/// The nodes' names.
const NODES: [&str; 3] = ["a", "b", "c"];

/// How often what happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// Whether a history is told act by act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Voice {
    Quiet,
    Loud,
}

/// What somebody does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Submit,
    Repeat,
    Edit,
    Lease,
    Resync,
    Settle,
    Cancel,
    Force,
    Beat,
    Pass,
    Loops,
    Decide,
    Remove,
    Rejoin,
    Reserve,
    Release,
    Limit,
    Restore,
}

/// How often.
const ACTS: &[(u32, Act)] = &[
    (22, Act::Submit),
    (3, Act::Repeat),
    (4, Act::Edit),
    (20, Act::Lease),
    (3, Act::Resync),
    (26, Act::Settle),
    (4, Act::Cancel),
    (2, Act::Force),
    (12, Act::Beat),
    (5, Act::Pass),
    (12, Act::Loops),
    (4, Act::Decide),
    (2, Act::Remove),
    (1, Act::Rejoin),
    (3, Act::Reserve),
    (2, Act::Release),
    (1, Act::Limit),
    (1, Act::Restore),
];

/// What becomes of the server while it does something.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It answers.
    Lives,
    /// What it commits finds no room, and it dies.
    Full,
    /// It dies after so many of the moments in which others run: before the act, or before the answer.
    Dies(usize),
}

/// A store, and what those outside know of it.
pub struct History {
    pub world: World,
    pub file: PathBuf,
    dice: StdRng,
    voice: Voice,
    counts: Counts,
    agents: Vec<Agent>,
    tenants: Vec<TenantId>,
    tasks: Vec<(TenantId, TaskId)>,
    vms: Vec<(TenantId, VmId)>,
    snapshots: Vec<(TenantId, VmId, SnapshotId)>,
    leased: Vec<(usize, Leased)>,
    /// What was asked for last, under its keys.
    last: Vec<Submission>,
    /// Tasks that somebody was promised.
    promised: BTreeSet<TaskId>,
    /// Reservations that somebody was promised, until when, and those that somebody wanted to be released.
    held: BTreeMap<ReservationId, (TenantId, Timestamp)>,
    released: BTreeSet<ReservationId>,
}

impl History {
    pub async fn begin(seed: u64, voice: Voice) -> History {
        let engine = Sqlite::inline();
        let file = engine.path();
        let world = World::open(engine);
        let other = world.tenant("acme").await;
        world.image_for(other);
        let mut agents = Vec::new();
        for name in NODES {
            agents.push(world.node(name).await);
        }
        History {
            world,
            file,
            dice: StdRng::seed_from_u64(seed),
            voice,
            counts: Counts::new(),
            agents,
            tenants: vec![TENANT, other],
            tasks: Vec::new(),
            vms: Vec::new(),
            snapshots: Vec::new(),
            leased: Vec::new(),
            last: Vec::new(),
            promised: BTreeSet::new(),
            held: BTreeMap::new(),
            released: BTreeSet::new(),
        }
    }

    pub async fn live(&mut self) {
        for number in 0..self.dice.random_range(10..120) {
            let act = self.weighed(ACTS);
            let fate = match act {
                Act::Rejoin => Fate::Lives,
                _ => self.weighed(&[(28, Fate::Lives), (1, Fate::Full), (1, Fate::Dies(1)), (2, Fate::Dies(2))]),
            };
            if self.voice == Voice::Loud {
                eprintln!("{number}: {act:?}, {fate:?}, at {}", self.world.now());
            }
            self.meet(act, fate).await;
        }
        self.world.reopen();
    }

    async fn meet(&mut self, act: Act, fate: Fate) {
        match fate {
            Fate::Lives => self.act(act).await,
            Fate::Full => {
                planted::fill(&self.file);
                self.act(act).await;
                planted::clear(&self.file);
            }
            Fate::Dies(after) => cut(after, self.act(act)).await,
        }
        if !matches!(fate, Fate::Lives) {
            self.count("crash");
            self.world.reopen();
        }
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Submit => {
                self.last = (0..self.dice.random_range(1..4)).map(|_| self.wish()).collect();
                self.submit().await;
            }
            Act::Repeat => self.submit().await,
            Act::Edit => self.edit().await,
            Act::Lease => self.lease(None).await,
            Act::Resync => self.lease(Some(Vec::new())).await,
            Act::Settle => self.settle().await,
            Act::Cancel | Act::Force => self.stop(act).await,
            Act::Beat => self.beats().await,
            Act::Pass => {
                let seconds = self.weighed(&[(8, 15), (3, 50), (1, 140)]);
                self.world.advance(self.dice.random_range(1..=seconds));
                drop(self.world.store.drop_idempotency_keys().await);
            }
            Act::Loops => self.loops().await,
            Act::Decide => self.decide().await,
            Act::Remove => self.remove().await,
            Act::Rejoin => {
                let n = self.dice.random_range(0..NODES.len());
                self.agents[n] = self.world.node(NODES[n]).await;
            }
            Act::Reserve => self.reserve().await,
            Act::Release => self.release().await,
            Act::Limit => self.limit().await,
            Act::Restore => {
                if self.world.store.restored().await.is_ok() {
                    self.world.reopen();
                }
            }
        }
    }

    // Chance.

    fn weighed<T: Copy>(&mut self, of: &[(u32, T)]) -> T {
        let mut left = self.dice.random_range(0..of.iter().map(|(weight, _)| weight).sum());
        for (weight, one) in of {
            if left < *weight {
                return *one;
            }
            left -= weight;
        }
        of[0].1
    }

    fn happens(&mut self, rate: f64) -> bool {
        self.dice.random::<f64>() < rate
    }

    /// One of the newest.
    fn pick<T: Clone>(&mut self, of: impl Fn(&History) -> &[T]) -> Option<T> {
        let length = of(self).len();
        let back = if length == 0 { return None } else { self.dice.random_range(0..length.min(8)) };
        Some(of(self)[length - 1 - back].clone())
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    // People.

    fn wish(&mut self) -> Submission {
        #[derive(Clone, Copy)]
        enum Wish {
            Echo,
            Create,
            On(KindName),
            Snapshot,
            OfSnapshot(KindName),
        }
        let wishes = &[
            (3, Wish::Echo),
            (9, Wish::Create),
            (2, Wish::On(KindName::VmStart)),
            (2, Wish::On(KindName::VmStop)),
            (1, Wish::On(KindName::VmReboot)),
            (1, Wish::On(KindName::VmPause)),
            (1, Wish::On(KindName::VmResume)),
            (1, Wish::On(KindName::VmExec)),
            (5, Wish::On(KindName::VmDelete)),
            (3, Wish::Snapshot),
            (1, Wish::OfSnapshot(KindName::VmRestore)),
            (2, Wish::OfSnapshot(KindName::SnapshotDelete)),
        ];
        let wish = match self.weighed(wishes) {
            Wish::Echo => None,
            Wish::Create => Some(self.create()),
            Wish::On(kind) => self.pick(|history| &history.vms).map(|(tenant, vm)| self.on(tenant, kind, vm)),
            Wish::Snapshot => self.pick(|history| &history.vms).map(|(tenant, vm)| {
                let name = format!("s-{}", self.dice.random_range(0..3));
                let new = NewSnapshot { id: self.world.id(), name: name.parse().unwrap(), memory: self.happens(0.5) };
                let params = json!({"name": name, "memory": new.memory, "snapshot": new.id});
                Submission { params, snapshot: Some(new), ..self.on(tenant, KindName::VmSnapshot, vm) }
            }),
            Wish::OfSnapshot(kind) => self.pick(|history| &history.snapshots).map(|(tenant, vm, snapshot)| {
                Submission { params: json!({"snapshot": snapshot}), ..self.on(tenant, kind, vm) }
            }),
        };
        let wish = wish.unwrap_or_else(|| Submission { tenant: self.tenant(), ..self.world.echo() });
        self.how(wish)
    }

    fn tenant(&mut self) -> TenantId {
        self.tenants[self.dice.random_range(0..2)]
    }

    fn create(&mut self) -> Submission {
        let tenant = self.tenant();
        let mut create = self.world.create(&format!("vm-{}", self.dice.random_range(0..6)));
        let (vcpus, memory_mib, disk_gib) =
            (self.dice.random_range(1..9), 256 * self.dice.random_range(1..5), self.dice.random_range(1..4));
        let machine = create.vm.as_mut().unwrap();
        (machine.spec.vcpus, machine.spec.memory_mib, machine.spec.disk_gib) = (vcpus, memory_mib, disk_gib);
        for (name, amount) in [("vcpus", vcpus), ("memory_mib", memory_mib), ("disk_gib", disk_gib)] {
            create.params[name] = json!(amount);
        }
        machine.wait_for_capacity = self.happens(0.6);
        machine.ttl = self.happens(0.1).then(|| Duration::from_secs(self.dice.random_range(10..200)));
        machine.spec.placement.anti_affinity = self.happens(0.15).then(|| "apart".parse().unwrap());
        Submission { tenant, ..create }
    }

    fn on(&self, tenant: TenantId, kind: KindName, vm: VmId) -> Submission {
        Submission { tenant, ..self.world.on_vm(kind, vm) }
    }

    /// When, under which key, and whether in earnest.
    fn how(&mut self, wish: Submission) -> Submission {
        let mut schedule: Schedule = wish.schedule;
        if self.happens(0.2) {
            schedule.queue_timeout_seconds = self.dice.random_range(5..60);
        }
        let later = if self.happens(0.1) { self.dice.random_range(1..60) } else { 0 };
        let key = Idempotency { key: wish.task.to_string(), route: "POST".into(), body: "b".into(), part: None };
        Submission {
            schedule,
            not_before: wish.not_before.plus(Duration::from_secs(later)),
            idempotency: Some(key),
            dry_run: self.happens(0.05),
            ..wish
        }
    }

    async fn submit(&mut self) {
        let batch = self.last.clone();
        let Ok(answers) = self.world.store.submit(batch.clone()).await else { return };
        for (wish, answer) in batch.into_iter().zip(answers) {
            let Ok(accepted) = answer else {
                self.count("refused");
                continue;
            };
            if wish.dry_run {
                continue;
            }
            self.count(wish.kind.as_str());
            let new = self.promised.insert(accepted.task.id);
            if new {
                self.tasks.push((wish.tenant, accepted.task.id));
                self.vms.extend(wish.vm.map(|machine| (wish.tenant, machine.id)));
                let snapshot = accepted.snapshot.filter(|_| wish.kind == KindName::VmSnapshot);
                self.snapshots.extend(snapshot.map(|one| (wish.tenant, one.vm, one.id)));
            }
        }
    }

    async fn edit(&mut self) {
        let Some((tenant, vm)) = self.pick(|history| &history.vms) else { return };
        let patch = match self.dice.random_range(0..5) {
            0 => json!({"vcpus": self.dice.random_range(1..6)}),
            1 => json!({"memory_mib": 256 * self.dice.random_range(1..6)}),
            2 => json!({"disk_gib": self.dice.random_range(2..6)}),
            3 => json!({"labels": {"a": "b"}}),
            _ => json!({"ttl_seconds": self.dice.random_range(1..100)}),
        };
        let edit = Submission { params: patch, ..self.on(tenant, KindName::VmEdit, vm) };
        if let Ok(Ok(_)) = self.world.store.edit_vm(edit).await {
            self.count("vm.edit");
        }
    }

    async fn stop(&mut self, act: Act) {
        let Some((tenant, task)) = self.pick(|history| &history.tasks) else { return };
        let wish = vec![Cancel { task, tenant, actor: Actor::system() }];
        drop(match act {
            Act::Force => self.world.store.force(wish).await,
            _ => self.world.store.cancel(wish).await,
        });
    }

    async fn reserve(&mut self) {
        let (tenant, vms) = (self.tenant(), self.dice.random_range(1..4));
        let amount = Amounts { vms, vcpus: self.dice.random_range(0..4), ..Amounts::ZERO };
        let seconds = self.dice.random_range(1..300);
        let asked = NewReservation { amount, reason: "a fair".into(), expires_in_seconds: Some(seconds) };
        let (id, actor) = (self.world.id(), Actor::system());
        let new = NewReservationRow { id, tenant, asked, idempotency: None, dry_run: false, actor };
        if let Ok(Ok(made)) = self.world.store.reserve(new).await {
            self.count("reserved");
            self.held.insert(made.reservation.id, (tenant, made.reservation.expires_at));
        }
    }

    async fn release(&mut self) {
        let Some((id, (tenant, _))) = self.held.iter().next_back().map(|(id, of)| (*id, *of)) else { return };
        self.released.insert(id);
        if let Ok(Ok(_)) = self.world.store.release(tenant, id, Actor::system()).await {
            self.count("released");
        }
    }

    async fn limit(&mut self) {
        let tenant = self.tenant();
        let limits =
            Limits { vcpus: self.dice.random_range(-1..20), vms: self.dice.random_range(-1..9), ..Limits::default() };
        drop(self.world.store.edit_tenant(EditTenant::of_system(tenant, limits.into())).await);
    }

    // Agents.

    async fn lease(&mut self, resync: Option<Vec<(TaskId, hostler_model::Fence)>>) {
        let (n, most) = (self.dice.random_range(0..NODES.len()), self.dice.random_range(1..5));
        let Agent { node, enrolment } = self.agents[n];
        let free = hostler_model::node::Slots::each(most);
        let claim = hostler_store::Claim { node, enrolment, free, resync };
        let Ok(mut answers) = self.world.store.lease(vec![claim]).await else { return };
        let leased = answers.remove(0).unwrap_or_default();
        self.leased.extend(leased.into_iter().map(|leased| (n, leased)));
    }

    async fn settle(&mut self) {
        let Some((n, leased)) = self.pick(|history| &history.leased) else { return };
        let effects = if self.happens(0.5) { Effects::Undone } else { Effects::Remain };
        let end = match self.dice.random_range(0..10) {
            0..6 => End::Succeeded { output: self.output(&leased) },
            6..9 => failed(self.happens(0.5), effects),
            _ => cancelled(effects),
        };
        let result = self.world.result(self.agents[n], &leased, end);
        if let Ok(answers) = self.world.store.settle(vec![result]).await
            && answers[0] == Ok(hostler_model::internal::Receipt::Settled)
        {
            self.count("settled");
            // Now and then it is told once more.
            if self.happens(0.8) {
                self.leased.retain(|(_, other)| other.task != leased.task);
            }
        }
    }

    /// What an agent says of what it has done: it takes what was asked for.
    fn output(&mut self, leased: &Leased) -> Value {
        let of = |name: &str| leased.params[name].clone();
        match leased.kind {
            KindName::VmCreate => {
                let charge =
                    json!({"vcpus": of("vcpus"), "memory_mib": of("memory_mib"), "disk_gib": of("disk_gib"), "vms": 1});
                json!({"charge": charge, "boot_ms": 1.0, "acceleration": "tcg"})
            }
            KindName::VmEdit => {
                let Ok(Filed { before, after, .. }) = Filed::deserialize(of("filed")) else { return json!({}) };
                let pending = self.happens(0.5);
                let (before, after): (Shape, Shape) = (before, after);
                let larger = hostler_model::edit::larger(before.charge(), after.charge());
                json!({"restart_pending": pending, "charge": if pending { larger } else { after.charge() }})
            }
            KindName::VmSnapshot => {
                let disk_bytes: i64 = self.dice.random_range(0..1 << 30);
                json!({"disk_bytes": disk_bytes, "memory_bytes": 0, "paused_ms": 1.0})
            }
            other => output(other),
        }
    }

    /// Most nodes are heard.
    async fn beats(&mut self) {
        for n in 0..NODES.len() {
            if self.happens(0.7) {
                self.beat(n).await;
            }
        }
    }

    /// An inventory that is nearly what the store believes.
    async fn beat(&mut self, n: usize) {
        let (agent, store) = (self.agents[n], self.world.store.clone());
        let filter = VmFilter { node: Some(agent.node), ..VmFilter::default() };
        let (Ok(vms), Ok(snapshots)) =
            (store.vms(filter, None, 100).await, store.snapshots(SnapshotFilter::default(), None, 100).await)
        else {
            return;
        };
        let mut there = Vec::new();
        for vm in vms {
            let state = match self.dice.random_range(0..12) {
                0 => continue,
                1 => VmState::Error,
                2..4 => VmState::Running,
                4..6 => VmState::Stopped,
                _ => vm.state,
            };
            there.push(hostler_model::vm::Observation { epoch: vm.epoch, ..seen(vm.id, state) });
        }
        let full = self.happens(0.7);
        let leases: Vec<&Leased> = self.leased.iter().filter(|(on, _)| *on == n).map(|(_, leased)| leased).collect();
        let mut beat = self.world.heartbeat(agent, &leases, full, there);
        let here = snapshots.into_iter().filter(|one| one.node == Some(agent.node)).map(|one| one.id);
        beat.heartbeat.inventory.snapshots = here.filter(|_| self.dice.random::<f64>() < 0.9).collect();
        drop(store.heartbeat(vec![beat]).await);
    }

    // Operators and loops.

    async fn decide(&mut self) {
        let node = self.agents[self.dice.random_range(0..NODES.len())].node;
        let decision = self.weighed(&[(3, NodeEvent::Drain), (1, NodeEvent::Cordon), (4, NodeEvent::Uncordon)]);
        drop(self.world.store.change_node(node, decision, Actor::system()).await);
    }

    async fn remove(&mut self) {
        let node = self.agents[self.dice.random_range(0..NODES.len())].node;
        if let Ok(Ok(_)) = self.world.store.remove_node(node, Force::Yes, false, Actor::system()).await {
            self.count("node.removed");
        }
    }

    /// Each loop's pass, or none, in their order.
    async fn loops(&mut self) {
        let store = self.world.store.clone();
        macro_rules! passes {
            ($($pass:ident)*) => {
                $(if self.happens(0.8) && let Ok(swept) = store.$pass().await && swept.changed > 0 {
                    self.count(stringify!($pass));
                })*
            };
        }
        passes!(lapse_leases expire_queued expire_running judge_nodes place_waiting drain_nodes restart_vms expire_vms expire_reservations fold_stats);
    }

    /// The log, line by line.
    pub async fn tell(&self) {
        for entry in self.world.entries().await {
            eprintln!("log {} {} {} {}", entry.seq, entry.kind, entry.subject, entry.data);
        }
    }

    /// What somebody was promised is there.
    pub fn known_against(&self, tasks: &[Task], reservations: &[Reservation]) -> Vec<String> {
        let there: BTreeSet<TaskId> = tasks.iter().map(|task| task.id).collect();
        let lost = self.promised.difference(&there);
        let mut wrongs: Vec<String> = lost.map(|id| format!("the task {id} was promised, and is not there")).collect();
        for (held, (_, until)) in self.held.iter().filter(|(id, _)| !self.released.contains(id)) {
            if *until > self.world.now() && !reservations.iter().any(|one| one.id == *held) {
                wrongs.push(format!("the reservation {held} was promised, and is not there"));
            }
        }
        wrongs
    }
}

/// Drops what is under way after so many moments in which others may run.
async fn cut(after: usize, under_way: impl Future<Output = ()>) {
    let mut under_way = pin!(under_way);
    for _ in 0..after {
        if let Poll::Ready(()) = futures_util::poll!(&mut under_way) {
            return;
        }
    }
}
