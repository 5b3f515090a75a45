//! What a run is measured by, from the store's history: changes counted, bad states summed over time. Pure.

use crate::model::NodeId;
use crate::model::table::{ShardState, TableState};
use crate::model::view::ClusterView;
use serde::Serialize;
use std::collections::BTreeMap;

/// Counts and sums since the measuring began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Measures {
    /// Topologies published.
    pub epochs: u64,
    /// Leaderships that went from one node to another.
    pub leader_changes: u64,
    /// Replicas added.
    pub replicas_added: u64,
    /// Replicas removed.
    pub replicas_removed: u64,
    /// Shards that no live node leads, times how long.
    pub leaderless_shard_ms: u64,
    /// Shards with fewer ready replicas than wanted, times how long.
    pub under_replicated_shard_ms: u64,
    /// Replicas on the fullest node over the mean over live nodes, in thousandths, at the end.
    pub replica_spread_milli: u64,
    /// The same for leaderships.
    pub leader_spread_milli: u64,
    #[serde(skip)]
    at_ms: u64,
}

impl Measures {
    /// Nothing yet.
    pub fn begin(now_ms: u64) -> Self {
        Self { at_ms: now_ms, ..Self::default() }
    }

    /// The cluster went from one view to the next.
    pub fn step(&mut self, now_ms: u64, before: &ClusterView, after: &ClusterView) {
        self.pass(now_ms, before);
        for (id, table) in &after.tables {
            let Some(was) = before.tables.get(id) else { continue };
            if was.record.state != TableState::Creating {
                self.epochs += table.record.epoch.0.saturating_sub(was.record.epoch.0);
            }
        }
        for (table, shards) in &after.shards {
            let Some(old) = before.shards.get(table) else { continue };
            for (id, shard) in shards {
                let Some(was) = old.get(id) else { continue };
                let (was, now) = (&was.record, &shard.record);
                self.leader_changes += u64::from(was.leader.is_some() && was.leader != now.leader);
                let lacks = |other: &crate::model::Shard, node: &NodeId| other.replica_on(node).is_none();
                let added = now.replicas.iter().filter(|replica| lacks(was, &replica.node)).count();
                let removed = was.replicas.iter().filter(|replica| lacks(now, &replica.node)).count();
                self.replicas_added += added as u64;
                self.replicas_removed += removed as u64;
            }
        }
    }

    /// Time passed without a change.
    pub fn pass(&mut self, now_ms: u64, view: &ClusterView) {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.at_ms = now_ms;
        if passed_ms == 0 {
            return;
        }
        for (table, shards) in &view.shards {
            let Some(table) = view.tables.get(table).map(|table| &table.record) else { continue };
            if table.state != TableState::Active {
                continue;
            }
            // Those that are being made or have been replaced serve nobody.
            let serving = shards.values().map(|s| &s.record).filter(|s| s.state == ShardState::Serving);
            for shard in serving {
                let led = shard.leader.as_ref().is_some_and(|leader| view.is_live(leader));
                self.leaderless_shard_ms += if led { 0 } else { passed_ms };
                let ready = shard.ready_nodes().filter(|node| view.is_live(node)).count();
                let whole = ready >= table.replicas as usize;
                self.under_replicated_shard_ms += if whole { 0 } else { passed_ms };
            }
        }
    }

    /// The end: how even the load is now.
    pub fn end(&mut self, now_ms: u64, view: &ClusterView) {
        self.pass(now_ms, view);
        let (mut replicas, mut leaders): (BTreeMap<&NodeId, u64>, BTreeMap<&NodeId, u64>) =
            Default::default();
        for node in view.live.keys() {
            replicas.insert(node, 0);
            leaders.insert(node, 0);
        }
        let shards = view.shards.values().flat_map(BTreeMap::values).map(|shard| &shard.record);
        for shard in shards.filter(|shard| shard.state != ShardState::Retired) {
            for replica in &shard.replicas {
                *replicas.entry(&replica.node).or_default() += 1;
            }
            if let Some(leader) = &shard.leader {
                *leaders.entry(leader).or_default() += 1;
            }
        }
        self.replica_spread_milli = spread_milli(&replicas);
        self.leader_spread_milli = spread_milli(&leaders);
    }
}

fn spread_milli(counts: &BTreeMap<&NodeId, u64>) -> u64 {
    let (sum, max) = (counts.values().sum::<u64>(), counts.values().max().copied().unwrap_or(0));
    (max * 1_000 * counts.len() as u64).checked_div(sum).unwrap_or(1_000)
}
