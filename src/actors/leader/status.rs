//! How tables, nodes and the cluster stand, for people and programs. Pure.

use super::observed::{Balancing, Reports};
use crate::actors::balance::pursue;
use crate::adapters::peers::Error;
use crate::model::balance::{BalanceMode, BalanceStatus};
use crate::model::control::{ClusterStatus, NodeStatus, ReplicaStatus, ShardStatus, TableStatus};
use crate::model::ids::{NodeId, PartitionId};
use crate::model::names;
use crate::model::observed::{self, ReplicaObservation};
use crate::model::table::{Replica, ReplicaState, Shard, ShardState, Table, TableName, TableState};
use crate::model::view::ClusterView;
use std::collections::BTreeMap;

/// The table of that name; if there is none any more, the one that is being dropped.
pub fn named(
    view: &ClusterView,
    reports: &Reports,
    name: &TableName,
    now_unix_ms: u64,
) -> Result<TableStatus, Error> {
    let table = view.table_last_named(name).ok_or_else(|| Error::NotFound(format!("table {name}")))?;
    Ok(self::table(view, reports, table, now_unix_ms))
}

/// A table of which nothing but the definition is known.
pub fn of_new(table: &Table) -> TableStatus {
    self::table(&ClusterView::default(), &Reports::default(), table, 0)
}

/// One table.
pub fn table(view: &ClusterView, reports: &Reports, table: &Table, now_unix_ms: u64) -> TableStatus {
    let mut shards: Vec<&Shard> = view.shards_of(table.id).collect();
    shards.sort_by_key(|shard| shard.range);
    let acknowledged: BTreeMap<NodeId, _> = reports
        .heartbeats
        .iter()
        .filter_map(|(node, heartbeat)| Some((node.clone(), *heartbeat.epochs.get(&table.id)?)))
        .collect();
    let mut waiting_for = waiting(view, reports, table, &shards);
    let late = |node: &&NodeId| acknowledged.get(*node) != Some(&table.epoch);
    let unrouted: Vec<&NodeId> = view.live.keys().filter(late).collect();
    if table.state == TableState::Active {
        waiting_for.extend(unrouted.iter().map(|node| format!("node {node} to load epoch {}", table.epoch)));
    }
    let mut serving = shards.iter().filter(|shard| shard.state == ShardState::Serving).peekable();
    let readable = serving.peek().is_some() && serving.all(|shard| shard.ready_nodes().next().is_some());
    let served = !unrouted.iter().any(|node| observed::answers(&reports.heartbeats, node));
    let usable = table.state == TableState::Active && readable && served;
    let gone = !table.delete_topics && view.live.keys().all(|node| let_go(reports, table, node));
    TableStatus {
        id: table.id,
        database: table.name.database.clone(),
        table: table.name.table.clone(),
        state: table.state,
        epoch: table.epoch,
        partitions: table.partitions,
        replicas: table.replicas,
        partition_by: table.partition_by.clone(),
        cluster: names::cluster(&table.name, table.id, None),
        topic_prefix: table.source.topic_prefix.clone(),
        format: table.source.format,
        batch_age_ms: shards.iter().flat_map(|shard| batch_ages(reports, shard)).max(),
        ddl: table.ddl.clone(),
        shards: shards.iter().map(|shard| shard_status(view, reports, shard)).collect(),
        acknowledged,
        usable,
        complete: if table.state == TableState::Dropping { gone } else { usable && waiting_for.is_empty() },
        waiting_for,
        holds: view.holds_in_force(Some(table), now_unix_ms),
    }
}

/// Whether a node has removed everything of a table that is being dropped.
fn let_go(reports: &Reports, table: &Table, node: &NodeId) -> bool {
    reports.heartbeats.get(node).is_some_and(|heartbeat| heartbeat.dropped.contains(&table.id))
}

