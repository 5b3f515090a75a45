//! Turns a message into rows of an `INSERT`, with the three hidden columns in front of each.
//!
//! Rows of many messages share one insert, so a message must never reach beyond its own text: an open quote or a
//! dangling escape would swallow the rows behind it in silence. Whatever could do that on the server is refused
//! here, with a reason, and goes to the dead-letter topic; everything else (types, unknown fields, number of columns)
//! is the server's to judge, loudly. This module does no I/O and knows no batch.

mod csv;
mod json;
#[cfg(test)]
mod tests;
mod tsv;

use crate::error::{Code, Coded, Retry, ranges};
use crate::model::ids::PartitionId;
use crate::model::names::{OFFSET_COLUMN, PARTITION_COLUMN, ROW_COLUMN};
use crate::model::table::{MessageFormat, Schema};
use bytes::Bytes;

/// Why a message cannot be cut into rows. `at` is a byte position within the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// JSON: something that is no object stands where a row should.
    #[error("byte {at}: a JSON object was expected")]
    NotAnObject {
        /// Where.
        at: usize,
    },
    /// JSON: a bracket closes what was not opened, or closes another kind.
    #[error("byte {at}: this bracket closes nothing that is open")]
    Unbalanced {
        /// Where.
        at: usize,
    },
    /// JSON: the message ends inside an object, an array or a string.
    #[error("the message ends inside what byte {at} opened")]
    Truncated {
        /// Where the row began.
        at: usize,
    },
    /// JSON: more than [`DEPTH_MAX`] brackets are open at once.
    #[error("byte {at}: nested more than {DEPTH_MAX} levels deep")]
    TooDeep {
        /// Where.
        at: usize,
    },
    /// CSV: a quoted value does not end.
    #[error("the quote at byte {at} is never closed")]
    OpenQuote {
        /// Where the quote is.
        at: usize,
    },
    /// CSV: something follows a closing quote other than a comma or the end of the row.
    #[error("byte {at}: text after a closing quote")]
    TextAfterQuote {
        /// Where.
        at: usize,
    },
    /// TSV: the message ends with half an escape sequence.
    #[error("byte {at}: the message ends with an open backslash")]
    DanglingBackslash {
        /// Where.
        at: usize,
    },
}

impl Coded for Unreadable {
    fn code(&self) -> Code {
        Code(
            ranges::INGEST
                + match self {
                    Self::NotAnObject { .. } => 51,
                    Self::Unbalanced { .. } => 52,
                    Self::Truncated { .. } => 53,
                    Self::TooDeep { .. } => 54,
                    Self::OpenQuote { .. } => 55,
                    Self::TextAfterQuote { .. } => 56,
                    Self::DanglingBackslash { .. } => 57,
                },
        )
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn remedy(&self) -> &'static str {
        "correct the producer, then send the message again: the dead-letter topic holds it as it was"
    }
}

/// How many JSON brackets may be open at once.
pub const DEPTH_MAX: usize = 128;

/// Appends the rows of one message to `out`.
///
/// Of JSON objects a message's first row does without its number, which the server then takes to be 0: nearly every row
/// is its message's first, and a field less is a good part of what a short row costs. Not where the message might name
/// that column itself: two fields of one name are refused, one alone would be believed.
///
/// Row `R` (from 0) is left out where `skip(R)` says so, because the table holds it already; the others keep their
/// numbers. An empty message, and so a tombstone, has no rows; a newline at the end of the message begins no row.
/// Returns how many rows were written. On an error `out` is as it was.
pub fn encode(
    format: MessageFormat,
    payload: &[u8],
    partition: PartitionId,
    offset: i64,
    skip: &dyn Fn(u32) -> bool,
    out: &mut Vec<u8>,
) -> Result<u32, Unreadable> {
    let before = out.len();
    let mut rows = Rows::new(format, partition, offset, skip, out);
    rows.first_is_unnumbered = format == MessageFormat::JSONEachRow && !json::may_name_hidden(payload);
    let done = match format {
        MessageFormat::JSONEachRow => json::rows(payload, &mut rows),
        MessageFormat::CSV => csv::rows(payload, &mut rows),
        MessageFormat::TSV => tsv::rows(payload, &mut rows),
    };
    let written = rows.written;
    match done {
        Ok(()) => Ok(written),
        Err(reason) => {
            out.truncate(before);
            Err(reason)
        }
    }
}

/// Cuts a text of many rows into one message a row, as they were written.
pub fn split(format: MessageFormat, payload: &[u8]) -> Result<Vec<Bytes>, Unreadable> {
    let mut out = Vec::with_capacity(payload.len() + 16);
    let mut rows = Rows::new(format, PartitionId(0), 0, &|_| false, &mut out);
    rows.ends = Some(Vec::new());
    match format {
        MessageFormat::JSONEachRow => json::rows(payload, &mut rows),
        MessageFormat::CSV => csv::rows(payload, &mut rows),
        MessageFormat::TSV => tsv::rows(payload, &mut rows),
    }?;
    let ends = rows.ends.take().unwrap_or_default();
    let out = Bytes::from(out);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    Ok(starts.zip(&ends).map(|(start, end)| out.slice(start..*end)).collect())
}

