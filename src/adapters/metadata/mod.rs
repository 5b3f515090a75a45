//! The metadata store: desired state, locks and election. Nothing is written per batch of rows or per heartbeat.
//!
//! # Contract (`conformance` proves it for etcd, the embedded store and the in-memory one)
//! - One linear history of revisions, from 1; every successful transaction that writes takes the next one.
//! - A transaction's compares and writes are one step: all or nothing.
//! - A key put with a lease goes away when the lease ends (expiry or revocation), as a delete that watches see.
//! - A watch from revision `r` delivers every change with revision >= `r`, in order, none twice; if `r` has been
//!   compacted it says so ([`Error::Compacted`]) and the caller ranges again. [`follow`] does that for callers.
//! - A deadline that passes during a write is [`Retry::OutcomeUnknown`].

mod balance_records;
pub mod conformance;
pub mod embedded;
pub mod etcd;
mod expiry;
mod faulty;
mod file;
pub mod follow;
pub mod keys;
pub mod memory;
mod operation_record;
pub mod records;
mod state;

pub use embedded::EmbeddedStore;
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls};
pub use faulty::FaultyStore;
pub use follow::follow;
pub use keys::{Key, Keys};
pub use memory::MemoryStore;
pub use records::Record;

use crate::error::{Code, Coded, Retry, ranges};
use crate::model::Term;
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::time::Duration;

/// A store revision. Grows with every write.
pub type Revision = i64;

/// A key and its value, with the revisions that compares need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Full key.
    pub key: String,
    /// Bytes; the first is the record version.
    pub value: Vec<u8>,
    /// Revision at which the key came into being (again).
    pub create_revision: Revision,
    /// Revision of its last write.
    pub mod_revision: Revision,
    /// The lease it hangs on, if any.
    pub lease: Option<LeaseId>,
}

/// A lease, granted by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// What must hold for a transaction to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists.
    Present(String),
    /// The key exists and was created at this revision.
    CreatedAt(String, Revision),
    /// The key exists and was last written at this revision.
    ModifiedAt(String, Revision),
}

/// One write of a transaction. A transaction writes each key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Create or replace.
    Put {
        /// Full key.
        key: String,
        /// Value.
        value: Vec<u8>,
        /// Hang it on a lease.
        lease: Option<LeaseId>,
    },
    /// Remove one key; removing an absent key is no error.
    Delete(String),
    /// Remove every key with the prefix.
    DeletePrefix(String),
}

impl Write {
    /// The key or prefix that it writes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) | Self::DeletePrefix(key) => key,
        }
    }

    /// Size of key and value.
    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete(key) | Self::DeletePrefix(key) => key.len(),
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All writes were made, at this revision.
    Committed(Revision),
    /// A compare did not hold; nothing was written.
    Refused,
}

/// One change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Created or replaced.
    Put(KeyValue),
    /// Gone.
    Delete {
        /// Full key.
        key: String,
        /// Revision of the deletion.
        revision: Revision,
    },
}

impl Change {
    /// Full key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision at which it happened.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Changes of one or more consecutive revisions, never a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Everything under the prefix up to this revision has been told.
    pub revision: Revision,
    /// In order. May be empty: nothing happened up to the revision.
    pub changes: Vec<Change>,
}

