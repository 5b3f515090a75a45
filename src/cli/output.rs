//! Tables and units for people.

use std::fmt::Write;

/// Where a cell's text stands in its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings, in columns as wide as their widest cell.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; a cell missing at its end is empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// As text, each line after `indent` spaces; headings bold if `colour`.
    pub fn text(&self, indent: usize, colour: bool) -> String {
        let headings: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).chain([&headings[at]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let mut line = " ".repeat(indent);
            for (at, (_, align)) in self.columns.iter().enumerate() {
                let cell = cells.get(at).map_or("", String::as_str);
                let space = " ".repeat(widths[at].saturating_sub(cell.chars().count()));
                let _ = match align {
                    Align::Left => write!(line, "{cell}{space}  "),
                    Align::Right => write!(line, "{space}{cell}  "),
                };
            }
            line.trim_end().to_owned()
        };
        let (bold, plain) = if colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let mut text = format!("{bold}{}{plain}\n", line(&headings));
        for row in &self.rows {
            text.push_str(&line(row));
            text.push('\n');
        }
        text
    }
}

/// What a terminal would take as a command is shown instead of obeyed.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `1.5 GB`; exact below a kilobyte.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, so that rounding never shows 1000.0.
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `1 split`, `2 splits`.
pub fn counted(count: impl Into<u64>, one: &str, many: &str) -> String {
    let count = count.into();
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `yes` or `no`.
pub fn yes_no(truth: bool) -> String {
    if truth { "yes".into() } else { "no".into() }
}

/// The text, or a dash where there is none.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn columns_are_aligned_and_controls_are_shown() {
        let mut table = Table::new(&[("NAME", Align::Left), ("ROWS", Align::Right), ("NOTE", Align::Left)]);
        table.row(["événements".into(), "7".into(), "a\x1b[31mb\nc".into()]);
        table.row(["x".into(), "1234567".into()]);
        // `expect!` takes common indentation off, so the first line has none.
        expect![[r#"
            |
              NAME           ROWS  NOTE
              événements        7  a\u{1b}[31mb\nc
              x           1234567
        "#]]
        .assert_eq(&format!("|\n{}", table.text(2, false)));
    }

    #[test]
    fn bytes_have_units() {
        let shown: Vec<String> = [0, 999, 1000, 1_549, 999_999, 1_000_000, 36_000_000_000, u64::MAX]
            .into_iter()
            .map(bytes)
            .collect();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.5 kB", "999.9 kB", "1.0 MB", "36.0 GB", "18.4 EB"]);
    }
}
