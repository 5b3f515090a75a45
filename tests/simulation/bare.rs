//! Servers that come back with an empty disk, after their peers or before them.

use converthouse::model::PartitionId;
use converthouse::model::names;
use converthouse::simulation::event::Event;
use converthouse::simulation::{self, Cluster, Failure, NewTable, Setup};

fn event(text: &str, node: &str) -> Event {
    serde_json::from_value(serde_json::json!({ "do": text, "node": node })).expect("an event")
}

fn all(cluster: &Cluster, text: &str) -> Result<(), Failure> {
    cluster.node_ids().iter().try_for_each(|node| cluster.happen(&event(text, node.as_str())))
}

/// Everything was down; topics do not go back as far as the table does; and n2, whose disk was replaced, is first up.
async fn first_up(cluster: &Cluster) -> Result<(), Failure> {
    cluster.start().await?;
    let table = cluster.create_table(&NewTable::named("t")).await?;
    cluster.produce_everywhere(&table, 100);
    cluster.until_nothing_lacks(30_000).await?;
    cluster.start_readers(2);
    cluster.advance(60_000).await?;
    for partition in (0..table.partitions).map(PartitionId) {
        cluster.kafka().truncate(&names::topic_partition(&table.source, partition), 50);
    }
    all(cluster, "stop-node")?;
    cluster.happen(&event("replace-disk", "n2"))?;
    cluster.advance(60_000).await?;
    cluster.happen(&event("start-node", "n2"))?;
    cluster.advance(60_000).await?;
    cluster.happen(&event("start-node", "n1"))?;
    cluster.produce_everywhere(&table, 100);
    cluster.heal(120_000).await
}

/// Found by reading: it began with what its topics still had, and stayed in the routes.
#[test]
fn a_copy_whose_disk_was_replaced_waits_for_its_peer_though_it_is_up_first() {
    let run = simulation::run(&Setup::nodes(2), async |cluster: &Cluster| first_up(cluster).await);
    assert!(run.passed(), "{run}");
}

/// The server is back before anybody has noticed that it was gone.
async fn at_once(cluster: &Cluster) -> Result<(), Failure> {
    cluster.start().await?;
    let table = cluster.create_table(&NewTable::named("t")).await?;
    cluster.start_readers(4);
    for _ in 0..60 {
        cluster.produce_everywhere(&table, 20);
        cluster.advance(500).await?;
    }
    cluster.happen(&event("replace-disk", "n2"))?;
    cluster.happen(&event("start-clickhouse", "n2"))?;
    for _ in 0..60 {
        cluster.produce_everywhere(&table, 20);
        cluster.advance(500).await?;
    }
    cluster.heal(120_000).await
}

/// Found by reading: it stayed in the routes while its holes were filled.
#[test]
fn a_copy_whose_disk_was_replaced_in_no_time_is_not_read_while_it_has_holes() {
    for seed in 1..=5 {
        let run = simulation::run(&Setup { seed, ..Setup::nodes(3) }, async |c: &Cluster| at_once(c).await);
        assert!(run.passed(), "{seed}: {run}");
    }
}
