use super::*;
use crate::adapters::metadata::conformance;
use crate::error::{Code, Coded};
use std::fs;

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Vec<Write> {
    vec![Write::Put { key: key.into(), value: value.into(), lease }]
}

async fn open_error(path: &Path) -> Error {
    match EmbeddedStore::open(path).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path().join("meta.redb")).await.unwrap();
    conformance::run_all(async || Arc::new(store.clone()) as Arc<dyn MetaStore>).await;
}

#[tokio::test]
async fn it_keeps_the_contract_of_compaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path().join("meta.redb")).await.unwrap();
    conformance::compaction(Arc::new(store.clone()), async |revision| store.compact(revision)).await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/meta.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    let (lease, ended) = (store.grant_lease(5_000).await.unwrap(), store.grant_lease(5_000).await.unwrap());
    store.txn(vec![], put("a", "1", None)).await.unwrap();
    store.txn(vec![], put("a", "2", None)).await.unwrap();
    store.txn(vec![], put("gone", "1", None)).await.unwrap();
    store.txn(vec![], vec![Write::DeletePrefix("go".into())]).await.unwrap();
    store.txn(vec![], put("leased", "1", Some(lease))).await.unwrap();
    store.txn(vec![], put("ended", "1", Some(ended))).await.unwrap();
    store.revoke_lease(ended).await.unwrap();
    let before = store.range("").await.unwrap();
    assert_eq!((before.0, before.1.len()), (7, 2));
    let watch = store.watch("", 1).await.unwrap();
    drop(store);
    // For the time of the refusal, half of the lease's life goes by.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(matches!(open_error(&path).await, Error::InUse { .. }), "the watch holds it");
    drop(watch);

    let store = EmbeddedStore::open(&path).await.unwrap();
    assert_eq!(store.range("").await.unwrap(), before);
    let Err(history) = store.watch("", 7).await else { panic!("history is not kept") };
    assert_eq!(history, Error::Compacted { oldest: 8 });
    assert_eq!(store.keep_alive(ended).await, Err(Error::LeaseGone(ended)));
    let mut watch = store.watch("", 8).await.unwrap();
    let start = Instant::now();
    let told = watch.next().await.unwrap().unwrap();
    assert_eq!(told.changes.iter().map(|change| change.key()).collect::<Vec<_>>(), ["leased"]);
    assert!(start.elapsed() > Duration::from_millis(3_500), "a restart gives a lease its whole time again");
    assert_eq!(store.txn(vec![], put("b", "1", None)).await.unwrap(), TxnOutcome::Committed(9));
    assert!(store.grant_lease(1_000).await.unwrap() > ended, "a lease's number is never given twice");
}

#[tokio::test]
async fn a_file_in_use_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.redb");
    let _store = EmbeddedStore::open(&path).await.unwrap();
    let error = open_error(&path).await;
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(error.code(), Code(308));
}

#[tokio::test]
async fn a_foreign_or_damaged_file_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.redb");
    let refused = async |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = open_error(&path).await;
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        error.to_string()
    };
    refused(b"hello").await;
    refused(&[b'x'; 100_000]).await;

    let other = folder.path().join("other.redb");
    drop(redb::Database::create(&other).unwrap());
    let foreign = refused(&fs::read(&other).unwrap()).await;
    assert!(foreign.contains("another program"), "{foreign}");

    let good = folder.path().join("good.redb");
    let store = EmbeddedStore::open(&good).await.unwrap();
    for number in 0..50 {
        store.txn(vec![], put(&format!("key{number}"), &"v".repeat(500), None)).await.unwrap();
    }
    drop(store);
    let bytes = fs::read(&good).unwrap();
    refused(&bytes[..bytes.len() / 2]).await;
    let all = EmbeddedStore::open(&good).await.unwrap().range("").await.unwrap();
    // Whatever single byte is wrong: refused, or harmless; never served wrongly, never a panic.
    let (mut harmless, mut found) = (0, 0);
    for at in (0..bytes.len()).step_by(bytes.len() / 150) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0xff;
        fs::write(&path, &wrong).unwrap();
        match EmbeddedStore::open(&path).await {
            Ok(store) => {
                harmless += 1;
                assert_eq!(store.range("").await.unwrap(), all, "byte {at}");
            }
            Err(Error::Damaged { .. }) => found += 1,
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(found > 0 && harmless > 0, "{found} found, {harmless} harmless");
}

#[tokio::test]
async fn a_half_made_file_of_an_earlier_start_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(format!("meta.redb.new-{}", std::process::id())), b"half").unwrap();
    let store = EmbeddedStore::open(folder.path().join("meta.redb")).await.unwrap();
    assert_eq!(store.get("a").await, Ok(None));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A write that nobody waits for any more is made wholly or not at all, and seen by all alike.
#[tokio::test]
async fn a_write_that_is_given_up_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    for number in 0..50 {
        let key = format!("k{number}");
        drop(
            tokio::time::timeout(Duration::from_micros(number * 40), store.txn(vec![], put(&key, "1", None)))
                .await,
        );
    }
    store.txn(vec![], put("last", "1", None)).await.unwrap();
    let (seen, all) = store.range("").await.unwrap();
    drop(store);
    // Some may still have been made since: what was seen stays, and each key took one revision.
    let (revision, later) = EmbeddedStore::open(&path).await.unwrap().range("").await.unwrap();
    assert!(revision >= seen && all.iter().all(|kv| later.contains(kv)));
    assert_eq!(i64::try_from(later.len()).unwrap(), revision);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), b"").unwrap();
    let error = open_error(&folder.path().join("file/meta.redb")).await;
    assert!(matches!(&error, Error::Unreachable(text) if text.contains("file/meta.redb")), "{error}");
}

