//! Conversion by qemu-img, of a file whose header has been read already, in a process that can do little else: limits on
//! memory, time and the size of what it writes, no network where the host allows that, nothing of our environment.

use std::{
    ffi::OsString,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::OnceLock,
};

use hostler_model::{Code, Refusal, disk::SourceFormat};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

use super::{super::Error, Result, meter::Meter};

/// Address space, in bytes: qemu-img and its threads take some 600 MiB of it.
const MEMORY: u64 = 4 << 30;
/// Processor time, in seconds: 64 GiB take some two minutes.
const PROCESSOR: u64 = 3600;
/// How much of what it says is kept.
const WORDS: usize = 2048;

/// Writes `from` as a qcow2 to `to`, which exists and is empty.
///
/// # Errors
/// When qemu-img cannot be started, or ends with an error; with its words.
pub(super) async fn to_qcow2(from: &Path, format: SourceFormat, to: &Path, limit: u64, meter: &Meter) -> Result<()> {
    let mut command = sandbox(limit).await;
    command.args(["qemu-img", "convert", "-p", "-f", name(format)?, "-O", "qcow2", "-o", "compat=1.1", "--"]);
    command.arg(from).arg(to);
    let mut child = command.spawn().map_err(|error| not_started(&error))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (_, words, status) = tokio::join!(percents(out, meter), tail(err), child.wait());
    let status = status.map_err(Error::file("wait for qemu-img"))?;
    if status.success() { Ok(()) } else { Err(failed(status, &words).into()) }
}

fn name(format: SourceFormat) -> Result<&'static str> {
    match format {
        SourceFormat::Raw | SourceFormat::Qcow2 | SourceFormat::Vmdk | SourceFormat::Vhdx => Ok(format.as_str()),
        SourceFormat::RawGz | SourceFormat::RawXz | SourceFormat::RawZst => {
            Err(Error::Fault("a packed disk was to be converted"))
        }
    }
}

/// What comes before `qemu-img`: each program of it becomes the next one, so that the child is qemu-img itself.
async fn sandbox(limit: u64) -> Command {
    let mut words: Vec<OsString> = isolation().await.iter().map(OsString::from).collect();
    let limits = [format!("--as={MEMORY}"), format!("--cpu={PROCESSOR}"), format!("--fsize={limit}")];
    words.push("prlimit".into());
    words.extend(limits.into_iter().map(OsString::from));
    words.extend(["--core=0".into(), "--".into()]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir("/").env_clear().kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a process gets a network of its own, with nothing in it; found out once.
async fn isolation() -> &'static [&'static str] {
    static FOUND: OnceLock<&'static [&'static str]> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return found;
    }
    for words in [&["unshare", "--net", "--"][..], &["unshare", "--user", "--net", "--"]] {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().await.is_ok_and(|status| status.success()) {
            return FOUND.get_or_init(|| words);
        }
    }
    tracing::warn!(
        "this host gives qemu-img no network namespace of its own; headers are read beforehand all the same"
    );
    FOUND.get_or_init(|| &[])
}

/// `    (12.34/100%)`, again and again.
async fn percents(out: Option<impl AsyncRead + Unpin>, meter: &Meter) {
    let Some(mut out) = out else { return };
    let mut piece = [0; 512];
    while let Ok(read @ 1..) = out.read(&mut piece).await {
        let text = String::from_utf8_lossy(&piece[..read]);
        let last = text.rsplit('(').find_map(|rest| rest.split_once("/100%")?.0.parse::<f64>().ok());
        if let Some(percent) = last {
            meter.percent(percent as u8);
        }
    }
}

/// The last of what it says.
async fn tail(err: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut err) = err else { return String::new() };
    let (mut words, mut piece) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = err.read(&mut piece).await {
        words.extend_from_slice(&piece[..read]);
        let over = words.len().saturating_sub(WORDS);
        words.drain(..over);
    }
    String::from_utf8_lossy(&words).trim().to_owned()
}

fn not_started(error: &std::io::Error) -> Refusal {
    let detail = format!("qemu-img cannot be started on the server: {error}; install qemu-utils and util-linux there");
    Refusal::new(Code::ImportFailed, detail)
}

fn failed(status: ExitStatus, words: &str) -> Refusal {
    let words: String = words.chars().filter(|c| !c.is_control()).collect();
    // Names of files of ours help nobody.
    let words = words.split_whitespace().filter(|word| !word.contains("/.partial-")).collect::<Vec<_>>().join(" ");
    let full = words.contains("No space left");
    let code = if full { Code::StorageFull } else { Code::ImportFailed };
    Refusal::new(code, format!("qemu-img cannot convert the disk ({status}): {words}"))
}
