//! ClickHouse's error codes to our errors. Codes are the server's numbers; prose is only shown, never matched, but for
//! one case that shares its number with passing ones: [`is_spoilt`].
//!
//! The number stands in the answer's text (`Code: 27, e.displayText() = …` on old servers, `Code: 27. DB::…` on
//! newer ones) and on newer ones in a header that the `clickhouse` crate turns into the same text.

use super::Error;

/// What was being done: the same code means different things to an insert and to a `CREATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// A batch of rows on its way in.
    Insert,
    /// Rows that are only looked at, in a table of the session.
    Judge,
    /// Making, changing or removing a table.
    Change,
    /// Only looking.
    Read,
}

/// Longest server text that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 600;

/// The rows do not fit their table: parsing, conversion, ranges, constraints, default expressions.
const BAD_ROWS: &[u32] = &[
    3, 4, 6, 9, 25, 26, 27, 32, 33, 36, 38, 41, 43, 53, 69, 70, 72, 117, 128, 129, 130, 131, 153, 190, 246,
    321, 349, 376, 395, 407, 434, 441, 457, 467, 469, 475, 636, 675, 676, 691,
];
/// Settings and formats that the server does not know or allow: it says so before it reads a row. A setting's value
/// that it cannot read looks like a bad row, and is told from one by an insert without rows.
const NOT_ALLOWED: &[u32] = &[73, 115, 452, NO_DATA];
/// An insert without rows, to newer servers: once they have looked at its settings, and before they look for the table.
pub const NO_DATA: u32 = 108;
/// Disk, memory, parts, read-only, too busy: may pass. What Poco and `std` throw (1000 to 1002) is I/O as a rule.
const OVERLOADED: &[u32] = &[
    23, 24, 74, 75, 76, 77, 78, 87, 106, 164, 201, 202, 203, 225, 236, 241, 242, 243, 252, 279, 285, 299,
    373, 439, 473, 499, 519, 573, 574, 626, 668, 734, 745, 1000, 1001, 1002,
];
/// Of those, what an insert meets before it writes its first part. Any other may strike between two parts of one
/// block, so that some of them are in: the outcome is unknown.
const BEFORE_WRITING: &[u32] = &[164, 201, 202, 203, 242, 252, 373, 439, 745];
/// User, password, rights.
const DENIED: &[u32] = &[192, 193, 194, 195, 291, 492, 497, 516, 538, 539];
/// No such table or database.
const MISSING: &[u32] = &[60, 81, 218];
/// A table or database of that name is there.
const EXISTS: &[u32] = &[57, 82];
/// Cut off in the middle: time-outs, a killed query, a broken connection between servers.
const INTERRUPTED: &[u32] = &[159, 160, 209, 210, 319, 394];

/// The first `Code: N` of an answer. The server writes it before anything that quotes the user.
pub fn code_of(text: &str) -> Option<u32> {
    let (_, tail) = text.split_once("Code: ")?;
    let digits = tail.find(|c: char| !c.is_ascii_digit()).map_or(tail, |end| &tail[..end]);
    digits.parse().ok()
}

/// Whether a `CREATE` or `RENAME` found a file in its way that an earlier, failed one has left: `CANNOT_OPEN_FILE`,
/// with the system's `EEXIST`, of a `….sql.tmp`.
fn is_spoilt(code: u32, text: &str) -> bool {
    code == 76 && text.contains(".sql.tmp") && text.contains("errno: 17,")
}

/// An answer of the server that says it failed, as our error. `what` names the verb and its object.
pub fn classify(doing: Doing, what: &str, text: &str) -> Error {
    let message = shorten(text);
    let Some(code) = code_of(text) else {
        // A proxy, or no ClickHouse at all: whether something behind it acted cannot be known.
        let reason = format!("not an answer of ClickHouse: {message}");
        return match doing {
            Doing::Read | Doing::Judge => Error::Unreachable { url: what.to_owned(), reason },
            Doing::Insert | Doing::Change => Error::OutcomeUnknown { what: what.to_owned(), reason },
        };
    };
    let is_one_of = |codes: &[u32]| codes.contains(&code);
    let interrupted = match doing {
        Doing::Read | Doing::Judge => false,
        Doing::Change => is_one_of(INTERRUPTED),
        Doing::Insert => is_one_of(INTERRUPTED) || is_one_of(OVERLOADED) && !is_one_of(BEFORE_WRITING),
    };
    if is_one_of(DENIED) {
        Error::Denied(message)
    } else if is_one_of(MISSING) {
        Error::Missing(what.to_owned())
    } else if interrupted {
        Error::OutcomeUnknown { what: what.to_owned(), reason: message }
    } else if doing == Doing::Change && is_spoilt(code, text) {
        Error::Spoilt(what.to_owned())
    } else if is_one_of(OVERLOADED) || is_one_of(INTERRUPTED) {
        Error::Overloaded { code, message }
    } else if matches!(doing, Doing::Insert | Doing::Judge) && is_one_of(BAD_ROWS) {
        Error::BadRows { code, message }
    } else if doing == Doing::Change && is_one_of(EXISTS) {
        Error::Conflict(what.to_owned())
    } else if doing == Doing::Insert && !is_one_of(NOT_ALLOWED) {
        // It may have struck between two parts of the block, of which the first is in.
        Error::OutcomeUnknown { what: what.to_owned(), reason: message }
    } else {
        Error::Refused { code, message }
    }
}

