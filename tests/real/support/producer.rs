//! The user's producer: one sender, at a steady rate, that goes on through everything.

use super::cluster::{Cluster, event};
use converthouse::adapters::kafka::{Kafka, KafkaClient};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const EVERY: Duration = Duration::from_millis(50);
/// A broker may be gone for so long: the idempotent producer sends again by itself, once.
const PATIENCE_MS: u64 = 120_000;

pub struct Producer {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    #[allow(dead_code)] // for the proof, which shares this file
    began: Instant,
    task: tokio::task::JoinHandle<()>,
}

impl Producer {
    pub fn start(cluster: &Cluster, rows_per_s: u64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut options = cluster.kafka.brokers.options();
        options.deadline_ms = PATIENCE_MS;
        let client = KafkaClient::new(options).unwrap();
        let (stopped, counter) = (stop.clone(), sent.clone());
        let began = Instant::now();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let next = counter.load(Ordering::Relaxed);
                // What is late goes with the next ones, as from a producer that buffers: a second's rows at most.
                let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
                let due = (rows_per_s * elapsed_ms / 1_000).saturating_sub(next).min(rows_per_s);
                if due > 0 {
                    client.produce((next..next + due).map(event).collect()).await.unwrap();
                    counter.store(next + due, Ordering::Relaxed);
                }
                sleep(EVERY).await;
            }
        });
        Self { stop, sent, began, task }
    }

    /// Waits until so many more rows have been sent.
    pub async fn flow(&self, rows: u64) {
        let until = self.sent.load(Ordering::Relaxed) + rows;
        while self.sent.load(Ordering::Relaxed) < until {
            assert!(!self.task.is_finished(), "the producer failed");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Counts the rows that are sent and acknowledged.
    #[allow(dead_code)] // for the proof, which shares this file
    pub fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }

    /// Rows a second until now, all told.
    #[allow(dead_code)] // for the proof, which shares this file
    pub fn rows_per_s(&self) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / self.began.elapsed().as_secs_f64()
    }

    /// Stops; returns how many rows were sent, all of them acknowledged.
    pub async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}
