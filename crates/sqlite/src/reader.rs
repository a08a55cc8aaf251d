//! Readers: two threads, each with a connection of its own, that answer queries from what was committed.

use std::{
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use rusqlite::OpenFlags;
use tokio::sync::oneshot;

use crate::{
    Error, Result, Tx, connect,
    writer::{attempt, rollback},
};

/// One for long lists, one that is then still free for short look-ups.
const THREADS: usize = 2;

type Job = Box<dyn FnOnce(&Tx<'_>) + Send>;

/// The handle of the reader threads; they end when every handle is gone.
pub(crate) struct Readers(mpsc::Sender<Job>);

impl Readers {
    pub(crate) fn start(path: &Path) -> Result<Readers> {
        let (sender, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..THREADS {
            let connection = connect(path, OpenFlags::default())?;
            connection.pragma_update(None, "query_only", "ON").map_err(|e| crate::wrap(path, e))?;
            let (queue, path) = (queue.clone(), path.to_owned());
            thread::Builder::new()
                .name(format!("reader-{number}"))
                .spawn(move || {
                    loop {
                        let job = queue.lock().expect("no panic while held").recv();
                        let Ok(job) = job else { break };
                        job(&Tx { connection: &connection, path: &path });
                        // A read that panicked, or that could not end, must not leave its old state to the next.
                        rollback(&connection);
                    }
                })
                .map_err(|e| Error::Aborted(format!("a reader thread cannot start: {e}")))?;
        }
        Ok(Readers(sender))
    }

    pub(crate) async fn run<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            // Nobody waits any more: the thread is free for those who do.
            if !sender.is_closed() {
                drop(sender.send(attempt(tx, |tx| consistent(tx, query))));
            }
        });
        self.0.send(job).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// All statements of one read see one state.
fn consistent<T>(tx: &Tx<'_>, query: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
    tx.script("BEGIN")?;
    let outcome = query(tx);
    tx.script("COMMIT")?;
    outcome
}
