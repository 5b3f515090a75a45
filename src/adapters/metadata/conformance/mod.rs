//! The contract of [`MetaStore`](super::MetaStore) as a suite: every store passes the same one, also a real etcd.
//!
//! Part of the library so that unit tests and `tests/` run the very same checks. A check panics with what it found.
//! Each works under a prefix of its own, so the store need not be empty; it must have no other writer meanwhile.

mod leases;
mod watches;

use super::{Change, Compare, Error, KeyValue, LeaseId, MetaStore, Revision, TxnOutcome, WatchBatch};
use super::{TXN_BYTES_MAX, TXN_WRITES_MAX, Write, fence};
use crate::model::Term;
use futures::StreamExt;
use futures::stream::BoxStream;
use leases::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use watches::*;

/// The shortest lease that every store can give.
const TTL_MS: u64 = 2_000;
/// Anything that should happen has happened by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every check, each on what `make` gives: a handle on one store or on a new one each time.
pub async fn run_all(make: impl AsyncFn() -> Arc<dyn MetaStore>) {
    macro_rules! run {
        ($($check:ident),+ $(,)?) => {
            $(
                tracing::debug!(check = stringify!($check), "conformance");
                $check(Subject::new(make().await, stringify!($check))).await;
            )+
        };
    }
    run!(
        a_key_has_its_value_and_revisions,
        every_writing_transaction_takes_the_next_revision,
        compares_hold_or_nothing_is_written,
        a_deleted_key_comes_back_as_a_new_one,
        a_prefix_is_deleted_and_nothing_beside_it,
        a_range_is_whole_and_ordered,
        what_breaks_a_limit_is_refused_and_not_made,
        a_lease_that_ends_takes_its_keys_along,
        a_lease_holds_only_what_was_last_put_with_it,
        a_lease_lives_while_it_is_renewed_and_no_longer,
        a_deposed_leader_is_fenced,
        a_watch_tells_every_change_once_and_in_order,
        a_watch_tells_whole_transactions,
        a_watch_from_the_past_and_from_the_future,
        counting_together_loses_no_step,
        a_follower_has_what_the_store_has,
    );
}

