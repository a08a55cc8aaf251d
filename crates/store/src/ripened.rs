//! When it was last looked for tasks whose time has come: under load steps follow one another within milliseconds, and none
//! of them needs to look again at what the one before it has just looked at.

use std::sync::atomic::{AtomicI64, Ordering};

use hostler_model::Timestamp;

/// How far apart two looks are at least, in microseconds. It is the most by which a task is late for that.
const APART: i64 = 20_000;

/// The last look. Read and written without order: a look more or less makes no difference.
#[derive(Debug)]
pub(crate) struct Ripened(AtomicI64);

impl Ripened {
    /// Nobody has looked yet.
    pub(crate) fn never() -> Ripened {
        Ripened(AtomicI64::new(i64::MIN))
    }

    /// Whether it is time to look, which it then is not for a while. A clock that stepped back does not put it off.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let ago = now.as_micros().wrapping_sub(self.0.load(Ordering::Relaxed));
        let is_due = !(0..APART).contains(&ago);
        if is_due {
            self.0.store(now.as_micros(), Ordering::Relaxed);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_looks_at_once_then_not_for_a_while_and_at_once_where_the_clock_stepped_back() {
        let (ripened, at) = (Ripened::never(), |ms: i64| Timestamp::from_micros(1_000_000 + ms * 1000));
        let looks = [0, 0, 19, 20, 21, 39, 5, 6, 25].map(|ms| ripened.is_due(at(ms)));
        assert_eq!(looks, [true, false, false, true, false, false, true, false, true]);
    }
}
