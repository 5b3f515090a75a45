//! `converthouse verify` on a live cluster: silent where all is well, and what was tampered with is found.

use super::support::cluster::Cluster;
use super::support::producer::Producer;
use converthouse::adapters::kafka::{Kafka, Outgoing};
use converthouse::model::control::TableStatus;
use converthouse::model::names::{self, TopicPartition};
use converthouse::model::table::TableName;
use converthouse::model::verify::{Difference, PartitionVerdict};
use std::time::{Duration, Instant};

/// The verdicts and whether the command said that all is well.
fn verify(cluster: &Cluster) -> (Vec<PartitionVerdict>, bool) {
    let node = &cluster.nodes[0];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_converthouse"))
        .args(["--server", &node.grpc_url, "verify", "shop.events", "--json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdicts = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{error}"));
    assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{said}{error}");
    (verdicts, output.status.success())
}

fn database(table: &TableStatus, shard: usize) -> String {
    let name = TableName { database: table.database.clone(), table: table.table.clone() };
    names::replica_database(&name, table.id, table.shards[shard].id)
}

/// Waits for a server's mutations.
async fn mutate(cluster: &Cluster, node: usize, sql: &str) {
    let node = &cluster.nodes[node];
    node.query(sql).await.unwrap();
    let began = Instant::now();
    while node.query("SELECT count() FROM system.mutations WHERE NOT is_done").await.unwrap() != "0" {
        assert!(began.elapsed() < Duration::from_secs(30), "{sql}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_rows_that_were_removed_changed_or_doubled_and_nothing_else() {
    let cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    let bad = |text: &str| Outgoing {
        target: TopicPartition { topic: "shop.events.5".into(), partition: 0 },
        payload: Some(text.to_owned().into()),
        headers: Vec::new(),
    };
    cluster.client.produce(["no row", "{\"id\":-}", "}", "[]"].map(bad).to_vec()).await.unwrap();
    let stream = Producer::start(&cluster, 20_000);
    stream.flow(20_000).await;
    let (verdicts, _) = verify(&cluster);
    let bad: Vec<_> = verdicts.iter().filter(|verdict| !verdict.differences.is_empty()).collect();
    assert!(bad.is_empty(), "during ingest: {bad:#?}");
    let rows = stream.end().await;
    cluster.prove_events(rows, 3).await;
    // Positions are recorded a little later than rows are there.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (verdicts, well) = verify(&cluster);
    assert!(well && verdicts.iter().all(|verdict| verdict.replicas.len() == 2), "{verdicts:#?}");
    let held: u64 = verdicts.iter().map(|verdict| verdict.replicas.values().next().unwrap().rows).sum();
    let sum = |of: fn(&PartitionVerdict) -> u64| verdicts.iter().map(of).sum::<u64>();
    assert_eq!((held, sum(|verdict| verdict.dead_letters), sum(|verdict| verdict.empty)), (rows, 3, 1));

    let table = cluster.table("shop.events").unwrap();
    let (first, second) = (database(&table, 0), database(&table, 1));
    let lo = |shard: usize| table.shards[shard].range.lo();
    let of = |partition: u32, offset: u64| format!("_cvh_partition = {partition} AND _cvh_offset = {offset}");
    // Removed from one replica, changed in one, removed from both, and doubled in one.
    let (removed, changed) = (lo(0), lo(0) + 1);
    let (lost, doubled) = (lo(1), lo(1) + 1);
    mutate(&cluster, 0, &format!("ALTER TABLE `{first}`.local DELETE WHERE {}", of(removed, 40))).await;
    let update = format!("ALTER TABLE `{first}`.local UPDATE note = 'x' WHERE {}", of(changed, 41));
    mutate(&cluster, 1, &update).await;
    for node in [0, 1] {
        mutate(&cluster, node, &format!("ALTER TABLE `{second}`.local DELETE WHERE {}", of(lost, 42))).await;
    }
    let gates =
        format!("SELECT name FROM system.tables WHERE database = '{second}' AND engine = 'MaterializedView'");
    let gate = cluster.nodes[0].query(&gates).await.unwrap();
    let columns = "_cvh_partition, _cvh_offset, _cvh_row, id, user, at, note";
    let again = format!(
        "INSERT INTO `{second}`.`{gate}` ({columns}) SELECT {columns} FROM `{second}`.local WHERE {}",
        of(doubled, 43)
    );
    cluster.nodes[0].query(&again).await.unwrap();

    let (verdicts, well) = verify(&cluster);
    assert!(!well);
    for verdict in &verdicts {
        let partition = verdict.partition.0;
        let at = |wanted: i64| {
            move |difference: &Difference| match difference {
                Difference::Differing { offsets, .. } | Difference::Missing { offsets, .. } => {
                    *offsets == [wanted]
                }
                Difference::Doubled { rows, .. } => *rows == 1,
            }
        };
        let kinds: Vec<&str> = verdict
            .differences
            .iter()
            .map(|difference| match difference {
                Difference::Differing { .. } => "differing",
                Difference::Missing { .. } => "missing",
                Difference::Doubled { .. } => "doubled",
            })
            .collect();
        let (expected, offset): (&[&str], i64) = match partition {
            p if p == removed => (&["differing", "missing"], 40),
            p if p == changed => (&["differing"], 41),
            p if p == lost => (&["missing"], 42),
            p if p == doubled => (&["doubled", "differing"], 43),
            _ => (&[], 0),
        };
        assert_eq!(kinds, expected, "{verdict:#?}");
        assert!(verdict.differences.iter().all(at(offset)), "{verdict:#?}");
        assert!(verdict.unchecked.is_empty(), "{verdict:#?}");
    }
    let said = cluster.cli(&["verify", "shop.events"]).unwrap_err();
    assert!(said.contains("4 of 8 partitions") && said.contains("remedy"), "{said}");
}
