//! The message queue: a replica's source of rows, in order, by offset.
//!
//! # Contract (`conformance` runs on a real broker, the embedded one and the simulated one)
//! - Manual assignment only: no consumer-group rebalance ever moves a partition.
//! - A lane yields each assigned partition's messages in offset order, none twice, from the offset it was assigned
//!   at. Offsets may have holes (compaction, transactions): one before a message is shown by that message's offset, one
//!   that reaches to the end by [`Fetched::Passed`].
//! - Only messages of committed transactions are yielded, and ends are those of what can be read.
//! - Committing is recording: it never moves where a lane reads.
//! - An offset out of range is reported ([`Fetched::OutOfRange`]), never reset in silence.

mod absence;
mod budget;
mod chunk;
mod client;
pub mod conformance;
pub mod embedded;
mod ends;
mod faulty;
mod lane;
mod mailbox;
mod offsets;
mod options;
mod produce;
mod raw;
pub mod sim;
mod sim_lane;
mod sim_log;
mod transaction;

pub use client::KafkaClient;
pub use faulty::FaultyKafka;
pub use options::Options;
pub use sim::SimKafka;

use crate::error::{Code, Coded, Retry, ranges};
use crate::model::names::TopicPartition;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// One message of a chunk; the payload is a slice of the chunk's one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Offset within its topic partition.
    pub offset: i64,
    /// Broker or producer time, milliseconds since 1970; -1 if none.
    pub timestamp_ms: i64,
    /// Start of the payload in the chunk's buffer.
    pub start: u32,
    /// Its length.
    pub len: u32,
    /// A message without a payload (a tombstone), as opposed to an empty one.
    pub tombstone: bool,
}

/// Consecutive messages of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// From where.
    pub source: TopicPartition,
    /// In offset order.
    pub messages: Vec<Message>,
    /// All payloads.
    pub payload: Bytes,
}

impl Chunk {
    /// A message's payload; empty for a tombstone.
    pub fn payload_of(&self, message: &Message) -> &[u8] {
        &self.payload[message.start as usize..(message.start + message.len) as usize]
    }

    /// What its messages take in memory, with the list of them.
    pub fn bytes(&self) -> usize {
        let of = |message: &Message| message.len as usize + size_of::<Message>();
        self.messages.iter().map(of).sum()
    }
}

/// What a lane yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Messages.
    Chunk(Chunk),
    /// The partition's end as of now (`next` offset to be written), sent when reached and from time to time.
    End(TopicPartition, i64),
    /// All messages below this offset have been yielded, and those before it are followed by none: what is left up to
    /// here are offsets without a message. Sent where there are such, and nothing is known of what comes behind.
    Passed(TopicPartition, i64),
    /// The offset wanted is not in the topic: `low..high` is what it has. The partition is no longer assigned.
    OutOfRange {
        /// Which.
        source: TopicPartition,
        /// What was wanted.
        wanted: i64,
        /// First readable offset.
        low: i64,
        /// One past the last.
        high: i64,
    },
    /// The topic is not there (any more). The partition is no longer assigned.
    TopicMissing(TopicPartition),
    /// The partition's broker does not answer, and why: nothing is known of its end. It stays assigned, and once the
    /// broker answers again an [`End`](Self::End) follows, or messages.
    Unreachable(TopicPartition, String),
    /// The lane as a whole has trouble (brokers down); it goes on by itself.
    Trouble(String),
}

/// A recorded position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Everything below is done.
    pub next: i64,
    /// What was stored beside it (see `actors::replica`), at most 4096 bytes.
    pub metadata: String,
}

/// First readable offset and one past the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// First readable.
    pub low: i64,
    /// One past the last.
    pub high: i64,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub target: TopicPartition,
    /// Payload; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

/// Messages that go in whole, and once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBatch {
    /// Tells it from every other batch; brokers know it as a group and as a transactional id.
    pub name: String,
    /// The Kafka partition at which the group's position says that it is in; it must exist.
    pub mark: TopicPartition,
    /// Kept with the mark, at most 4096 bytes.
    pub note: String,
    /// What goes in.
    pub messages: Vec<Outgoing>,
}

