use super::*;
use crate::adapters::clock::SimClock;
use crate::adapters::metadata::MemoryStore;

const TTL_MS: u64 = 9_000;

fn member(store: &MemoryStore, id: &str, incarnation: u64) -> Member {
    Member::new(Candidate {
        store: Arc::new(store.clone()),
        keys: Keys::new("c"),
        view: View::default(),
        clock: Arc::new(SimClock::new(1_700_000_000_000, incarnation)),
        incarnation,
        daemon_url: format!("sim://{id}"),
        nodes: vec![Node::plain(&id.parse().unwrap())],
        lease_ttl_ms: TTL_MS,
    })
}

async fn leader(store: &MemoryStore) -> Option<(Option<LeaseId>, Term)> {
    let pair = store.client().get(&Keys::new("c").leader()).await.unwrap()?;
    Some((pair.lease, Term(pair.create_revision)))
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_renews_keeps_its_term() {
    let store = MemoryStore::new();
    let member = member(&store, "n1", 1);
    let first = step(member.clone(), Standing::default()).await;
    assert_eq!(leader(&store).await, Some((first.lease, first.term.unwrap())));
    let second = step(member.clone(), first.clone()).await;
    assert_eq!((second.lease, second.term), (first.lease, first.term));
    // Won, and the answer was lost: the key tells it.
    let lost = Standing { term: None, ..first.clone() };
    assert_eq!(step(member, lost).await.term, first.term);
}

#[tokio::test(start_paused = true)]
async fn who_stepped_down_must_win_anew_though_the_store_has_kept_its_lease() {
    let store = MemoryStore::new();
    let member = member(&store, "n1", 1);
    let first = step(member.clone(), Standing::default()).await;
    let down = first.clone().stepped_down();
    store.faults().fail_next(1);
    assert_eq!(step(member.clone(), down.clone()).await, down, "a renewal that fails changes nothing");
    let again = step(member, down).await;
    assert!(again.term > first.term, "{again:?}");
    assert_eq!(leader(&store).await, Some((first.lease, again.term.unwrap())));
}

#[tokio::test(start_paused = true)]
async fn another_may_win_what_was_vacated() {
    let store = MemoryStore::new();
    let (one, other) = (member(&store, "n1", 1), member(&store, "n2", 2));
    let first = step(one.clone(), Standing::default()).await;
    let theirs = step(other.clone(), Standing::default()).await;
    assert_eq!(theirs.term, None);
    vacate(&one.0, &Keys::new("c").leader(), first.term.unwrap()).await.unwrap();
    let theirs = step(other, theirs).await;
    assert!(theirs.term > first.term, "{theirs:?}");
    let down = step(one, first.clone().stepped_down()).await;
    assert_eq!((down.term, down.given_up), (None, first.term), "theirs is not taken away");
    assert_eq!(leader(&store).await, Some((theirs.lease, theirs.term.unwrap())));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_gone_takes_the_term_along() {
    let store = MemoryStore::new();
    let member = member(&store, "n1", 1);
    let first = step(member.clone(), Standing::default()).await;
    store.revoke_lease(first.lease.unwrap()).await.unwrap();
    let gone = step(member.clone(), first.clone()).await;
    assert_eq!((gone.lease, gone.term, gone.given_up), (None, None, first.term));
    let again = step(member, gone).await;
    assert!(again.term > first.term && again.lease > first.lease, "{again:?}");
}
