//! `converthouse demo`, as a user runs it: it proves what it says, and leaves nothing behind however it ends.

use super::support::cluster::program;
use super::support::kafka::{TestKafka, outgoing, topic};
use converthouse::adapters::kafka::{Kafka, Watermarks};
use converthouse::model::control::{ClusterStatus, TableStatus};
use converthouse::model::table::TableName;
use converthouse::model::{NodeState, names};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longer than the demo gives itself.
const SAYS_WITHIN: Duration = Duration::from_secs(360);
/// For what comes true by itself once it stays, and for its end.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut demo = Command::new(program());
    demo.args(["demo", "--folder"]).arg(folder).args(arguments).stdin(Stdio::null());
    demo
}

/// Neither its folder nor a process that was started with a file of it is there any more.
fn nothing_left(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let ours = folder.display().to_string();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let command = std::fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        assert!(!command.contains(&ours), "{command}");
    }
}

#[test]
fn the_demo_proves_what_it_says_for_programs_too_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ran = demo(folder.path(), &["--rows", "20000", "--json"]).output().unwrap();
    let story = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(0), "{story}");
    let shown: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(shown["proven"].as_array().unwrap().len() > 8, "{shown}");
    assert!(shown["seconds"].as_f64().unwrap() > 0.0, "{shown}");
    assert!(story.contains("100 %: 20000 of 20000 rows are readable"), "{story}");
    nothing_left(folder.path());
}

/// A demo that stays. If the test fails it is killed, and so is all that it started.
struct Staying {
    demo: Child,
    lines: mpsc::Receiver<String>,
    story: String,
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.demo.kill();
        let _ = self.demo.wait();
    }
}

impl Staying {
    fn start(folder: &Path) -> Self {
        let mut demo = demo(folder, &["--stay", "--rows", "2000"]);
        let mut demo = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(demo.stdout.take().unwrap()), Box::new(demo.stderr.take().unwrap())];
        for output in outputs {
            let send = send.clone();
            std::thread::spawn(move || {
                BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
            });
        }
        Self { demo, lines, story: String::new() }
    }

    /// Waits for a line with these words.
    fn until_said(&mut self, words: &str) -> String {
        let began = Instant::now();
        loop {
            let line = self.lines.recv_timeout(SAYS_WITHIN.saturating_sub(began.elapsed()));
            let line = line.unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.story));
            self.story += &format!("{line}\n");
            if line.contains(words) {
                return line;
            }
        }
    }

    /// As by Ctrl-C: how it ends, and all that it said.
    fn interrupt(mut self) -> (ExitStatus, String) {
        let asked = Command::new("kill").args(["-INT", &self.demo.id().to_string()]).status().unwrap();
        assert!(asked.success());
        let began = Instant::now();
        let ended = loop {
            if let Some(ended) = self.demo.try_wait().unwrap() {
                break ended;
            }
            assert!(began.elapsed() < SETTLES_WITHIN, "it does not end\n{}", self.story);
            std::thread::sleep(Duration::from_millis(50));
        };
        self.story.extend(self.lines.iter().map(|line| format!("{line}\n")));
        (ended, std::mem::take(&mut self.story))
    }
}

/// The command line, as the demo says that it is to be used.
fn ask(url: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(program());
    let ran = command.env("CONVERTHOUSE_SERVER", url).args(arguments).arg("--json").output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap()
}

