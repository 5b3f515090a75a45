//! A trace made of what a cluster's servers tell: `system.clusters`, `system.parts`, `system.part_log`.
//!
//! Servers become nodes, a cluster's shards become the shards of every table, of one partition each. Where servers keep
//! a part log, the trace begins that long ago, with sizes by the hour; else it is a snapshot of now. Pure.

use super::Error;
use crate::adapters::clickhouse::Survey;
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::node::NodeState;
use crate::model::trace::{Event, Header, Line, Origin, Timed, TraceNode, TraceShard, TraceTable, VERSION};
use std::collections::{BTreeMap, BTreeSet};

const HOUR_S: u64 = 3_600;

/// A server that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where.
    pub url: String,
    /// What it said.
    pub survey: Survey,
}

/// The trace, and what has to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its lines.
    pub lines: Vec<Line>,
    /// The cluster that was taken.
    pub cluster: String,
    /// What is missing in it, and why.
    pub notes: Vec<String>,
}

/// Makes the trace of a cluster; without a name, of the one that most of the servers are in.
///
/// # Errors
/// The servers are in no such cluster.
pub fn lines(asked: &[Asked], cluster: Option<&str>) -> Result<Imported, Error> {
    let cluster = match cluster {
        Some(name) => name.to_owned(),
        None => largest(asked)?,
    };
    let shards = shards(asked, &cluster);
    if shards.is_empty() {
        let known: BTreeSet<&str> =
            asked.iter().flat_map(|of| &of.survey.clusters).map(|line| line.cluster.as_str()).collect();
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::Impossible(format!(
            "no server that was asked is in cluster {cluster}; there are: {known}"
        )));
    }
    let mut notes = missing(asked, &cluster, &shards);
    let names = names(asked);
    let tables = tables(asked, &shards);
    let (start_s, hours, log_notes) = hours(asked);
    notes.extend(log_notes);
    let header = Header {
        version: VERSION,
        cluster: cluster.clone(),
        start_unix_ms: start_s * 1_000,
        origin: Origin::Imported,
    };
    let mut lines = vec![Line::Header(header)];
    lines.extend(asked.iter().zip(&names).map(|(of, name)| Line::Node(node(of, name))));
    let mut sizes = BTreeMap::new();
    for (number, name) in (1..).zip(&tables) {
        table_lines(
            asked,
            &shards,
            &names,
            (TableId(uuid::Uuid::from_u128(number)), name),
            &mut lines,
            &mut sizes,
        );
    }
    for hour in hours {
        let at_ms = (hour + HOUR_S - start_s) * 1_000;
        grown(asked, &shards, &tables, hour, at_ms, &mut sizes, &mut lines);
    }
    Ok(Imported { lines, cluster, notes })
}

/// Which servers hold each shard of the cluster, by their place.
type Shards = BTreeMap<u32, Vec<usize>>;
/// A table's name.
type Name = (String, String);
/// Bytes of each table's shards, as far as the trace has come.
type Sizes = BTreeMap<(u128, u32), u64>;

fn largest(asked: &[Asked]) -> Result<String, Error> {
    let mut members: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (at, of) in asked.iter().enumerate() {
        for line in of.survey.clusters.iter().filter(|line| line.is_local) {
            members.entry(&line.cluster).or_default().insert(at);
        }
    }
    let most = members.iter().max_by_key(|(name, servers)| (servers.len(), std::cmp::Reverse(*name)));
    most.map(|(name, _)| (*name).to_owned()).ok_or_else(|| {
        Error::Impossible("the servers that were asked are in no cluster of system.clusters".to_owned())
    })
}

/// Every shard that any server knows of, with the servers that say that they are it.
fn shards(asked: &[Asked], cluster: &str) -> Shards {
    let mut shards = Shards::new();
    for (at, of) in asked.iter().enumerate() {
        for line in of.survey.clusters.iter().filter(|line| line.cluster == cluster) {
            let servers = shards.entry(line.shard).or_default();
            if line.is_local && !servers.contains(&at) {
                servers.push(at);
            }
        }
    }
    if shards.values().all(Vec::is_empty) { Shards::new() } else { shards }
}

