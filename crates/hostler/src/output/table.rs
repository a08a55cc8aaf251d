//! Tables for people: columns as wide as they need to be, as narrow as the terminal makes them.
//!
//! A column named in [`Table::wide`] is shown only when asked for (`-o wide`). On a terminal the column `STATE` and its
//! like are coloured, and when a line would not fit, first ids give way to their ends where those are enough
//! ([`Table::brief`]), then columns of free text; elsewhere nothing is cut.

use std::{borrow::Cow, fmt};

use console::{measure_text_width, truncate_str};

use super::{Human, Style, paint, plain};

/// Between two columns.
const GAP: usize = 2;
/// A column that gives way keeps at least this much.
const NARROWEST: usize = 8;
/// Columns whose cells begin with the word of a state.
const STATES: [&str; 3] = ["STATE", "AGENT", "VERDICT"];
/// What an id is cut to is no id: these keep their width.
const WHOLE: [&str; 3] = ["ID", "NAME", "DIGEST"];

/// Rows under a header.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    wide: Vec<&'static str>,
    brief: Option<&'static str>,
}

/// Rows under a header.
pub fn table<const N: usize>(header: [&'static str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let rows = rows.into_iter().map(|row| row.map(|cell| plain(&cell).replace(['\n', '\t'], " ")).into()).collect();
    Table { header: header.into(), rows, wide: Vec::new(), brief: None }
}

impl Table {
    /// Names columns that are shown only when asked for.
    #[must_use]
    pub fn wide(mut self, columns: &[&'static str]) -> Table {
        self.wide = columns.into();
        self
    }

    /// Names a column of ids whose ends are enough to name things by: on a narrow terminal only those are shown.
    #[must_use]
    pub fn brief(mut self, column: &'static str) -> Table {
        self.brief = Some(column);
        self
    }

    /// With the ends of ids only, if they were asked for and the line does not fit without.
    fn fitting(&self, style: &Style) -> Cow<'_, Table> {
        let column = self.brief.and_then(|brief| self.header.iter().position(|name| *name == brief));
        let (Some(column), Some(room)) = (column, style.width) else { return Cow::Borrowed(self) };
        if width(&self.columns(&Style { width: None, ..*style })) <= room {
            return Cow::Borrowed(self);
        }
        let mut ends = self.clone();
        for row in &mut ends.rows {
            let end = row[column].rsplit('-').next().unwrap_or_default().to_owned();
            row[column] = end;
        }
        Cow::Owned(ends)
    }

    /// The columns that are shown, each with its width.
    fn columns(&self, style: &Style) -> Vec<(usize, usize)> {
        let shown = |index: &usize| style.wide || !self.wide.contains(&self.header[*index]);
        let mut columns: Vec<(usize, usize)> =
            (0..self.header.len()).filter(shown).map(|index| (index, self.natural(index, style))).collect();
        if let Some(room) = style.width {
            self.squeeze(&mut columns, room);
        }
        columns
    }

    fn natural(&self, index: usize, style: &Style) -> usize {
        let header = if style.headers { self.header[index].len() } else { 0 };
        self.rows.iter().map(|row| measure_text_width(&row[index])).max().unwrap_or(0).max(header)
    }

    /// Takes from the widest column that may give way until the line fits, or nothing is left to take.
    fn squeeze(&self, columns: &mut [(usize, usize)], room: usize) {
        loop {
            let line = width(columns);
            let gives = |(index, width): &&mut (usize, usize)| {
                *width > NARROWEST.max(self.header[*index].len()) && !WHOLE.contains(&self.header[*index])
            };
            match columns.iter_mut().filter(gives).max_by_key(|(_, width)| *width) {
                Some((_, width)) if line > room => *width -= 1,
                Some(_) | None => return,
            }
        }
    }

    fn row(&self, row: &[String], columns: &[(usize, usize)], style: &Style) -> String {
        let mut line = String::new();
        for (at, (index, width)) in columns.iter().enumerate() {
            let cell = truncate_str(&row[*index], *width, "…");
            // Nothing is put after the last one, so that a line ends with its last word.
            let pad = if at + 1 < columns.len() { width + GAP - measure_text_width(&cell) } else { 0 };
            let state = style.colour && STATES.contains(&self.header[*index]);
            line += &if state { paint::state(&cell) } else { cell.into_owned() };
            line += &" ".repeat(pad);
        }
        line.trim_end().to_owned() + "\n"
    }
}

/// Of a line.
fn width(columns: &[(usize, usize)]) -> usize {
    columns.iter().map(|(_, width)| width).sum::<usize>() + GAP * columns.len().saturating_sub(1)
}

impl Human for Table {
    fn text(&self, style: &Style) -> String {
        let table = self.fitting(style);
        let columns = table.columns(style);
        let header: Vec<String> = table.header.iter().map(|name| (*name).to_owned()).collect();
        let header = style.headers.then(|| {
            let line = table.row(&header, &columns, &Style { colour: false, ..*style });
            if style.colour { paint::faint(line.trim_end()) + "\n" } else { line }
        });
        header.into_iter().chain(table.rows.iter().map(|row| table.row(row, &columns, style))).collect()
    }
}

/// As a file or a program gets it.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(&Style::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let rows = [
            ["a".into(), "running".into(), "the first of them".into(), "0190".into()],
            ["longer".into(), "error (crashed)".into(), "-".into(), "0191".into()],
        ];
        table(["NAME", "STATE", "WHY", "ID"], rows).wide(&["ID"])
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        assert_eq!(
            sample().to_string(),
            "NAME    STATE            WHY\na       running          the first of them\nlonger  error (crashed)  -\n"
        );
    }

    #[test]
    fn wide_columns_and_headers_are_shown_when_asked_for() {
        let style = Style { wide: true, headers: false, ..Style::default() };
        insta::assert_snapshot!(sample().text(&style), @"
        a       running          the first of them  0190
        longer  error (crashed)  -                  0191
        ");
    }

    #[test]
    fn a_narrow_terminal_cuts_free_text_and_never_an_id() {
        let style = Style { wide: true, width: Some(34), ..Style::default() };
        let text = sample().text(&style);
        insta::assert_snapshot!(text, @"
        NAME    STATE      WHY        ID
        a       running    the firs…  0190
        longer  error (c…  -          0191
        ");
        assert!(text.lines().all(|line| measure_text_width(line) <= 34));
    }

    #[test]
    fn the_end_of_an_id_is_shown_where_the_whole_does_not_fit() {
        let rows = [["0190f1f0-0000-7000-8000-00000000000a".into(), "queued".into(), "0190-b".into()]];
        let table = table(["ID", "STATE", "VM"], rows).brief("ID");
        let at = |width| table.text(&Style { width, headers: false, ..Style::default() });
        assert!(at(None).starts_with("0190f1f0-0000-7000-8000-00000000000a  queued") && at(Some(52)) == at(None));
        assert_eq!(at(Some(51)), "00000000000a  queued  0190-b\n");
    }

    #[test]
    fn a_state_has_its_colour_and_its_place_on_a_terminal() {
        let style = Style { colour: true, ..Style::default() };
        let coloured = sample().text(&style);
        assert!(coloured.contains("\u{1b}[32mrunning\u{1b}[0m"), "{coloured:?}");
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), sample().to_string());
    }

    #[test]
    fn a_cell_stays_in_its_line() {
        let text = table(["A", "B"], [["x\ny".into(), "\u{1b}[2J".into()]]).to_string();
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
