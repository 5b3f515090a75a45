//! Daemons that leave in good order, leaders that die half-way, and leaderships that come back.

use super::support::cluster::{Cluster, DDL, PARTITIONS};
use super::support::producer::Producer;
use converthouse::model::control::{ClusterStatus, ShardStatus};
use std::process::{Command, Stdio};

fn shards(status: &ClusterStatus) -> impl Iterator<Item = &ShardStatus> {
    status.tables.iter().flat_map(|table| &table.shards)
}

fn led_by(status: &ClusterStatus, node: &str) -> bool {
    shards(status).any(|shard| shard.leader.as_ref().is_some_and(|leader| leader.as_str() == node))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preferred_leader_leads_again_once_it_is_back_and_has_caught_up() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.create_events(4);
    cluster.cli(&["balance", "off"]).unwrap();
    cluster.produce(0..2_000).await;
    cluster.prove_events(2_000, 0).await;
    let preferred = |status: &ClusterStatus| {
        shards(status).all(|shard| shard.leader.is_some() && shard.leader == shard.preferred_leader)
    };
    cluster.until("every shard to be led as preferred", preferred);
    let victim = (cluster.leader() + 1) % 2;
    let id = cluster.nodes[victim].id.clone();
    assert!(led_by(&cluster.status().unwrap(), &id), "it has something to lose");
    cluster.nodes[victim].kill_daemon();
    cluster.nodes[victim].server.kill().unwrap();
    cluster.until("its leaderships to be the other's", |status| !led_by(status, &id));
    cluster.produce(2_000..6_000).await;
    // The daemon alone is no reason: its server does not answer, so nothing has caught up.
    cluster.nodes[victim].start_daemon();
    cluster.until("the daemon to be back without its server", |status| {
        let node = status.nodes.iter().find(|node| node.id.as_str() == id).unwrap();
        node.live && node.clickhouse_up == Some(false)
    });
    assert!(!led_by(&cluster.status().unwrap(), &id));
    // The routes have changed meanwhile, and its server could not load them.
    assert!(cluster.nodes[victim].metric("converthouse_epoch_lag") >= 1.0);
    cluster.nodes[victim].server.start().await.unwrap();
    cluster.until("every shard to be led as preferred again", |status| {
        let caught_up = |shard: &ShardStatus| {
            let copy = shard.replicas.iter().find(|replica| replica.node.as_str() == id).unwrap();
            copy.state != "behind" && copy.lag.is_some()
        };
        let back = shards(status).filter(|s| s.leader.as_ref().is_some_and(|l| l.as_str() == id));
        assert!(back.into_iter().all(caught_up), "it leads before it has caught up: {status:#?}");
        preferred(status)
    });
    cluster.prove_events(6_000, 0).await;
    cluster.until("its server to have loaded the newest routes", |status| {
        status.tables[0].acknowledged.values().all(|epoch| *epoch == status.tables[0].epoch)
            && cluster.nodes[victim].metric("converthouse_epoch_lag") == 0.0
    });
}

/// Whether a key of the cluster is in the store.
async fn stands(cluster: &Cluster, key: &str) -> bool {
    let urls: Vec<_> = cluster.etcd[0].0.peers.iter().map(|peer| peer.client_url.clone()).collect();
    let mut client = etcd_client::Client::connect(urls, None).await.unwrap();
    let found = client.get(format!("/converthouse/test/v1/{key}"), None).await.unwrap();
    !found.kvs().is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_asked_to_end_gives_its_duties_away_and_leaves_nothing_half_done() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.create_events(4);
    let stream = Producer::start(&cluster, 20_000);
    for _ in 0..2 {
        stream.flow(5_000).await;
        let leader = cluster.leader();
        let id = cluster.nodes[leader].id.clone();
        assert!(stands(&cluster, &format!("live/{id}")).await);
        let ended = cluster.nodes[leader].stop_daemon();
        assert!(ended.success(), "{ended:?}");
        // Given back, not left to expire: it is gone when the process is.
        assert!(!stands(&cluster, &format!("live/{id}")).await, "the lease of {id} is still there");
        cluster.until("others to have its duties", |status| {
            let leader = status.leader.as_ref();
            leader.is_some_and(|leader| leader.as_str() != id) && !led_by(status, &id)
        });
        let left = "SELECT count() FROM system.tables WHERE match(database, 'scratch') \
                    OR match(name, '^seed_|^copy_|__cvh_fresh|__cvh_retired')";
        assert_eq!(cluster.nodes[leader].query(left).await.unwrap(), "0", "on {id}");
        cluster.nodes[leader].start_daemon();
        cluster.until("it to be back", |status| status.nodes.iter().all(|node| node.live));
    }
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_while_it_makes_a_tables_topics_leaves_a_create_that_can_be_asked_again() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader();
    let other = (leader + 1) % 3;
    // Kafka holds the request: the leader is in the middle of it for as long as we like.
    cluster.kafka.brokers.pause(0, true);
    let partitions = PARTITIONS.to_string();
    let create = [
        "table",
        "create",
        DDL,
        "--partitions",
        &partitions,
        "--shards",
        "4",
        "--replicas",
        "2",
        "--partition-by",
        "user",
    ];
    let asked = Command::new(env!("CARGO_BIN_EXE_converthouse"))
        .args(["--server", &cluster.nodes[other].grpc_url])
        .args(create)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    cluster.until("the leader to be making topics", |_| cluster.nodes[leader].said("making topics") > 0);
    cluster.nodes[leader].kill_daemon();
    let told = asked.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(3), "{text}");
    assert!(text.contains("CVH-080") && text.contains("remedy: "), "{text}");
    cluster.kafka.brokers.pause(0, false);
    cluster.until("another daemon to lead", |status| {
        status.leader.as_ref().is_some_and(|id| id.as_str() != format!("n{}", leader + 1))
    });
    assert_eq!(cluster.status().unwrap().tables, [], "nothing is half there");
    cluster.cli(&create).unwrap_or_else(|error| panic!("{error}"));
    cluster.nodes[leader].start_daemon();
    cluster.produce(0..2_000).await;
    cluster.prove_events(2_000, 0).await;
}