/// Replicas that no server which was asked is, and servers that are none.
fn missing(asked: &[Asked], cluster: &str, shards: &Shards) -> Vec<String> {
    let mut notes = BTreeSet::new();
    let lines = || asked.iter().flat_map(|of| &of.survey.clusters).filter(|line| line.cluster == cluster);
    let own: BTreeSet<(u32, u32)> =
        lines().filter(|line| line.is_local).map(|line| (line.shard, line.replica)).collect();
    for line in lines().filter(|line| !own.contains(&(line.shard, line.replica))) {
        let (shard, replica, address) = (line.shard, line.replica, &line.address);
        notes.insert(format!(
            "shard {shard} replica {replica} at {address} was not asked: it is missing in the trace"
        ));
    }
    for (at, of) in asked.iter().enumerate() {
        if !shards.values().any(|servers| servers.contains(&at)) {
            notes.insert(format!("{} is not in cluster {cluster}: a node without copies", of.url));
        }
    }
    notes.into_iter().collect()
}

/// A name for each server: its host's, numbered where several share it.
fn names(asked: &[Asked]) -> Vec<NodeId> {
    let mut taken = BTreeSet::new();
    asked.iter().map(|of| name(&of.survey.host, &mut taken)).collect()
}

fn name(host: &str, taken: &mut BTreeSet<NodeId>) -> NodeId {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let host: String = host.chars().map(legal).take(50).collect();
    let host = if host.trim_matches('-').is_empty() { "server" } else { host.trim_matches('-') };
    let numbered = (2..).map(|number| format!("{host}-{number}"));
    let mut all =
        std::iter::once(host.to_owned()).chain(numbered).filter_map(|name| name.parse::<NodeId>().ok());
    let free = all.find(|name| !taken.contains(name)).expect("numbers do not end");
    taken.insert(free.clone());
    free
}

fn node(of: &Asked, id: &NodeId) -> TraceNode {
    TraceNode {
        id: id.clone(),
        labels: BTreeMap::new(),
        capacity_bytes: of.survey.disk_total_bytes,
        weight_milli: 1_000,
        state: NodeState::Active,
        live: true,
    }
}

/// Tables that the cluster's servers hold parts of; not what is behind materialized views.
fn tables(asked: &[Asked], shards: &Shards) -> BTreeSet<Name> {
    let servers: BTreeSet<usize> = shards.values().flatten().copied().collect();
    let held = servers.iter().flat_map(|at| &asked[*at].survey.held);
    let users = held.filter(|held| !held.table.starts_with(".inner"));
    users.map(|held| (held.database.clone(), held.table.clone())).collect()
}

fn bytes_on(of: &Asked, name: &Name) -> Option<u64> {
    let held = of.survey.held.iter().find(|held| (&held.database, &held.table) == (&name.0, &name.1));
    held.map(|held| held.bytes)
}

fn written_on(of: &Asked, name: &Name, hour: Option<u64>) -> u64 {
    let all = of.survey.written.iter().flatten();
    let of_table = all.filter(|written| (&written.database, &written.table) == (&name.0, &name.1));
    of_table
        .filter(|written| hour.is_none_or(|hour| written.hour_unix_s == hour))
        .map(|written| written.bytes)
        .sum()
}

/// The most that a shard's servers wrote of a table: each replica has all of it in the end.
fn written(asked: &[Asked], servers: &[usize], name: &Name, hour: Option<u64>) -> u64 {
    servers.iter().map(|at| written_on(&asked[*at], name, hour)).max().unwrap_or(0)
}

fn table_lines(
    asked: &[Asked],
    shards: &Shards,
    names: &[NodeId],
    (id, name): (TableId, &Name),
    lines: &mut Vec<Line>,
    sizes: &mut Sizes,
) {
    let holders = |servers: &[usize]| -> Vec<usize> {
        servers.iter().copied().filter(|at| bytes_on(&asked[*at], name).is_some()).collect()
    };
    let most = shards.values().map(|servers| holders(servers).len()).max().unwrap_or(1).max(1);
    lines.push(Line::Table(TraceTable {
        id,
        database: name.0.clone(),
        table: name.1.clone(),
        partitions: u32::try_from(shards.len()).unwrap_or(u32::MAX),
        replicas: u32::try_from(most).unwrap_or(u32::MAX),
    }));
    for (lo, (number, servers)) in (0..).zip(shards) {
        let nodes: Vec<NodeId> = holders(servers).iter().map(|at| names[*at].clone()).collect();
        let now = servers.iter().filter_map(|at| bytes_on(&asked[*at], name)).max().unwrap_or(0);
        let bytes = now.saturating_sub(written(asked, servers, name, None));
        sizes.insert((id.0.as_u128(), *number), bytes);
        let (shard, leader) = (ShardId(*number), nodes.first().cloned());
        lines.push(Line::Shard(TraceShard {
            table: id,
            shard,
            lo,
            hi: lo + 1,
            nodes,
            leader,
            bytes,
            bytes_per_s: 0,
        }));
    }
}

