//! What a replica records for the case that its machine loses power, and what it does when that has happened.

use super::position::Position;
use super::recovery::Start;
use super::state::{Effect, Event, State};
use super::state_tests::{LIMITS, P, chunk, done, inserting, recovering, source, streaming};
use crate::adapters::machine::Boot;
use crate::model::{Epoch, PartitionRange, ShardId, TableId};
use std::collections::BTreeSet;

/// A partition that streams from offset 4 on a machine that tells its starts.
fn known_machine(start: Start) -> (State, u32, Vec<Effect>) {
    let begin = Position::start(TableId(uuid::Uuid::nil()), ShardId(0), Epoch(0));
    let begin = Position { boot: Some(Boot(1)), ..begin };
    let mut state = State::new(&begin, PartitionRange::new(0, 1).unwrap(), LIMITS, |p| source(p.0));
    state.on(Event::Begin, 0);
    let attempt = recovering(&state.on(Event::Prepared(1, false, Ok(1)), 0));
    let effects = state.on(Event::Recovered(P, attempt, Ok(start)), 0);
    (state, attempt, effects)
}

/// Where each commit stands, and how much of it is safe.
fn recorded(effects: &[Effect]) -> Vec<(i64, Option<i64>, Option<Boot>)> {
    let commit = |effect: &Effect| match effect {
        Effect::Commit(P, next, position) => Some((*next, position.safe, position.boot)),
        _ => None,
    };
    effects.iter().filter_map(commit).collect()
}

#[test]
fn a_commit_tells_what_has_been_in_the_table_for_a_minute() {
    let start = Start { from: 4, end: 4, safe: Some(2), ..Start::default() };
    let (mut state, assignment, _) = known_machine(start);
    let boot = Some(Boot(1));
    let mut insert = |from: i64, at_ms: u64| {
        let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(from..from + 4)), at_ms));
        recorded(&state.on(Event::Inserted(P, attempt, done(from + 4)), at_ms))
    };
    assert_eq!(insert(4, 1_000), [(8, Some(2), boot)], "as it was recorded before");
    assert_eq!(insert(8, 60_000), [(12, Some(4), boot)], "what this run began with");
    assert_eq!(insert(12, 61_000), [(16, Some(8), boot)]);
}

#[test]
fn an_idle_partition_is_recorded_once_more_when_all_of_it_is_safe() {
    let start = Start { from: 4, end: 4, safe: Some(4), ..Start::default() };
    let (mut state, assignment, effects) = known_machine(start);
    assert!(!effects.iter().any(|e| matches!(e, Effect::WakeAt(_))), "nothing is to be said: {effects:?}");
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(4..8)), 1_000));
    let effects = state.on(Event::Inserted(P, attempt, done(8)), 2_000);
    assert_eq!(recorded(&effects), [(8, Some(4), Some(Boot(1)))]);
    assert!(effects.contains(&Effect::WakeAt(72_000)), "{effects:?}");
    assert!(recorded(&state.on(Event::Tick, 71_999)).is_empty());
    let effects = state.on(Event::Tick, 72_000);
    assert_eq!(recorded(&effects), [(8, Some(8), Some(Boot(1)))]);
    assert!(!effects.iter().any(|e| matches!(e, Effect::WakeAt(_))), "once: {effects:?}");
    assert_eq!(state.on(Event::Tick, 200_000), []);
}

#[test]
fn what_an_earlier_run_left_unsettled_is_recorded_too_with_the_message_that_it_was_recorded_with() {
    let start = Start { from: 4, end: 4, unsettled: true, fingerprint: Some((9, 2)), ..Start::default() };
    let (mut state, _, effects) = known_machine(start);
    assert!(effects.contains(&Effect::WakeAt(70_000)), "{effects:?}");
    let effects = state.on(Event::Tick, 70_000);
    assert_eq!(recorded(&effects), [(4, Some(4), Some(Boot(1)))]);
    let Some(Effect::Commit(_, _, position)) = effects.first() else { panic!("{effects:?}") };
    let of_message = (position.fingerprint, position.fingerprint_at);
    assert_eq!(of_message, (Some(9), Some(2)), "a topic made anew is still told by it");
}

#[test]
fn a_machine_that_does_not_tell_its_starts_records_nothing_more() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    let effects = state.on(Event::Inserted(P, attempt, done(4)), 0);
    assert!(!effects.iter().any(|e| matches!(e, Effect::WakeAt(_))), "{effects:?}");
    assert_eq!(state.on(Event::Tick, 100_000), []);
}

#[test]
fn what_power_may_have_taken_is_gone_through_before_the_replica_serves() {
    let start = Start {
        from: 2,
        end: 6,
        held: [(3, 0)].into(),
        safe: Some(2),
        unsettled: true,
        looked_back: Some((1, 6)),
        unproven: Some((1, 2)),
        ..Start::default()
    };
    let (mut state, assignment, effects) = known_machine(start);
    assert!(effects.contains(&Effect::LookBack(P, 1, 6)) && effects.contains(&Effect::Unproven(P, 1, 2)));
    assert!(!state.observe().serving, "it has holes");
    let effects = state.on(Event::Fetched(P, assignment, chunk(2..6)), 1_000);
    let held = |e: &Effect| matches!(e, Effect::Insert { held, .. } if *held == BTreeSet::from([(3, 0)]));
    assert!(effects.iter().any(held), "{effects:?}");
    let effects = state.on(Event::Inserted(P, inserting(&effects).0, done(6)), 2_000);
    assert_eq!(recorded(&effects), [(6, Some(2), Some(Boot(1)))], "if power goes again, from there again");
    assert!(state.observe().serving);
}
