//! What the verbs print: tables and fields for people, JSON and YAML for programs. Results go to stdout, everything else
//! to stderr. A reader that goes away (`| head`) is an `io::Error` that ends the program quietly.

pub mod paint;
mod table;

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use hostler_model::Timestamp;
use serde::Serialize;

pub use self::table::{Table, table};
use crate::terminal;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people, with all columns.
    Wide,
    /// For programs: times in RFC 3339, amounts as integers.
    Json,
    /// The same as JSON, in YAML.
    Yaml,
}

/// The flags that say how results are printed.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t, env = "HOSTLER_OUTPUT", value_name = "FORMAT")]
    pub output: Format,

    /// Leave the header of tables out
    #[arg(long, global = true, env = "HOSTLER_NO_HEADERS", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_headers: bool,
}

impl OutputArgs {
    /// How text for people is to look on this stdout.
    pub fn style(&self) -> Style {
        Style {
            headers: !self.no_headers,
            wide: self.output == Format::Wide,
            width: terminal::width(),
            colour: io::stdout().is_terminal(),
        }
    }
}

/// How text for people is to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    /// Whether tables have a header.
    pub headers: bool,
    /// Whether all columns are shown.
    pub wide: bool,
    /// How many characters fit in a line; no limit where there is no terminal.
    pub width: Option<usize>,
    /// Whether colours may be used. The stream may still take them out.
    pub colour: bool,
}

/// As a file gets it.
impl Default for Style {
    fn default() -> Style {
        Style { headers: true, wide: false, width: None, colour: false }
    }
}

/// Something that people can read.
pub trait Human {
    /// As text, whole lines.
    fn text(&self, style: &Style) -> String;
}

impl Human for String {
    fn text(&self, _: &Style) -> String {
        self.clone()
    }
}

impl Format {
    /// Whether results are for programs.
    pub fn is_data(self) -> bool {
        match self {
            Format::Json | Format::Yaml => true,
            Format::Table | Format::Wide => false,
        }
    }

    /// A whole result for a program, as it would stand in a file.
    pub fn document(self, value: &impl Serialize) -> io::Result<String> {
        match self {
            Format::Yaml => yaml(value),
            Format::Json | Format::Table | Format::Wide => Ok(serde_json::to_string_pretty(value)?),
        }
    }

    /// One of many results for a program: a line of JSON, or a document of a YAML stream.
    pub fn record(self, value: &impl Serialize) -> io::Result<String> {
        match self {
            Format::Yaml => Ok(format!("---\n{}", yaml(value)?)),
            Format::Json | Format::Table | Format::Wide => Ok(serde_json::to_string(value)?),
        }
    }
}

/// By way of JSON, so that both say the same.
fn yaml(value: &impl Serialize) -> io::Result<String> {
    serde_saphyr::to_string(&serde_json::to_value(value)?).map_err(io::Error::other)
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

/// Prints what drives the terminal, as it is.
pub fn raw(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
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

/// One thing, a line for each of its fields. Fields without a value are left out.
pub fn fields(fields: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let fields: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}", plain(value)).trim_end().to_owned() + "\n";
    fields.iter().map(line).collect()
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
    fn fields_stand_below_each_other() {
        assert_eq!(
            fields([("name", "a".to_owned()), ("reason", String::new()), ("id", "1".to_owned())]),
            "name  a\nid    1\n"
        );
    }

    #[test]
    fn yaml_says_what_json_says() {
        let value = serde_json::json!({"name": "a", "on": "yes", "labels": {"k": "1"}, "n": 5, "none": null, "list": [1, "x: y"]});
        insta::assert_snapshot!(Format::Yaml.document(&value).unwrap(), @r#"
        labels:
          k: "1"
        list:
        - 1
        - "x: y"
        "n": 5
        name: a
        none: null
        "on": "yes"
        "#);
        assert_eq!(Format::Json.record(&value).unwrap().lines().count(), 1);
        assert!(Format::Yaml.record(&value).unwrap().starts_with("---\n"));
    }
}
