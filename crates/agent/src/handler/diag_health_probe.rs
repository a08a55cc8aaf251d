//! `diag.health_probe`: reads what the host is and has. It changes nothing.

use hostler_model::{
    error::Code,
    kind::{DiagHealthProbe, HealthProbeOutput},
};

use super::{Begun, Failure, Handler, Job, Undo};
use crate::{blocking, host};

impl Handler for DiagHealthProbe {
    async fn run(job: &Job<DiagHealthProbe>) -> Result<HealthProbeOutput, Failure> {
        let (root, data) = (job.tools.root.clone(), job.tools.data.clone());
        // Files below /sys can take milliseconds each.
        blocking::run(job.tools.mode, move || host::health_probe(&root, &data)).await.map_err(|error| Failure {
            code: Code::HandlerFailed,
            detail: format!("the probe broke down: {error}"),
            retryable: false,
        })
    }

    async fn undo(_: &Job<DiagHealthProbe>, _: Begun) -> Undo<HealthProbeOutput> {
        Undo::Undone
    }
}
