//! Topics whose history has holes: what retention took before it was read, and offsets that never held a row.

use super::elastic::operate;
use super::support::cluster::{Cluster, DDL, PARTITIONS};
use converthouse::adapters::kafka::{Kafka, Outgoing};
use converthouse::model::control::{ClusterStatus, OperationStatus};
use converthouse::model::names::{self, TopicPartition};
use converthouse::model::observed::Stall;
use converthouse::model::table::TableName;
use converthouse::model::{PartitionId, ShardId};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

async fn one_node() -> Cluster {
    let cluster = Cluster::start_standalone(1).await;
    let partitions = PARTITIONS.to_string();
    let made = cluster.cli(&["table", "create", DDL, "--partitions", &partitions, "--partition-by", "user"]);
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster
}

fn client(cluster: &Cluster) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.kafka.brokers.bootstrap());
    config
}

fn source(partition: u64) -> TopicPartition {
    TopicPartition { topic: format!("shop.events.{partition}"), partition: 0 }
}

/// As retention does it: everything below the offset goes.
async fn forget_below(cluster: &Cluster, source: &TopicPartition, offset: i64) {
    let admin: AdminClient<_> = client(cluster).create().unwrap();
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_offset(&source.topic, source.partition, Offset::Offset(offset)).unwrap();
    admin.delete_records(&wanted, &AdminOptions::new()).await.unwrap();
    assert_eq!(cluster.client.watermarks(source).await.unwrap().low, offset);
}

