//! Dashboard and alerts against a real Prometheus: it scrapes the daemon's own registry, and every query of the
//! dashboard and every alert must be accepted and find its metrics there.

use super::support::cluster::Cluster;
use converthouse::adapters::compute::process::{Launch, Process, free_port};
use converthouse::error::Code;
use converthouse::model::ShardId;
use converthouse::model::invariants::Invariant;
use converthouse::model::operation::{Kind, State};
use converthouse::telemetry::Metrics;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn promtool(arguments: &[&str]) {
    let ran = Command::new("promtool").args(arguments).output().expect("promtool; run scripts/provision.sh");
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "promtool {arguments:?}:\n{said}");
}

/// The dashboard's queries with their panels' titles, its variables filled in.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("dashboards/converthouse.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let filled = expression.replace("$__rate_interval", "5m").replace("$job", ".*");
            assert!(!filled.contains('$'), "an unknown variable in {expression}");
            queries.push((panel["title"].as_str().unwrap().to_owned(), filled));
        }
    }
    assert!(queries.len() > 15, "the dashboard was not understood");
    queries
}

/// Every name of a metric in a text, a histogram's series by the histogram's name.
fn metric_names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("converthouse_"))
        .map(|word| {
            let series = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
            series.unwrap_or(word).to_owned()
        })
        .collect()
}

/// A registry in which every metric has a value.
fn every_metric() -> Metrics {
    let metrics = Metrics::new();
    metrics.ingest_rows("shop.events").inc_by(7);
    metrics.ingest_bytes("shop.events").inc_by(7_000);
    metrics.ingest_lag("shop.events", "n1").set(3);
    metrics.replication_spread("shop.events").set(2);
    metrics.stalled_partitions("n1", "offsets_gone").set(0);
    metrics.epoch_lag("n1").set(0);
    metrics.dead_letters("shop.events").inc();
    metrics.copied_rows("shop.events").inc_by(9);
    metrics.copied_bytes("parts").inc_by(9_000);
    metrics.offset_gaps("shop.events").inc();
    metrics.replicas("n1", "ready").set(4);
    metrics.replicas("n1", "creating").set(1);
    metrics.invariant_violations(Invariant::NoLoss).inc_by(0);
    metrics.heartbeat_age("n1", 250);
    metrics.metadata_errors(Code(301)).inc();
    metrics.terms_ended("lease_late").inc();
    metrics.actor_deaths("replica").inc();
    metrics.clickhouse_up("n1").set(1);
    metrics.insert_seconds.observe(0.02);
    metrics.leader.set(1);
    metrics.elastic.forget();
    metrics.elastic.plan_seconds.observe(0.2);
    operation_ended(&metrics);
    metrics
}

fn operation_ended(metrics: &Metrics) {
    let lead = Kind::Lead { shard: ShardId(1), to: "n1".parse().unwrap() };
    metrics.elastic.operation_ended(&lead, State::Done, 1_500);
}

fn exposition(metrics: &Metrics) -> String {
    prometheus::TextEncoder::new().encode_to_string(&metrics.registry().gather()).unwrap()
}

/// Answers every request on a free port with the registry, as a daemon does on `/metrics`. Ends with the process.
fn serve(metrics: Metrics) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
            let _ = stream.read(&mut request);
            // Counters must move, or rates find nothing.
            metrics.ingest_rows("shop.events").inc_by(10);
            metrics.insert_seconds.observe(0.02);
            operation_ended(&metrics);
            let body = exposition(&metrics);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    port
}

fn get(port: u16, path: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or(answer.clone())
}

fn query(port: u16, expression: &str) -> Value {
    let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = get(port, &format!("/api/v1/query?query={escaped}")).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{expression}: {answer}"))
}

fn results(answer: &Value) -> usize {
    answer["data"]["result"].as_array().map_or(0, Vec::len)
}

/// A Prometheus that scrapes a daemon's port every second and evaluates the alerts.
fn start_prometheus(folder: &Path, daemon: u16) -> (Process, u16) {
    let port = free_port().unwrap();
    let rules = project("dashboards/alerts.yml");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}']\nscrape_configs:\n\
         - job_name: converthouse\n  static_configs: [{{ targets: ['127.0.0.1:{daemon}'] }}]\n",
        rules.display()
    );
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    let process = Launch::new("prometheus", "prometheus", folder)
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .start()
        .unwrap();
    (process, port)
}

#[test]
fn alerts_fire_in_their_situation_and_only_then() {
    promtool(&["check", "rules", &project("dashboards/alerts.yml").display().to_string()]);
    promtool(&["test", "rules", &project("dashboards/alerts_test.yml").display().to_string()]);
    let (alerts, tests) = (read("dashboards/alerts.yml"), read("dashboards/alerts_test.yml"));
    let operations = read("docs/operations.md");
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert},")), "{alert} is not in alerts_test.yml");
        assert!(operations.contains(&format!("| {alert} |")), "docs/operations.md: no line for {alert}");
    }
}

/// Names, units and help as Prometheus wants them.
fn check_metrics(text: &str) {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; run scripts/provision.sh");
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ran = tool.wait_with_output().unwrap();
    assert!(ran.status.success(), "{}\n{text}", String::from_utf8_lossy(&ran.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_daemon_shows_is_as_prometheus_wants_it() {
    check_metrics(&exposition(&every_metric()));
    let cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    cluster.produce(0..1_000).await;
    cluster.prove_events(1_000, 0).await;
    for node in &cluster.nodes {
        check_metrics(&node.metrics());
        assert_eq!(node.metric("converthouse_ingest_rows_total"), 1_000.0, "both hold every shard");
        assert_eq!(node.metric("converthouse_replicas"), 2.0);
    }
}

#[test]
fn dashboard_alerts_and_documents_name_the_metrics_that_exist() {
    let existing = metric_names(&exposition(&every_metric()).replace("# HELP ", ""));
    for path in ["dashboards/converthouse.json", "dashboards/alerts.yml", "docs/metrics.md"] {
        let named = metric_names(&read(path));
        let unknown: Vec<_> = named.difference(&existing).collect();
        assert!(unknown.is_empty(), "{path} names metrics that no daemon has: {unknown:?}");
    }
    let documented = metric_names(&read("docs/metrics.md"));
    let missing: Vec<_> = existing.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/metrics.md does not list {missing:?}");
}

#[test]
fn every_dashboard_query_finds_its_metrics_in_a_real_prometheus() {
    let folder = tempfile::tempdir().unwrap();
    let (prometheus, port) = start_prometheus(folder.path(), serve(every_metric()));
    let scraped_twice = || {
        let answer = get(port, "/api/v1/query?query=rate(converthouse_ingest_rows_total%5B1m%5D)")?;
        let answer: Value = serde_json::from_str(&answer).map_err(|_| answer)?;
        (results(&answer) > 0).then_some(()).ok_or_else(|| answer.to_string())
    };
    prometheus.wait_ready(Duration::from_secs(60), scraped_twice).unwrap();
    for (title, expression) in queries() {
        let answer = query(port, &expression);
        assert_eq!(answer["status"], "success", "{title}: {expression}: {answer}");
        assert!(results(&answer) > 0, "{title}: {expression} finds nothing");
    }
    // An alert on real scrapes: nothing is wrong there but the dead letter.
    let rules: Value = serde_json::from_str(&get(port, "/api/v1/rules").unwrap()).unwrap();
    let broken: Vec<_> = rules["data"]["groups"][0]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["health"] == "err" || rule["name"].is_null())
        .collect();
    assert!(broken.is_empty(), "{broken:?}");
    prometheus.stop(Duration::from_secs(20)).unwrap();
}
