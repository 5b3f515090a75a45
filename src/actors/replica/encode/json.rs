//! `JSONEachRow`: objects one after the other, or one array of them.
//!
//! Only structure is looked at: strings, escapes and brackets. What stands inside is the server's to judge. Brackets
//! of both kinds are matched, because newer servers copy a nested array or object to a text column by counting
//! one kind only: an array left open would run on into the next message's row.

use super::{DEPTH_MAX, Rows, Unreadable};
use crate::model::names::HIDDEN_PREFIX;

/// Bytes at which the scan must think.
const STRUCTURAL: [bool; 256] = {
    let mut table = [false; 256];
    table[b'"' as usize] = true;
    table[b'{' as usize] = true;
    table[b'}' as usize] = true;
    table[b'[' as usize] = true;
    table[b']' as usize] = true;
    table
};

pub(super) fn rows(payload: &[u8], rows: &mut Rows<'_>) -> Result<(), Unreadable> {
    let mut at = blank_end(payload, 0);
    let array = payload.get(at) == Some(&b'[');
    if array {
        at = blank_end(payload, at + 1);
        if payload.get(at) == Some(&b']') {
            return nothing_left(payload, at + 1);
        }
    }
    while array || at < payload.len() {
        let end = object_end(payload, at)?;
        push(&payload[at..end], rows);
        at = blank_end(payload, end);
        match payload.get(at) {
            // The server takes a comma between rows, so do we; never one at the end.
            Some(b',') => {
                at = blank_end(payload, at + 1);
                if at == payload.len() {
                    return Err(Unreadable::NotAnObject { at });
                }
            }
            Some(b']') if array => return nothing_left(payload, at + 1),
            _ if array => return Err(Unreadable::NotAnObject { at }),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a field of the message may have one of our columns' names: plainly, in whatever case, or by escapes.
pub(super) fn may_name_hidden(payload: &[u8]) -> bool {
    let named = |at: usize| {
        payload
            .get(at..at + HIDDEN_PREFIX.len())
            .is_some_and(|text| text.eq_ignore_ascii_case(HIDDEN_PREFIX.as_bytes()))
    };
    memchr::memchr2_iter(b'\\', b'_', payload).any(|at| payload[at] == b'\\' || named(at))
}

/// Writes a row whose text is `{…}`: our fields take the place of the opening brace.
fn push(object: &[u8], rows: &mut Rows<'_>) {
    let inner = blank_end(object, 1);
    rows.push(&object[inner..], object[inner] == b'}');
}

fn nothing_left(payload: &[u8], at: usize) -> Result<(), Unreadable> {
    match blank_end(payload, at) {
        at if at == payload.len() => Ok(()),
        at => Err(Unreadable::NotAnObject { at }),
    }
}

/// The first position at or after `at` that is no white space.
fn blank_end(payload: &[u8], mut at: usize) -> usize {
    while matches!(payload.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// One past the closing brace of the object that begins at `start`.
fn object_end(payload: &[u8], start: usize) -> Result<usize, Unreadable> {
    if payload.get(start) != Some(&b'{') {
        return Err(Unreadable::NotAnObject { at: start });
    }
    // Open brackets, the innermost in the lowest bit: 1 for an array.
    let mut open: u128 = 0;
    let mut depth = 1;
    let mut at = start + 1;
    loop {
        while at < payload.len() && !STRUCTURAL[usize::from(payload[at])] {
            at += 1;
        }
        let Some(&byte) = payload.get(at) else { return Err(Unreadable::Truncated { at: start }) };
        at += 1;
        match byte {
            b'"' => at = string_end(payload, at).ok_or(Unreadable::Truncated { at: start })?,
            b'{' | b'[' => {
                if depth == DEPTH_MAX {
                    return Err(Unreadable::TooDeep { at: at - 1 });
                }
                depth += 1;
                open = open << 1 | u128::from(byte == b'[');
            }
            _ => {
                if (open & 1 == 1) != (byte == b']') {
                    return Err(Unreadable::Unbalanced { at: at - 1 });
                }
                depth -= 1;
                open >>= 1;
                if depth == 0 {
                    return Ok(at);
                }
            }
        }
    }
}

/// One past the quote that closes the string whose text begins at `at`.
fn string_end(payload: &[u8], mut at: usize) -> Option<usize> {
    // Most strings are names and short values: only the long ones are worth a vector search's start-up.
    let near = payload.len().min(at + 24);
    loop {
        while at < near && payload[at] != b'"' && payload[at] != b'\\' {
            at += 1;
        }
        if at >= near {
            at += memchr::memchr2(b'"', b'\\', payload.get(at..)?)?;
        }
        if payload[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}
