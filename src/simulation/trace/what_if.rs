//! What would happen if: nodes are added to a trace's cluster, emptied or lost, and the plan of that is made.
//!
//! The plan comes out of the code that makes it in production (`actors::balance`), so the preview is what would be
//! done. Nothing is played here: bytes stay as they are at that moment.

use super::Error;
use super::how::How;
use super::stand::Stand;
use crate::actors::balance::decide;
use crate::actors::balance::forecast::Forecast;
use crate::model::ids::{NodeId, ShardId};
use crate::model::node::NodeState;
use crate::model::plan::{ClusterPlan, StepAction};
use crate::model::trace::{Event, TraceNode, TraceShard, World};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes that join, by count or by what is said of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joining {
    /// So many, each in the zone that has the fewest nodes then.
    Count(u32),
    /// One, with these labels.
    Labelled(BTreeMap<String, String>),
}

/// What is changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Nodes that join.
    pub add: Vec<Joining>,
    /// Their disk; the median of the nodes that are there if it is not said.
    pub capacity_bytes: Option<u64>,
    /// Nodes that are emptied.
    pub drain: Vec<NodeId>,
    /// Nodes that are lost, and do not come back.
    pub remove: Vec<NodeId>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The plan.
    pub plan: ClusterPlan,
    /// How even the cluster is before it, with the change made.
    pub before: Balance,
    /// And after it.
    pub after: Balance,
    /// What each node holds, before and after.
    pub nodes: BTreeMap<NodeId, (Holding, Holding)>,
    /// Nodes that the change added.
    pub added: Vec<NodeId>,
}

/// What a node holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Copies.
    pub replicas: u64,
    /// Shards that it leads.
    pub leaders: u64,
    /// Bytes of its copies.
    pub bytes: u64,
}

/// The most that a node has of its fair share, in thousandths: 1000 is even.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// By number of replicas; shares go by weight.
    pub replicas_milli: u64,
    /// By number of shards led; shares go by weight.
    pub leaders_milli: u64,
    /// By bytes; shares go by capacity, or by weight where capacities are not known.
    pub bytes_milli: u64,
}

impl Balance {
    /// The worst of them.
    pub fn worst_milli(&self) -> u64 {
        self.replicas_milli.max(self.leaders_milli).max(self.bytes_milli)
    }
}

/// Makes the change and the plan.
///
/// # Errors
/// The trace has no such node, or the engine does not take the cluster.
pub fn answer(mut world: World, change: &Change, how: &How) -> Result<Answer, Error> {
    let added = make(&mut world, change)?;
    let mut lost = down_for(&world, how.down_after_ms);
    lost.extend(change.remove.iter().cloned());
    let plan = plan(&world, lost, how)?;
    let then = carried_out(&world, &plan);
    let (now_holds, then_holds) = (holdings(&world), holdings(&then));
    let both = |id: &NodeId| {
        (now_holds.get(id).copied().unwrap_or_default(), then_holds.get(id).copied().unwrap_or_default())
    };
    Ok(Answer {
        plan,
        before: balance(&world),
        after: balance(&then),
        nodes: world.nodes.keys().map(|id| (id.clone(), both(id))).collect(),
        added,
    })
}

/// Nodes that have been down for so long.
pub fn down_for(world: &World, down_after_ms: u64) -> BTreeSet<NodeId> {
    let long = |since_ms: u64| world.at_ms.saturating_sub(since_ms) >= down_after_ms;
    let down = world.down_since_ms.iter().filter(|(_, since_ms)| long(**since_ms));
    down.map(|(node, _)| node.clone()).collect()
}

/// The plan that the leader would make of a world.
///
/// # Errors
/// The engine does not take the cluster.
pub fn plan(world: &World, lost: BTreeSet<NodeId>, how: &How) -> Result<ClusterPlan, Error> {
    let cluster = world.header.as_ref().map_or("", |header| header.cluster.as_str());
    let stand = Stand::of(world, lost);
    let forecast = stand.sight(|sight| Forecast::of(sight, &how.balance, cluster));
    let proposal = how.propose(&forecast.snapshot, &decide::limits(&forecast.snapshot, &how.balance))?;
    Ok(forecast.plan(&proposal, stand.now_unix_ms()))
}

/// Makes the change; the nodes that joined.
fn make(world: &mut World, change: &Change) -> Result<Vec<NodeId>, Error> {
    let impossible = |what: &str, why: String| Error::Impossible(format!("{what}: {why}"));
    let capacity_bytes = change.capacity_bytes.unwrap_or_else(|| median_capacity(world));
    for node in &change.drain {
        let event = Event::NodeState { node: node.clone(), state: NodeState::Draining };
        world.apply(event).map_err(|why| impossible("--drain", why))?;
    }
    for node in &change.remove {
        if change.drain.contains(node) {
            return Err(impossible("--remove", format!("node {node} is drained already")));
        }
        let event = Event::NodeDied { node: node.clone() };
        world.apply(event).map_err(|why| impossible("--remove", why))?;
    }
    let mut added = Vec::new();
    for joining in &change.add {
        let count = if let Joining::Count(count) = joining { *count } else { 1 };
        for _ in 0..count {
            let labels = match joining {
                Joining::Labelled(labels) => labels.clone(),
                Joining::Count(_) => labels_of_emptiest_zone(world),
            };
            let id = unused(world).map_err(|why| impossible("--add", why))?;
            added.push(id.clone());
            let (weight_milli, state, live) = (1_000, NodeState::Active, true);
            let node = TraceNode { id, labels, capacity_bytes, weight_milli, state, live };
            world.apply(Event::NodeJoined { node }).map_err(|why| impossible("--add", why))?;
        }
    }
    Ok(added)
}

