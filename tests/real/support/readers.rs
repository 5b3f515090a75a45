//! Readers that ask random nodes all the time, as a user's client would, and judge every answer by ONE-EPOCH: of each
//! partition a gap-free prefix of offsets, no row twice.

use super::cluster::{Cluster, Node, PARTITIONS};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Hidden columns of the usual table, over all shards.
const ALL: &str = "SELECT _cvh_partition, count(), uniqExact(_cvh_offset), min(_cvh_offset), max(_cvh_offset) \
                   FROM check.all GROUP BY _cvh_partition ORDER BY _cvh_partition";
/// The same rows as users see them.
const USERS: &str = "SELECT count(), uniqExact(id) FROM shop.events";

/// What became of the queries.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub answered: u64,
    /// Answers that broke ONE-EPOCH, as they were.
    pub wrong: Vec<String>,
    /// Queries that ended with an error.
    pub failed: Vec<String>,
}

pub struct Readers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Verdict>>,
}

/// Makes what readers ask on a node: a `Distributed` table that shows the hidden columns.
pub async fn prepare(node: &Node, cluster: &str) {
    let made = format!(
        "CREATE TABLE IF NOT EXISTS check.all (_cvh_partition UInt32, _cvh_offset UInt64) \
         ENGINE = Distributed('{cluster}', '', 'local')"
    );
    node.query("CREATE DATABASE IF NOT EXISTS check").await.unwrap();
    node.query(&made).await.unwrap();
}

impl Readers {
    /// So many readers of all nodes that the cluster has now. Every partition must hold rows already.
    pub fn start(cluster: &Cluster, readers: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<clickhouse::Client> = cluster.nodes.iter().map(Node::client).collect();
        let read = |reader: usize| {
            let (clients, stop, answered) = (clients.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move { read(reader, &clients, &stop, &answered).await })
        };
        let tasks = (0..readers).map(read).collect();
        Self { stop, answered, tasks }
    }

    /// Waits until so many more queries have been answered.
    pub async fn flow(&self, queries: u64) {
        let until = self.answered.load(Ordering::Relaxed) + queries;
        while self.answered.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn end(self) -> Verdict {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Verdict::default();
        for task in self.tasks {
            let one = task.await.unwrap();
            all.answered += one.answered;
            all.wrong.extend(one.wrong);
            all.failed.extend(one.failed);
        }
        all
    }
}

async fn read(
    reader: usize,
    clients: &[clickhouse::Client],
    stop: &AtomicBool,
    answered: &AtomicU64,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut turn = reader;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let sql = if turn.is_multiple_of(3) { USERS } else { ALL };
        let client = clients[turn % clients.len()].clone().with_setting("load_balancing", "random");
        let answer = async { client.query_raw(sql).fetch_bytes("TabSeparatedRaw")?.collect().await };
        match answer.await {
            Err(error) => verdict.failed.push(error.to_string()),
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                let wrong = if sql == USERS { twice(&text) } else { torn(&text) };
                verdict.wrong.extend(wrong.map(|why| format!("{why}:\n{text}")));
                verdict.answered += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    verdict
}

fn numbers(line: &str) -> Vec<u64> {
    line.split('\t').map(|word| word.parse().unwrap()).collect()
}

/// Whether users see a row twice.
fn twice(text: &str) -> Option<String> {
    let seen = numbers(text);
    (seen[0] != seen[1]).then(|| "a row is seen twice".to_owned())
}

/// Whether a partition is not a gap-free prefix of its offsets, or not there at all.
fn torn(text: &str) -> Option<String> {
    let partitions: Vec<Vec<u64>> = text.lines().map(numbers).collect();
    if partitions.len() as u64 != PARTITIONS {
        return Some("a partition is not there".to_owned());
    }
    let torn = partitions.iter().find(|p| p[1] != p[2] || p[3] != 0 || p[4] + 1 != p[1]);
    torn.map(|partition| format!("partition {partition:?} is no prefix"))
}
