//! Group commit: one committer per kind of step takes what has gathered, runs one step, and answers all.
//!
//! ```text
//! callers ──► queue ──► committer: one step over what gathered ──► durable ──► answers, split as they came
//! ```
//!
//! An error that an item may have made bisects the batch, so that one poisoned item cannot fail its neighbours. A full
//! disk, or a transaction that cannot begin or be committed, is everybody's error at once. Committers are tokio tasks; each starts with the first call, in the caller's runtime, and
//! ends with the last handle of the store. Inline there is none: the caller runs its step alone.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use hostler_db::Mode;
use hostler_model::{Code, Refusal};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Answer, Error, Result,
    work::{Context, Work},
};

/// Callers that may wait in one queue before others wait outside it.
const QUEUE: usize = 4096;

/// A kind of step over a batch.
pub(crate) trait Step: 'static {
    /// One item of a batch.
    type Item: Clone + Send + Sync + 'static;
    /// What an accepted item is answered.
    type Output: Send + 'static;
    /// Names its crash points.
    const LABEL: &'static str;
    /// How many items one step takes at most.
    const MOST: usize;

    /// Answers each item, in order.
    fn run(work: &mut Work<'_>, items: &[Self::Item]) -> hostler_db::Result<Vec<Answer<Self::Output>>>;
}

/// One caller's items, and where it waits.
struct Call<S: Step> {
    items: Vec<S::Item>,
    answer: oneshot::Sender<Answers<S>>,
}

/// The outcome of each item.
type Outcomes<S> = Vec<Result<Answer<<S as Step>::Output>>>;
type Answers<S> = Result<Vec<Answer<<S as Step>::Output>>>;

/// The handle of one committer.
pub(crate) struct Committer<S: Step> {
    context: Arc<Context>,
    mode: Mode,
    queue: Mutex<Option<mpsc::Sender<Call<S>>>>,
}

impl<S: Step> fmt::Debug for Committer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Committer").field(&S::LABEL).finish()
    }
}

impl<S: Step> Committer<S> {
    pub(crate) fn new(context: Arc<Context>, mode: Mode) -> Self {
        Committer { context, mode, queue: Mutex::new(None) }
    }

    /// Runs a batch together with others that came meanwhile.
    pub(crate) async fn run(&self, items: Vec<S::Item>) -> Answers<S> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        if self.mode == Mode::Inline {
            return together(attempt::<S>(&self.context, items).await);
        }
        let (answer, answered) = oneshot::channel();
        self.queue().send(Call { items, answer }).await.map_err(|_| Error::Closing)?;
        answered.await.map_err(|_| Error::Closing)?
    }

    /// The committer's queue; a committer whose runtime has gone is started again in this one.
    fn queue(&self) -> mpsc::Sender<Call<S>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.as_ref().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender.clone(),
            None => {
                let (sender, calls) = mpsc::channel(QUEUE);
                tokio::spawn(commit::<S>(self.context.clone(), calls));
                queue.insert(sender).clone()
            }
        }
    }
}

async fn commit<S: Step>(context: Arc<Context>, mut calls: mpsc::Receiver<Call<S>>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(call) => call,
            None => match calls.recv().await {
                Some(call) => call,
                None => return,
            },
        };
        // Those whom the last step answered are about to come again: let them, or one of them gets a commit of its own.
        tokio::task::yield_now().await;
        let mut gathered = vec![first];
        let mut count = gathered[0].items.len();
        while let Ok(call) = calls.try_recv() {
            if count + call.items.len() > S::MOST {
                next = Some(call);
                break;
            }
            count += call.items.len();
            gathered.push(call);
        }
        serve::<S>(&context, gathered).await;
    }
}

async fn serve<S: Step>(context: &Arc<Context>, gathered: Vec<Call<S>>) {
    let mut items = Vec::new();
    let mut callers = Vec::with_capacity(gathered.len());
    for Call { items: theirs, answer } in gathered {
        callers.push((theirs.len(), answer));
        items.extend(theirs);
    }
    let mut outcomes = attempt::<S>(context, items).await.into_iter();
    for (count, answer) in callers {
        // The caller may have gone; what was committed stays committed.
        drop(answer.send(together(outcomes.by_ref().take(count).collect())));
    }
}

/// Runs one step over the items; when it fails, halves of it, down to the items that fail alone.
async fn attempt<S: Step>(context: &Arc<Context>, items: Vec<S::Item>) -> Outcomes<S> {
    let items: Arc<[S::Item]> = items.into();
    let mut outcomes = Vec::with_capacity(items.len());
    let whole = 0..items.len();
    let mut pieces = vec![whole];
    while let Some(piece) = pieces.pop() {
        let (shared, range) = (items.clone(), piece.clone());
        match context.step(S::LABEL, move |work| S::run(work, &shared[range])).await {
            Ok(answers) => outcomes.extend(answers.into_iter().map(Ok)),
            Err(error) if error.is_outage() => {
                tracing::error!(%error, step = S::LABEL, items = piece.len(), "a batch failed");
                outcomes.extend(piece.map(|_| Err(again(&error))));
            }
            Err(error) if piece.len() == 1 => {
                tracing::error!(%error, step = S::LABEL, "an item of a batch failed");
                outcomes.push(Err(error));
            }
            Err(error) => {
                tracing::warn!(%error, step = S::LABEL, items = piece.len(), "a batch failed; trying its halves");
                let middle = piece.start + piece.len() / 2;
                pieces.push(middle..piece.end);
                pieces.push(piece.start..middle);
            }
        }
    }
    outcomes
}

/// The same error for one more item.
fn again(error: &Error) -> Error {
    match error {
        Error::Full(hostler_db::Error::Full { path }) => Error::Full(hostler_db::Error::Full { path: path.clone() }),
        Error::Full(other) | Error::Database(other) => Error::Database(hostler_db::Error::Lost(other.to_string())),
        Error::Closing => Error::Closing,
    }
}

/// One caller's answer: its items' answers, or the error when all of them failed.
fn together<T>(outcomes: Vec<Result<Answer<T>>>) -> Result<Vec<Answer<T>>> {
    let all_failed = !outcomes.is_empty() && outcomes.iter().all(Result::is_err);
    let answer = |outcome: Result<Answer<T>>| match outcome {
        Ok(answer) => Ok(answer),
        Err(error) if all_failed => Err(error),
        Err(_) => Ok(Err(Refusal::new(Code::Internal, "the store failed on this item; its neighbours are done"))),
    };
    outcomes.into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests;
