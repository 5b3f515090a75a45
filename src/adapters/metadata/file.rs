//! The embedded store's file: a redb database with three tables. Blocking; knows nothing of the store's rules.
//!
//! Every value carries a checksum over key and content on top of redb's own, and the whole file is checked when it
//! is opened, so that a damaged file is told at the start and never served.

use super::state::Commit;
use super::{Change, Error, KeyValue, LeaseId, Revision};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
/// Time to live in milliseconds, by lease.
const LEASES: TableDefinition<i64, u64> = TableDefinition::new("leases");
const NUMBERS: TableDefinition<&str, i64> = TableDefinition::new("numbers");

const FORMAT: &str = "format";
const REVISION: &str = "revision";
const LAST_LEASE: &str = "last_lease";
/// The format that is written, and the only one that is read.
const FORMAT_NOW: i64 = 1;
/// Checksum (4), create revision, mod revision, lease (8 each; 0 is none); the value follows.
const HEAD_BYTES: usize = 28;

/// What the file holds.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub revision: Revision,
    pub last_lease: i64,
    pub keys: BTreeMap<String, KeyValue>,
    pub leases: BTreeMap<LeaseId, Duration>,
}

/// The open file.
pub(super) struct StoreFile {
    database: Database,
    path: PathBuf,
}

impl StoreFile {
    /// Opens or makes it, checks it and reads all of it.
    pub fn open(path: &Path) -> Result<(Self, Loaded), Error> {
        if !path.exists() {
            make(path)?;
        }
        Self::reopen(path)
    }

    /// Opens one that must be there: after a failure, an empty one must not take its place.
    pub fn reopen(path: &Path) -> Result<(Self, Loaded), Error> {
        // redb checks much, but not everything, before it trusts a file: a foreign one may make it panic.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut database = Database::open(path).map_err(|error| opening(path, error))?;
            match database.check_integrity().map_err(|error| opening(path, error))? {
                true => {}
                false => tracing::warn!(path = %path.display(), "metadata file was repaired"),
            }
            let file = Self { database, path: path.to_owned() };
            let loaded = file.load()?;
            Ok((file, loaded))
        }));
        opened.unwrap_or_else(|_| Err(damaged(path, "it makes no sense to redb (see the panic in the log)")))
    }

    fn load(&self) -> Result<Loaded, Error> {
        let (path, mut loaded) = (&self.path, Loaded::default());
        let failed = |error: &dyn std::fmt::Display| damaged(path, error);
        let txn = self.database.begin_read().map_err(|error| failed(&error))?;
        let missing = |error: TableError| match error {
            TableError::TableDoesNotExist(table) => {
                damaged(path, format!("it is a redb file of another program (no table {table:?})"))
            }
            other => failed(&other),
        };
        let numbers = txn.open_table(NUMBERS).map_err(missing)?;
        let number = |name: &'static str| match numbers.get(name) {
            Ok(Some(number)) => Ok(number.value()),
            Ok(None) => Err(damaged(path, format!("number {name:?} is missing"))),
            Err(error) => Err(failed(&error)),
        };
        let format = number(FORMAT)?;
        if format != FORMAT_NOW {
            return Err(damaged(path, format!("it has format {format}, this program reads {FORMAT_NOW}")));
        }
        loaded.revision = number(REVISION)?;
        loaded.last_lease = number(LAST_LEASE)?;
        let leases = txn.open_table(LEASES).map_err(missing)?;
        for row in leases.iter().map_err(|error| failed(&error))? {
            let (lease, ttl_ms) = row.map_err(|error| failed(&error))?;
            loaded.leases.insert(LeaseId(lease.value()), Duration::from_millis(ttl_ms.value()));
        }
        let keys = txn.open_table(KEYS).map_err(missing)?;
        for row in keys.iter().map_err(|error| failed(&error))? {
            let (key, value) = row.map_err(|error| failed(&error))?;
            let kv = decode(key.value(), value.value())
                .ok_or_else(|| damaged(path, format!("the value of {:?} is damaged", key.value())))?;
            if kv.mod_revision > loaded.revision {
                return Err(damaged(path, format!("{:?} is newer than the store", kv.key)));
            }
            loaded.keys.insert(kv.key.clone(), kv);
        }
        Ok(loaded)
    }

    /// Makes a commit durable. [`Error::Unreachable`] if it certainly was not made; either way the file must be
    /// opened again after an error.
    pub fn write(&mut self, commit: &Commit) -> Result<(), Error> {
        let change = |txn: &redb::WriteTransaction| -> Result<(), redb::Error> {
            let mut keys = txn.open_table(KEYS)?;
            for change in &commit.changes {
                match change {
                    Change::Put(kv) => drop(keys.insert(kv.key.as_str(), encode(kv).as_slice())?),
                    Change::Delete { key, .. } => drop(keys.remove(key.as_str())?),
                }
            }
            if let Some(lease) = commit.ended_lease {
                txn.open_table(LEASES)?.remove(lease.0)?;
            }
            txn.open_table(NUMBERS)?.insert(REVISION, commit.revision)?;
            Ok(())
        };
        self.durably(change)
    }

    /// Writes down a new lease.
    pub fn add_lease(&mut self, lease: LeaseId, ttl_ms: u64) -> Result<(), Error> {
        self.durably(|txn| {
            txn.open_table(LEASES)?.insert(lease.0, ttl_ms)?;
            txn.open_table(NUMBERS)?.insert(LAST_LEASE, lease.0)?;
            Ok(())
        })
    }

    fn durably(
        &mut self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        let path = self.path.display();
        let not_made = |error: redb::Error| Error::Unreachable(format!("file {path}: {error}"));
        // Immediate durability is redb's default: synced to the disk when `commit` returns.
        let txn = self.database.begin_write().map_err(|error| not_made(error.into()))?;
        change(&txn).map_err(not_made)?;
        txn.commit().map_err(|error| Error::OutcomeUnknown(format!("file {path}: {error}")))
    }
}

