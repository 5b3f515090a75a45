//! `CSV`, cut where ClickHouse's own reader cuts it.
//!
//! That reader takes a quote, single or double, only at the start of a value (behind blanks); within it a doubled
//! quote stands for one, and newlines belong to the value. A quote inside an unquoted value is an ordinary character.

use super::{Rows, Unreadable};

pub(super) fn rows(payload: &[u8], rows: &mut Rows<'_>) -> Result<(), Unreadable> {
    let quoted = memchr::memchr2(b'"', b'\'', payload).is_some();
    let mut start = 0;
    while start < payload.len() {
        let end = if quoted {
            row_end(payload, start)?
        } else {
            memchr::memchr(b'\n', &payload[start..]).map_or(payload.len(), |length| start + length)
        };
        let row = &payload[start..end];
        rows.push(row.strip_suffix(b"\r").unwrap_or(row), false);
        start = end + 1;
    }
    Ok(())
}

/// The position of the newline that ends the row, or of the message's end.
fn row_end(payload: &[u8], start: usize) -> Result<usize, Unreadable> {
    let mut at = start;
    loop {
        at = blank_end(payload, at);
        if let Some(&quote @ (b'"' | b'\'')) = payload.get(at) {
            at = blank_end(payload, quote_end(payload, at, quote)?);
            let ends = matches!(payload.get(at), None | Some(b',' | b'\n'));
            if !ends && !payload[at..].starts_with(b"\r\n") && &payload[at..] != b"\r" {
                return Err(Unreadable::TextAfterQuote { at });
            }
        }
        match payload.get(at..).and_then(|rest| memchr::memchr2(b',', b'\n', rest)) {
            Some(length) if payload[at + length] == b',' => at += length + 1,
            Some(length) => return Ok(at + length),
            None => return Ok(payload.len()),
        }
    }
}

/// One past the closing quote of the value whose opening quote is at `start`.
fn quote_end(payload: &[u8], start: usize, quote: u8) -> Result<usize, Unreadable> {
    let mut at = start + 1;
    loop {
        let length = payload.get(at..).and_then(|rest| memchr::memchr(quote, rest));
        at += length.ok_or(Unreadable::OpenQuote { at: start })? + 1;
        if payload.get(at) != Some(&quote) {
            return Ok(at);
        }
        at += 1;
    }
}

fn blank_end(payload: &[u8], mut at: usize) -> usize {
    while matches!(payload.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    at
}
