//! Traces as files of one folder, written by a thread of their own, and never more than so many bytes of them.
//!
//! Each trace is a file of its own, `trace-<start>-t<term>.ndjson`; what is told is in the file as soon as it is
//! written, so a daemon that is killed leaves a trace that can be read. Files by other names are left alone.

use super::Recording;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Pieces that may wait for the thread.
const QUEUE_MAX: usize = 64;
/// A trace is full when it has this part of all the room; half of it may be its snapshot.
const FULL_PART: u64 = 8;
const PREFIX: &str = "trace-";
const SUFFIX: &str = ".ndjson";

/// The folder cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{folder}: {reason}")]
pub struct Unwritable {
    /// Which.
    pub folder: String,
    /// What the system said.
    pub reason: String,
}

enum Piece {
    Begin { trace: u64, name: String, text: String },
    More { trace: u64, text: String },
}

/// See the module. Dropped, it writes what was told and ends.
pub struct FileRecording {
    queue: Option<SyncSender<Piece>>,
    thread: Option<JoinHandle<()>>,
    /// The number of the newest trace.
    newest: AtomicU64,
    /// The newest trace that takes no more.
    over: Arc<AtomicU64>,
}

/// Lines with their ends.
pub(super) fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

impl FileRecording {
    /// Into that folder, made if it is not there, with at most so many bytes of traces.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub fn open(folder: &Path, bytes_max: u64) -> Result<Self, Unwritable> {
        let unwritable =
            |error: io::Error| Unwritable { folder: folder.display().to_string(), reason: error.to_string() };
        fs::create_dir_all(folder).map_err(unwritable)?;
        let probe = folder.join(".converthouse-probe");
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(unwritable)?;
        let (queue, pieces) = sync_channel(QUEUE_MAX);
        let over = Arc::new(AtomicU64::new(0));
        let writer = Writer { folder: folder.to_owned(), bytes_max, over: over.clone(), open: None };
        let thread = std::thread::Builder::new().name("trace".to_owned());
        let thread = thread.spawn(move || writer.run(&pieces)).map_err(unwritable)?;
        Ok(Self { queue: Some(queue), thread: Some(thread), newest: AtomicU64::new(0), over })
    }

    fn hand(&self, piece: Piece) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.try_send(piece).is_ok())
    }
}

impl Drop for FileRecording {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Recording for FileRecording {
    fn begin(&self, start_unix_ms: u64, term: i64, lines: Vec<String>) -> bool {
        let trace = self.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let name = format!("{PREFIX}{start_unix_ms:013}-t{term}{SUFFIX}");
        self.hand(Piece::Begin { trace, name, text: text(&lines) })
    }

    fn append(&self, lines: Vec<String>) -> bool {
        let trace = self.newest.load(Ordering::SeqCst);
        let taken = self.hand(Piece::More { trace, text: text(&lines) });
        taken && self.over.load(Ordering::SeqCst) < trace
    }
}

/// The thread's side.
struct Writer {
    folder: PathBuf,
    bytes_max: u64,
    over: Arc<AtomicU64>,
    open: Option<Open>,
}

struct Open {
    trace: u64,
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Beyond this a new one is wanted.
    full_bytes: u64,
}

impl Writer {
    fn run(mut self, pieces: &Receiver<Piece>) {
        for piece in pieces {
            let (trace, done) = match piece {
                Piece::Begin { trace, name, text } => (trace, self.begin(trace, &name, &text)),
                Piece::More { trace, text } => (trace, self.more(trace, &text)),
            };
            if let Err(error) = done {
                tracing::warn!(folder = %self.folder.display(), %error, "the trace cannot be written");
                self.open = None;
                self.over.fetch_max(trace, Ordering::SeqCst);
            }
        }
    }

    fn begin(&mut self, trace: u64, name: &str, text: &str) -> io::Result<()> {
        self.open = None;
        let part = self.bytes_max / FULL_PART;
        if text.len() as u64 > part / 2 {
            return Err(io::Error::other(format!(
                "its snapshot has {} bytes, too many for record_trace_bytes_max = {}",
                text.len(),
                self.bytes_max
            )));
        }
        make_room(&self.folder, self.bytes_max - part)?;
        let path = self.folder.join(name);
        let file = File::create(&path)?;
        self.open = Some(Open { trace, path, file, bytes: 0, full_bytes: part / 2 });
        self.more(trace, text)
    }

