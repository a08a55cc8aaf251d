//! Whether it stayed as it was.
//!
//! A line is laid through the samples of the last two thirds (least squares). What it rises by from their first to their
//! last, less two standard errors, is growth that chance does not explain; above its bound, a share of the mean, the
//! figure did not stay flat. The database is not judged: it keeps the history, and has to grow.

use std::io::Write;

use anyhow::{Result, ensure};

use super::sample::{Figure, Sample};

/// Fewer samples make no line.
const FEWEST: usize = 6;

/// How much of its mean a figure may rise by; `None`: as it likes.
fn bound(figure: Figure) -> Option<f64> {
    match figure {
        Figure::Database => None,
        // A leak has no reason to end; what a cache takes to fill is in the first third.
        Figure::Memory | Figure::Files => Some(0.05),
        Figure::SubmitMedian | Figure::DispatchMedian => Some(0.20),
        // One slow commit of the disk's in ten seconds is the whole of it.
        Figure::SubmitTail | Figure::DispatchTail => Some(0.50),
    }
}

/// A line through points.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Line {
    mean: f64,
    /// By how much it rises from the first point to the last.
    rise: f64,
    /// The standard error of that.
    error: f64,
}

impl Line {
    /// Through at least three points, in the order of time.
    fn through(points: &[(f64, f64)]) -> Line {
        let count = points.len() as f64;
        let middle = points.iter().map(|(at, _)| at).sum::<f64>() / count;
        let mean = points.iter().map(|(_, value)| value).sum::<f64>() / count;
        let spread: f64 = points.iter().map(|(at, _)| (at - middle).powi(2)).sum();
        let slope = points.iter().map(|(at, value)| (at - middle) * (value - mean)).sum::<f64>() / spread;
        let off: f64 = points.iter().map(|(at, value)| (value - mean - slope * (at - middle)).powi(2)).sum();
        let span = points[points.len() - 1].0 - points[0].0;
        Line { mean, rise: slope * span, error: (off / (count - 2.0) / spread).sqrt() * span }
    }

    /// How much of the mean it rose by at least.
    fn growth(self) -> f64 {
        (self.rise - 2.0 * self.error) / self.mean
    }
}

/// Prints it, figure by figure; whether all of them stayed flat.
pub(super) fn given(samples: &[Sample]) -> Result<bool> {
    let judged = &samples[samples.len() / 3..];
    ensure!(judged.len() >= FEWEST, "{} samples tell nothing: let it run for longer", samples.len());
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n| of the last two thirds | mean | rises by | ± | at most | flat |\n|---|---|---|---|---|---|")?;
    let mut flat = true;
    for figure in Figure::ALL {
        let points: Vec<_> = judged.iter().map(|sample| (sample.minutes(), sample.value(figure))).collect();
        let line = Line::through(&points);
        let stays = bound(figure).map(|bound| line.growth() <= bound);
        flat &= stays.unwrap_or(true);
        let (most, word) = match (bound(figure), stays) {
            (Some(bound), Some(true)) => (format!("{:.0} %", bound * 100.0), "yes"),
            (Some(bound), _) => (format!("{:.0} %", bound * 100.0), "NO"),
            (None, _) => ("–".to_owned(), "not judged"),
        };
        let percent = |value: f64| format!("{:+.1} %", value / line.mean * 100.0);
        let (rise, error) = (percent(line.rise), percent(line.error));
        writeln!(out, "| {} | {:.2} | {rise} | {error} | {most} | {word} |", figure.name(), line.mean)?;
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: impl Fn(f64) -> f64) -> Line {
        Line::through(&(0..40).map(|at| (f64::from(at), values(f64::from(at)))).collect::<Vec<_>>())
    }

    #[test]
    fn a_leak_is_seen_and_noise_is_not() {
        let leak = line(|at| 100.0 + at);
        assert!((leak.rise - 39.0).abs() < 1e-6 && leak.error < 1e-6, "{leak:?}");
        assert!(leak.growth() > 0.3, "{leak:?}");
        let noise = line(|at| if at % 2.0 == 0.0 { 90.0 } else { 110.0 });
        assert!(noise.growth() < 0.0, "{noise:?}");
        let both = line(|at| 100.0 + at + if at % 2.0 == 0.0 { 5.0 } else { -5.0 });
        assert!(both.growth() > 0.2, "{both:?}");
    }

    #[test]
    fn what_shrinks_does_not_grow() {
        assert!(line(|at| 100.0 - at).growth() < 0.0);
    }
}
