//! The log of a task: lines for people, bounded, numbered from 1 for each task, with every attempt marked.
//!
//! ```text
//! handler ──lines──► progress report, or the result ──► placed: repeats left out, attempts marked ──► the last ones kept
//! ```
//!
//! Nothing depends on it: a line that is lost changes no task. A line is a repeat when the node wrote it no later than
//! the last one that is kept of the same attempt, so a report may be sent again.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, id::TaskId};

/// How many lines of a task are kept: the last ones.
pub const LINES: i64 = 1000;
/// How many bytes of them are kept.
pub const BYTES: i64 = 256 << 10;
/// How many bytes of one line are kept: a console's line fits in.
pub const LINE: usize = 1024;
/// How many lines one report brings at most.
pub const PER_REPORT: usize = 64;

/// A line on its way from the node that wrote it. Within an attempt each is later than the one before.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Said {
    /// When, by the node's clock.
    pub at: Timestamp,
    /// What.
    pub text: String,
}

/// Who wrote a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// The server: attempts, and how they ended.
    Server,
    /// The handler on the node.
    Node,
}

/// A line as it is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Line {
    /// Its number within the task, from 1 on without gaps.
    pub number: i64,
    /// When it was written.
    pub at: Timestamp,
    /// In which attempt.
    pub attempt: u32,
    /// By whom.
    pub by: Author,
    /// What it says.
    pub text: String,
}

/// A piece of a task's log: `GET /tasks/{task}/log`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskLog {
    /// Lines, oldest first.
    pub lines: Vec<Line>,
    /// Hand this back as `after` for what comes next.
    pub next: i64,
    /// How many lines after `after` are no longer kept.
    pub dropped: i64,
    /// Whether nothing will follow: the task has ended, and this is the last of it.
    pub ended: bool,
}

impl TaskLog {
    /// The lines that were found after this number, of which one more than `limit` was asked for.
    pub fn of(mut lines: Vec<Line>, after: i64, limit: usize, ended: bool) -> TaskLog {
        let more = lines.len() > limit;
        lines.truncate(limit);
        let dropped = lines.first().map_or(0, |first| first.number - after - 1);
        TaskLog { next: lines.last().map_or(after, |last| last.number), dropped, ended: ended && !more, lines }
    }
}

/// A line to be added.
#[derive(Clone, PartialEq, Debug)]
pub struct NewLine {
    /// To the log of this task.
    pub task: TaskId,
    /// In this attempt, of so many.
    pub attempt: (u32, u32),
    /// What: without it only the attempt is marked.
    pub text: Option<String>,
    /// When the node wrote it, by its own clock; a line of the server's has none.
    pub said: Option<Timestamp>,
}

/// The end of a task's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tail {
    /// The last line's number; 0 for an empty log.
    pub number: i64,
    /// The bytes of all lines there ever were.
    pub bytes: i64,
    /// The last line's attempt.
    pub attempt: u32,
    /// The last line of a node in that attempt, by its clock, in microseconds.
    pub said: i64,
    /// When the last line was written, in microseconds.
    pub at: i64,
}

impl Tail {
    /// The lines that a new one adds: none for a repeat, and a mark before the first of an attempt.
    pub fn add(&mut self, new: &NewLine, now: Timestamp) -> Vec<Line> {
        let (attempt, of) = new.attempt;
        let mut lines = Vec::new();
        if attempt > self.attempt {
            (self.attempt, self.said) = (attempt, 0);
            lines.push(self.next(now, Author::Server, format!("attempt {attempt} of {of}")));
        }
        let Some(text) = &new.text else { return lines };
        match new.said {
            None => lines.push(self.next(now, Author::Server, tidy(text))),
            Some(said) if attempt == self.attempt && said.as_micros() > self.said => {
                self.said = said.as_micros();
                lines.push(self.next(said, Author::Node, tidy(text)));
            }
            Some(_) => {}
        }
        for line in &mut lines {
            // The node's clock may be another: a line is neither older than the one before it nor of the future.
            line.at = line.at.min(now).max(Timestamp::from_micros(self.at));
            self.at = line.at.as_micros();
        }
        lines
    }

    fn next(&mut self, at: Timestamp, by: Author, text: String) -> Line {
        self.number += 1;
        self.bytes += i64::try_from(text.len()).unwrap_or(i64::MAX);
        Line { number: self.number, at, attempt: self.attempt, by, text }
    }

