//! The log as an observer reads it who never forgets: a fold over all events, which breaks where a promise is broken.
//!
//! Held here: numbers without gaps; nothing that was read once is lost or changed; a task ends once, and nothing happens to
//! it afterwards; one lease of it at a time, each under a higher fence, on one node; who changes a machine has its turn;
//! and a result is settled under the fence of its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hostler_model::{
    Fence, TaskId,
    event::{Class, Entry},
    internal::{Receipt, Receipts, Reports},
    kind::{KindName, Turn},
    task::Task,
};
use hostler_store::{LogFilter, Store};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{
    net::{Message, Said},
    trace::Trace,
};

/// Entries that are read at once.
const PAGE: usize = 500;

/// The observer. Clones share it.
#[derive(Clone)]
pub struct History {
    trace: Trace,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    last: i64,
    entry: Option<Entry>,
    tasks: BTreeMap<TaskId, Life>,
    /// The tasks that change a machine, in the order in which they were queued.
    queues: BTreeMap<String, Vec<TaskId>>,
}

struct Life {
    kind: KindName,
    vm: Option<String>,
    node: Value,
    fences: Vec<(i64, Fence)>,
    leased: bool,
    ended: bool,
}

/// Results that a message brings, and how far the log was before.
pub struct Brought {
    results: Vec<(TaskId, Fence)>,
    head: i64,
}

impl History {
    pub fn new(trace: Trace) -> History {
        History { trace, told: Arc::default() }
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Reads on to the end, and says where that is.
    pub async fn read(&self, store: &Store) -> i64 {
        let mut told = self.told.lock().await;
        let news = self.trace.unless("the log cannot be read", news(store, told.last).await).unwrap_or_default();
        let later = self.trace.unless("tasks cannot be read", later(store, &news).await).unwrap_or_default();
        for entry in news {
            self.trace.count(&entry.kind);
            // A key has its name from what it was made of by chance.
            let data = if entry.noun == "key" { Value::Null } else { entry.data.clone() };
            self.trace.note(format!("log {} {} {} {}", entry.seq, entry.kind, entry.subject, data));
            if let Err(wrong) = told.hear(entry, &later) {
                self.trace.wrong(wrong);
            }
        }
        told.last
    }

    /// What was read once must be in what a server starts from.
    pub async fn compare(&self, store: &Store) {
        let told = self.told.lock().await;
        let Some(known) = &told.entry else { return };
        let read = self.trace.unless("the log cannot be read", store.log(LogFilter::default(), known.seq - 1, 1).await);
        let lost = read.is_some_and(|read| read.first() != Some(known));
        if lost {
            self.trace.wrong(format!(
                "log entry {} ({}), which was read before, is not there any more",
                known.seq, known.kind
            ));
        }
    }

    /// The tasks that have not ended, as words.
    pub async fn open(&self) -> Vec<String> {
        let told = self.told.lock().await;
        told.tasks.iter().filter(|(_, life)| !life.ended).map(|(id, life)| format!("{} {id}", life.kind)).collect()
    }

    /// Before the server hears of results.
    pub async fn before(&self, store: &Store, message: &Message) -> Option<Brought> {
        if !message.uri.path().ends_with("/results") {
            return None;
        }
        let reports: Reports = serde_json::from_slice(&message.body).ok()?;
        let results = reports.results.iter().map(|report| (report.task, report.fence)).collect();
        Some(Brought { results, head: self.read(store).await })
    }

    /// After the server has answered: what it says that it settled was under a fence that was the task's in between.
    pub async fn after(&self, store: &Store, brought: Option<Brought>, said: &Said) {
        let Some(Brought { results, head }) = brought else { return };
        let Ok(Receipts { receipts }) = serde_json::from_slice(&said.body) else { return };
        self.read(store).await;
        let told = self.told.lock().await;
        for ((task, fence), receipt) in results.into_iter().zip(receipts) {
            let known = told.tasks.get(&task).is_some_and(|life| life.had(fence, head));
            if receipt == Receipt::Settled && !known {
                self.trace
                    .wrong(format!("a result of task {task} was settled under the fence {fence}, which it had passed"));
            }
        }
    }
}

/// Everything after an entry.
async fn news(store: &Store, after: i64) -> hostler_store::Result<Vec<Entry>> {
    let mut news = Vec::new();
    loop {
        let last = news.last().map_or(after, |entry: &Entry| entry.seq);
        let page = store.log(LogFilter::default(), last, PAGE).await?;
        let more = page.len() == PAGE;
        news.extend(page);
        if !more {
            return Ok(news);
        }
    }
}

/// Tasks among what is new whose time is yet to come when they are queued: they take no turn before that.
async fn later(store: &Store, news: &[Entry]) -> hostler_store::Result<BTreeSet<TaskId>> {
    let of =
        |kind: &'static str| news.iter().filter(move |entry| entry.kind == kind).map(|entry| TaskId(entry.subject));
    let mut later: BTreeSet<TaskId> = of("task.due").collect();
    for id in of("task.queued") {
        // One that was leased since came before its time was over, or it is among those that are due.
        let waits = |task: &Task| task.fence.attempt == 0 && task.not_before > task.created_at;
        if store.task(id).await?.as_ref().is_some_and(waits) {
            later.insert(id);
        }
    }
    Ok(later)
}

impl Life {
    /// Whether the fence was the current one at this entry, or at a later one.
    fn had(&self, fence: Fence, from: i64) -> bool {
        let before = self.fences.iter().rev().find(|(seq, _)| *seq <= from);
        let since = self.fences.iter().filter(|(seq, _)| *seq > from);
        before.into_iter().chain(since).any(|(_, known)| *known == fence)
    }
}

impl Told {
    fn hear(&mut self, entry: Entry, later: &BTreeSet<TaskId>) -> Result<(), String> {
        let expected = self.last + 1;
        self.last = entry.seq;
        let heard = if entry.seq == expected {
            self.of_task(&entry, later)
        } else {
            Err(format!("log entry {} follows {}", entry.seq, expected - 1))
        };
        self.entry = Some(entry);
        heard
    }

