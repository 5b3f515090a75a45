//! The metadata store on real etcd, and the embedded store: the contract, logins, TLS, compaction, managed members.

use crate::support::certificates;
use crate::support::etcd::EtcdCluster;
use converthouse::adapters::compute::etcd_member::ManagedEtcd;
use converthouse::adapters::metadata::{
    Error, EtcdOptions, EtcdStore, EtcdTls, MetaStore, Update, Write, conformance, follow,
};
use converthouse::model::node::Secret;
use futures::StreamExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

pub fn put(key: &str, value: &str) -> Vec<Write> {
    vec![Write::Put { key: key.into(), value: value.into(), lease: None }]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_etcd_keeps_the_contract() {
    let cluster = EtcdCluster::start(1);
    let store = cluster.store();
    conformance::run_all(async || Arc::new(store.clone()) as Arc<dyn MetaStore>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_etcds_keep_the_contract_whichever_is_asked() {
    let cluster = EtcdCluster::start(3);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let make = async || {
        let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3;
        Arc::new(cluster.store_on(index)) as Arc<dyn MetaStore>
    };
    conformance::run_all(make).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_keeps_the_contract_of_compaction() {
    let cluster = EtcdCluster::start(1);
    let client = cluster.client().await;
    let compact = async |revision| {
        client.kv_client().compact(revision, None).await.unwrap();
    };
    conformance::compaction(Arc::new(cluster.store()), compact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_cut_off_past_a_compaction_gets_a_snapshot_and_else_goes_on() {
    let mut cluster = EtcdCluster::start(3);
    let (cut, others) = (cluster.store_on(0), cluster.store());
    let mut updates = follow(Arc::new(cut), "k/".into());
    let mut next = async || timeout(PATIENCE, updates.next()).await.expect("told in time").unwrap();
    assert!(matches!(next().await, Update::Snapshot(_, all) if all.is_empty()));
    others.txn(vec![], put("k/a", "1")).await.unwrap();
    assert!(matches!(next().await, Update::Changes(batch) if batch.changes.len() == 1));

    // Cut off, without a compaction: what was missed comes as changes.
    cluster.kill(0);
    assert!(matches!(next().await, Update::Unreachable(_)));
    others.txn(vec![], put("k/a", "2")).await.unwrap();
    cluster.restart(0);
    let mut missed = Vec::new();
    while missed.is_empty() {
        match next().await {
            Update::Changes(batch) => missed.extend(batch.changes),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(missed.len(), 1);

    // Cut off, and what was missed is forgotten meanwhile.
    cluster.kill(0);
    assert!(matches!(next().await, Update::Unreachable(_)));
    others.txn(vec![], put("k/a", "3")).await.unwrap();
    others.txn(vec![], put("k/b", "1")).await.unwrap();
    let (newest, _) = others.range("k/").await.unwrap();
    let reachable = cluster.endpoints()[1..].to_vec();
    let client = etcd_client::Client::connect(reachable, None).await.unwrap();
    client.kv_client().compact(newest, None).await.unwrap();
    cluster.restart(0);
    let snapshot = loop {
        match next().await {
            Update::Snapshot(revision, all) => break (revision, all.len()),
            Update::Changes(batch) if batch.changes.is_empty() => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(snapshot, (newest, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_checked_and_outlive_a_restart_of_etcd() {
    let mut cluster = EtcdCluster::start(1);
    let endpoints = cluster.endpoints();
    let mut admin = cluster.client().await;
    admin.user_add("root", "right", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.user_add("small", "small", None).await.unwrap();
    admin.auth_enable().await.unwrap();
    let store = |user: &str, password: &str| {
        let (user, password) = (user.to_owned(), Secret::new(password));
        EtcdStore::new(&EtcdOptions { user, password, ..EtcdOptions::new(endpoints.clone()) }).unwrap()
    };
    for (user, password) in [("root", "wrong"), ("nobody", "right"), ("", "")] {
        let told = store(user, password).txn(vec![], put("a", "1")).await;
        let error = told.expect_err("a wrong login");
        assert!(matches!(error, Error::Denied(_)), "{user}: {error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    let told = store("small", "small").get("a").await;
    assert!(matches!(told, Err(Error::Denied(_))), "no right to the key: {told:?}");
    let root = store("root", "right");
    root.txn(vec![], put("a", "1")).await.unwrap();
    // etcd forgets its tokens when it starts again; the store logs in anew without a word.
    cluster.kill(0);
    cluster.launch(0);
    let start = Instant::now();
    while let Err(error) = root.txn(vec![], put("a", "2")).await {
        assert!(!matches!(error, Error::Denied(_)) && start.elapsed() < PATIENCE, "{error}");
    }
    assert_eq!(root.get("a").await.unwrap().unwrap().value, b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_both_ways_is_spoken_and_a_stranger_refused() {
    use converthouse::adapters::compute::process::{Launch, free_port};
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    certificates::make(here);
    let (client, peer) = (free_port().unwrap(), free_port().unwrap());
    let url = format!("https://127.0.0.1:{client}");
    let process = Launch::new("etcd-tls", "etcd", here)
        .args(["--data-dir=data", "--client-cert-auth", "--trusted-ca-file=ca.pem"])
        .args(["--cert-file=server.pem", "--key-file=server.key", "--logger=zap", "--log-outputs=stderr"])
        .arg(format!("--listen-client-urls={url}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}"))
        .hide_env("ETCD_")
        .start()
        .unwrap();
    let store = |ca: &str, identity: Option<&str>| {
        let read = |name: &str| std::fs::read_to_string(here.join(name)).unwrap();
        let pair = |name| (read(&format!("{name}.pem")), Secret::new(read(&format!("{name}.key"))));
        let tls = EtcdTls { ca_pem: read(ca), identity: identity.map(pair) };
        let options =
            EtcdOptions { tls: Some(tls), request_timeout_ms: 2_000, ..EtcdOptions::new([url.as_str()]) };
        EtcdStore::new(&options).unwrap()
    };
    let good = store("ca.pem", Some("client"));
    let start = Instant::now();
    while let Err(error) = good.txn(vec![], put("a", "1")).await {
        assert!(start.elapsed() < PATIENCE, "{error}\n{}", process.log_tail(10));
    }
    assert_eq!(good.get("a").await.unwrap().unwrap().value, b"1");
    for (ca, identity, why) in [
        ("other.pem", Some("client"), "a server that another authority signed"),
        ("ca.pem", None, "no certificate of our own"),
        ("ca.pem", Some("other"), "a certificate of another authority"),
    ] {
        let told = store(ca, identity).get("a").await;
        assert!(matches!(told, Err(Error::Unreachable(_))), "{why}: {told:?}");
    }
    process.stop(Duration::from_secs(5)).unwrap();
}

/// As three daemons would: each knows the list, none waits for another.
async fn three_managed() -> (EtcdCluster, Vec<ManagedEtcd>) {
    let cluster = EtcdCluster::prepare(3);
    let mut managed = Vec::new();
    for index in 0..3 {
        managed.push(ManagedEtcd::start(cluster.member(index).clone()).await.unwrap());
    }
    for member in &managed {
        member.ready(PATIENCE).await.unwrap();
    }
    (cluster, managed)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_managed_members_form_a_cluster_and_come_back_when_killed() {
    let (cluster, managed) = three_managed().await;
    assert_eq!(managed[1].endpoints()[0], cluster.endpoints()[1], "its own member is asked first");
    let store = EtcdStore::new(&EtcdOptions::new(managed[0].endpoints())).unwrap();
    store.txn(vec![], put("a", "1")).await.unwrap();

    let before = managed[0].pid().unwrap();
    let killed = Command::new("kill").args(["-9", &before.to_string()]).status().unwrap();
    assert!(killed.success());
    let start = Instant::now();
    while managed[0].pid().is_none_or(|pid| pid == before) {
        assert!(start.elapsed() < PATIENCE, "not started again");
        sleep(Duration::from_millis(20)).await;
    }
    managed[0].ready(PATIENCE).await.unwrap();
    assert_eq!(cluster.store_on(0).get("a").await.unwrap().unwrap().value, b"1");

    let pids: Vec<u32> = managed.iter().map(|member| member.pid().unwrap()).collect();
    for member in managed {
        member.stop(Duration::from_secs(10)).await.unwrap();
    }
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left behind");
    }
    let told = EtcdOptions { request_timeout_ms: 500, ..EtcdOptions::new(cluster.endpoints()) };
    assert!(matches!(EtcdStore::new(&told).unwrap().get("a").await, Err(Error::Unreachable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_managed_member_that_lost_its_folder_joins_again_once_it_was_removed_and_added() {
    let (cluster, mut managed) = three_managed().await;
    cluster.store_on(2).txn(vec![], put("a", "1")).await.unwrap();
    managed.pop().unwrap().stop(Duration::from_secs(10)).await.unwrap();
    std::fs::remove_dir_all(&cluster.member(2).folder).unwrap();

    // As itself it must not go on: it may have voted.
    let lost = ManagedEtcd::start(cluster.member(2).clone()).await.unwrap();
    assert!(lost.ready(Duration::from_secs(3)).await.is_err());
    let mut client = etcd_client::Client::connect(&cluster.endpoints()[..2], None).await.unwrap();
    let own = cluster.member(2).own().unwrap().peer_url.clone();
    let members = client.member_list().await.unwrap();
    let id = members.members().iter().find(|member| member.peer_urls().contains(&own)).unwrap().id();
    // etcd changes no list of members before most of them have been connected for five seconds.
    let start = Instant::now();
    while let Err(refused) = client.member_remove(id).await {
        assert!(start.elapsed() < PATIENCE, "{refused}");
        sleep(Duration::from_millis(500)).await;
    }
    while let Err(refused) = client.member_add([own.clone()], None).await {
        assert!(start.elapsed() < PATIENCE, "{refused}");
        sleep(Duration::from_millis(500)).await;
    }
    // The one that waits for it takes it in by itself.
    lost.ready(PATIENCE).await.unwrap();
    assert_eq!(cluster.store_on(2).get("a").await.unwrap().unwrap().value, b"1");
    managed.push(lost);
    for member in managed {
        member.stop(Duration::from_secs(10)).await.unwrap();
    }
}
