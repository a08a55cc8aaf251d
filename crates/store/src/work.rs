//! The working set of one step: what it read, what it decided, and the one bulk write at its end.
//!
//! ```text
//! read what the batch needs ──► decide per item, in memory ──► finish: rows, books, log, head
//! ```
//!
//! Whatever a decision needs and nobody read beforehand is read when it is asked for, so reading ahead is only speed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicI64, Ordering},
};

use hostler_db::{Db, Result, Timeline, Tx};
use hostler_model::{
    Clock, Code, Ids, NodeId, PrincipalId, SnapshotId, TaskId, TenantId, Timestamp, VmId,
    alloc::{Allocation, Owner},
    book::{Book, Changes},
    event::{Actor, Class, NewEntry},
    node::Overcommit,
    placement::{Candidate, Policy},
    secret::Secret,
    task::TaskState,
    task_log::{NewLine, Said},
    tenant::Tenant,
};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::{
    Denied, RefusedJoin, Timing, Wakes, allocation,
    fleet::Fleet,
    idempotency::FirstAnswer,
    log::{self, Head},
    node::{self, NodeRow},
    relay::Relay,
    ripened::Ripened,
    rows::Rows,
    secret,
    service::Service,
    snapshot::{self, SnapshotRow},
    task::{
        self, TaskRow, outbox,
        stats::{self, Counts},
    },
    task_log, tenant,
    vm::{self, VmRow},
};

/// What every step is handed: the database, time, randomness, rules.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) ids: Ids,
    pub(crate) timing: Timing,
    /// How machines are spread.
    pub(crate) placement: Policy,
    /// Since when this store is in service: silence and leases are not judged before there was time to be heard.
    pub(crate) service: Service,
    pub(crate) wakes: broadcast::Sender<Wakes>,
    /// To the other servers over the same database, where there can be any.
    pub(crate) relay: Option<Relay>,
    /// By how much the database's clock is ahead of this one's, in microseconds, where it is the database's that counts.
    pub(crate) ahead: Option<AtomicI64>,
    /// The nodes as placement sees them.
    pub(crate) fleet: Fleet,
    /// When it was last looked for tasks whose time has come.
    pub(crate) ripened: Ripened,
}

impl Context {
    /// Runs one step in a transaction; once it is durable its wakes go out.
    pub(crate) async fn step<T, F>(self: &std::sync::Arc<Self>, label: &'static str, step: F) -> crate::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Work<'_>) -> Result<T> + Send + 'static,
    {
        let context = self.clone();
        let done = self.db.write(label, move |tx| Work::run(tx, &context, step));
        self.told(done.await)
    }

    /// Runs a step where the database goes on in another timeline: the first one there. `None`: it does not.
    pub(crate) async fn adopt<T, F>(
        self: &std::sync::Arc<Self>,
        label: &'static str,
        step: F,
    ) -> crate::Result<Option<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut Work<'_>, &Timeline) -> Result<T> + Send + 'static,
    {
        let context = self.clone();
        let done = self.db.adopt(label, move |tx, timeline| Work::run(tx, &context, |work| step(work, timeline))).await;
        done.transpose().map(|done| self.told(done)).transpose()
    }

    /// The answer of a step; once it is durable its wakes go out.
    fn told<T>(&self, done: Result<(T, Wakes)>) -> crate::Result<T> {
        let (answer, wakes) = done.inspect_err(|error| {
            if error.is_outage() {
                self.service.interrupted(self.now());
            }
        })?;
        if wakes != Wakes::default() {
            if let Some(relay) = &self.relay {
                relay.say(&wakes);
            }
            // Nobody may be listening.
            drop(self.wakes.send(wakes));
        }
        Ok(answer)
    }

    /// Now: the handed in clock's, or the database's as far as it is known.
    pub(crate) fn now(&self) -> Timestamp {
        let here = self.clock.now();
        match &self.ahead {
            Some(ahead) => Timestamp::from_micros(here.as_micros() + ahead.load(Ordering::Relaxed)),
            None => here,
        }
    }