/// The columns that an `INSERT` of these rows names, in the order that CSV and TSV have them.
pub fn columns(schema: &Schema) -> Vec<String> {
    let hidden = [PARTITION_COLUMN, OFFSET_COLUMN, ROW_COLUMN].map(str::to_owned);
    let own = schema.columns.iter().filter(|column| column.insertable()).map(|column| column.name.clone());
    hidden.into_iter().chain(own).collect()
}

/// Server settings under which the server cuts rows exactly where this module does. They go with every insert;
/// a table whose own settings say otherwise must be refused when it is created.
pub fn required_settings(format: MessageFormat) -> &'static [(&'static str, &'static str)] {
    match format {
        MessageFormat::CSV => &[
            ("format_csv_delimiter", ","),
            ("format_csv_allow_single_quotes", "1"),
            ("format_csv_allow_double_quotes", "1"),
        ],
        MessageFormat::JSONEachRow | MessageFormat::TSV => &[],
    }
}

/// Where rows go: knows the hidden columns' text and numbers the rows.
struct Rows<'a> {
    /// The hidden columns up to the row number, the same for every row of the message.
    head: [u8; HEAD_MAX],
    head_len: usize,
    /// What of it stands in front of a first row that goes without its number.
    unnumbered_len: usize,
    first_is_unnumbered: bool,
    /// What stands between the row number and the row.
    separator: u8,
    next: u32,
    written: u32,
    skip: &'a dyn Fn(u32) -> bool,
    out: &'a mut Vec<u8>,
    /// Where each row ends in `out`, if rows are only to be cut apart.
    ends: Option<Vec<usize>>,
    /// What `push` is given without: a JSON object's opening brace.
    opening: &'static [u8],
}

/// Room for both names, a `u32`, an `i64` and punctuation.
const HEAD_MAX: usize = 96;

impl<'a> Rows<'a> {
    fn new(
        format: MessageFormat,
        partition: PartitionId,
        offset: i64,
        skip: &'a dyn Fn(u32) -> bool,
        out: &'a mut Vec<u8>,
    ) -> Self {
        let (parts, separator): ([&str; 3], u8) = match format {
            MessageFormat::JSONEachRow => {
                (["{\"_cvh_partition\":", ",\"_cvh_offset\":", ",\"_cvh_row\":"], b',')
            }
            MessageFormat::CSV => (["", ",", ","], b','),
            MessageFormat::TSV => (["", "\t", "\t"], b'\t'),
        };
        let opening: &[u8] = if format == MessageFormat::JSONEachRow { b"{" } else { b"" };
        let mut rows = Self {
            head: [0; HEAD_MAX],
            head_len: 0,
            unnumbered_len: 0,
            first_is_unnumbered: false,
            separator,
            next: 0,
            written: 0,
            skip,
            out,
            ends: None,
            opening,
        };
        rows.push_head(parts[0].as_bytes());
        rows.push_head(decimal(partition.0.into(), &mut [0; 20]));
        rows.push_head(parts[1].as_bytes());
        if offset < 0 {
            rows.push_head(b"-");
        }
        rows.push_head(decimal(offset.unsigned_abs(), &mut [0; 20]));
        rows.unnumbered_len = rows.head_len;
        rows.push_head(parts[2].as_bytes());
        rows
    }

    fn push_head(&mut self, text: &[u8]) {
        self.head[self.head_len..self.head_len + text.len()].copy_from_slice(text);
        self.head_len += text.len();
    }

    /// Writes one row: hidden columns, separator, `row`, newline. `bare` leaves the separator out.
    fn push(&mut self, row: &[u8], bare: bool) {
        let number = self.next;
        self.next += 1;
        if let Some(ends) = &mut self.ends {
            self.out.extend_from_slice(self.opening);
            self.out.extend_from_slice(row);
            ends.push(self.out.len());
            return;
        }
        if (self.skip)(number) {
            return;
        }
        self.out.reserve(self.head_len + row.len() + 12);
        if number == 0 && self.first_is_unnumbered {
            self.out.extend_from_slice(&self.head[..self.unnumbered_len]);
        } else {
            self.out.extend_from_slice(&self.head[..self.head_len]);
            self.out.extend_from_slice(decimal(number.into(), &mut [0; 20]));
        }
        if !bare {
            self.out.push(self.separator);
        }
        self.out.extend_from_slice(row);
        self.out.push(b'\n');
        self.written += 1;
    }
}

/// A number's decimal digits, without the cost of `fmt`.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}
