//! How fast a lane reads: `cargo bench --bench lane [-- embedded] [messages]`. Prints, compares nothing.
//!
//! From a real broker (jars by `scripts/provision.sh kafka`), or from the embedded one; the figure for producing is
//! that of our own producer on the same machine at the same time as the broker.
#![allow(clippy::disallowed_methods)] // a benchmark looks at the wall clock

use converthouse::adapters::compute::kafka_broker::{KafkaBrokers, KafkaPlan};
use converthouse::adapters::kafka::embedded::EmbeddedKafka;
use converthouse::adapters::kafka::{Fetched, Kafka, KafkaClient, NewTopic, Outgoing};
use converthouse::model::names::TopicPartition;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const PARTITIONS: i32 = 4;

fn message(number: u64, bytes: usize) -> String {
    let head =
        format!(r#"{{"id":{number},"ts":"2026-11-21 03:48:02","user":"u-{}","amount":12.75"#, number % 977);
    let pad: String =
        (0..).map(|n| char::from(b'a' + ((number * 31 + n * n * 7) % 26) as u8)).take(bytes).collect();
    let left = bytes.saturating_sub(head.len() + 10);
    format!("{head},\"pad\":\"{}\"}}", &pad[..left])
}

async fn measure(kafka: &Arc<dyn Kafka>, bytes: usize, count: u64) {
    let name = format!("bench.{bytes}");
    let new = NewTopic { name: name.clone(), partitions: PARTITIONS, replication: 1, settings: Vec::new() };
    kafka.create_topics(&[new]).await.expect("a topic");
    let source = |partition| TopicPartition { topic: name.clone(), partition };
    let start = Instant::now();
    let mut sending = Vec::new();
    for first in (0..count).step_by(20_000) {
        let target = source(i32::try_from(first / 20_000).expect("few") % PARTITIONS);
        let batch = (first..count.min(first + 20_000)).map(|number| Outgoing {
            target: target.clone(),
            payload: Some(message(number, bytes).into()),
            headers: Vec::new(),
        });
        sending.push(kafka.produce(batch.collect()).await);
    }
    sending.into_iter().for_each(|sent| sent.expect("acknowledged"));
    let produced = start.elapsed().as_secs_f64();
    for round in 0..3 {
        let lane = kafka.lane("bench").expect("a lane");
        let start = Instant::now();
        (0..PARTITIONS).for_each(|partition| lane.assign(&source(partition), 0));
        let (mut came, mut chunks) = (0, 0);
        while came < count {
            match lane.next().await {
                Fetched::Chunk(chunk) => {
                    came += chunk.messages.len() as u64;
                    chunks += 1;
                }
                Fetched::End(..) => {}
                other => panic!("{other:?}"),
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{bytes:>4} B  {count} messages  produced {:>9.0}/s  read {:>9.0}/s  {:>6.1} MB/s  {chunks} chunks \
             (round {round})",
            count as f64 / produced,
            count as f64 / seconds,
            count as f64 * bytes as f64 / seconds / 1e6,
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let count = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        if arguments.iter().any(|argument| argument == "embedded") {
            let kafka: Arc<dyn Kafka> = Arc::new(EmbeddedKafka::start(1).expect("it starts"));
            return measure(&kafka, 100, count).await;
        }
        let provisioned = std::env::var_os("CONVERTHOUSE_PROVISION_DIR");
        let jars = provisioned.map_or_else(|| PathBuf::from(".provision"), PathBuf::from).join("kafka");
        let folder = tempfile::tempdir().expect("a folder");
        let (folder_path, settings) = (folder.path().to_owned(), Vec::new());
        let plan = KafkaPlan { jars, folder: folder_path, brokers: 1, user: None, settings };
        let brokers = match KafkaBrokers::start(plan).await {
            Ok(brokers) => brokers,
            Err(failure) => return println!("no broker, nothing measured: {failure}"),
        };
        let kafka: Arc<dyn Kafka> = Arc::new(KafkaClient::new(brokers.options()).expect("a client"));
        measure(&kafka, 200, count).await;
        measure(&kafka, 750, count / 2).await;
    });
}