    /// Now, for a step: it has the database's time with its locks.
    fn now_in(&self, tx: &Tx<'_>) -> Timestamp {
        match (&self.ahead, tx.began()) {
            (Some(ahead), Some(there)) => {
                ahead.store(there - self.clock.now().as_micros(), Ordering::Relaxed);
                Timestamp::from_micros(there)
            }
            _ => self.clock.now(),
        }
    }
}

/// The working set.
pub(crate) struct Work<'a> {
    pub(crate) tx: &'a Tx<'a>,
    pub(crate) context: &'a Context,
    pub(crate) now: Timestamp,
    pub(crate) tasks: Rows<TaskId, TaskRow>,
    pub(crate) vms: Rows<VmId, VmRow>,
    pub(crate) snapshots: Rows<SnapshotId, SnapshotRow>,
    pub(crate) nodes: Rows<NodeId, NodeRow>,
    /// Nodes that are removed.
    pub(crate) removed: BTreeSet<NodeId>,
    /// Nodes whose heartbeat this step received.
    pub(crate) heard: Vec<NodeId>,
    /// Nodes whose tasks travel by another road from now on.
    rerouted: BTreeSet<NodeId>,
    /// Leases to be made longer, and nothing else of their tasks.
    pub(crate) renewed: Vec<TaskId>,
    /// Tasks that have not ended, by VM, in the order of their turns; for VMs that were asked about.
    queues: BTreeMap<VmId, Vec<TaskId>>,
    allocations: BTreeMap<Owner, Slot>,
    tenants: BTreeMap<TenantId, Option<Tenant>>,
    pub(crate) candidates: Option<Vec<Candidate>>,
    /// Whether nodes are kept for others than before.
    pub(crate) set_aside: bool,
    books: Changes,
    entries: Vec<NewEntry>,
    pub(crate) first_answers: Vec<FirstAnswer>,
    /// Texts of new tasks, to be kept apart.
    pub(crate) secrets: Vec<(TaskId, Secret)>,
    wake_nodes: BTreeSet<NodeId>,
    aborting: Vec<(NodeId, TaskId)>,
    ended: Vec<TaskId>,
    lines: Vec<NewLine>,
    /// What happened to tasks, for their statistics.
    pub(crate) counts: Counts,
    /// Tasks whose time has come: they stand at the end of their VM's queue from now on.
    come: BTreeSet<TaskId>,
    /// Tasks whose parameters changed.
    amended: BTreeSet<TaskId>,
    /// VMs whose names changed.
    pub(crate) renamed: BTreeSet<VmId>,
    /// What goes out for parts that are written already.
    apart: Wakes,
    /// The nodes whose queues are paused, once somebody has asked for them.
    paused: Option<BTreeSet<NodeId>>,
    /// The log's head, once somebody has asked for it.
    head: Option<Head>,
}

/// What happened, and by which deed.
pub(crate) struct Did {
    pub(crate) kind: &'static str,
    pub(crate) by: &'static str,
}

/// An allocation as it was read, and as it is now.
struct Slot {
    before: Option<Allocation>,
    after: Option<Allocation>,
}

impl<'a> Work<'a> {
    /// An empty working set; `now` is the step's only look at a clock.
    pub(crate) fn begin(tx: &'a Tx<'a>, context: &'a Context) -> Work<'a> {
        Work {
            tx,
            context,
            now: context.now_in(tx),
            tasks: Rows::default(),
            vms: Rows::default(),
            snapshots: Rows::default(),
            nodes: Rows::default(),
            removed: BTreeSet::new(),
            heard: Vec::new(),
            rerouted: BTreeSet::new(),
            renewed: Vec::new(),
            queues: BTreeMap::new(),
            allocations: BTreeMap::new(),
            tenants: BTreeMap::new(),
            candidates: None,
            set_aside: false,
            books: Changes::default(),
            entries: Vec::new(),
            first_answers: Vec::new(),
            secrets: Vec::new(),
            wake_nodes: BTreeSet::new(),
            aborting: Vec::new(),
            ended: Vec::new(),
            lines: Vec::new(),
            counts: Counts::default(),
            come: BTreeSet::new(),
            amended: BTreeSet::new(),
            renamed: BTreeSet::new(),
            apart: Wakes::default(),
            paused: None,
            head: None,
        }
    }

    /// How much may be promised on a node that says nothing else.
    pub(crate) fn usual(&self) -> &'a Overcommit {
        &self.context.placement.overcommit
    }

