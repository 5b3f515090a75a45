//! What leases promise.

use super::{Subject, TTL_MS, next, texts};
use crate::adapters::metadata::{Compare, Error, TxnOutcome, Write};
use std::time::Duration;
use tokio::time::sleep;

pub(super) async fn a_lease_that_ends_takes_its_keys_along(on: Subject) {
    let lease = on.store.grant_lease(60_000).await.expect("grant");
    let kept = on.put("kept", "1").await;
    on.commit(vec![], vec![on.write("a", "1", Some(lease)), on.write("b", "1", Some(lease))]).await;
    assert_eq!(on.get("a").await.and_then(|kv| kv.lease), Some(lease));
    let mut watch = on.watch(kept + 2).await;
    on.store.revoke_lease(lease).await.expect("revoke");
    assert_eq!((on.get("a").await, on.get("b").await), (None, None));
    assert!(on.get("kept").await.is_some());
    let told = next(&mut watch).await.expect("watch");
    assert_eq!((texts(&told), told.revision), (vec!["-a".to_owned(), "-b".to_owned()], kept + 2));
    on.store.revoke_lease(lease).await.expect("revoking twice is no error");
    assert_eq!(on.store.keep_alive(lease).await, Err(Error::LeaseGone(lease)));
    let late = on.store.txn(vec![], vec![on.write("a", "1", Some(lease))]).await;
    assert_eq!(late, Err(Error::LeaseGone(lease)));
    let refused = on.txn(vec![Compare::Absent(on.key("kept"))], vec![on.write("a", "1", Some(lease))]).await;
    assert_eq!(refused, TxnOutcome::Refused, "a write that is not made needs no lease");
}

pub(super) async fn a_lease_holds_only_what_was_last_put_with_it(on: Subject) {
    let one = on.store.grant_lease(60_000).await.expect("grant");
    let other = on.store.grant_lease(60_000).await.expect("grant");
    assert_ne!(one, other);
    for name in ["freed", "moved", "again"] {
        on.commit(vec![], vec![on.write(name, "1", Some(one))]).await;
    }
    on.put("freed", "2").await;
    on.commit(vec![], vec![on.write("moved", "2", Some(other)), Write::Delete(on.key("again"))]).await;
    on.put("again", "3").await;
    on.store.revoke_lease(one).await.expect("revoke");
    assert_eq!(on.get("freed").await.map(|kv| kv.lease), Some(None));
    assert_eq!(on.get("moved").await.map(|kv| kv.lease), Some(Some(other)));
    assert!(on.get("again").await.is_some());
    on.store.revoke_lease(other).await.expect("revoke");
    assert_eq!(on.get("moved").await, None);
}

pub(super) async fn a_lease_lives_while_it_is_renewed_and_no_longer(on: Subject) {
    let renewed = on.store.grant_lease(TTL_MS).await.expect("grant");
    let left = on.store.grant_lease(TTL_MS).await.expect("grant");
    on.commit(vec![], vec![on.write("renewed", "1", Some(renewed))]).await;
    let put = on.commit(vec![], vec![on.write("left", "1", Some(left))]).await;
    let mut watch = on.watch(put + 1).await;
    for _ in 0..12 {
        sleep(Duration::from_millis(TTL_MS / 4)).await;
        on.store.keep_alive(renewed).await.expect("renewed in time");
    }
    assert!(on.get("renewed").await.is_some(), "gone though renewed");
    assert_eq!(texts(&next(&mut watch).await.expect("watch")), ["-left"]);
    assert_eq!(on.get("left").await, None);
    assert_eq!(on.store.keep_alive(left).await, Err(Error::LeaseGone(left)));
    // Nobody calls the store now: the watch must hear of it all the same.
    assert_eq!(texts(&next(&mut watch).await.expect("watch")), ["-renewed"]);
}
