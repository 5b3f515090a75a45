//! Metadata under faults: etcd members killed and paused, the embedded store's process killed. Nothing that was
//! answered is lost, nothing is made twice, followers miss nothing.

use crate::metadata::put;
use crate::support::etcd::EtcdCluster;
use converthouse::adapters::compute::process::Launch;
use converthouse::adapters::metadata::{
    Change, Compare, EmbeddedStore, Error, KeyValue, MetaStore, TxnOutcome, Update, Write, fence, follow,
};
use converthouse::model::Term;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// What became of each write of a loop of fenced transactions.
#[derive(Default)]
struct Written {
    answered: Vec<u64>,
    unknown: Vec<u64>,
    unreachable: usize,
    longest_ms: u128,
}

/// Writes one new key a transaction, fenced, until told to end.
async fn write_fenced(store: Arc<dyn MetaStore>, term: Term, end: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut number = 0;
    while !end.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("k/{number:08}");
        let (fence, start) = (fence("leader", term), Instant::now());
        match store.txn(vec![fence, Compare::Absent(key.clone())], put(&key, "x")).await {
            Ok(TxnOutcome::Committed(_)) => written.answered.push(number),
            Ok(TxnOutcome::Refused) => panic!("{number}: fenced off, or made before it was asked for"),
            Err(Error::OutcomeUnknown(_)) => written.unknown.push(number),
            Err(Error::Unreachable(_)) => written.unreachable += 1,
            Err(other) => panic!("{number}: {other}"),
        }
        written.longest_ms = written.longest_ms.max(start.elapsed().as_millis());
    }
    written
}

/// Follows until it has the key `end`; checks that nothing is told twice.
async fn follow_to_the_end(store: Arc<dyn MetaStore>) -> BTreeMap<String, KeyValue> {
    let mut updates = follow(store, "k/".into());
    let (mut copy, mut seen) = (BTreeMap::new(), 0);
    while !copy.contains_key("k/end") {
        match timeout(PATIENCE, updates.next()).await.expect("told in time").unwrap() {
            Update::Snapshot(revision, all) => {
                copy = all.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
                seen = revision;
            }
            Update::Changes(batch) => {
                for change in batch.changes {
                    assert!(change.revision() > seen, "told twice: {change:?}");
                    let Change::Put(kv) = change else { panic!("nothing was deleted") };
                    assert!(copy.insert(kv.key.clone(), kv).is_none(), "written once");
                }
                seen = batch.revision;
            }
            Update::Unreachable(_) => {}
        }
    }
    copy
}

async fn check(store: &dyn MetaStore, written: &Written, followed: &BTreeMap<String, KeyValue>) {
    let (_, all) = store.range("k/").await.unwrap();
    let there: BTreeMap<String, KeyValue> = all.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    for number in &written.answered {
        assert!(there.contains_key(&format!("k/{number:08}")), "write {number} was answered and is lost");
    }
    let unknown = written.unknown.iter().filter(|number| there.contains_key(&format!("k/{number:08}")));
    // Nothing was made that was reported as not made.
    assert_eq!(there.len(), written.answered.len() + unknown.count() + 1);
    assert_eq!(followed, &there, "the follower has something else");
}

