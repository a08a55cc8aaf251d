//! Named points at which a test kills this process with signal 9. Only in builds with the feature `crash-points`.
//!
//! `HOSTLER_CRASH_FILE` names a file; while it holds a point's name, the process that comes to that point kills itself.

use std::path::PathBuf;

/// Every point there is.
const POINTS: &[&str] = &[
    "store.submit.before_commit",
    "store.submit.after_commit",
    "store.lease.before_commit",
    "store.lease.after_commit",
    "store.confirm.before_commit",
    "store.confirm.after_commit",
    "store.start.before_commit",
    "store.start.after_commit",
    "store.settle.before_commit",
    "store.settle.after_commit",
    "store.cancel.before_commit",
    "store.cancel.after_commit",
    "agent.offered.before_commit",
    "agent.offered.after_commit",
    "agent.accept.before_commit",
    "agent.accept.after_commit",
    "agent.finish.before_commit",
    "agent.finish.after_commit",
    "agent.report.before",
    "agent.report.after",
    "agent.qemu.before_start",
    "agent.qemu.after_start",
    "agent.qemu.after_record",
    "agent.qemu.before_kill",
    "agent.qemu.after_kill",
    "agent.snapshot.begun",
    "agent.snapshot.memory",
    "agent.snapshot.frozen",
    "agent.snapshot.layer",
    "agent.snapshot.taken",
    "agent.snapshot.removed",
    "agent.flatten.begun",
    "agent.flatten.copied",
    "agent.flatten.pulled",
    "agent.flatten.flat",
    "agent.restore.stopped",
    "agent.restore.layer",
    "agent.restore.started",
    "agent.restore.running",
    "restore.before_epoch",
    "store.vm.before_commit",
    "store.vm.after_commit",
    "agent.qemu.edit.after_spec",
    "agent.qemu.edit.after_forwards",
];

/// Arms every point, if the environment says so.
pub(crate) fn arm() {
    let Some(file) = std::env::var_os("HOSTLER_CRASH_FILE").map(PathBuf::from) else { return };
    for point in POINTS {
        let file = file.clone();
        let armed = fail::cfg_callback(*point, move || {
            if std::fs::read_to_string(&file).is_ok_and(|named| named.trim() == *point) {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
        });
        if let Err(error) = armed {
            tracing::error!(point, error, "a crash point cannot be armed");
        }
    }
}
