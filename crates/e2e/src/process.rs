//! What runs on this host: found in `/proc`, so that a leak is seen whoever made it.

use std::{fs, path::Path};

/// The pids of processes whose command line names this folder, without ourselves.
pub fn naming(folder: &Path) -> Vec<i32> {
    let needle = folder.display().to_string();
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() as i32 && command_line(*pid).contains(&needle))
        .collect();
    pids.sort_unstable();
    pids
}

/// The QEMU processes among them.
pub fn qemus(folder: &Path) -> Vec<i32> {
    naming(folder).into_iter().filter(|pid| command_line(*pid).contains("qemu-system")).collect()
}

/// Ends a process at once.
pub fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