/// Makes an empty store beside the path and moves it there: a crash meanwhile leaves no half-made file.
fn make(path: &Path) -> Result<(), Error> {
    let system =
        |error: std::io::Error| Error::Unreachable(format!("cannot make file {}: {error}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(system)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = folder.join(name);
    let _ = std::fs::remove_file(&temporary);
    let fill = || -> Result<(), redb::Error> {
        let database = Database::create(&temporary)?;
        let txn = database.begin_write()?;
        {
            let mut numbers = txn.open_table(NUMBERS)?;
            numbers.insert(FORMAT, FORMAT_NOW)?;
            numbers.insert(REVISION, 0)?;
            numbers.insert(LAST_LEASE, 0)?;
            txn.open_table(KEYS)?;
            txn.open_table(LEASES)?;
        }
        Ok(txn.commit()?)
    };
    let done =
        fill().map_err(|error| Error::Unreachable(format!("cannot make file {}: {error}", path.display())));
    // A link, not a move: if another process made the file meanwhile, theirs stays.
    let linked = done.and_then(|()| match std::fs::hard_link(&temporary, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(system(error)),
        _ => std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(system),
    });
    let _ = std::fs::remove_file(&temporary);
    linked
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Damaged { path: path.display().to_string(), reason: reason.to_string() }
}

fn opening(path: &Path, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.display().to_string() },
        DatabaseError::Storage(redb::StorageError::Io(error))
            if !matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            Error::Unreachable(format!("cannot open file {}: {error}", path.display()))
        }
        other => damaged(path, other),
    }
}

fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for number in [kv.create_revision, kv.mod_revision, kv.lease.map_or(0, |lease| lease.0)] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(&kv.value);
    let checksum = checksum(&kv.key, &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum);
    bytes
}

fn decode(key: &str, bytes: &[u8]) -> Option<KeyValue> {
    let (head, value) = bytes.split_at_checked(HEAD_BYTES)?;
    if head[..4] != checksum(key, &bytes[4..]) {
        return None;
    }
    let number = |at: usize| Some(i64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let lease = Some(number(20)?).filter(|lease| *lease != 0).map(LeaseId);
    let (create_revision, mod_revision) = (number(4)?, number(12)?);
    Some(KeyValue { key: key.to_owned(), value: value.to_vec(), create_revision, mod_revision, lease })
}

fn checksum(key: &str, content: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(content);
    hasher.finalize().to_le_bytes()
}