/// As if the file had failed in the middle of a write: nobody knows whether it was made, until it is opened again.
async fn after_a_failed_write(made: bool) {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path().join("meta.redb")).await.unwrap();
    let lease = store.grant_lease(60_000).await.unwrap();
    store.txn(vec![], put("a", "1", Some(lease))).await.unwrap();
    let mut watch = store.watch("", 2).await.unwrap();
    {
        let mut disk = store.shared.disk();
        let plan = store.shared.state().plan_end(lease).unwrap();
        if made {
            disk.file.as_mut().unwrap().write(&plan).unwrap();
        }
        disk.in_doubt = Some(plan);
        disk.file = None;
    }
    assert!(store.get("a").await.unwrap().is_some(), "not shown before it is known");
    let next = store.txn(vec![], put("b", "1", None)).await.unwrap();
    assert_eq!(next, TxnOutcome::Committed(if made { 3 } else { 2 }));
    assert_eq!(store.get("a").await.unwrap().is_none(), made);
    assert_eq!(store.keep_alive(lease).await.is_err(), made);
    let told = watch.next().await.unwrap().unwrap();
    assert_eq!(told.changes[0].key(), if made { "a" } else { "b" }, "watches hear of what was made");
    drop(watch);
    let (path, all) = (store.shared.path.clone(), store.range("").await.unwrap());
    drop(store);
    assert_eq!(EmbeddedStore::open(path).await.unwrap().range("").await.unwrap(), all);
}

#[tokio::test]
async fn a_failed_write_that_was_made_is_shown_later() {
    after_a_failed_write(true).await;
}

#[tokio::test]
async fn a_failed_write_that_was_not_made_is_forgotten() {
    after_a_failed_write(false).await;
}

/// After a failed write, while the file cannot be had: reading goes on, writing says why it does not.
#[tokio::test]
async fn a_file_that_cannot_be_opened_again_fails_clearly_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    store.txn(vec![], put("a", "1", None)).await.unwrap();
    store.shared.disk().file = None;
    let away = folder.path().join("away");
    fs::rename(&path, &away).unwrap();
    fs::create_dir(&path).unwrap();
    let error = store.txn(vec![], put("a", "2", None)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    assert_eq!(store.get("a").await.unwrap().unwrap().value, b"1", "reading goes on");
    fs::remove_dir(&path).unwrap();
    // Gone: an empty one must not take its place.
    let error = store.txn(vec![], put("a", "2", None)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)) && !path.exists(), "{error}");
    drop(EmbeddedStore::open(&path).await.unwrap());
    let error = store.txn(vec![], put("a", "2", None)).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "another store's file: {error}");
    fs::rename(&away, &path).unwrap();
    store.txn(vec![], put("a", "2", None)).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, b"2");
}

/// While the file fails nobody can renew a lease that is due: no lease ends for that.
#[tokio::test]
async fn leases_get_their_whole_time_again_after_the_file_has_failed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    let lease = store.grant_lease(2_000).await.unwrap();
    store.txn(vec![], put("a", "1", Some(lease))).await.unwrap();
    store.shared.disk().file = None;
    let away = folder.path().join("away");
    fs::rename(&path, &away).unwrap();
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    let error = store.keep_alive(lease).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    fs::rename(&away, &path).unwrap();
    store.keep_alive(lease).await.unwrap();
    assert!(store.get("a").await.unwrap().is_some());
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    assert_eq!(store.get("a").await, Ok(None), "not renewed, it ends");
    assert_eq!(store.keep_alive(lease).await, Err(Error::LeaseGone(lease)));
}

/// The end of a lease is planned of what is there once the failed write is settled.
#[tokio::test]
async fn a_lease_that_is_due_takes_along_what_a_failed_write_has_put_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    let lease = store.grant_lease(2_000).await.unwrap();
    store.txn(vec![], put("a", "1", Some(lease))).await.unwrap();
    {
        let mut disk = store.shared.disk();
        let plan = store.shared.state().plan(&[], &put("b", "1", Some(lease))).unwrap();
        let Plan::Commit(commit) = plan else { panic!("refused") };
        disk.file.as_mut().unwrap().write(&commit).unwrap();
        disk.in_doubt = Some(commit);
        disk.file = None;
    }
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    assert!(store.get("b").await.unwrap().is_some(), "settled, and with its whole time again");
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    assert_eq!(store.range("").await, Ok((3, vec![])));
    drop(store);
    assert_eq!(EmbeddedStore::open(&path).await.unwrap().range("").await, Ok((3, vec![])));
}

#[tokio::test]
async fn a_lease_whose_end_is_being_written_is_not_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path().join("meta.redb")).await.unwrap();
    let lease = store.grant_lease(60_000).await.unwrap();
    let mut state = store.shared.state();
    let later = Instant::now() + Duration::from_secs(61);
    assert_eq!(state.begin_end(Instant::now()), None);
    assert_eq!(state.renew(lease, Instant::now()), Ok(()));
    let commit = state.begin_end(later).unwrap();
    assert_eq!(state.renew(lease, Instant::now()), Err(Error::LeaseGone(lease)), "answered, and then ended");
    state.apply(commit);
    assert_eq!(state.renew(lease, Instant::now()), Err(Error::LeaseGone(lease)));
}
