//! One line of the terminal that says what is under way: a spinner with a few words, or a bar where it is known how much
//! there is. What is printed meanwhile stands above it. Where stderr is no terminal there is no such line, and what is
//! printed is a note.
//!
//! The line is drawn over itself a few times a second, never cleared first, so that it does not flicker.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::note;

/// Words alone: how long they have been true stands behind them.
const WORDS: &str = "{spinner:.cyan} {msg} {elapsed:.dim}";
/// A share in percent.
const SHARE: &str = "{spinner:.cyan} {msg} {bar:24.cyan/dim} {pos:>3} % {elapsed:.dim} {share_eta:.dim}";
/// Bytes that are sent from here.
const BYTES: &str = "{msg} {bar:16.cyan/dim} {bytes}/{total_bytes} {bytes_per_sec} {share_eta:.dim}";
/// What the bar is made of: done, the end of it, still to do.
const BAR: &str = "━━─";
/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);
/// A guess at the end is worth something after this.
const GUESS: Duration = Duration::from_secs(2);

/// The line.
#[derive(Clone, Debug)]
pub struct Line {
    bar: Option<ProgressBar>,
    shares: bool,
}

impl Line {
    /// One that is drawn, if it is wanted and stderr is a terminal.
    pub fn new(wanted: bool) -> Line {
        let bar = (wanted && stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(100).with_style(style(WORDS));
            bar.enable_steady_tick(TICK);
            bar
        });
        Line { bar, shares: false }
    }

    /// One for bytes that are sent from here.
    pub fn of_bytes(wanted: bool, what: &'static str, length: u64) -> Line {
        let bar = (wanted && stderr().is_terminal())
            .then(|| ProgressBar::new(length).with_style(style(BYTES)).with_message(what));
        Line { bar, shares: true }
    }

    /// Whether anything is drawn.
    pub fn is_drawn(&self) -> bool {
        self.bar.is_some()
    }

    /// Says what is under way, and how much of it is done where that is known.
    pub fn say(&mut self, words: &str, percent: Option<u8>) {
        let Some(bar) = &self.bar else { return };
        let before = bar.message();
        // What was true of the words before is taken away before the new ones stand there.
        if self.shares != percent.is_some() {
            self.shares = percent.is_some();
            bar.set_style(style(if self.shares { SHARE } else { WORDS }));
        }
        // The first word is what is under way; the rest may change while it is.
        if before.split(' ').next() != words.split(' ').next() {
            bar.reset();
        }
        if let Some(percent) = percent {
            bar.set_position(percent.min(100).into());
        }
        if before != words {
            bar.set_message(words.to_owned());
        }
    }

    /// So many bytes are there already.
    pub fn at(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// So many more bytes were sent.
    pub fn sent(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Prints a text of whole lines.
    pub fn print(&self, text: &str) {
        match &self.bar {
            // Past anstream, so what it would do with colours is done here.
            Some(bar) if AutoStream::choice(&stderr()) == ColorChoice::Never => {
                bar.println(strip_str(text).to_string());
            }
            Some(bar) => bar.println(text),
            None => note(text),
        }
    }

    /// Takes it away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.progress_chars(BAR).with_key("share_eta", |state: &indicatif::ProgressState, to: &mut dyn std::fmt::Write| {
        let left = state.eta();
        if state.elapsed() > GUESS && state.pos() > 0 && !left.is_zero() {
            // A line that cannot be written is drawn without it.
            let _ = write!(to, "{} left", crate::output::took(Duration::from_secs(left.as_secs().max(1))));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        for template in [WORDS, SHARE, BYTES] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_line_that_is_not_wanted_is_not_drawn() {
        let mut line = Line::new(false);
        line.say("image", Some(40));
        assert!(!line.is_drawn() && !Line::of_bytes(false, "sending", 9).is_drawn());
    }
}
