//! What a node's agent shows in metrics: lag by table, replicas by state, routes not yet loaded, shards led.

use super::{Agent, Running};
use crate::model::ids::{ShardId, TableId};
use crate::model::observed::Stall;
use crate::model::table::{ReplicaState, TableState};
use crate::model::view::ClusterView;
use std::collections::{BTreeMap, BTreeSet};

/// Every state of `converthouse_replicas`, so that one which nobody is in any more shows 0.
const STATES: [&str; 5] = ["ready", "creating", "behind", "leaving", "not_serving"];

fn number(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

impl Agent {
    /// Sets the node's gauges.
    pub(super) fn gauge(&mut self) {
        let lags = self.lags();
        let node = self.ports.node.to_string();
        for (label, lag) in &lags {
            self.ports.metrics.ingest_lag(label, &node).set(number(*lag));
        }
        // A table that has left the node must not show its last lag for ever.
        let shown = std::mem::replace(&mut self.shown, lags.into_keys().collect());
        let stalled = self.stalled();
        for reason in Stall::REASONS {
            let count = stalled.get(reason).copied().unwrap_or(0);
            self.ports.metrics.stalled_partitions(&node, reason).set(count);
        }
        let view = self.view.read();
        for table in shown.difference(&self.shown) {
            self.ports.metrics.forget_lag(table, &node);
        }
        // What a table's series say is forgotten when its record goes, which is long after it has left the node.
        for table in self.running.values().map(|running| &running.wanted.table) {
            self.named.entry(table.id).or_insert_with(|| table.name.to_string());
        }
        self.named.retain(|id, name| {
            let stands = view.tables.contains_key(id);
            if !stands {
                self.ports.metrics.forget_table(name);
            }
            stands
        });
        let states = self.states(&view);
        for state in STATES {
            let count = states.get(state).copied().unwrap_or(0);
            self.ports.metrics.replicas(&node, state).set(count);
        }
        self.ports.metrics.epoch_lag(&node).set(number(self.epochs_missing(&view)));
        let own_url = self.ports.neighbours.own_url();
        let own = view.nodes.iter().filter(|(_, node)| node.record.daemon_url == own_url).map(|(id, _)| id);
        let led_by = |node| {
            let here = view.shards.values().flat_map(move |shards| shards.on(node));
            here.filter(|shard| shard.record.leader.as_ref() == Some(node)).count()
        };
        let led: usize = own.map(led_by).sum();
        self.ports.metrics.shard_leaders.set(number(led));
    }

    /// How many partitions do not move on, and why.
    fn stalled(&self) -> BTreeMap<&'static str, i64> {
        let mut stalled = BTreeMap::new();
        let partitions = self.running.keys().filter_map(|place| self.sight.observed.get(place));
        for stall in partitions.flat_map(|seen| seen.partitions.values()).filter_map(|p| p.stall.as_ref()) {
            *stalled.entry(stall.reason()).or_default() += 1;
        }
        stalled
    }

    /// Messages not yet taken, by the tables' label.
    fn lags(&self) -> BTreeMap<String, u64> {
        let mut lags: BTreeMap<TableId, (&Running, u64)> = BTreeMap::new();
        for (place, running) in &self.running {
            lags.entry(place.0).or_insert((running, 0)).1 +=
                self.sight.observed.get(place).map_or(0, |seen| seen.lag());
        }
        let mut labelled: BTreeMap<String, u64> = BTreeMap::new();
        for (running, lag) in lags.into_values() {
            let name = running.wanted.table.name.to_string();
            *labelled.entry(self.ports.metrics.label(&name).to_owned()).or_default() += lag;
        }
        labelled
    }

    /// How many replicas are in which state: the leader's word, unless the replica does not serve.
    fn states(&self, view: &ClusterView) -> BTreeMap<&'static str, i64> {
        let mut states = BTreeMap::new();
        for place in self.running.keys() {
            let serving = self.sight.up && self.sight.observed.get(place).is_some_and(|seen| seen.serving);
            *states.entry(self.state_of(view, *place, serving)).or_default() += 1;
        }
        states
    }

    fn state_of(
        &self,
        view: &ClusterView,
        (table, shard): (TableId, ShardId),
        serving: bool,
    ) -> &'static str {
        let shard = view.shards.get(&table).and_then(|shards| shards.get(&shard));
        match shard.and_then(|shard| shard.record.replica_on(&self.ports.node)).map(|replica| replica.state) {
            Some(ReplicaState::Ready) if serving => "ready",
            Some(ReplicaState::Ready) => "not_serving",
            Some(ReplicaState::Creating) => "creating",
            Some(ReplicaState::Behind) => "behind",
            Some(ReplicaState::Leaving) | None => "leaving",
        }
    }

    /// Published topologies that the server has not loaded, of the table with the most.
    fn epochs_missing(&self, view: &ClusterView) -> u64 {
        let used = view.tables.iter().filter(|(_, table)| table.record.state != TableState::Dropping);
        let missing = used.map(|(id, table)| {
            table.record.epoch.0.saturating_sub(self.sight.routes.epochs.get(id).map_or(0, |epoch| epoch.0))
        });
        missing.max().unwrap_or(0)
    }
}

/// Labels of the tables whose lag is shown.
pub(super) type Shown = BTreeSet<String>;

/// Tables of which anything was ever shown here.
pub(super) type Named = BTreeMap<TableId, String>;
