//! What a run is measured by, from the store's history: changes counted, bad states summed over time. Pure.

use super::samples::Sample;
use crate::model::shared::Shared;
use crate::model::table::{ShardState, TableState};
use crate::model::view::ClusterView;
use crate::model::{NodeId, Shard, Table, TableId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

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
    /// Shards without a ready replica on a live node, times how long.
    pub dark_shard_ms: u64,
    /// The same as `replica_spread_milli` of the table that is spread worst.
    pub table_spread_milli: u64,
    /// Bytes that came with copies.
    pub copied_bytes: u64,
    /// What a script asked the cluster for and was refused.
    pub refused: u64,
    /// When a replica or leadership changed last.
    pub changed_ms: u64,
    /// Replicas that came to a node, and that left it.
    #[serde(skip)]
    flow: BTreeMap<NodeId, (u64, u64)>,
    #[serde(skip)]
    at_ms: u64,
    #[serde(skip)]
    bad: Bad,
}

/// Shards that stand badly at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bad {
    /// No live node leads them.
    leaderless: u64,
    /// They have fewer ready replicas on live nodes than wanted.
    under_replicated: u64,
    /// They have none.
    dark: u64,
}

impl Bad {
    fn of(view: &ClusterView) -> Self {
        let mut bad = Self::default();
        view.tables.keys().for_each(|id| bad.add(&Self::of_table(view, *id)));
        bad
    }

    fn of_table(view: &ClusterView, id: TableId) -> Self {
        let mut bad = Self::default();
        let table = view.tables.get(&id).map(|table| &table.record);
        for (table, shard) in table.into_iter().flat_map(|table| view.shards_of(id).map(move |s| (table, s)))
        {
            bad.add(&Self::of_shard(view, table, shard));
        }
        bad
    }

    /// Shards that are being made or have been replaced serve nobody.
    fn of_shard(view: &ClusterView, table: &Table, shard: &Shard) -> Self {
        if table.state != TableState::Active || shard.state != ShardState::Serving {
            return Self::default();
        }
        let led = shard.leader.as_ref().is_some_and(|leader| view.is_live(leader));
        let ready = shard.ready_nodes().filter(|node| view.is_live(node)).count();
        Self {
            leaderless: u64::from(!led),
            under_replicated: u64::from(ready < table.replicas as usize),
            dark: u64::from(ready == 0),
        }
    }

    fn add(&mut self, other: &Self) {
        self.leaderless += other.leaderless;
        self.under_replicated += other.under_replicated;
        self.dark += other.dark;
    }

    fn take(&mut self, other: &Self) {
        self.leaderless -= other.leaderless;
        self.under_replicated -= other.under_replicated;
        self.dark -= other.dark;
    }
}

impl Measures {
    /// Nothing yet.
    pub fn begin(now_ms: u64, view: &ClusterView) -> Self {
        Self { at_ms: now_ms, bad: Bad::of(view), ..Self::default() }
    }

    /// The cluster went from one view to the next.
    pub fn step(&mut self, now_ms: u64, before: &ClusterView, after: &ClusterView) {
        self.pass(now_ms);
        self.bad(before, after);
        for (id, table) in &after.tables {
            let Some(was) = before.tables.get(id) else { continue };
            if was.record.state != TableState::Creating {
                self.epochs += table.record.epoch.0.saturating_sub(was.record.epoch.0);
            }
        }
        for table in after.shards.keys() {
            for (was, now) in after.changed_shards(before, *table) {
                let Some(was) = was else { continue };
                self.leader_changes += u64::from(was.leader.is_some() && was.leader != now.leader);
                let lacks = |other: &Shard, node: &NodeId| other.replica_on(node).is_none();
                let added = now.replicas.iter().filter(|replica| lacks(was, &replica.node)).count();
                let removed = was.replicas.iter().filter(|replica| lacks(now, &replica.node)).count();
                self.replicas_added += added as u64;
                self.replicas_removed += removed as u64;
                for replica in now.replicas.iter().filter(|replica| lacks(was, &replica.node)) {
                    self.flow.entry(replica.node.clone()).or_default().0 += 1;
                }
                for replica in was.replicas.iter().filter(|replica| lacks(now, &replica.node)) {
                    self.flow.entry(replica.node.clone()).or_default().1 += 1;
                }
                if added + removed > 0 || was.leader != now.leader || was.range != now.range {
                    self.changed_ms = now_ms;
                }
            }
        }
    }

    /// Fewest additions that give every node the replicas that it gained.
    pub fn moves_bound(&self) -> u64 {
        self.flow.values().map(|(came, left)| came.saturating_sub(*left)).sum()
    }

    /// Additions beyond that.
    pub fn redundant_moves(&self) -> u64 {
        self.replicas_added - self.moves_bound()
    }

    /// Time passed without a change.
    pub fn pass(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.at_ms = now_ms;
        let Bad { leaderless, under_replicated, dark } = self.bad;
        self.leaderless_shard_ms += leaderless * passed_ms;
        self.under_replicated_shard_ms += under_replicated * passed_ms;
        self.dark_shard_ms += dark * passed_ms;
    }

