//! Machines that lose power: what was inserted in the last half minute is gone in part, older rows and newer ones.

use converthouse::model::Table;
use converthouse::simulation::event::Event;
use converthouse::simulation::{self, Cluster, Failure, NewTable, Run, Setup};

fn event(text: &str, node: &str) -> Event {
    serde_json::from_value(serde_json::json!({ "do": text, "node": node })).expect("an event")
}

async fn ingest(cluster: &Cluster, table: &Table, seconds: u64) -> Result<(), Failure> {
    for _ in 0..seconds {
        cluster.produce_everywhere(table, 10);
        cluster.advance(1_000).await?;
    }
    Ok(())
}

async fn table(cluster: &Cluster) -> Result<Table, Failure> {
    cluster.start().await?;
    cluster.create_table(&NewTable { partitions: 4, shards: 1, replicas: 2, ..NewTable::named("t") }).await
}

/// That a run lost rows, or it would show nothing.
fn lost_rows(run: &Run) -> bool {
    let cut = |row: &&String| row.contains("cuts the power of");
    run.rows.iter().filter(cut).any(|row| !row.contains(": 0 rows are gone"))
}

/// One of two machines loses power in the middle of steady ingest, and is back after a while.
async fn in_the_middle(cluster: &Cluster) -> Result<(), Failure> {
    let table = table(cluster).await?;
    ingest(cluster, &table, 100).await?;
    cluster.happen(&event("lose-power", "n2"))?;
    ingest(cluster, &table, 20).await?;
    cluster.happen(&event("start-node", "n2"))?;
    ingest(cluster, &table, 60).await?;
    cluster.heal(120_000).await
}

/// Found by reading: only rows that were missing at the table's end were missed.
#[test]
fn rows_that_a_machine_lost_with_its_power_are_read_again_wherever_they_were() {
    for seed in 1..=5 {
        let setup = Setup { seed, ..Setup::nodes(2) };
        let run = simulation::run(&setup, async |cluster: &Cluster| in_the_middle(cluster).await);
        assert!(run.passed() && lost_rows(&run), "{seed}: {run}");
    }
}

/// It is gone again before it has gone through what it may have lost the first time.
async fn twice(cluster: &Cluster) -> Result<(), Failure> {
    let table = table(cluster).await?;
    ingest(cluster, &table, 100).await?;
    for up_ms in [1_500, 4_000, 20_000] {
        cluster.happen(&event("lose-power", "n2"))?;
        cluster.advance(15_000).await?;
        cluster.happen(&event("start-node", "n2"))?;
        cluster.produce_everywhere(&table, 10);
        cluster.advance(up_ms).await?;
    }
    cluster.heal(120_000).await
}

#[test]
fn power_that_goes_again_and_again_takes_nothing_for_good() {
    for seed in 1..=5 {
        let run = simulation::run(&Setup { seed, ..Setup::nodes(2) }, async |c: &Cluster| twice(c).await);
        assert!(run.passed() && lost_rows(&run), "{seed}: {run}");
    }
}

/// Both lose power at once, and nobody has all rows.
async fn everywhere(cluster: &Cluster) -> Result<(), Failure> {
    let table = table(cluster).await?;
    ingest(cluster, &table, 100).await?;
    for node in ["n1", "n2"] {
        cluster.happen(&event("lose-power", node))?;
    }
    cluster.advance(20_000).await?;
    for node in ["n2", "n1"] {
        cluster.happen(&event("start-node", node))?;
    }
    ingest(cluster, &table, 30).await?;
    cluster.heal(120_000).await
}

#[test]
fn what_all_replicas_lost_at_once_is_in_their_topics() {
    let run = simulation::run(&Setup::nodes(2), async |cluster: &Cluster| everywhere(cluster).await);
    assert!(run.passed() && lost_rows(&run), "{run}");
}

/// A copy is taken of a replica that has just lost rows, before and while it gets them back.
async fn copied(cluster: &Cluster) -> Result<(), Failure> {
    let table = table(cluster).await?;
    ingest(cluster, &table, 100).await?;
    let (shard, holders) = {
        let view = cluster.view();
        let shard = view.shards_of(table.id).next().expect("made");
        let holders: Vec<_> = shard.replicas.iter().map(|replica| replica.node.clone()).collect();
        (shard.id.0, holders)
    };
    let free = cluster.node_ids().into_iter().find(|node| !holders.contains(node)).expect("three nodes");
    cluster.happen(&event("lose-power", holders[0].as_str()))?;
    cluster.happen(&event("stop-node", holders[1].as_str()))?;
    cluster.advance(20_000).await?;
    cluster.happen(&event("start-node", holders[0].as_str()))?;
    let add = serde_json::json!({ "do": "add-replica", "table": "t", "shard": shard, "to": free.as_str() });
    cluster.happen(&serde_json::from_value(add).expect("an event"))?;
    ingest(cluster, &table, 60).await?;
    cluster.heal(300_000).await
}

#[test]
fn a_copy_of_what_lost_its_power_gets_the_missing_rows_too() {
    for seed in 1..=3 {
        let run = simulation::run(&Setup { seed, ..Setup::nodes(3) }, async |c: &Cluster| copied(c).await);
        assert!(run.passed() && lost_rows(&run), "{seed}: {run}");
    }
}
