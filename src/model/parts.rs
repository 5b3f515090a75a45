//! A partition's parts on their way from one server to another, as files: what is sent, in which order, and the check
//! of it on arrival. Pure; whoever reads or writes the files does so elsewhere.
//!
//! Nothing that the sender says is trusted with a path: names of parts and files have an alphabet without separators,
//! and no file gets more bytes than were told of it before.

use super::ids::PartitionId;
use bytes::Bytes;
use std::collections::BTreeSet;

/// Longest name of a part or file: what file systems take.
const NAME_BYTES_MAX: usize = 255;
/// Parts of one partition that are sent at once; a server with more has other troubles.
const PARTS_MAX: usize = 100_000;
/// Files of one part.
const FILES_MAX: usize = 100_000;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedParts {
    /// The replica database on the sender's server.
    pub database: String,
    /// Which partition of it.
    pub partition: PartitionId,
    /// Version of the server that is to take the parts.
    pub version: String,
    /// What is there from an earlier copy that did not end.
    pub held: Vec<HeldFile>,
}

/// A file that is there already.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldFile {
    /// Its part.
    pub part: String,
    /// Its name.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// CRC-32 of its content.
    pub checksum: u32,
}

/// A part that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFiles {
    /// ClickHouse's name of it.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its files.
    pub files: Vec<FileSize>,
}

/// A file that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSize {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// What travels. First what there is, or why there is nothing; then for each file, in that order, its content and
/// its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Parts cannot be sent, for this reason; nothing follows.
    Declined(String),
    /// Everything that will follow.
    Begin(Vec<PartFiles>),
    /// The next bytes of the file.
    Data(Bytes),
    /// The file is whole.
    End {
        /// CRC-32 of its content.
        checksum: u32,
        /// It is the same as the one that the taker holds: no content was sent.
        held: bool,
    },
}

/// Bytes of all files.
pub fn bytes_of(parts: &[PartFiles]) -> u64 {
    parts.iter().flat_map(|part| &part.files).map(|file| file.bytes).sum()
}

/// The ClickHouse partition that a part is of, by its name: `<partition>_<blocks>_<level>`.
pub fn partition_id(part: &str) -> Option<&str> {
    part.split_once('_').map(|(id, _)| id)
}

/// Whether a text can be the name of one file or folder and nothing else, here and on the other side.
pub fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.%-".contains(c);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && name.chars().all(plain)
}

/// Whether everything announced has names that can be used, each once.
///
/// # Errors
/// The text says what is wrong.
pub fn check(parts: &[PartFiles]) -> Result<(), String> {
    if parts.len() > PARTS_MAX {
        return Err(format!("{} parts are too many", parts.len()));
    }
    let mut names = BTreeSet::new();
    for part in parts {
        if !is_plain_name(&part.name) || !names.insert(part.name.as_str()) {
            return Err(format!("{:?} cannot be the name of a part", part.name));
        }
        let mut files = BTreeSet::new();
        if part.files.is_empty() || part.files.len() > FILES_MAX {
            return Err(format!("part {} cannot have {} files", part.name, part.files.len()));
        }
        for file in &part.files {
            if !is_plain_name(&file.name) || !files.insert(file.name.as_str()) {
                return Err(format!("{:?} cannot be the name of a file of part {}", file.name, part.name));
            }
        }
    }
    match parts.iter().flat_map(|part| &part.files).try_fold(0u64, |sum, file| sum.checked_add(file.bytes)) {
        Some(_) => Ok(()),
        None => Err("the sizes make no sense".to_owned()),
    }
}

/// What to do with a piece that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrived {
    /// Append this to the file, from its beginning on.
    Write(Bytes),
    /// The file is whole and as it was sent.
    Whole,
    /// The file that is there from before is the right one.
    Held,
}

/// The taker's check of what arrives. It stands at one file; each answer concerns that file.
#[derive(Debug, Clone)]
pub struct Intake {
    parts: Vec<PartFiles>,
    held: BTreeSet<HeldFile>,
    part: usize,
    file: usize,
    taken_bytes: u64,
    hasher: crc32fast::Hasher,
}

impl Intake {
    /// Begins with what was announced; `held` is what was said to be there.
    ///
    /// # Errors
    /// What was announced cannot be taken; the text says why.
    pub fn new(parts: Vec<PartFiles>, held: Vec<HeldFile>) -> Result<Self, String> {
        check(&parts)?;
        let held = held.into_iter().collect();
        Ok(Self { parts, held, part: 0, file: 0, taken_bytes: 0, hasher: crc32fast::Hasher::new() })
    }

    /// What was announced.
    pub fn parts(&self) -> &[PartFiles] {
        &self.parts
    }

    /// The part and file that the next piece is of; `None` once everything is there.
    pub fn current(&self) -> Option<(&PartFiles, &FileSize)> {
        let part = self.parts.get(self.part)?;
        Some((part, part.files.get(self.file)?))
    }