    /// Shards that stand badly now, by what changed.
    fn bad(&mut self, before: &ClusterView, after: &ClusterView) {
        if !Shared::same(&before.live, &after.live) {
            self.bad = Bad::of(after);
            return;
        }
        for id in before.tables.keys().chain(after.tables.keys().filter(|id| !before.tables.contains_key(id)))
        {
            let same = match (before.tables.get(id), after.tables.get(id)) {
                (Some(old), Some(new)) => Shared::same(old, new),
                _ => false,
            };
            if !same {
                self.bad.add(&Bad::of_table(after, *id));
                self.bad.take(&Bad::of_table(before, *id));
            } else if let Some(table) = after.tables.get(id).filter(|_| !after.same_shards(before, *id)) {
                for (was, now) in after.changed_shards(before, *id) {
                    self.bad.add(&Bad::of_shard(after, &table.record, now));
                    was.iter().for_each(|was| self.bad.take(&Bad::of_shard(before, &table.record, was)));
                }
                let gone = before.shards_of(*id).filter(|shard| after.shard(*id, shard.id).is_none());
                gone.for_each(|shard| self.bad.take(&Bad::of_shard(before, &table.record, shard)));
            }
        }
    }

    /// The end: how even the load is now.
    pub fn end(&mut self, now_ms: u64, view: &ClusterView) {
        self.pass(now_ms);
        let live: Spread<'_> = view.live.keys().map(|node| (node, 0)).collect();
        let (mut replicas, mut leaders) = (live.clone(), live.clone());
        let weight =
            |node: &NodeId| view.nodes.get(node).map_or(1_000, |node| u64::from(node.record.weight_milli));
        for shards in view.shards.values() {
            let mut table = live.clone();
            let shards = shards.values().map(|shard| &shard.record);
            for shard in shards.filter(|shard| shard.state != ShardState::Retired) {
                for replica in &shard.replicas {
                    *replicas.entry(&replica.node).or_default() += 1;
                    *table.entry(&replica.node).or_default() += 1;
                }
                if let Some(leader) = &shard.leader {
                    *leaders.entry(leader).or_default() += 1;
                }
            }
            self.table_spread_milli = self.table_spread_milli.max(spread_milli(&table, weight));
        }
        self.replica_spread_milli = spread_milli(&replicas, weight);
        self.leader_spread_milli = spread_milli(&leaders, weight);
    }
}

type Spread<'a> = BTreeMap<&'a NodeId, u64>;

/// The most that a node has for its weight, over the mean, in thousandths.
fn spread_milli(counts: &Spread<'_>, weight: impl Fn(&NodeId) -> u64) -> u64 {
    let (sum, weights) = (counts.values().sum::<u64>(), counts.keys().map(|node| weight(node)).sum::<u64>());
    let share = |(node, count): (&&NodeId, &u64)| (count * 1_000 * weights) / (sum * weight(node)).max(1);
    if sum == 0 { 1_000 } else { counts.iter().map(share).max().unwrap_or(1_000) }
}

/// How much the worst node's partitions go up and down against their trend, in hundredths of the range over all nodes:
/// 0 if every node only gains or only loses. Splits and merges are no movement.
pub fn thrash_percent(samples: &[Sample]) -> u64 {
    let nodes: BTreeSet<&NodeId> = samples.iter().flat_map(|sample| sample.nodes.keys()).collect();
    let of = |sample: &Sample, node: &NodeId| sample.nodes.get(node).map_or(0, |node| node.partitions);
    let all = || samples.iter().flat_map(|sample| nodes.iter().map(|node| of(sample, node)));
    let range = all().max().unwrap_or(0) - all().min().unwrap_or(0);
    let against = |node: &&NodeId| {
        let series: Vec<u64> = samples.iter().map(|sample| of(sample, node)).collect();
        let varied: u64 = series.windows(2).map(|pair| pair[0].abs_diff(pair[1])).sum();
        let net = series.first().zip(series.last()).map_or(0, |(first, last)| first.abs_diff(*last));
        varied - net
    };
    (nodes.iter().map(against).max().unwrap_or(0) * 100).checked_div(range).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::NodeSample;

    fn thrash(series: &[&[u64]]) -> u64 {
        let sample = |at: usize| {
            let node = |(n, counts): (usize, &&[u64])| {
                let id = format!("n{}", n + 1).parse().unwrap();
                (id, NodeSample { partitions: counts[at], ..NodeSample::default() })
            };
            let nodes = series.iter().enumerate().map(node).collect();
            Sample { at_ms: at as u64, nodes, lag: None, shards: Vec::new() }
        };
        thrash_percent(&(0..series[0].len()).map(sample).collect::<Vec<_>>())
    }

    #[test]
    fn what_only_rises_or_falls_does_not_thrash() {
        assert_eq!(thrash(&[&[10, 8, 5, 5], &[0, 2, 5, 5]]), 0);
        assert_eq!(thrash(&[&[10, 5, 10]]), 200, "there and back");
        assert_eq!(thrash(&[&[0, 10, 8]]), 40, "two too many came and left again");
    }
}