    /// Up to which number, and up to how many bytes from the first line on, lines are no longer kept.
    pub fn dropped(&self) -> Option<(i64, i64)> {
        let (number, bytes) = (self.number - LINES, self.bytes - BYTES);
        (number > 0 || bytes > 0).then_some((number, bytes))
    }
}

/// One line, not too long, without what could move a terminal's cursor.
pub fn tidy(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(LINE));
    for c in text.trim_end().chars() {
        let c = if c == '\t' {
            ' '
        } else if c.is_control() {
            '\u{fffd}'
        } else {
            c
        };
        if kept.len() + c.len_utf8() > LINE - '…'.len_utf8() {
            kept.push('…');
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Ids;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn line(attempt: u32, said: Option<i64>, text: &str) -> NewLine {
        let task = Ids::seeded(1).next(at(0));
        NewLine { task, attempt: (attempt, 3), text: Some(text.to_owned()), said: said.map(at) }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn an_attempt_is_marked_before_its_first_line_and_once() {
        let mut tail = Tail::default();
        assert_eq!(texts(&tail.add(&line(1, Some(5), "a"), at(9))), ["attempt 1 of 3", "a"]);
        assert_eq!(texts(&tail.add(&line(1, Some(6), "b"), at(9))), ["b"]);
        let mark = NewLine { text: None, ..line(2, None, "") };
        assert_eq!(texts(&tail.add(&mark, at(9))), ["attempt 2 of 3"]);
        assert!(tail.add(&mark, at(9)).is_empty());
        let last = tail.add(&line(2, Some(1), "c"), at(9));
        assert_eq!((last[0].number, last[0].attempt), (5, 2));
    }

    #[test]
    fn a_line_that_comes_again_is_not_added_again() {
        let mut tail = Tail::default();
        tail.add(&line(1, Some(5), "a"), at(9));
        let before = tail;
        assert!(tail.add(&line(1, Some(5), "a"), at(9)).is_empty());
        assert!(tail.add(&line(1, Some(4), "older"), at(9)).is_empty());
        assert_eq!(tail, before);
        tail.add(&line(2, Some(3), "a"), at(9));
        assert!(tail.add(&line(1, Some(8), "of the attempt before"), at(9)).is_empty());
    }

    #[test]
    fn times_do_not_go_back_and_are_not_of_the_future() {
        let mut tail = Tail::default();
        let times: Vec<i64> = [(1, 50), (2, 3), (3, 900)]
            .into_iter()
            .flat_map(|(said, at_node)| tail.add(&line(1, Some(at_node * 10 + said), "x"), at(600)))
            .map(|line| line.at.as_micros())
            .collect();
        assert!(times.is_sorted() && times.iter().all(|time| *time <= 600), "{times:?}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut tail = Tail::default();
        assert_eq!(tail.dropped(), None);
        for n in 0..LINES {
            tail.add(&line(1, Some(n + 1), "x"), at(9));
        }
        // The mark is one of them.
        assert_eq!(tail.dropped().map(|(number, _)| number), Some(1));
        let mut tail = Tail { number: 3, bytes: BYTES + 7, ..Tail::default() };
        assert_eq!(tail.dropped().map(|(_, bytes)| bytes), Some(7));
        tail.bytes = BYTES;
        assert_eq!(tail.dropped(), None);
    }

    #[test]
    fn a_line_is_one_line_and_not_too_long() {
        assert_eq!(tidy("a\u{1b}[2Jb\0c\td\r\n"), "a\u{fffd}[2Jb\u{fffd}c d");
        let long = tidy(&"ä".repeat(LINE));
        assert!(long.len() <= LINE && long.ends_with('…'), "{}", long.len());
    }

    #[test]
    fn a_piece_says_what_is_missing_and_whether_more_may_come() {
        let lines = |numbers: std::ops::Range<i64>| -> Vec<Line> {
            numbers
                .map(|number| Line { number, at: at(0), attempt: 1, by: Author::Node, text: String::new() })
                .collect()
        };
        let piece = TaskLog::of(lines(6..9), 2, 2, true);
        assert_eq!((piece.lines.len(), piece.next, piece.dropped, piece.ended), (2, 7, 3, false));
        let piece = TaskLog::of(lines(8..9), 7, 2, true);
        assert_eq!((piece.next, piece.dropped, piece.ended), (8, 0, true));
        let piece = TaskLog::of(Vec::new(), 8, 2, false);
        assert_eq!((piece.next, piece.dropped, piece.ended), (8, 0, false));
    }
}