/// Status and routes once nothing changes any more: leaderships may still be on their way back.
fn settled(url: &str) -> (ClusterStatus, Value) {
    let began = Instant::now();
    loop {
        let status: ClusterStatus = serde_json::from_value(ask(url, &["status"])).unwrap();
        let routes = ask(url, &["routes", "shop.events"]);
        let of = |table: &TableStatus| {
            table.complete
                && routes["epoch"] == json!(table.epoch)
                && table.shards.iter().all(|shard| shard.leader == shard.preferred_leader)
        };
        if status.healthy && status.tables.iter().all(of) {
            return (status, routes);
        }
        assert!(began.elapsed() < SETTLES_WITHIN, "{status:#?}\n{routes}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Each shard's route, made of the table's status and of where the servers are.
fn expected(table: &TableStatus, ports: &BTreeMap<&str, u16>) -> Vec<Value> {
    let name = TableName { database: table.database.clone(), table: table.table.clone() };
    let routes = table.shards.iter().map(|shard| {
        let leader = shard.leader.as_ref().expect("somebody leads it");
        let mut nodes: Vec<&str> = shard.replicas.iter().map(|replica| replica.node.as_str()).collect();
        nodes.sort_by_key(|node| (*node != leader.as_str(), *node));
        let replica = |node: &&str| {
            json!({
                "node": node, "host": "127.0.0.1", "port": ports[node], "secure": false, "user": "default",
                "database": names::replica_database(&name, table.id, shard.id),
            })
        };
        let replicas: Vec<Value> = nodes.iter().map(replica).collect();
        let (lo, hi) = (shard.range.lo(), shard.range.hi());
        json!({ "shard": shard.id, "range": { "lo": lo, "hi": hi }, "weight": hi - lo, "replicas": replicas })
    });
    routes.collect()
}

#[test]
fn a_demo_that_stays_tells_its_status_and_its_routes_and_ends_in_good_order_by_ctrl_c() {
    let folder = tempfile::tempdir().unwrap();
    let mut staying = Staying::start(folder.path());
    let said = staying.until_said("export CONVERTHOUSE_SERVER=");
    let url = said.split_once('=').unwrap().1.to_owned();
    // Where each server is, as users are told.
    let told: Vec<String> =
        ["n1", "n2", "n3", "n4"].map(|node| staying.until_said(&format!("# {node}"))).to_vec();
    let port =
        |line: &String| line.split_once("--port ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let ports: Vec<u16> = told.iter().map(port).collect();
    let ports: BTreeMap<&str, u16> = ["n1", "n2", "n3", "n4"].into_iter().zip(ports).collect();

    let (status, routes) = settled(&url);
    assert_eq!((status.cluster.as_str(), status.problems.as_slice()), ("demo", &[][..]));
    assert_eq!(status.leader.as_ref().map(|leader| leader.as_str()), Some("n1"), "the one daemon leads");
    let nodes = status.nodes.iter().map(|node| {
        assert!(node.live && node.clickhouse_up == Some(true), "{node:?}");
        (node.id.as_str(), node.clickhouse.clone())
    });
    let at = ports.iter().map(|(node, port)| (*node, format!("127.0.0.1:{port}")));
    assert_eq!(nodes.collect::<Vec<_>>(), at.collect::<Vec<_>>());
    let drained = &status.nodes[0];
    assert_eq!((drained.state, drained.replicas, drained.leaders), (NodeState::Draining, 0, 0));
    let [table] = &status.tables[..] else { panic!("{:#?}", status.tables) };
    assert_eq!((table.database.as_str(), table.table.as_str()), ("shop", "events"));
    assert_eq!((table.partitions, table.replicas, table.shards.len()), (64, 2, 8), "4 shards, each split");
    for shard in &table.shards {
        let nodes: BTreeSet<&str> = shard.replicas.iter().map(|replica| replica.node.as_str()).collect();
        assert!(nodes.len() == 2 && !nodes.contains("n1"), "{shard:?}");
    }

    let ends: Vec<u32> = table.shards.iter().map(|shard| shard.range.hi()).collect();
    let begins: Vec<u32> = table.shards.iter().map(|shard| shard.range.lo()).collect();
    assert_eq!(
        (begins[0], &begins[1..], ends[7]),
        (0, &ends[..7], 64),
        "no partition is missing, none twice"
    );
    let whole = json!({
        "id": table.id, "database": "shop", "table": "events", "epoch": table.epoch, "partitions": 64,
        "cluster": table.cluster, "shards": expected(table, &ports), "groups": {},
    });
    assert_eq!(routes, whole, "the leader first");

    let (ended, story) = staying.interrupt();
    assert_eq!(ended.code(), Some(0), "{story}");
    assert!(story.contains("All that took") && story.contains("All processes ended."), "{story}");
    nothing_left(folder.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_kafka_the_demo_touches_its_own_topics_alone_and_deletes_them_however_it_ends() {
    let kafka = TestKafka::start(1, &[]).await;
    let client = kafka.client();
    // A user's, with the name of the table that the demo makes.
    let users = topic(&client, "shop.events.0", 1, 1).await.remove(0);
    client.produce(outgoing(&users, ["a user's".to_owned()])).await.unwrap();
    let own = async || {
        let topics = client.topics().await.unwrap();
        topics.into_iter().filter(|topic| !topic.starts_with("__")).collect::<Vec<_>>()
    };
    let brokers = kafka.brokers.bootstrap().to_owned();
    let arguments = ["--rows", "2000", "--kafka", &brokers];
    let folder = tempfile::tempdir().unwrap();
    let mut begun =
        demo(folder.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut looks = 0;
    while !own().await.iter().any(|topic| topic.starts_with("converthouse-demo-")) {
        assert!(begun.try_wait().unwrap().is_none() && looks < 1_000, "it never made its topics");
        looks += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = Command::new("kill").args(["-TERM", &begun.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let ended = tokio::task::spawn_blocking(move || begun.wait().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(1), "it ends by itself, in good order");
    nothing_left(folder.path());
    assert_eq!(own().await, ["shop.events.0"]);
    let mut whole = demo(folder.path(), &arguments);
    let ran = tokio::task::spawn_blocking(move || whole.output().unwrap()).await.unwrap();
    let story = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(0), "{story}");
    nothing_left(folder.path());
    assert_eq!(own().await, ["shop.events.0"]);
    assert_eq!(client.watermarks(&users).await.unwrap(), Watermarks { low: 0, high: 1 });
}