/// One line, no stack trace, at most [`MESSAGE_BYTES_MAX`] bytes.
fn shorten(text: &str) -> String {
    let text = text.split("Stack trace").next().unwrap_or(text);
    let text = text.strip_suffix(", e.what() = DB::Exception").unwrap_or(text);
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Coded, Retry};

    const OLD: &str = "Code: 27, e.displayText() = DB::Exception: Cannot parse input: Code: 60 (at row 1)\n, \
                       e.what() = DB::Exception";

    #[test]
    fn codes_are_read_from_both_dialects() {
        assert_eq!(code_of(OLD), Some(27));
        assert_eq!(code_of("Code: 516. DB::Exception: default: Authentication failed."), Some(516));
        assert_eq!(code_of("Poco::Exception. Code: 1000, e.code() = 111"), Some(1000));
        assert_eq!(code_of("Code: 42"), Some(42));
        assert_eq!(code_of("502 Bad Gateway"), None);
    }

    #[test]
    fn the_same_code_means_different_things_to_an_insert_and_to_a_statement() {
        assert!(matches!(classify(Doing::Insert, "x", OLD), Error::BadRows { code: 27, .. }));
        assert!(matches!(classify(Doing::Change, "x", OLD), Error::Refused { code: 27, .. }));
        let killed = "Code: 394. DB::Exception: Query was cancelled";
        assert_eq!(classify(Doing::Insert, "x", killed).retry(), Retry::OutcomeUnknown);
        assert!(matches!(classify(Doing::Read, "x", killed), Error::Overloaded { .. }));
        let full = "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space";
        assert_eq!(classify(Doing::Insert, "x", full).retry(), Retry::OutcomeUnknown, "one part may be in");
        assert!(matches!(classify(Doing::Change, "x", full), Error::Overloaded { code: 243, .. }));
        for any_other in
            ["Code: 173, e.displayText() = DB::ErrnoException: Allocator: Cannot mmap", "Code: 49. Logical"]
        {
            assert_eq!(classify(Doing::Insert, "x", any_other).retry(), Retry::OutcomeUnknown, "{any_other}");
            assert!(matches!(classify(Doing::Change, "x", any_other), Error::Refused { .. }));
        }
        let cannot_open = |errno| {
            let text = format!(
                "Code: 76, e.displayText() = DB::ErrnoException: Cannot open file /d/t.sql.tmp, {errno}"
            );
            classify(Doing::Change, "d.t", &text)
        };
        assert_eq!(cannot_open("errno: 17, strerror: File exists"), Error::Spoilt("d.t".into()));
        assert!(matches!(cannot_open("errno: 28, strerror: No space left"), Error::Overloaded { .. }));
        let many = "Code: 252, e.displayText() = DB::Exception: Too many parts (300)";
        assert!(matches!(classify(Doing::Insert, "x", many), Error::Overloaded { code: 252, .. }));
        let constraint =
            "Code: 452. DB::Exception: Setting input_format_allow_errors_num should not be changed";
        assert!(matches!(classify(Doing::Insert, "x", constraint), Error::Refused { code: 452, .. }));
        let gone = "Code: 60, e.displayText() = DB::Exception: Table a.gate_1 doesn't exist.";
        assert_eq!(classify(Doing::Insert, "a.gate_1", gone), Error::Missing("a.gate_1".into()));
        let proxy = classify(Doing::Insert, "insert", "<html>502 Bad Gateway</html>");
        assert_eq!(proxy.retry(), Retry::OutcomeUnknown);
    }

    #[test]
    fn messages_are_short_and_on_one_line() {
        let long = format!("Code: 243. DB::Exception: {}\nnext Stack trace: 0. x", "é".repeat(900));
        let Error::Overloaded { code: 243, message } = classify(Doing::Change, "x", &long) else { panic!() };
        assert!(message.len() <= MESSAGE_BYTES_MAX + 4 && !message.contains('\n'), "{message}");
    }

    #[test]
    fn no_code_is_in_two_classes() {
        let all = [BAD_ROWS, NOT_ALLOWED, OVERLOADED, DENIED, MISSING, EXISTS, INTERRUPTED].concat();
        let mut unique = all.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
    }
}
