//! Processes by pid and start time, so that a pid which the kernel handed out again is never taken for the old process.
//!
//! ```text
//! Process {pid, start_time} ──open──► Handle (pidfd, start time checked after opening) ──signal──► …
//!                                        └──ended──► the process is gone, or a zombie that its parent has yet to reap
//! ```
//!
//! It never signals by bare pid: between a check and a kill the pid could have changed hands.

use std::{fs, io, os::fd::OwnedFd, path::Path};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// Clock ticks per second in /proc: USER_HZ, which Linux fixed at 100 for every architecture we run on.
pub const TICKS_PER_SECOND: u64 = 100;

/// A process, told apart from every other that ever had its pid since the host started.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks ([`TICKS_PER_SECOND`]) since the host did: field 22 of /proc/pid/stat.
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now. `None` when there is none, or only a zombie.
    ///
    /// # Errors
    /// When the kernel does not let us look: that says nothing about the process.
    pub fn of(pid: i32) -> io::Result<Option<Process>> {
        let Some(stat) = unless_gone(fs::read(format!("/proc/{pid}/stat")))? else { return Ok(None) };
        let (state, start_time) = parse_stat(&String::from_utf8_lossy(&stat))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat cannot be read")))?;
        Ok((!matches!(state, 'Z' | 'X' | 'x')).then_some(Process { pid, start_time }))
    }

    /// Whether this very process lives.
    ///
    /// # Errors
    /// When the kernel does not let us look.
    pub fn alive(&self) -> io::Result<bool> {
        Ok(Process::of(self.pid)? == Some(*self))
    }

    /// Takes hold of it; `None` when it is gone or its pid is another's by now. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel has no pidfds (before Linux 5.3), or no file descriptor is left.
    pub fn open(&self) -> io::Result<Option<Handle>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now: what the pidfd names cannot change any more, and it is ours if the start time is.
        if !self.alive()? {
            return Ok(None);
        }
        Ok(Some(Handle { process: *self, fd: watched(fd)? }))
    }

    /// Its command line, as it was given. Empty when the process is gone.
    ///
    /// # Errors
    /// When the kernel does not let us look.
    pub fn arguments(&self) -> io::Result<Vec<Vec<u8>>> {
        arguments_of(self.pid)
    }
}

/// tokio's constructor that is safe to call is deprecated because a type could lie about its file descriptor; `OwnedFd`
/// does not: its descriptor is open, and the same, for as long as it lives.
#[expect(deprecated, reason = "its successor is `unsafe`, which this workspace forbids")]
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Takes the state and the start time out of /proc/pid/stat. The name in parentheses may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The state is field 3, so field 22 is the nineteenth after it.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// `None` for a process that is not there: its files are not, or end while they are read.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

fn arguments_of(pid: i32) -> io::Result<Vec<Vec<u8>>> {
    let bytes = unless_gone(fs::read(format!("/proc/{pid}/cmdline")))?.unwrap_or_default();
    let mut arguments: Vec<Vec<u8>> = bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    arguments.pop();
    Ok(arguments)
}

/// Every living process whose command line satisfies `wanted`. Those of other users that a hardened /proc hides
/// (`hidepid`) are passed over: what an agent starts runs as the agent's user.
///
/// # Errors
/// When /proc cannot be listed, or a process cannot be looked at.
pub fn search(wanted: impl Fn(&[Vec<u8>]) -> bool) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let arguments = match arguments_of(pid) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
            arguments => arguments?,
        };
        if wanted(&arguments) {
            found.extend(Process::of(pid)?);
        }
    }
    Ok(found)
}

/// The id of the host's present run: pids and start times of another one mean nothing.
///
/// # Errors
/// When /proc is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?.trim().to_owned())
}

/// Open files that an agent needs for a thousand machines: for each a pidfd and two sockets, and as many in the making.
const FILES: u64 = 4096;

/// Raises the number of files that this process may have open to the most that the system allows it: an agent that has
/// run out of them cannot look at its machines, and a server has one for each agent. Says how many there may be.
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the number of open files cannot be raised");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files < FILES {
        tracing::warn!(files, "few files may be open here; raise LimitNOFILE of its service to {FILES} or more");
    }
    files
}

/// Milliseconds since the host started, sleep included.
pub fn uptime_ms() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

/// Hold of a process: it can be signalled and waited for, and is never mistaken.
#[derive(Debug)]
pub struct Handle {
    process: Process,
    fd: AsyncFd<OwnedFd>,
}

impl Handle {
    /// Which process.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Sends a signal; says whether there was a process to receive it.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(self.fd.get_ref(), signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the process has ended. Cancel-safe.
    pub async fn ended(&self) {
        // A pidfd becomes readable once, for good. An error can only mean that the runtime is shutting down.
        let _ = self.fd.readable().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 5 6 7 8 20 0 1 0 987654 1000 2 18446744073709551615";
        assert_eq!(parse_stat(stat), Some(('S', 987_654)));
    }

    #[tokio::test]
    async fn a_pid_with_another_start_time_is_somebody_else() {
        let me = Process::of(std::process::id() as i32).unwrap().unwrap();
        assert!(me.alive().unwrap() && me.open().unwrap().is_some());
        let other = Process { start_time: me.start_time + 1, ..me };
        assert!(!other.alive().unwrap());
        assert!(other.open().unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_gone() {
        let errno = |errno: rustix::io::Errno| unless_gone::<()>(Err(errno.into()));
        for gone in [rustix::io::Errno::NOENT, rustix::io::Errno::SRCH] {
            assert!(matches!(errno(gone), Ok(None)));
        }
        for unknown in [rustix::io::Errno::MFILE, rustix::io::Errno::ACCESS, rustix::io::Errno::NOMEM] {
            assert!(errno(unknown).is_err());
        }
    }

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        use rustix::process::{Resource, getrlimit};
        let files = raise_file_limit();
        assert_eq!(files, getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_and_a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap().unwrap();
        let handle = process.open().unwrap().unwrap();
        assert!(handle.signal(Signal::KILL).unwrap());
        handle.ended().await;
        assert!(!process.alive().unwrap(), "it has not been reaped yet");
        child.wait().unwrap();
        assert!(!handle.signal(Signal::KILL).unwrap());
    }
}
