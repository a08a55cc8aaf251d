//! What a guest says on its serial console, as far as it tells how its boot is: what cloud-init complained of, its last
//! message, a login prompt. It is how a guest without the guest agent shows that it has booted.
//!
//! ```text
//! console.log   … ─── a line of ours, with which each boot begins ─── … complaints … the last message … web-1 login:
//! ```
//!
//! The text is the guest's, and its tenant may write there what he likes: it decides only whether this one machine is
//! called ready. Never here: what a machine waits for.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{blocking, folder::Folder};
use crate::host::file::{present, printable};

/// Each boot begins with it.
const BOOT: &str = "--- hostler: the machine boots ---";
/// How far back from its end a console is read the first time, in bytes: no more of it is kept (see `logs`).
const REACH: u64 = 9 << 20;
/// How much of a line is looked at, and how much of it is shown.
const LINE: usize = 4096;
/// How many complaints are kept, the last ones.
const COMPLAINTS: usize = 10;

/// Says on a machine's console that what follows is of a new boot. Where that cannot be written, what an earlier boot said
/// is taken for this one's.
pub(super) async fn begin(folder: &Folder) {
    let console = folder.console();
    if let Err(error) = blocking(move || mark(&console)).await {
        tracing::warn!(vm.id = %folder.id(), %error, "a console cannot be written");
    }
}

/// The last lines that the guest wrote, each on a line of its own.
pub(super) fn last_lines(folder: &Folder, lines: usize) -> String {
    let lines = Folder::last_lines(&folder.console(), lines);
    lines.lines().filter(|line| !line.contains(BOOT)).collect::<Vec<_>>().join("\n")
}

fn mark(console: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(console)?;
    write!(file, "\r\n{BOOT}\r\n")
}

/// What was seen of the boot that began last.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Seen {
    /// cloud-init's last message.
    pub(super) ended: bool,
    /// Somebody may log in.
    pub(super) login: bool,
    /// cloud-init's warnings and errors.
    pub(super) complaints: Vec<String>,
}

impl Seen {
    /// What cloud-init complained of, if something that it was told to do has failed. A warning alone is none.
    pub(super) fn failures(&self) -> Option<String> {
        let failed = |line: &String| {
            ["[ERROR]", "[CRITICAL]", "Failed to run module"].iter().any(|word| line.contains(word))
                || (line.contains("Running module ") && line.contains(" failed"))
        };
        self.complaints.iter().any(failed).then(|| self.complaints.join("\n"))
    }

    fn line(&mut self, line: &str) {
        if line.contains(BOOT) {
            *self = Seen::default();
            return;
        }
        self.ended |= line.contains("Cloud-init v. ") && line.contains(" finished at ");
        self.login |= is_login(line);
        let complains = ["[WARNING]", "[ERROR]", "[CRITICAL]"].iter().any(|word| line.contains(word));
        if complains && line.contains("cloud-init") {
            if self.complaints.len() == COMPLAINTS {
                self.complaints.remove(0);
            }
            self.complaints.push(line.trim().to_owned());
        }
    }
}

/// `web-1 login: `, with whatever was written behind it before somebody typed.
fn is_login(line: &str) -> bool {
    line.split_once(" login:").is_some_and(|(host, _)| !host.is_empty() && !host.trim().contains(' '))
}

/// A console that is read as it grows.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    at: Option<u64>,
    rest: Vec<u8>,
    seen: Seen,
}

impl Console {
    pub(super) fn new(path: PathBuf) -> Console {
        Console { path, at: None, rest: Vec::new(), seen: Seen::default() }
    }

    /// Reads what is new, and says what has been seen by now.
    ///
    /// # Errors
    /// Whatever the file system says; a console that is not there yet says nothing.
    pub(super) fn look(&mut self) -> io::Result<Seen> {
        if let Some(mut file) = present(File::open(&self.path))? {
            let length = file.metadata()?.len();
            // One that became shorter was cut, and goes on from its beginning.
            let at = self.at.filter(|at| *at <= length).unwrap_or_else(|| length.saturating_sub(REACH));
            file.seek(SeekFrom::Start(at))?;
            let mut new = Vec::new();
            let read = file.take(REACH).read_to_end(&mut new)?;
            self.at = Some(at + read as u64);
            self.hear(&new);
        }
        let mut seen = self.seen.clone();
        // A prompt waits on its line.
        seen.line(&text(&self.rest));
        Ok(seen)
    }

