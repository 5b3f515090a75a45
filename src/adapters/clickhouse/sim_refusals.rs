//! What a simulated server cannot take, and when it notices. No part of the port.

use super::{Error, SimClickHouse};
use std::sync::Arc;

/// Judges a row's text.
type Judge = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

#[derive(Default)]
pub(super) struct Refusals {
    rows: Option<Judge>,
    in_parts: Option<Judge>,
    settings: bool,
}

impl Refusals {
    /// Before any row is read.
    pub fn settings(&self) -> Result<(), Error> {
        let bad = || Error::BadRows { code: 72, message: "cannot parse number in a setting".into() };
        if self.settings { Err(bad()) } else { Ok(()) }
    }

    /// While the rows are read.
    pub fn row(&self, text: &[u8]) -> Result<(), Error> {
        judged(self.rows.as_ref(), 27, text)
    }

    /// While a part is written, when those before it are in.
    pub fn in_part(&self, text: &[u8]) -> Result<(), Error> {
        judged(self.in_parts.as_ref(), 153, text)
    }
}

fn judged(bad: Option<&Judge>, code: u32, text: &[u8]) -> Result<(), Error> {
    let message = || format!("cannot take {}", String::from_utf8_lossy(text));
    let is_bad = bad.is_some_and(|bad| bad(text));
    if is_bad { Err(Error::BadRows { code, message: message() }) } else { Ok(()) }
}

impl SimClickHouse {
    /// Rows (their whole text) that it cannot read.
    pub fn refuse_rows(&self, bad: impl Fn(&[u8]) -> bool + Send + Sync + 'static) {
        self.world().refusals.rows = Some(Arc::new(bad));
    }

    /// Rows that it can read and not write, as where the sorting key divides by zero: what an insert has in earlier
    /// time parts is in by then.
    pub fn refuse_rows_in_parts(&self, bad: impl Fn(&[u8]) -> bool + Send + Sync + 'static) {
        self.world().refusals.in_parts = Some(Arc::new(bad));
    }

    /// Whether it refuses every insert for a setting's value, in the words that it has for bad rows.
    pub fn refuse_settings(&self, refuse: bool) {
        self.world().refusals.settings = refuse;
    }
}
