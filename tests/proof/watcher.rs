//! Looks at the cluster's status all the time: how long it had no leader, how long shards had none, and how long they
//! had too few readable replicas; and how far what can be read is behind what was sent.
//!
//! What is down is known here before the cluster notices, so that the time until it has noticed counts too.

use super::support::cluster::Cluster;
use super::support::readers::Outages;
use converthouse::adapters::peers::Daemon;
use converthouse::adapters::peers::grpc::{GrpcDaemon, Options};
use converthouse::model::control::{ClusterStatus, ShardStatus, TableStatus};
use converthouse::model::table::ShardState;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub struct Times {
    /// No daemon said that it leads.
    pub headless: Duration,
    /// Shards times how long.
    pub leaderless: Duration,
    /// The longest of one shard.
    pub leaderless_longest: Duration,
    /// Shards times how long.
    pub under_replicated: Duration,
    /// Rows sent that no copy had, at each look.
    pub behind: Vec<u64>,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [headless, leaderless, longest, under] =
            [self.headless, self.leaderless, self.leaderless_longest, self.under_replicated]
                .map(|time| time.as_secs_f64());
        writeln!(
            f,
            "time leaderless: the cluster {headless:.1} s; shards {leaderless:.1} shard-seconds, {longest:.1} s at a \
             time at most"
        )?;
        writeln!(f, "time under-replicated: {under:.1} shard-seconds")?;
        let mut behind = self.behind.clone();
        behind.sort_unstable();
        let share = |percent: usize| behind.get((behind.len() * percent / 100).min(behind.len().max(1) - 1));
        let [half, most, worst] = [50, 95, 100].map(|percent| share(percent).copied().unwrap_or(0));
        writeln!(f, "rows behind the producer: {half} in half of the looks, {most} in 95 %, {worst} at most")
    }
}

pub struct Watcher {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Times>,
}

/// What does not work at the moment, by the word of whoever broke it.
#[derive(Clone, Default)]
pub struct Down {
    pub servers: Outages,
    pub daemons: Outages,
}

impl Down {
    fn leads_not(&self) -> BTreeSet<String> {
        self.servers.now().union(&self.daemons.now()).cloned().collect()
    }
}

impl Watcher {
    /// `sent` counts the rows that were sent.
    pub fn start(cluster: &Cluster, down: Down, sent: Arc<AtomicU64>) -> Self {
        let options = Options { connect_timeout_ms: 500, read_timeout_ms: 1_000, ..Options::default() };
        let daemons: Vec<GrpcDaemon> =
            cluster.nodes.iter().map(|node| GrpcDaemon::new(&node.grpc_url, options.clone())).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut times, mut last) = (Times::default(), Instant::now());
            let (mut since, mut known) = (Since::default(), None);
            while !stopped.load(Ordering::Relaxed) {
                let rows = sent.load(Ordering::Relaxed);
                let seen = status(&daemons).await;
                times.behind.extend(
                    seen.as_ref().and_then(readable_rows).map(|readable| rows.saturating_sub(readable)),
                );
                let passed = last.elapsed();
                last = Instant::now();
                times.headless += if seen.is_none() { passed } else { Duration::ZERO };
                // While nobody leads, what was so goes on.
                known = seen.or(known);
                if let Some(status) = &known {
                    times.add(status, passed, &down, &mut since);
                }
                tokio::time::sleep(LOOK_EVERY).await;
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

/// Shards without a leader, and since when.
type Since = std::collections::BTreeMap<String, Duration>;

impl Times {
    fn add(&mut self, status: &ClusterStatus, passed: Duration, down: &Down, since: &mut Since) {
        let (dead, unable) = (down.servers.now(), down.leads_not());
        let mut without = Since::new();
        for (table, shard) in serving(&status.tables) {
            let leads = shard.leader.as_ref().is_some_and(|leader| !unable.contains(leader.as_str()));
            if !leads {
                self.leaderless += passed;
                let name = format!("{} {}", table.id, shard.id);
                let long = since.get(&name).copied().unwrap_or_default() + passed;
                self.leaderless_longest = self.leaderless_longest.max(long);
                without.insert(name, long);
            }
            let whole = readable(shard, &dead) >= table.replicas as usize;
            self.under_replicated += if whole { Duration::ZERO } else { passed };
        }
        *since = without;
    }
}

fn serving(tables: &[TableStatus]) -> impl Iterator<Item = (&TableStatus, &ShardStatus)> {
    let shards = tables.iter().flat_map(|table| table.shards.iter().map(move |shard| (table, shard)));
    shards.filter(|(_, shard)| shard.state == ShardState::Serving)
}

fn readable(shard: &ShardStatus, dead: &BTreeSet<String>) -> usize {
    let reads = ["leader", "ready"];
    let replicas = shard.replicas.iter().filter(|replica| !dead.contains(replica.node.as_str()));
    replicas.filter(|replica| reads.contains(&replica.state.as_str())).count()
}

/// Rows of each shard's copy that has most.
fn readable_rows(status: &ClusterStatus) -> Option<u64> {
    // A leader that has just become one has not heard of all yet.
    let rows =
        |shard: &ShardStatus| shard.replicas.iter().map(|replica| replica.rows).max().filter(|r| *r > 0);
    serving(&status.tables).map(|(_, shard)| rows(shard)).sum()
}

/// What the first daemon says that knows a leader.
async fn status(daemons: &[GrpcDaemon]) -> Option<ClusterStatus> {
    let asked = daemons.iter().map(|daemon| Box::pin(daemon.cluster_status()));
    let mut asked: Vec<_> = asked.collect();
    while !asked.is_empty() {
        let (answer, _, rest) = futures::future::select_all(asked).await;
        if let Some(status) = answer.ok().filter(|status| status.leader.is_some()) {
            return Some(status);
        }
        asked = rest;
    }
    None
}
