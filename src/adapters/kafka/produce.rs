//! Sending messages: a batch is done when the brokers have acknowledged each of it.
#![allow(unsafe_code)] // librdkafka's C interface

use super::options::{Effect, Options, error, of_code};
use super::{Error, Outgoing};
use rdkafka::ClientConfig;
use rdkafka::bindings::rd_kafka_msg_status_t as Status;
use rdkafka::client::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What is still out of one batch.
pub(super) struct Batch {
    left: usize,
    /// Acknowledged so far.
    sent: usize,
    pub(super) failure: Option<Error>,
    done: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Batch {
    pub(super) fn new(messages: usize, done: Option<oneshot::Sender<Result<(), Error>>>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { left: messages, sent: 0, failure: None, done }))
    }

    /// Notes that `count` messages are settled.
    fn settle(&mut self, count: usize, failure: Option<Error>) {
        self.left -= count;
        if failure.is_none() {
            self.sent += count;
        }
        // A message of unknown fate says more about the batch than one that certainly failed.
        let unknown = matches!(failure, Some(Error::OutcomeUnknown { .. }));
        if self.failure.is_none() || unknown {
            self.failure = failure.or(self.failure.take());
        }
        if self.left == 0
            && let Some(done) = self.done.take()
        {
            let result = match self.failure.take() {
                None => Ok(()),
                // Sent again as a whole, the batch would double what is there already.
                Some(failure) if self.sent > 0 => Err(Error::OutcomeUnknown {
                    what: "messages sent".into(),
                    reason: format!("{} are in their topics, the others not all: {failure}", self.sent),
                }),
                Some(failure) => Err(failure),
            };
            // Nobody waits any more if the caller gave up.
            let _ = done.send(result);
        }
    }
}

#[derive(Default)]
pub(super) struct Context {
    denied: Mutex<Option<String>>,
}

impl Context {
    /// Why brokers refused us, if they did; said once.
    pub(super) fn refusal(&self) -> Option<Error> {
        self.denied.lock().expect("no panic while held").take().map(Error::Denied)
    }
}

impl ClientContext for Context {
    fn error(&self, failure: KafkaError, reason: &str) {
        let denied = matches!(failure.rdkafka_error_code(), Some(Code::Authentication | Code::SSL));
        if denied {
            *self.denied.lock().expect("no panic while held") = Some(reason.to_owned());
        }
        tracing::debug!(%failure, reason, "librdkafka producer");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Arc<Mutex<Batch>>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Self::DeliveryOpaque) {
        let failure = result.as_ref().err().map(|(failure, message)| {
            // SAFETY: the message is valid for the time of this call.
            let status = unsafe { rdkafka::bindings::rd_kafka_message_status(message.ptr()) };
            let topic = rdkafka::Message::topic(message);
            let code = failure.rdkafka_error_code().unwrap_or(Code::Fail);
            if status == Status::RD_KAFKA_MSG_STATUS_NOT_PERSISTED {
                match of_code(code, topic, Effect::Read) {
                    Error::Unreachable(text) => self.refusal().unwrap_or(Error::Unreachable(text)),
                    other => other,
                }
            } else {
                Error::OutcomeUnknown { what: "messages sent".into(), reason: format!("{topic}: {code}") }
            }
        });
        batch.lock().expect("no panic while held").settle(1, failure);
    }
}

pub(super) type Native = ThreadedProducer<Context>;

/// How a producer is set up; what the operator has set stands, but for what our promises rest on.
pub(super) fn config(options: &Options, name: &str) -> Result<ClientConfig, Error> {
    let mut config = options.config(name)?;
    let timeout_ms = options.deadline_ms.to_string();
    let defaults = [
        ("linger.ms", "5"),
        // Every replica unpacks what one producer packs, on the machine that ClickHouse needs; zstd takes three
        // times as long there.
        ("compression.codec", "lz4"),
        ("batch.num.messages", "10000"),
        ("queue.buffering.max.messages", "200000"),
        ("queue.buffering.max.kbytes", "131072"),
        // How large a message may be is its topic's to say; this is above what topics take as a rule. No more, since
        // librdkafka sets aside so much for each request when many messages wait.
        ("message.max.bytes", "33554432"),
        ("message.timeout.ms", &timeout_ms),
        ("topic.metadata.propagation.max.ms", "5000"),
    ];
    for (name, value) in defaults.into_iter().filter(|(name, _)| !options.settings.contains_key(*name)) {
        config.set(name, value);
    }
    config.set("enable.idempotence", "true");
    config.set("acks", "all");
    Ok(config)
}

