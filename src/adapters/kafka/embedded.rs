//! A broker in this process, for the demo and for unit tests: librdkafka's mock cluster, over real sockets.
//!
//! What it does not do: it forgets everything on exit; it keeps at most 5 MB (as sent, so compressed) a Kafka
//! partition and drops the oldest beyond that; topics cannot be deleted, truncated or given settings; it has no
//! users; its transactions keep nothing back that is given up, so they are refused. Reading what it dropped is
//! reported as out of range, as everywhere. Topics are made through its handle, since it does not speak the
//! administrator's part of the protocol; everything else is the ordinary client.

use super::{
    BatchFate, Chunk, Committed, Error, Kafka, KafkaClient, Lane, NamedBatch, NewTopic, Options, Outgoing,
    Watermarks,
};
use crate::model::names::TopicPartition;
use async_trait::async_trait;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};

/// What a Kafka partition keeps, in bytes as they were sent.
pub const PARTITION_MAX_BYTES: u64 = 5 << 20;

const NO_TRANSACTIONS: &str = "the embedded broker has no transactions, and so no named batches";

type Create = (NewTopic, mpsc::Sender<Result<(), String>>);

/// An embedded broker; ends when dropped.
#[derive(Clone)]
pub struct EmbeddedKafka {
    client: KafkaClient,
    bootstrap: String,
    topics: Arc<Mutex<BTreeMap<String, i32>>>,
    /// To the thread that owns the broker: its handle cannot leave it.
    create: mpsc::Sender<Create>,
}

impl EmbeddedKafka {
    /// Starts `brokers` brokers on free ports of 127.0.0.1.
    pub fn start(brokers: i32) -> Result<Self, Error> {
        let (create, creations) = mpsc::channel();
        let (started, outcome) = mpsc::channel();
        std::thread::Builder::new()
            .name("embedded-kafka".into())
            .spawn(move || serve(brokers, &started, &creations))
            .map_err(|failure| Error::Invalid(format!("no thread for the embedded broker: {failure}")))?;
        let gone = |_| Error::Invalid("the embedded broker ended at once".into());
        let bootstrap: String = outcome.recv().map_err(gone)?.map_err(Error::Invalid)?;
        let client = KafkaClient::new(Options::new(&bootstrap))?;
        Ok(Self { client, bootstrap, topics: Arc::default(), create })
    }

    /// `host:port,…`, for any Kafka client on this machine.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}

/// Owns the broker until nobody can ask for topics any more.
fn serve(brokers: i32, started: &mpsc::Sender<Result<String, String>>, creations: &mpsc::Receiver<Create>) {
    let cluster: MockCluster<'static, DefaultProducerContext> = match MockCluster::new(brokers) {
        Ok(cluster) => cluster,
        Err(failure) => {
            let _ = started.send(Err(failure.to_string()));
            return;
        }
    };
    if started.send(Ok(cluster.bootstrap_servers())).is_err() {
        return;
    }
    for (topic, answer) in creations {
        let replication = if topic.replication < 0 { 1 } else { topic.replication.min(brokers) };
        let made = cluster.create_topic(&topic.name, topic.partitions, replication);
        // Whoever asked may have given up.
        let _ = answer.send(made.map_err(|failure| failure.to_string()));
    }
}

#[async_trait]
impl Kafka for EmbeddedKafka {
    async fn create_topics(&self, topics: &[NewTopic]) -> Result<(), Error> {
        let mut known = self.topics.lock().expect("no panic while held");
        for topic in topics {
            if let Some(has) = known.get(&topic.name) {
                super::client::enough(topic, *has)?;
                continue;
            }
            let (answer, outcome) = mpsc::channel();
            let ended = || Error::Unreachable("the embedded broker has ended".into());
            self.create.send((topic.clone(), answer)).map_err(|_| ended())?;
            outcome.recv().map_err(|_| ended())?.map_err(Error::Invalid)?;
            known.insert(topic.name.clone(), topic.partitions);
        }
        Ok(())
    }

    async fn delete_topics(&self, topics: &[String]) -> Result<(), Error> {
        let known = self.topics.lock().expect("no panic while held");
        match topics.iter().find(|topic| known.contains_key(*topic)) {
            Some(topic) => Err(Error::Invalid(format!("{topic}: the embedded broker cannot delete topics"))),
            None => Ok(()),
        }
    }

    fn keeps_topics(&self) -> Option<&'static str> {
        Some("the embedded broker cannot delete topics")
    }

    async fn watermarks(&self, source: &TopicPartition) -> Result<Watermarks, Error> {
        self.client.watermarks(source).await
    }

    async fn peek(&self, source: &TopicPartition, offset: i64) -> Result<Option<Chunk>, Error> {
        self.client.peek(source, offset).await
    }

    async fn committed(
        &self,
        group: &str,
        sources: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, Error> {
        self.client.committed(group, sources).await
    }

    async fn commit(&self, group: &str, positions: &[(TopicPartition, Committed)]) -> Result<(), Error> {
        self.client.commit(group, positions).await
    }

    async fn produce(&self, messages: Vec<Outgoing>) -> Result<(), Error> {
        self.client.produce(messages).await
    }

    fn no_transactions(&self) -> Option<&'static str> {
        Some(NO_TRANSACTIONS)
    }

    async fn produce_once(&self, _: NamedBatch) -> Result<BatchFate, Error> {
        Err(Error::Invalid(NO_TRANSACTIONS.into()))
    }

    fn lane(&self, name: &str) -> Result<Arc<dyn Lane>, Error> {
        self.client.lane(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, Subject};
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_embedded_broker_keeps_the_contract() {
        let kafka = EmbeddedKafka::start(1).unwrap();
        conformance::run_all(&Subject::new(Arc::new(kafka), "embedded")).await;
    }
}
