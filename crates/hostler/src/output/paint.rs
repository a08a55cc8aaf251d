//! Colours: few, always the same ones for the same meaning. What is printed passes `anstream`, which takes colours away
//! where there is no terminal, and where NO_COLOR or CLICOLOR say so.

use clap::builder::styling::{AnsiColor, Style};

/// A text that begins with the word of a state, in that state's colour.
pub fn state(text: &str) -> String {
    let word = text.split([' ', '(', ',']).next().unwrap_or_default();
    let colour = match word {
        "running" | "succeeded" | "ready" | "fresh" | "ok" => AnsiColor::Green,
        "failed" | "error" | "lost" | "fail" | "FAIL" | "dead" => AnsiColor::Red,
        "queued" | "provisioning" | "aborting" | "stale" | "warn" | "unknown" | "cordoned" | "paused" => {
            AnsiColor::Yellow
        }
        _ => return text.to_owned(),
    };
    with(Style::new().fg_color(Some(colour.into())), text)
}

/// What is not to be looked at first.
pub fn faint(text: &str) -> String {
    with(Style::new().dimmed(), text)
}

fn with(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