fn waiting(view: &ClusterView, reports: &Reports, table: &Table, shards: &[&Shard]) -> Vec<String> {
    let mut waiting = Vec::new();
    if table.state == TableState::Dropping {
        if table.delete_topics {
            waiting.push(format!("topics {}.* to be deleted", table.source.topic_prefix));
        }
        let (live, down): (Vec<_>, Vec<_>) = view
            .nodes
            .keys()
            .filter(|node| !let_go(reports, table, node))
            .partition(|node| view.is_live(node));
        waiting.extend(live.iter().map(|node| format!("node {node} to let go of the table")));
        waiting.extend(down.iter().map(|node| format!("node {node}, which is down, to let go of the table")));
        return waiting;
    }
    if table.state == TableState::Creating && shards.len() < table.next_shard as usize {
        waiting.push(format!(
            "{} of {} shards to be placed",
            table.next_shard as usize - shards.len(),
            table.next_shard
        ));
    }
    for shard in shards.iter().filter(|shard| shard.state == ShardState::Retired) {
        waiting.push(format!("shard {} to be read by nobody any more", shard.id));
    }
    for shard in shards.iter().filter(|shard| shard.state != ShardState::Retired) {
        let lacking = (table.replicas as usize).saturating_sub(shard.staying().count());
        if lacking > 0 {
            waiting.push(format!("{lacking} more node(s) for shard {}", shard.id));
        }
        for replica in shard.replicas.iter().filter(|replica| replica.state != ReplicaState::Ready) {
            let seen = observed::told(&reports.heartbeats, shard, &replica.node);
            let why = seen.map_or_else(|| "its node does not report".into(), what_it_waits_for);
            waiting.push(format!("replica of {} on {}: {why}", shard.id, replica.node));
        }
        for replica in &shard.replicas {
            let problem = observed::told(&reports.heartbeats, shard, &replica.node)
                .and_then(|seen| seen.problem.as_ref());
            if let (Some(problem), ReplicaState::Ready) = (problem, replica.state) {
                waiting.push(format!("replica of {} on {}: {problem}", shard.id, replica.node));
            }
        }
    }
    waiting
}

/// Why a replica is not in the routes yet.
fn what_it_waits_for(seen: &ReplicaObservation) -> String {
    let stalled = || {
        let (partition, stall) = seen.partitions.iter().find_map(|(id, p)| Some((id, p.stall.as_ref()?)))?;
        Some(format!("{partition} does not move on: {}", serde_json::to_string(stall).unwrap_or_default()))
    };
    let moving = || match (&seen.seeding, seen.serving) {
        (Some(seeding), _) => seeding.to_string(),
        (None, true) => format!("{} messages behind", seen.lag()),
        (None, false) => "it is looking where to begin".into(),
    };
    seen.problem.clone().or_else(stalled).unwrap_or_else(moving)
}

/// How old each replica lets a batch grow.
fn batch_ages<'a>(reports: &'a Reports, shard: &'a Shard) -> impl Iterator<Item = u64> + 'a {
    let seen =
        shard.replicas.iter().filter_map(|replica| observed::told(&reports.heartbeats, shard, &replica.node));
    seen.map(|seen| seen.batch_age_ms)
}

fn shard_status(view: &ClusterView, reports: &Reports, shard: &Shard) -> ShardStatus {
    let copies =
        shard.replicas.iter().filter_map(|replica| observed::told(&reports.heartbeats, shard, &replica.node));
    // What one has heard of the topics holds for all: one that hears of nothing more must not pass for complete.
    let ends = observed::ends(copies.filter(|seen| seen.serving));
    ShardStatus {
        id: shard.id,
        epoch: shard.epoch,
        range: shard.range,
        spread: spread(view, reports, shard),
        state: shard.state,
        leader: shard.leader.clone(),
        preferred_leader: shard.preferred_leader().cloned(),
        replicas: shard.replicas.iter().map(|r| replica_status(view, reports, shard, r, &ends)).collect(),
    }
}

/// Messages that one replica has and another lacks, over the shard's partitions; `None` unless two report.
pub fn spread(view: &ClusterView, reports: &Reports, shard: &Shard) -> Option<u64> {
    let live = shard.replicas.iter().filter(|replica| view.is_live(&replica.node));
    let seen = live.filter_map(|replica| observed::told(&reports.heartbeats, shard, &replica.node));
    let copies: Vec<&ReplicaObservation> = seen.filter(|seen| seen.serving).collect();
    if copies.len() < 2 {
        return None;
    }
    let apart = |partition| {
        let next = |seen: &&ReplicaObservation| seen.partitions.get(&partition).map_or(0, |p| p.next_offset);
        let (least, most) = (copies.iter().map(next).min()?, copies.iter().map(next).max()?);
        u64::try_from(most - least).ok()
    };
    Some(shard.range.partitions().filter_map(apart).sum())
}

