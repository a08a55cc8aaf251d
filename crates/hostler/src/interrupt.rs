//! Ctrl-C, while something is waited for: the waiting ends, and who waited says what becomes of the rest. A terminal that
//! goes away counts as well, so that nothing is left behind by a broken connection.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{Exit, Failure};

/// The number of Ctrl-C's signal.
pub const INTERRUPT: i32 = 2;

/// Ctrl-C, the polite request to end, and the terminal's end. From its making on they no longer end the program by themselves.
#[derive(Debug)]
pub struct Interrupt {
    int: Signal,
    term: Signal,
    hangup: Signal,
}

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> Result<Interrupt, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("signals cannot be heard: {error}")))
        };
        Ok(Interrupt {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next signal's number. Dropping the future loses none.
    pub async fn caught(&mut self) -> i32 {
        tokio::select! {
            _ = self.int.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.term.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.hangup.recv() => SignalKind::hangup().as_raw_value(),
        }
    }
}