fn stall(status: &ClusterStatus, partition: u32) -> Option<&Stall> {
    status.tables[0].shards[0].replicas[0].stalls.get(&PartitionId(partition))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_retention_took_before_they_were_read_are_told_and_never_skipped() {
    let mut cluster = one_node().await;
    cluster.produce(0..2_000).await;
    cluster.prove_events(2_000, 0).await;
    let read = cluster.client.watermarks(&source(0)).await.unwrap().high;
    cluster.nodes[0].kill_daemon();
    cluster.produce(2_000..4_000).await;
    let gone = cluster.client.watermarks(&source(0)).await.unwrap().high - 20;
    assert!(gone > read);
    forget_below(&cluster, &source(0), gone).await;
    // What was read already may go.
    forget_below(&cluster, &source(1), 10).await;
    cluster.nodes[0].start_daemon();
    cluster.until("the loss to be told, and that it is no other partition's", |status| {
        let told = stall(status, 0) == Some(&Stall::OffsetsGone { from: read, to: gone });
        let others = (1..8).all(|partition| stall(status, partition).is_none());
        told && others && !status.healthy
    });
    let table = cluster.table("shop.events").unwrap();
    let name = TableName { database: "shop".into(), table: "events".into() };
    let database = names::replica_database(&name, table.id, ShardId(0));
    let held = format!(
        "SELECT countIf(_cvh_partition = 0), maxIf(_cvh_offset, _cvh_partition = 0), \
         countIf(_cvh_partition > 0) FROM {database}.local"
    );
    let mut others = 0;
    for partition in 1..PARTITIONS {
        others += cluster.client.watermarks(&source(partition)).await.unwrap().high;
    }
    let whole = format!("{read}\t{}\t{others}", read - 1);
    let began = Instant::now();
    while cluster.nodes[0].query(&held).await.unwrap() != whole {
        assert!(began.elapsed().as_secs() < 30, "{:?}, not {whole}", cluster.nodes[0].query(&held).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Nor after a restart, nor with what comes later.
    cluster.nodes[0].kill_daemon();
    cluster.produce(4_000..4_400).await;
    cluster.nodes[0].start_daemon();
    cluster.until("it to be told again", |status| {
        stall(status, 0) == Some(&Stall::OffsetsGone { from: read, to: gone })
    });
    let shown = cluster.nodes[0].query(&held).await.unwrap();
    assert!(shown.starts_with(&format!("{read}\t{}\t", read - 1)), "{shown}");
    let said = cluster.cli(&["table", "show", "shop.events"]).unwrap();
    assert!(said.contains("p0 stands still: offsets gone"), "{said}");
    let problems = cluster.status().unwrap().problems;
    let fields =
        |problem: &&String| problem.contains(&read.to_string()) && problem.contains(&gone.to_string());
    assert!(problems.iter().any(|problem| fields(&problem)), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_without_messages_are_told_and_hold_nothing_up() {
    let cluster = one_node().await;
    let producer: BaseProducer = client(&cluster)
        .set("transactional.id", "t")
        .set("transaction.timeout.ms", "30000")
        .set("message.timeout.ms", "30000")
        .create()
        .unwrap();
    let patience = Duration::from_secs(30);
    producer.init_transactions(patience).unwrap();
    let topic = "shop.events.0";
    let send = |ids: std::ops::Range<u64>| {
        for id in ids {
            let text =
                format!("{{\"id\":{id},\"user\":{},\"at\":\"2026-01-05 00:00:00\",\"note\":\"\"}}", id * 8);
            producer.send(BaseRecord::<(), _>::to(topic).payload(&text)).map_err(|(error, _)| error).unwrap();
        }
    };
    // Committed, given up, committed: each leaves a mark that takes an offset, and the second its messages too.
    for (ids, committed) in [(0..10, true), (10..15, false), (15..25, true)] {
        producer.begin_transaction().unwrap();
        send(ids);
        if committed {
            producer.commit_transaction(patience).unwrap();
        } else {
            producer.flush(patience).unwrap();
            producer.abort_transaction(patience).unwrap();
        }
    }
    // A commit is acknowledged before its mark stands in the topic.
    let began = Instant::now();
    while cluster.client.watermarks(&source(0)).await.unwrap().high != 28 {
        assert!(began.elapsed().as_secs() < 30, "three marks and 25 messages: {:?}", source(0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The last offset is a mark as well: the replica knows that nothing is left to be taken.
    recorded(&cluster, "n1", 0, 28).await;
    cluster.prove("shop.events", 20, 1).await;
    let shown =
        cluster.nodes[0].query("SELECT count(), uniqExact(id), sum(id) FROM shop.events").await.unwrap();
    assert_eq!(shown, format!("20\t20\t{}", (0..10).chain(15..25).sum::<u64>()));
    assert_eq!(
        cluster.nodes[0].metric("converthouse_offset_gaps_total"),
        8.0,
        "{}",
        cluster.nodes[0].metrics()
    );
    assert!(cluster.nodes[0].said("the topic has no messages there") >= 1);
}

const ID_MAX: u64 = 1_000_000;

/// A table on two nodes with 800 rows in one shard; every partition's newest offset is a tombstone, recorded, and
/// retention has taken everything. What is moved is moved by hand.
async fn quiet() -> Cluster {
    let cluster = Cluster::start(2, 1).await;
    cluster.create_events(1);
    cluster.cli(&["balance", "off"]).unwrap_or_else(|error| panic!("{error}"));
    cluster.produce(0..800).await;
    cluster.prove_events(800, 0).await;
    forget(&cluster, ["n1", "n2"]).await;
    cluster
}

/// A tombstone into each partition; once it is recorded in these groups, retention takes everything.
async fn forget(cluster: &Cluster, recorded_in: [&str; 2]) {
    let tombstone = |partition| Outgoing { target: source(partition), payload: None, headers: Vec::new() };
    cluster.client.produce((0..PARTITIONS).map(tombstone).collect()).await.unwrap();
    for partition in 0..PARTITIONS {
        let end = cluster.client.watermarks(&source(partition)).await.unwrap().high;
        for group in recorded_in {
            recorded(cluster, group, partition, end).await;
        }
        forget_below(cluster, &source(partition), end).await;
    }
}

/// Waits until a node has recorded that it has passed everything below that offset.
async fn recorded(cluster: &Cluster, node: &str, partition: u64, next: i64) {
    let (group, began) = (format!("converthouse.test.{node}"), Instant::now());
    let position = async || cluster.client.committed(&group, &[source(partition)]).await.unwrap().remove(0);
    while !matches!(position().await, Some(at) if at.next == next) {
        assert!(began.elapsed().as_secs() < 60, "{node} has not recorded {next} of partition {partition}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn all_there(cluster: &Cluster, rows: u64) {
    cluster.until("every copy to have taken everything", |status| {
        let replicas = || status.tables[0].shards.iter().flat_map(|shard| &shard.replicas);
        status.tables[0].complete && replicas().all(|r| r.lag == Some(0) && r.stalls.is_empty())
    });
    for node in &cluster.nodes {
        let sql = "SELECT count(), uniqExact(id), max(id) FROM shop.events";
        let (began, wanted) = (Instant::now(), format!("{rows}\t{rows}\t{}", rows - 1));
        while node.query(sql).await.unwrap() != wanted {
            assert!(began.elapsed().as_secs() < 30, "{}: {:?}", node.id, node.query(sql).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_messages_are_gone_goes_on_through_splits_and_a_merge() {
    let cluster = quiet().await;
    // No message comes to tell how far what is made has come: what its grandparents recorded has to do.
    for _ in 0..2 {
        operate(&cluster, &["shard", "split", "shop.events"]);
        all_there(&cluster, 800).await;
    }
    let ids: Vec<String> =
        cluster.table("shop.events").unwrap().shards.iter().map(|shard| shard.id.to_string()).collect();
    operate(&cluster, &["shard", "merge", "shop.events", &ids[0], &ids[1]]);
    all_there(&cluster, 800).await;
    cluster.produce(800..1_000).await;
    all_there(&cluster, 1_000).await;
}

/// A split that comes no further: n1's halves are made and have taken the rows up to 1000, n2's wait for a mutation.
async fn half_split(cluster: &Cluster) -> Vec<OperationStatus> {
    let table = cluster.table("shop.events").unwrap();
    let name = TableName { database: "shop".into(), table: "events".into() };
    let database = |shard: u32| names::replica_database(&name, table.id, ShardId(shard));
    let held_up = format!("ALTER TABLE `{}`.local DELETE WHERE id > {ID_MAX}", database(0));
    for sql in ["SYSTEM STOP MERGES", &held_up] {
        cluster.nodes[1].query(sql).await.unwrap();
    }
    let begun = cluster.cli(&["shard", "split", "shop.events", "--no-wait", "--json"]).unwrap();
    let begun: Vec<OperationStatus> = serde_json::from_str(&begun).unwrap();
    cluster.produce(800..1_000).await;
    let taken = format!(
        "SELECT sum(c) FROM (SELECT count() AS c FROM `{}`.local UNION ALL SELECT count() AS c FROM `{}`.local)",
        database(1),
        database(2)
    );
    let began = Instant::now();
    while cluster.nodes[0].query(&taken).await.ok().as_deref() != Some("1000") {
        assert!(began.elapsed().as_secs() < 60, "{:?}", cluster.nodes[0].query(&taken).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    begun
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_disk_is_filled_from_another_copy_where_topics_do_not_go_back_as_far() {
    let mut cluster = quiet().await;
    cluster.produce(800..900).await;
    all_there(&cluster, 900).await;
    let server = &mut cluster.nodes[1].server;
    server.kill().unwrap();
    std::fs::remove_dir_all(server.folder().join("data")).unwrap();
    cluster.produce(900..1_000).await;
    cluster.nodes[1].server.start().await.unwrap();
    // Its copy's last state is what the leader knows until the daemon has looked at what the disk holds now.
    let began = Instant::now();
    while cluster.nodes[1].query("EXISTS TABLE shop.events").await.unwrap() != "1" {
        assert!(began.elapsed().as_secs() < 60, "the table has not been made again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    all_there(&cluster, 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_that_is_undone_leaves_its_shard_where_that_stood() {
    let cluster = quiet().await;
    let id = half_split(&cluster).await[0].operation.id.to_string();
    cluster.cli(&["op", "cancel", &id]).unwrap_or_else(|error| panic!("{error}"));
    cluster.until("the split to be undone", |status| status.tables[0].shards.len() == 1);
    cluster.nodes[1].query("SYSTEM START MERGES").await.unwrap();
    all_there(&cluster, 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_that_are_started_again_before_they_are_published_go_on_where_they_were() {
    let mut cluster = quiet().await;
    half_split(&cluster).await;
    // What the halves have passed and their parent has not: no row tells of it, and the topic neither.
    forget(&cluster, ["n1.preparing", "n2"]).await;
    cluster.nodes[0].kill_daemon();
    cluster.nodes[0].start_daemon();
    cluster.nodes[1].query("SYSTEM START MERGES").await.unwrap();
    cluster.until("the split to be done", |status| status.tables[0].shards.len() == 2);
    all_there(&cluster, 1_000).await;
    cluster.produce(1_000..1_200).await;
    all_there(&cluster, 1_200).await;
}
