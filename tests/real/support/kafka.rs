//! Real Kafka for tests: brokers in a folder that goes away with them.

use converthouse::adapters::compute::kafka_broker::{KafkaBrokers, KafkaPlan};
use converthouse::adapters::kafka::{Kafka, KafkaClient, NewTopic, Outgoing};
use converthouse::model::names::TopicPartition;
use std::path::PathBuf;
use tempfile::TempDir;

/// Brokers and their folder.
pub struct TestKafka {
    /// The brokers.
    pub brokers: KafkaBrokers,
    _folder: TempDir,
}

/// The folder that `scripts/provision.sh` fills.
pub fn jars() -> PathBuf {
    let folder = std::env::var_os("CONVERTHOUSE_PROVISION_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".provision"), PathBuf::from);
    folder.join("kafka")
}

impl TestKafka {
    /// Starts so many brokers, with more server settings.
    pub async fn start(brokers: usize, settings: &[(&str, &str)]) -> Self {
        Self::start_plan(brokers, settings, None).await
    }

    /// As [`TestKafka::start`]; clients must name themselves.
    pub async fn start_with_user(user: &str, password: &str) -> Self {
        Self::start_plan(1, &[], Some((user.to_owned(), password.to_owned()))).await
    }

    async fn start_plan(brokers: usize, settings: &[(&str, &str)], user: Option<(String, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plan = KafkaPlan {
            jars: jars(),
            folder: folder.path().to_owned(),
            brokers,
            user,
            settings: settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        let brokers = KafkaBrokers::start(plan).await.expect("Kafka starts; run scripts/provision.sh");
        Self { brokers, _folder: folder }
    }

    /// A client of theirs.
    pub fn client(&self) -> KafkaClient {
        KafkaClient::new(self.brokers.options()).unwrap()
    }
}

/// Makes a topic; returns its Kafka partitions.
pub async fn topic(
    kafka: &KafkaClient,
    name: &str,
    partitions: i32,
    replication: i32,
) -> Vec<TopicPartition> {
    let settings =
        if replication == 3 { vec![("min.insync.replicas".into(), "2".into())] } else { Vec::new() };
    let new = NewTopic { name: name.to_owned(), partitions, replication, settings };
    kafka.create_topics(&[new]).await.unwrap();
    (0..partitions).map(|partition| TopicPartition { topic: name.to_owned(), partition }).collect()
}

/// Messages with these texts.
pub fn outgoing(target: &TopicPartition, texts: impl IntoIterator<Item = String>) -> Vec<Outgoing> {
    let message =
        |text: String| Outgoing { target: target.clone(), payload: Some(text.into()), headers: Vec::new() };
    texts.into_iter().map(message).collect()
}

/// Text that hardly compresses.
pub fn noise(bytes: usize) -> String {
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + u8::try_from((seed >> 33) % 95).unwrap())
    };
    (0..bytes).map(|_| next()).collect()
}