    /// The head of the log, as it was before this step.
    pub(crate) fn head(&mut self) -> Result<Head> {
        let head = self.head.map_or_else(|| log::head(self.tx), Ok)?;
        Ok(*self.head.insert(head))
    }

    /// Whether a node's queue is paused.
    pub(crate) fn is_paused(&mut self, node: NodeId) -> Result<bool> {
        if let Some(candidates) = &self.candidates {
            return Ok(candidates.iter().any(|candidate| candidate.id == node && candidate.paused));
        }
        let known = match self.paused.take() {
            Some(known) => known,
            None => node::paused(self.tx)?,
        };
        Ok(self.paused.insert(known).contains(&node))
    }

    /// Runs a step over an empty working set, and writes what came of it.
    fn run<T>(
        tx: &'a Tx<'a>,
        context: &'a Context,
        step: impl FnOnce(&mut Work<'_>) -> Result<T>,
    ) -> Result<(T, Wakes)> {
        log::expect_head(tx)?;
        let mut work = Work::begin(tx, context);
        let answer = step(&mut work)?;
        Ok((answer, work.finish()?))
    }

    /// Reads tasks, and for those about a VM the VM, its queue and its allocation.
    pub(crate) fn read_tasks(&mut self, ids: &[TaskId]) -> Result<()> {
        let unread: Vec<TaskId> = ids.iter().copied().filter(|id| !self.tasks.has(id)).collect();
        if !unread.is_empty() {
            let rows = task::by_ids(self.tx, &unread)?;
            self.adopt(rows)?;
        }
        Ok(())
    }

    /// Takes over tasks that a query of the step's own found, and reads what is around them.
    pub(crate) fn adopt(&mut self, rows: Vec<TaskRow>) -> Result<()> {
        let vms: BTreeSet<VmId> = rows.iter().filter_map(|row| row.task.target.vm).collect();
        let owners: Vec<Owner> = rows.iter().map(|row| Owner::Task(row.task.id)).collect();
        for row in rows {
            self.tasks.read(row.task.id, row);
        }
        self.read_allocations(owners)?;
        self.read_vms(&vms)
    }

    /// Reads tasks and nothing around them.
    pub(crate) fn read_task_rows(&mut self, ids: &[TaskId]) -> Result<()> {
        if !ids.is_empty() {
            for row in task::by_ids(self.tx, ids)? {
                self.tasks.read(row.task.id, row);
            }
        }
        Ok(())
    }

    /// Takes over tasks of which most will only be leased: allocations are left until somebody asks.
    pub(crate) fn adopt_leasable(&mut self, rows: Vec<TaskRow>) -> Result<()> {
        let vms: BTreeSet<VmId> = rows.iter().filter_map(|row| row.task.target.vm).collect();
        for row in rows {
            self.tasks.read(row.task.id, row);
        }
        self.read_vms(&vms)
    }

    /// Reads VMs, their queues and allocations.
    pub(crate) fn read_vms(&mut self, ids: &BTreeSet<VmId>) -> Result<()> {
        let unread: Vec<VmId> = ids.iter().copied().filter(|id| !self.queues.contains_key(id)).collect();
        if unread.is_empty() {
            return Ok(());
        }
        for row in vm::by_ids(self.tx, &unread)? {
            self.vms.read(row.vm.id, row);
        }
        let mut owners: Vec<Owner> = unread.iter().copied().map(Owner::Vm).collect();
        self.queues.extend(unread.iter().map(|id| (*id, Vec::new())));
        for row in task::live_on_vms(self.tx, &unread)? {
            let id = row.task.id;
            owners.push(Owner::Task(id));
            if let Some(queue) = row.task.target.vm.and_then(|vm| self.queues.get_mut(&vm)) {
                queue.push(id);
            }
            self.tasks.read(id, row);
        }
        self.read_allocations(owners)
    }

    /// Reads allocations.
    pub(crate) fn read_allocations(&mut self, owners: Vec<Owner>) -> Result<()> {
        let unread: Vec<Owner> = owners.into_iter().filter(|owner| !self.allocations.contains_key(owner)).collect();
        if unread.is_empty() {
            return Ok(());
        }
        for found in allocation::by_owners(self.tx, &unread)? {
            self.allocations.insert(found.owner, Slot { before: Some(found), after: Some(found) });
        }
        for owner in unread {
            self.allocations.entry(owner).or_insert(Slot { before: None, after: None });
        }
        Ok(())
    }

    /// Reads tenants with their books, all at once.
    pub(crate) fn read_tenants(&mut self, ids: &BTreeSet<TenantId>) -> Result<()> {
        let unread: Vec<TenantId> = ids.iter().copied().filter(|id| !self.tenants.contains_key(id)).collect();
        if !unread.is_empty() {
            let mut found: BTreeMap<TenantId, Tenant> =
                tenant::by_ids(self.tx, &unread)?.into_iter().map(|tenant| (tenant.id, tenant)).collect();
            self.tenants.extend(unread.into_iter().map(|id| (id, found.remove(&id))));
        }
        Ok(())
    }

    /// A tenant with its book as it is now, this step's changes included.
    pub(crate) fn tenant(&mut self, id: TenantId) -> Result<Option<Tenant>> {
        self.read_tenants(&BTreeSet::from([id]))?;
        let Some(Some(tenant)) = self.tenants.get(&id) else { return Ok(None) };
        let (change, before) = (self.books.tenants.get(&id).copied().unwrap_or_default(), tenant.book);
        let book = Book { held: before.held + change.held, used: before.used + change.used };
        Ok(Some(Tenant { book, ..tenant.clone() }))
    }

    /// Every node as placement sees it, this step's changes of the books included.
    pub(crate) fn candidates(&mut self) -> Result<&[Candidate]> {
        if self.candidates.is_none() {
            let kept = self.context.fleet.take(self.head()?.fleet);
            let mut candidates = kept.map_or_else(|| node::candidates(self.tx, self.usual()), Ok)?;
            for candidate in &mut candidates {
                let change = self.books.nodes.get(&candidate.id).copied().unwrap_or_default();
                candidate.book.held += change.held;
                candidate.book.used += change.used;
            }
            self.candidates = Some(candidates);
        }
        Ok(self.candidates.as_deref().unwrap_or_default())
    }

    /// An allocation as it is now.
    pub(crate) fn allocation(&mut self, owner: Owner) -> Result<Option<Allocation>> {
        self.read_allocations(vec![owner])?;
        Ok(self.allocations.get(&owner).and_then(|slot| slot.after))
    }

    /// Puts an allocation in place of what is there, and the difference into the books.
    pub(crate) fn set_allocation(&mut self, owner: Owner, after: Option<Allocation>) -> Result<()> {
        let before = self.allocation(owner)?;
        if before == after {
            return Ok(());
        }
        self.books.note(before.as_ref(), after.as_ref());
        if let Some(candidates) = &mut self.candidates {
            reflect(candidates, before.as_ref(), after.as_ref());
        }
        if let Some(slot) = self.allocations.get_mut(&owner) {
            slot.after = after;
        }
        Ok(())
    }

    /// Corrects a tenant's book that is not the sum of what exists.
    pub(crate) fn correct_book(&mut self, tenant: TenantId, by: Book) {
        *self.books.tenants.entry(tenant).or_default() += by;
    }

    /// The same for a node's.
    pub(crate) fn correct_node(&mut self, node: NodeId, by: Book) {
        *self.books.nodes.entry(node).or_default() += by;
    }

    /// The tasks on a VM that have not ended, in the order of their turns.
    pub(crate) fn queue(&mut self, vm: VmId) -> Result<Vec<TaskId>> {
        self.read_vms(&BTreeSet::from([vm]))?;
        let queue = self.queues.get(&vm).map(Vec::as_slice).unwrap_or_default();
        Ok(queue.iter().copied().filter(|id| self.tasks.get(id).is_some_and(|row| !row.ended())).collect())
    }

    /// Writes a new task down, at the end of its VM's queue. Its event must be the next entry.
    pub(crate) fn insert_task(&mut self, mut row: TaskRow) {
        row.seq = i64::try_from(self.entries.len()).unwrap_or(i64::MAX);
        if let Some(vm) = row.task.target.vm {
            self.queues.entry(vm).or_default().push(row.task.id);
        }
        self.count_submitted(&row.task);
        // A new task has none: to look for each one's would be a question to the database for every item of a batch.
        self.allocations.insert(Owner::Task(row.task.id), Slot { before: None, after: None });
        self.tasks.insert(row.task.id, row);
    }

    /// Puts a task whose time has come at the end of its VM's queue. Its event must be the next entry.
    pub(crate) fn take_place(&mut self, id: TaskId) {
        let (seq, now) = (i64::try_from(self.entries.len()).unwrap_or(i64::MAX), self.now);
        let Some(row) = self.tasks.change(&id) else { return };
        (row.seq, row.later) = (seq, false);
        // Nobody could lease it before: its time may have come while this server was away.
        row.task.queue_deadline = row.task.queue_deadline.max(row.task.schedule.queue_deadline(now));
        if let Some(queue) = row.task.target.vm.and_then(|vm| self.queues.get_mut(&vm)) {
            queue.retain(|other| *other != id);
            queue.push(id);
        }
        self.come.insert(id);
    }

    /// Changes a task's parameters.
    pub(crate) fn amend(&mut self, id: TaskId, params: Value) {
        if let Some(row) = self.tasks.change(&id) {
            row.task.params = params;
            self.amended.insert(id);
        }
    }

    /// Adds an event.
    pub(crate) fn event(&mut self, tenant: Option<TenantId>, noun: &str, kind: &str, subject: Uuid, data: Value) {
        self.enter(Class::Event, tenant, noun, kind, subject, data);
    }

    /// Adds an audit entry: who did what.
    pub(crate) fn audit(
        &mut self,
        actor: &Actor,
        tenant: Option<TenantId>,
        noun: &str,
        kind: &str,
        subject: Uuid,
        data: Value,
    ) {
        let data = json!({"actor": actor, "what": data, "result": "done"});
        self.enter(Class::Audit, tenant, noun, kind, subject, data);
    }

    /// Adds an audit entry of what somebody was refused.
    pub(crate) fn deny(&mut self, denied: &Denied) {
        let Denied { actor, tenant, route, code, count } = denied;
        let what = json!({"route": route, "count": count});
        let data = json!({"actor": actor, "what": what, "result": code});
        self.enter(Class::Audit, *tenant, "route", "access.denied", Uuid::nil(), data);
    }

    /// Adds an audit entry of a join that was refused. Who it was is not known but by the token.
    pub(crate) fn refuse_join(&mut self, refused: &RefusedJoin) {
        let RefusedJoin { token, name, why, count, origin } = refused;
        let method = Some("join token".to_owned());
        let actor = Actor { principal: PrincipalId(token.0), role: "node".into(), method, ..Actor::system() };
        let actor = Actor { credential: Some(*token), ..actor.within(*origin) };
        let what = json!({"name": name, "why": why, "count": count});
        let data = json!({"actor": actor, "what": what, "result": Code::JoinTokenInvalid});
        self.enter(Class::Audit, None, "join_token", "node.join", token.0, data);
    }

    /// Adds an entry for both, of something that somebody did and that everybody sees who may see the subject.
    pub(crate) fn act(
        &mut self,
        actor: &Actor,
        tenant: Option<TenantId>,
        noun: &str,
        Did { kind, by }: Did,
        subject: Uuid,
        data: &Value,
    ) {
        let data = json!({"actor": actor, "by": by, "what": data});
        self.enter(Class::Act, tenant, noun, kind, subject, data);
    }

    fn enter(&mut self, class: Class, tenant: Option<TenantId>, noun: &str, kind: &str, subject: Uuid, data: Value) {
        let (kind, noun) = (kind.to_owned(), noun.to_owned());
        self.entries.push(NewEntry { class, tenant, kind, noun, subject, data });
    }

    /// Adds a line of the server's to a task's log; without a text the attempt is marked, and nothing else.
    pub(crate) fn note(&mut self, id: TaskId, text: Option<String>) {
        let Some(attempt) = self.attempt_of(id) else { return };
        self.lines.push(NewLine { task: id, attempt, text, said: None });
    }

    /// Adds lines that a node wrote under the task's current fence.
    pub(crate) fn say(&mut self, id: TaskId, said: &[Said]) {
        let Some(attempt) = self.attempt_of(id) else { return };
        let line = |said: &Said| NewLine { task: id, attempt, text: Some(said.text.clone()), said: Some(said.at) };
        self.lines.extend(said.iter().take(hostler_model::task_log::PER_REPORT).map(line));
    }

    fn attempt_of(&self, id: TaskId) -> Option<(u32, u32)> {
        self.tasks.get(&id).map(|row| (row.task.fence.attempt, row.task.max_attempts))
    }

    /// Says after the commit that a node has something to fetch.
    pub(crate) fn wake(&mut self, node: Option<NodeId>) {
        self.wake_nodes.extend(node);
    }

    /// Says after the commit that others are to be believed: keys that sign tasks, or nodes.
    pub(crate) fn trust_changed(&mut self) {
        self.apart.trust = true;
    }

    /// What waits at a node is offered by the broker from now on, or not any more.
    pub(crate) fn reroute(&mut self, node: NodeId) {
        self.rerouted.insert(node);
        self.wake(Some(node));
    }

    /// Says after the commit that a node is to stop what it works on.
    pub(crate) fn abort(&mut self, node: NodeId, task: TaskId) {
        self.aborting.push((node, task));
    }

    /// Says after the commit that a task ended.
    pub(crate) fn ended(&mut self, task: TaskId) {
        self.ended.push(task);
    }

    /// Says after the commit that credentials are no longer what they were.
    pub(crate) fn credentials_changed(&mut self) {
        self.apart.credentials = true;
    }

    /// Does a part of the step by itself and writes it at once, before the step has read any row that it may change. When
    /// it fails nothing of it is left, and the step may go on.
    pub(crate) fn part(&mut self, part: impl FnOnce(&mut Work<'_>) -> Result<()>) -> Result<()> {
        let (context, now) = (self.context, self.now);
        let Wakes { all: _, all_tasks: _, trust, nodes, ended, logged, aborting, credentials, seq } =
            self.tx.part(|tx| {
                let mut work = Work { now, ..Work::begin(tx, context) };
                part(&mut work)?;
                work.finish()
            })?;
        self.head = None;
        self.wake_nodes.extend(nodes);
        self.ended.extend(ended);
        self.aborting.extend(aborting);
        self.apart.trust |= trust;
        self.apart.logged.extend(logged);
        self.apart.credentials |= credentials;
        self.apart.seq = self.apart.seq.max(seq);
        Ok(())
    }

    /// Writes everything that changed, each hot row once, and advances the head of the log.
    pub(crate) fn finish(mut self) -> Result<Wakes> {
        self.recount_all()?;
        self.keep_fleet()?;
        let mut wakes = std::mem::take(&mut self.apart);
        wakes.nodes = self.wake_nodes.iter().copied().collect();
        wakes.ended = std::mem::take(&mut self.ended);
        wakes.logged.extend(self.lines.iter().map(|line| line.task));
        wakes.aborting = std::mem::take(&mut self.aborting);
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() && self.heard.is_empty() {
            self.write_rows()?;
            return Ok(wakes);
        }
        let head = self.head()?;
        let after = head.seq + i64::try_from(entries.len()).unwrap_or(i64::MAX);
        self.number(head.seq, after);
        self.write_rows()?;
        node::heard(self.tx, &self.heard, self.now, after)?;
        wakes.seq = if entries.is_empty() { wakes.seq } else { after };
        log::append(self.tx, head, self.now, entries)?;
        Ok(wakes)
    }

    /// Keeps the nodes for the next step, under another mark where they or their books are not as they were.
    fn keep_fleet(&mut self) -> Result<()> {
        let others = self.nodes.any_dirty() || !self.removed.is_empty() || self.set_aside;
        let mark = if others || !self.books.nodes.is_empty() {
            let mark = self.context.ids.next(self.now);
            log::set_fleet(self.tx, mark)?;
            Some(mark)
        } else {
            self.head.and_then(|head| head.fleet)
        };
        if let (Some(candidates), Some(mark), false) = (self.candidates.take(), mark, others) {
            self.context.fleet.keep(mark, candidates);
        }
        Ok(())
    }

    /// Gives new tasks and changed VMs and snapshots the numbers of the log entries with which they are written.
    fn number(&mut self, before: i64, after: i64) {
        for (made, row) in self.tasks.dirty_mut() {
            if made || self.come.contains(&row.task.id) {
                row.seq += before + 1;
            }
        }
        for (_, row) in self.vms.dirty_mut() {
            row.seq = after;
        }
        for (_, row) in self.snapshots.dirty_mut() {
            row.seq = after;
        }
    }

    fn write_rows(&mut self) -> Result<()> {
        tenant::write_books(self.tx, &self.books.tenants)?;
        node::write_books(self.tx, &self.books.nodes)?;
        node::remove(self.tx, &self.removed, self.now)?;
        node::put(self.tx, &self.nodes.made().chain(self.nodes.changed()).collect::<Vec<_>>())?;
        // A name that a change gives back may be taken in the same batch.
        vm::park(self.tx, &self.renamed)?;
        vm::update(self.tx, self.vms.changed())?;
        vm::rename(self.tx, self.renamed.iter().filter_map(|id| self.vms.get(id)))?;
        vm::insert(self.tx, self.vms.made())?;
        snapshot::update(self.tx, self.snapshots.changed())?;
        snapshot::insert(self.tx, self.snapshots.made())?;
        task::insert(self.tx, self.tasks.made(), self.now)?;
        task::update(self.tx, self.tasks.changed(), self.now)?;
        task::amend(self.tx, self.amended.iter().filter_map(|id| self.tasks.get(id)))?;
        task::renew(self.tx, &self.renewed, self.now.plus(self.context.timing.lease))?;
        if self.tasks.any_dirty() && self.head()?.brokered {
            outbox::follow(self.tx, self.tasks.made().chain(self.tasks.changed()))?;
        }
        outbox::reroute(self.tx, &self.rerouted)?;
        stats::add(self.tx, &self.counts, self.now)?;
        task_log::append(self.tx, &self.lines, self.now)?;
        let differ = || self.allocations.iter().filter(|(_, slot)| slot.before != slot.after);
        allocation::upsert(self.tx, differ().filter_map(|(_, slot)| slot.after))?;
        allocation::delete(self.tx, differ().filter(|(_, slot)| slot.after.is_none()).map(|(owner, _)| *owner))?;
        secret::insert(self.tx, &self.secrets)?;
        let told =
            |row: &&TaskRow| row.task.state == TaskState::Succeeded && !row.task.kind.spec().sensitive.is_empty();
        secret::drop_of(self.tx, &self.tasks.changed().filter(told).map(|row| row.task.id).collect::<Vec<_>>())?;
        crate::idempotency::insert(self.tx, &self.first_answers, self.now)
    }

    /// The task in a VM's queue whose turn it is, or will be next, to change the VM.
    pub(crate) fn first_change(&self, queue: &[TaskId]) -> Option<TaskId> {
        queue.iter().copied().find(|id| self.tasks.get(id).is_some_and(|row| row.changes_vm()))
    }

    /// Whether a VM's queue has tasks that wait to be leased.
    pub(crate) fn any_queued(&self, queue: &[TaskId]) -> bool {
        queue.iter().any(|id| self.tasks.get(id).is_some_and(|row| row.task.state == TaskState::Queued))
    }
}

/// The candidates' books after a change.
fn reflect(candidates: &mut [Candidate], before: Option<&Allocation>, after: Option<&Allocation>) {
    let mut change = Changes::default();
    change.note(before, after);
    for (node, book) in change.nodes {
        if let Some(candidate) = candidates.iter_mut().find(|candidate| candidate.id == node) {
            candidate.book.held += book.held;
            candidate.book.used += book.used;
        }
    }
}
