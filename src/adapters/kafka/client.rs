//! Real Kafka, through `rdkafka`.
//!
//! Every call that blocks in librdkafka runs on a thread of its own. One consumer without a group looks things up, one
//! per group reads and records positions (neither ever subscribes), one producer sends, each named batch has a
//! producer of its own (see [`super::transaction`]), and each lane its own consumer (see [`super::lane`]).

use super::budget::Budget;
use super::lane::KafkaLane;
use super::offsets::{AGAIN, Groups};
use super::options::{Effect, Options, error, of_code};
use super::produce::Producer;
use super::raw::RawConsumer;
use super::transaction;
use super::{BatchFate, Chunk, Committed, Error, Kafka, Lane, NamedBatch, NewTopic, Outgoing, Watermarks};
use crate::model::names::TopicPartition;
use async_trait::async_trait;
use rdkafka::admin::{self, AdminClient, AdminOptions, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How soon a broker has to say that it is there.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// Topics created or deleted in one request.
const TOPICS_AT_ONCE: usize = 200;
/// Calls that block a thread each.
const CALLS_AT_ONCE: usize = 64;
/// Messages looked at at the same time, each by a consumer of its own.
const PEEKS_AT_ONCE: usize = 4;

/// Remembers why brokers refused us, until one answers: librdkafka itself only goes on trying, and says it once, while
/// several calls may wait.
#[derive(Default)]
pub(super) struct Ears {
    denied: Mutex<Option<String>>,
}

impl ClientContext for Ears {
    fn error(&self, failure: KafkaError, reason: &str) {
        if matches!(failure.rdkafka_error_code(), Some(Code::Authentication | Code::SSL)) {
            *self.denied.lock().expect("no panic while held") = Some(reason.to_owned());
        }
        tracing::debug!(%failure, reason, "librdkafka");
    }
}

impl ConsumerContext for Ears {}

pub(super) type Looker = BaseConsumer<Ears>;

/// A failure of a consumer's call, in our words.
fn failed(consumer: &Looker, failure: &KafkaError, about: &str, effect: Effect) -> Error {
    let mapped = error(failure, about, effect);
    if matches!(mapped, Error::Unreachable(_) | Error::OutcomeUnknown { .. }) {
        // What happened meanwhile waits for a poll; one that only took a log line says that there was nothing.
        for _ in 0..200 {
            consumer.poll(Duration::ZERO);
        }
        if let Some(reason) = &*consumer.context().denied.lock().expect("no panic while held") {
            return Error::Denied(reason.clone());
        }
    }
    mapped
}

/// What a consumer's call came to: a broker that answers refuses us no more.
pub(super) fn answered<T>(
    consumer: &Looker,
    answer: Result<T, KafkaError>,
    about: &str,
    effect: Effect,
) -> Result<T, Error> {
    if answer.is_ok() {
        *consumer.context().denied.lock().expect("no panic while held") = None;
    }
    answer.map_err(|failure| failed(consumer, &failure, about, effect))
}

struct Inner {
    options: Options,
    looker: Looker,
    admin: AdminClient<DefaultClientContext>,
    groups: Groups,
    /// Idle consumers that look at one message.
    peekers: Mutex<Vec<RawConsumer>>,
    /// So that a thousand partitions that start at once do not take all of the runtime's threads.
    calls: Semaphore,
    peeks: Semaphore,
    budget: Arc<Budget>,
}

/// A Kafka cluster. Cheap to clone.
#[derive(Clone)]
pub struct KafkaClient {
    inner: Arc<Inner>,
    producer: Arc<Producer>,
}

impl KafkaClient {
    /// Checks the settings; no broker is asked yet.
    pub fn new(options: Options) -> Result<Self, Error> {
        let config = options.config("control")?;
        let made = |failure: KafkaError| error(&failure, "client", Effect::Read);
        let looker = config.create_with_context(Ears::default()).map_err(made)?;
        let inner = Inner {
            looker,
            admin: config.create().map_err(made)?,
            groups: Groups::new(options.clone()),
            peekers: Mutex::default(),
            calls: Semaphore::new(CALLS_AT_ONCE),
            peeks: Semaphore::new(PEEKS_AT_ONCE),
            budget: Budget::new(options.buffer_bytes),
            options: options.clone(),
        };
        Ok(Self { inner: Arc::new(inner), producer: Arc::new(Producer::new(options)) })
    }

    /// How many brokers the cluster has now.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Denied`].
    pub async fn brokers(&self) -> Result<usize, Error> {
        self.blocking(|inner| inner.metadata().map(|metadata| metadata.brokers().len())).await
    }

    /// The names of all topics that can be used.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Denied`].
    pub async fn topics(&self) -> Result<Vec<String>, Error> {
        Ok(self.partitions().await?.into_keys().collect())
    }

    /// Runs a call that blocks.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _call = self.inner.calls.acquire().await;
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || call(&inner)).await;
        done.unwrap_or_else(|failure| Err(Error::Unreachable(failure.to_string())))
    }

    /// Partitions of each topic that exists.
    async fn partitions(&self) -> Result<BTreeMap<String, i32>, Error> {
        self.blocking(Inner::partitions).await
    }

    /// Waits until topics are known, with a leader for each partition, or known no more.
    async fn until_known(&self, topics: &[String], there: bool) -> Result<(), Error> {
        let until = Instant::now() + self.inner.options.deadline();
        loop {
            let known = self.partitions().await?;
            if topics.iter().all(|topic| known.contains_key(topic) == there) {
                return Ok(());
            }
            if Instant::now() > until {
                let reason = "the brokers have not heard of it yet".to_owned();
                return Err(Error::OutcomeUnknown { what: "topics changed".into(), reason });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn admin_options(&self) -> AdminOptions {
        let deadline = Some(self.inner.options.deadline());
        AdminOptions::new().request_timeout(deadline).operation_timeout(deadline)
    }
}

impl Inner {
    fn metadata(&self) -> Result<Metadata, Error> {
        let metadata = self.looker.fetch_metadata(None, self.options.deadline());
        answered(&self.looker, metadata, &self.options.brokers, Effect::Read)
    }

    /// One topic is asked for, since all of them would be a long answer; it need not be there, and is not made.
    fn reach(&self) -> Result<(), Error> {
        let deadline = self.options.deadline().min(REACHED_WITHIN);
        let asked = self.looker.fetch_metadata(Some("__consumer_offsets"), deadline);
        answered(&self.looker, asked, &self.options.brokers, Effect::Read).map(drop)
    }

    fn partitions(&self) -> Result<BTreeMap<String, i32>, Error> {
        let metadata = self.metadata()?;
        // Just created, a topic may be listed without its leaders: it is of no use yet.
        let usable = metadata.topics().iter().filter(|topic| {
            let led = topic.partitions().iter().all(|partition| partition.error().is_none());
            topic.error().is_none() && led && !topic.partitions().is_empty()
        });
        Ok(usable
            .map(|topic| {
                (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
            })
            .collect())
    }

    /// A leader that has just changed is asked again.
    fn watermarks(&self, source: &TopicPartition) -> Result<Watermarks, Error> {
        let until = Instant::now() + self.options.deadline();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let found = self.watermarks_within(source, left);
            if !matches!(found, Err(Error::Unreachable(_))) || Instant::now() + AGAIN > until {
                return found;
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn watermarks_within(&self, source: &TopicPartition, left: Duration) -> Result<Watermarks, Error> {
        let (topic, partition) = (source.topic.as_str(), source.partition);
        match self.looker.fetch_watermarks(topic, partition, left) {
            Ok((low, high)) => Ok(Watermarks { low, high }),
            Err(failure) => match failed(&self.looker, &failure, topic, Effect::Read) {
                // A topic that is not there may look like a partition without a leader, and one that is there like
                // one that is not: librdkafka keeps an earlier "no such topic" for as long as what it learned of
                // other topics before. To ask for all topics renews what it knows.
                Error::Unreachable(text) | Error::TopicMissing(text) => match self.partitions()?.get(topic) {
                    Some(count) if partition < *count => Err(Error::Unreachable(text)),
                    _ => Err(Error::TopicMissing(topic.to_owned())),
                },
                other => Err(other),
            },
        }
    }

    fn peek(&self, source: &TopicPartition, offset: i64) -> Result<Option<Chunk>, Error> {
        let marks = self.watermarks(source)?;
        let offset = offset.max(marks.low);
        if offset >= marks.high {
            return Ok(None);
        }
        let idle = self.peekers.lock().expect("no panic while held").pop();
        let raw = match idle {
            Some(raw) => raw,
            None => RawConsumer::new(&super::lane::config(&self.options, "peek")?)?,
        };
        let topic = raw.start(source, offset)?;
        let result =
            super::chunk::first_chunk(&raw, source, &self.budget, Instant::now() + self.options.deadline());
        raw.stop(&topic, source);
        // Before the consumer can go: a handle must not outlive it.
        drop(topic);
        self.peekers.lock().expect("no panic while held").push(raw);
        result
    }
}

#[async_trait]
impl Kafka for KafkaClient {
    async fn reach(&self) -> Result<(), Error> {
        self.blocking(Inner::reach).await
    }

    async fn create_topics(&self, topics: &[NewTopic]) -> Result<(), Error> {
        let known = self.partitions().await?;
        let mut absent = Vec::new();
        for topic in topics {
            match known.get(&topic.name) {
                Some(has) => enough(topic, *has)?,
                None => absent.push(topic),
            }
        }
        let options = self.admin_options();
        for some in absent.chunks(TOPICS_AT_ONCE) {
            let new: Vec<_> = some.iter().map(|topic| native(topic)).collect();
            let made = self.inner.admin.create_topics(&new, &options).await;
            let made = made.map_err(|f| error(&f, "topics", Effect::Write("topics created")))?;
            for result in made {
                match result {
                    // Somebody else was faster: looked at below.
                    Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                    Err((topic, code)) => {
                        return Err(of_code(code, &topic, Effect::Write("topics created")));
                    }
                }
            }
        }
        let names: Vec<_> = absent.iter().map(|topic| topic.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        self.until_known(&names, true).await?;
        let known = self.partitions().await?;
        for topic in absent {
            let has = known.get(&topic.name).copied().unwrap_or(0);
            enough(topic, has)?;
        }
        Ok(())
    }

    async fn delete_topics(&self, topics: &[String]) -> Result<(), Error> {
        let known = self.partitions().await?;
        let there: Vec<_> = topics.iter().filter(|topic| known.contains_key(*topic)).cloned().collect();
        let options = self.admin_options();
        for some in there.chunks(TOPICS_AT_ONCE) {
            let names: Vec<_> = some.iter().map(String::as_str).collect();
            let gone = self.inner.admin.delete_topics(&names, &options).await;
            let gone = gone.map_err(|f| error(&f, "topics", Effect::Write("topics deleted")))?;
            for result in gone {
                match result {
                    Ok(_) | Err((_, Code::UnknownTopicOrPartition)) => {}
                    Err((topic, code)) => {
                        return Err(of_code(code, &topic, Effect::Write("topics deleted")));
                    }
                }
            }
        }
        self.until_known(&there, false).await
    }

    async fn watermarks(&self, source: &TopicPartition) -> Result<Watermarks, Error> {
        let source = source.clone();
        self.blocking(move |inner| inner.watermarks(&source)).await
    }

    async fn peek(&self, source: &TopicPartition, offset: i64) -> Result<Option<Chunk>, Error> {
        let source = source.clone();
        let _peek = self.inner.peeks.acquire().await;
        self.blocking(move |inner| inner.peek(&source, offset)).await
    }

    async fn committed(
        &self,
        group: &str,
        sources: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, Error> {
        let (group, sources) = (group.to_owned(), sources.to_vec());
        self.blocking(move |inner| inner.groups.committed(&group, &sources)).await
    }

    async fn commit(&self, group: &str, positions: &[(TopicPartition, Committed)]) -> Result<(), Error> {
        self.inner.groups.commit(group, positions).await
    }

    async fn produce(&self, messages: Vec<Outgoing>) -> Result<(), Error> {
        Arc::clone(&self.producer).produce(messages).await
    }

    async fn produce_once(&self, batch: NamedBatch) -> Result<BatchFate, Error> {
        self.blocking(move |inner| transaction::produce_once(&inner.options, &batch)).await
    }

    fn lane(&self, name: &str) -> Result<Arc<dyn Lane>, Error> {
        Ok(Arc::new(KafkaLane::start(&self.inner.options, name, &self.inner.budget)?))
    }
}

/// Whether a topic that is there has the partitions that are wanted.
pub(super) fn enough(topic: &NewTopic, has: i32) -> Result<(), Error> {
    let NewTopic { name, partitions, .. } = topic;
    if has >= *partitions {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "topic {name} exists with {has} Kafka partitions and {partitions} are needed: add partitions to it, \
         delete it, or choose another topic"
    )))
}

fn native(topic: &NewTopic) -> admin::NewTopic<'_> {
    let new = admin::NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
    topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
}