fn median_capacity(world: &World) -> u64 {
    let mut all: Vec<u64> = world.nodes.values().map(|node| node.capacity_bytes).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

/// The first of `new1`, `new2`… that is no node's name.
fn unused(world: &World) -> Result<NodeId, String> {
    let mut names = (1_u64..).filter_map(|number| format!("new{number}").parse().ok());
    names.find(|name| !world.nodes.contains_key(name)).ok_or_else(|| "no name is free".to_owned())
}

fn labels_of_emptiest_zone(world: &World) -> BTreeMap<String, String> {
    let mut zones: BTreeMap<&String, u32> = BTreeMap::new();
    for zone in world.nodes.values().filter_map(|node| node.labels.get("zone")) {
        zones.entry(zone).or_default();
    }
    for node in world.nodes.values().filter(|node| takes(node)) {
        let count = node.labels.get("zone").and_then(|zone| zones.get_mut(zone));
        count.into_iter().for_each(|count| *count += 1);
    }
    let zone = zones.into_iter().min_by_key(|(_, count)| *count).map(|(zone, _)| zone.clone());
    zone.map(|zone| ("zone".to_owned(), zone)).into_iter().collect()
}

/// Whether a node may be given replicas.
fn takes(node: &TraceNode) -> bool {
    node.live && node.state == NodeState::Active
}

/// The world once a plan has been carried out.
pub fn carried_out(world: &World, plan: &ClusterPlan) -> World {
    let mut then = world.clone();
    for split in &plan.splits {
        let Some(parent) = then.shards.remove(&(split.table, split.shard)) else { continue };
        let width = u128::from(parent.hi - parent.lo).max(1);
        let mut half = |shard: ShardId, lo: u32, hi: u32| {
            let part =
                |whole: u64| u64::try_from(u128::from(whole) * u128::from(hi - lo) / width).unwrap_or(whole);
            let (bytes, bytes_per_s) = (part(parent.bytes), part(parent.bytes_per_s));
            let made = TraceShard { shard, lo, hi, bytes, bytes_per_s, ..parent.clone() };
            then.shards.insert((split.table, shard), made);
        };
        half(split.left, parent.lo, split.cut);
        half(split.right, split.cut, parent.hi);
    }
    // By its steps: not every move gets all the way, where disks are full.
    for step in &plan.steps {
        if let Some(shard) = then.shards.get_mut(&(step.table, step.shard)) {
            does(shard, step.action, &step.node);
        }
    }
    then
}

fn does(shard: &mut TraceShard, action: StepAction, node: &NodeId) {
    match action {
        StepAction::Await => {}
        StepAction::Add if shard.nodes.contains(node) => {}
        StepAction::Add => shard.nodes.push(node.clone()),
        StepAction::Lead => {
            shard.nodes.retain(|other| other != node);
            shard.nodes.insert(0, node.clone());
            shard.leader = Some(node.clone());
        }
        StepAction::Remove => {
            shard.nodes.retain(|other| other != node);
            if shard.leader.as_ref() == Some(node) {
                shard.leader = shard.nodes.first().cloned();
            }
        }
    }
}

/// What each node holds.
pub fn holdings(world: &World) -> BTreeMap<NodeId, Holding> {
    let mut all: BTreeMap<NodeId, Holding> =
        world.nodes.keys().map(|id| (id.clone(), Holding::default())).collect();
    for shard in world.shards.values() {
        for node in &shard.nodes {
            let holding = all.entry(node.clone()).or_default();
            holding.replicas += 1;
            holding.bytes = holding.bytes.saturating_add(shard.bytes);
        }
        if let Some(leader) = &shard.leader {
            all.entry(leader.clone()).or_default().leaders += 1;
        }
    }
    all
}

/// How even a world is. What is on nodes that are down or are to be emptied counts as the others' to carry.
pub fn balance(world: &World) -> Balance {
    let holds = holdings(world);
    let by_capacity = world.nodes.values().filter(|node| takes(node)).all(|node| node.capacity_bytes > 0);
    let weight = |node: &TraceNode| u64::from(node.weight_milli);
    let room =
        |node: &TraceNode| if by_capacity { node.capacity_bytes } else { u64::from(node.weight_milli) };
    Balance {
        replicas_milli: worst(world, &holds, |holding| holding.replicas, weight),
        leaders_milli: worst(world, &holds, |holding| holding.leaders, weight),
        bytes_milli: worst(world, &holds, |holding| holding.bytes, room),
    }
}

fn worst(
    world: &World,
    holds: &BTreeMap<NodeId, Holding>,
    of: impl Fn(&Holding) -> u64,
    share: impl Fn(&TraceNode) -> u64,
) -> u64 {
    let all: u128 = holds.values().map(|holding| u128::from(of(holding))).sum();
    let carriers: Vec<&TraceNode> = world.nodes.values().filter(|node| takes(node)).collect();
    let shares: u128 = carriers.iter().map(|node| u128::from(share(node))).sum();
    let milli = |node: &&TraceNode| {
        let has = holds.get(&node.id).map_or(0, |holding| u128::from(of(holding)));
        (has * 1_000 * shares).checked_div(all * u128::from(share(node))).unwrap_or(1_000)
    };
    carriers.iter().map(milli).max().and_then(|most| u64::try_from(most).ok()).unwrap_or(1_000)
}

#[cfg(test)]
#[path = "what_if_tests.rs"]
mod tests;