/// A producer that is made at its first use, and again after an error that it cannot survive.
pub(super) struct Producer {
    options: Options,
    native: Mutex<Option<Arc<Native>>>,
}

impl Producer {
    pub(super) fn new(options: Options) -> Self {
        Self { options, native: Mutex::new(None) }
    }

    fn native(&self) -> Result<Arc<Native>, Error> {
        let mut native = self.native.lock().expect("no panic while held");
        if let Some(living) = native.as_ref().filter(|living| living.client().fatal_error().is_none()) {
            return Ok(Arc::clone(living));
        }
        let config = config(&self.options, "producer")?;
        let made: Native = config
            .create_with_context(Context::default())
            .map_err(|failure| error(&failure, "producer", Effect::Read))?;
        let made = Arc::new(made);
        *native = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Queues the messages (blocking while the queue is full) and returns what tells their fate.
    fn enqueue(&self, messages: &[Outgoing]) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let native = self.native()?;
        let (done, fate) = oneshot::channel();
        let batch = Batch::new(messages.len(), Some(done));
        send_all(&native, messages, &batch, Instant::now() + self.options.deadline());
        Ok(fate)
    }

    /// See [`super::Kafka::produce`].
    pub(super) async fn produce(self: Arc<Self>, messages: Vec<Outgoing>) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let deadline = self.options.deadline() * 2 + Duration::from_secs(5);
        let queued = tokio::task::spawn_blocking(move || self.enqueue(&messages)).await;
        let fate = queued.map_err(|failure| Error::Unreachable(failure.to_string()))??;
        let unknown =
            |reason: &str| Error::OutcomeUnknown { what: "messages sent".into(), reason: reason.into() };
        match tokio::time::timeout(deadline, fate).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unknown("the producer ended")),
            Err(_) => Err(unknown("no answer in time")),
        }
    }
}

/// Queues messages, blocking while the queue is full; what cannot be queued is settled.
pub(super) fn send_all(native: &Native, messages: &[Outgoing], batch: &Arc<Mutex<Batch>>, until: Instant) {
    for (sent, message) in messages.iter().enumerate() {
        if let Err(failure) = send(native, message, batch, until) {
            let rest = messages.len() - sent;
            batch.lock().expect("no panic while held").settle(rest, Some(failure));
            return;
        }
    }
}

fn send(native: &Native, message: &Outgoing, batch: &Arc<Mutex<Batch>>, until: Instant) -> Result<(), Error> {
    let mut record: BaseRecord<'_, [u8], [u8], Arc<Mutex<Batch>>> =
        BaseRecord::with_opaque_to(&message.target.topic, Arc::clone(batch))
            .partition(message.target.partition);
    if let Some(payload) = &message.payload {
        record = record.payload(&payload[..]);
    }
    if !message.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(message.headers.len());
        record = record.headers(message.headers.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_str()) })
        }));
    }
    loop {
        match native.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(Code::QueueFull), back)) if Instant::now() < until => {
                record = back;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((failure, _)) => return Err(error(&failure, &message.target.topic, Effect::Read)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Coded, Retry};

    fn fate(settled: &[(usize, Option<Error>)]) -> Result<(), Error> {
        let (done, mut fate) = oneshot::channel();
        let left = settled.iter().map(|(count, _)| count).sum();
        let mut batch = Batch { left, sent: 0, failure: None, done: Some(done) };
        for (count, failure) in settled {
            batch.settle(*count, failure.clone());
        }
        fate.try_recv().expect("all are settled")
    }

    #[test]
    fn a_batch_may_be_sent_again_only_if_nothing_of_it_is_there() {
        let down = || Some(Error::Unreachable("down".into()));
        assert_eq!(fate(&[(2, None), (1, None)]), Ok(()));
        assert_eq!(fate(&[(1, down()), (2, down())]).unwrap_err().retry(), Retry::Safe);
        for partly in [[(1, None), (2, down())], [(2, down()), (1, None)]] {
            let error = fate(&partly).unwrap_err();
            assert_eq!(error.retry(), Retry::OutcomeUnknown, "{error}");
        }
        let lost = Error::OutcomeUnknown { what: "x".into(), reason: "y".into() };
        assert_eq!(fate(&[(1, down()), (1, Some(lost))]).unwrap_err().retry(), Retry::OutcomeUnknown);
    }
}