    fn hear(&mut self, new: &[u8]) {
        for piece in new.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE.saturating_sub(self.rest.len());
            self.rest.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = text(&std::mem::take(&mut self.rest));
                self.seen.line(&line);
            }
        }
    }
}

fn text(line: &[u8]) -> String {
    printable(&String::from_utf8_lossy(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian 12 and Ubuntu 24.04 write it, by way of systemd.
    const END: &str = "[   24.166190] cloud-init[612]: Cloud-init v. 22.4.2 finished at Fri, 27 Nov 2026 20:00:21 +0000. \
                       Datasource DataSourceNoCloud [seed=/dev/vdb][dsmode=net].  Up 24.14 seconds\r\n";
    const FAILED: &str = "[   23.9] cloud-init[612]: 2026-11-27 20:00:20,990 - cc_scripts_user.py[WARNING]: Failed to run \
                          module scripts-user (scripts in /var/lib/cloud/instance/scripts)\r\n";

    fn heard(pieces: &[&[u8]]) -> Seen {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut console = Console::new(path.clone());
        assert_eq!(console.look().unwrap(), Seen::default());
        let mut seen = Seen::default();
        for piece in pieces {
            OpenOptions::new().create(true).append(true).open(&path).unwrap().write_all(piece).unwrap();
            seen = console.look().unwrap();
        }
        seen
    }

    #[test]
    fn the_end_of_cloud_init_is_seen_however_it_is_cut() {
        let whole = END.as_bytes();
        for cut in 0..whole.len() {
            let seen = heard(&[b"Booting\r\n", &whole[..cut], &whole[cut..]]);
            assert!(seen.ended && !seen.login && seen.failures().is_none(), "{cut}: {seen:?}");
        }
        assert!(!heard(&[b"cloud-init[612]: Cloud-init v. 22.4.2 running 'modules:final' at Fri\r\n"]).ended);
        let coloured = format!("\u{1b}[0;32m  OK  \u{1b}[0m] \u{1b}[1;1H{END}");
        assert!(heard(&[coloured.as_bytes()]).ended);
    }

    #[test]
    fn what_failed_is_told_and_a_warning_is_no_failure() {
        let seen = heard(&[FAILED.as_bytes(), END.as_bytes()]);
        assert!(seen.ended && seen.failures().unwrap().contains("scripts-user"));
        let warned =
            "[ 9.1] cloud-init[1]: 2026-11-27 - schema.py[WARNING]: cloud-config failed schema validation!\r\n";
        assert_eq!(heard(&[warned.as_bytes(), END.as_bytes()]).failures(), None);
        let many = FAILED.repeat(50);
        assert_eq!(heard(&[many.as_bytes()]).complaints.len(), COMPLAINTS);
    }

    #[test]
    fn a_prompt_is_seen_while_it_waits_and_behind_other_words() {
        assert!(heard(&[b"\r\nDebian GNU/Linux 12 web-1 ttyS0\r\n\r\nweb-1 login: "]).login);
        assert!(heard(&[format!("web-1 login: {END}").as_bytes()]).login);
        for text in ["", "login:", "systemd[1]: Started getty login: on tty1.\r\n", "for the login: of a user"] {
            assert!(!heard(&[text.as_bytes()]).login, "{text:?}");
        }
    }

    #[test]
    fn a_boot_begins_with_nothing_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        mark(&path).unwrap();
        let guest = |text: &str| {
            OpenOptions::new().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        guest(&format!("{FAILED}{END}web-1 login: "));
        let mut console = Console::new(path.clone());
        assert!(console.look().unwrap().ended);
        mark(&path).unwrap();
        assert_eq!(console.look().unwrap(), Seen::default());
        // Who comes later sees the same.
        guest(END);
        for mut console in [console, Console::new(path.clone())] {
            assert_eq!(console.look().unwrap(), Seen { ended: true, ..Seen::default() });
        }
    }

    #[test]
    fn a_guest_that_writes_without_end_takes_no_memory() {
        let noise = vec![b'x'; 3 << 20];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::fs::write(&path, &noise).unwrap();
        let mut console = Console::new(path);
        assert_eq!(console.look().unwrap(), Seen::default());
        assert!(console.rest.len() <= LINE);
    }
}