    fn of_task(&mut self, entry: &Entry, later: &BTreeSet<TaskId>) -> Result<(), String> {
        let entry = &entry.clone().seen_as(Class::Event);
        if entry.class != Class::Event || entry.noun != "task" {
            return Ok(());
        }
        let id = TaskId(entry.subject);
        if entry.kind == "task.queued" {
            return self.queued(id, entry, later.contains(&id));
        }
        let Some(life) = self.tasks.get_mut(&id) else {
            return Err(format!("{} of task {id}, which was never queued", entry.kind));
        };
        if life.ended {
            return Err(format!("{} of task {id} ({}), which had ended", entry.kind, life.kind));
        }
        match entry.kind.as_str() {
            "task.due" => {
                self.take_place(id);
                Ok(())
            }
            "task.placed" if life.fences.is_empty() => {
                life.node = entry.data["node"].clone();
                Ok(())
            }
            "task.placed" => Err(format!("task {id} ({}) was placed anew after a node had it", life.kind)),
            "task.leased" => self.leased(id, entry),
            "task.lapsed" | "task.retrying" => {
                life.leased = false;
                Ok(())
            }
            "task.aborting" => {
                life.leased &= entry.data["reason"] != "attempts";
                Ok(())
            }
            "task.succeeded" | "task.failed" | "task.cancelled" => {
                (life.ended, life.leased) = (true, false);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn queued(&mut self, id: TaskId, entry: &Entry, later: bool) -> Result<(), String> {
        let kind: KindName =
            entry.data["kind"].as_str().and_then(|kind| kind.parse().ok()).ok_or("a task without a kind")?;
        let vm = entry.data["vm"].as_str().map(str::to_owned);
        let life = Life { kind, vm, node: entry.data["node"].clone(), fences: Vec::new(), leased: false, ended: false };
        if self.tasks.insert(id, life).is_some() {
            return Err(format!("task {id} was queued twice"));
        }
        if !later {
            self.take_place(id);
        }
        Ok(())
    }

    /// Puts a task that changes a machine at the end of the machine's queue.
    fn take_place(&mut self, id: TaskId) {
        let Some(Life { kind, vm: Some(vm), .. }) = self.tasks.get(&id) else { return };
        if matches!(kind.spec().turn, Turn::Exclusive | Turn::Final) {
            self.queues.entry(vm.clone()).or_default().push(id);
        }
    }

    fn leased(&mut self, id: TaskId, entry: &Entry) -> Result<(), String> {
        let fence: Fence = serde_json::from_value(entry.data["fence"].clone()).map_err(|error| error.to_string())?;
        let first = self.first_in_turn(id);
        let Some(life) = self.tasks.get_mut(&id) else { return Ok(()) };
        let before = life.fences.last().map(|(_, fence)| *fence);
        life.fences.push((entry.seq, fence));
        if std::mem::replace(&mut life.leased, true) {
            return Err(format!("task {id} ({}) was leased while a lease of it was out", life.kind));
        }
        if before.is_some_and(|before| before >= fence) {
            return Err(format!("task {id} was leased under {fence} after {before:?}"));
        }
        if life.node != entry.data["node"] {
            return Err(format!("task {id} was leased to another node than the one it was placed on"));
        }
        match first {
            Some(first) if first != id => {
                Err(format!("task {id} ({}) was leased out of its turn: {first} is before it", life.kind))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The task whose turn it is at the machine that this one changes.
    fn first_in_turn(&self, id: TaskId) -> Option<TaskId> {
        let queue = self.queues.get(self.tasks.get(&id)?.vm.as_ref()?)?;
        if !queue.contains(&id) {
            return None;
        }
        queue.iter().copied().find(|other| self.tasks.get(other).is_some_and(|life| !life.ended))
    }
}
