//! Readers: threads, each with a connection of its own, that answer queries from what was committed.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
};

use tokio::sync::oneshot;

use crate::{Error, Purpose, Result, Session, Tx, writer::attempt};

/// Of a file: one for long lists, one that is then still free for short look-ups.
pub(crate) const OF_A_FILE: usize = 2;
/// Of a server: each waits for answers most of its time.
pub(crate) const OF_A_SERVER: usize = 4;

type Job = Box<dyn FnOnce(&Session) + Send>;

/// The handle of the reader threads; they end when every handle is gone.
pub(crate) struct Readers(mpsc::Sender<Job>);

impl Readers {
    pub(crate) fn start(threads: usize, session: impl Fn() -> Result<Session>) -> Result<Readers> {
        let (sender, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let (session, queue) = (session()?, queue.clone());
            thread::Builder::new()
                .name(format!("reader-{number}"))
                .spawn(move || {
                    loop {
                        let job = queue.lock().expect("no panic while held").recv();
                        let Ok(job) = job else { break };
                        job(&session);
                        // A read that panicked, or that could not end, must not leave its old state to the next.
                        session.rollback();
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
        let job: Job = Box::new(move |session| {
            // Nobody waits any more: the thread is free for those who do.
            if !sender.is_closed() {
                drop(sender.send(consistent(session, query)));
            }
        });
        self.0.send(job).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// All statements of one read see one state.
fn consistent<T>(session: &Session, query: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
    session.begin(Purpose::Read)?;
    attempt(&session.tx(), query)
}
