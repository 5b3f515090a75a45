//! How fast the simulator is, and what it takes: virtual seconds a wall second, peak memory.
//!
//! `cargo bench --bench simulation -- NODES REPLICAS VIRTUAL_SECONDS`, by default 100 nodes, 10 000 replicas, 600 s.
//! One round of messages goes into every partition each virtual hour. Rounds are as long as such a cluster would have
//! them (a minute); everything else is the daemon's own code.

// Clippy knows tests only by `#[test]`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use converthouse::actors::Options;
use converthouse::simulation::{self, Cluster, Failure, NewTable, Setup};
use std::time::Instant;

/// Shards of one table at most.
const SHARDS_MAX: u32 = 1_000;
const HOUR_MS: u64 = 3_600_000;

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

async fn a_day(cluster: &Cluster, replicas: u32, virtual_ms: u64) -> Result<(), Failure> {
    let began = Instant::now();
    cluster.kafka().set_end_every_ms(600_000);
    cluster.start().await?;
    let mut tables = Vec::new();
    let mut shards = replicas / 2;
    while shards > 0 {
        let some = shards.min(SHARDS_MAX);
        shards -= some;
        let name = format!("t{}", tables.len());
        tables.push(
            cluster.create_table(&NewTable { name, partitions: some, shards: some, replicas: 2 }).await?,
        );
    }
    println!(
        "made in {:.1} s, {} virtual s, {} MiB",
        began.elapsed().as_secs_f64(),
        cluster.now_ms() / 1_000,
        peak_mib()
    );
    let (began, until_ms) = (Instant::now(), cluster.now_ms() + virtual_ms);
    while cluster.now_ms() < until_ms {
        tables.iter().for_each(|table| cluster.produce_everywhere(table, 100));
        cluster.advance(HOUR_MS.min(until_ms - cluster.now_ms())).await?;
    }
    let wall_s = began.elapsed().as_secs_f64();
    let rate = virtual_ms as f64 / 1_000.0 / wall_s;
    println!(
        "{} virtual s in {wall_s:.1} s: {rate:.0} virtual s a second, {} MiB",
        virtual_ms / 1_000,
        peak_mib()
    );
    Ok(())
}

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let number = |place: usize, default| numbers.get(place).copied().unwrap_or(default);
    let (nodes, replicas, virtual_s) = (number(0, 100), number(1, 10_000), number(2, 600));
    println!("{nodes} nodes, {replicas} replicas");
    let options = Options { tick_ms: 60_000, lease_ttl_ms: 180_000, ..Options::default() };
    let setup = Setup { options, ..Setup::nodes(nodes) };
    let run = simulation::run(&setup, async |cluster: &Cluster| {
        a_day(cluster, replicas, u64::from(virtual_s) * 1_000).await
    });
    println!("{} events, {}", run.events, run.failure.unwrap_or_else(|| "passed".into()));
}
