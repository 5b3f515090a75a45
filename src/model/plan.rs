//! A plan for the whole cluster as data: shown, saved, read back, applied. And the world that it speaks of, so that
//! a plan of a world that is no more is refused, with what has changed.
//!
//! Bytes are no part of the world: they change all the time under ingest, and a placement stays what it is. Pure.

use super::ids::{Epoch, NodeId, OperationId, ShardId, TableId};
use super::node::NodeState;
use super::table::TableState;
use super::view::ClusterView;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// The version of a plan's form, and the only one that is read.
pub const VERSION: u32 = 1;

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPlan {
    /// [`VERSION`].
    pub version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// When it was made, on the leader's wall clock.
    pub made_unix_ms: u64,
    /// What it was made of.
    pub world: World,
    /// What is split first, in this order.
    pub splits: Vec<PlannedSplit>,
    /// Which shards change their nodes or leader then.
    pub moves: Vec<PlannedMove>,
    /// The moves as steps, in an order in which they may run one by one.
    pub steps: Vec<PlannedStep>,
    /// Steps of one wave may run at the same time.
    pub waves: u32,
    /// Copies made.
    pub copies: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// How long the copies take, by estimate.
    pub seconds: u64,
    /// How good the placement is now.
    pub before: PlanScore,
    /// How good it is then.
    pub after: PlanScore,
    /// No placement that keeps the rules scores less; 0: not looked for.
    pub bound: f64,
    /// How far the score is from the bound, as a share of it.
    pub gap: Option<f64>,
    /// Shards that stay, and why.
    pub stays: Vec<PlannedStay>,
    /// Rules that cannot be kept, one line each.
    pub compromises: Vec<String>,
}

impl ClusterPlan {
    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.splits.is_empty() && self.moves.is_empty()
    }
}

/// How good a placement is; each a share without unit, less is better.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanScore {
    /// Weighted sum of the others.
    pub total: f64,
    /// Worst deviation of a node's replica count from its share.
    pub replicas: f64,
    /// The same of leaders.
    pub leaders: f64,
    /// The same of bytes.
    pub bytes: f64,
    /// Share of all bytes that is copied.
    pub moved: f64,
    /// Share of all replicas that is copied.
    #[serde(default)]
    pub copied: f64,
    /// Share of shards whose leader changes.
    pub leader_changes: f64,
}

/// One split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedSplit {
    /// Its table.
    pub table: TableId,
    /// The table's name when the plan was made.
    pub table_name: String,
    /// Which shard.
    pub shard: ShardId,
    /// First partition of the right half.
    pub cut: u32,
    /// The left half's number.
    pub left: ShardId,
    /// The right half's number.
    pub right: ShardId,
}

/// One shard's change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedMove {
    /// Its table.
    pub table: TableId,
    /// The table's name when the plan was made.
    pub table_name: String,
    /// Which shard.
    pub shard: ShardId,
    /// All its nodes afterwards, the preferred leader first.
    pub nodes: Vec<NodeId>,
    /// Nodes that get a copy.
    pub add: Vec<NodeId>,
    /// Nodes that lose theirs.
    pub remove: Vec<NodeId>,
    /// Bytes copied.
    pub bytes: u64,
    /// Reason code.
    pub reason: String,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    /// Makes a copy on the node.
    Add,
    /// Waits until the copy that the node is making is complete.
    Await,
    /// Makes the node the preferred leader.
    Lead,
    /// Drops the node's copy.
    Remove,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    /// Steps of one wave may run at the same time.
    pub wave: u32,
    /// Its table.
    pub table: TableId,
    /// Which shard.
    pub shard: ShardId,
    /// What.
    pub action: StepAction,
    /// Where.
    pub node: NodeId,
    /// Of a copy: the node whose copy goes once it is complete.
    pub replaces: Option<NodeId>,
    /// Bytes copied.
    pub bytes: u64,
    /// Steps that end before, by their place in the list.
    pub after: Vec<u32>,
}

