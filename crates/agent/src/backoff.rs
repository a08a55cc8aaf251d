//! Pauses between attempts to reach the server, or the broker: 0.1 s, twice that, and so on, to 5 s; half of each by chance, so that
//! a thousand agents do not come back at the same moment.

use std::time::Duration;

use hostler_model::{Ids, retry::Backoff};

const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);

/// One outage: how often it was tried, and what was said of it.
#[derive(Clone, Debug)]
pub struct Outage {
    ids: Ids,
    what: &'static str,
    tries: u32,
    said: String,
}

impl Outage {
    /// None at the moment. `what` names what fails in it, for the log.
    pub fn none(ids: Ids, what: &'static str) -> Outage {
        Outage { ids, what, tries: 0, said: String::new() }
    }

    /// It failed (again): said once for each reason in a row, for a server that cannot be reached may refuse once it can;
    /// then a pause.
    pub async fn pause(&mut self, error: &impl std::fmt::Display) {
        let error = error.to_string();
        if self.said != error {
            tracing::warn!(what = self.what, %error, "there is no way there at the moment; trying until there is");
            self.said = error;
        }
        self.tries = self.tries.saturating_add(1);
        tokio::time::sleep(Backoff::Exponential.pause(FIRST, MOST, self.tries, self.ids.unit())).await;
    }

    /// It worked.
    pub fn over(&mut self) {
        if self.tries > 0 {
            tracing::info!(what = self.what, tries = self.tries, "it works again");
        }
        self.tries = 0;
        self.said.clear();
    }
}
