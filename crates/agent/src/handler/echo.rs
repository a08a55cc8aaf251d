//! `echo`: waits, then gives back what it was told.

use std::time::Duration;

use hostler_model::kind::{Echo, EchoOutput};

use super::{Begun, Failure, Handler, Job, Undo};

impl Handler for Echo {
    async fn run(job: &Job<Echo>) -> Result<EchoOutput, Failure> {
        if job.params.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(job.params.delay_ms)).await;
        }
        Ok(EchoOutput { message: job.params.message.clone() })
    }

    async fn undo(_: &Job<Echo>, _: Begun) -> Undo<EchoOutput> {
        Undo::Undone
    }
}
