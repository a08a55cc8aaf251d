//! An attempt under way: its fence, its phases, and why it is to stop. And the attempts of the whole agent, by task.
//!
//! Never here: the journal, the network. What stops an attempt only says so; the handler's future is dropped elsewhere.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use hostler_model::{
    Fence, TaskId, Timestamp,
    internal::HeldLease,
    kind::{Class, KindName},
    node::Slots,
    task::{Intent, PhaseTiming, Progress},
    task_log::{self, Said},
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Why an attempt is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The server says so: to be undone.
    Abort,
    /// Its time is up: to be undone.
    Deadline,
    /// The server says that it is over: another attempt is current. Nothing more may be touched.
    Over,
}

/// One attempt at one task.
#[derive(Debug)]
pub struct Attempt {
    /// Which task.
    pub task: TaskId,
    /// Of which kind.
    pub kind: KindName,
    fence: Mutex<Fence>,
    stop: CancellationToken,
    cause: OnceLock<Cause>,
    gone: CancellationToken,
    started_at: OnceLock<Timestamp>,
    phases: Mutex<Phases>,
    progress: watch::Sender<Progress>,
    lines: Mutex<Lines>,
}

/// Lines that the server has not acknowledged, as many as one report takes. When there are more, the oldest go.
#[derive(Default, Debug)]
struct Lines {
    kept: VecDeque<Said>,
    last: Timestamp,
    left_out: Option<(Timestamp, usize)>,
}

impl Lines {
    fn add(&mut self, text: &str, now: Timestamp) {
        // Each later than the one before: that is how the server knows a repeat.
        self.last = now.max(Timestamp::from_micros(self.last.as_micros() + 1));
        self.kept.push_back(Said { at: self.last, text: task_log::tidy(text) });
        // One place is for the line that says how many are missing.
        if self.kept.len() >= task_log::PER_REPORT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.left_out = Some((oldest.at, self.left_out.map_or(1, |(_, n)| n + 1)));
        }
    }

    fn pending(&self) -> Vec<Said> {
        let missing =
            |(at, n): (Timestamp, usize)| Said { at, text: format!("… {n} lines left out: too many at once") };
        self.left_out.map(missing).into_iter().chain(self.kept.iter().cloned()).collect()
    }

    fn acknowledge(&mut self, upto: Timestamp) {
        self.kept.retain(|line| line.at > upto);
        self.left_out = self.left_out.filter(|(at, _)| *at > upto);
    }
}

#[derive(Default, Debug)]
struct Phases {
    current: Option<(String, Instant)>,
    done: Vec<PhaseTiming>,
}

impl Phases {
    /// Ends the phase under way.
    fn end(&mut self) {
        if let Some((phase, since)) = self.current.take() {
            self.done.push(PhaseTiming { phase, ms: since.elapsed().as_secs_f64() * 1000.0 });
        }
    }
}

impl Attempt {
    /// One that has not begun.
    pub fn new(task: TaskId, kind: KindName, fence: Fence) -> Attempt {
        Attempt {
            task,
            kind,
            fence: Mutex::new(fence),
            stop: CancellationToken::new(),
            cause: OnceLock::new(),
            gone: CancellationToken::new(),
            started_at: OnceLock::new(),
            phases: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
            lines: Mutex::default(),
        }
    }

    /// The fence it works under now.
    pub fn fence(&self) -> Fence {
        *lock(&self.fence)
    }

    /// The lease it works under now.
    pub fn lease(&self) -> HeldLease {
        HeldLease { task: self.task, fence: self.fence() }
    }

    /// Tells it to stop. The first cause stays.
    pub fn stop(&self, cause: Cause) {
        self.cause.get_or_init(|| cause);
        self.stop.cancel();
    }

    /// Why it is to stop, if it is.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }

    /// Waits until it is to stop.
    pub async fn stopped(&self) -> Cause {
        self.stop.cancelled().await;
        self.cause().unwrap_or(Cause::Abort)
    }

    /// The handler begins.
    pub fn start(&self, now: Timestamp) -> Timestamp {
        *self.started_at.get_or_init(|| now)
    }

    /// When the handler began.
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started_at.get().copied()
    }

    /// The next phase begins.
    pub fn phase(&self, name: &str) {
        let mut phases = lock(&self.phases);
        phases.end();
        phases.current = Some((name.to_owned(), Instant::now()));
        let done = phases.done.clone();
        drop(phases);
        self.progress.send_replace(Progress { phase: name.to_owned(), percent: None, done });
    }

    /// So much of the phase is done.
    pub fn percent(&self, percent: u8) {
        self.progress.send_if_modified(|progress| {
            let changed = progress.percent != Some(percent);
            progress.percent = Some(percent);
            changed
        });
    }

    /// Writes lines for people, one for each line of the text.
    pub fn log(&self, text: &str, now: Timestamp) {
        let mut lines = lock(&self.lines);
        text.lines().for_each(|line| lines.add(line, now));
        drop(lines);
        self.progress.send_modify(|_| {});
    }

    /// The lines that the server has not acknowledged.
    pub fn lines(&self) -> Vec<Said> {
        lock(&self.lines).pending()
    }

    /// The server has these lines.
    pub fn acknowledge(&self, sent: &[Said]) {
        if let Some(last) = sent.last() {
            lock(&self.lines).acknowledge(last.at);
        }
    }

    /// Ends the last phase, and says how long each took.
    pub fn timings(&self) -> Vec<PhaseTiming> {
        let mut phases = lock(&self.phases);
        phases.end();
        std::mem::take(&mut phases.done)
    }

    /// How far it is, as it changes or lines are written.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