async fn elect(store: &dyn MetaStore) -> Term {
    let writes = vec![Write::Put { key: "leader".into(), value: vec![], lease: None }];
    match store.txn(vec![Compare::Absent("leader".into())], writes).await.unwrap() {
        TxnOutcome::Committed(revision) => Term(revision),
        TxnOutcome::Refused => panic!("there is a leader"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answered_write_is_lost_and_no_follower_misses_one_while_members_are_killed() {
    let mut cluster = EtcdCluster::start(3);
    let store: Arc<dyn MetaStore> = Arc::new(cluster.store());
    let term = elect(&*store).await;
    let end = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_fenced(store.clone(), term, end.clone()));
    // One follower on all members, and one on each.
    let mut followers = vec![tokio::spawn(follow_to_the_end(store.clone()))];
    followers.extend((0..3).map(|index| tokio::spawn(follow_to_the_end(Arc::new(cluster.store_on(index))))));
    for round in 0..4 {
        sleep(Duration::from_millis(500)).await;
        // The leader, then another one.
        let leader = cluster.leader().await;
        let victim = if round % 2 == 0 { leader } else { (leader + 1) % 3 };
        cluster.kill(victim);
        sleep(Duration::from_millis(2_500)).await;
        cluster.restart(victim);
    }
    end.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    store.txn(vec![], put("k/end", "x")).await.unwrap();
    for follower in followers {
        check(&*store, &written, &follower.await.unwrap()).await;
    }
    println!(
        "{} answered, {} unknown, {} unreachable, longest {} ms",
        written.answered.len(),
        written.unknown.len(),
        written.unreachable,
        written.longest_ms
    );
    assert!(written.answered.len() > 100, "it hardly wrote");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_member_holds_up_neither_writes_nor_followers_for_long() {
    let cluster = EtcdCluster::start(3);
    let store: Arc<dyn MetaStore> = Arc::new(cluster.store());
    let term = elect(&*store).await;
    let lease = store.grant_lease(20_000).await.unwrap();
    let end = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_fenced(store.clone(), term, end.clone()));
    let follower = tokio::spawn(follow_to_the_end(store.clone()));
    sleep(Duration::from_millis(500)).await;
    // The first in the list is the one that is asked: everything hangs on it.
    cluster.pause(0);
    let start = Instant::now();
    store.keep_alive(lease).await.expect("renewed elsewhere within the deadline");
    let renewed_ms = start.elapsed().as_millis();
    sleep(Duration::from_secs(6)).await;
    end.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    store.txn(vec![], put("k/end", "x")).await.unwrap();
    let start = Instant::now();
    let followed = timeout(Duration::from_secs(15), follower).await.expect("it changes members").unwrap();
    println!(
        "paused: lease renewed after {renewed_ms} ms, follower after {} ms, longest write {} ms",
        start.elapsed().as_millis(),
        written.longest_ms
    );
    check(&*store, &written, &followed).await;
    cluster.resume(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_that_is_not_there_yet_is_unreachable_and_then_used() {
    let mut cluster = EtcdCluster::prepare(3);
    let store = cluster.store();
    let mut updates = follow(Arc::new(store.clone()), "k/".into());
    assert!(matches!(timeout(PATIENCE, updates.next()).await.unwrap(), Some(Update::Unreachable(_))));
    // One of three cannot decide anything, and says so.
    cluster.launch(0);
    // A key of its own: what has an unknown outcome may still come to pass, after later writes even.
    let told = store.txn(vec![], put("k/unknown", "1")).await;
    assert!(matches!(told, Err(Error::Unreachable(_) | Error::OutcomeUnknown(_))), "{told:?}");
    cluster.launch(1);
    let start = Instant::now();
    while let Err(error) = store.txn(vec![], put("k/a", "2")).await {
        assert!(start.elapsed() < PATIENCE, "{error}");
    }
    loop {
        match timeout(PATIENCE, updates.next()).await.unwrap().unwrap() {
            Update::Snapshot(_, all) if all.iter().any(|kv| kv.value == b"2") => break,
            Update::Changes(batch) if batch.changes.iter().any(|change| change.key() == "k/a") => break,
            _ => {}
        }
    }
}

const CHILD_FILE: &str = "CVH_TEST_EMBEDDED_FILE";

/// Run again as a child by the next test: writes, and says each answer, until it is killed.
#[tokio::test]
#[ignore = "a part of `the_embedded_store_survives_kill_9_at_any_moment`"]
async fn child_that_writes_until_it_is_killed() {
    use std::io::Write as _;
    let Ok(path) = std::env::var(CHILD_FILE) else { return };
    let store = EmbeddedStore::open(&path).await.unwrap();
    let mut number = store.range("n/").await.unwrap().1.len();
    loop {
        number += 1;
        let many: Vec<Write> =
            (0..5).flat_map(|copy| put(&format!("n{copy}/{number:08}"), &"v".repeat(300))).collect();
        let writes = [put(&format!("n/{number:08}"), "x"), many].concat();
        if let Ok(TxnOutcome::Committed(_)) = store.txn(vec![], writes).await {
            // Not `println!`: the test harness keeps that back.
            let mut out = std::io::stdout();
            writeln!(out, "answered {number} ").unwrap();
            out.flush().unwrap();
        }
    }
}

#[tokio::test]
async fn the_embedded_store_survives_kill_9_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.redb");
    let (mut answered_in_all, mut before) = (0, 0);
    for round in 0..12_u64 {
        let child = Launch::new("child", std::env::current_exe().unwrap(), folder.path())
            .args(["--exact", "metadata_faults::child_that_writes_until_it_is_killed", "--ignored"])
            .arg("--nocapture")
            .env(CHILD_FILE, &path)
            .start()
            .unwrap();
        if round == 0 {
            let busy = || if answered(child.log()) > 0 { Ok(()) } else { Err("no answer yet".to_owned()) };
            child.wait_ready(PATIENCE, busy).unwrap();
        }
        sleep(Duration::from_millis(30 + round * 37 % 400)).await;
        assert!(child.is_running(), "{}", child.log_tail(20));
        child.kill().unwrap();
        let last = answered(child.log());
        let store = EmbeddedStore::open(&path).await.unwrap();
        let (_, all) = store.range("n").await.unwrap();
        let numbers = all.iter().filter(|kv| kv.key.starts_with("n/")).count();
        assert!(numbers >= last, "{last} were answered, {numbers} are there");
        // At most one more: the one that was under way when it was killed.
        assert!(numbers <= last.max(before) + 1, "{last} were answered, {numbers} are there");
        before = numbers;
        assert_eq!(all.len(), numbers * 6, "a part of a transaction");
        answered_in_all = last;
    }
    println!("{answered_in_all} answered writes over 12 kills");
    assert!(answered_in_all > 50, "it hardly wrote: {answered_in_all}");
}

/// The last number that the children said, whole lines only.
fn answered(log: &Path) -> usize {
    let text = std::fs::read_to_string(log).unwrap();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let number = |line: &str| line.split("answered ").nth(1)?.split(' ').next()?.parse().ok();
    whole.filter_map(number).max().unwrap_or(0)
}
