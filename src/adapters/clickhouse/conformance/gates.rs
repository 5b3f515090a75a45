//! FENCED: after a gate is renewed, nothing sent through an earlier one takes effect.

use super::*;
use crate::adapters::clickhouse::Shut;

pub(super) async fn an_insert_without_its_gate_is_missing(subject: Subject) {
    let renewed = subject.server.renew_gate(&subject.database).await;
    assert!(matches!(renewed, Err(Error::Missing(_))), "no replica, no gate: {renewed:?}");
    let outcome = subject.put(1, 0, 0..1).await;
    assert!(matches!(outcome, Err(Error::Missing(_))), "no database: {outcome:?}");
    let gate = subject.with_gate().await;
    let outcome = subject.put(gate + 7, 0, 0..1).await;
    assert!(matches!(outcome, Err(Error::Missing(_))), "no such gate: {outcome:?}");
    subject.end().await;
}

pub(super) async fn a_renewed_gate_has_a_higher_number_and_the_old_one_is_closed(subject: Subject) {
    let mut gate = subject.with_gate().await;
    for step in 0..4 {
        subject.put(gate, 0, step..step + 1).await.expect("the present gate is open");
        let next = subject.server.renew_gate(&subject.database).await.expect("renewed");
        assert!(next > gate, "{next} is not above {gate}");
        let outcome = subject.put(gate, 0, 100..101).await;
        assert!(matches!(outcome, Err(Error::Missing(_))), "the old gate is closed: {outcome:?}");
        gate = next;
    }
    assert_eq!(subject.held(0, 0).await, [0, 1, 2, 3]);
    subject.end().await;
}

/// Batches are sent through one gate while it is renewed. What is there when the renewal returns is all that will
/// ever be there, every batch wholly or not at all.
pub(super) async fn an_insert_during_a_renewal_is_wholly_in_or_never(subject: Subject) {
    const BATCHES: i64 = 12;
    const ROWS: i64 = 20_000;
    let gate = subject.with_gate().await;
    let subject = Arc::new(subject);
    let send = |batch: i64| {
        let subject = subject.clone();
        async move {
            let outcome = subject.put(gate, 9, batch * ROWS..(batch + 1) * ROWS).await;
            (batch, outcome)
        }
    };
    let sending = futures::future::join_all((0..BATCHES).map(send));
    let renewing = async {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        subject.server.renew_gate(&subject.database).await.expect("renewed");
        subject.held(9, 0).await
    };
    let (outcomes, at_renewal) = futures::join!(sending, renewing);
    let later = subject.held(9, 0).await;
    assert_eq!(at_renewal.len(), later.len(), "something arrived after the fence");
    for (batch, outcome) in outcomes {
        let there = later.iter().filter(|offset| **offset / ROWS == batch).count();
        match outcome {
            Ok(()) => {
                assert_eq!(there, usize::try_from(ROWS).expect("few"), "batch {batch} was acknowledged")
            }
            Err(Error::Missing(_)) => assert_eq!(there, 0, "batch {batch} met a closed gate"),
            Err(Error::OutcomeUnknown { .. }) => {
                assert!(
                    there == 0 || there == usize::try_from(ROWS).expect("few"),
                    "batch {batch} is half in"
                );
            }
            Err(other) => panic!("batch {batch}: {other}"),
        }
    }
    let subject = Arc::into_inner(subject).expect("all senders have ended");
    subject.end().await;
}

pub(super) async fn closed_gates_stay_closed_and_their_numbers_never_come_again(subject: Subject) {
    let mut highest = subject.with_gate().await;
    for step in 0..3 {
        subject.put(highest, 0, step..step + 1).await.expect("the gate is open");
        let shut = || subject.server.shut_gates(&subject.database);
        let (one, two) = futures::join!(shut(), shut());
        let Shut { number: closed, over } = shut().await.expect("closing twice is no error");
        assert_eq!((one.as_ref(), two.as_ref()), (Ok(&Shut { number: closed, over }), one.as_ref()));
        assert_eq!(over, Some(highest), "nobody has had another gate since it was opened");
        assert!(closed >= highest, "{closed} is below {highest}");
        let newest = async || subject.server.newest_gate(&subject.database).await.expect("asked");
        assert_eq!(newest().await, closed, "nobody has opened one since");
        for number in highest..highest + 4 {
            let outcome = subject.put(number, 0, 100..101).await;
            assert!(outcome.is_err(), "none is open: {outcome:?}");
        }
        let outcome = subject.put(highest, 0, 100..101).await;
        assert!(matches!(outcome, Err(Error::Missing(_))), "{outcome:?}");
        let opened = subject.server.open_gate(&subject.database).await.expect("renewed");
        let next = opened.number;
        assert!(next > closed && !opened.is_first, "{opened:?} is not above {closed}");
        assert_eq!(newest().await, next, "which tells of it");
        highest = next;
    }
    assert_eq!(subject.held(0, 0).await, [0, 1, 2]);
    subject.end().await;
}

/// Seen by the simulator: a replica moved away and back, and an insert of its first life landed in its second.
pub(super) async fn a_replica_made_again_does_not_take_what_was_sent_to_the_one_before(subject: Subject) {
    let before = subject.with_gate().await;
    subject.server.drop_replica(&subject.database).await.expect("dropped");
    subject.server.create_replica(&subject.replica()).await.expect("made again");
    let opened = subject.server.open_gate(&subject.database).await.expect("opened");
    let after = opened.number;
    assert!(after != before && opened.is_first, "nobody has put anything into this one: {opened:?}");
    let outcome = subject.put(before, 0, 0..1).await;
    assert!(matches!(outcome, Err(Error::Missing(_))), "{outcome:?}");
    assert!(subject.held(0, 0).await.is_empty());
    subject.end().await;
}