/// What [`follow`] yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Everything there is under the prefix: forget what was known before.
    Snapshot(Revision, Vec<KeyValue>),
    /// What changed since.
    Changes(WatchBatch),
    /// The store cannot be reached for now, refuses the login, or was not heard of by a watch that fell silent;
    /// following goes on by itself.
    Unreachable(Error),
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No member answers, and nothing was sent or it was only a read.
    #[error("metadata store cannot be reached: {0}")]
    Unreachable(String),
    /// A write was sent and no answer came.
    #[error("metadata store did not say whether the write was made: {0}")]
    OutcomeUnknown(String),
    /// The revision asked for has been compacted.
    #[error("history before revision {oldest} is compacted")]
    Compacted {
        /// The oldest revision that can still be watched from.
        oldest: Revision,
    },
    /// The lease does not exist (any more).
    #[error("lease {} has expired", .0.0)]
    LeaseGone(LeaseId),
    /// Wrong credentials.
    #[error("metadata store refused the credentials: {0}")]
    Denied(String),
    /// The request breaks a limit or rule of the store.
    #[error("metadata store refused the request: {0}")]
    Invalid(String),
    /// The store's own file is damaged or of another version.
    #[error("metadata store file {path}: {reason}")]
    Damaged {
        /// File.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process (or another part of this one) has the store's file open.
    #[error("metadata store file {path} is in use by another process")]
    InUse {
        /// File.
        path: String,
    },
    /// A watch stayed open and told nothing, while the store went on.
    #[error("the watch told nothing beyond revision {told}, and the store had come to {found}")]
    Silent {
        /// The last revision that the watch told.
        told: Revision,
        /// The revision at which everything was read again.
        found: Revision,
    },
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::METADATA
                + match self {
                    Self::Unreachable(_) => 1,
                    Self::OutcomeUnknown(_) => 2,
                    Self::Compacted { .. } => 3,
                    Self::LeaseGone(_) => 4,
                    Self::Denied(_) => 5,
                    Self::Invalid(_) => 6,
                    Self::Damaged { .. } => 7,
                    Self::InUse { .. } => 8,
                    Self::Silent { .. } => 9,
                },
        )
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unreachable(_) | Self::Compacted { .. } | Self::Silent { .. } => Retry::Safe,
            Self::OutcomeUnknown(_) => Retry::OutcomeUnknown,
            Self::LeaseGone(_) | Self::Denied(_) | Self::Invalid(_) => Retry::Never,
            Self::Damaged { .. } | Self::InUse { .. } => Retry::Never,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "check [metadata] endpoints, and that a majority of etcd members is up",
            Self::OutcomeUnknown(_) => "nothing to do: the daemon looks what happened and goes on",
            Self::Compacted { .. } => "nothing to do: the daemon reads everything again",
            Self::LeaseGone(_) => {
                "the process was paused or cut off for longer than the lease; it takes a new one"
            }
            Self::Denied(_) => "check [metadata] user and password",
            Self::Invalid(_) => {
                "correct the setting that the message names; if it names none, report this as a bug"
            }
            Self::Damaged { .. } => {
                "restore the file from a backup, or start with an empty one and re-create tables"
            }
            Self::InUse { .. } => {
                "end the other converthouse process, or give this one a [metadata] path of its own"
            }
            Self::Silent { .. } => {
                "nothing to do: the daemon has read everything again; if it happens often, look at the disks of etcd"
            }
        }
    }
}

/// The store. Cheap to clone behind an `Arc`; every call has the store's own deadline.
#[async_trait]
pub trait MetaStore: Send + Sync + 'static {
    /// One key.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error>;

    /// Every key with the prefix, in key order, as of one revision (returned, for watching on from the next one).
    async fn range(&self, prefix: &str) -> Result<(Revision, Vec<KeyValue>), Error>;

    /// Writes all, if all compares hold. At most [`TXN_WRITES_MAX`] compares and writes together.
    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, Error>;

    /// A new lease that ends `ttl_ms` after its last keep-alive (rounded up to what the store can do).
    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, Error>;

    /// Renews a lease; [`Error::LeaseGone`] if it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error>;

    /// Ends a lease now; its keys go. Ending one that has ended is no error.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error>;

    /// Changes under the prefix from `from` on. The stream ends after an error.
    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> Result<BoxStream<'static, Result<WatchBatch, Error>>, Error>;

    /// How long a watch may tell nothing before [`follow`](follow::follow) compares what it told with the store;
    /// `None` where no watch falls silent, since the store is in this process.
    fn watch_patience(&self) -> Option<Duration> {
        None
    }
}

/// What every implementation takes in one transaction (etcd's own default is 128).
pub const TXN_WRITES_MAX: usize = 120;

/// Bytes of keys and values that every implementation takes in one transaction (etcd's own default is 1.5 MiB).
pub const TXN_BYTES_MAX: usize = 1 << 20;

/// The fence that every write of a leader carries.
pub fn fence(leader_key: &str, term: Term) -> Compare {
    Compare::CreatedAt(leader_key.to_owned(), term.0)
}
