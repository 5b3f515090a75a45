//! Bad input of every kind, given to a running cluster by the command line: each is refused with a code, a place and
//! a remedy, and changes nothing.

use super::support::cluster::{Cluster, DDL};

const GOOD: &str = "CREATE TABLE d.good (a UInt64, s String) ENGINE = MergeTree ORDER BY a";

fn create(cluster: &Cluster, ddl: &str, more: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["table", "create", ddl, "--partitions", "4"];
    arguments.extend(more);
    if !more.contains(&"--partition-by") {
        arguments.extend(["--partition-by", "a"]);
    }
    cluster.cli(&arguments)
}

fn refused(cluster: &Cluster, ddl: &str, more: &[&str], words: &[&str]) {
    let error = create(cluster, ddl, more).expect_err(ddl);
    assert!(error.starts_with("error") && error.contains("remedy: "), "{ddl}: {error}");
    for word in words {
        assert!(error.to_lowercase().contains(&word.to_lowercase()), "{ddl}: {word:?} is not in {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_table_is_refused_with_a_reason_and_leaves_nothing_behind() {
    let cluster = Cluster::start(1, 1).await;
    refused(&cluster, "CREATE TABEL d.t (a UInt64)", &[], &[]);
    refused(&cluster, "CREATE TABLE d.t (a UInt64 ENGINE = MergeTree ORDER BY a", &[], &[]);
    refused(&cluster, "SELECT 1", &[], &[]);
    refused(&cluster, "CREATE TABLE d.t (a UInt64, b Nope) ENGINE = MergeTree ORDER BY a", &[], &["nope"]);
    for engine in ["Memory", "Log", "ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree"] {
        let order = if engine.ends_with("Tree") { " ORDER BY a" } else { "" };
        refused(&cluster, &format!("CREATE TABLE d.t (a UInt64) ENGINE = {engine}{order}"), &[], &[engine]);
    }
    refused(
        &cluster,
        "CREATE TABLE d.t (a UInt64, _cvh_row UInt8) ENGINE = MergeTree ORDER BY a",
        &[],
        &["_cvh_"],
    );
    refused(&cluster, GOOD, &["--partition-by", "s"], &["integer", "String"]);
    refused(&cluster, GOOD, &["--partition-by", "nobody"], &["nobody"]);
    refused(&cluster, GOOD, &["--partition-by", "a / 2"], &["Float64"]);
    refused(&cluster, GOOD, &["--shards", "5"], &["shards"]);
    refused(&cluster, GOOD, &["--replicas", "2"], &["replicas", "nodes"]);
    refused(&cluster, GOOD, &["--first-node", "n9"], &["n9"]);
    refused(&cluster, GOOD, &["--topic-prefix", "no spaces"], &["topic"]);
    for (setting, why) in [
        ("input_format_csv_skip_first_lines=1", "drop rows in silence"),
        ("max_insert_block_size=7", "none for parsing messages"),
    ] {
        refused(&cluster, GOOD, &["--setting", setting], &[why]);
    }
    cluster.cli(&["node", "cordon", "n1"]).unwrap();
    refused(&cluster, GOOD, &["--first-node", "n1"], &["n1 is cordoned"]);
    let databases = cluster.nodes[0].query("SHOW DATABASES").await.unwrap();
    assert!(!databases.contains("cvh"), "something was left behind: {databases}");
    assert_eq!(cluster.status().unwrap().tables, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_exists_is_told_from_one_that_is_the_same() {
    let cluster = Cluster::start(1, 1).await;
    create(&cluster, GOOD, &[]).unwrap();
    refused(&cluster, GOOD, &[], &["exists"]);
    create(&cluster, GOOD, &["--if-not-exists"]).unwrap();
    let other = "CREATE TABLE d.good (a UInt64, s UInt8) ENGINE = MergeTree ORDER BY a";
    refused(&cluster, other, &["--if-not-exists"], &["another definition"]);
    for (option, value, told) in [
        ("--shards", "2", "shards 1, not 2"),
        ("--replicas", "1", ""),
        ("--format", "CSV", "format JSONEachRow, not CSV"),
        ("--partition-by", "a + 1", "partition expression a, not a + 1"),
        ("--topic-layout", "one-topic", "topic layout"),
        ("--setting", "input_format_skip_unknown_fields=1", "format settings none, not input_format"),
        ("--batch-rows", "7", "batch rows 262144, not 7"),
        ("--batch-age-ms", "70", "batch age 1000 ms, not 70 ms"),
        ("--topic-prefix", "elsewhere", "topic prefix d.good, not elsewhere"),
    ] {
        let more = ["--if-not-exists", option, value];
        if told.is_empty() {
            create(&cluster, GOOD, &more).unwrap();
        } else {
            refused(&cluster, GOOD, &more, &["another definition", told]);
        }
    }
    let same_topics = "CREATE TABLE d.other (a UInt64) ENGINE = MergeTree ORDER BY a";
    refused(&cluster, same_topics, &["--topic-prefix", "d.good"], &["d.good"]);
    let error = cluster.cli(&["table", "drop", "d.nobody"]).unwrap_err();
    assert!(error.contains("d.nobody") && error.contains("CVH-0802"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_tables_made_at_the_same_moment_on_the_same_topics_one_is_refused() {
    let cluster = Cluster::start(1, 1).await;
    let make = |n: u32| {
        let ddl = format!("CREATE TABLE d.twin{n} (a UInt64) ENGINE = MergeTree ORDER BY a");
        create(&cluster, &ddl, &["--topic-prefix", "twins"])
    };
    let made: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|n| scope.spawn(move || make(n))).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    let errors: Vec<_> = made.iter().filter_map(|made| made.as_ref().err()).collect();
    assert_eq!(errors.len(), 3, "{made:?}");
    assert!(errors.iter().all(|error| error.contains("twins.*")), "{errors:?}");
    assert_eq!(cluster.status().unwrap().tables.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_table_goes_everywhere_and_its_name_can_be_used_again() {
    let cluster = Cluster::start(2, 1).await;
    create(&cluster, GOOD, &["--replicas", "2"]).unwrap();
    cluster.cli(&["table", "drop", "d.good", "--delete-topics"]).unwrap();
    create(&cluster, GOOD, &["--replicas", "2"]).unwrap();
    cluster.until("the old table to be gone", |status| status.tables.len() == 1);
    let left =
        cluster.nodes[0].query("SELECT name FROM system.databases WHERE name LIKE '%cvh%'").await.unwrap();
    assert_eq!(left.lines().count(), 1, "{left}");
    assert_eq!(cluster.nodes[1].query("SELECT count() FROM d.good").await.unwrap(), "0");
}

/// The node that was down still has the old table when it comes back: nothing that it or the leader then removes may
/// be the new table's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_again_keeps_its_messages_when_a_node_comes_back_with_the_dropped_one() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    cluster.produce(0..2_000).await;
    cluster.prove_events(2_000, 0).await;
    let away = 1 - cluster.leader();
    cluster.nodes[away].kill_daemon();
    let name = cluster.nodes[away].id.clone();
    cluster.until("the daemon's lease to end", |status| {
        status.nodes.iter().any(|node| node.id.as_str() == name && !node.live)
    });
    let said = cluster.cli(&["table", "drop", "shop.events", "--delete-topics"]).unwrap();
    assert!(said.contains("is gone") && said.contains(&format!("node {name}, which is down")), "{said}");
    let again =
        ["table", "create", DDL, "--partitions", "8", "--shards", "2", "--partition-by", "user", "--no-wait"];
    cluster.cli(&again).unwrap();
    cluster.produce(0..3_000).await;
    cluster.nodes[away].start_daemon();
    cluster.until("the old table to be forgotten", |status| status.tables.len() == 1);
    cluster.prove("shop.events", 3_000, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_the_users_own_is_never_overwritten() {
    let cluster = Cluster::start(1, 1).await;
    cluster.nodes[0].query("CREATE DATABASE d").await.unwrap();
    cluster.nodes[0].query("CREATE TABLE d.good (x UInt8) ENGINE = Log").await.unwrap();
    cluster.nodes[0].query("INSERT INTO d.good VALUES (7)").await.unwrap();
    create(&cluster, GOOD, &["--no-wait"]).unwrap();
    cluster.until("the conflict to be told", |status| {
        status.problems.iter().any(|problem| problem.contains("CVH-0408"))
    });
    assert_eq!(cluster.nodes[0].query("SELECT x FROM d.good").await.unwrap(), "7");
    // Once it is out of the way, the daemon goes on by itself.
    cluster.nodes[0].query("DROP TABLE d.good").await.unwrap();
    cluster.until("the table to be complete", |status| status.tables.iter().all(|table| table.complete));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_with_quotes_dots_unicode_and_keywords_work_from_end_to_end() {
    use converthouse::adapters::kafka::{Kafka, Outgoing};
    use converthouse::model::names::TopicPartition;
    let cluster = Cluster::start(1, 1).await;
    for (number, name) in ["`we.ird`.`ta\\`ble'\"`", "`select`.`from`", "`база`.`表 1`"].iter().enumerate()
    {
        let ddl = format!(
            "CREATE TABLE {name} (`order by` UInt64, `naïve.x'` String) ENGINE = MergeTree ORDER BY `order by`"
        );
        let prefix = format!("odd{number}");
        create(&cluster, &ddl, &["--partition-by", "`order by`", "--topic-prefix", &prefix]).unwrap();
        let row = |n: u64| Outgoing {
            target: TopicPartition { topic: format!("{prefix}.{}", n % 4), partition: 0 },
            payload: Some(format!("{{\"order by\":{n},\"naïve.x'\":\"v\"}}").into()),
            headers: vec![],
        };
        cluster.client.produce((0..100).map(row).collect()).await.unwrap();
        let query = format!("SELECT count(), uniqExact(`order by`), any(`naïve.x'`) FROM {name}");
        let began = std::time::Instant::now();
        loop {
            let shown = cluster.nodes[0].query(&query).await.unwrap();
            if shown == "100\t100\tv" {
                break;
            }
            assert!(began.elapsed().as_secs() < 30, "{name}: {shown}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        cluster.cli(&["table", "drop", name]).unwrap();
    }
}
