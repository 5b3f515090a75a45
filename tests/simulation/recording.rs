//! What leaders record of their cluster: traces that can be read, and that end as the cluster does.

use converthouse::model::NodeId;
use converthouse::model::table::ShardState;
use converthouse::simulation::trace::read_lines;
use converthouse::simulation::{self, Cluster, NewTable, Setup};
use std::collections::{BTreeMap, BTreeSet};

/// Where copies are, by table and shard.
type Places = BTreeMap<String, BTreeSet<NodeId>>;

fn in_store(cluster: &Cluster) -> Places {
    let view = cluster.view();
    let shards = view.tables.keys().flat_map(|table| view.shards_of(*table));
    let serving = shards.filter(|shard| shard.state == ShardState::Serving);
    serving
        .map(|shard| (format!("{} {}", shard.table, shard.id), shard.ready_nodes().cloned().collect()))
        .collect()
}

#[test]
fn each_leader_records_a_trace_that_ends_as_the_cluster_is() {
    let setup = Setup { recorded: true, ..Setup::nodes(3) };
    let run = simulation::run(&setup, async |cluster: &Cluster| {
        cluster.start().await?;
        // What is there when a trace begins is in its snapshot: events come later.
        cluster.advance(10_000).await?;
        let table =
            cluster.create_table(&NewTable { shards: 4, replicas: 2, ..NewTable::named("t") }).await?;
        cluster.advance(10_000).await?;
        cluster.produce_everywhere(&table, 500);
        cluster.advance(70_000).await?;
        let first = cluster.leader().expect("started");
        cluster.add_node()?;
        let moved = |c: &Cluster| in_store(c).values().flatten().any(|node| node.as_str() == "n4");
        cluster.until("copies on the new node", 120_000, moved).await?;
        cluster.until("rest", 120_000, |c| c.view().open_operations().next().is_none()).await?;
        cluster.advance(10_000).await?;
        cluster.kill_daemon(first.as_str())?;
        cluster.until("another leader", 60_000, |c| c.leader().is_some_and(|now| now != first)).await?;
        cluster.start_daemon(first.as_str())?;
        cluster.heal(120_000).await?;
        // Two looks later all of it has been told.
        cluster.advance(130_000).await?;
        let traces = cluster.traces();
        assert!(traces.len() >= 2, "{} traces", traces.len());
        let mut kinds = BTreeSet::new();
        let mut last = None;
        for (number, text) in traces.iter().enumerate() {
            let read = read_lines(&format!("trace {number}"), text.as_bytes());
            let summary = read.unwrap_or_else(|error| panic!("{error}\n{text}"));
            kinds.extend(summary.events.keys().copied());
            last = Some(summary.world);
        }
        let told =
            ["node-joined", "shard-placed", "operation-begun", "operation-ended", "table-created", "sizes"];
        assert!(told.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
        let last = last.expect("there are some");
        let places = last
            .shards
            .values()
            .map(|shard| (format!("{} {}", shard.table, shard.shard), shard.nodes.iter().cloned().collect()));
        assert_eq!(places.collect::<Places>(), in_store(cluster));
        assert!(last.nodes.values().all(|node| node.live) && last.nodes.len() == 4, "{:?}", last.nodes);
        assert!(last.operations.is_empty() && last.stored_bytes() > 0, "{:?}", last.operations);
        Ok(())
    });
    assert!(run.passed(), "{run}");
}

#[test]
fn recording_changes_nothing() {
    let script = async |cluster: &Cluster| {
        cluster.start().await?;
        let table = cluster.create_table(&NewTable { shards: 2, ..NewTable::named("t") }).await?;
        cluster.produce_everywhere(&table, 100);
        cluster.heal(120_000).await
    };
    let plain = simulation::run(&Setup::nodes(3), script);
    let recorded = simulation::run(&Setup { recorded: true, ..Setup::nodes(3) }, script);
    assert!(plain.passed() && recorded.passed(), "{recorded}");
    assert_eq!(plain.digest, recorded.digest);
}
