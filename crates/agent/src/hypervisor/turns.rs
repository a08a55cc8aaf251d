//! Turns: what is done to one machine is done one after another; different machines do not wait for each other. Whoever
//! is long at it can ask whether somebody waits, and let him by.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

use hostler_model::VmId;
use tokio::sync::{Mutex as Lock, OwnedMutexGuard, watch};

/// The turns of all machines.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<VmId, Arc<Queue>>>);

/// Those who want a turn at one machine.
#[derive(Debug, Default)]
struct Queue {
    turn: Arc<Lock<()>>,
    waiting: watch::Sender<usize>,
}

/// One that waits: dropped, it waits no more.
struct Waiting<'a>(&'a Queue);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    queue: Arc<Queue>,
    _held: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for this machine's turn.
    pub(super) async fn wait(&self, id: VmId) -> Turn {
        let queue = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever holds or awaits a turn has a share of it; the others are forgotten.
            turns.retain(|_, queue| Arc::strong_count(queue) > 1);
            Arc::clone(turns.entry(id).or_default())
        };
        queue.waiting.send_modify(|waiting| *waiting += 1);
        let waiting = Waiting(queue.deref());
        let held = Arc::clone(&queue.turn).lock_owned().await;
        drop(waiting);
        Turn { queue, _held: held }
    }
}

impl Turn {
    /// Waits until somebody else wants a turn at this machine.
    pub(super) async fn wanted(&self) {
        let mut waiting = self.queue.waiting.subscribe();
        // The sender lives as long as the turn.
        let _ = waiting.wait_for(|waiting| *waiting > 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_holds_a_turn_learns_that_somebody_waits_and_a_wait_that_is_given_up_is_none() {
        let (turns, id) = (Arc::new(Turns::default()), VmId(uuid::Uuid::nil()));
        let turn = turns.wait(id).await;
        let given_up = turns.clone();
        let other = tokio::spawn(async move { given_up.wait(id).await });
        turn.wanted().await;
        other.abort();
        assert!(other.await.unwrap_err().is_cancelled());
        assert_eq!(*turn.queue.waiting.borrow(), 0);
        drop(turn);
        let next = turns.wait(id).await;
        assert_eq!(*next.queue.waiting.borrow(), 0);
    }
}
