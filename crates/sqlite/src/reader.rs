//! Readers: two threads, each with a connection of its own, that answer queries from what was committed.

use std::{
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use rusqlite::OpenFlags;
use tokio::sync::oneshot;

use crate::{Error, Result, Tx, connect};

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
        // A read that panics drops its sender; the thread survives for the next.
        let job: Job = Box::new(move |tx| {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| consistent(tx, query)));
            if let Ok(outcome) = outcome {
                drop(sender.send(outcome));
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