/// A shard that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStay {
    /// Its table.
    pub table: TableId,
    /// The table's name when the plan was made.
    pub table_name: String,
    /// Which shard.
    pub shard: ShardId,
    /// Reason code.
    pub reason: String,
    /// One sentence.
    pub why: String,
}

/// What a plan was made of. If any of it differs, it is another world.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// The store's revision: for people, since not every change of the store concerns a plan.
    pub revision: i64,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, NodeStand>,
    /// Tables.
    pub tables: BTreeMap<TableId, TableStand>,
    /// Open operations.
    pub operations: BTreeSet<OperationId>,
    /// Pauses and freezes in force, as text.
    pub holds: BTreeSet<String>,
}

/// A node in a plan's world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeStand {
    /// What the operator wants of it.
    pub state: NodeState,
    /// Its daemon holds a lease.
    pub live: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Capacity as said by the operator.
    pub capacity_bytes: u64,
    /// Weight.
    pub weight_milli: u32,
}

/// A table in a plan's world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableStand {
    /// Its name.
    pub name: String,
    /// Replicas wanted of each shard.
    pub replicas: u32,
    /// The next shard's number.
    pub next_shard: u32,
    /// Each shard's version: it grows with any change of its copies, leader or range.
    pub shards: BTreeMap<ShardId, Epoch>,
}

impl World {
    /// The world as a view shows it.
    pub fn of(view: &ClusterView, now_unix_ms: u64) -> Self {
        let node = |id: &NodeId| {
            let record = &view.nodes.get(id)?.record;
            let stand = NodeStand {
                state: record.state,
                live: view.is_live(id),
                labels: record.labels.clone(),
                capacity_bytes: record.capacity_bytes,
                weight_milli: record.weight_milli,
            };
            Some((id.clone(), stand))
        };
        let used = view.tables.values().filter(|table| table.record.state != TableState::Dropping);
        let table = |table: &super::table::Table| {
            let stand = TableStand {
                name: table.name.to_string(),
                replicas: table.replicas,
                next_shard: table.next_shard,
                shards: view.shards_of(table.id).map(|shard| (shard.id, shard.epoch)).collect(),
            };
            (table.id, stand)
        };
        Self {
            revision: view.revision,
            nodes: view.nodes.keys().filter_map(node).collect(),
            tables: used.map(|versioned| table(&versioned.record)).collect(),
            operations: view.open_operations().map(|operation| operation.id).collect(),
            holds: view.holds_in_force(None, now_unix_ms).iter().map(ToString::to_string).collect(),
        }
    }

    /// What is different `now`, one line each; empty if it is the same world.
    pub fn changes(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for id in keys(&self.nodes, &now.nodes) {
            match (self.nodes.get(id), now.nodes.get(id)) {
                (None, _) => lines.push(format!("node {id} has joined")),
                (_, None) => lines.push(format!("node {id} was removed")),
                (Some(then), Some(now)) => {
                    lines.extend(then.changes(now).map(|what| format!("node {id} {what}")))
                }
            }
        }
        for id in keys(&self.tables, &now.tables) {
            match (self.tables.get(id), now.tables.get(id)) {
                (None, Some(table)) => lines.push(format!("table {} was made", table.name)),
                (Some(table), None) => lines.push(format!("table {} was dropped", table.name)),
                (Some(then), Some(now)) => lines.extend(then.changes(now)),
                (None, None) => {}
            }
        }
        let begun = now.operations.difference(&self.operations);
        lines.extend(begun.map(|id| format!("operation {id} has begun")));
        let ended = self.operations.difference(&now.operations);
        lines.extend(ended.map(|id| format!("operation {id} has ended")));
        lines.extend(now.holds.difference(&self.holds).cloned());
        lines.extend(self.holds.difference(&now.holds).map(|hold| format!("no more: {hold}")));
        lines
    }
}

/// All keys of two maps, once.
fn keys<'a, K: Ord, V>(one: &'a BTreeMap<K, V>, other: &'a BTreeMap<K, V>) -> BTreeSet<&'a K> {
    one.keys().chain(other.keys()).collect()
}

