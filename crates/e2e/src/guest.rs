//! What a test sees of the guests of its host: how much they were let work, and what they said last.

use std::{fs, path::Path, time::Duration};

use crate::process;

/// How much of a console is shown.
const LINES: usize = 20;

/// The processor time that QEMUs of this folder have had, all together.
pub fn worked(home: &Path) -> Duration {
    process::qemus(home).into_iter().map(of_process).sum()
}

fn of_process(pid: i32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    threads.filter_map(of_thread).sum()
}

/// Whether whoever has waited for guests for so long waits as long again: they have worked a little since he last looked, and
/// not yet as much as a boot takes. A guest that hangs does not work, or does and comes to nothing.
pub fn are_kept_from_work(before: Duration, now: Duration, patience: Duration) -> bool {
    now >= before + patience / 20 && now < patience / 2
}

/// For whoever asks why a guest did not come up: what each QEMU of this folder has worked, and the last lines of each
/// console below `vms`.
pub fn told(home: &Path, vms: &Path) -> String {
    let working =
        process::qemus(home).into_iter().map(|pid| format!("QEMU {pid} has worked {:.1?}\n", of_process(pid)));
    let consoles = fs::read_dir(vms).into_iter().flatten().flatten().filter_map(|machine| {
        let console = machine.path().join("console.log");
        let text = String::from_utf8_lossy(&fs::read(&console).ok()?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
        Some(format!("{} ends with\n{last}\n", console.display()))
    });
    working.chain(consoles).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::Instant,
    };

    use super::*;

    #[test]
    fn guests_that_others_keep_from_work_have_more_time_and_those_that_hang_do_not() {
        let seconds = Duration::from_secs;
        let more = |before, now| are_kept_from_work(seconds(before), seconds(now), seconds(120));
        assert!(more(0, 6) && more(6, 30), "it got a little");
        assert!(!more(0, 0) && !more(30, 31), "it does nothing");
        assert!(!more(0, 60), "it had as much as any boot takes");
    }

    #[test]
    fn what_a_guest_worked_and_said_last_is_told() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("vms/m")).unwrap();
        fs::write(home.path().join("vms/m/console.log"), format!("{}the last words\n", "a line\n".repeat(99))).unwrap();
        let mut busy = Command::new("sh");
        busy.args(["-c", "while :; do :; done", "qemu-system-none"]).arg(home.path()).stdin(Stdio::null());
        let mut busy = busy.spawn().unwrap();
        let begun = Instant::now();
        while worked(home.path()) < Duration::from_millis(20) {
            assert!(begun.elapsed() < Duration::from_secs(60), "its work is not seen");
        }
        let told = told(home.path(), &home.path().join("vms"));
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(told.starts_with(&format!("QEMU {} has worked ", busy.id())), "{told}");
        assert!(told.ends_with("the last words\n"), "{told}");
        assert_eq!(told.matches("a line").count(), LINES - 1, "{told}");
    }
}
