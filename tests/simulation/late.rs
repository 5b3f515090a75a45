//! What comes late: a leader that wakes up deposed with a deletion decided, and positions that brokers would have
//! forgotten by now.

use converthouse::actors::Options;
use converthouse::model::PartitionId;
use converthouse::model::control::DropTable;
use converthouse::model::names::{self, TopicPartition};
use converthouse::model::table::{Table, TableName, TableState};
use converthouse::simulation::{self, Cluster, Failure, NewTable, Port, Setup, Weather};

/// What each way to the store takes the leader.
const STORE_MS: u64 = 40;
const DAY_MS: u64 = 86_400_000;

async fn drop_with_topics(cluster: &Cluster, name: &TableName) -> Result<(), Failure> {
    let TableName { database, table } = name.clone();
    let request = DropTable { database, table, delete_topics: true, if_exists: true };
    let drop = |daemon: std::sync::Arc<dyn converthouse::adapters::peers::Daemon>| {
        let request = request.clone();
        async move { daemon.drop_table(request).await }
    };
    cluster.ask("drop the table", drop).await
}

fn sources(table: &Table) -> impl Iterator<Item = TopicPartition> {
    (0..table.partitions).map(|partition| names::topic_partition(&table.source, PartitionId(partition)))
}

fn has_topics(cluster: &Cluster, table: &Table) -> bool {
    sources(table).any(|source| cluster.kafka().ends(&source).is_some())
}

/// The leader stands still so long after the store took note that the table is dropped; the next one deletes the
/// topics, the table is made again, and then the first goes on.
async fn made_again_meanwhile(cluster: &Cluster, stalled_after_ms: u64) -> Result<(), Failure> {
    cluster.start().await?;
    let table = cluster.create_table(&NewTable::named("t")).await?;
    cluster.produce_everywhere(&table, 100);
    cluster.until_nothing_lacks(30_000).await?;
    // Whoever leads is not the daemon that requests go to.
    cluster.kill_daemon("n1")?;
    cluster.until("another leader", 60_000, |c| c.leader().is_some_and(|now| now.as_str() != "n1")).await?;
    cluster.start_daemon("n1")?;
    cluster.until_complete(&table.name, 60_000).await?;
    let leader = cluster.leader().expect("started");
    let slow = Weather { latency_ms: (STORE_MS, STORE_MS), ..Weather::FAIR };
    cluster.set_weather(leader.as_str(), Port::Store, slow)?;
    // Who asked waits for the leader's answer in vain.
    let (asking, name) = (cluster.clone(), table.name.clone());
    tokio::task::spawn_local(async move { drop_with_topics(&asking, &name).await });
    let is_dropped = |c: &Cluster| c.table(&table.name).is_none_or(|t| t.state == TableState::Dropping);
    while !is_dropped(cluster) {
        cluster.advance(1).await?;
    }
    cluster.advance(stalled_after_ms).await?;
    cluster.stall_daemon(leader.as_str(), true)?;
    cluster.until("another leader", 60_000, |c| c.leader().is_some_and(|now| now != leader)).await?;
    cluster.until("the topics to go", 60_000, |c| !has_topics(c, &table)).await?;
    let again = cluster.create_table(&NewTable::named("t")).await?;
    cluster.produce_everywhere(&again, 100);
    cluster.set_weather(leader.as_str(), Port::Store, Weather::FAIR)?;
    cluster.stall_daemon(leader.as_str(), false)?;
    cluster.advance(10_000).await?;
    assert!(has_topics(cluster, &again), "stalled after {stalled_after_ms} ms: its topics are gone");
    cluster.heal(120_000).await
}

#[test]
fn a_leader_that_wakes_up_deposed_takes_no_topic_from_a_table_that_was_made_again() {
    // Later than this its last look at the store is answered already: the request to Kafka is what is left to chance.
    for stalled_after_ms in (0..2 * STORE_MS).step_by(10) {
        let run = simulation::run(&Setup::nodes(3), async |cluster: &Cluster| {
            made_again_meanwhile(cluster, stalled_after_ms).await
        });
        assert!(run.passed(), "{stalled_after_ms}: {run}");
    }
}

#[test]
fn positions_of_quiet_partitions_outlive_what_brokers_keep() {
    let lease_ttl_ms = 180_000;
    let options = Options { tick_ms: 60_000, lease_ttl_ms, ..Options::default() };
    let run = simulation::run(&Setup { options, ..Setup::nodes(2) }, async |cluster: &Cluster| {
        cluster.kafka().set_end_every_ms(600_000);
        cluster.kafka().set_positions_kept_ms(7 * DAY_MS);
        cluster.start().await?;
        let table = cluster.create_table(&NewTable::named("t")).await?;
        cluster.produce_everywhere(&table, 100);
        cluster.until_nothing_lacks(300_000).await?;
        // No row tells of the newest message, and retention takes all of them.
        for source in sources(&table) {
            cluster.kafka().append(&source, vec![None]);
        }
        cluster.advance(300_000).await?;
        for source in sources(&table) {
            let end = cluster.kafka().ends(&source).expect("it is there").high;
            cluster.kafka().truncate(&source, end);
        }
        for _ in 0..8 {
            cluster.advance(DAY_MS).await?;
        }
        for node in cluster.node_ids() {
            cluster.kill_daemon(node.as_str())?;
        }
        cluster.advance(lease_ttl_ms).await?;
        for node in cluster.node_ids() {
            cluster.start_daemon(node.as_str())?;
        }
        cluster.until_complete(&table.name, 600_000).await?;
        cluster.produce_everywhere(&table, 100);
        cluster.advance(600_000).await?;
        let status = cluster.table_status(&table.name).await?;
        for replica in status.shards.iter().flat_map(|shard| &shard.replicas) {
            assert!(replica.stalls.is_empty(), "{replica:?}");
            assert_eq!((replica.lag, replica.rows), (Some(0), 200 * 4), "{replica:?}");
        }
        Ok(())
    });
    assert!(run.passed(), "{run}");
}
