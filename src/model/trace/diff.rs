//! A world as the lines that it is begun with, and what happened from one world to a later one as events.

use super::{Event, Line, TraceNode, World};
use crate::model::ids::{ShardId, TableId};
use std::collections::BTreeMap;

/// A world's snapshot, without the header.
pub fn snapshot(world: &World) -> Vec<Line> {
    let nodes = world.nodes.values().cloned().map(Line::Node);
    let tables = world.tables.values().cloned().map(Line::Table);
    nodes.chain(tables).chain(world.shards.values().cloned().map(Line::Shard)).collect()
}

/// What happened between two worlds, in an order in which it could; operations aside. `None` if no events can tell it:
/// a node has other labels, a table wants another number of replicas.
pub fn changes(before: &World, after: &World) -> Option<Vec<Event>> {
    let mut events = Vec::new();
    for (id, node) in &after.nodes {
        match before.nodes.get(id) {
            None => events.push(Event::NodeJoined { node: node.clone() }),
            Some(was) => node_changes(was, node, &mut events)?,
        }
    }
    for (id, table) in &after.tables {
        match before.tables.get(id) {
            None => events.push(Event::TableCreated { table: table.clone() }),
            Some(was) if was != table => return None,
            Some(_) => {}
        }
    }
    let gone = before.tables.keys().filter(|id| !after.tables.contains_key(*id));
    events.extend(gone.map(|table| Event::TableDropped { table: *table }));
    shard_changes(before, after, &mut events)?;
    let removed = before.nodes.keys().filter(|id| !after.nodes.contains_key(*id));
    events.extend(removed.map(|node| Event::NodeRemoved { node: node.clone() }));
    Some(events)
}

fn node_changes(was: &TraceNode, now: &TraceNode, events: &mut Vec<Event>) -> Option<()> {
    let node = now.id.clone();
    if (&was.labels, was.capacity_bytes, was.weight_milli)
        != (&now.labels, now.capacity_bytes, now.weight_milli)
    {
        return None;
    }
    if was.state != now.state {
        events.push(Event::NodeState { node: node.clone(), state: now.state });
    }
    match (was.live, now.live) {
        (true, false) => events.push(Event::NodeDied { node }),
        (false, true) => events.push(Event::NodeReturned { node }),
        _ => {}
    }
    Some(())
}

fn shard_changes(before: &World, after: &World, events: &mut Vec<Event>) -> Option<()> {
    let kept = |table: &TableId| after.tables.contains_key(table);
    for (table, shard) in before.shards.keys().filter(|key| !after.shards.contains_key(*key) && kept(&key.0))
    {
        events.push(Event::ShardGone { table: *table, shard: *shard });
    }
    let mut sizes: BTreeMap<TableId, Vec<(ShardId, u64)>> = BTreeMap::new();
    for (key, shard) in &after.shards {
        let Some(was) = before.shards.get(key) else {
            events.push(Event::ShardMade { shard: shard.clone() });
            continue;
        };
        if (was.lo, was.hi) != (shard.lo, shard.hi) {
            return None;
        }
        if (&was.nodes, &was.leader) != (&shard.nodes, &shard.leader) {
            let (nodes, leader) = (shard.nodes.clone(), shard.leader.clone());
            events.push(Event::ShardPlaced { table: key.0, shard: key.1, nodes, leader });
        }
        if was.bytes != shard.bytes {
            sizes.entry(key.0).or_default().push((key.1, shard.bytes));
        }
    }
    events.extend(sizes.into_iter().map(|(table, bytes)| Event::Sizes { table, bytes }));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::NodeId;
    use crate::model::node::NodeState;
    use crate::model::trace::{Header, Origin, TraceShard, TraceTable, VERSION};
    use expect_test::expect;

    const TABLE: TableId = TableId(uuid::Uuid::from_u128(1));

    fn id(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn node(name: &str) -> TraceNode {
        let (labels, state) = (BTreeMap::new(), NodeState::Active);
        TraceNode { id: id(name), labels, capacity_bytes: 0, weight_milli: 1_000, state, live: true }
    }

    fn shard(number: u32, (lo, hi): (u32, u32), nodes: &[&str], bytes: u64) -> TraceShard {
        let nodes: Vec<NodeId> = nodes.iter().map(|name| id(name)).collect();
        let (leader, shard) = (nodes.first().cloned(), ShardId(number));
        TraceShard { table: TABLE, shard, lo, hi, nodes, leader, bytes, bytes_per_s: 0 }
    }

    fn world(nodes: &[&str], shards: Vec<TraceShard>) -> World {
        let (database, table) = ("d".to_owned(), "t".to_owned());
        let mut lines: Vec<Line> = nodes.iter().map(|name| Line::Node(node(name))).collect();
        lines.push(Line::Table(TraceTable { id: TABLE, database, table, partitions: 4, replicas: 2 }));
        lines.extend(shards.into_iter().map(Line::Shard));
        read(lines)
    }

    fn read(lines: Vec<Line>) -> World {
        let (version, cluster, origin) = (VERSION, "c".to_owned(), Origin::Recorded);
        let mut world = World::default();
        world.take(Line::Header(Header { version, cluster, start_unix_ms: 0, origin })).unwrap();
        lines.into_iter().for_each(|line| world.take(line).unwrap());
        world
    }

    #[test]
    fn a_snapshot_is_the_world_again() {
        let world = world(&["n1", "n2"], vec![shard(0, (0, 4), &["n1", "n2"], 7)]);
        assert_eq!(read(snapshot(&world)), world);
    }

    #[test]
    fn what_happened_leads_from_one_world_to_the_other() {
        let before = world(
            &["n1", "n2", "n3"],
            vec![shard(0, (0, 2), &["n1", "n2"], 7), shard(1, (2, 4), &["n3"], 9)],
        );
        let children = vec![shard(2, (0, 1), &["n1", "n2"], 3), shard(3, (1, 2), &["n1", "n2"], 4)];
        let moved = shard(1, (2, 4), &["n4"], 12);
        let mut after = world(&["n1", "n2", "n4"], [vec![moved], children].concat());
        let n2 = after.nodes.get_mut(&id("n2")).unwrap();
        (n2.live, n2.state) = (false, NodeState::Draining);
        let events = changes(&before, &after).unwrap();
        let kinds: Vec<&str> = events.iter().map(Event::kind).collect();
        expect!["node-state node-died node-joined shard-gone shard-placed shard-made shard-made sizes node-removed"]
            .assert_eq(&kinds.join(" "));
        let mut now = before;
        events.into_iter().for_each(|event| now.apply(event).unwrap());
        after.down_since_ms = [(id("n2"), 0)].into();
        assert_eq!(now, after);
    }

    #[test]
    fn what_events_cannot_tell_begins_a_new_trace() {
        let before = world(&["n1"], vec![shard(0, (0, 4), &["n1"], 7)]);
        assert_eq!(changes(&before, &before), Some(Vec::new()));
        let mut labelled = before.clone();
        let labels = [("zone".to_owned(), "z1".to_owned())].into();
        labelled.nodes.get_mut(&id("n1")).unwrap().labels = labels;
        assert_eq!(changes(&before, &labelled), None);
        let mut wider = before.clone();
        wider.tables.get_mut(&TABLE).unwrap().replicas = 3;
        assert_eq!(changes(&before, &wider), None);
    }
}