impl NodeStand {
    fn changes(&self, now: &Self) -> impl Iterator<Item = String> {
        let state = (self.state != now.state).then(|| format!("is {:?} now", now.state).to_lowercase());
        let live = (self.live != now.live).then(|| if now.live { "is back" } else { "is gone" }.to_owned());
        let other = |one: &dyn Debug, other: &dyn Debug, what: &str| {
            let (one, other) = (format!("{one:?}"), format!("{other:?}"));
            (one != other).then(|| format!("has {what} {other} instead of {one}"))
        };
        let labels = other(&self.labels, &now.labels, "labels");
        let capacity = other(&self.capacity_bytes, &now.capacity_bytes, "capacity");
        let weight = other(&self.weight_milli, &now.weight_milli, "weight (thousandths)");
        [state, live, labels, capacity, weight].into_iter().flatten()
    }
}

impl TableStand {
    fn changes(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.replicas != now.replicas {
            lines.push(format!(
                "table {} wants {} replicas instead of {}",
                now.name, now.replicas, self.replicas
            ));
        }
        let of_table = |shard: &ShardId| format!("shard {shard} of {}", now.name);
        for id in keys(&self.shards, &now.shards) {
            match (self.shards.get(id), now.shards.get(id)) {
                (None, _) => lines.push(format!("{} was made", of_table(id))),
                (_, None) => lines.push(format!("{} is gone", of_table(id))),
                (Some(then), Some(now)) if then != now => {
                    lines.push(format!("{} has changed ({now} instead of {then})", of_table(id)));
                }
                _ => {}
            }
        }
        if lines.is_empty() && self.next_shard != now.next_shard {
            lines.push(format!("table {} has given out shard numbers", now.name));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn world() -> World {
        let stand = NodeStand {
            state: NodeState::Active,
            live: true,
            labels: BTreeMap::new(),
            capacity_bytes: 0,
            weight_milli: 1000,
        };
        let table = TableStand {
            name: "d.t".into(),
            replicas: 2,
            next_shard: 2,
            shards: [(ShardId(0), Epoch(1)), (ShardId(1), Epoch(4))].into(),
        };
        let node = |name: &str| (name.parse().unwrap(), stand.clone());
        World {
            revision: 7,
            nodes: [node("n1"), node("n2")].into(),
            tables: [(TableId(uuid::Uuid::nil()), table)].into(),
            operations: [OperationId(3)].into(),
            holds: ["table d.t is paused (audit)".to_owned()].into(),
        }
    }

    #[test]
    fn every_difference_is_told() {
        let then = world();
        assert_eq!(then.changes(&World { revision: 99, ..world() }), Vec::<String>::new());
        let mut now = world();
        let n3 = now.nodes.remove(&"n1".parse().unwrap()).unwrap();
        now.nodes.insert("n3".parse().unwrap(), n3);
        let n2 = now.nodes.get_mut(&"n2".parse().unwrap()).unwrap();
        *n2 = NodeStand { state: NodeState::Draining, live: false, weight_milli: 2000, ..n2.clone() };
        let table = now.tables.values_mut().next().unwrap();
        table.shards.remove(&ShardId(0));
        table.shards.insert(ShardId(1), Epoch(5));
        table.shards.insert(ShardId(2), Epoch(1));
        now.operations = [OperationId(4)].into();
        now.holds = ["the cluster is frozen (fire)".to_owned()].into();
        expect![[r#"
            node n1 was removed
            node n2 is draining now
            node n2 is gone
            node n2 has weight (thousandths) 2000 instead of 1000
            node n3 has joined
            shard s0 of d.t is gone
            shard s1 of d.t has changed (e5 instead of e4)
            shard s2 of d.t was made
            operation o4 has begun
            operation o3 has ended
            the cluster is frozen (fire)
            no more: table d.t is paused (audit)"#]]
        .assert_eq(&then.changes(&now).join("\n"));
    }

    #[test]
    fn a_world_survives_json() {
        let text = serde_json::to_string(&world()).unwrap();
        assert_eq!(serde_json::from_str::<World>(&text).unwrap(), world());
    }
}
