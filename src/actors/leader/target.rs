//! Whether a node may be given a replica that an operator asks for: the rules that placement keeps, for one shard.
//!
//! Pure. Some of them an operator may overrule; none that would leave the operation waiting for ever, or undone by the
//! balancer at once.

use crate::actors::balance::decide::{self, Sight};
use crate::actors::balance::rooms;
use crate::actors::table::decide::bare;
use crate::adapters::peers::Error;
use crate::model::ids::NodeId;
use crate::model::node::NodeState;
use crate::model::observed::{Heartbeat, answers};
use crate::model::shared::Shared;
use crate::model::table::{Replica, Shard};
use crate::model::view::ClusterView;
use crate::placement::constraint::spreads;
use crate::placement::ids::Ids;
use crate::placement::{Load, Policy, ReplicaView, ShardView, Snapshot};
use std::collections::BTreeMap;

/// Refuses a new replica of `shard` on `to`, in place of the one on `from` if there is one, where it must not be.
pub fn check(
    sight: &Sight<'_>,
    shard: &Shard,
    from: Option<&NodeId>,
    to: &NodeId,
    force: bool,
) -> Result<(), Error> {
    let view = sight.view;
    let refused = |why: String| Err(Error::Refused(why));
    if !view.nodes.contains_key(to) {
        return Err(Error::NotFound(format!("node {to}")));
    }
    if shard.replica_on(to).is_some() {
        return refused(format!("{to} has a replica of {} already", shard.id));
    }
    let brings = |operation: &&crate::model::Operation| {
        let kind = &operation.kind;
        operation.table == shard.table && kind.shards().contains(&shard.id) && kind.target() == Some(to)
    };
    if let Some(operation) = view.open_operations().find(brings) {
        return refused(format!("{} ({}) brings {} to {to} already", operation.id, operation.kind, shard.id));
    }
    able(view, sight.heartbeats, to)?;
    let anyway = "`--force` has it done all the same";
    match crowded(sight, shard, from, to).or_else(|| overfull(sight, shard, to)).filter(|_| !force) {
        Some(why) => refused(format!("{why}; {anyway}")),
        None => Ok(()),
    }
}

/// Refuses a node that may be given no replica at all: unknown, drained, cordoned, or down.
pub fn able(
    view: &ClusterView,
    heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>,
    to: &NodeId,
) -> Result<(), Error> {
    let refused = |why: String| Err(Error::Refused(why));
    let Some(node) = view.nodes.get(to) else { return Err(Error::NotFound(format!("node {to}"))) };
    match node.record.state {
        NodeState::Draining => return refused(format!("{to} is being drained: it is given no replicas")),
        NodeState::Cordoned => return refused(format!("{to} is cordoned: it is given no replicas")),
        NodeState::Active => {}
    }
    if !view.is_live(to) {
        return refused(format!("{to} is down: no daemon holds its lease"));
    }
    if !answers(heartbeats, to) {
        return refused(format!("{to} is down: its ClickHouse does not answer"));
    }
    Ok(())
}

/// Whether a copy on a node that is down is the only one whose table may still be there: the others have told that
/// theirs are gone. Its record may go then, if an operator says so, though there are too few without it.
pub fn hopeless(sight: &Sight<'_>, shard: &Shard, node: &NodeId) -> bool {
    let bare = |other: &NodeId| bare(sight.heartbeats, shard, other);
    let mut others = shard.ready_nodes().filter(|other| *other != node).peekable();
    !sight.view.is_live(node) && others.peek().is_some() && others.all(bare)
}

/// Why the shard's copies would be nearer to each other there than they need be.
fn crowded(sight: &Sight<'_>, shard: &Shard, from: Option<&NodeId>, to: &NodeId) -> Option<String> {
    let others: Vec<&Replica> = shard.staying().filter(|other| Some(&other.node) != from).collect();
    let wanted = sight.view.tables.get(&shard.table).map_or(1, |table| table.record.replicas);
    let replica = |other: &&Replica| ReplicaView { node: other.node.clone(), complete: true, leaving: false };
    let alone = ShardView {
        table: shard.table,
        shard: shard.id,
        load: Load::default(),
        replicas_wanted: wanted.max(u32::try_from(others.len() + 1).unwrap_or(u32::MAX)),
        replicas: others.iter().map(replica).collect(),
        leader: None,
        frozen: false,
        pinned: Vec::new(),
        excluded: Vec::new(),
    };
    let nodes = decide::nodes(sight);
    let of = |id: &NodeId| nodes.iter().find(|node| node.id == *id);
    let there = of(to)?;
    let beside = |other: &&Replica| of(&other.node).is_some_and(|other| other.zone() == there.zone());
    let beside = others.iter().copied().find(beside).map(|other| other.node.clone());
    let zone = there.zone().to_owned();
    let (problem, ids) = Ids::of(&Snapshot { nodes, shards: vec![alone] }, &Policy::default());
    let placed: Vec<u32> = others.iter().filter_map(|other| ids.node(&other.node)).collect();
    if spreads(&problem, 0, &placed, placed.len(), ids.node(to)?) {
        return None;
    }
    let beside = beside.map_or_else(String::new, |other| format!(", as {other} is, which has one"));
    let id = shard.id;
    Some(format!(
        "{to} is in zone {zone}{beside}: copies of {id} would be nearer to each other than they need be"
    ))
}

