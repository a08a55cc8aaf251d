//! Server-sent events, as the HTML standard (§9.2.6) reads them: lines end with LF, CR or CRLF, `data` may have many
//! lines, comments keep the connection alive, an event cut off by the end of the stream is dropped. Chunks may break
//! anywhere. Never here: reconnecting, which is the caller's, with the last `id` as `Last-Event-ID`.

use std::collections::VecDeque;

use futures_util::{Stream, StreamExt, stream};
use reqwest::Body;

use crate::{answer::chunks, error::LinkError};

/// The longest event, in bytes: room for a task with 64 KiB of each of a program's streams, escaped, many times over.
const LONGEST: usize = 4 << 20;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SseEvent {
    /// The last id that the stream gave: of this event, or of an earlier one.
    pub id: Option<String>,
    /// Its kind; `message` when the stream names none.
    pub event: String,
    /// Its data; lines are joined by LF.
    pub data: String,
}

/// The events in a body, as they come. The stream ends with the body, or after the first error.
pub fn events(body: Body) -> impl Stream<Item = Result<SseEvent, LinkError>> + Send + Unpin {
    let state = Some((chunks(body), Parser::default()));
    Box::pin(stream::unfold(state, |state| async move {
        let (mut chunks, mut parser) = state?;
        loop {
            if let Some(event) = parser.ready.pop_front() {
                return Some((Ok(event), Some((chunks, parser))));
            }
            match chunks.next().await? {
                Ok(bytes) => {
                    if let Err(error) = parser.push(&bytes) {
                        return Some((Err(error), None));
                    }
                }
                Err(error) => return Some((Err(error), None)),
            }
        }
    }))
}

/// The standard's stream interpretation, fed with bytes.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    after_first_line: bool,
    data: String,
    event: String,
    id: Option<String>,
    ready: VecDeque<SseEvent>,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        for &byte in bytes {
            let ends_crlf = std::mem::take(&mut self.after_cr) && byte == b'\n';
            match byte {
                b'\n' if ends_crlf => {}
                b'\n' => self.end_line(),
                b'\r' => {
                    self.after_cr = true;
                    self.end_line();
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > LONGEST {
                return Err(LinkError::Unreadable(format!("an event is longer than {} MiB", LONGEST >> 20)));
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut line = &*String::from_utf8_lossy(&line);
        if !std::mem::replace(&mut self.after_first_line, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        match line.split_once(':') {
            _ if line.is_empty() => self.dispatch(),
            Some((name, value)) => self.field(name, value.strip_prefix(' ').unwrap_or(value)),
            None => self.field(line, ""),
        }
    }

    /// Fields of other names, the empty one of a comment included, mean nothing. `retry` is for those who reconnect by
    /// themselves.
    fn field(&mut self, name: &str, value: &str) {
        match name {
            "event" => self.event = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()).filter(|id| !id.is_empty()),
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        data.pop();
        let event = if event.is_empty() { "message".to_owned() } else { event };
        self.ready.push_back(SseEvent { id: self.id.clone(), event, data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, event: &str, data: &str) -> SseEvent {
        SseEvent { id: id.map(str::to_owned), event: event.to_owned(), data: data.to_owned() }
    }

    fn parse(chunks: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = Parser::default();
        for chunk in chunks {
            parser.push(chunk).unwrap();
        }
        parser.ready.into()
    }

    fn parse_text(text: &str) -> Vec<SseEvent> {
        parse(&[text.as_bytes()])
    }

    #[test]
    fn an_event_has_an_id_a_kind_and_data() {
        let text = "id: 7\nevent: task\ndata: {\"a\":1}\n\n";
        assert_eq!(parse_text(text), [event(Some("7"), "task", "{\"a\":1}")]);
    }

    #[test]
    fn the_standards_examples_come_out_as_it_says() {
        assert_eq!(parse_text("data: YHOO\ndata: +2\ndata: 10\n\n"), [event(None, "message", "YHOO\n+2\n10")]);
        let blocks = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n";
        assert_eq!(
            parse_text(&format!("{blocks}\n")),
            [
                event(Some("1"), "message", "first event"),
                event(None, "message", "second event"),
                event(None, "message", " third event"),
            ]
        );
        assert_eq!(parse_text(blocks).len(), 2);
        assert_eq!(
            parse_text("data\n\ndata\ndata\n\ndata:"),
            [event(None, "message", ""), event(None, "message", "\n")]
        );
        assert_eq!(parse_text("data:test\n\ndata: test\n\n"), vec![event(None, "message", "test"); 2]);
    }

    #[test]
    fn every_kind_of_line_end_and_every_break_between_chunks_gives_the_same_events() {
        let unix = "\u{feff}: hello\nid: é1\nevent: vm\ndata: ünï\ndata: two\n\nretry: 10\ndata: last\n\n";
        let wanted = [event(Some("é1"), "vm", "ünï\ntwo"), event(Some("é1"), "message", "last")];
        for end in ["\n", "\r\n", "\r"] {
            let text = unix.replace('\n', end).into_bytes();
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let parts = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(parse(&parts), wanted, "{end:?} {first} {second}");
                }
            }
        }
    }

    #[test]
    fn an_event_is_given_out_at_its_empty_line_and_not_a_byte_later() {
        assert_eq!(parse_text("data: now\r\r").len(), 1);
        assert_eq!(parse_text("data: now\r\n\r").len(), 1);
    }

    #[test]
    fn an_event_without_data_is_none_and_its_kind_is_forgotten() {
        assert_eq!(parse_text("event: lost\nid: 3\n\ndata: x\n\n"), [event(Some("3"), "message", "x")]);
    }

    #[test]
    fn an_id_with_a_nul_and_unknown_fields_are_ignored() {
        assert_eq!(parse_text("id: 1\nid: 2\0\nfoo: bar\nDATA: no\ndata: x\n\n"), [event(Some("1"), "message", "x")]);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        assert_eq!(parse(&[b"data: \xff\n\n"]), [event(None, "message", "\u{fffd}")]);
    }

    #[test]
    fn an_endless_event_is_given_up() {
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &[b'x'; 1000], b"\n"].concat();
        let result = (0..10_000).try_for_each(|_| parser.push(&line));
        assert!(matches!(result, Err(LinkError::Unreadable(_))));
        assert!(parser.data.len() <= LONGEST + line.len());
    }
}
