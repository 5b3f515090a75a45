//! What comes in that should not, on real servers: nothing is dropped in silence, nothing stops what is good.

use super::support::cluster::{Cluster, PARTITIONS};
use super::support::disk::SmallDisk;
use super::support::kafka::noise;
use converthouse::adapters::kafka::{Kafka, NewTopic, Outgoing};
use converthouse::model::control::ClusterStatus;
use converthouse::model::names::TopicPartition;
use converthouse::model::observed::Stall;

fn raw(partition: u64, payload: Option<&'static str>) -> Outgoing {
    Outgoing { payload: payload.map(Into::into), ..text(partition, String::new()) }
}

fn text(partition: u64, payload: String) -> Outgoing {
    let target = TopicPartition { topic: format!("shop.events.{partition}"), partition: 0 };
    Outgoing { target, payload: Some(payload.into()), headers: vec![] }
}

/// What was put aside of a table, as each replica did for itself.
async fn dead_letters(cluster: &Cluster, table: &str) -> Vec<String> {
    let source = TopicPartition { topic: format!("{table}.dead-letter"), partition: 0 };
    let high = cluster.client.watermarks(&source).await.unwrap().high;
    let mut texts = Vec::new();
    for offset in 0..high {
        let chunk = cluster.client.peek(&source, offset).await.unwrap().unwrap();
        texts.push(String::from_utf8_lossy(chunk.payload_of(&chunk.messages[0])).into_owned());
    }
    texts
}

