//! Looks at the cluster's status all the time: how long shards had no leader, or too few readable replicas.

use super::support::cluster::Cluster;
use converthouse::model::control::{ClusterStatus, ShardStatus};
use converthouse::model::table::ShardState;
use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Times {
    /// Shards times how long.
    pub leaderless: Duration,
    pub under_replicated: Duration,
    pub nobody_answered: Duration,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "shard-seconds without a leader {:.1}, with too few readable replicas {:.1}; \
             seconds without any status {:.1}",
            self.leaderless.as_secs_f64(),
            self.under_replicated.as_secs_f64(),
            self.nobody_answered.as_secs_f64()
        )
    }
}

pub struct Watcher {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Times>,
}

impl Watcher {
    pub fn start(cluster: &Cluster) -> Self {
        let urls: Vec<String> = cluster.nodes.iter().map(|node| node.grpc_url.clone()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut times, mut last) = (Times::default(), Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let status = status(&urls).await;
                let passed = last.elapsed();
                last = Instant::now();
                times.add(status.as_ref(), passed);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            times
        });
        Self { stop, task }
    }

    pub async fn end(self) -> Times {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

impl Times {
    fn add(&mut self, status: Option<&ClusterStatus>, passed: Duration) {
        let Some(status) = status else {
            self.nobody_answered += passed;
            return;
        };
        for table in &status.tables {
            for shard in table.shards.iter().filter(|shard| shard.state == ShardState::Serving) {
                self.leaderless += if shard.leader.is_some() { Duration::ZERO } else { passed };
                let whole = readable(shard) >= table.replicas as usize;
                self.under_replicated += if whole { Duration::ZERO } else { passed };
            }
        }
    }
}

fn readable(shard: &ShardStatus) -> usize {
    shard.replicas.iter().filter(|replica| ["leader", "ready"].contains(&replica.state.as_str())).count()
}

/// The first answer of any daemon.
async fn status(urls: &[String]) -> Option<ClusterStatus> {
    for url in urls {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_converthouse"));
        command.args(["--server", url, "--timeout", "2", "status", "--json"]).stderr(Stdio::null());
        let Ok(output) = command.output().await else { continue };
        let status: Option<ClusterStatus> = serde_json::from_slice(&output.stdout).ok();
        if let Some(status) = status.filter(|status| status.leader.is_some()) {
            return Some(status);
        }
    }
    None
}
