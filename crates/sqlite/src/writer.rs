//! The writer: a thread that owns the one writing connection and commits what gathered together.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{Error, Result, Tx, wrap};

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

/// The handle of the writer thread; the thread ends when every handle is gone.
pub(crate) struct Writer(mpsc::Sender<Job>);

impl Writer {
    pub(crate) fn start(path: PathBuf, connection: Connection) -> Result<Writer> {
        let (sender, queue) = mpsc::channel();
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or("sqlite").to_owned();
        thread::Builder::new()
            .name(format!("{name}-writer"))
            .spawn(move || work(&path, &connection, &queue))
            .map_err(|e| Error::Aborted(format!("the writer thread cannot start: {e}")))?;
        Ok(Writer(sender))
    }

    pub(crate) async fn run<T, F>(&self, label: &'static str, step: F) -> Result<T>
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
        self.0.send(Job { label, run }).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// Runs one step in a transaction of its own.
pub(crate) fn run_alone<T, F>(path: &Path, connection: &Connection, label: &'static str, step: F) -> Result<T>
where
    F: FnOnce(&Tx<'_>) -> Result<T>,
{
    begin(path, connection)?;
    let outcome = attempt(&Tx { connection, path }, step);
    if connection.is_autocommit() {
        return Err(lost(outcome.as_ref().err()));
    }
    match outcome {
        Ok(value) => {
            crash(label, "before_commit");
            commit(path, connection)?;
            crash(label, "after_commit");
            Ok(value)
        }
        Err(error) => {
            rollback(connection);
            Err(error)
        }
    }
}

fn work(path: &Path, connection: &Connection, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        jobs.extend(queue.try_iter().take(GROUP - 1));
        commit_together(path, connection, jobs);
    }
}

fn commit_together(path: &Path, connection: &Connection, jobs: Vec<Job>) {
    let labels: Vec<&'static str> = jobs.iter().map(|job| job.label).collect();
    let mut jobs = jobs.into_iter();
    let mut done = Vec::with_capacity(labels.len());
    let ran = begin(path, connection).and_then(|()| run_each(&Tx { connection, path }, &mut jobs, &mut done));
    labels.iter().for_each(|label| crash(label, "before_commit"));
    let committed = ran.and_then(|()| commit(path, connection));
    labels.iter().for_each(|label| crash(label, "after_commit"));
    for Done { answer, .. } in done {
        answer(committed.as_ref().copied().map_err(again));
    }
    if let Err(error) = &committed {
        jobs.for_each(|job| ((job.run)(Err(again(error))).answer)(Ok(())));
    }
}

/// Runs the steps one after the other, as long as there is a transaction. SQLite may roll the whole of it back inside a
/// step (the disk, memory): a step after that would be a transaction of its own, committed although its caller hears
/// of a failure.
fn run_each(tx: &Tx<'_>, jobs: &mut impl Iterator<Item = Job>, done: &mut Vec<Done>) -> Result<()> {
    for job in jobs {
        let last = in_savepoint(tx, job);
        let gone = tx.connection.is_autocommit().then(|| lost(last.error.as_ref()));
        done.push(last);
        if let Some(error) = gone {
            return Err(error);
        }
    }
    Ok(())
}

fn in_savepoint(tx: &Tx<'_>, job: Job) -> Done {
    if let Err(error) = control(tx.connection, "SAVEPOINT step").map_err(|e| wrap(tx.path, e)) {
        return (job.run)(Err(error));
    }
    let done = (job.run)(Ok(tx));
    if tx.connection.is_autocommit() {
        return done;
    }
    let undone = if done.error.is_none() { Ok(()) } else { control(tx.connection, "ROLLBACK TO step") };
    match undone.and_then(|()| control(tx.connection, "RELEASE step")).map_err(|e| wrap(tx.path, e)) {
        Ok(()) => done,
        Err(error) => {
            // What the step wrote cannot be told from what its neighbours wrote any more: none of it may be committed.
            rollback(tx.connection);
            Done { error: Some(again(&error)), answer: Box::new(move |_| (done.answer)(Err(error))) }
        }
    }
}

impl Tx<'_> {
    /// Runs a part of a step that may fail without the rest: what it wrote is undone then, and nothing else of the step.
    ///
    /// # Errors
    /// The part's own, after which the step may go on; an outage when there is no transaction any more.
    pub fn part<T>(&self, part: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
        let mark = |sql| control(self.connection, sql).map_err(|e| lost(Some(&wrap(self.path, e))));
        mark("SAVEPOINT part")?;
        let done = attempt(self, part);
        if self.connection.is_autocommit() {
            return Err(lost(done.as_ref().err()));
        }
        if done.is_err() {
            mark("ROLLBACK TO part")?;
        }
        mark("RELEASE part")?;
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

/// Why there is no transaction any more.
fn lost(cause: Option<&Error>) -> Error {
    match cause {
        Some(Error::Full { path }) => Error::Full { path: path.clone() },
        Some(other) => Error::Lost(other.to_string()),
        None => Error::Lost("the transaction ended inside a step".to_owned()),
    }
}

/// A panic in a step is that step's failure, not the writer's end.
pub(crate) fn attempt<T>(tx: &Tx<'_>, step: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(|| step(tx))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Error::Aborted(format!("a step panicked: {}", text.unwrap_or("?"))))
    })
}

/// A statement that begins, marks or ends a transaction: compiled once, for every step runs two of them.
fn control(connection: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

fn begin(path: &Path, connection: &Connection) -> Result<()> {
    // Nothing is open here, unless an earlier rollback failed.
    rollback(connection);
    control(connection, "BEGIN IMMEDIATE").map_err(|e| lost(Some(&wrap(path, e))))
}

fn commit(path: &Path, connection: &Connection) -> Result<()> {
    control(connection, "COMMIT").map_err(|e| {
        rollback(connection);
        lost(Some(&wrap(path, e)))
    })
}

/// Ends a transaction without effect, where one is open.
pub(crate) fn rollback(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = control(connection, "ROLLBACK")
    {
        tracing::error!(%error, "a transaction cannot be rolled back");
    }
}

/// A point at which a test may kill the process; nothing in a build without the feature.
fn crash(label: &str, point: &str) {
    let _ = (label, point);
    #[cfg(feature = "crash-points")]
    fail::eval(&format!("{label}.{point}"), |_| ());
}
