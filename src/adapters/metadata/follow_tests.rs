use super::*;
use crate::adapters::metadata::{Change, KeyValue, MemoryStore, Write};
use std::collections::BTreeMap;
use tokio::time::{Instant, timeout};

fn put(key: &str, value: &str) -> Vec<Write> {
    vec![Write::Put { key: key.into(), value: value.into(), lease: None }]
}

async fn write(store: &MemoryStore, key: &str, value: &str) {
    store.client().txn(vec![], put(key, value)).await.unwrap();
}

fn show(update: Update) -> String {
    let kv = |kv: &KeyValue| format!("{}={}", kv.key, String::from_utf8_lossy(&kv.value));
    let change = |change: &Change| match change {
        Change::Put(put) => kv(put),
        Change::Delete { key, .. } => format!("-{key}"),
    };
    match update {
        Update::Snapshot(at, all) => {
            format!("snapshot@{at} {}", all.iter().map(kv).collect::<Vec<_>>().join(" "))
        }
        Update::Changes(batch) => {
            let all: Vec<_> = batch.changes.iter().map(change).collect();
            format!("changes@{} {}", batch.revision, all.join(" "))
        }
        Update::Unreachable(_) => "unreachable".into(),
    }
}

async fn next(updates: &mut BoxStream<'static, Update>) -> String {
    show(timeout(Duration::from_secs(60), updates.next()).await.expect("told in time").unwrap())
}

