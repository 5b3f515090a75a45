use super::*;
use crate::adapters::metadata::{Change, conformance};

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Vec<Write> {
    vec![Write::Put { key: key.into(), value: value.into(), lease }]
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract_when_new() {
    conformance::run_all(async || Arc::new(MemoryStore::new()) as Arc<dyn MetaStore>).await;
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract_when_shared_and_slow() {
    let store = MemoryStore::new();
    let make = async || {
        let client = store.client();
        client.faults().set_latency_ms(5);
        Arc::new(client) as Arc<dyn MetaStore>
    };
    conformance::run_all(make).await;
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract_of_compaction() {
    let store = MemoryStore::new();
    conformance::compaction(Arc::new(store.clone()), async |revision| store.compact(revision)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_to_the_millisecond_of_virtual_time() {
    let store = MemoryStore::new();
    let start = Instant::now();
    let lease = store.grant_lease(1_500).await.unwrap();
    store.txn(vec![], put("a", "1", Some(lease))).await.unwrap();
    let mut watch = store.watch("a", 2).await.unwrap();
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(batch.changes, [Change::Delete { key: "a".into(), revision: 2 }]);
    assert_eq!(start.elapsed().as_millis(), 1_500);
    let shorter = store.grant_lease(100).await.unwrap();
    store.grant_lease(50_000).await.unwrap();
    store.txn(vec![], put("a", "2", Some(shorter))).await.unwrap();
    watch.next().await.unwrap().unwrap();
    watch.next().await.unwrap().unwrap();
    assert_eq!(start.elapsed().as_millis(), 1_600, "a shorter lease is not kept waiting by a longer one");
}

#[tokio::test(start_paused = true)]
async fn injected_faults_do_what_they_say() {
    let store = MemoryStore::new();
    let other = store.client();
    let faults = store.faults().clone();

    faults.fail_next(2);
    assert!(matches!(store.get("a").await, Err(Error::Unreachable(_))));
    assert!(matches!(store.txn(vec![], put("a", "1", None)).await, Err(Error::Unreachable(_))));
    assert_eq!(store.get("a").await, Ok(None), "the third call succeeds, the second did nothing");

    faults.lose_answers_committed(1);
    assert!(matches!(store.txn(vec![], put("a", "1", None)).await, Err(Error::OutcomeUnknown(_))));
    assert_eq!(other.get("a").await.unwrap().unwrap().value, b"1");
    faults.lose_answers_uncommitted(1);
    assert!(matches!(store.txn(vec![], put("a", "2", None)).await, Err(Error::OutcomeUnknown(_))));
    assert_eq!(other.get("a").await.unwrap().unwrap().value, b"1");

    let (mut mine, mut others) = (store.watch("", 2).await.unwrap(), other.watch("", 2).await.unwrap());
    faults.drop_watches();
    assert_eq!(mine.next().await, None);
    other.txn(vec![], put("b", "1", None)).await.unwrap();
    assert!(others.next().await.unwrap().is_ok(), "another client's watch is not touched");

    let mut mine = store.watch("", 2).await.unwrap();
    faults.set_unreachable(true);
    assert!(mine.next().await.unwrap().is_ok(), "what had arrived is told");
    assert!(matches!(mine.next().await, Some(Err(Error::Unreachable(_)))));
    assert_eq!(mine.next().await, None);
    assert!(matches!(store.watch("", 2).await, Err(Error::Unreachable(_))));
    faults.set_unreachable(false);
    assert!(store.get("a").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_write_cut_off_on_its_way_back_has_an_unknown_outcome() {
    let store = MemoryStore::new();
    store.faults().set_latency_ms(100);
    let faults = store.faults().clone();
    let cut = async {
        sleep(Duration::from_millis(70)).await;
        faults.set_unreachable(true);
    };
    let (told, ()) = futures::join!(store.txn(vec![], put("a", "1", None)), cut);
    assert!(matches!(told, Err(Error::OutcomeUnknown(_))), "{told:?}");
    assert_eq!(store.peek("a").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_store_and_a_dropped_watch_leave_nothing() {
    let store = MemoryStore::new();
    store.grant_lease(60_000).await.unwrap();
    drop(store.watch("a", 1).await.unwrap());
    let shared = Arc::downgrade(&store.shared);
    drop(store);
    tokio::task::yield_now().await;
    assert!(shared.upgrade().is_none(), "kept alive by a watch or by the lease's task");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_keys_are_cheap() {
    let wall = std::time::Instant::now();
    let store = MemoryStore::new();
    let mut watches = Vec::new();
    for node in 0..1_000 {
        watches.push(store.watch(&format!("/assign/n{node:04}/"), 1).await.unwrap());
    }
    for number in 0..100_000 {
        let key = format!("/assign/n{:04}/{number}", number % 1_000);
        store.txn(vec![], put(&key, "0123456789012345678901234567890123456789", None)).await.unwrap();
    }
    for watch in &mut watches {
        for _ in 0..100 {
            watch.next().await.unwrap().unwrap();
        }
    }
    assert_eq!(store.range("/assign/").await.unwrap().1.len(), 100_000);
    let wall_ms = wall.elapsed().as_millis();
    println!("100 000 keys, 1000 watchers: {wall_ms} ms");
    assert!(wall_ms < 20_000, "{wall_ms} ms");
}
