//! Work that waits for the host's disk: on a thread of its own, so that nobody waits with it, or where it is called when
//! the whole agent runs on one thread.

use std::io;

use hostler_db::Mode;

/// Does it, and says what came of it.
///
/// # Errors
/// When it broke down.
pub(crate) async fn run<T: Send + 'static>(mode: Mode, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    match mode {
        Mode::Threads => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
        Mode::Inline => Ok(work()),
    }
}