/// A store whose history can be forgotten passes this as well. `compact` forgets up to and including a revision.
pub async fn compaction(store: Arc<dyn MetaStore>, compact: impl AsyncFn(Revision)) {
    let on = Subject::new(store, "compaction");
    let first = on.put("a", "1").await;
    let mut running = on.watch(first + 1).await;
    let mut last = first;
    for number in 2..10 {
        last = on.put("a", &number.to_string()).await;
    }
    let deleted = on.commit(vec![], vec![Write::Delete(on.key("a"))]).await;
    on.put("b", "after").await;
    compact(deleted).await;
    for from in [first, last, deleted] {
        let told = match on.store.watch(&on.prefix, from).await {
            Err(error) => error,
            Ok(mut stream) => next(&mut stream).await.expect_err("a watch of forgotten history"),
        };
        assert!(matches!(told, Error::Compacted { oldest } if oldest > deleted), "from {from}: {told}");
    }
    let mut rest = on.watch(deleted + 1).await;
    assert_eq!(texts(&next(&mut rest).await.expect("history that is there")), ["b=after"]);
    // A watch that was there before is told everything, or told to read again: never a gap.
    let mut told = Vec::new();
    while told.last().map(String::as_str) != Some("b=after") {
        match next(&mut running).await {
            Ok(batch) => told.extend(texts(&batch)),
            Err(Error::Compacted { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
    let all = ["a=2", "a=3", "a=4", "a=5", "a=6", "a=7", "a=8", "a=9", "-a", "b=after"];
    assert_eq!(told, all);
}

struct Subject {
    store: Arc<dyn MetaStore>,
    prefix: String,
}

impl Subject {
    fn new(store: Arc<dyn MetaStore>, check: &str) -> Self {
        Self { store, prefix: format!("/conformance/{}/{check}/", uuid::Uuid::new_v4().simple()) }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn write(&self, name: &str, value: &str, lease: Option<LeaseId>) -> Write {
        Write::Put { key: self.key(name), value: value.as_bytes().to_vec(), lease }
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> TxnOutcome {
        self.store.txn(compares, writes).await.expect("transaction")
    }

    async fn commit(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Revision {
        match self.txn(compares, writes).await {
            TxnOutcome::Committed(revision) => revision,
            TxnOutcome::Refused => panic!("refused though all compares hold"),
        }
    }

    async fn put(&self, name: &str, value: &str) -> Revision {
        self.commit(vec![], vec![self.write(name, value, None)]).await
    }

    async fn get(&self, name: &str) -> Option<KeyValue> {
        self.store.get(&self.key(name)).await.expect("get")
    }

    async fn invalid(&self, writes: Vec<Write>) {
        let before = self.store.range(&self.prefix).await.expect("range");
        let told = self.store.txn(vec![], writes).await;
        assert!(matches!(told, Err(Error::Invalid(_))), "{told:?}");
        assert_eq!(self.store.range(&self.prefix).await.expect("range"), before, "refused, and yet made");
    }

    async fn watch(&self, from: Revision) -> BoxStream<'static, Result<WatchBatch, Error>> {
        self.store.watch(&self.prefix, from).await.expect("watch")
    }
}

/// The next batch that tells something.
async fn next(stream: &mut BoxStream<'static, Result<WatchBatch, Error>>) -> Result<WatchBatch, Error> {
    loop {
        let item = timeout(PATIENCE, stream.next()).await.expect("a change is told in time");
        match item.expect("the watch goes on") {
            Ok(batch) if batch.changes.is_empty() => {}
            other => return other,
        }
    }
}

/// `name=value` of a put, `-name` of a delete.
fn texts(batch: &WatchBatch) -> Vec<String> {
    let name = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
    let text = |change: &Change| match change {
        Change::Put(kv) => format!("{}={}", name(&kv.key), String::from_utf8_lossy(&kv.value)),
        Change::Delete { key, .. } => format!("-{}", name(key)),
    };
    batch.changes.iter().map(text).collect()
}

async fn a_key_has_its_value_and_revisions(on: Subject) {
    assert_eq!(on.get("a").await, None);
    let created = on.put("a", "1").await;
    let changed = on.commit(vec![], vec![on.write("a", "", None)]).await;
    let expected = KeyValue {
        key: on.key("a"),
        value: vec![],
        create_revision: created,
        mod_revision: changed,
        lease: None,
    };
    assert_eq!(on.get("a").await, Some(expected));
    assert_eq!(on.get("").await, None, "a prefix is no key");
    let odd = "ключ %2f \u{10FFFF}\"'";
    on.put(odd, "\0\u{7f}").await;
    assert_eq!(on.get(odd).await.map(|kv| kv.value), Some(b"\0\x7f".to_vec()));
}

async fn every_writing_transaction_takes_the_next_revision(on: Subject) {
    let first = on.put("a", "1").await;
    assert!(first >= 1);
    let both = on.commit(vec![], vec![on.write("a", "2", None), on.write("b", "2", None)]).await;
    assert_eq!(both, first + 1);
    assert_eq!(on.txn(vec![Compare::Absent(on.key("a"))], vec![]).await, TxnOutcome::Refused);
    let nothing = on.commit(vec![Compare::Present(on.key("a"))], vec![Write::Delete(on.key("none"))]).await;
    assert_eq!(nothing, both, "nothing changed, no revision is taken");
    let (revision, all) = on.store.range(&on.prefix).await.expect("range");
    assert_eq!((revision, all.len()), (both, 2));
    assert_eq!(on.commit(vec![], vec![Write::Delete(on.key("a"))]).await, both + 1);
}

async fn compares_hold_or_nothing_is_written(on: Subject) {
    let created = on.put("a", "1").await;
    let changed = on.put("a", "2").await;
    let key = || on.key("a");
    let holding = [
        Compare::Present(key()),
        Compare::Absent(on.key("none")),
        Compare::CreatedAt(key(), created),
        Compare::ModifiedAt(key(), changed),
    ];
    let failing = [
        Compare::Absent(key()),
        Compare::Present(on.key("none")),
        Compare::CreatedAt(key(), changed),
        Compare::CreatedAt(on.key("none"), created),
        Compare::ModifiedAt(key(), created),
        Compare::ModifiedAt(on.key("none"), changed),
    ];
    for compare in &failing {
        let compares = [&holding[..], std::slice::from_ref(compare)].concat();
        let writes = vec![on.write("x", "no", None), Write::Delete(key())];
        assert_eq!(on.txn(compares, writes).await, TxnOutcome::Refused, "{compare:?}");
    }
    assert_eq!(on.get("x").await, None);
    assert_eq!(on.get("a").await.map(|kv| kv.mod_revision), Some(changed));
    on.commit(holding.to_vec(), vec![on.write("x", "yes", None)]).await;
    assert!(on.get("x").await.is_some());
}

async fn a_deleted_key_comes_back_as_a_new_one(on: Subject) {
    let old = on.put("a", "1").await;
    on.commit(vec![], vec![Write::Delete(on.key("a"))]).await;
    assert_eq!(on.get("a").await, None);
    let new = on.put("a", "2").await;
    assert!(new > old);
    let stale = on.txn(vec![Compare::CreatedAt(on.key("a"), old)], vec![]).await;
    assert_eq!(stale, TxnOutcome::Refused);
    on.commit(vec![Compare::CreatedAt(on.key("a"), new)], vec![]).await;
}

async fn a_prefix_is_deleted_and_nothing_beside_it(on: Subject) {
    for name in ["d", "d/1", "d/2", "d/\u{10FFFF}", "d0", "e"] {
        on.put(name, "1").await;
    }
    let before = on.put("last", "1").await;
    let revision =
        on.commit(vec![], vec![Write::DeletePrefix(on.key("d/")), on.write("new", "1", None)]).await;
    let (_, left) = on.store.range(&on.prefix).await.expect("range");
    let left: Vec<_> = left.iter().map(|kv| kv.key.strip_prefix(&on.prefix).unwrap_or("?")).collect();
    assert_eq!(left, ["d", "d0", "e", "last", "new"]);
    let told = next(&mut on.watch(before + 1).await).await.expect("watch");
    assert_eq!((told.revision, told.changes.len()), (revision, 4));
    assert_eq!(on.commit(vec![], vec![Write::DeletePrefix(on.key("d/"))]).await, revision, "nothing left");
}

async fn a_range_is_whole_and_ordered(on: Subject) {
    const KEYS: usize = 2_500;
    let mut expected = Vec::new();
    for chunk in 0..KEYS / 100 {
        let names: Vec<_> = (0..100).map(|number| format!("k/{:05}", number * 25 + chunk)).collect();
        let writes = names.iter().map(|name| on.write(name, name, None)).collect();
        on.commit(vec![], writes).await;
        expected.extend(names.iter().map(|name| on.key(name)));
    }
    expected.sort();
    let last = on.put("l", "not under it").await;
    let (revision, all) = on.store.range(&on.key("k/")).await.expect("range");
    assert_eq!(revision, last, "as of the newest revision, also of others' keys");
    assert!(all.iter().map(|kv| &kv.key).eq(&expected), "{} keys, or out of order", all.len());
    assert!(all.iter().all(|kv| kv.key.ends_with(&*String::from_utf8_lossy(&kv.value))));
    assert_eq!(on.store.range(&on.key("none")).await.expect("range"), (revision, vec![]));
    on.commit(vec![], vec![Write::DeletePrefix(on.key("k/"))]).await;
}

async fn what_breaks_a_limit_is_refused_and_not_made(on: Subject) {
    let put = |name: &str| on.write(name, "1", None);
    on.put("d/1", "1").await;
    let many = |count| (0..count).map(|number| put(&format!("m{number}"))).collect::<Vec<_>>();
    on.commit(vec![], many(TXN_WRITES_MAX)).await;
    on.invalid(many(TXN_WRITES_MAX + 1)).await;
    on.invalid(vec![put("twice"), put("twice")]).await;
    on.invalid(vec![put("twice"), Write::Delete(on.key("twice"))]).await;
    on.invalid(vec![put("d/2"), Write::DeletePrefix(on.key("d/"))]).await;
    on.invalid(vec![Write::DeletePrefix(on.key("d/")), Write::Delete(on.key("d/1"))]).await;
    on.invalid(vec![Write::DeletePrefix(on.key("d")), Write::DeletePrefix(on.key("d/"))]).await;
    on.invalid(vec![Write::Put { key: String::new(), value: vec![], lease: None }]).await;
    let big = |bytes| Write::Put { key: on.key("big"), value: vec![7; bytes], lease: None };
    on.invalid(vec![big(TXN_BYTES_MAX)]).await;
    on.commit(vec![], vec![big(TXN_BYTES_MAX - 200)]).await;
    assert_eq!(on.get("big").await.map(|kv| kv.value.len()), Some(TXN_BYTES_MAX - 200));
}

async fn a_deposed_leader_is_fenced(on: Subject) {
    let leader = on.key("leader");
    let elect = |lease| (vec![Compare::Absent(leader.clone())], vec![on.write("leader", "me", Some(lease))]);
    let old_lease = on.store.grant_lease(60_000).await.expect("grant");
    let (compares, writes) = elect(old_lease);
    let old = Term(on.commit(compares, writes).await);
    let new_lease = on.store.grant_lease(60_000).await.expect("grant");
    let (compares, writes) = elect(new_lease);
    assert_eq!(on.txn(compares, writes).await, TxnOutcome::Refused, "there is a leader");
    on.commit(vec![fence(&leader, old)], vec![on.write("x", "old", None)]).await;
    on.store.revoke_lease(old_lease).await.expect("revoke");
    let orphan = on.txn(vec![fence(&leader, old)], vec![on.write("x", "zombie", None)]).await;
    assert_eq!(orphan, TxnOutcome::Refused, "nobody leads");
    let (compares, writes) = elect(new_lease);
    let new = Term(on.commit(compares, writes).await);
    let zombie = on.txn(vec![fence(&leader, old)], vec![on.write("x", "zombie", None)]).await;
    assert_eq!(zombie, TxnOutcome::Refused, "another one leads");
    on.commit(vec![fence(&leader, new)], vec![on.write("x", "new", None)]).await;
    assert_eq!(on.get("x").await.map(|kv| kv.value), Some(b"new".to_vec()));
    on.store.revoke_lease(new_lease).await.expect("revoke");
}

async fn counting_together_loses_no_step(on: Subject) {
    const TASKS: usize = 6;
    const STEPS: usize = 15;
    let start = on.put("count", "0").await;
    let on = Arc::new(on);
    let count = |on: Arc<Subject>| async move {
        for _ in 0..STEPS {
            loop {
                let now = on.get("count").await.expect("it is there");
                let number: usize = String::from_utf8_lossy(&now.value).parse().expect("a number");
                let unchanged = Compare::ModifiedAt(on.key("count"), now.mod_revision);
                let write = on.write("count", &(number + 1).to_string(), None);
                if on.txn(vec![unchanged], vec![write]).await != TxnOutcome::Refused {
                    break;
                }
            }
        }
    };
    futures::future::join_all((0..TASKS).map(|_| count(on.clone()))).await;
    let end = on.get("count").await.expect("it is there");
    assert_eq!(end.value, (TASKS * STEPS).to_string().into_bytes());
    assert_eq!(end.mod_revision, start + Revision::try_from(TASKS * STEPS).expect("small"));
}
