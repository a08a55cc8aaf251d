//! Rows of the table, and the table.

use serde::Serialize;

/// One figure.
#[derive(Serialize)]
pub(crate) struct Row {
    /// What.
    pub(crate) name: String,
    /// How much.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: &'static str,
    /// What the machine allows, or a peer reaches, in the same run.
    pub(crate) floor: Option<f64>,
    /// `value / floor`.
    pub(crate) ratio: Option<f64>,
    /// What was promised, in words.
    pub(crate) target: String,
    /// Whether the promise is kept.
    pub(crate) met: bool,
}

impl Row {
    /// A figure that must not be above a limit.
    pub(crate) fn at_most(name: &str, value: f64, unit: &'static str, limit: f64) -> Row {
        Row {
            name: name.into(),
            value,
            unit,
            floor: None,
            ratio: None,
            target: format!("≤ {limit} {unit}"),
            met: value <= limit,
        }
    }

    /// A figure that must not be above so many times its floor.
    pub(crate) fn at_most_times(name: &str, value: f64, unit: &'static str, floor: f64, times: f64) -> Row {
        let ratio = value / floor;
        Row {
            name: name.into(),
            value,
            unit,
            floor: Some(floor),
            ratio: Some(ratio),
            target: format!("≤ {times} ×"),
            met: ratio <= times,
        }
    }

    /// A figure that must not be further than so much above its floor.
    pub(crate) fn at_most_above(name: &str, value: f64, unit: &'static str, floor: f64, above: f64) -> Row {
        Row {
            name: name.into(),
            value,
            unit,
            floor: Some(floor),
            ratio: Some(value / floor),
            target: format!("≤ floor + {above} {unit}"),
            met: value <= floor + above,
        }
    }

    /// A figure that must not be below so many times its floor.
    pub(crate) fn at_least_times(name: &str, value: f64, unit: &'static str, floor: f64, times: f64) -> Row {
        let ratio = value / floor;
        Row {
            name: name.into(),
            value,
            unit,
            floor: Some(floor),
            ratio: Some(ratio),
            target: format!("≥ {times} ×"),
            met: ratio >= times,
        }
    }
}

/// Prints the rows as a table.
pub(crate) fn print(rows: &[Row]) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let number = |n: Option<f64>| {
        n.map_or("–".to_owned(), |n| if n.abs() >= 100.0 { format!("{n:.0}") } else { format!("{n:.2}") })
    };
    let _ = writeln!(out, "| figure | value | unit | floor | ratio | target | met |\n|---|---|---|---|---|---|---|");
    for row in rows {
        let met = if row.met { "yes" } else { "no" };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {met} |",
            row.name,
            number(Some(row.value)),
            row.unit,
            number(row.floor),
            number(row.ratio),
            row.target
        );
    }
}

/// The value below which this share of a sample lies.
pub(crate) fn quantile(sample: &mut [f64], share: f64) -> f64 {
    sample.sort_by(f64::total_cmp);
    let last = sample.len().saturating_sub(1);
    sample.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}