    /// Whether the current file is the last one of its part.
    pub fn ends_part(&self) -> bool {
        self.current().is_some_and(|(part, _)| self.file + 1 == part.files.len())
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// It is not what was announced, or was damaged on the way; the text says how.
    pub fn take(&mut self, piece: Piece) -> Result<Arrived, String> {
        let Some((part, file)) = self.current() else {
            return Err("more was sent than was announced".to_owned());
        };
        let (name, bytes) = (format!("{}/{}", part.name, file.name), file.bytes);
        match piece {
            Piece::Declined(reason) => Err(reason),
            Piece::Begin(_) => Err(format!("the copy began anew in the middle of {name}")),
            Piece::Data(content) => {
                self.taken_bytes += content.len() as u64;
                if self.taken_bytes > bytes {
                    return Err(format!("{name} is longer than the {bytes} bytes that were announced"));
                }
                self.hasher.update(&content);
                Ok(Arrived::Write(content))
            }
            Piece::End { checksum, held } => {
                if held {
                    let file = HeldFile { part: part.name.clone(), file: file.name.clone(), bytes, checksum };
                    if self.taken_bytes > 0 || !self.held.contains(&file) {
                        return Err(format!("{name} is not there as the other side believes"));
                    }
                } else if self.taken_bytes != bytes {
                    return Err(format!("{name} has {} of {bytes} bytes", self.taken_bytes));
                } else if self.hasher.clone().finalize() != checksum {
                    return Err(format!("{name} was damaged on the way: its checksum is another"));
                }
                self.advance();
                Ok(if held { Arrived::Held } else { Arrived::Whole })
            }
        }
    }

    fn advance(&mut self) {
        (self.taken_bytes, self.hasher) = (0, crc32fast::Hasher::new());
        self.file += 1;
        if self.file == self.parts[self.part].files.len() {
            (self.part, self.file) = (self.part + 1, 0);
        }
    }
}

/// Bytes of a disk of `disk_bytes` that copies leave free: a twentieth, and 10 GiB at the most.
pub fn kept_free_bytes(disk_bytes: u64) -> u64 {
    (disk_bytes / 20).min(10 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, files: &[(&str, u64)]) -> PartFiles {
        let file = |(name, bytes): &(&str, u64)| FileSize { name: (*name).to_owned(), bytes: *bytes };
        PartFiles { name: name.to_owned(), rows: 1, files: files.iter().map(file).collect() }
    }

    fn data(text: &'static str) -> Piece {
        Piece::Data(Bytes::from_static(text.as_bytes()))
    }

    fn end(text: &str, held: bool) -> Piece {
        Piece::End { checksum: crc32fast::hash(text.as_bytes()), held }
    }

    #[test]
    fn only_plain_names_are_names() {
        for name in ["7-202611_1_5_1", "a%2Eb.bin", "x.mrk2", "checksums.txt", "a..b"] {
            assert!(is_plain_name(name), "{name}");
        }
        let long = "x".repeat(256);
        for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", ".x", "a\0b", "ä", "a b", &long] {
            assert!(!is_plain_name(name), "{name}");
        }
        for bad in [
            vec![part("../1_1_1_0", &[("a", 1)])],
            vec![part("1_1_1_0", &[("../../a", 1)])],
            vec![part("1_1_1_0", &[("a", 1), ("a", 1)])],
            vec![part("1_1_1_0", &[("a", 1)]), part("1_1_1_0", &[("b", 1)])],
            vec![part("1_1_1_0", &[])],
            vec![part("1_1_1_0", &[("a", u64::MAX), ("b", 1)])],
        ] {
            assert!(Intake::new(bad.clone(), Vec::new()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_arrives_as_announced_is_taken() {
        let held =
            HeldFile { part: "p".into(), file: "b".into(), bytes: 3, checksum: crc32fast::hash(b"xyz") };
        let parts = vec![part("p", &[("a", 5), ("b", 3), ("empty", 0)]), part("q", &[("a", 1)])];
        let mut intake = Intake::new(parts, vec![held]).unwrap();
        assert_eq!(intake.take(data("he")), Ok(Arrived::Write("he".into())));
        assert_eq!(intake.take(data("llo")), Ok(Arrived::Write("llo".into())));
        assert_eq!(intake.take(end("hello", false)), Ok(Arrived::Whole));
        assert_eq!(intake.take(end("xyz", true)), Ok(Arrived::Held));
        assert!(intake.ends_part());
        assert_eq!(intake.take(end("", false)), Ok(Arrived::Whole));
        assert_eq!(
            intake.current().map(|(part, file)| (part.name.as_str(), file.name.as_str())),
            Some(("q", "a"))
        );
        assert_eq!(intake.take(data("1")), Ok(Arrived::Write("1".into())));
        assert_eq!(intake.take(end("1", false)), Ok(Arrived::Whole));
        assert!(intake.current().is_none());
        assert!(intake.take(end("", false)).is_err(), "nothing more was announced");
    }

    #[test]
    fn what_differs_from_what_was_announced_is_refused() {
        let fresh = || Intake::new(vec![part("p", &[("a", 3)])], Vec::new()).unwrap();
        for (pieces, why) in [
            (vec![data("four")], "longer"),
            (vec![data("ab"), end("ab", false)], "2 of 3 bytes"),
            (vec![data("abc"), end("abd", false)], "damaged"),
            (vec![end("abc", true)], "not there"),
            (vec![data("abc"), end("abc", true)], "not there"),
            (vec![Piece::Begin(Vec::new())], "began anew"),
            (vec![Piece::Declined("no room".into())], "no room"),
        ] {
            let mut intake = fresh();
            let refused = pieces.iter().cloned().try_for_each(|piece| intake.take(piece).map(drop));
            assert!(refused.clone().unwrap_err().contains(why), "{pieces:?}: {refused:?}");
        }
    }
}
