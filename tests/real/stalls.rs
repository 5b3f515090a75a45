//! Parts that neither answer nor die: stopped processes, networks that swallow or cut. Afterwards each replica holds
//! each row once, without a gap, replicas are equal, and no daemon saw an invariant broken.

use super::support::cluster::{Cluster, DDL, Node};
use super::support::link::{Link, Weather};
use super::support::producer::Producer;
use converthouse::model::observed::Stall;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest wait for what a daemon finds out by itself.
const NOTICED_WITHIN: Duration = Duration::from_secs(90);

/// Waits until the daemon's log has said so more often than `before`.
async fn says(node: &Node, what: &str, before: usize) {
    let began = Instant::now();
    while node.said(what) <= before {
        assert!(began.elapsed() < NOTICED_WITHIN, "{} never said {what:?}:\n{}", node.id, node.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the node inserts, again perhaps: after a server was silent all its partitions first look where they are.
pub async fn inserts(node: &Node) {
    const ROWS: &str = "converthouse_ingest_rows_total";
    let (began, before) = (Instant::now(), node.metric(ROWS));
    while node.metric(ROWS) <= before {
        assert!(began.elapsed() < NOTICED_WITHIN, "{} takes no rows:\n{}", node.id, node.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn prove(cluster: &Cluster, stream: Producer) {
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
    for node in &cluster.nodes {
        assert_eq!(node.metric("converthouse_invariant_violations_total"), 0.0, "{}", node.id);
    }
}

const IN_DOUBT: &str = "outcome is unknown";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clickhouse_stopped_past_its_deadlines_during_inserts_loses_and_doubles_nothing() {
    let cluster = Cluster::start(3, 1).await;
    cluster.create_events(4);
    let stream = Producer::start(&cluster, 20_000);
    let victim = &cluster.nodes[1];
    for _ in 0..2 {
        stream.flow(3_000).await;
        inserts(victim).await;
        let doubts = victim.said(IN_DOUBT);
        victim.server.pause();
        // Rows come in all the time, so an insert was under way or has begun since; it now outlives its deadline.
        says(victim, IN_DOUBT, doubts).await;
        cluster.until("the silent server to be told", |status| {
            status.nodes.iter().any(|node| node.id.as_str() == victim.id && node.clickhouse_up == Some(false))
        });
        // What the server has in its sockets it will carry out now, long after it was given up.
        victim.server.resume();
        stream.flow(3_000).await;
    }
    prove(&cluster, stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stopped_past_its_lease_changes_nothing_when_it_goes_on() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.create_events(4);
    let stream = Producer::start(&cluster, 20_000);
    for _ in 0..2 {
        stream.flow(3_000).await;
        let zombie = cluster.leader();
        let id = cluster.nodes[zombie].id.clone();
        let before = cluster.status().unwrap();
        cluster.nodes[zombie].pause_daemon();
        cluster.until("another daemon to lead, and the shards with it", |status| {
            let shards = status.tables.iter().flat_map(|table| &table.shards);
            let led_by_zombie =
                shards.filter_map(|shard| shard.leader.as_ref()).any(|led| led.as_str() == id);
            status.leader.as_ref().is_some_and(|leader| leader.as_str() != id) && !led_by_zombie
        });
        stream.flow(3_000).await;
        let term = cluster.status().unwrap().term;
        assert!(term > before.term);
        cluster.nodes[zombie].resume_daemon();
        cluster.until("the zombie to be an ordinary node again", |status| {
            // The zombie itself may still answer with what it knew, in the moment before it has looked again.
            assert!(status.term <= term, "the zombie took the lead back, or deposed its successor");
            status.term == term && status.nodes.iter().any(|node| node.id.as_str() == id && node.live)
        });
    }
    prove(&cluster, stream).await;
}

/// Twice: once nothing passes and nobody is told, once every connection is reset.
async fn through_bad_weather(
    which: impl Fn(&super::support::links::Links) -> &Vec<Link>,
    noticed: impl AsyncFn(&Cluster, &Producer, Weather),
) {
    let mut cluster = Cluster::start_linked(3, None, None).await;
    cluster.create_events(4);
    let stream = Producer::start(&cluster, 20_000);
    for weather in [Weather::Silent, Weather::Cut] {
        let set = |cluster: &Cluster, weather| {
            let links = cluster.links.as_ref().unwrap();
            which(links).iter().for_each(|link| link.set(weather));
        };
        stream.flow(3_000).await;
        cluster.nodes[0].mute = true;
        set(&cluster, weather);
        noticed(&cluster, &stream, weather).await;
        stream.flow(3_000).await;
        set(&cluster, Weather::Fair);
        stream.flow(3_000).await;
        cluster.until("the node to be whole again", |status| {
            let up = |node: &&converthouse::model::control::NodeStatus| {
                node.live && node.clickhouse_up == Some(true)
            };
            status.leader.is_some() && status.nodes.iter().filter(up).count() == 3
        });
        cluster.nodes[0].mute = false;
    }
    prove(&cluster, stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_cut_off_from_its_clickhouse_loses_and_doubles_nothing() {
    let noticed = async |cluster: &Cluster, _: &Producer, weather| {
        // An insert that is cut off may end at once, with a certain answer; in silence it ends in doubt.
        if weather == Weather::Silent {
            says(&cluster.nodes[0], IN_DOUBT, cluster.nodes[0].said(IN_DOUBT)).await;
        }
        cluster.until("the server to be told", |status| status.nodes[0].clickhouse_up == Some(false));
    };
    through_bad_weather(|links| &links.clickhouse, noticed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_cut_off_from_kafka_loses_and_doubles_nothing() {
    let noticed = async |cluster: &Cluster, stream: &Producer, _| {
        // Its replicas fall behind the others', which is seen on the leader as lag or as spread between copies.
        stream.flow(5_000).await;
        cluster.until("the copies to be apart", |status| {
            let shards = status.tables.iter().flat_map(|table| &table.shards);
            shards.filter_map(|shard| shard.spread).sum::<u64>() > 1_000
        });
    };
    through_bad_weather(|links| &links.kafka, noticed).await;
}

/// Nothing is sent meanwhile: neither its going nor its return shows in messages. Nor can a table be made: whoever asks
/// for one is told why, and nothing of it is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_is_told_and_that_it_is_back_too() {
    let mut cluster = Cluster::start(1, 1).await;
    let made = cluster.cli(&["table", "create", DDL, "--partitions", "8", "--partition-by", "user"]);
    made.unwrap();
    cluster.produce(0..1_000).await;
    cluster.prove("shop.events", 1_000, 0).await;
    assert!(cluster.status().unwrap().healthy);
    cluster.kafka.brokers.kill(0).unwrap();
    cluster.until("all partitions to be told", |status| {
        let replica = &status.tables[0].shards[0].replicas[0];
        let away = |stall: &Stall| matches!(stall, Stall::KafkaUnreachable { .. });
        !status.healthy && replica.stalls.values().filter(|stall| away(stall)).count() == 8
    });
    let other = "CREATE TABLE shop.other (id UInt64) ENGINE = MergeTree ORDER BY id";
    let create = ["table", "create", other, "--partitions", "2", "--partition-by", "id"];
    let refused = cluster.cli(&create).expect_err("no broker takes its topics");
    for word in ["CVH-0806", "CVH-0501", "check [kafka] brokers", "bring the named part back and try again"] {
        assert!(refused.contains(word), "no {word:?} in {refused}");
    }
    let listed = cluster.cli(&["table", "list"]).unwrap();
    assert!(listed.contains("shop.events") && !listed.contains("shop.other"), "{listed}");
    cluster.kafka.brokers.restart(0).await.unwrap();
    cluster.until("all to be well again", |status| status.healthy);
    cluster.cli(&create).unwrap_or_else(|error| panic!("{error}"));
    cluster.produce(1_000..1_500).await;
    cluster.prove("shop.events", 1_500, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_cut_off_from_etcd_is_replaced_and_comes_back() {
    let noticed = async |cluster: &Cluster, _: &Producer, _| {
        cluster.until("its duties to be others'", |status| {
            let shards = status.tables.iter().flat_map(|table| &table.shards);
            let led = shards.filter_map(|shard| shard.leader.as_ref()).any(|led| led.as_str() == "n1");
            let leads = status.leader.as_ref().is_none_or(|leader| leader.as_str() == "n1");
            !status.nodes[0].live && !led && !leads
        });
    };
    through_bad_weather(|links| &links.etcd, noticed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_daemons_form_their_own_store_and_go_on_when_one_is_killed_with_its_member() {
    let mut cluster = Cluster::start_managed(3).await;
    cluster.create_events(4);
    let stream = Producer::start(&cluster, 20_000);
    stream.flow(3_000).await;
    let victim = cluster.leader();
    let id = cluster.nodes[victim].id.clone();
    // The kernel ends its etcd member with it.
    cluster.nodes[victim].kill_daemon();
    cluster.until("another daemon to lead", |status| {
        status.leader.as_ref().is_some_and(|leader| leader.as_str() != id)
    });
    stream.flow(3_000).await;
    let made = cluster.cli(&[
        "table",
        "create",
        "CREATE TABLE shop.other (id UInt64) ENGINE = MergeTree ORDER BY id",
        "--partitions",
        "2",
        "--partition-by",
        "id",
        "--no-wait",
    ]);
    made.unwrap_or_else(|error| panic!("two members of three take no writes: {error}"));
    cluster.nodes[victim].start_daemon();
    cluster.until("the third to be back", |status| status.nodes.iter().all(|node| node.live));
    prove(&cluster, stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_carries_keeps_silent_and_cuts() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let far = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    let link = Link::to(far).await;
    let mut stream = TcpStream::connect(("127.0.0.1", link.port())).await.unwrap();
    let mut echo = [0; 4];
    stream.write_all(b"fair").await.unwrap();
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"fair");
    link.set(Weather::Silent);
    stream.write_all(b"late").await.unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut echo)).await;
    assert!(answer.is_err(), "nothing passes");
    link.set(Weather::Fair);
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"late");
    link.set(Weather::Cut);
    assert!(stream.read_exact(&mut echo).await.is_err());
    let again = TcpStream::connect(("127.0.0.1", link.port())).await;
    let ended = match again {
        Ok(mut stream) => stream.read_exact(&mut echo).await.is_err(),
        Err(_) => true,
    };
    assert!(ended, "new connections are cut too");
}

/// Found by the proof: the link kept the reset to itself, and a query that had just been sent to a server when that was
/// killed hung for five minutes.
#[tokio::test]
async fn who_waits_for_an_answer_over_a_link_is_told_that_the_server_was_killed() {
    let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let link = Link::to(server.local_addr().unwrap().port()).await;
    let mut asks = TcpStream::connect(("127.0.0.1", link.port())).await.unwrap();
    asks.write_all(b"query").await.unwrap();
    let (dies, _) = server.accept().await.unwrap();
    dies.set_zero_linger().unwrap();
    drop(dies);
    let answer = tokio::time::timeout(Duration::from_secs(10), asks.read(&mut [0; 8])).await;
    assert!(answer.expect("told").is_err(), "a reset, as without the link");
}
