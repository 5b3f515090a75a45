//! Named batches on real brokers: one transaction each, which holds the messages and a position that says "it is in".
//!
//! 1. `init_transactions` under the batch's own transactional id: whatever an earlier attempt had begun is carried to
//!    its end or given up, and no attempt before this one can commit any more.
//! 2. So a look at the group's position says for good whether the batch is in.
//! 3. If it is not: messages and position in one transaction, committed by one request. Only if that request's answer
//!    does not come is the outcome unknown; the next attempt finds out by 1. and 2.
//!
//! Each attempt has clients of its own, since a transactional id is a client's for life. Everything here blocks.

use super::client::Looker;
use super::offsets::{acceptable, consumer, look_up_patiently};
use super::options::{Effect, Options, of_code};
use super::produce::{self, Batch, Native, send_all};
use super::{BatchFate, Committed, Error, NamedBatch};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Readers wait behind an open transaction: brokers give one up after this, if its producer is gone.
const OPEN_MIN_MS: u64 = 60_000;
/// Brokers refuse more than 15 minutes, as they are by default.
const OPEN_MAX_MS: u64 = 890_000;
/// How long giving one up may take: what is not given up here ends by itself.
const ABORT_WAIT: Duration = Duration::from_secs(10);
/// The wait before a step that may be tried again.
const AGAIN: Duration = Duration::from_millis(100);
const SUPERSEDED: &str = "another attempt has begun, and decides";

/// See [`super::Kafka::produce_once`].
pub(super) fn produce_once(options: &Options, batch: &NamedBatch) -> Result<BatchFate, Error> {
    let mark = Committed { next: 0, metadata: batch.note.clone() };
    acceptable(&batch.mark, &mark)?;
    let attempt = Attempt::new(options, batch)?;
    attempt.until_done(|left| attempt.native.init_transactions(left)).map_err(|f| attempt.told(&f))?;
    let sources = std::slice::from_ref(&batch.mark);
    let known = look_up_patiently(&attempt.group, &batch.name, sources, options.deadline())?;
    if let Some(before) = known.into_iter().next().flatten() {
        return Ok(BatchFate::SentBefore(before.metadata));
    }
    attempt.send(&mark)?;
    Ok(BatchFate::Sent)
}

struct Attempt<'a> {
    options: &'a Options,
    batch: &'a NamedBatch,
    native: Native,
    group: Looker,
    /// What became of the messages.
    sent: Arc<Mutex<Batch>>,
}

/// How long a transaction may stay open.
fn open_ms(options: &Options) -> u64 {
    (options.deadline_ms * 4).clamp(OPEN_MIN_MS, OPEN_MAX_MS)
}

impl<'a> Attempt<'a> {
    fn new(options: &'a Options, batch: &'a NamedBatch) -> Result<Self, Error> {
        let mut config = produce::config(options, "batch")?;
        let open_ms = open_ms(options);
        config.set("transactional.id", &batch.name);
        config.set("transaction.timeout.ms", open_ms.to_string());
        // Neither may outlast the transaction.
        config.set("message.timeout.ms", (open_ms / 2).to_string());
        config.set("socket.timeout.ms", options.deadline_ms.clamp(1_000, open_ms / 2).to_string());
        let native: Native = config
            .create_with_context(produce::Context::default())
            .map_err(|failure| super::options::error(&failure, "producer", Effect::Read))?;
        let sent = Batch::new(batch.messages.len(), None);
        Ok(Self { options, batch, native, group: consumer(options, &batch.name)?, sent })
    }

    /// Takes a step, again while its failure says that this helps and there is time.
    fn until_done(&self, step: impl Fn(Duration) -> Result<(), KafkaError>) -> Result<(), KafkaError> {
        let until = Instant::now() + self.options.deadline();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match step(left) {
                Err(KafkaError::Transaction(failure))
                    if failure.is_retriable() && Instant::now() + AGAIN < until =>
                {
                    std::thread::sleep(AGAIN);
                }
                done => return done,
            }
        }
    }

    /// A failure of anything but the commit: nothing is in by this attempt.
    fn told(&self, failure: &KafkaError) -> Error {
        let about = &self.batch.name;
        let code = match failure {
            KafkaError::Transaction(failure) => failure.code(),
            other => other.rdkafka_error_code().unwrap_or(Code::Fail),
        };
        if superseded(code) {
            return self.unknown(SUPERSEDED);
        }
        match of_code(code, about, Effect::Read) {
            Error::Unreachable(text) => self.native.context().refusal().unwrap_or_else(|| match failure {
                KafkaError::Transaction(failure) => {
                    Error::Unreachable(format!("{text}: {}", failure.string()))
                }
                _ => Error::Unreachable(text),
            }),
            other => other,
        }
    }

    fn unknown(&self, reason: &str) -> Error {
        Error::OutcomeUnknown { what: format!("batch {}", self.batch.name), reason: reason.to_owned() }
    }

    fn send(&self, mark: &Committed) -> Result<(), Error> {
        self.native.begin_transaction().map_err(|failure| self.told(&failure))?;
        self.fill(mark).inspect_err(|_| self.give_up())?;
        let done = self.until_done(|left| self.native.commit_transaction(left));
        match done {
            Ok(()) => Ok(()),
            // Found out before anything was asked to be committed.
            Err(KafkaError::Transaction(failure)) if failure.txn_requires_abort() => {
                self.give_up();
                Err(self.told(&KafkaError::Transaction(failure)))
            }
            Err(failure) => Err(self.unknown(&match failure {
                KafkaError::Transaction(failure) => failure.string(),
                other => other.to_string(),
            })),
        }
    }

    /// Everything but the commit.
    fn fill(&self, mark: &Committed) -> Result<(), Error> {
        let until = Instant::now() + Duration::from_millis(open_ms(self.options) / 2);
        send_all(&self.native, &self.batch.messages, &self.sent, until);
        let flushed = self.native.flush(until.saturating_duration_since(Instant::now()));
        if self.native.client().fatal_error().is_some_and(|(code, _)| superseded(code)) {
            return Err(self.unknown(SUPERSEDED));
        }
        if let Some(failure) = self.sent.lock().expect("no panic while held").failure.take() {
            return Err(match failure {
                // It is in its topic or not: nobody will ever see it.
                Error::OutcomeUnknown { reason, .. } => Error::Unreachable(reason),
                other => other,
            });
        }
        flushed.map_err(|failure| self.told(&failure))?;
        let mut offsets = TopicPartitionList::with_capacity(1);
        let mut place = offsets.add_partition(&self.batch.mark.topic, self.batch.mark.partition);
        place.set_offset(Offset::Offset(mark.next)).map_err(|failure| self.told(&failure))?;
        place.set_metadata(&mark.metadata);
        let group = self.group.group_metadata();
        let group = group.ok_or_else(|| Error::Invalid(format!("group {}", self.batch.name)))?;
        self.until_done(|left| self.native.send_offsets_to_transaction(&offsets, &group, left))
            .map_err(|failure| self.told(&failure))
    }

    fn give_up(&self) {
        if let Err(failure) = self.native.abort_transaction(ABORT_WAIT) {
            tracing::debug!(batch = self.batch.name, %failure, "a transaction ends by itself");
        }
    }
}

/// Whether it says that a later attempt has put an end to this one.
fn superseded(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}