/// Why the node's disk has no room for the shard.
fn overfull(sight: &Sight<'_>, shard: &Shard, to: &NodeId) -> Option<String> {
    let snapshot = decide::placed(sight);
    let capacity = snapshot.nodes.iter().find(|node| node.id == *to)?.capacity_bytes;
    let on = snapshot.shards.iter().filter(|s| s.replicas.iter().any(|replica| replica.node == *to));
    let held: u64 = on.map(|shard| shard.load.bytes).sum();
    let below = (capacity > 0).then(|| rooms::below_watermark(capacity).saturating_sub(held));
    let free = sight.heartbeats.get(to).and_then(|seen| rooms::room(seen));
    let (room, bytes) = (below.into_iter().chain(free).min()?, decide::bytes(sight, shard));
    (bytes > room).then(|| {
        format!("the copy's {bytes} bytes would fill the disk of {to} above the watermark: there is room for {room}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::balance::fixture::{Cluster, id, versioned};
    use crate::model::ids::{OperationId, ShardId};
    use crate::model::operation::{Kind, Operation, State};

    /// n1 and n2 in zones a and b have `s0`; n3 is in a too, n4 in b, n5 in c.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(5).table(8, 1, 2, |_| 100);
        for (node, zone) in [("n1", "a"), ("n2", "b"), ("n3", "a"), ("n4", "b"), ("n5", "c")] {
            let record = &mut cluster.view.nodes.get_mut(&id(node)).unwrap().record;
            record.labels.insert("zone".into(), zone.into());
        }
        cluster
    }

    fn ask(cluster: &Cluster, from: Option<&str>, to: &str, force: bool) -> String {
        let shard = cluster.view.shard(cluster.of(), ShardId(0)).unwrap();
        let from = from.map(id);
        match cluster.see(|sight| check(sight, shard, from.as_ref(), &id(to), force)) {
            Ok(()) => "taken".into(),
            Err(error @ (Error::Refused(_) | Error::NotFound(_))) => error.to_string(),
            Err(error) => panic!("{error:?}"),
        }
    }

    type Change = fn(&mut Cluster);
    /// What is so, where the copy comes from and is to go, whether by force, and how the answer begins.
    type Case = (&'static str, Change, Option<&'static str>, &'static str, bool, &'static str);

    #[test]
    fn a_copy_goes_only_where_placement_would_let_it_go() {
        let cases: [Case; 16] = [
            ("well", |_| {}, Some("n1"), "n5", false, "taken"),
            ("its own zone", |_| {}, Some("n1"), "n3", false, "taken"),
            ("no such node", |_| {}, None, "n9", false, "node n9 does not exist"),
            ("there already", |_| {}, Some("n1"), "n2", true, "n2 has a replica of s0 already"),
            ("draining", |c| c.set("n5", NodeState::Draining), None, "n5", true, "n5 is being drained"),
            ("cordoned", |c| c.set("n5", NodeState::Cordoned), None, "n5", true, "n5 is cordoned"),
            ("down", |c| drop(c.view.live.remove(&id("n5"))), None, "n5", true, "n5 is down: no daemon"),
            ("its server", |c| c.deaf.push(id("n5")), None, "n5", true, "n5 is down: its ClickHouse"),
            ("zone", |_| {}, Some("n1"), "n4", false, "n4 is in zone b, as n2 is"),
            ("zone, forced", |_| {}, Some("n1"), "n4", true, "taken"),
            ("a third", |_| {}, None, "n3", false, "n3 is in zone a, as n1 is"),
            ("no third zone", |c| c.set("n5", NodeState::Draining), None, "n3", false, "taken"),
            (
                "others fill it",
                |c| c.disk("n5", 10_000, 2_000),
                None,
                "n5",
                false,
                "the copy's 800 bytes would",
            ),
            ("others, forced", |c| c.disk("n5", 10_000, 2_000), None, "n5", true, "taken"),
            ("room enough", |c| c.disk("n5", 10_000, 2_500), None, "n5", false, "taken"),
            ("too small", |c| c.capacity("n5", 900), None, "n5", false, "the copy's 800 bytes would"),
        ];
        for (what, change, from, to, force, answer) in cases {
            let mut cluster = cluster();
            change(&mut cluster);
            let told = ask(&cluster, from, to, force);
            assert!(told.starts_with(answer), "{what}: {told}");
        }
    }

    /// Found by reading: of two moves to one node the second could neither be done nor undone.
    #[test]
    fn a_copy_is_not_brought_twice_to_a_node() {
        let mut cluster = cluster();
        let operation = Operation {
            id: OperationId(1),
            table: cluster.of(),
            kind: Kind::Move { shard: ShardId(0), from: id("n2"), to: id("n5") },
            state: State::Running,
            reason: String::new(),
            outcome: String::new(),
            started_unix_ms: 0,
            ended_unix_ms: 0,
        };
        cluster.view.operations.insert(OperationId(1), versioned(operation));
        let told = ask(&cluster, Some("n1"), "n5", true);
        assert!(told.starts_with("o1 (move s0 from n2 to n5) brings s0 to n5 already"), "{told}");
    }
}