fn replica_status(
    view: &ClusterView,
    reports: &Reports,
    shard: &Shard,
    replica: &Replica,
    ends: &BTreeMap<PartitionId, i64>,
) -> ReplicaStatus {
    let live = view.is_live(&replica.node);
    let seen = observed::told(&reports.heartbeats, shard, &replica.node).filter(|_| live);
    let up = live && observed::answers(&reports.heartbeats, &replica.node);
    let state = match replica.state {
        _ if !up => "down",
        ReplicaState::Creating => "creating",
        ReplicaState::Behind => "behind",
        ReplicaState::Leaving => "leaving",
        ReplicaState::Ready if shard.leader.as_ref() == Some(&replica.node) => "leader",
        ReplicaState::Ready => "ready",
    };
    let stalls =
        seen.map(|seen| seen.partitions.iter().filter_map(|(id, p)| Some((*id, p.stall.clone()?))).collect());
    ReplicaStatus {
        node: replica.node.clone(),
        state: state.to_owned(),
        lag: seen.filter(|seen| seen.serving).map(|seen| seen.lag_to(ends)),
        bytes: seen.map_or(0, |seen| seen.bytes),
        rows: seen.map_or(0, |seen| seen.rows),
        dead_letters: seen.map_or(0, |seen| seen.dead_letters),
        stalls: stalls.unwrap_or_default(),
        problem: seen.and_then(|seen| seen.problem.clone()),
    }
}

/// What keeps a node from its work.
fn problems_of(node: &NodeStatus, reports: &Reports) -> Vec<String> {
    if !node.live {
        return vec![format!("node {}: its daemon holds no lease", node.id)];
    }
    let Some(heartbeat) = reports.heartbeats.get(&node.id) else { return Vec::new() };
    let mut problems = Vec::new();
    if !heartbeat.clickhouse_up {
        let why = &heartbeat.clickhouse_error;
        problems.push(format!("node {}: its ClickHouse does not answer ({why})", node.id));
    }
    if !heartbeat.kafka_error.is_empty() {
        problems.push(format!("node {}: Kafka does not answer it ({})", node.id, heartbeat.kafka_error));
    }
    problems
}

/// Nodes whose records name one ClickHouse server: one was given another name, and its old record stands.
fn one_server(view: &ClusterView) -> Vec<String> {
    let mut servers: BTreeMap<(&str, u16), Vec<&str>> = BTreeMap::new();
    for (id, node) in view.nodes.iter() {
        let endpoint = &node.record.clickhouse;
        servers.entry((endpoint.host.as_str(), endpoint.port)).or_default().push(id.as_str());
    }
    let told = |((host, port), nodes): ((&str, u16), Vec<&str>)| {
        let nodes = nodes.join(", ");
        format!(
            "nodes {nodes} name one ClickHouse server, {host}:{port}: give it one name back; what is assigned to \
             either is kept"
        )
    };
    servers.into_iter().filter(|((host, _), nodes)| !host.is_empty() && nodes.len() > 1).map(told).collect()
}

/// Everything.
pub fn cluster(
    name: &str,
    view: &ClusterView,
    reports: &Reports,
    balance: BalanceStatus,
    now_unix_ms: u64,
) -> ClusterStatus {
    let nodes: Vec<NodeStatus> = view.nodes.keys().map(|id| node(view, reports, id)).collect();
    let tables = view.tables.values().map(|t| table(view, reports, &t.record, now_unix_ms));
    let tables: Vec<TableStatus> = tables.collect();
    let mut problems = Vec::new();
    if view.leader.is_none() {
        problems.push("no daemon leads the cluster".to_owned());
    }
    problems.extend(nodes.iter().flat_map(|node| problems_of(node, reports)));
    problems.extend(one_server(view));
    for table in &tables {
        let name = format!("{}.{}", table.database, table.table);
        problems.extend(table.waiting_for.iter().map(|what| format!("table {name} waits for {what}")));
        for shard in &table.shards {
            for replica in &shard.replicas {
                problems.extend(replica.stalls.iter().map(|(partition, stall)| {
                    let stall = serde_json::to_string(stall).unwrap_or_default();
                    format!(
                        "table {name} {} on {} {partition} does not move on: {stall}",
                        shard.id, replica.node
                    )
                }));
            }
        }
    }
    ClusterStatus {
        cluster: name.to_owned(),
        leader: view.leader.as_ref().map(|leader| leader.node.clone()),
        term: view.leader.as_ref().map_or(0, |leader| leader.term.0),
        nodes,
        tables,
        healthy: problems.is_empty(),
        problems,
        balance,
        holds: view.holds_in_force(None, now_unix_ms),
        unread: !view.complete,
    }
}

