//! A run's rows: what changed between two views of the cluster, one line a change. Pure.

use crate::model::table::{Shard, Table};
use crate::model::view::ClusterView;
use crate::model::{NodeId, ShardId};

/// Virtual time as `HH:MM:SS.mmm`.
pub fn stamp(ms: u64) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", ms % 1_000)
}

fn name(node: Option<&NodeId>) -> String {
    node.map_or_else(|| "none".to_owned(), NodeId::to_string)
}

/// Every change, in a fixed order.
pub fn changes(before: &ClusterView, after: &ClusterView) -> Vec<String> {
    let mut rows = Vec::new();
    let leader = |view: &ClusterView| view.leader.as_ref().map(|leader| (leader.node.clone(), leader.term));
    if leader(before) != leader(after) {
        let now = leader(after).map(|(node, _)| node);
        rows.push(format!("cluster leader {}", name(now.as_ref())));
    }
    for (id, node) in &after.nodes {
        match before.nodes.get(id) {
            None => rows.push(format!("node {id} registered")),
            Some(was) if was.record.state != node.record.state => {
                rows.push(format!("node {id} {:?}", node.record.state).to_lowercase());
            }
            Some(_) => {}
        }
    }
    rows.extend(
        before
            .nodes
            .keys()
            .filter(|id| !after.nodes.contains_key(*id))
            .map(|id| format!("node {id} removed")),
    );
    rows.extend(
        before.live.keys().filter(|id| !after.is_live(id)).map(|id| format!("node {id} lost its lease")),
    );
    rows.extend(after.live.keys().filter(|id| !before.is_live(id)).map(|id| format!("node {id} is live")));
    for (id, table) in &after.tables {
        let was = before.tables.get(id).map(|table| &table.record);
        table_changes(was, &table.record, &mut rows);
        if after.same_shards(before, *id) {
            continue;
        }
        for (was, shard) in after.changed_shards(before, *id) {
            shard_changes(&table.record, was, shard, &mut rows);
        }
        let gone =
            before.shards_of(*id).map(|shard| shard.id).filter(|shard| after.shard(*id, *shard).is_none());
        rows.extend(gone.map(|shard: ShardId| format!("{} {shard} removed", table.record.name)));
    }
    let forgotten = before.tables.iter().filter(|(id, _)| !after.tables.contains_key(*id));
    rows.extend(forgotten.map(|(_, table)| format!("{} forgotten", table.record.name)));
    rows
}

fn table_changes(before: Option<&Table>, after: &Table, rows: &mut Vec<String>) {
    let Some(before) = before else {
        rows.push(format!(
            "{} recorded: {} partitions, {} replicas a shard",
            after.name, after.partitions, after.replicas
        ));
        return;
    };
    if before.epoch != after.epoch {
        rows.push(format!("{} epoch {}", after.name, after.epoch));
    }
    if before.state != after.state {
        rows.push(format!("{} {}", after.name, format!("{:?}", after.state).to_lowercase()));
    }
}

fn shard_changes(table: &Table, before: Option<&Shard>, after: &Shard, rows: &mut Vec<String>) {
    let shard = format!("{} {}", table.name, after.id);
    let Some(before) = before else {
        let nodes: Vec<String> = after.replicas.iter().map(|replica| replica.node.to_string()).collect();
        rows.push(format!("{shard} {} on {}", after.range, nodes.join(" ")));
        return;
    };
    if before.range != after.range {
        rows.push(format!("{shard} {} -> {}", before.range, after.range));
    }
    if before.leader != after.leader {
        rows.push(format!(
            "{shard} leader {} -> {}",
            name(before.leader.as_ref()),
            name(after.leader.as_ref())
        ));
    }
    for replica in &after.replicas {
        let state = |state| format!("{state:?}").to_lowercase();
        match before.replica_on(&replica.node) {
            None => rows.push(format!("{shard} replica on {} {}", replica.node, state(replica.state))),
            Some(was) if was.state != replica.state => {
                rows.push(format!("{shard} replica on {} {}", replica.node, state(replica.state)));
            }
            Some(_) => {}
        }
    }
    let gone = before.replicas.iter().filter(|replica| after.replica_on(&replica.node).is_none());
    rows.extend(gone.map(|replica| format!("{shard} replica on {} removed", replica.node)));
}
