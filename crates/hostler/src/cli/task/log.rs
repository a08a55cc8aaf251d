//! `hostler task log`: what a task's handlers wrote for people, attempt by attempt.

use std::time::Duration;

use hostler_model::task_log::{Author, Line};

use super::{Session, find};
use crate::{
    exit::{Exit, Failure},
    output,
};

/// How long the server may hold a question for more lines.
const WAIT: Duration = Duration::from_secs(30);

pub const EXAMPLES: &str = "\
Examples:
  hostler task log 0190f1f0-0000-7000-8000-000000000001
  hostler task log --follow 0190f1f0       what there is, and what comes, until the task ends
  hostler task log -o json 0190f1f0        a document for each line";

/// Which lines.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its id, or enough of the beginning or the end of it
    #[arg(value_name = "ID")]
    id: String,
    /// Go on until the task ends
    #[arg(short, long)]
    follow: bool,
    /// Only lines with a larger number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: i64,
}

/// Prints the lines.
pub async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let id = find(session, &args.id).await?.id;
    let mut after = args.after.max(0);
    loop {
        let wait = if args.follow { WAIT } else { Duration::ZERO };
        let log = session.client.task_log(id, after, wait).await?;
        if log.dropped > 0 && after == args.after {
            output::note(format!("{} earlier lines are no longer kept", log.dropped));
        }
        for line in &log.lines {
            output::text(&if session.is_data() { session.record(line)? } else { text(line) })?;
        }
        let over = log.ended || (!args.follow && log.lines.is_empty());
        if over {
            return Ok(Exit::Done);
        }
        after = log.next;
    }
}

fn text(line: &Line) -> String {
    // Microseconds help a program, not a person.
    let at = line.at.to_string();
    let time = at.split_once('T').map_or(at.as_str(), |(_, time)| time);
    let time = time.get(..12).unwrap_or(time);
    let words = output::plain(&line.text);
    match line.by {
        Author::Server => format!("{time}  -- {words}"),
        Author::Node => format!("{time}  {words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn a_line_has_its_time_and_a_mark_when_it_is_the_servers() {
        let line = |by| Line { number: 1, at: fixture::NOW, attempt: 1, by, text: "attempt 1 of 3".into() };
        insta::assert_snapshot!(text(&line(Author::Server)), @"00:01:00.000  -- attempt 1 of 3");
        insta::assert_snapshot!(text(&line(Author::Node)), @"00:01:00.000  attempt 1 of 3");
    }
}