/// How balancing stands; `configured` is the leader's configuration.
pub fn balance(view: &ClusterView, configured: Option<BalanceMode>, seen: &Balancing) -> BalanceStatus {
    let setting = view.balance.as_ref().map(|setting| &setting.record);
    BalanceStatus {
        mode: setting.map(|setting| setting.mode).or(configured),
        configured,
        reason: setting.map_or_else(String::new, |setting| setting.reason.clone()),
        planned: seen.planned,
        waits_for: seen.waits_for.clone(),
        run: view.run.as_ref().map(|run| pursue::status(view, &run.record)),
    }
}

/// One node, which must be registered.
pub fn node(view: &ClusterView, reports: &Reports, id: &NodeId) -> NodeStatus {
    let record = &view.nodes[id].record;
    let shards = || view.all_shards();
    let heartbeat = reports.heartbeats.get(id).filter(|_| view.is_live(id));
    let seen = heartbeat.into_iter().flat_map(|h| h.replicas.values()).flat_map(BTreeMap::values);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    NodeStatus {
        id: id.clone(),
        labels: record.labels.clone(),
        state: record.state,
        live: view.is_live(id),
        clickhouse_up: heartbeat.map(|heartbeat| heartbeat.clickhouse_up),
        clickhouse_version: heartbeat.map_or_else(String::new, |h| h.clickhouse_version.clone()),
        clickhouse: format!("{}:{}", record.clickhouse.host, record.clickhouse.port),
        daemon_url: record.daemon_url.clone(),
        replicas: count(shards().filter(|shard| shard.replica_on(id).is_some()).count()),
        leaders: count(shards().filter(|shard| shard.leader.as_ref() == Some(id)).count()),
        bytes: seen.map(|seen| seen.bytes).sum(),
        disk_total_bytes: heartbeat.map_or(0, |heartbeat| heartbeat.disk_total_bytes),
        disk_free_bytes: heartbeat.map_or(0, |heartbeat| heartbeat.disk_free_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::observed::Heartbeat;

    #[test]
    fn two_names_of_one_server_are_told() {
        let mut cluster = crate::actors::balance::fixture::Cluster::new(3);
        assert_eq!(one_server(&cluster.view), Vec::<String>::new());
        let endpoint = cluster.view.nodes.values().next().unwrap().record.clickhouse.clone();
        cluster.view.nodes.values_mut().last().unwrap().record.clickhouse = endpoint;
        let told = one_server(&cluster.view);
        assert!(
            told.len() == 1 && told[0].starts_with("nodes n1, n3 name one ClickHouse server"),
            "{told:?}"
        );
    }

    #[test]
    fn what_keeps_a_node_from_its_work_is_named() {
        let id: NodeId = "n1".parse().unwrap();
        let mut node = NodeStatus {
            id: id.clone(),
            labels: BTreeMap::new(),
            state: crate::model::NodeState::Active,
            live: true,
            clickhouse_up: Some(true),
            clickhouse_version: String::new(),
            clickhouse: String::new(),
            daemon_url: String::new(),
            replicas: 0,
            leaders: 0,
            bytes: 0,
            disk_total_bytes: 0,
            disk_free_bytes: 0,
        };
        let mut reports = Reports::default();
        assert_eq!(problems_of(&node, &reports), Vec::<String>::new());
        let mut heartbeat = Heartbeat::of_healthy(id.clone(), BTreeMap::new());
        heartbeat.kafka_error = "CVH-0501: k1:9092; check [kafka] brokers".into();
        reports.heartbeats.insert(id.clone(), heartbeat.clone().into());
        let kafka = "node n1: Kafka does not answer it (CVH-0501: k1:9092; check [kafka] brokers)";
        assert_eq!(problems_of(&node, &reports), [kafka]);
        (heartbeat.clickhouse_up, heartbeat.clickhouse_error) = (false, "CVH-0401: no".into());
        reports.heartbeats.insert(id, heartbeat.into());
        let clickhouse = "node n1: its ClickHouse does not answer (CVH-0401: no)";
        assert_eq!(problems_of(&node, &reports), [clickhouse, kafka]);
        node.live = false;
        assert_eq!(problems_of(&node, &reports), ["node n1: its daemon holds no lease"]);
    }
}