/// When the trace begins, the hours in which something was written, and what is to be said of part logs.
fn hours(asked: &[Asked]) -> (u64, BTreeSet<u64>, Vec<String>) {
    let without: Vec<&str> =
        asked.iter().filter(|of| of.survey.written.is_none()).map(|of| of.url.as_str()).collect();
    let mut notes = Vec::new();
    if !without.is_empty() {
        let which = without.join(", ");
        notes.push(format!(
            "no system.part_log on {which} (old servers have none unless it is configured): no history"
        ));
    }
    let all = asked.iter().flat_map(|of| of.survey.written.iter().flatten());
    let hours: BTreeSet<u64> = all.map(|written| written.hour_unix_s).collect();
    let now_s = asked.iter().map(|of| of.survey.now_unix_s).max().unwrap_or(0);
    (hours.first().copied().unwrap_or(now_s), hours, notes)
}

/// Sizes at the end of an hour.
fn grown(
    asked: &[Asked],
    shards: &Shards,
    tables: &BTreeSet<Name>,
    hour: u64,
    at_ms: u64,
    sizes: &mut Sizes,
    lines: &mut Vec<Line>,
) {
    for (number, name) in (1..).zip(tables) {
        let mut bytes = Vec::new();
        for (shard, servers) in shards {
            let more = written(asked, servers, name, Some(hour));
            if let Some(size) = sizes.get_mut(&(number, *shard)).filter(|_| more > 0) {
                *size += more;
                bytes.push((ShardId(*shard), *size));
            }
        }
        if !bytes.is_empty() {
            let event = Event::Sizes { table: TableId(uuid::Uuid::from_u128(number)), bytes };
            lines.push(Line::Event(Timed { at_ms, event }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::clickhouse::{ClusterLine, Held, Written};
    use crate::model::trace::World;

    /// Two shards of two replicas each, of which the last server was not asked.
    fn asked(log: bool) -> Vec<Asked> {
        (0..3_u32)
            .map(|at| {
                let clusters = (0..4_u32).map(|line| ClusterLine {
                    cluster: "main".to_owned(),
                    shard: line / 2 + 1,
                    replica: line % 2 + 1,
                    address: format!("h{line}:9000"),
                    is_local: line == at,
                });
                let (database, table) = ("d".to_owned(), "t".to_owned());
                let hour_unix_s = 7_200;
                let written =
                    Written { database: database.clone(), table: table.clone(), hour_unix_s, bytes: 30 };
                Asked {
                    url: format!("http://h{at}:8123"),
                    survey: Survey {
                        host: "Host.One".to_owned(),
                        now_unix_s: 10_000,
                        disk_total_bytes: 1_000,
                        clusters: clusters.collect(),
                        held: vec![Held { database, table, bytes: 100 + u64::from(at) }],
                        written: log.then(|| vec![written]),
                    },
                }
            })
            .collect()
    }

    fn world(imported: &Imported) -> World {
        let mut world = World::default();
        imported.lines.iter().for_each(|line| world.take(line.clone()).unwrap());
        world.whole().unwrap();
        world
    }

    #[test]
    fn servers_shards_and_history_become_a_trace() {
        let imported = lines(&asked(true), None).unwrap();
        let world = world(&imported);
        assert_eq!(imported.cluster, "main");
        assert_eq!(
            imported.notes,
            ["shard 2 replica 2 at h3:9000 was not asked: it is missing in the trace"]
        );
        let nodes: Vec<&str> = world.nodes.keys().map(NodeId::as_str).collect();
        assert_eq!(nodes, ["host-one", "host-one-2", "host-one-3"]);
        let shards: Vec<(usize, u64)> = world.shards.values().map(|s| (s.nodes.len(), s.bytes)).collect();
        assert_eq!(shards, [(2, 101), (1, 102)]);
        assert_eq!(world.header.unwrap().start_unix_ms, 7_200_000);
        assert_eq!(world.at_ms, 3_600_000);
        let first = imported.lines.iter().find_map(|line| match line {
            Line::Shard(shard) => Some(shard.bytes),
            _ => None,
        });
        assert_eq!(first, Some(71), "before what was written");
    }

    #[test]
    fn without_a_part_log_it_is_a_snapshot_and_that_is_said() {
        let imported = lines(&asked(false), Some("main")).unwrap();
        assert!(imported.notes.iter().any(|note| note.starts_with("no system.part_log on http://h0:8123")));
        assert_eq!(world(&imported).header.unwrap().start_unix_ms, 10_000_000);
        let error = lines(&asked(false), Some("other")).unwrap_err().to_string();
        assert_eq!(error, "no server that was asked is in cluster other; there are: main");
    }
}
