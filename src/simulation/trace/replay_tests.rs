//! Traces that are played again: what was recorded is measured, what is decided afresh is better, and repeats.

use super::*;
use crate::model::balance::Planner;
use crate::model::trace::{Header, Origin, TraceNode, TraceTable, VERSION};

const TABLE: TableId = TableId(uuid::Uuid::from_u128(1));
const GB: u64 = 1_000_000_000;
const HOUR_MS: u64 = 3_600_000;

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn node(name: &str) -> TraceNode {
    let (labels, state) = (BTreeMap::new(), NodeState::Active);
    TraceNode { id: id(name), labels, capacity_bytes: 0, weight_milli: 1_000, state, live: true }
}

/// Eight shards of 10 GB, two copies each, all of them on `n1` and `n2`; `n3` and `n4` are empty.
fn lines() -> Vec<Line> {
    let (version, cluster, origin) = (VERSION, "c".to_owned(), Origin::Recorded);
    let mut lines = vec![Line::Header(Header { version, cluster, start_unix_ms: 0, origin })];
    lines.extend(["n1", "n2", "n3", "n4"].map(|name| Line::Node(node(name))));
    let (database, table) = ("d".to_owned(), "t".to_owned());
    lines.push(Line::Table(TraceTable { id: TABLE, database, table, partitions: 8, replicas: 2 }));
    for number in 0..8 {
        lines.push(Line::Shard(TraceShard {
            table: TABLE,
            shard: ShardId(number),
            lo: number,
            hi: number + 1,
            nodes: vec![id("n1"), id("n2")],
            leader: Some(id("n1")),
            bytes: 10 * GB,
            bytes_per_s: 0,
        }));
    }
    lines
}

fn event(at_ms: u64, event: Event) -> Line {
    Line::Event(Timed { at_ms, event })
}

fn played(lines: &[Line], ways: &[How]) -> (Outcome, Vec<Outcome>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.ndjson");
    crate::simulation::trace::write(&path, lines).unwrap();
    replay(&path, None, ways).unwrap()
}

fn by(planner: Planner) -> How {
    How::default().by(planner)
}

#[test]
fn an_uneven_cluster_that_was_left_alone_would_have_been_levelled() {
    let mut lines = lines();
    lines.push(event(24 * HOUR_MS, Event::Ingest { table: TABLE, bytes_per_s: 0 }));
    let ways = [How::default(), by(Planner::Greedy), by(Planner::Pinned)];
    let (recorded, ours) = played(&lines, &ways);
    assert_eq!((recorded.moves, recorded.worst_milli, recorded.end_milli), (0, 4_000, 4_000));
    let [own, greedy, pinned] = ours.as_slice() else { panic!("three ways") };
    // Four of eight copies leave each of the two nodes, and nothing moves twice.
    assert_eq!((own.moves, own.bytes_moved, own.end_milli), (8, 80 * GB, 1_000), "{own:?}");
    assert_eq!((own.thrash_percent, own.unfinished, own.worst_milli), (0, 0, 4_000), "{own:?}");
    assert!(own.mean_milli < 1_200, "{own:?}");
    assert!(greedy.moves >= 8 && greedy.end_milli <= 1_500, "{greedy:?}");
    assert_eq!(*pinned, recorded);
    assert_eq!(played(&lines, &ways).1, ours, "it repeats");
}

#[test]
fn recorded_moves_are_counted_and_not_made_again() {
    let mut lines = lines();
    let placed = |shard: u32, nodes: [&str; 2]| {
        let nodes = nodes.map(id).to_vec();
        let leader = nodes.first().cloned();
        Event::ShardPlaced { table: TABLE, shard: ShardId(shard), nodes, leader }
    };
    // There and back again.
    for hour in 1..=4 {
        let to = if hour % 2 == 1 { "n3" } else { "n2" };
        lines.push(event(hour * HOUR_MS, placed(0, ["n1", to])));
    }
    let (recorded, ours) = played(&lines, &[by(Planner::Pinned)]);
    assert_eq!((recorded.moves, recorded.bytes_moved), (4, 40 * GB));
    assert!(recorded.thrash_percent > 0, "{recorded:?}");
    assert_eq!((ours[0].moves, ours[0].thrash_percent), (0, 0));
}

#[test]
fn copies_on_a_node_that_is_lost_or_removed_are_made_elsewhere() {
    let mut lines = lines();
    lines.push(event(HOUR_MS, Event::NodeDied { node: id("n4") }));
    lines.push(event(12 * HOUR_MS, Event::NodeRemoved { node: id("n3") }));
    lines.push(event(24 * HOUR_MS, Event::Ingest { table: TABLE, bytes_per_s: 0 }));
    let (recorded, ours) = played(&lines, &[How::default()]);
    assert_eq!((recorded.short_shard_s, recorded.moves), (0, 0));
    let own = &ours[0];
    assert_eq!((own.end_milli, own.unfinished), (1_000, 0), "{own:?}");
    // The shards that had a copy on the node that died were short of one for half an hour and the copying.
    assert!(own.moves > 8 && own.short_shard_s > 4 * 1_800, "{own:?}");
}

#[test]
fn children_of_a_split_are_where_our_parent_is() {
    let mut lines = lines();
    let at_ms = 12 * HOUR_MS;
    let Line::Shard(parent) = lines.last().unwrap().clone() else { panic!("a shard") };
    lines[5] = Line::Table(TraceTable {
        id: TABLE,
        database: "d".to_owned(),
        table: "t".to_owned(),
        partitions: 9,
        replicas: 2,
    });
    *lines.last_mut().unwrap() = Line::Shard(TraceShard { hi: 9, ..parent.clone() });
    lines.push(event(at_ms, Event::ShardGone { table: TABLE, shard: ShardId(7) }));
    for (number, lo) in [(8, 7), (9, 8)] {
        let shard = TraceShard { shard: ShardId(number), lo, hi: lo + 1, bytes: 5 * GB, ..parent.clone() };
        lines.push(event(at_ms, Event::ShardMade { shard }));
    }
    lines.push(event(13 * HOUR_MS, Event::Ingest { table: TABLE, bytes_per_s: 0 }));
    let (_, ours) = played(&lines, &[How::default()]);
    // Had the children been taken from where they were recorded, all of them would have had to be moved again.
    assert!((8..=10).contains(&ours[0].moves), "{:?}", ours[0]);
}

#[test]
fn a_trace_without_events_ends_as_it_begins() {
    let (recorded, ours) = played(&lines(), &[How::default()]);
    // What the engine begins of its plan, its first wave, has no time to end.
    assert_eq!((recorded.moves, ours[0].moves, ours[0].unfinished), (0, 0, 3));
    assert_eq!(recorded.end_milli, 4_000);
}
