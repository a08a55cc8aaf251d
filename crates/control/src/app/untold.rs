//! What gathers for a moment until it is told, so that many of a kind are one entry of the audit. What cannot be told is kept for
//! the next time. Never here: what is of one kind, and how much there is room for.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What gathers.
pub(crate) trait Gather {
    /// What is told of it.
    type Told: Clone;

    /// All that is to be told; nothing of it is left.
    fn take(&mut self) -> Vec<Self::Told>;

    /// What was taken could not be told, and others may have come since.
    fn put_back(&mut self, earlier: Vec<Self::Told>);
}

/// What was not told yet.
#[derive(Debug, Default)]
pub(crate) struct Untold<G>(Mutex<G>);

impl<G: Gather> Untold<G> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, G> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what gathered since this was last done.
    ///
    /// # Errors
    /// Those of `tell`; then all of it is there the next time.
    pub(crate) async fn tell<E>(&self, tell: impl AsyncFnOnce(Vec<G::Told>) -> Result<(), E>) -> Result<(), E> {
        let all = self.lock().take();
        if all.is_empty() {
            return Ok(());
        }
        let told = tell(all.clone()).await;
        if told.is_err() {
            self.lock().put_back(all);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Gather for Vec<u8> {
        type Told = u8;

        fn take(&mut self) -> Vec<u8> {
            std::mem::take(self)
        }

        fn put_back(&mut self, earlier: Vec<u8>) {
            self.splice(..0, earlier);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_told_is_told_with_what_came_since() {
        let untold = Untold::<Vec<u8>>::default();
        untold.tell(async |_| Err("there is nothing to tell")).await.unwrap();
        untold.lock().push(1);
        let failed = untold
            .tell(async |all| {
                assert_eq!(all, [1]);
                untold.lock().push(2);
                Err("the store is away")
            })
            .await;
        assert!(failed.is_err());
        let told = async |all: Vec<u8>| if all == [1, 2] { Ok(()) } else { Err(all) };
        untold.tell(told).await.unwrap();
        assert!(untold.lock().is_empty());
    }
}
