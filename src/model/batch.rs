//! Import batches by name: what a batch may be called, and what is noted of one that is in.

use super::ids::InvalidId;
use std::fmt;
use std::str::FromStr;

/// A batch's name, chosen by the client: whoever repeats an insert repeats its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchName(String);

/// Longest name.
const NAME_MAX: usize = 200;

impl BatchName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BatchName {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if (1..=NAME_MAX).contains(&text.len()) && text.chars().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "1 to 200 letters, digits, '.', '_' or '-'";
        Err(InvalidId { text: text.to_owned(), kind: "batch name", rule })
    }
}

impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is noted of a batch that is in: one short line, versioned: `cvhb1 rows=7 partitions=3 body=<32 hex digits>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchNote {
    /// Its rows.
    pub rows: u64,
    /// Partitions that they went to.
    pub partitions: u32,
    /// Of the rows as they came: others give another one.
    pub hash: u128,
}

impl fmt::Display for BatchNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cvhb1 rows={} partitions={} body={:032x}", self.rows, self.partitions, self.hash)
    }
}

impl BatchNote {
    /// `None` for anything that is not ours.
    pub fn decode(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("cvhb1 ")?.split(' ');
        let mut value = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
        let rows = value("rows")?.parse().ok()?;
        let partitions = value("partitions")?.parse().ok()?;
        let hash = u128::from_str_radix(value("body")?, 16).ok()?;
        Some(Self { rows, partitions, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_a_plain_alphabet() {
        for good in ["x", "2026-03-05.load_7", &"a".repeat(200)] {
            assert_eq!(good.parse::<BatchName>().unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a/b", "ä", "a\n", &"a".repeat(201)] {
            let refused = bad.parse::<BatchName>().unwrap_err().to_string();
            assert!(refused.contains("1 to 200 letters"), "{refused}");
        }
    }

    #[test]
    fn a_note_survives_its_text() {
        let note = BatchNote { rows: 7, partitions: 3, hash: 0xab };
        assert_eq!(note.to_string(), "cvhb1 rows=7 partitions=3 body=000000000000000000000000000000ab");
        assert_eq!(BatchNote::decode(&note.to_string()), Some(note));
        for other in ["", "cvhb1", "cvhb2 rows=7 partitions=3 body=ab", "cvhb1 rows=x partitions=3 body=ab"] {
            assert_eq!(BatchNote::decode(other), None, "{other:?}");
        }
    }
}