    fn more(&mut self, trace: u64, text: &str) -> io::Result<()> {
        let Some(open) = self.open.as_mut().filter(|open| open.trace == trace) else { return Ok(()) };
        let bytes = open.bytes + text.len() as u64;
        // However much comes at once, a trace has no more than its part.
        if bytes > open.full_bytes * 2 {
            self.open = None;
            self.over.fetch_max(trace, Ordering::SeqCst);
            return Ok(());
        }
        if let Err(error) = open.file.write_all(text.as_bytes()) {
            // What is there is to be read: no half line at its end. If that fails too there is nothing left to try.
            let _ = open.file.set_len(open.bytes);
            return Err(io::Error::new(error.kind(), format!("{}: {error}", open.path.display())));
        }
        open.bytes = bytes;
        if bytes > open.full_bytes {
            self.over.fetch_max(trace, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Removes the oldest traces until the others have no more bytes than that.
fn make_room(folder: &Path, bytes_max: u64) -> io::Result<()> {
    let mut traces = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            traces.push((name, entry.metadata()?.len(), entry.path()));
        }
    }
    traces.sort();
    let mut all: u64 = traces.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in traces {
        if all <= bytes_max {
            break;
        }
        fs::remove_file(path)?;
        all -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<(String, u64)> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
        };
        let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(entry).collect();
        all.sort();
        all
    }

    fn writer(folder: &Path, bytes_max: u64) -> Writer {
        Writer { folder: folder.to_owned(), bytes_max, over: Arc::default(), open: None }
    }

    #[test]
    fn each_trace_is_a_file_and_all_that_was_told_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/here");
        let recording = FileRecording::open(&path, 1_000_000).unwrap();
        assert!(recording.begin(7, 3, vec!["a".to_owned(), "b".to_owned()]));
        assert!(recording.append(vec!["c".to_owned()]));
        assert!(recording.begin(9, 4, vec!["d".to_owned()]));
        drop(recording);
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
        assert_eq!(read("trace-0000000000007-t3.ndjson"), "a\nb\nc\n");
        assert_eq!(read("trace-0000000000009-t4.ndjson"), "d\n");
        assert_eq!(files(&path).len(), 2);
    }

    #[test]
    fn a_full_trace_asks_for_a_new_one_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine.ndjson"), "keep").unwrap();
        let mut writer = writer(folder.path(), 80_000);
        let text = "x".repeat(1_000);
        for trace in 1..=40 {
            writer.begin(trace, &format!("trace-{trace:03}-t1.ndjson"), &text).unwrap();
            while writer.over.load(Ordering::SeqCst) < trace {
                writer.more(trace, &text).unwrap();
            }
            let all: u64 = files(folder.path()).iter().map(|(_, bytes)| bytes).sum();
            assert!(all <= 80_000, "{all}");
        }
        let there = files(folder.path());
        assert!(there.len() > 8, "{there:?}");
        assert!(there.iter().any(|(name, _)| name == "mine.ndjson"), "{there:?}");
        assert!(!there.iter().any(|(name, _)| name == "trace-001-t1.ndjson"), "{there:?}");
        // What is too much at once does not go in, by half or whole.
        writer.begin(41, "trace-041-t1.ndjson", &text).unwrap();
        writer.more(41, &"x".repeat(20_000)).unwrap();
        assert_eq!(writer.over.load(Ordering::SeqCst), 41);
        assert!(files(folder.path()).contains(&("trace-041-t1.ndjson".to_owned(), 1_000)));
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            writer(folder.path(), 8_000).begin(1, "trace-1-t1.ndjson", &"x".repeat(5_000)).unwrap_err();
        assert!(error.to_string().contains("too many for record_trace_bytes_max"), "{error}");
        assert_eq!(files(folder.path()), []);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(FileRecording::open(&file.join("below"), 1_000).is_err());
    }
}
