//! `TSV`: a newline ends a row unless an open backslash stands before it, as in ClickHouse's own reader.
//!
//! `\r\n` ends a row too; the reader itself refuses it or takes the `\r` as text, so it is cut off here.

use super::{Rows, Unreadable};

pub(super) fn rows(payload: &[u8], rows: &mut Rows<'_>) -> Result<(), Unreadable> {
    let mut start = 0;
    let mut at = 0;
    while start < payload.len() {
        let end = memchr::memchr(b'\n', &payload[at..]).map_or(payload.len(), |length| at + length);
        if escape_open(&payload[start..end]) {
            if end == payload.len() {
                return Err(Unreadable::DanglingBackslash { at: end - 1 });
            }
            at = end + 1;
            if at == payload.len() {
                rows.push(&payload[start..], false);
                return Ok(());
            }
            continue;
        }
        let row = &payload[start..end];
        let plain = row.strip_suffix(b"\r").filter(|plain| !escape_open(plain));
        rows.push(plain.unwrap_or(row), false);
        start = end + 1;
        at = start;
    }
    Ok(())
}

/// Whether the text ends with a backslash that escapes what comes next.
fn escape_open(text: &[u8]) -> bool {
    text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}
