//! Plans made, refused and applied, balancing at run time and freezes, on real servers under ingest.

use super::support::cluster::{Cluster, PARTITIONS};
use super::support::producer::Producer;
use super::support::readers::{Readers, prepare};
use converthouse::model::balance::{PlanRunStatus, RunState};
use converthouse::model::control::ClusterStatus;
use converthouse::model::plan::ClusterPlan;
use std::collections::BTreeMap;

const DDL: &str = "CREATE TABLE shop.events (id UInt64, user UInt64, at DateTime, note String) \
                   ENGINE = MergeTree ORDER BY (user, at)";

fn ok(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.cli(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

fn refused(cluster: &Cluster, arguments: &[&str], code: &str) -> String {
    let said = cluster.cli(arguments).expect_err("it is refused").to_string();
    assert!(said.contains(code), "{arguments:?}: {said}");
    said
}

/// Where each shard's replicas are, in placement's order.
fn placed(status: &ClusterStatus) -> BTreeMap<u32, Vec<String>> {
    let shards = status.tables.iter().flat_map(|table| &table.shards);
    shards.map(|shard| (shard.id.0, shard.replicas.iter().map(|r| r.node.to_string()).collect())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_refused_in_another_world_and_else_carried_out_exactly_with_balancing_off() {
    let mut cluster = Cluster::start(3, 1).await;
    let partitions = PARTITIONS.to_string();
    let numbers = ["--partitions", &partitions, "--shards", "8", "--replicas", "2", "--partition-by", "user"];
    ok(&cluster, &[&["table", "create", DDL], &numbers[..]].concat());
    let table = cluster.table("shop.events").unwrap();
    for node in &cluster.nodes {
        prepare(node, &table.cluster).await;
    }
    ok(&cluster, &["balance", "off", "--reason", "test"]);
    let stream = Producer::start(&cluster, 20_000);
    stream.flow(20_000).await;
    cluster.add_node().await;
    cluster.nodes[3].until_routed(&table.cluster, "shop", "events").await;
    prepare(&cluster.nodes[3], &table.cluster).await;
    cluster.until("rows in every shard, and the new node reports", |status| {
        let mut replicas = status.tables.iter().flat_map(|t| &t.shards).flat_map(|s| &s.replicas);
        status.nodes.len() == 4
            && status.nodes.iter().all(|node| node.clickhouse_up == Some(true))
            && replicas.all(|replica| replica.rows > 0)
    });
    let readers = Readers::of(&cluster, 3).await;
    let file = cluster.folder.path().join("plan.json");
    let file = file.to_str().unwrap();
    let old = ok(&cluster, &["plan", "--out", file, "--json"]);
    let old: ClusterPlan = serde_json::from_str(&old).unwrap();
    assert!(old.moves.len() >= 2 && old.bytes > 0, "{old:?}");
    assert!(ok(&cluster, &["plan", "apply", file, "--dry-run"]).starts_with("the plan fits"));

    // Another world: a shard is frozen.
    ok(&cluster, &["hold", "freeze", "shop.events", "s0", "--for", "1h", "--reason", "audit"]);
    let said = refused(&cluster, &["plan", "apply", file], "CVH-0810");
    assert!(said.contains("shard s0 of shop.events is frozen (audit)"), "{said}");
    refused(&cluster, &["shard", "lead", "shop.events", "s0", "n4"], "n4 has no replica of s0");
    let followers = placed(&cluster.status().unwrap())[&0].clone();
    refused(&cluster, &["shard", "lead", "shop.events", "s0", &followers[1]], "CVH-0809");
    assert!(ok(&cluster, &["table", "show", "shop.events"]).contains("audit"));
    ok(&cluster, &["hold", "release", "shop.events", "s0"]);

    // The same world again: it is carried out, though balancing is off.
    let run = ok(&cluster, &["plan", "apply", file, "--json"]);
    let run: PlanRunStatus = serde_json::from_str(&run).unwrap();
    assert_eq!((run.state, run.moves_left), (RunState::Done, 0), "{run:?}");
    cluster.until("old copies to be gone", |status| {
        status.tables.iter().all(|table| table.complete)
            && placed(status).values().all(|nodes| nodes.len() == 2)
    });
    let now = placed(&cluster.status().unwrap());
    for of in &old.moves {
        let wanted: Vec<String> = of.nodes.iter().map(ToString::to_string).collect();
        let mut sorted = (wanted.clone(), now[&of.shard.0].clone());
        assert_eq!(sorted.0[0], sorted.1[0], "{} is led as planned", of.shard);
        sorted.0.sort();
        sorted.1.sort();
        assert_eq!(sorted.0, sorted.1, "{} is where it was planned", of.shard);
    }
    let held = |number: u32| cluster.status().unwrap().nodes[number as usize].replicas;
    assert_eq!((0..4).map(held).collect::<Vec<u32>>(), [4; 4]);
    let again: ClusterPlan = serde_json::from_str(&ok(&cluster, &["plan", "--json"])).unwrap();
    assert!(
        again.moves.iter().all(|of| of.add.is_empty()),
        "a second plan copies nothing: {:?}",
        again.moves
    );
    readers.flow(20).await;
    let rows = stream.end().await;
    let verdict = readers.end().await;
    assert_eq!((verdict.wrong, verdict.unexplained), (vec![], vec![]), "of {} answers", verdict.answered);
    println!("{} queries answered, 0 wrong, 0 failed", verdict.answered);
    cluster.prove_events(rows, 0).await;
}
