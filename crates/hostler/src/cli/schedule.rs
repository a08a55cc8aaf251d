//! When a task is begun and how often it is tried, as flags of whatever submits one.

use std::time::Duration;

use hostler_client::{Mode, Submit};
use hostler_model::{
    Timestamp,
    retry::{Backoff, RetryAsked},
    schedule::{Asked, Priority},
};

use crate::cli::read;

/// Where the help of every verb has these flags; its short help leaves them out.
const HEADING: &str = "When, and how often";

/// What is left out is as the kind says.
#[derive(clap::Args, Clone, Debug)]
pub struct ScheduleArgs {
    /// low, normal, high, or a number between -100 and 100: the higher first [default: normal]
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "PRIORITY", allow_hyphen_values = true)]
    priority: Option<Priority>,
    /// Begin it no sooner than after this time
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "TIME", value_parser = read::duration, conflicts_with = "not_before")]
    delay: Option<Duration>,
    /// Begin it no sooner than then, such as 2026-01-31T06:00:00Z
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "WHEN", value_parser = moment)]
    not_before: Option<Timestamp>,
    /// Give it up when its node has not begun it within this time
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "TIME", value_parser = read::duration)]
    queue_timeout: Option<Duration>,
    /// Stop and undo it when it takes longer than this
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "TIME", value_parser = read::duration)]
    deadline: Option<Duration>,
    /// Try it so often at most, the first time included
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "N")]
    attempts: Option<u32>,
    /// How the pauses between attempts grow: linear or exponential
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "HOW", value_parser = backoff)]
    backoff: Option<Backoff>,
    /// The pause before the second attempt
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "TIME", value_parser = read::duration)]
    first_pause: Option<Duration>,
    /// The longest pause
    #[arg(long, help_heading = HEADING, hide_short_help = true, value_name = "TIME", value_parser = read::duration)]
    longest_pause: Option<Duration>,
}

impl ScheduleArgs {
    /// What is asked for.
    pub fn asked(&self) -> Asked {
        let retry = RetryAsked {
            attempts: self.attempts,
            backoff: self.backoff,
            first_seconds: self.first_pause.map(seconds),
            most_seconds: self.longest_pause.map(seconds),
        };
        Asked {
            priority: self.priority,
            not_before: self.not_before,
            delay_seconds: self.delay.map(seconds),
            queue_timeout_seconds: self.queue_timeout.map(seconds),
            timeout_seconds: self.deadline.map(seconds),
            retry: Some(retry).filter(|retry| *retry != RetryAsked::default()),
        }
    }

    /// How a task with this schedule is submitted.
    pub fn submit(&self) -> Submit {
        Submit { when: self.asked(), ..Submit::default() }
    }

    /// The same, or only as if.
    pub fn submit_or_try(&self, dry_run: bool) -> Submit {
        let mode = if dry_run { Mode::DryRun } else { Mode::Real };
        Submit { mode, ..self.submit() }
    }
}

/// Whole seconds are what the server counts: half of one is one.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

fn moment(text: &str) -> Result<Timestamp, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "this is no moment; write it as 2026-01-31T06:00:00Z, or use --delay".to_owned())
}

fn backoff(text: &str) -> Result<Backoff, String> {
    serde_json::from_value(text.into()).map_err(|_| "it is linear or exponential".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ScheduleArgs,
    }

    fn sent(line: &str) -> Value {
        let line = Line::try_parse_from(line.split(' ')).unwrap();
        serde_json::to_value(line.args.submit().when).unwrap()
    }

    #[test]
    fn flags_become_what_the_server_reads_and_nothing_else() {
        assert_eq!(sent("x"), json!({}));
        let line = "x --priority -7 --delay 1500ms --queue-timeout 1h --deadline 90s --attempts 4 --backoff linear";
        assert_eq!(
            sent(line),
            json!({"priority": -7, "delay_seconds": 2, "queue_timeout_seconds": 3600, "timeout_seconds": 90,
                "retry": {"attempts": 4, "backoff": "linear"}})
        );
        let dated = sent("x --priority high --not-before 2026-01-31T06:00:00Z");
        assert_eq!((&dated["priority"], &dated["not_before"]), (&json!(50), &json!("2026-01-31T06:00:00.000000Z")));
        for wrong in ["x --priority urgent", "x --not-before soon", "x --backoff fast"] {
            assert!(Line::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
