//! What goes over the guest agent's socket: one JSON object per line, each way. No IO.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::{ANSWER_LIMIT, GuestError, SHORT_ANSWER_LIMIT};

/// Ends whatever half a command the guest's parser still holds; it also precedes the answer of a delimited sync.
const RESET: u8 = 0xff;

/// The commands that are used.
#[derive(Debug, Serialize)]
#[serde(tag = "execute", content = "arguments", rename_all_fields = "kebab-case")]
pub(super) enum Command<'a> {
    #[serde(rename = "guest-sync-delimited")]
    Sync { id: i64 },
    #[serde(rename = "guest-ping")]
    Ping,
    #[serde(rename = "guest-exec")]
    Exec {
        path: &'a str,
        arg: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        input_data: Option<String>,
        capture_output: bool,
    },
    #[serde(rename = "guest-exec-status")]
    ExecStatus { pid: i64 },
    #[serde(rename = "guest-fsfreeze-freeze")]
    Freeze,
    #[serde(rename = "guest-fsfreeze-thaw")]
    Thaw,
    /// Nanoseconds since the Unix epoch.
    #[serde(rename = "guest-set-time")]
    SetTime { time: i64 },
    /// It has no answer but a refusal.
    #[serde(rename = "guest-shutdown")]
    Shutdown { mode: Mode },
}

/// What a guest is to do with itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Turn itself off.
    Powerdown,
    /// Begin anew.
    Reboot,
}

impl Command<'_> {
    /// As it goes over the wire.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a command is plain data");
        line.push(b'\n');
        line
    }

    /// How long the answer may be.
    pub(super) fn answer_limit(&self) -> usize {
        match self {
            Command::Sync { .. }
            | Command::Ping
            | Command::Exec { .. }
            | Command::Freeze
            | Command::Thaw
            | Command::SetTime { .. }
            | Command::Shutdown { .. } => SHORT_ANSWER_LIMIT,
            Command::ExecStatus { .. } => ANSWER_LIMIT,
        }
    }

    pub(super) fn line_after_reset(&self) -> Vec<u8> {
        let mut line = self.line();
        line.insert(0, RESET);
        line
    }
}

/// Whether this line answers the sync with this id. Anything before the last reset byte belongs to somebody else.
pub(super) fn is_sync(line: &[u8], id: i64) -> bool {
    let start = line.iter().rposition(|b| *b == RESET).map_or(0, |at| at + 1);
    matches!(serde_json::from_slice::<Answer<i64>>(&line[start..]), Ok(Answer::Return(answer)) if answer == id)
}

/// An answer: the value, or a refusal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer<T> {
    Return(T),
    Error { class: String, desc: String },
}

impl<T> Answer<T> {
    pub(super) fn into_result(self) -> Result<T, GuestError> {
        match self {
            Answer::Return(value) => Ok(value),
            Answer::Error { class, desc } => Err(GuestError::refused(&class, &desc)),
        }
    }
}

/// `{}`.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

/// The answer of `guest-exec`.
#[derive(Debug, Deserialize)]
pub(super) struct Started {
    pub(super) pid: i64,
}

/// The answer of `guest-exec-status`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Status {
    pub(super) exited: bool,
    pub(super) exitcode: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) out_data: String,
    pub(super) err_data: String,
    pub(super) out_truncated: bool,
    pub(super) err_truncated: bool,
}

/// The first `limit` bytes of what base64 stands for, as text, and whether that is not all.
pub(super) fn text(encoded: &str, truncated: bool, limit: usize) -> Result<(String, bool), GuestError> {
    // Whole groups of four, enough for one byte more than the limit.
    let wanted = encoded.len().min((limit / 3 + 2) * 4);
    let part = encoded.as_bytes().get(..wanted).unwrap_or_default();
    let mut bytes = BASE64_STANDARD
        .decode(part)
        .map_err(|error| GuestError::malformed(&format!("output in bad base64: {error}")))?;
    let cut = truncated || wanted < encoded.len() || bytes.len() > limit;
    bytes.truncate(limit);
    if cut {
        bytes.truncate(whole_characters(&bytes));
    }
    Ok((String::from_utf8_lossy(&bytes).into_owned(), cut))
}

/// The length without a character at the end that a cut went through.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_look_as_the_protocol_says() {
        let line = |command: Command<'_>| String::from_utf8(command.line()).unwrap();
        assert_eq!(line(Command::Ping), "{\"execute\":\"guest-ping\"}\n");
        let exec = Command::Exec { path: "ls", arg: &["-l".into()], input_data: None, capture_output: true };
        assert_eq!(
            line(exec),
            "{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"ls\",\"arg\":[\"-l\"],\"capture-output\":true}}\n"
        );
        assert_eq!(Command::Sync { id: 7 }.line_after_reset()[0], 0xff);
        let shutdown = Command::Shutdown { mode: Mode::Reboot };
        assert_eq!(line(shutdown), "{\"execute\":\"guest-shutdown\",\"arguments\":{\"mode\":\"reboot\"}}\n");
    }

    #[test]
    fn a_sync_is_known_by_its_id_whatever_precedes_it() {
        assert!(is_sync(b"\xff{\"return\": 7}", 7));
        assert!(is_sync(b"{\"return\": {\"pid\": 1}\xff{\"return\": 7}", 7));
        assert!(!is_sync(b"\xff{\"return\": 8}", 7));
        assert!(!is_sync(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"stray\"}}", 7));
        assert!(!is_sync(b"rubbish", 7));
    }

    #[test]
    fn output_is_cut_at_the_limit_and_said_to_be() {
        let text = |bytes: &[u8], truncated| text(&BASE64_STANDARD.encode(bytes), truncated, 8).unwrap();
        assert_eq!(text(b"12345678", false), ("12345678".into(), false));
        assert_eq!(text(b"123456789", false), ("12345678".into(), true));
        assert_eq!(text(&[b'x'; 1000], false), ("xxxxxxxx".into(), true));
        assert_eq!(text(b"123", true), ("123".into(), true));
        assert_eq!(text(b"a\xfeb", false), ("a\u{fffd}b".into(), false));
        assert_eq!(text("1234567\u{e4}".as_bytes(), false), ("1234567".into(), true), "no half character at the cut");
        assert_eq!(
            text(b"1234567\xc3", false),
            ("1234567\u{fffd}".into(), false),
            "but one that the program wrote stays"
        );
    }

    #[test]
    fn bad_base64_is_malformed() {
        assert!(matches!(text("%%%%", false, 8), Err(GuestError::Malformed(_))));
    }
}
