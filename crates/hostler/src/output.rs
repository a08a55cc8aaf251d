//! What the verbs print: tables and fields for people, JSON for programs. Results go to stdout, everything else to
//! stderr. A reader that goes away (`| head`) is an `io::Error` that ends the program quietly.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, presets};
use hostler_model::Timestamp;
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: times in RFC 3339, amounts as integers.
    Json,
}

/// Prints a text and ends it with a line feed where it has none. Nothing at all for an empty one.
pub fn text(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// Prints what a guest wrote, as it is.
pub fn guest(stdout: &str, stderr: &str) -> io::Result<()> {
    // Written past anstream, which would take a guest's colours out of a pipe.
    let mut out = io::stdout().lock();
    out.write_all(stdout.as_bytes())?;
    out.flush()?;
    io::stderr().lock().write_all(stderr.as_bytes())
}

/// Prints JSON that people can read too.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    text(&serde_json::to_string_pretty(value)?)
}

/// Prints JSON in one line: streams are one document per line.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    text(&serde_json::to_string(value)?)
}

/// Says something that is no result, on stderr.
pub fn note(text: impl Display) {
    // Who has closed stderr does not want to know.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// A text that came from elsewhere, such as the last lines of a guest's console, without what could move a terminal's
/// cursor or change its colours.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Rows under a header, in columns as wide as they need to be.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    trimmed(table.lines())
}

/// One thing, a line for each of its fields. Fields without a value are left out.
pub fn fields(fields: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let fields: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    trimmed(fields.iter().map(|(name, value)| format!("{name:width$}  {}", plain(value))))
}

fn trimmed(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// What there is, or a dash.
pub fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// What there is, or nothing.
pub fn or_nothing(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// How long ago something was, to the precision that a person needs.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(then).as_secs();
    match seconds {
        0 => "now".to_owned(),
        1..120 => format!("{seconds}s ago"),
        120..7200 => format!("{}m ago", seconds / 60),
        7200..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// How long something took, to the precision that a person needs.
pub fn took(time: Duration) -> String {
    match time.as_millis() {
        0 => format!("{} µs", time.as_micros()),
        ms @ 1..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.1} s", time.as_secs_f64()),
        60_000..3_600_000 => format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60),
        _ => format!("{} h {:02} min", time.as_secs() / 3600, time.as_secs() / 60 % 60),
    }
}

/// A time that a document gives in milliseconds. What is no time is none.
pub fn millis(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default()
}

/// An amount of memory.
pub fn mib(mib: i64) -> String {
    if mib != 0 && mib % 1024 == 0 { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

/// A number of bytes.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut amount, mut unit) = (bytes as f64 / 1024.0, 0);
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        (amount, unit) = (amount / 1024.0, unit + 1);
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_to_the_precision_that_helps() {
        let now = Timestamp::from_micros(1_000_000_000_000);
        let told = [0, 3, 119, 120, 7199, 7200, 172_800]
            .map(|s| ago(Timestamp::from_micros(1_000_000_000_000 - s * 1_000_000), now));
        assert_eq!(told, ["now", "3s ago", "119s ago", "2m ago", "119m ago", "2h ago", "2d ago"]);
        // The clocks of two machines are never quite the same.
        assert_eq!(ago(now.plus(Duration::from_secs(5)), now), "now");
        let told = [0.4, 12.3, 3012.0, 125_000.0, 7_500_000.0, f64::NAN].map(|ms| took(millis(ms)));
        assert_eq!(told, ["400 µs", "12 ms", "3.0 s", "2 min 05 s", "2 h 05 min", "0 µs"]);
    }

    #[test]
    fn an_amount_is_told_in_the_unit_that_fits() {
        assert_eq!([0, 256, 1024, 1536, 2048].map(mib), ["0 MiB", "256 MiB", "1 GiB", "1536 MiB", "2 GiB"]);
        assert_eq!([5, 2048, 5 << 20, 3 << 40].map(bytes), ["5 B", "2.0 KiB", "5.0 MiB", "3.0 TiB"]);
    }

    #[test]
    fn a_guest_does_not_drive_our_terminal() {
        assert_eq!(plain("a\x1b[2Jb\r\nc"), "a\u{fffd}[2Jb\u{fffd}\nc");
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let table =
            table(["NAME", "STATE"], [["a".to_owned(), "running".to_owned()], ["longer".to_owned(), "-".to_owned()]]);
        assert_eq!(table, "NAME    STATE\na       running\nlonger  -\n");
        assert_eq!(
            fields([("name", "a".to_owned()), ("reason", String::new()), ("id", "1".to_owned())]),
            "name  a\nid    1\n"
        );
    }
}
