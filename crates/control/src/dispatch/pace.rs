//! How long leases gather. While thousands of tasks a second are leased one by one to many nodes, each goes its node's way
//! alone: an answer, a signature, a commit of the journal, a report and a settlement of its own. A pause of some milliseconds
//! lets several share these. Where fewer are leased nothing pauses, nor where what is fetched is many tasks anyway.

use std::time::Duration;

use tokio::time::Instant;

/// From how many tasks a second on there is a pause: more than a caller can do that waits for one task after the other.
const BUSY: f64 = 1000.0;
/// What has been leased counts less and less, by this time.
const MEMORY: Duration = Duration::from_millis(50);
/// The longest pause: under such a load a task waits longer than that for a core.
const LONGEST: Duration = Duration::from_millis(10);
/// With so many tasks to an answer, a pause would gain nothing.
const ENOUGH: f64 = 16.0;
/// How much the last answers count among all, as to how many tasks each brought.
const LAST: f64 = 0.125;

/// When leases were last granted, and how fast.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    noted: Instant,
    a_second: f64,
    to_an_answer: f64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { began: now, noted: now, a_second: 0.0, to_an_answer: 0.0 }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = now;
    }

    /// A step answered polls with so many tasks.
    pub(super) fn note(&mut self, answers: usize, tasks: usize, now: Instant) {
        self.a_second = self.rate(now) + tasks as f64 / MEMORY.as_secs_f64();
        self.noted = now;
        if answers > 0 {
            self.to_an_answer += (tasks as f64 / answers as f64 - self.to_an_answer) * LAST;
        }
    }

    /// When the next step may begin.
    pub(super) fn next(&self, now: Instant) -> Instant {
        if self.rate(now) < BUSY {
            return self.began;
        }
        self.began + LONGEST.mul_f64((1.0 - self.to_an_answer / ENOUGH).clamp(0.0, 1.0))
    }

    fn rate(&self, now: Instant) -> f64 {
        let gone = now.saturating_duration_since(self.noted).as_secs_f64();
        self.a_second * (-gone / MEMORY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps one after the other for a second, each of which brings `tasks` in answers of `each`: the pause after the last.
    fn pause(every: Duration, tasks: usize, each: usize) -> Duration {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..(Duration::from_secs(1).as_micros() / every.as_micros()) {
            now += every;
            pace.begin(now);
            pace.note(tasks / each, tasks, now);
        }
        pace.next(now) - now
    }

    #[test]
    fn one_task_after_the_other_waits_for_nothing() {
        assert_eq!(pause(Duration::from_micros(1200), 1, 1), Duration::ZERO);
        assert_eq!(pause(Duration::from_millis(10), 8, 1), Duration::ZERO);
    }

    #[test]
    fn many_that_come_one_by_one_gather_and_many_at_once_do_not() {
        assert!(pause(Duration::from_millis(4), 16, 1) > Duration::from_millis(8));
        let few = pause(Duration::from_millis(10), 64, 4);
        assert!((Duration::from_millis(6)..Duration::from_millis(8)).contains(&few), "{few:?}");
        assert_eq!(pause(Duration::from_millis(10), 400, 100), Duration::ZERO);
    }

    #[test]
    fn a_load_that_is_over_is_forgotten() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.note(16, 200, now);
        assert!(pace.next(now) > now);
        let later = now + MEMORY * 2;
        assert!(pace.next(later) <= later);
    }
}