/// Waits until exactly these messages of a table were put aside, by each replica of the partition's shard. A batch's
/// good rows are readable before its bad ones are put aside.
pub async fn put_aside(cluster: &Cluster, table: &str, expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let began = std::time::Instant::now();
    loop {
        let mut aside = dead_letters(cluster, table).await;
        aside.sort();
        aside.dedup();
        if aside == expected {
            return;
        }
        assert!(began.elapsed().as_secs() < 20, "{aside:?} were put aside, not {expected:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_message_among_a_million_good_ones_is_the_only_one_put_aside() {
    let cluster = Cluster::start(1, 1).await;
    let made = cluster.cli(&[
        "table",
        "create",
        super::support::cluster::DDL,
        "--partitions",
        &PARTITIONS.to_string(),
        "--partition-by",
        "user",
    ]);
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster.produce(0..600_000).await;
    cluster.client.produce(vec![raw(3, Some("{\"id\":\"poison\",\"user\":3}"))]).await.unwrap();
    cluster.produce(600_000..1_000_000).await;
    cluster.prove_events(1_000_000, 1).await;
    put_aside(&cluster, "shop.events", &["{\"id\":\"poison\",\"user\":3}"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_another_schema_cut_off_empty_or_without_payload_stop_nothing() {
    let cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    cluster.produce(0..1_000).await;
    let bad = [
        "{\"user_name\":\"x\",\"nothing\":\"known\"}",
        "{\"id\":1,\"user\":",
        "not json at all",
        "[1,2,3]",
        "{\"id\":-5.5,\"user\":[],\"at\":{},\"note\":1}",
        "{\"id\":1,\"_cvh_offset\":7}",
    ];
    let messages = bad.iter().map(|text| raw(5, Some(text))).chain([raw(5, Some("")), raw(5, None)]);
    cluster.client.produce(messages.collect()).await.unwrap();
    cluster.produce(1_000..2_000).await;
    cluster.prove_events(2_000, 1).await;
    put_aside(&cluster, "shop.events", &bad).await;
}

/// A sorting key is computed part by part, as each is written: January's part of a batch is in when February's fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_before_one_that_the_sorting_key_cannot_take_are_there_once() {
    let ddl = "CREATE TABLE shop.events (id UInt64, user UInt64, at DateTime, a Int64, b Int64) \
               ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY intDiv(a, b)";
    let cluster = Cluster::start(1, 1).await;
    let made = cluster.cli(&["table", "create", ddl, "--partitions", "8", "--partition-by", "user"]);
    made.unwrap_or_else(|error| panic!("{error}"));
    let is_poison = |id: u64| id % 250 == 199;
    let row = |id: u64| {
        let (month, b) = (1 + id / 50 % 2, u64::from(!is_poison(id)));
        format!("{{\"id\":{id},\"user\":5,\"at\":\"2026-0{month}-05 00:00:00\",\"a\":{id},\"b\":{b}}}")
    };
    cluster.client.produce((0..1_000).map(|id| text(5, row(id))).collect()).await.unwrap();
    let poison: Vec<String> = (0..1_000).filter(|id| is_poison(*id)).map(row).collect();
    cluster.prove("shop.events", 996, 4).await;
    put_aside(&cluster, "shop.events", &poison.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let shown =
        cluster.nodes[0].query("SELECT count(), uniqExact(id), min(b) FROM shop.events").await.unwrap();
    assert_eq!(shown, "996\t996\t1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_that_the_dead_letter_topic_takes_only_in_part_is_cut_and_stops_nothing() {
    let cluster = Cluster::start(1, 1).await;
    let small = NewTopic {
        name: "shop.events.dead-letter".into(),
        partitions: 1,
        replication: 1,
        settings: vec![("max.message.bytes".into(), "100000".into())],
    };
    cluster.client.create_topics(&[small]).await.unwrap();
    let ddl = super::support::cluster::DDL;
    let made = cluster.cli(&["table", "create", ddl, "--partitions", "8", "--partition-by", "user"]);
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster.produce(0..1_000).await;
    let big = noise(200_000);
    cluster.client.produce(vec![text(5, big.clone()), raw(5, Some("not json"))]).await.unwrap();
    cluster.produce(1_000..2_000).await;
    cluster.prove_events(2_000, 2).await;
    put_aside(&cluster, "shop.events", &[&big[..64 << 10], "not json"]).await;
}

fn stalls(status: &ClusterStatus) -> Vec<&Stall> {
    let shards = status.tables.iter().flat_map(|table| &table.shards);
    shards.flat_map(|shard| &shard.replicas).flat_map(|replica| replica.stalls.values()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_deleted_and_made_again_is_noticed_and_told() {
    let cluster = Cluster::start(1, 1).await;
    cluster.nodes[0]
        .cli(&[
            "table",
            "create",
            super::support::cluster::DDL,
            "--partitions",
            "8",
            "--partition-by",
            "user",
        ])
        .unwrap();
    cluster.produce(0..2_000).await;
    cluster.prove_events(2_000, 0).await;
    cluster.client.delete_topics(&["shop.events.0".to_owned()]).await.unwrap();
    cluster.until("the loss to be told", |status| !stalls(status).is_empty() && !status.healthy);
    let new = converthouse::adapters::kafka::NewTopic {
        name: "shop.events.0".into(),
        partitions: 1,
        replication: 1,
        settings: vec![],
    };
    cluster.client.create_topics(&[new]).await.unwrap();
    cluster.until("the new topic not to be taken for the old", |status| {
        stalls(status).iter().any(|stall| matches!(stall, Stall::TopicReplaced { .. }))
    });
    let shown = cluster.nodes[0].query("SELECT count(), uniqExact(id) FROM shop.events").await.unwrap();
    assert_eq!(shown, "2000\t2000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_inserted_through_plain_clickhouse_reach_every_replica_and_direct_ones_are_refused() {
    let cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    let insert = "INSERT INTO shop.events__insert SELECT number AS id, number * 7 AS user, \
                  toDateTime('2026-03-05 00:00:00') AS at, 'by insert' AS note FROM numbers(1000)";
    cluster.nodes[1].query(insert).await.unwrap();
    cluster.prove_events(1_000, 0).await;
    let direct = "INSERT INTO shop.events (id, user, at, note) VALUES (1, 1, '2026-03-05 00:00:00', 'x')";
    assert!(
        cluster.nodes[0].query(direct).await.is_err(),
        "rows past the topics would be on one replica only"
    );
    cluster.prove_events(1_000, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_back_that_node_alone_is_told_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), 40) else { return };
    let cluster = Cluster::start_with(2, 1, Some(disk.path().join("data"))).await;
    cluster.create_events(2);
    let rows = 150_000;
    for start in (0..rows).step_by(5_000) {
        let messages = (start..start + 5_000).map(wide).collect();
        cluster.client.produce(messages).await.unwrap();
    }
    cluster.until("the full disk to be told", |status| {
        let refused = stalls(status).iter().any(|stall| matches!(stall, Stall::ServerRefuses { .. }));
        refused
            || status.problems.iter().any(|problem| problem.contains("No space") || problem.contains("space"))
    });
    let whole = format!("{rows}\t{rows}");
    let began = std::time::Instant::now();
    let query = "SELECT count(), uniqExact(id) FROM shop.events";
    while cluster.nodes[1].query(query).await.unwrap_or_default() != whole {
        assert!(began.elapsed().as_secs() < 60, "the other node does not answer for all rows");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    disk.grow(600);
    cluster.prove("shop.events", rows, 0).await;
}

/// A row of half a kilobyte that hardly compresses.
fn wide(id: u64) -> Outgoing {
    let mut seed = id.wrapping_add(1);
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let note: String = (0..30).map(|_| format!("{:016x}", next())).collect();
    let user = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let text = format!("{{\"id\":{id},\"user\":{user},\"at\":\"2026-01-05 00:00:00\",\"note\":\"{note}\"}}");
    let target = TopicPartition { topic: format!("shop.events.{}", user % PARTITIONS), partition: 0 };
    Outgoing { target, payload: Some(text.into()), headers: vec![] }
}
