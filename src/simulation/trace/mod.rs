//! Traces as files: read and written line by line, compressed if the name ends in `.zst`.
//!
//! What a line means, and whether it makes sense, is [`crate::model::trace`]'s; here it gets its file and line.

pub mod generate;
pub mod how;
pub mod import;
pub mod replay;
pub mod stand;
pub mod what_if;

use super::case::Span;
use crate::error::{Code, Coded, Retry, ranges};
use crate::model::trace::{Line, Timed, World};
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
    /// A policy file's line.
    #[error("{file}:{line}: {reason}")]
    Policy {
        /// The file as named.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// What is asked of the trace's cluster cannot be.
    #[error("{0}")]
    Impossible(String),
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::SIMULATION
                + match self {
                    Self::Malformed { .. } => 2,
                    Self::File { .. } => 3,
                    Self::Impossible(_) => 4,
                    Self::Policy { .. } => 5,
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
            Self::Policy { .. } => "correct the policy file; docs/simulation.md says what it may hold",
            Self::Impossible(_) => "ask for what its nodes and its span allow: see `converthouse trace show`",
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
    read_lines(&path.display().to_string(), open(path)?)
}

/// The cluster as it was at a moment after the trace's start; without one, at its end.
///
/// # Errors
/// As [`read`], or the trace ends before that.
pub fn world_at(path: &Path, at_ms: Option<u64>) -> Result<World, Error> {
    let Some(at_ms) = at_ms else { return Ok(read(path)?.world) };
    let mut lines = Lines::new(&path.display().to_string(), open(path)?);
    while let Some(line) = lines.next()? {
        if matches!(&line, Line::Event(timed) if timed.at_ms > at_ms) {
            lines.world.grow(at_ms);
            return Ok(lines.world);
        }
        lines.take(line)?;
    }
    match lines.world.at_ms {
        end if end >= at_ms => Ok(lines.world),
        end => {
            let (end, at) = (String::from(Span(end)), String::from(Span(at_ms)));
            Err(Error::Impossible(format!("{}: it ends after {end}, before {at}", path.display())))
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, Error> {
    let file = File::open(path).map_err(|error| file_error(path, &error))?;
    if !compressed(path) {
        return Ok(Box::new(BufReader::new(file)));
    }
    let decoder = zstd::Decoder::new(file).map_err(|error| file_error(path, &error))?;
    Ok(Box::new(BufReader::new(decoder)))
}

/// Reads a trace from its lines; `file` is named in errors.
///
/// # Errors
/// A line makes no sense, or ends too early.
pub fn read_lines(file: &str, lines: impl BufRead) -> Result<Summary, Error> {
    let mut lines = Lines::new(file, lines);
    let mut events = BTreeMap::new();
    while let Some(line) = lines.next()? {
        if let Line::Event(Timed { event, .. }) = &line {
            *events.entry(event.kind()).or_default() += 1;
        }
        lines.take(line)?;
    }
    Ok(Summary { world: lines.world, events })
}

/// A trace that is being read, line by line.
struct Lines<R> {
    file: String,
    from: R,
    /// The newest line's number, from 1.
    number: usize,
    /// What the lines taken so far amount to.
    world: World,
}

impl<R: BufRead> Lines<R> {
    fn new(file: &str, from: R) -> Self {
        Self { file: file.to_owned(), from, number: 0, world: World::default() }
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Malformed { file: self.file.clone(), line: self.number, reason }
    }

    /// The next line; none at the end, where the world must be whole.
    fn next(&mut self) -> Result<Option<Line>, Error> {
        self.number += 1;
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
        read.map_err(|error| self.wrong(format!("it cannot be read to the end: {error}")))?;
        if bytes.is_empty() {
            self.world.whole().map_err(|reason| self.wrong(reason))?;
            return Ok(None);
        }
        if bytes.pop() != Some(b'\n') {
            return Err(self.wrong("it has no end: the trace is truncated, or the line too long".to_owned()));
        }
        let text =
            std::str::from_utf8(&bytes).map_err(|error| self.wrong(format!("it is no text: {error}")))?;
        Line::parse(text, self.world.version()).map(Some).map_err(|reason| self.wrong(reason))
    }

    fn take(&mut self, line: Line) -> Result<(), Error> {
        self.world.take(line).map_err(|reason| self.wrong(reason))
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
