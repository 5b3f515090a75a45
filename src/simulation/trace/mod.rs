//! Traces as files: read and written line by line, compressed if the name ends in `.zst`.
//!
//! What a line means, and whether it makes sense, is [`crate::model::trace`]'s; here it gets its file and line.

pub mod generate;

use crate::error::{Code, Coded, Retry, ranges};
use crate::model::trace::{Line, World};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// How hard a trace is compressed: zstd's scale of 1 to 22.
const LEVEL: i32 = 9;

/// Why a trace cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line is corrupt, or makes no sense where it stands.
    #[error("{file}:{line}: {reason}")]
    Malformed {
        /// The file as named.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The file itself.
    #[error("{file}: {reason}")]
    File {
        /// As named.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::SIMULATION
                + match self {
                    Self::Malformed { .. } => 2,
                    Self::File { .. } => 3,
                },
        )
    }
    fn retry(&self) -> Retry {
        Retry::Never
    }
    fn remedy(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => {
                "correct or remove that line, or write the trace anew; what stands before it is sound"
            }
            Self::File { .. } => "name a file that may be read, or written",
        }
    }
}

fn file_error(path: &Path, error: &std::io::Error) -> Error {
    Error::File { file: path.display().to_string(), reason: error.to_string() }
}

fn compressed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "zst")
}

/// A trace that has been read to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The world after the last event.
    pub world: World,
    /// How many events of each kind.
    pub events: BTreeMap<&'static str, u64>,
}

/// Reads a trace to its end; no more than a line and the world is held.
///
/// # Errors
/// The file cannot be read, or a line makes no sense.
pub fn read(path: &Path) -> Result<Summary, Error> {
    let file = File::open(path).map_err(|error| file_error(path, &error))?;
    let name = path.display().to_string();
    if !compressed(path) {
        return read_lines(&name, BufReader::new(file));
    }
    let decoder = zstd::Decoder::new(file).map_err(|error| file_error(path, &error))?;
    read_lines(&name, BufReader::new(decoder))
}

/// Reads a trace from its lines; `file` is named in errors.
///
/// # Errors
/// A line makes no sense, or ends too early.
pub fn read_lines(file: &str, mut lines: impl BufRead) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let mut number = 1;
    let mut bytes = Vec::new();
    loop {
        let wrong = |reason: String| Error::Malformed { file: file.to_owned(), line: number, reason };
        bytes.clear();
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
        read.map_err(|error| wrong(format!("it cannot be read to the end: {error}")))?;
        if bytes.is_empty() {
            summary.world.whole().map_err(wrong)?;
            return Ok(summary);
        }
        if bytes.pop() != Some(b'\n') {
            return Err(wrong("it has no end: the trace is truncated, or the line too long".to_owned()));
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| wrong(format!("it is no text: {error}")))?;
        let line = Line::parse(text, summary.world.version()).map_err(wrong)?;
        if let Line::Event(timed) = &line {
            *summary.events.entry(timed.event.kind()).or_default() += 1;
        }
        summary.world.take(line).map_err(wrong)?;
        number += 1;
    }
}

/// Writes a trace.
///
/// # Errors
/// The file cannot be written.
pub fn write<'a>(path: &Path, lines: impl IntoIterator<Item = &'a Line>) -> Result<(), Error> {
    let failed = |error: std::io::Error| file_error(path, &error);
    let file = BufWriter::new(File::create(path).map_err(failed)?);
    if !compressed(path) {
        return write_lines(file, lines).map_err(failed);
    }
    let mut encoder = zstd::Encoder::new(file, LEVEL).map_err(failed)?;
    write_lines(&mut encoder, lines).map_err(failed)?;
    encoder.finish().and_then(|mut file| file.flush()).map_err(failed)
}

fn write_lines<'a>(mut to: impl Write, lines: impl IntoIterator<Item = &'a Line>) -> std::io::Result<()> {
    for line in lines {
        writeln!(to, "{}", line.text())?;
    }
    to.flush()
}

#[cfg(test)]
mod tests;