/// Every attempt under way, and how many more there may be.
#[derive(Debug)]
pub struct Works {
    slots: Slots,
    boot: Semaphore,
    disk: Semaphore,
    quick: Semaphore,
    guest: Semaphore,
    attempts: Mutex<BTreeMap<TaskId, Arc<Attempt>>>,
    /// Slots for what may be about to begin.
    reserved: Mutex<Slots>,
    /// Told when an attempt has ended.
    freed: Notify,
}

impl Works {
    /// None yet, and at most so many.
    pub fn new(slots: Slots) -> Works {
        let permits = |n: usize| Semaphore::new(n.min(Semaphore::MAX_PERMITS));
        Works {
            slots,
            boot: permits(slots.boot),
            disk: permits(slots.disk),
            quick: permits(slots.quick),
            guest: permits(slots.guest),
            attempts: Mutex::default(),
            reserved: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// The tasks under way. One that was told that it is over is not: it may not adopt a later fence.
    pub fn in_work(&self) -> HashSet<TaskId> {
        let attempts = lock(&self.attempts);
        attempts.values().filter(|attempt| attempt.cause() != Some(Cause::Over)).map(|attempt| attempt.task).collect()
    }

    /// The leases under way.
    pub fn leases(&self) -> Vec<HeldLease> {
        lock(&self.attempts).values().map(|attempt| attempt.lease()).collect()
    }

    /// How many attempts are under way.
    pub fn len(&self) -> usize {
        lock(&self.attempts).len()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more tasks of each class can begin.
    pub fn free(&self) -> Slots {
        let mut free = self.slots;
        let mut take = |class: Class, many: usize| {
            let slots = free.of_mut(class);
            *slots = slots.saturating_sub(many);
        };
        lock(&self.attempts).values().for_each(|attempt| take(attempt.kind.spec().class, 1));
        let reserved = *lock(&self.reserved);
        Class::ALL.into_iter().for_each(|class| take(class, reserved.of(class)));
        free
    }

    /// Waits until a task can begin of a class of which none could then.
    pub async fn opened(&self, then: &Slots) {
        loop {
            let freed = self.freed.notified();
            let free = self.free();
            if Class::ALL.into_iter().any(|class| then.of(class) == 0 && free.of(class) > 0) {
                return;
            }
            freed.await;
        }
    }

    /// Waits for a place for a task of this class, which is kept until what is answered is dropped.
    pub async fn reserve(self: &Arc<Works>, class: Class) -> Reserved {
        loop {
            let freed = self.freed.notified();
            if self.take_place(class) {
                return Reserved { works: self.clone(), class };
            }
            freed.await;
        }
    }

    fn take_place(&self, class: Class) -> bool {
        let attempts = lock(&self.attempts);
        let has = attempts.values().filter(|attempt| attempt.kind.spec().class == class).count();
        let mut reserved = lock(&self.reserved);
        let free = has + reserved.of(class) < self.slots.of(class);
        *reserved.of_mut(class) += usize::from(free);
        free
    }

    /// Adds an attempt. An earlier one of the same task that is on its way out comes back: to be waited for.
    pub fn add(&self, attempt: Arc<Attempt>) -> Option<Arc<Attempt>> {
        lock(&self.attempts).insert(attempt.task, attempt)
    }

    /// The work on a task goes on under this fence, or is stopped.
    pub fn adopt(&self, task: TaskId, fence: Fence, intent: Intent) {
        let Some(attempt) = lock(&self.attempts).get(&task).cloned() else { return };
        {
            let mut current = lock(&attempt.fence);
            *current = fence.max(*current);
        }
        match intent {
            Intent::Run => {}
            Intent::Abort => attempt.stop(Cause::Abort),
        }
    }

    /// The server wants this task stopped and undone.
    pub fn abort(&self, task: TaskId) {
        if let Some(attempt) = lock(&self.attempts).get(&task) {
            attempt.stop(Cause::Abort);
        }
    }

    /// The server says that this attempt is over; a later fence of the same task is not meant.
    pub fn over(&self, held: HeldLease) {
        if let Some(attempt) = lock(&self.attempts).get(&held.task).filter(|attempt| attempt.fence() == held.fence) {
            attempt.stop(Cause::Over);
        }
    }

    /// An attempt has ended.
    pub fn remove(&self, attempt: &Arc<Attempt>) {
        let mut attempts = lock(&self.attempts);
        if attempts.get(&attempt.task).is_some_and(|current| Arc::ptr_eq(current, attempt)) {
            attempts.remove(&attempt.task);
        }
        drop(attempts);
        attempt.gone.cancel();
        // Whoever waits looks for its own class.
        self.freed.notify_waiters();
    }

    /// Waits until this attempt has ended.
    pub async fn gone(attempt: &Attempt) {
        attempt.gone.cancelled().await;
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        loop {
            let freed = self.freed.notified();
            if self.is_empty() {
                return;
            }
            freed.await;
        }
    }

    /// Waits for a slot of this class. `None` never comes: the semaphores are never closed.
    pub async fn slot(&self, class: Class) -> Option<SemaphorePermit<'_>> {
        let slots = match class {
            Class::Boot => &self.boot,
            Class::Disk => &self.disk,
            Class::Quick => &self.quick,
            Class::Guest => &self.guest,
        };
        slots.acquire().await.ok()
    }
}

/// A place for a task that may be about to begin.
#[derive(Debug)]
pub struct Reserved {
    works: Arc<Works>,
    class: Class,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        *lock(&self.works.reserved).of_mut(self.class) -= 1;
        self.works.freed.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use hostler_model::Ids;

    use super::*;

    const SLOTS: Slots = Slots { boot: 4, disk: 2, quick: 64, guest: 8 };

    fn attempt(ids: &Ids, kind: KindName) -> Attempt {
        Attempt::new(ids.next(Timestamp::from_micros(0)), kind, Fence { store_epoch: 1, attempt: 1 })
    }

    fn add(works: &Works, ids: &Ids, kind: KindName, many: usize) {
        for _ in 0..many {
            works.add(Arc::new(attempt(ids, kind)));
        }
    }

    #[test]
    fn lines_are_bounded_and_stay_until_they_are_acknowledged() {
        let (attempt, now) = (attempt(&Ids::seeded(1), KindName::Echo), Timestamp::from_micros(7));
        attempt.log("one\ntwo\n", now);
        let sent = attempt.lines();
        assert_eq!(sent.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        assert!(sent[0].at < sent[1].at);
        attempt.log("three", now);
        assert_eq!(attempt.lines().len(), 3);
        attempt.acknowledge(&sent);
        assert_eq!(attempt.lines().iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["three"]);
        (0..1000).for_each(|n| attempt.log(&n.to_string(), now));
        let lines = attempt.lines();
        assert_eq!(lines.len(), task_log::PER_REPORT);
        assert_eq!(
            (lines[0].text.as_str(), lines[63].text.as_str()),
            ("… 938 lines left out: too many at once", "999")
        );
        assert!(lines.is_sorted_by_key(|line| line.at));
        attempt.acknowledge(&lines);
        assert!(attempt.lines().is_empty());
    }

    #[test]
    fn a_class_that_is_full_leaves_the_others_free() {
        let (works, ids) = (Works::new(SLOTS), Ids::seeded(1));
        add(&works, &ids, KindName::VmCreate, 3);
        assert_eq!(Class::ALL.map(|class| works.free().of(class)), [1, 2, 64, 8]);
        // What an agent before this one left may be more than there are slots.
        add(&works, &ids, KindName::VmCreate, 7);
        assert_eq!(Class::ALL.map(|class| works.free().of(class)), [0, 2, 64, 8]);
        add(&works, &ids, KindName::Echo, 60);
        add(&works, &ids, KindName::VmExec, 8);
        assert_eq!(Class::ALL.map(|class| works.free().of(class)), [0, 2, 4, 0]);
        assert!(works.free().of(KindName::VmStop.spec().class) > 0, "a stop waits for programs");
    }

    #[tokio::test]
    async fn a_place_that_is_kept_is_nobody_elses() {
        let works = Arc::new(Works::new(Slots::each(1)));
        let kept = works.reserve(Class::Quick).await;
        assert_eq!([Class::Quick, Class::Boot].map(|class| works.free().of(class)), [0, 1]);
        let waiting = tokio::spawn({
            let works = works.clone();
            async move { drop(works.reserve(Class::Quick).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(kept);
        waiting.await.unwrap();
        assert_eq!(works.free().quick, 1);
    }

    #[tokio::test]
    async fn only_a_class_that_was_full_opens() {
        let (works, ids) = (Arc::new(Works::new(Slots::each(2))), Ids::seeded(1));
        let boots = [(); 2].map(|()| Arc::new(attempt(&ids, KindName::VmCreate)));
        let echo = Arc::new(attempt(&ids, KindName::Echo));
        boots.iter().chain([&echo]).for_each(|attempt| drop(works.add(attempt.clone())));
        let then = works.free();
        assert_eq!((then.boot, then.quick), (0, 1));
        let opened = tokio::spawn({
            let works = works.clone();
            async move { works.opened(&then).await }
        });
        tokio::task::yield_now().await;
        works.remove(&echo);
        tokio::task::yield_now().await;
        assert!(!opened.is_finished(), "of a class with a free slot one more changes nothing");
        works.remove(&boots[0]);
        opened.await.unwrap();
    }
}
