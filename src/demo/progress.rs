//! How far the rows are: a bar on a terminal, a line every tenth elsewhere.

use super::steps::Report;
use crate::daemon::Error;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// See the module. A bar goes with it.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    tenth: u64,
}

impl Progress {
    /// Of so many rows.
    pub fn of(total: u64) -> Result<Self, Error> {
        if !std::io::stderr().is_terminal() {
            return Ok(Self { bar: None, total, tenth: 0 });
        }
        let style = ProgressStyle::with_template("          {bar:40} {pos}/{len} rows readable  {per_sec}");
        let style = style.map_err(|error| Error::new(error, "this is a bug in the demo"))?;
        Ok(Self { bar: Some(ProgressBar::new(total).with_style(style)), total, tenth: 0 })
    }

    /// So many are readable.
    pub fn reached(&mut self, rows: u64, report: &Report) {
        if let Some(bar) = &self.bar {
            bar.set_position(rows);
        } else if self.passed(rows) {
            report.say(&format!("{} %: {rows} of {} rows are readable", self.tenth * 10, self.total));
        }
    }

    /// Whether that is a further tenth.
    fn passed(&mut self, rows: u64) -> bool {
        let tenth = rows.saturating_mul(10).checked_div(self.total).unwrap_or(10).min(10);
        let further = tenth > self.tenth;
        self.tenth = self.tenth.max(tenth);
        further
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenth_is_told_once() {
        let mut progress = Progress { bar: None, total: 200, tenth: 0 };
        let told = [0, 19, 20, 39, 40, 30, 100, 199, 200, 201].map(|rows| progress.passed(rows));
        assert_eq!(told, [false, false, true, false, true, false, true, true, true, false]);
        let mut nothing = Progress { bar: None, total: 0, tenth: 0 };
        assert!(nothing.passed(0), "nothing to wait for");
    }
}
