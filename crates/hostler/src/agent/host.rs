//! Whether this host is going down: then the agent's end is its machines' end too, and they are asked beforehand.

use std::time::Duration;

use tokio::{process::Command, time::timeout};

/// How long guests may take to turn themselves off. The agent's unit gives it longer (TimeoutStopSec).
pub const GRACE: Duration = Duration::from_secs(90);

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks systemd. A host without it is taken to stay: whoever turns it off stops its machines before.
pub async fn goes_down() -> bool {
    let asked = Command::new("systemctl").arg("is-system-running").kill_on_drop(true).output();
    match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => answer.stdout.trim_ascii() == b"stopping",
        Ok(Err(_)) | Err(_) => false,
    }
}
