//! Topics whose history has holes: what retention took before it was read, and offsets that never held a row.

use super::support::cluster::{Cluster, DDL, PARTITIONS};
use converthouse::adapters::kafka::Kafka;
use converthouse::model::control::ClusterStatus;
use converthouse::model::names::{self, TopicPartition};
use converthouse::model::observed::Stall;
use converthouse::model::table::TableName;
use converthouse::model::{PartitionId, ShardId};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

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
    let began = std::time::Instant::now();
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
    let began = std::time::Instant::now();
    while cluster.client.watermarks(&source(0)).await.unwrap().high != 28 {
        assert!(began.elapsed().as_secs() < 30, "three marks and 25 messages: {:?}", source(0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The last offset is a mark as well: the replica knows that nothing is left to be taken.
    let group = "converthouse.test.n1";
    let began = std::time::Instant::now();
    while !matches!(&cluster.client.committed(group, &[source(0)]).await.unwrap()[0], Some(at) if at.next == 28)
    {
        assert!(began.elapsed().as_secs() < 30, "the position stands before the last mark");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
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
