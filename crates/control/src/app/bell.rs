//! Rings for whoever waits: a task's end or a line of its log, a new log entry. One task listens to the store for all of them. A ring is a
//! hint; whoever waits also looks by itself every [`LOOK`]. Never here: an answer to the question that is waited for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hostler_model::TaskId;
use hostler_store::Wakes;
use tokio::sync::{Notify, broadcast::Receiver, watch};
use tokio_util::sync::CancellationToken;

use super::hint;

/// How often a waiter looks without having been rung for: the truth behind the hints.
pub const LOOK: Duration = Duration::from_secs(1);

/// Rings. Clones share it.
#[derive(Clone, Debug)]
pub struct Bell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tasks: Mutex<BTreeMap<TaskId, Vec<Arc<Notify>>>>,
    seq: watch::Sender<i64>,
}

impl Bell {
    /// Listens until `closing`.
    pub fn start(wakes: Receiver<Wakes>, closing: CancellationToken) -> Bell {
        let bell = Bell(Arc::new(Inner { tasks: Mutex::default(), seq: watch::Sender::new(0) }));
        tokio::spawn(bell.clone().listen(wakes, closing));
        bell
    }

    async fn listen(self, wakes: Receiver<Wakes>, closing: CancellationToken) {
        hint::each(wakes, closing, |wake| wake.map_or_else(|| self.ring_all(), |wake| self.ring(wake))).await;
    }

    fn ring(&self, wake: &Wakes) {
        if wake.all || wake.all_tasks {
            self.ring_all();
        }
        if !wake.ended.is_empty() || !wake.logged.is_empty() {
            let tasks = self.tasks();
            for waiting in wake.ended.iter().chain(&wake.logged).filter_map(|task| tasks.get(task)) {
                waiting.iter().for_each(|notify| notify.notify_one());
            }
        }
        if wake.seq > 0 {
            self.0.seq.send_replace(wake.seq);
        }
    }

    fn ring_all(&self) {
        self.tasks().values().flatten().for_each(|notify| notify.notify_one());
        self.0.seq.send_modify(|_| {});
    }

    /// Rings when this task ends or says something, also between this call and the wait: ask for the task after calling
    /// this.
    pub fn on_task(&self, task: TaskId) -> OnTask {
        let notify = Arc::new(Notify::new());
        self.tasks().entry(task).or_default().push(notify.clone());
        OnTask { bell: self.clone(), task, notify }
    }

    /// Changes with every commit that added to the log.
    pub fn on_log(&self) -> watch::Receiver<i64> {
        self.0.seq.subscribe()
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskId, Vec<Arc<Notify>>>> {
        self.0.tasks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Waits for one task. Dropped, it no longer does.
#[derive(Debug)]
pub struct OnTask {
    bell: Bell,
    task: TaskId,
    notify: Arc<Notify>,
}

impl OnTask {
    /// Until it rings, or it is time to look anyway.
    pub async fn wait(&self) {
        // Either way the caller looks.
        let _ = tokio::time::timeout(LOOK, self.notify.notified()).await;
    }
}

impl Drop for OnTask {
    fn drop(&mut self) {
        let mut tasks = self.bell.tasks();
        if let Some(waiting) = tasks.get_mut(&self.task) {
            waiting.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
            if waiting.is_empty() {
                tasks.remove(&self.task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hostler_model::{Ids, Timestamp};
    use tokio::sync::broadcast;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ring_before_the_wait_is_not_lost_and_nothing_is_left_behind() {
        let (sender, receiver) = broadcast::channel(4);
        let bell = Bell::start(receiver, CancellationToken::new());
        let task = Ids::seeded(1).next(Timestamp::from_micros(0));
        let on_task = bell.on_task(task);
        bell.ring(&Wakes { ended: vec![task], ..Wakes::default() });
        let began = tokio::time::Instant::now();
        on_task.wait().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        on_task.wait().await;
        assert_eq!(began.elapsed(), LOOK);
        drop(on_task);
        assert!(bell.tasks().is_empty());
        drop(sender);
    }
}