#[tokio::test(start_paused = true)]
async fn first_a_snapshot_then_changes() {
    let store = MemoryStore::new();
    write(&store, "k/a", "1").await;
    write(&store, "other", "1").await;
    let mut updates = follow(Arc::new(store.clone()), "k/".into());
    assert_eq!(next(&mut updates).await, "snapshot@2 k/a=1");
    write(&store, "k/a", "2").await;
    write(&store, "other", "2").await;
    write(&store, "k/b", "1").await;
    assert_eq!(next(&mut updates).await, "changes@3 k/a=2");
    assert_eq!(next(&mut updates).await, "changes@5 k/b=1");
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_goes_on_where_it_was_without_a_word() {
    let store = MemoryStore::new();
    let mut updates = follow(Arc::new(store.clone()), "k".into());
    assert_eq!(next(&mut updates).await, "snapshot@0 ");
    write(&store, "k1", "a").await;
    assert_eq!(next(&mut updates).await, "changes@1 k1=a");
    for number in 2..6 {
        store.faults().drop_watches();
        write(&store, "k1", "b").await;
        assert_eq!(next(&mut updates).await, format!("changes@{number} k1=b"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_once_and_its_end_too() {
    let store = MemoryStore::new();
    let mut updates = follow(Arc::new(store.clone()), "k".into());
    assert_eq!(next(&mut updates).await, "snapshot@0 ");
    let faults = store.faults().clone();
    for round in 1..4 {
        faults.set_unreachable(true);
        assert_eq!(next(&mut updates).await, "unreachable");
        assert!(timeout(Duration::from_secs(100), updates.next()).await.is_err(), "told twice");
        if round < 3 {
            write(&store, "k", "x").await;
        }
        faults.set_unreachable(false);
        let before = Instant::now();
        let told = next(&mut updates).await;
        assert!(before.elapsed() <= BACK_OFF_MAX);
        // The end of the outage comes by itself, before what happened meanwhile.
        assert_eq!(told, format!("changes@{} ", (round - 1).min(2)));
        if round < 3 {
            assert_eq!(next(&mut updates).await, format!("changes@{round} k=x"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unreachable_from_the_start() {
    let store = MemoryStore::new();
    store.faults().set_unreachable(true);
    let mut updates = follow(Arc::new(store.clone()), "k".into());
    assert_eq!(next(&mut updates).await, "unreachable");
    write(&store, "k", "1").await;
    store.faults().set_unreachable(false);
    assert_eq!(next(&mut updates).await, "snapshot@1 k=1");
}

#[tokio::test(start_paused = true)]
async fn what_was_compacted_meanwhile_comes_as_a_snapshot() {
    let store = MemoryStore::new();
    let mut updates = follow(Arc::new(store.clone()), "k".into());
    assert_eq!(next(&mut updates).await, "snapshot@0 ");
    store.faults().set_unreachable(true);
    assert_eq!(next(&mut updates).await, "unreachable");
    for value in ["1", "2", "3"] {
        write(&store, "k", value).await;
    }
    store.compact(2);
    store.faults().set_unreachable(false);
    assert_eq!(next(&mut updates).await, "snapshot@3 k=3");
    // Broken, but what is missing is still there: no snapshot.
    store.faults().drop_watches();
    write(&store, "k", "4").await;
    store.compact(3);
    assert_eq!(next(&mut updates).await, "changes@4 k=4");
}

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_is_noticed_and_all_is_read_again() {
    let store = MemoryStore::new().with_watch_patience(PATIENCE);
    let mut updates = follow(Arc::new(store.clone()), "k/".into());
    assert_eq!(next(&mut updates).await, "snapshot@0 ");
    write(&store, "k/1", "a").await;
    assert_eq!(next(&mut updates).await, "changes@1 k/1=a");
    store.faults().mute_watches();
    let quiet = timeout(Duration::from_secs(100), updates.next()).await;
    assert!(quiet.is_err(), "there is nothing to tell: {quiet:?}");
    for round in 2..5 {
        let before = Instant::now();
        write(&store, "k/1", "b").await;
        let told = timeout(Duration::from_secs(60), updates.next()).await.expect("noticed").unwrap();
        assert_eq!(told, Update::Unreachable(Error::Silent { told: round - 1, found: round }));
        assert_eq!(next(&mut updates).await, format!("snapshot@{round} k/1=b"));
        assert!(before.elapsed() <= PATIENCE + ON_ITS_WAY + PATIENCE, "{:?}", before.elapsed());
        // It is registered when it is asked for the first time.
        assert!(timeout(Duration::from_secs(1), updates.next()).await.is_err());
        store.faults().mute_watches();
    }
    let waiting = store.faults().clone();
    waiting.drop_watches();
    waiting.set_unreachable(true);
    assert_eq!(next(&mut updates).await, "unreachable", "a silent watch does not hide an outage");
    waiting.set_unreachable(false);
    assert_eq!(next(&mut updates).await, "changes@4 ");
    write(&store, "k/1", "c").await;
    assert_eq!(next(&mut updates).await, "changes@5 k/1=c");
}

#[tokio::test(start_paused = true)]
async fn what_only_went_is_noticed_too() {
    let store = MemoryStore::new().with_watch_patience(PATIENCE);
    let mut updates = follow(Arc::new(store.clone()), "k/".into());
    assert_eq!(next(&mut updates).await, "snapshot@0 ");
    for (revision, key) in [(1, "k/1"), (2, "k/2")] {
        write(&store, key, "a").await;
        assert_eq!(next(&mut updates).await, format!("changes@{revision} {key}=a"));
    }
    store.faults().mute_watches();
    store.client().txn(vec![], vec![Write::Delete("k/1".into())]).await.unwrap();
    assert_eq!(next(&mut updates).await, "unreachable");
    assert_eq!(next(&mut updates).await, "snapshot@3 k/2=a");
}

/// Others' keys take revisions too: what they write is told by no watch of ours.
#[tokio::test(start_paused = true)]
async fn what_others_write_is_no_silence_of_ours() {
    let store = MemoryStore::new().with_watch_patience(PATIENCE);
    let mut updates = follow(Arc::new(store.clone()), "k/".into());
    write(&store, "k/1", "a").await;
    assert_eq!(next(&mut updates).await, "snapshot@1 k/1=a");
    for _ in 0..3_600 {
        write(&store, "other", "x").await;
        let told = timeout(Duration::from_secs(1), updates.next()).await;
        assert!(told.is_err(), "nothing of ours: {told:?}");
    }
    write(&store, "k/1", "b").await;
    assert_eq!(next(&mut updates).await, format!("changes@{} k/1=b", store.revision()));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_late_is_not_doubted() {
    let store = MemoryStore::new().with_watch_patience(PATIENCE);
    let mut updates = follow(Arc::new(store.clone()), "k/".into());
    assert_eq!(next(&mut updates).await, "snapshot@0 ");
    assert!(timeout(Duration::from_secs(1), updates.next()).await.is_err());
    store.faults().mute_watches();
    write(&store, "k/1", "a").await;
    assert!(timeout(PATIENCE, updates.next()).await.is_err(), "compared, and found behind");
    store.faults().unmute_watches();
    assert_eq!(next(&mut updates).await, "changes@1 k/1=a");
}

/// Random faults and writes: what the follower has is, at each revision told, what the store had.
#[tokio::test(start_paused = true)]
async fn no_change_is_missed_or_told_twice_whatever_happens() {
    for seed in 0..30_u64 {
        let store = MemoryStore::new().with_watch_patience(Duration::from_millis(300));
        let faults = store.faults().clone();
        let mut random = seed;
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        // What the prefix held at each revision.
        let mut truth = BTreeMap::from([(0, Vec::new())]);
        let mut updates = follow(Arc::new(store.clone()), "k".into());
        let (mut copy, mut seen) = (BTreeMap::new(), 0);
        for round in 0..300 {
            match draw(13) {
                0 => faults.drop_watches(),
                12 => faults.mute_watches(),
                1 => faults.set_unreachable(true),
                2..4 => faults.set_unreachable(false),
                4 => faults.fail_next(2),
                5 => store.compact(store.revision()),
                6 => faults.set_latency_ms(draw(50)),
                _ => {
                    let (name, gone) = (format!("k{}", draw(5)), draw(3) == 0);
                    let change =
                        if gone { vec![Write::Delete(name)] } else { put(&name, &round.to_string()) };
                    store.client().txn(vec![], change).await.unwrap();
                    truth.insert(store.revision(), store.peek("k"));
                }
            }
            let wait = Duration::from_millis(draw(200));
            while let Ok(update) = timeout(wait, updates.next()).await {
                seen = apply(&mut copy, seen, update.unwrap());
                assert!(copy.values().eq(truth[&seen].iter()), "seed {seed}, revision {seen}");
            }
        }
        faults.set_unreachable(false);
        while let Ok(update) = timeout(Duration::from_secs(30), updates.next()).await {
            seen = apply(&mut copy, seen, update.unwrap());
        }
        assert!(copy.values().eq(store.peek("k").iter()), "seed {seed}: not all has arrived");
        assert_eq!(seen, store.revision(), "seed {seed}");
    }
}

fn apply(copy: &mut BTreeMap<String, KeyValue>, seen: Revision, update: Update) -> Revision {
    match update {
        Update::Snapshot(at, all) => {
            assert!(at >= seen, "back in time");
            *copy = all.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
            at
        }
        Update::Changes(batch) => {
            assert!(batch.revision >= seen, "back in time");
            for change in batch.changes {
                assert!(change.revision() > seen, "told twice");
                match change {
                    Change::Put(kv) => drop(copy.insert(kv.key.clone(), kv)),
                    Change::Delete { key, .. } => assert!(copy.remove(&key).is_some(), "{key} was not there"),
                }
            }
            batch.revision
        }
        Update::Unreachable(_) => seen,
    }
}
