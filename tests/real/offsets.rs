//! Recorded positions while the broker is killed again and again, as under the proof: once it is back, every group's
//! can be recorded and read again, and none has gone back. `CONVERTHOUSE_TEST_KILLS=30` for longer.

use super::support::kafka::{TestKafka, topic};
use converthouse::adapters::kafka::{Committed, Kafka, KafkaClient};
use converthouse::model::names::TopicPartition;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Groups, each of a daemon.
const NODES: usize = 6;
const PARTITIONS: i32 = 8;
/// Positions can be recorded again within this, on a machine that is busy.
const BACK_WITHIN: Duration = Duration::from_secs(60);

fn group(node: usize) -> String {
    format!("converthouse.test.n{node}")
}

fn positions(sources: &[TopicPartition], next: i64) -> Vec<(TopicPartition, Committed)> {
    let metadata = format!("cvh1 t=00000000 s=0 e=1 r={next} f={next}");
    sources.iter().map(|source| (source.clone(), Committed { next, metadata: metadata.clone() })).collect()
}

/// Records ever higher positions, as a daemon under ingest does; `noted` is the last that was acknowledged.
async fn record(
    client: KafkaClient,
    sources: Vec<TopicPartition>,
    node: usize,
    noted: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
) {
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        next += 1;
        if client.commit(&group(node), &positions(&sources, next)).await.is_ok() {
            noted.store(next, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_are_recorded_again_after_each_kill_of_the_broker() {
    let kills = std::env::var("CONVERTHOUSE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let mut kafka = TestKafka::start(1, &[]).await;
    let sources = topic(&kafka.client(), "t", PARTITIONS, 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut noted = Vec::new();
    let mut tasks = Vec::new();
    for node in 0..NODES {
        let mut options = kafka.brokers.options();
        options.deadline_ms = 5_000;
        let (client, last) = (KafkaClient::new(options).unwrap(), Arc::new(AtomicI64::new(0)));
        noted.push(last.clone());
        tasks.push(tokio::spawn(record(client, sources.clone(), node, last, stop.clone())));
    }
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(500 + 700 * (kill % 4))).await;
        kafka.brokers.kill(0).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        kafka.brokers.restart(0).await.unwrap();
        let (back, before): (_, Vec<i64>) =
            (Instant::now(), noted.iter().map(|last| last.load(Ordering::Relaxed)).collect());
        for node in 0..NODES {
            while noted[node].load(Ordering::Relaxed) == before[node] {
                let log = || kafka.brokers.log_tail(0, 60);
                assert!(back.elapsed() < BACK_WITHIN, "kill {kill}: n{node} records nothing\n{}", log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        println!("kill {kill}: all record {:.1} s after the broker was back", back.elapsed().as_secs_f64());
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    for (node, last) in noted.iter().enumerate() {
        let read = kafka.client().committed(&group(node), &sources).await.unwrap();
        let last = last.load(Ordering::Relaxed);
        assert!(
            read.iter().all(|position| position.as_ref().is_some_and(|p| p.next >= last)),
            "n{node}: {read:?}"
        );
    }
}