/// What became of a [`NamedBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchFate {
    /// It is in.
    Sent,
    /// One of that name was in before, with this note: nothing was sent.
    SentBefore(String),
}

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Name.
    pub name: String,
    /// Kafka partitions.
    pub partitions: i32,
    /// Copies on brokers; -1 is the brokers' default.
    pub replication: i32,
    /// Topic settings, such as `retention.ms`.
    pub settings: Vec<(String, String)>,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No broker answers.
    #[error("Kafka cannot be reached: {0}")]
    Unreachable(String),
    /// Sent, and nothing heard.
    #[error("Kafka did not say what became of {what}: {reason}")]
    OutcomeUnknown {
        /// The verb.
        what: String,
        /// What the client said.
        reason: String,
    },
    /// Wrong credentials, or no right to do it.
    #[error("Kafka refused: {0}")]
    Denied(String),
    /// A setting or a name is not acceptable to client or broker.
    #[error("Kafka cannot do it: {0}")]
    Invalid(String),
    /// No such topic.
    #[error("topic {0} does not exist")]
    TopicMissing(String),
    /// A message is larger than its topic, or the client, allows.
    #[error("Kafka takes no message of that size: {0}")]
    TooLarge(String),
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::KAFKA
                + match self {
                    Self::Unreachable(_) => 1,
                    Self::OutcomeUnknown { .. } => 2,
                    Self::Denied(_) => 3,
                    Self::Invalid(_) => 4,
                    Self::TopicMissing(_) => 5,
                    Self::TooLarge(_) => 6,
                },
        )
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unreachable(_) | Self::TopicMissing(_) => Retry::Safe,
            Self::OutcomeUnknown { .. } => Retry::OutcomeUnknown,
            Self::Denied(_) | Self::Invalid(_) | Self::TooLarge(_) => Retry::Never,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => {
                "check [kafka] brokers, and that they advertise an address reachable from here"
            }
            Self::OutcomeUnknown { .. } => "nothing to do: the daemon looks what happened and goes on",
            Self::Denied(_) => "check [kafka.settings] (sasl.*, ssl.*) and the user's rights",
            Self::Invalid(_) => "correct the setting or name that the message quotes",
            Self::TopicMissing(_) => "create the topic again, or drop the table",
            Self::TooLarge(_) => "raise max.message.bytes of the topic that the message quotes",
        }
    }
}

/// A consumer of its own, with a thread and connections of its own: a few per node (H7), many partitions each.
///
/// Flow control is the caller's: a lane keeps fetching an assigned partition until [`Lane::pause`].
#[async_trait]
pub trait Lane: Send + Sync + 'static {
    /// Reads a partition from `from` on. Replaces an earlier assignment of it; messages fetched before are dropped.
    fn assign(&self, source: &TopicPartition, from: i64);
    /// Reads it no more. Nothing of it is yielded after this returns.
    fn unassign(&self, source: &TopicPartition);
    /// Yields nothing of it until [`Lane::resume`], keeping its position.
    fn pause(&self, source: &TopicPartition);
    /// See [`Lane::pause`].
    fn resume(&self, source: &TopicPartition);
    /// The next thing to know; waits for it. One caller at a time. Cancel-safe.
    async fn next(&self) -> Fetched;
}

/// A Kafka cluster.
#[async_trait]
pub trait Kafka: Send + Sync + 'static {
    /// Whether a broker answers at this moment. [`Error::Unreachable`] and [`Error::Denied`] say why none does; one
    /// that is in this process always does.
    async fn reach(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Makes topics; one that is there is no error if it has at least as many Kafka partitions.
    async fn create_topics(&self, topics: &[NewTopic]) -> Result<(), Error>;
    /// Removes topics; absent ones are no error.
    async fn delete_topics(&self, topics: &[String]) -> Result<(), Error>;

    /// Why this broker can never delete topics; `None` if it can.
    fn keeps_topics(&self) -> Option<&'static str> {
        None
    }
    /// First and last offset.
    async fn watermarks(&self, source: &TopicPartition) -> Result<Watermarks, Error>;
    /// Reads one message at or after `offset`, if any is before the end.
    async fn peek(&self, source: &TopicPartition, offset: i64) -> Result<Option<Chunk>, Error>;
    /// What a group recorded; `None` per partition where nothing.
    async fn committed(
        &self,
        group: &str,
        sources: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, Error>;
    /// Records positions.
    async fn commit(&self, group: &str, positions: &[(TopicPartition, Committed)]) -> Result<(), Error>;
    /// Sends messages, each acknowledged by all in-sync replicas; in order per target; retried without doubling.
    async fn produce(&self, messages: Vec<Outgoing>) -> Result<(), Error>;
    /// Why this broker can take no [`NamedBatch`]; `None` if it can.
    fn no_transactions(&self) -> Option<&'static str> {
        None
    }
    /// Sends a batch whole, and once: readers see all of its messages or none, and one that is in already is not sent
    /// again. After any failure, [`Error::OutcomeUnknown`] too, the same call may be made again: it first puts an end
    /// to earlier attempts. Of two at a time, one is sent. It is known for as long as brokers keep positions that
    /// nobody renews, and transactional ids (seven days each, unless they are told otherwise).
    async fn produce_once(&self, batch: NamedBatch) -> Result<BatchFate, Error>;
    /// A new lane. `name` shows in client ids and logs.
    fn lane(&self, name: &str) -> Result<Arc<dyn Lane>, Error>;
}
