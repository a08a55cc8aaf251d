//! A stretch of a file: what one call of several brings.

use crate::error::{Refusal, excerpt};

/// A stretch of a file that is sent in several calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stretch {
    /// Its first byte.
    pub from: u64,
    /// The byte behind its last one; `None` where the body's end is its end.
    pub until: Option<u64>,
    /// How long the file is, where that is said.
    pub of: Option<u64>,
}

impl Stretch {
    /// A `Content-Range`: `bytes 0-99/1000`.
    ///
    /// # Errors
    /// When it is none, or does not say how long the file is.
    pub fn read(range: &str) -> Result<Stretch, Refusal> {
        let read = || {
            let (first, rest) = range.strip_prefix("bytes ")?.split_once('-')?;
            let (last, of) = rest.split_once('/')?;
            let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
            Some((number(first)?, number(last)?, number(of)?))
        };
        match read() {
            Some((from, last, of)) if from <= last && last < of => {
                Ok(Stretch { from, until: Some(last + 1), of: Some(of) })
            }
            Some(_) | None => {
                let detail = "a range is `bytes FIRST-LAST/LENGTH`, the last byte included";
                Err(Refusal::field("Content-Range", detail).with("value", excerpt(range)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_read_only_where_it_is_one() {
        let stretch = Stretch { from: 100, until: Some(200), of: Some(200) };
        assert_eq!(Stretch::read("bytes 100-199/200").unwrap(), stretch);
        for bad in [
            "",
            "bytes 0-9",
            "bytes 0-9/*",
            "bytes */9",
            "bytes 9-8/20",
            "bytes 0-20/20",
            "bytes +1-2/3",
            "bytes -1/3",
            "lines 0-1/2",
            "bytes 0-18446744073709551615/18446744073709551615",
            "bytes 0-9/99999999999999999999",
        ] {
            assert!(Stretch::read(bad).is_err(), "{bad}");
        }
    }
}
