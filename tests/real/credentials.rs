//! Wrong passwords, through a real daemon: told with code and remedy wherever somebody looks, and mended by the
//! right one; no password is in a log. And what routes say of a node, when it changes.

use super::support::cluster::{Cluster, DDL, Node};
use super::support::etcd::EtcdCluster;
use super::support::kafka::TestKafka;
use converthouse::adapters::kafka::Kafka as _;
use converthouse::model::control::ClusterStatus;

const CREATE: [&str; 7] = ["table", "create", DDL, "--partitions", "8", "--partition-by", "user"];

/// The record may be of the daemon's run before; a leader that acts tells how it balances.
fn leads(status: &ClusterStatus) -> bool {
    status.balance.configured.is_some()
}

fn restart(cluster: &mut Cluster, from: &str, to: &str) {
    cluster.nodes[0].kill_daemon();
    cluster.nodes[0].reconfigure(from, to);
    cluster.nodes[0].start_daemon();
}

fn log_file(node: &Node) -> std::path::PathBuf {
    node.server.folder().join(format!("daemon-{}.log", node.id))
}

/// What a daemon has logged, each line of it a JSON object that tells when, how grave, from where and what.
fn json_log(node: &Node) -> String {
    let log = std::fs::read_to_string(log_file(node)).unwrap();
    for line in log.lines() {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let field = |name: &str| event[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}"));
        humantime::parse_rfc3339(field("timestamp")).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&field("level")), "{line}");
        assert!(!field("target").is_empty() && !field("message").is_empty(), "{line}");
    }
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_for_kafka_is_told_with_its_code_and_its_remedy() {
    let kafka = TestKafka::start_with_user("alice", "wonder land").await;
    let settings = "settings = { \"security.protocol\" = \"SASL_PLAINTEXT\", \"sasl.mechanisms\" = \"PLAIN\", \
                    \"sasl.username\" = \"alice\", \"sasl.password\" = \"hush\" }\n";
    let mut cluster = Cluster::start_standalone_on(1, kafka, settings).await;
    let told = cluster.cli(&CREATE).expect_err("Kafka lets nobody in");
    assert!(told.contains("CVH-0503") && told.contains("CVH-0804"), "{told}");
    assert!(told.contains("[kafka.settings]") && !told.contains("hush"), "{told}");
    restart(&mut cluster, "\"hush\"", "\"wonder land\"");
    cluster.until("a leader", leads);
    cluster.cli(&CREATE).unwrap_or_else(|error| panic!("{error}"));
    cluster.produce(0..1_000).await;
    cluster.prove_events(1_000, 0).await;
    // With a table there, its partitions say why they stand still.
    restart(&mut cluster, "\"wonder land\"", "\"hush\"");
    cluster.client.produce(vec![super::support::cluster::event(1_000)]).await.unwrap();
    cluster.until("the refusal to be told", |status| {
        !status.healthy && status.problems.iter().any(|problem| problem.contains("CVH-0503"))
    });
    let text = cluster.cli(&["status"]).unwrap();
    assert!(!text.contains("hush"), "{text}");
    restart(&mut cluster, "\"hush\"", "\"wonder land\"");
    cluster.prove_events(1_001, 0).await;
    assert!(cluster.nodes[0].said("CVH-0503") > 0, "{}", cluster.nodes[0].log_tail());
    for secret in ["hush", "wonder land", "pass'word"] {
        assert_eq!(cluster.nodes[0].said(secret), 0, "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_for_etcd_is_told_with_its_code_and_its_remedy() {
    let etcd = EtcdCluster::start(1);
    let mut admin = etcd.client().await;
    admin.user_add("root", "right", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
    let mut cluster = Cluster::start_standalone(1).await;
    cluster.nodes[0].kill_daemon();
    let store =
        format!("kind = \"etcd\"\nendpoints = {:?}\nuser = \"root\"\npassword = \"wr0ng\"", etcd.endpoints());
    cluster.nodes[0].reconfigure("kind = \"embedded\"", &store);
    cluster.nodes[0].reconfigure("clickhouse_port", "clickhouse_host = \"127.0.0.1\"\nclickhouse_port");
    cluster.nodes[0].start_daemon();
    cluster.until("the refusal to be told", |status| {
        let why = |problem: &&String| problem.contains("CVH-0305") && problem.contains("user and password");
        !status.healthy && status.problems.iter().any(|problem| why(&problem))
    });
    let told = cluster.cli(&CREATE).expect_err("nobody leads");
    assert!(told.contains("CVH-0805") && told.contains("CVH-0305"), "{told}");
    assert!(!told.contains("wr0ng") && cluster.nodes[0].said("wr0ng") == 0, "{told}");
    assert!(cluster.nodes[0].said("CVH-0305") > 0, "{}", cluster.nodes[0].log_tail());
    assert!(cluster.nodes[0].get("/readyz").contains("CVH-0305"));
    cluster.nodes[0].kill_daemon();
    cluster.nodes[0].reconfigure("\"wr0ng\"", "\"right\"");
    cluster.nodes[0].start_daemon();
    cluster.until("a leader", leads);
    assert_eq!(cluster.nodes[0].get("/readyz").trim(), "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_address_changes_is_reached_by_the_new_one() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    cluster.produce(0..1_000).await;
    cluster.prove_events(1_000, 0).await;
    restart(&mut cluster, "clickhouse_host = \"127.0.0.1\"", "clickhouse_host = \"localhost\"");
    let started = std::time::Instant::now();
    let sql = "SELECT count() FROM system.clusters WHERE cluster LIKE 'cvh%' AND host_name = 'localhost'";
    while cluster.nodes[1].query(sql).await.unwrap() == "0" {
        let written = std::fs::read_to_string(cluster.nodes[1].server.routes_file()).unwrap();
        assert!(started.elapsed().as_secs() < 60, "the new address is not in {written}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    cluster.prove_events(1_000, 0).await;
}

/// A user that may read and no more, on every server: what one server asks of another is asked as it, copies too. Its
/// password goes into statements and files for that, and into no log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_ask_each_other_as_the_query_user() {
    let mut cluster = Cluster::start(2, 1).await;
    let reader = "<reader><password>r&lt;ader</password><networks><ip>127.0.0.1</ip></networks>\
                  <profile>reads</profile><quota>default</quota></reader></users>";
    let profile = "<reads><readonly>1</readonly></reads></profiles>";
    for node in &mut cluster.nodes {
        let file = node.server.folder().join("users.xml");
        let users = std::fs::read_to_string(&file).unwrap();
        let users = users.replace("</users>", reader).replace("</profiles>", profile);
        std::fs::write(&file, users).unwrap();
        node.query("SYSTEM RELOAD CONFIG").await.unwrap();
        node.kill_daemon();
        node.reconfigure(
            "clickhouse_host",
            "query_user = \"reader\"\nquery_password = \"r<ader\"\nclickhouse_host",
        );
        node.reconfigure("[log]", "[transfer]\nby_parts = false\n[log]\nformat = \"json\"");
        // What it has logged so far was for people.
        std::fs::remove_file(log_file(node)).unwrap();
        node.start_daemon();
    }
    cluster.until("a leader", leads);
    cluster.cli(&[&CREATE[..], &["--shards", "2"]].concat()).unwrap_or_else(|error| panic!("{error}"));
    cluster.produce(0..1_000).await;
    cluster.prove_events(1_000, 0).await;
    let table = cluster.table("shop.events").unwrap();
    let asked = format!(
        "SELECT DISTINCT user FROM cluster('{}', system.processes) WHERE NOT is_initial_query",
        table.cluster
    );
    for node in &cluster.nodes {
        assert_eq!(node.query(&asked).await.unwrap(), "reader", "{}", node.id);
    }
    let shard = &table.shards[0];
    let other = cluster
        .nodes
        .iter()
        .find(|node| shard.replicas.iter().all(|replica| replica.node.as_str() != node.id));
    let added =
        cluster.cli(&["shard", "add", "shop.events", &shard.id.to_string(), &other.unwrap().id, "--force"]);
    added.unwrap_or_else(|error| panic!("{error}"));
    cluster.prove_events(1_000, 0).await;
    for node in &mut cluster.nodes {
        assert!(node.stop_daemon().success());
        let log = json_log(node);
        assert!(log.contains("routes loaded"), "{log}");
        // As they stand or within a statement, in a URL, in the routes file.
        for secret in ["'word", "%27word", "apos;word", "r<ader", "r%3Cader", "r&lt;ader"] {
            assert!(!log.contains(secret), "{secret} is in the log of {}", node.id);
        }
    }
}
