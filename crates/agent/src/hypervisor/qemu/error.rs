//! The driver's errors, each with its code and what to do next.

use std::{fmt::Display, io};

use hostler_model::error::Code;

use crate::hypervisor::DriverError;

/// The hypervisor could not do it; another attempt may.
pub(super) fn failed(detail: impl Into<String>) -> DriverError {
    DriverError { code: Code::HypervisorFailed, detail: detail.into(), retryable: true }
}

/// It cannot be done as asked, however often.
pub(super) fn refused(detail: impl Into<String>) -> DriverError {
    DriverError { code: Code::HypervisorFailed, detail: detail.into(), retryable: false }
}

/// A file operation failed: a full disk has a code of its own.
pub(super) fn storage(what: impl Display, error: &io::Error) -> DriverError {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if full {
        return disk_full(format!("{what}: {error}"));
    }
    failed(format!("{what}: {error}"))
}

/// The node's disk is full.
pub(super) fn disk_full(detail: impl Display) -> DriverError {
    DriverError {
        code: Code::NodeStorageFull,
        detail: format!(
            "{detail}; the node's disk is full: delete machines or images there, or let the task run on another node"
        ),
        retryable: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_a_code_of_its_own() {
        for full in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            assert_eq!(storage("the spec cannot be written", &full.into()).code, Code::NodeStorageFull);
        }
        assert_eq!(storage("the spec cannot be written", &rustix::io::Errno::IO.into()).code, Code::HypervisorFailed);
    }
}
