//! The store's hints, as they come. They can be missed: whoever listens is told so, and looks at everything.

use hostler_store::Wakes;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

/// Hands on each hint until `closing`; `None` where some were missed.
pub(super) async fn each(
    mut wakes: Receiver<Wakes>,
    closing: CancellationToken,
    mut heard: impl FnMut(Option<&Wakes>),
) {
    loop {
        let wake = tokio::select! {
            biased;
            () = closing.cancelled() => return,
            wake = wakes.recv() => wake,
        };
        match wake {
            Ok(wake) => heard(Some(&wake)),
            Err(RecvError::Lagged(_)) => heard(None),
            Err(RecvError::Closed) => return,
        }
    }
}
