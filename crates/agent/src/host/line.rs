//! Lines off a stream, bounded in length: what QMP and the guest agent speak in.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// What the end of a line that was cut is kept to be searched for.
const END: usize = 256;

/// What becomes of a line that is longer than the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Long {
    /// An error.
    Refuse,
    /// Its end is kept.
    Cut,
}

/// Reads lines that end in `\n`. A line longer than the limit is an error or cut, not an allocation.
#[derive(Debug)]
pub struct Lines<R> {
    stream: BufReader<R>,
    line: Vec<u8>,
    limit: usize,
    long: Long,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `limit` bytes.
    pub fn new(stream: R, limit: usize) -> Self {
        Lines { stream: BufReader::new(stream), line: Vec::new(), limit, long: Long::Refuse }
    }

    /// From now on, lines have at most so many bytes. Not meant for the middle of a line.
    pub fn limit(&mut self, limit: usize, long: Long) {
        (self.limit, self.long) = (limit, long);
    }

    /// Reads what is there; a whole line, without its end, when that completes one. `Ok(Some(None))`: go on;
    /// `Ok(None)`: the stream is over. Cancel-safe.
    ///
    /// # Errors
    /// Of the stream, or a line beyond the limit.
    pub async fn advance(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        let bytes = self.stream.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let end = bytes.iter().position(|b| *b == b'\n');
        let taken = end.unwrap_or(bytes.len());
        if self.line.len() + taken > self.limit && self.long == Long::Cut {
            self.line.drain(..self.line.len().saturating_sub(END));
        } else if self.line.len() + taken > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a line of more than {} bytes", self.limit),
            ));
        }
        self.line.extend_from_slice(&bytes[..taken]);
        self.stream.consume(taken + usize::from(end.is_some()));
        Ok(Some(end.map(|_| std::mem::take(&mut self.line))))
    }

    /// The next line, without its end; `None` when the stream is over. Cancel-safe.
    ///
    /// # Errors
    /// Of the stream, or a line beyond the limit.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.advance().await? {
                None => return Ok(None),
                Some(Some(line)) => return Ok(Some(line)),
                Some(None) => {}
            }
        }
    }

    /// The stream itself, for writing.
    pub fn get_mut(&mut self) -> &mut R {
        self.stream.get_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_and_a_long_one_is_refused() {
        let mut lines = Lines::new(&b"one\ntwo\n\nmuch too long\n"[..], 8);
        assert_eq!(lines.next().await.unwrap().unwrap(), b"one");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"two");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"");
        assert_eq!(lines.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_long_line_can_be_cut_to_its_end() {
        let long = format!("{}the end\nnext\n", "x".repeat(1 << 20));
        let mut lines = Lines::new(long.as_bytes(), 8);
        lines.limit(64 << 10, Long::Cut);
        let line = lines.next().await.unwrap().unwrap();
        assert!(line.ends_with(b"the end") && line.len() <= 64 << 10, "{}", line.len());
        assert_eq!(lines.next().await.unwrap().unwrap(), b"next");
    }

    #[tokio::test]
    async fn an_unfinished_line_at_the_end_is_no_line() {
        let mut lines = Lines::new(&b"half"[..], 8);
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
