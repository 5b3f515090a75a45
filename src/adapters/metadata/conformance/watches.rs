//! What watches and followers promise.

use super::{PATIENCE, Subject, next, texts};
use crate::adapters::metadata::{Change, Error, KeyValue, Revision, Update, Write, follow};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use tokio::time::timeout;

pub(super) async fn a_watch_tells_every_change_once_and_in_order(on: Subject) {
    let start = on.put("before", "1").await;
    let mut watch = on.watch(start + 1).await;
    let mut expected = Vec::new();
    for number in 0..200 {
        let name = format!("k{}", number % 7);
        if number % 5 == 4 {
            // Its neighbour in the round was written four steps ago, so it is there.
            let name = format!("k{}", (number - 4) % 7);
            on.commit(vec![], vec![Write::Delete(on.key(&name))]).await;
            expected.push(format!("-{name}"));
        } else {
            on.put(&name, &number.to_string()).await;
            expected.push(format!("{name}={number}"));
        }
    }
    let mut told = Vec::new();
    let mut revision = start;
    while told.len() < expected.len() {
        let batch = next(&mut watch).await.expect("watch");
        assert!(batch.changes.iter().all(|change| change.revision() > revision), "told twice");
        assert!(batch.changes.is_sorted_by_key(Change::revision), "out of order");
        assert_eq!(batch.changes.last().map(Change::revision), Some(batch.revision));
        revision = batch.revision;
        told.extend(texts(&batch));
    }
    assert_eq!(told, expected);
}

pub(super) async fn a_watch_tells_whole_transactions(on: Subject) {
    let start = on.put("before", "1").await;
    let mut early = on.watch(start + 1).await;
    let mut ends = Vec::new();
    for round in 0..20 {
        let value = round.to_string();
        let outside = Write::Put {
            key: format!("{}-outside", on.prefix.trim_end_matches('/')),
            value: vec![],
            lease: None,
        };
        let mut writes: Vec<Write> =
            (0..50).map(|number| on.write(&format!("k{number:02}"), &value, None)).collect();
        writes.push(outside);
        ends.push(on.commit(vec![], writes).await);
    }
    let mut late = on.watch(start + 1).await;
    for watch in [&mut early, &mut late] {
        let mut told = BTreeMap::<Revision, usize>::new();
        while told.len() < ends.len() {
            let batch = next(watch).await.expect("watch");
            assert!(batch.changes.iter().all(|change| change.key().starts_with(&on.prefix)), "another's key");
            let mut count = BTreeMap::<Revision, usize>::new();
            for change in &batch.changes {
                *count.entry(change.revision()).or_default() += 1;
            }
            assert!(count.values().all(|changes| *changes == 50), "a part of a transaction: {count:?}");
            told.extend(count);
        }
        assert!(told.keys().eq(&ends));
    }
}

pub(super) async fn a_watch_from_the_past_and_from_the_future(on: Subject) {
    let one = on.put("a", "1").await;
    let two = on.put("a", "2").await;
    let mut from_one = on.watch(one).await;
    let mut from_two = on.watch(two).await;
    let mut from_four = on.watch(two + 2).await;
    on.put("a", "3").await;
    on.put("a", "4").await;
    let mut told = Vec::new();
    while told.len() < 4 {
        told.extend(texts(&next(&mut from_one).await.expect("watch")));
    }
    assert_eq!(told, ["a=1", "a=2", "a=3", "a=4"]);
    assert_eq!(texts(&next(&mut from_two).await.expect("watch"))[0], "a=2");
    assert_eq!(texts(&next(&mut from_four).await.expect("watch")), ["a=4"]);
    assert!(matches!(on.store.watch(&on.prefix, 0).await, Err(Error::Invalid(_))), "there is no revision 0");
    drop(from_one);
    on.put("a", "5").await;
    assert_eq!(
        texts(&next(&mut from_four).await.expect("watch")),
        ["a=5"],
        "a neighbour's end changes nothing"
    );
}

pub(super) async fn a_follower_has_what_the_store_has(on: Subject) {
    for number in 0..10 {
        on.put(&format!("k{number}"), "first").await;
    }
    let mut updates = follow(on.store.clone(), on.prefix.clone());
    let mut copy = BTreeMap::new();
    let mut seen = 0;
    let mut random: u64 = 7;
    let mut last = 0;
    for round in 0..150 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = format!("k{}", (random >> 33) % 20);
        let write = match (random >> 20) % 4 {
            0 => Write::Delete(on.key(&name)),
            _ => on.write(&name, &round.to_string(), None),
        };
        last = on.commit(vec![], vec![write]).await;
        if round % 3 == 0 && seen < last {
            seen = apply(&mut copy, &mut updates, seen).await;
        }
    }
    last = last.max(on.put("end", "1").await);
    while seen < last {
        seen = apply(&mut copy, &mut updates, seen).await;
    }
    let (_, all) = on.store.range(&on.prefix).await.expect("range");
    assert!(all.iter().eq(copy.values()), "the follower has something else");
}

async fn apply(
    copy: &mut BTreeMap<String, KeyValue>,
    updates: &mut BoxStream<'static, Update>,
    seen: Revision,
) -> Revision {
    match timeout(PATIENCE, updates.next()).await.expect("told in time").expect("never ends") {
        Update::Snapshot(revision, all) => {
            *copy = all.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
            revision
        }
        Update::Changes(batch) => {
            for change in batch.changes {
                assert!(change.revision() > seen, "told twice");
                match change {
                    Change::Put(kv) => drop(copy.insert(kv.key.clone(), kv)),
                    Change::Delete { key, .. } => assert!(copy.remove(&key).is_some(), "{key} was not there"),
                }
            }
            batch.revision
        }
        Update::Unreachable(reason) => panic!("{reason}"),
    }
}
