//! S5, H10: what ClickHouse itself leaves out of a point query, or of a query by key, stays right across a split and a
//! move. 18.16.1 has neither `optimize_skip_unused_shards` nor `optimize_distributed_group_by_sharding_key`, so the
//! current engine says by the very files that the daemons wrote which shards it would ask, and that it would put
//! nothing together; and the real servers say that all of a key's rows are in that one shard.

use super::support::clickhouse::Current;
use super::support::cluster::{Cluster, Node, PARTITIONS, event};
use converthouse::adapters::kafka::{Kafka, Outgoing};
use converthouse::model::control::TableStatus;
use converthouse::model::names;
use converthouse::model::table::{ShardState, TableName};
use converthouse::model::{PartitionId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

const ROWS: u64 = 3_000;
/// So few that each has many rows.
const USERS: u64 = 97;
const PRUNED: &str = "SETTINGS optimize_skip_unused_shards = 1, force_optimize_skip_unused_shards = 2, \
                      connect_timeout_with_failover_ms = 1000, connections_with_failover_max_tries = 1";

fn rows() -> Vec<Outgoing> {
    (0..ROWS).map(|number| event(number % USERS)).collect()
}

/// Every user, and how many rows it has.
fn users() -> BTreeMap<u64, u64> {
    let mut counted: BTreeMap<u64, u64> = BTreeMap::new();
    for row in rows() {
        let row: serde_json::Value = serde_json::from_slice(&row.payload.unwrap()).unwrap();
        *counted.entry(row["user"].as_u64().unwrap()).or_default() += 1;
    }
    counted
}

/// One user of each partition.
fn keys() -> BTreeMap<u64, u64> {
    let users = users();
    let of = |partition| users.iter().find(|(user, _)| *user % PARTITIONS == partition).unwrap();
    (0..PARTITIONS).map(of).map(|(user, rows)| (*user, *rows)).collect()
}

/// The file as it is, but for ports: the table's shard number `n` of the file is at port `n + 1`, where nobody is.
fn without_servers(file: &str, cluster: &str) -> String {
    let (before, rest) = file.split_once(&format!("<{cluster}>")).expect("the table's cluster");
    let (own, after) = rest.split_once(&format!("</{cluster}>")).expect("its end");
    let mut shards = own.split("<shard>");
    let mut out = format!("{before}<{cluster}>{}", shards.next().unwrap());
    for (port, shard) in (2..).zip(shards) {
        let (head, tail) = shard.split_once("<port>").expect("a replica");
        let (_, tail) = tail.split_once("</port>").expect("its port");
        assert!(!tail.contains("<port>"), "one replica a shard: {shard}");
        out += &format!("<shard>{head}<port>{port}</port>{tail}");
    }
    format!("{out}</{cluster}>{after}")
}

/// Ports that an error says were tried.
fn tried(error: &str) -> BTreeSet<u32> {
    let ports = error.split("(127.0.0.1:").skip(1);
    ports.map(|rest| rest.split(')').next().unwrap().parse().unwrap()).collect()
}

/// By the routes of that node nothing has to be put together of what shards tell by user: each is in one alone.
async fn judge_groups(by: &Node, engine: &Current) {
    let grouped = "SELECT user, count() FROM shop.events GROUP BY user";
    for (by_key, put_together) in [(0, true), (1, false)] {
        let settings = format!(
            "SETTINGS optimize_skip_unused_shards = 1, optimize_distributed_group_by_sharding_key = {by_key}"
        );
        let plan = engine.query(&format!("EXPLAIN PIPELINE {grouped} {settings}")).await.unwrap();
        assert!(
            plan.contains("ReadFromRemote") && plan.contains("Merging") == put_together,
            "{by_key}: {plan}"
        );
    }
    // The oldest server does so when it is told to, whatever the key is: a user of two shards would be there twice.
    let shown = by.query(&format!("{grouped} SETTINGS distributed_group_by_no_merge = 1")).await.unwrap();
    let group = |line: &str| {
        let (user, rows) = line.split_once('\t').unwrap();
        (user.parse().unwrap(), rows.parse().unwrap())
    };
    let mut groups: Vec<(u64, u64)> = shown.lines().map(group).collect();
    groups.sort_unstable();
    assert_eq!(groups, users().into_iter().collect::<Vec<_>>(), "by {}", by.id);
}

/// By the routes of that node, a point query reads the one shard that holds its partition, and that one has all.
async fn judge(cluster: &Cluster, by: &Node, table: &TableStatus, shards: &[ShardId], engine: &Current) {
    let name = TableName { database: table.database.clone(), table: table.table.clone() };
    for (user, rows) in keys() {
        let point = format!("SELECT count() FROM shop.events WHERE user = {user}");
        let plan = engine.query(&format!("EXPLAIN PIPELINE {point} {PRUNED}")).await.unwrap();
        assert!(plan.contains("ReadFromRemote") && !plan.contains("Merging"), "more than one shard: {plan}");
        let all = engine.query(&format!("EXPLAIN PIPELINE {point}")).await.unwrap();
        assert!(all.contains("Merging"), "without the setting all are read: {all}");
        let partition = PartitionId(u32::try_from(user % PARTITIONS).unwrap());
        let at = |id: &ShardId| table.shards.iter().find(|shard| shard.id == *id).unwrap();
        let owner = shards.iter().position(|id| at(id).range.contains(partition)).unwrap();
        let asked = tried(&engine.query(&format!("{point} {PRUNED}")).await.unwrap_err());
        assert_eq!(asked, BTreeSet::from([u32::try_from(owner).unwrap() + 2]), "{partition} of {shards:?}");
        let holder = at(&shards[owner]).replicas.first().unwrap().node.clone();
        let holder = cluster.nodes.iter().find(|node| node.id == holder.as_str()).unwrap();
        let database = names::replica_database(&name, table.id, shards[owner]);
        let held = holder.query(&format!("SELECT count() FROM {database}.local WHERE user = {user}")).await;
        let shown = by.query(&point).await.unwrap();
        assert_eq!((held.unwrap(), shown), (rows.to_string(), rows.to_string()), "user {user}, {}", by.id);
    }
    judge_groups(by, engine).await;
}

/// The current engine with that node's routes and the table that users see there.
async fn engine(node: &Node, cluster: &str) -> Option<Current> {
    let file = std::fs::read_to_string(node.server.routes_file()).unwrap();
    let engine = Current::start(&without_servers(&file, cluster)).await?;
    let ddl = node.query("SHOW CREATE TABLE shop.events").await.unwrap();
    engine.query("CREATE DATABASE shop").await.unwrap();
    engine
        .query(&ddl.replace("\\'", "'").replace("\\n", "\n"))
        .await
        .unwrap_or_else(|e| panic!("{ddl}: {e}"));
    Some(engine)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_query_reads_the_one_shard_that_has_its_key_around_a_split_and_after_a_move() {
    let mut cluster = Cluster::start(3, 1).await;
    let partitions = PARTITIONS.to_string();
    let numbers = ["--partitions", &partitions, "--shards", "2", "--replicas", "1", "--partition-by", "user"];
    let made = cluster.cli(&[&["table", "create", super::support::cluster::DDL], &numbers[..]].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster.cli(&["balance", "off"]).unwrap();
    cluster.client.produce(rows()).await.unwrap();
    cluster.prove("shop.events", ROWS, 0).await;
    let before = cluster.table("shop.events").unwrap();
    let holds = |node: &Node| {
        before.shards.iter().flat_map(|shard| &shard.replicas).any(|r| r.node.as_str() == node.id)
    };
    // A node that only asks; its routes stay old while its daemon stands still.
    let old = cluster.nodes.iter().position(|node| !holds(node)).expect("a node without a copy");
    let new = cluster.nodes.iter().position(holds).unwrap();
    let whole = [ShardId(0), ShardId(1)];
    let Some(by_old) = engine(&cluster.nodes[old], &before.cluster).await else { return };
    judge(&cluster, &cluster.nodes[old], &before, &whole, &by_old).await;

    cluster.nodes[old].pause_daemon();
    cluster.cli(&["shard", "split", "shop.events", "--no-wait"]).unwrap_or_else(|error| panic!("{error}"));
    let newer = cluster.nodes[new].id.clone();
    let halves = [ShardId(2), ShardId(3), ShardId(4), ShardId(5)];
    cluster.until("the halves to be published and loaded", |status| {
        let table = &status.tables[0];
        // One split is published after the other.
        let there = |id: &ShardId| {
            table.shards.iter().any(|shard| shard.id == *id && shard.state == ShardState::Serving)
        };
        let loaded = table.acknowledged.iter().any(|(node, at)| node.as_str() == newer && *at == table.epoch);
        table.epoch > before.epoch && halves.iter().all(there) && loaded
    });
    let during = cluster.table("shop.events").unwrap();
    assert_eq!(during.shards.len(), 6, "the old shards stay as long as somebody may ask them");
    let halves = in_range_order(&during, &halves);
    let Some(by_new) = engine(&cluster.nodes[new], &during.cluster).await else { return };
    judge(&cluster, &cluster.nodes[old], &during, &whole, &by_old).await;
    judge(&cluster, &cluster.nodes[new], &during, &halves, &by_new).await;

    cluster.nodes[old].resume_daemon();
    cluster.until("the old shards to be gone", |status| status.tables[0].shards.len() == 4);
    let after = cluster.table("shop.events").unwrap();
    let Some(by_old) = engine(&cluster.nodes[old], &after.cluster).await else { return };
    judge(&cluster, &cluster.nodes[old], &after, &halves, &by_old).await;
    judge(&cluster, &cluster.nodes[new], &after, &halves, &by_new).await;

    // To the node that only asked so far.
    let from = after.shards.iter().find(|shard| shard.id == halves[0]).unwrap().replicas[0].node.to_string();
    let (shard, to) = (halves[0].to_string(), cluster.nodes[old].id.clone());
    let moved = cluster.cli(&["shard", "move", "shop.events", &shard, &from, &to]);
    moved.unwrap_or_else(|error| panic!("{error}"));
    cluster.until("the copy to have moved, and every node to know", |status| {
        let table = &status.tables[0];
        let shard = table.shards.iter().find(|shard| shard.id == halves[0]).unwrap();
        let held: Vec<&str> = shard.replicas.iter().map(|replica| replica.node.as_str()).collect();
        let knows = |node: &Node| {
            table.acknowledged.iter().any(|(id, epoch)| id.as_str() == node.id && *epoch == table.epoch)
        };
        table.complete && held == [to.as_str()] && cluster.nodes.iter().all(knows)
    });
    let moved = cluster.table("shop.events").unwrap();
    assert!(moved.epoch > after.epoch, "{moved:#?}");
    for node in &cluster.nodes {
        let Some(engine) = engine(node, &moved.cluster).await else { return };
        judge(&cluster, node, &moved, &halves, &engine).await;
    }
}

fn in_range_order(table: &TableStatus, shards: &[ShardId]) -> Vec<ShardId> {
    let mut all: Vec<_> = table.shards.iter().filter(|shard| shards.contains(&shard.id)).collect();
    all.sort_by_key(|shard| shard.range.lo());
    all.iter().map(|shard| shard.id).collect()
}
