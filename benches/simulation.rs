//! How fast the simulator is, and what it takes: virtual seconds a wall second, peak memory.
//!
//! `cargo bench --bench simulation` plays a day of 100 nodes with 10 000 replicas, then of 1000 nodes with 100 000,
//! each for ten minutes of wall time at most; `-- NODES REPLICAS VIRTUAL_SECONDS [WALL_SECONDS_MAX]` one of another
//! size. One round of messages goes into every partition each virtual hour. Rounds are as long as such a cluster would
//! have them (a minute); everything else is the daemon's own code. What does not come to its end says so.

// Clippy knows tests only by `#[test]`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use converthouse::actors::Options;
use converthouse::model::Table;
use converthouse::model::balance::BalanceRules;
use converthouse::simulation::{self, Cluster, Failure, NewTable, Setup};
use std::time::{Duration, Instant};

/// Shards of one table at most.
const SHARDS_MAX: u32 = 1_000;
const ROUND_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_S: u64 = 86_400;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

struct World {
    nodes: u32,
    replicas: u32,
    virtual_s: u64,
    wall_max: Duration,
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn rate(virtual_ms: u64, began: Instant) -> f64 {
    virtual_ms as f64 / 1_000.0 / began.elapsed().as_secs_f64()
}

/// Daemons and tables; `None` if time was up before all of them stood.
async fn made(cluster: &Cluster, world: &World, began: Instant) -> Result<Option<Vec<Table>>, Failure> {
    cluster.kafka().set_end_every_ms(600_000);
    cluster.start().await?;
    println!("  {:.1} s: {} daemons run, {} MiB", began.elapsed().as_secs_f64(), world.nodes, peak_mib());
    let mut tables = Vec::new();
    let mut shards = world.replicas / 2;
    while shards > 0 {
        if began.elapsed() > world.wall_max {
            return Ok(None);
        }
        let some = shards.min(SHARDS_MAX);
        shards -= some;
        let name = format!("t{}", tables.len());
        let table = NewTable { name, partitions: some, shards: some, replicas: 2 };
        tables.push(cluster.create_table(&table).await?);
        let (wall_s, made) = (began.elapsed().as_secs_f64(), world.replicas - 2 * shards);
        println!("  {wall_s:.1} s: {made} replicas, {} MiB", peak_mib());
    }
    Ok(Some(tables))
}

async fn a_day(cluster: &Cluster, world: &World) -> Result<(), Failure> {
    let began = Instant::now();
    let Some(tables) = made(cluster, world, began).await? else {
        println!("  CUT OFF while tables were made: no figure");
        return Ok(());
    };
    println!("  made in {:.1} s, {} virtual s", began.elapsed().as_secs_f64(), cluster.now_ms() / 1_000);
    let (began, from_ms) = (Instant::now(), cluster.now_ms());
    let (mut told, mut produced_ms) = (Instant::now(), None);
    let passed_ms = || cluster.now_ms() - from_ms;
    while passed_ms() < world.virtual_s * 1_000 && began.elapsed() < world.wall_max {
        if produced_ms.is_none_or(|at| passed_ms() - at >= HOUR_MS) {
            tables.iter().for_each(|table| cluster.produce_everywhere(table, 100));
            produced_ms = Some(passed_ms());
        }
        cluster.advance(ROUND_MS.min(world.virtual_s * 1_000 - passed_ms())).await?;
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let wall_s = began.elapsed().as_secs_f64();
            println!(
                "  {wall_s:.0} s: {} virtual s, {:.0} a second",
                passed_ms() / 1_000,
                rate(passed_ms(), began)
            );
        }
    }
    let whole = if passed_ms() < world.virtual_s * 1_000 { "CUT OFF after" } else { "all of" };
    println!(
        "  {whole} {} virtual s in {:.1} s: {:.0} virtual s a second, {} MiB at most",
        passed_ms() / 1_000,
        began.elapsed().as_secs_f64(),
        rate(passed_ms(), began),
        peak_mib()
    );
    Ok(())
}

fn play(world: &World) {
    println!("{} nodes, {} replicas, {} virtual s:", world.nodes, world.replicas, world.virtual_s);
    let balance = BalanceRules { every_ms: ROUND_MS, ..BalanceRules::default() };
    let options = Options { tick_ms: ROUND_MS, lease_ttl_ms: 3 * ROUND_MS, balance, ..Options::default() };
    let setup = Setup { options, ..Setup::nodes(world.nodes) };
    let run = simulation::run(&setup, async |cluster: &Cluster| a_day(cluster, world).await);
    println!("  {} events, {}", run.events, run.failure.unwrap_or_else(|| "passed".into()));
}

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let wall_max = Duration::from_secs(numbers.get(3).map_or(600, |seconds| u64::from(*seconds)));
    if let [nodes, replicas, virtual_s, ..] = numbers[..] {
        return play(&World { nodes, replicas, virtual_s: u64::from(virtual_s), wall_max });
    }
    play(&World { nodes: 100, replicas: 10_000, virtual_s: DAY_S, wall_max });
    play(&World { nodes: 1_000, replicas: 100_000, virtual_s: DAY_S, wall_max });
}
