//! The writer: a thread that owns the one writing connection and commits what gathered together.

use std::{
    iter,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
};

use tokio::sync::oneshot;

use crate::{Error, Purpose, Result, Session, Tx, session::lost};

/// At most this many steps share a commit: enough to make fsync cheap, few enough that nobody waits long.
const GROUP: usize = 64;

/// A step in the queue: runs in the transaction, or hears why there is none, and hands back what answers its caller
/// after the commit.
struct Job {
    label: &'static str,
    run: Run,
}

type Run = Box<dyn FnOnce(Result<&Tx<'_>>) -> Done + Send>;

/// What became of a step inside the transaction.
struct Done {
    /// Why it failed, for those whom it takes with it.
    error: Option<Error>,
    answer: Box<dyn FnOnce(Result<()>) + Send>,
}

impl Done {
    /// As it is once all that the step wrote is known to be written.
    fn settled(self, session: &Session) -> Done {
        match self.error {
            Some(_) => self,
            None => match session.settle() {
                Ok(()) => self,
                Err(error) => self.failed(error),
            },
        }
    }

    fn failed(self, error: Error) -> Done {
        Done { error: Some(again(&error)), answer: Box::new(move |_| (self.answer)(Err(error))) }
    }
}

impl Job {
    fn new<T, F>(label: &'static str, step: F) -> (Job, oneshot::Receiver<Result<T>>)
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let run = Box::new(move |tx: Result<&Tx<'_>>| {
            let outcome = tx.and_then(|tx| attempt(tx, step));
            Done {
                error: outcome.as_ref().err().map(again),
                // The caller may have gone; what was committed stays committed.
                answer: Box::new(move |commit| drop(sender.send(commit.and(outcome)))),
            }
        });
        (Job { label, run }, answer)
    }
}

/// The handle of the writer thread; the thread ends when every handle is gone.
pub(crate) struct Writer(mpsc::Sender<Job>);

impl Writer {
    pub(crate) fn start(name: &str, session: Session) -> Result<Writer> {
        let (sender, queue) = mpsc::channel();
        thread::Builder::new()
            .name(format!("{name}-writer"))
            .spawn(move || work(&session, &queue))
            .map_err(|e| Error::Aborted(format!("the writer thread cannot start: {e}")))?;
        Ok(Writer(sender))
    }

    pub(crate) async fn run<T, F>(&self, label: &'static str, step: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (job, answer) = Job::new(label, step);
        self.0.send(job).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// Runs one step where it is called.
pub(crate) fn run_inline<T, F>(session: &Session, label: &'static str, step: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
{
    let (job, mut answer) = Job::new(label, step);
    commit_alone(session, job);
    answer.try_recv().unwrap_or(Err(Error::Closed))
}

/// Runs one step in a transaction of its own, which goes with it when it fails.
fn commit_alone(session: &Session, Job { label, run }: Job) {
    if let Err(error) = session.begin(Purpose::Write) {
        return (run(Err(error)).answer)(Ok(()));
    }
    let Done { error, answer } = run(Ok(&session.tx()));
    if !session.is_open() {
        return answer(Err(lost(error.as_ref())));
    }
    if error.is_some() {
        session.rollback();
        // Its own error is its answer.
        return answer(Ok(()));
    }
    crash(label, "before_commit");
    let committed = session.commit();
    crash(label, "after_commit");
    answer(committed);
}

fn work(session: &Session, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let more: Vec<Job> = queue.try_iter().take(GROUP - 1).collect();
        match more.is_empty() {
            true => commit_alone(session, first),
            false => commit_together(session, iter::once(first).chain(more).collect()),
        }
    }
}

fn commit_together(session: &Session, jobs: Vec<Job>) {
    let labels: Vec<&'static str> = jobs.iter().map(|job| job.label).collect();
    let mut jobs = jobs.into_iter();
    let mut done = Vec::with_capacity(labels.len());
    let ran = session.begin(Purpose::Write).and_then(|()| run_each(session, &mut jobs, &mut done));
    labels.iter().for_each(|label| crash(label, "before_commit"));
    let committed = ran.and_then(|()| session.commit());
    labels.iter().for_each(|label| crash(label, "after_commit"));
    for Done { answer, .. } in done {
        answer(committed.as_ref().copied().map_err(again));
    }
    if let Err(error) = &committed {
        jobs.for_each(|job| ((job.run)(Err(again(error))).answer)(Ok(())));
    }
}

/// Runs the steps one after the other, as long as there is a transaction. The engine may roll the whole of it back inside
/// a step (the disk, memory, a connection that broke): a step after that would be a transaction of its own, committed
/// although its caller hears of a failure.
fn run_each(session: &Session, jobs: &mut impl Iterator<Item = Job>, done: &mut Vec<Done>) -> Result<()> {
    for job in jobs {
        let last = in_savepoint(session, job);
        let gone = (!session.is_open()).then(|| lost(last.error.as_ref()));
        done.push(last);
        if let Some(error) = gone {
            return Err(error);
        }
    }
    Ok(())
}

fn in_savepoint(session: &Session, job: Job) -> Done {
    let mark = match session.mark() {
        Ok(mark) => mark,
        Err(error) => return (job.run)(Err(error)),
    };
    let done = (job.run)(Ok(&session.tx())).settled(session);
    if !session.is_open() {
        return done;
    }
    let undone = if done.error.is_none() { Ok(()) } else { session.undo(&mark) };
    match undone.and_then(|()| session.unmark(mark)) {
        Ok(()) => done,
        Err(error) => {
            // What the step wrote cannot be told from what its neighbours wrote any more: none of it may be committed.
            session.rollback();
            done.failed(error)
        }
    }
}

impl Tx<'_> {
    /// Runs a part of a step that may fail without the rest: what it wrote is undone then, and nothing else of the step.
    ///
    /// # Errors
    /// The part's own, after which the step may go on; an outage when there is no transaction any more.
    pub fn part<T>(&self, part: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let gone = |error| lost(Some(&error));
        let mark = self.0.mark().map_err(gone)?;
        let done = attempt(self, part).and_then(|done| self.0.settle().map(|()| done));
        if !self.0.is_open() {
            return Err(lost(done.as_ref().err()));
        }
        if done.is_err() {
            self.0.undo(&mark).map_err(gone)?;
        }
        self.0.unmark(mark).map_err(gone)?;
        done
    }
}

/// The same error for one more caller.
fn again(error: &Error) -> Error {
    match error {
        Error::Full { path } => Error::Full { path: path.clone() },
        Error::Lost(why) => Error::Lost(why.clone()),
        other if other.is_outage() => Error::Lost(other.to_string()),
        other => Error::Aborted(other.to_string()),
    }
}

/// A panic in a step is that step's failure, not the writer's end.
pub(crate) fn attempt<T>(tx: &Tx<'_>, step: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(|| step(tx))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Error::Aborted(format!("a step panicked: {}", text.unwrap_or("?"))))
    })
}

/// A point at which a test may kill the process; nothing in a build without the feature.
fn crash(label: &str, point: &str) {
    let _ = (label, point);
    #[cfg(feature = "crash-points")]
    fail::eval(&format!("{label}.{point}"), |_| ());
}
