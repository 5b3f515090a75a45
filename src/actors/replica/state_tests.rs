//! The replica's transitions, one story a test.

use super::buffer::Limits;
use super::position::Position;
use super::recovery::Start;
use super::state::{Done, Effect, Event, Outcome, State};
use crate::adapters::kafka::{Chunk, Message};
use crate::model::names::TopicPartition;
use crate::model::observed::Stall;
use crate::model::{Epoch, PartitionId, PartitionRange, ShardId, TableId};
use std::collections::BTreeSet;

pub(super) const P: PartitionId = PartitionId(0);
pub(super) const LIMITS: Limits = Limits { messages_max: 4, bytes_max: 1 << 20, age_max_ms: 100 };

fn state() -> State {
    let range = PartitionRange::new(0, 1).unwrap();
    let start = Position::start(TableId(uuid::Uuid::nil()), ShardId(0), Epoch(0));
    State::new(&start, range, LIMITS, |p| source(p.0))
}

pub(super) fn source(partition: u32) -> TopicPartition {
    TopicPartition { topic: format!("t.{partition}"), partition: 0 }
}

pub(super) fn chunk(offsets: std::ops::Range<i64>) -> Chunk {
    let message = |offset| Message { offset, timestamp_ms: 1, start: 0, len: 1, tombstone: false };
    Chunk { source: source(0), messages: offsets.map(message).collect(), payload: "x".into() }
}

/// A state that streams from offset 0 through gate 1; the assignment's number is returned.
pub(super) fn streaming() -> (State, u32) {
    let mut state = state();
    assert_eq!(state.on(Event::Begin, 0), [Effect::Prepare { attempt: 1 }]);
    let effects = state.on(Event::Prepared(1, false, Ok(1)), 0);
    let attempt = recovering(&effects);
    let effects = state.on(Event::Recovered(P, attempt, Ok(Start::default())), 0);
    assert!(effects.contains(&Effect::Assign(P, 0, attempt)), "{effects:?}");
    assert!(state.observe().serving);
    (state, attempt)
}

pub(super) fn recovering(effects: &[Effect]) -> u32 {
    let recover = effects.iter().find_map(|e| match e {
        Effect::Recover { attempt, .. } => Some(*attempt),
        _ => None,
    });
    recover.unwrap_or_else(|| panic!("no recovery in {effects:?}"))
}

pub(super) fn inserting(effects: &[Effect]) -> (u32, u64, usize, i64) {
    let insert = effects.iter().find_map(|e| match e {
        Effect::Insert { attempt, gate, batch, .. } => {
            Some((*attempt, *gate, batch.messages, batch.chunks[0].messages[0].offset))
        }
        _ => None,
    });
    insert.unwrap_or_else(|| panic!("no insert in {effects:?}"))
}

pub(super) fn done(next: i64) -> Outcome {
    Outcome::Done(Done { next, last_row_offset: Some(next - 1), fingerprint: 7, rows: 1, dead_letters: 0 })
}

#[test]
fn a_batch_waits_until_it_is_old_enough_and_is_committed_when_it_is_in() {
    let (mut state, assignment) = streaming();
    let effects = state.on(Event::Fetched(P, assignment, chunk(0..2)), 10);
    assert_eq!(effects, [Effect::WakeAt(110)]);
    assert_eq!(state.on(Event::Tick, 50), [Effect::WakeAt(110)]);
    let (attempt, gate, messages, first) = inserting(&state.on(Event::Tick, 110));
    assert_eq!((gate, messages, first), (1, 2, 0));
    let effects = state.on(Event::Inserted(P, attempt, done(2)), 120);
    let committed =
        effects.iter().any(|e| matches!(e, Effect::Commit(P, 2, at) if at.last_row_offset == Some(1)));
    assert!(committed, "{effects:?}");
}

#[test]
fn a_full_batch_goes_at_once_and_fetching_pauses_while_a_further_one_waits() {
    let (mut state, assignment) = streaming();
    let effects = state.on(Event::Fetched(P, assignment, chunk(0..4)), 0);
    let (attempt, ..) = inserting(&effects);
    let effects = state.on(Event::Fetched(P, assignment, chunk(4..8)), 1);
    assert_eq!(effects, [Effect::Pause(P)]);
    let effects = state.on(Event::Inserted(P, attempt, done(4)), 2);
    assert_eq!(inserting(&effects).3, 4);
    assert!(effects.contains(&Effect::Resume(P)), "the next batch is fetched while this one is inserted");
}

#[test]
fn an_unknown_outcome_closes_the_gate_and_looks_before_anything_is_inserted_again() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    let effects = state.on(Event::Inserted(P, attempt, Outcome::Unknown("timeout".into())), 1);
    assert!(effects.contains(&Effect::Unassign(P)));
    assert!(effects.contains(&Effect::Prepare { attempt: 2 }), "{effects:?}");
    assert!(
        !effects.iter().any(|e| matches!(e, Effect::Recover { .. })),
        "no look before the gate is closed"
    );
    state.on(Event::Prepared(2, false, Ok(2)), 2);
    let attempt = recovering(&state.on(Event::Tick, 251));
    let held = BTreeSet::from([(0, 0), (1, 0)]);
    let start = Start { end: 4, held: held.clone(), last_row_offset: Some(1), ..Start::default() };
    state.on(Event::Recovered(P, attempt, Ok(start)), 3);
    let effects = state.on(Event::Fetched(P, attempt, chunk(0..4)), 4);
    let insert = effects.iter().find_map(|e| match e {
        Effect::Insert { gate, held, .. } => Some((*gate, held.clone())),
        _ => None,
    });
    assert_eq!(insert, Some((2, held)), "the new gate, without the rows that are there");
    let progress = state.observe().partitions[&P].clone();
    assert_eq!((progress.next_offset, progress.reach_offset), (0, 4), "what is inserted may be there by now");
}

#[test]
fn a_server_that_leaves_inserts_in_doubt_again_and_again_is_told_and_tried_later_and_later() {
    let (mut state, assignment) = streaming();
    let mut fetch = (assignment, 0);
    for (round, wait) in [250, 500, 1_000].into_iter().enumerate() {
        let (attempt, ..) = inserting(&state.on(Event::Fetched(P, fetch.0, chunk(0..4)), fetch.1));
        let effects = state.on(Event::Inserted(P, attempt, Outcome::Unknown("disk full".into())), fetch.1);
        let prepare = effects.iter().find_map(|e| match e {
            Effect::Prepare { attempt } => Some(*attempt),
            _ => None,
        });
        let stall = state.observe().partitions[&P].stall.clone();
        assert_eq!(stall.is_some(), round > 0, "once is an accident: {stall:?}");
        let effects = state.on(Event::Prepared(prepare.unwrap(), false, Ok(2)), fetch.1);
        assert!(!effects.iter().any(|e| matches!(e, Effect::Recover { .. })), "round {round}: no wait");
        let attempt = recovering(&state.on(Event::Tick, fetch.1 + wait));
        let start = Start { end: 4, ..Start::default() };
        state.on(Event::Recovered(P, attempt, Ok(start)), fetch.1 + wait);
        fetch = (attempt, fetch.1 + wait);
    }
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, fetch.0, chunk(0..4)), fetch.1));
    state.on(Event::Inserted(P, attempt, done(4)), fetch.1);
    assert_eq!(state.observe().partitions[&P].stall, None);
}

#[test]
fn a_lane_that_yields_messages_again_doubles_nothing() {
    let (mut state, assignment) = streaming();
    state.on(Event::Fetched(P, assignment, chunk(0..3)), 0);
    let (_, _, messages, first) = inserting(&state.on(Event::Fetched(P, assignment, chunk(1..4)), 1));
    assert_eq!((messages, first), (4, 0), "0, 1, 2 and then 3");
}

#[test]
fn offsets_without_a_message_are_told_and_stop_nothing() {
    let (mut state, assignment) = streaming();
    assert_eq!(state.on(Event::Fetched(P, assignment, chunk(0..1)), 0), [Effect::WakeAt(100)]);
    let effects = state.on(Event::Fetched(P, assignment, chunk(3..4)), 0);
    assert_eq!(effects, [Effect::Gap(P, 1, 3)]);
    assert_eq!(inserting(&state.on(Event::Tick, 100)).2, 2);
}

#[test]
fn a_replica_that_was_sent_back_vouches_for_no_message_before_where_it_begins() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    state.on(Event::Inserted(P, attempt, done(4)), 1);
    // The table has lost rows: begun again at 2.
    let effects = state.on(Event::Begin, 2);
    let Some(Effect::Prepare { attempt }) = effects.iter().find(|e| matches!(e, Effect::Prepare { .. }))
    else {
        panic!("{effects:?}")
    };
    let attempt = recovering(&state.on(Event::Prepared(*attempt, false, Ok(2)), 3));
    let start = Start { from: 2, end: 4, lost_from: Some(2), ..Start::default() };
    state.on(Event::Recovered(P, attempt, Ok(start)), 4);
    state.on(Event::Lost(P, attempt, Stall::TopicMissing), 5);
    let effects = state.on(Event::Tick, 30_000);
    assert!(effects.iter().any(|e| matches!(e, Effect::Recover { known: None, .. })), "{effects:?}");
}

#[test]
fn answers_to_old_questions_change_nothing() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    assert_eq!(state.observe().partitions[&P].reach_offset, 4, "its rows may be there by now");
    state.on(Event::Begin, 1); // the server was restarted
    assert_eq!(state.on(Event::Inserted(P, attempt, done(4)), 2), []);
    assert_eq!(state.on(Event::Fetched(P, assignment, chunk(4..8)), 2), []);
    assert_eq!(state.on(Event::Lost(P, assignment, Stall::TopicMissing), 2), []);
    assert_eq!(state.observe().partitions[&P].next_offset, 0);
}

#[test]
fn a_partition_lost_during_an_insert_is_looked_at_when_the_insert_has_ended() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    let stall = Stall::TopicMissing;
    let effects = state.on(Event::Lost(P, assignment, stall.clone()), 1);
    assert!(effects.contains(&Effect::Unassign(P)));
    // Whoever looks now does not see the four rows, and would insert them again.
    assert_eq!(state.on(Event::Tick, 20_000), []);
    let effects = state.on(Event::Inserted(P, attempt, done(4)), 20_000);
    assert!(effects.iter().any(|e| matches!(e, Effect::Commit(P, 4, _))), "{effects:?}");
    assert_eq!(state.observe().partitions[&P].stall, Some(stall), "still lost");
    assert_eq!(state.observe().partitions[&P].next_offset, 4);
    let effects = state.on(Event::Tick, 30_000);
    let known = effects.iter().any(|e| matches!(e, Effect::Recover { known: Some((4, _)), .. }));
    assert!(known, "Kafka forgets it with the topic: {effects:?}");
    let attempt = recovering(&effects);
    let start = Start { from: 4, end: 4, last_row_offset: Some(3), ..Start::default() };
    state.on(Event::Recovered(P, attempt, Ok(start)), 30_000);
    assert_eq!(state.observe().partitions[&P].stall, None);
}

#[test]
fn a_partition_lost_during_an_insert_that_was_refused_is_looked_at_as_well() {
    let (mut state, assignment) = streaming();
    let effects = state.on(Event::Fetched(P, assignment, chunk(0..4)), 0);
    let Some(Effect::Insert { attempt, batch, .. }) =
        effects.into_iter().find(|e| matches!(e, Effect::Insert { .. }))
    else {
        panic!("no insert")
    };
    state.on(Event::Lost(P, assignment, Stall::TopicMissing), 1);
    let stall = Stall::ServerRefuses { error: "disk full".into() };
    state.on(Event::Inserted(P, attempt, Outcome::Again(batch, stall)), 2);
    let effects = state.on(Event::Tick, 30_000);
    recovering(&effects);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Insert { .. })), "{effects:?}");
}

#[test]
fn a_batch_that_was_refused_is_held_and_tried_again_as_it_was() {
    let (mut state, assignment) = streaming();
    let effects = state.on(Event::Fetched(P, assignment, chunk(0..4)), 0);
    let Some(Effect::Insert { attempt, batch, .. }) =
        effects.into_iter().find(|e| matches!(e, Effect::Insert { .. }))
    else {
        panic!("no insert")
    };
    let stall = Stall::ServerRefuses { error: "disk full".into() };
    let effects = state.on(Event::Inserted(P, attempt, Outcome::Again(batch, stall.clone())), 10);
    assert!(effects.contains(&Effect::WakeAt(260)), "{effects:?}");
    assert_eq!(state.observe().partitions[&P].stall, Some(stall));
    let (attempt, gate, messages, first) = inserting(&state.on(Event::Tick, 260));
    assert_eq!((gate, messages, first), (1, 4, 0));
    state.on(Event::Inserted(P, attempt, done(4)), 270);
    assert_eq!(state.observe().partitions[&P].stall, None);
}

#[test]
fn a_stalled_partition_says_why_and_looks_again_later() {
    let mut state = state();
    state.on(Event::Begin, 0);
    let attempt = recovering(&state.on(Event::Prepared(1, false, Ok(1)), 0));
    let stall = Stall::OffsetsGone { from: 3, to: 9 };
    let effects = state.on(Event::Recovered(P, attempt, Err(stall.clone())), 0);
    assert!(effects.contains(&Effect::WakeAt(250)));
    assert_eq!(state.observe().partitions[&P].stall, Some(stall));
    recovering(&state.on(Event::Tick, 250));
}

#[test]
fn what_could_not_be_compared_with_its_topic_does_not_pass_for_complete() {
    let mut state = state();
    state.on(Event::Begin, 0);
    let attempt = recovering(&state.on(Event::Prepared(1, false, Ok(1)), 0));
    let stall = Stall::KafkaUnreachable { error: "no broker".into() };
    state.on(Event::Recovered(P, attempt, Err(stall)), 0);
    assert!(!state.observe().serving, "a lag of 0 is no lag that was seen");
    let attempt = recovering(&state.on(Event::Tick, 250));
    state.on(Event::Recovered(P, attempt, Ok(Start { end: 9, ..Start::default() })), 260);
    assert_eq!((state.observe().serving, state.observe().lag()), (true, 9));
}

#[test]
fn limits_may_change_while_a_batch_waits() {
    let (mut state, assignment) = streaming();
    assert_eq!(state.on(Event::Fetched(P, assignment, chunk(0..2)), 10), [Effect::WakeAt(110)]);
    let effects = state.on(Event::Adjust(Limits { age_max_ms: 20, ..LIMITS }), 15);
    assert_eq!(effects, [Effect::Report, Effect::WakeAt(30)]);
    assert_eq!(state.observe().batch_age_ms, 20);
    assert_eq!(inserting(&state.on(Event::Tick, 30)).2, 2);
}

#[test]
fn a_server_that_cannot_be_prepared_is_tried_later_and_later() {
    let mut state = state();
    state.on(Event::Begin, 0);
    let effects = state.on(Event::Prepared(1, false, Err("down".into())), 0);
    assert!(effects.contains(&Effect::WakeAt(250)));
    assert_eq!(state.observe().problem.as_deref(), Some("down"));
    assert!(state.on(Event::Tick, 250).contains(&Effect::Prepare { attempt: 2 }));
    let effects = state.on(Event::Prepared(2, false, Err("down".into())), 250);
    assert!(effects.contains(&Effect::WakeAt(750)), "{effects:?}");
}

#[test]
fn a_look_that_the_server_refused_is_settled_by_one_that_it_answers() {
    let mut state = state();
    state.on(Event::Begin, 0);
    let attempt = recovering(&state.on(Event::Prepared(1, false, Ok(1)), 0));
    let stall = Stall::ServerRefuses { error: "cannot be reached".into() };
    state.on(Event::Recovered(P, attempt, Err(stall.clone())), 0);
    assert_eq!(state.observe().partitions[&P].stall, Some(stall));
    let attempt = recovering(&state.on(Event::Tick, 250));
    // Nothing is left to insert: no insert will ever settle it.
    state.on(Event::Recovered(P, attempt, Ok(Start { from: 9, end: 9, ..Start::default() })), 260);
    assert_eq!(state.observe().partitions[&P].stall, None);
}

/// What is committed, if anything.
fn committed(effects: &[Effect]) -> Option<i64> {
    effects.iter().rev().find_map(|e| match e {
        Effect::Commit(P, next, _) => Some(*next),
        _ => None,
    })
}

#[test]
fn a_hole_at_the_end_is_taken_as_done_once_the_messages_before_it_are() {
    let (mut state, assignment) = streaming();
    state.on(Event::Fetched(P, assignment, chunk(0..2)), 0);
    state.on(Event::End(P, 3), 0);
    let effects = state.on(Event::Passed(P, assignment, 3), 0);
    assert_eq!(effects, [Effect::Gap(P, 2, 3)], "the messages before it are not in yet");
    assert_eq!(state.observe().lag(), 3);
    let (attempt, ..) = inserting(&state.on(Event::Tick, 100));
    let effects = state.on(Event::Inserted(P, attempt, done(2)), 110);
    assert_eq!(committed(&effects), Some(3));
    let position = effects.iter().rev().find_map(|e| match e {
        Effect::Commit(_, _, position) => Some(position.clone()),
        _ => None,
    });
    let position = position.unwrap();
    assert_eq!((position.fingerprint, position.fingerprint_at), (Some(7), Some(1)), "of the last message");
    assert_eq!(state.observe().lag(), 0);
    // Another hole behind it, and then a message.
    let effects = state.on(Event::Passed(P, assignment, 5), 200);
    assert_eq!(committed(&effects), Some(5), "nothing waits: at once");
    state.on(Event::Fetched(P, assignment, chunk(5..6)), 200);
    let (attempt, _, _, first) = inserting(&state.on(Event::Tick, 300));
    assert_eq!(first, 5);
    let effects = state.on(Event::Inserted(P, attempt, done(6)), 310);
    let own = effects.iter().any(|e| matches!(e, Effect::Commit(P, 6, at) if at.fingerprint_at.is_none()));
    assert!(own, "right before the position again: {effects:?}");
}

#[test]
fn a_hole_passed_in_an_assignment_that_was_lost_is_not_taken_as_done() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    // These wait, and are forgotten with the assignment.
    state.on(Event::Fetched(P, assignment, chunk(4..6)), 1);
    state.on(Event::Passed(P, assignment, 9), 1);
    state.on(Event::Lost(P, assignment, Stall::TopicMissing), 2);
    assert_eq!(state.on(Event::Passed(P, assignment, 12), 2), [], "out of date");
    let effects = state.on(Event::Inserted(P, attempt, done(4)), 3);
    assert_eq!(committed(&effects), Some(4));
    assert_eq!(state.observe().partitions[&P].next_offset, 4);
}

#[test]
fn a_position_behind_a_hole_is_where_reading_goes_on() {
    let mut state = state();
    state.on(Event::Begin, 0);
    let attempt = recovering(&state.on(Event::Prepared(1, false, Ok(1)), 0));
    // A partition in which there are only transactions that were given up.
    state.on(Event::Recovered(P, attempt, Ok(Start { end: 7, ..Start::default() })), 0);
    assert_eq!(state.observe().lag(), 7);
    assert_eq!(committed(&state.on(Event::Passed(P, attempt, 7), 0)), Some(7));
    assert_eq!(state.observe().lag(), 0);
}

/// Found by reading: a server whose disk was replaced passed for complete by what had been seen of the table before,
/// and a copy with holes did once its topic was lost.
#[test]
fn a_table_that_was_made_anew_serves_once_it_has_been_looked_at() {
    let (mut state, assignment) = streaming();
    state.on(Event::Fetched(P, assignment, chunk(0..4)), 1);
    state.on(Event::Begin, 10);
    let effects = state.on(Event::Prepared(2, true, Ok(2)), 10);
    let known = effects.iter().find_map(|effect| match effect {
        Effect::Recover { known, .. } => Some(known.clone()),
        _ => None,
    });
    assert_eq!(known, Some(None), "what was seen of the other table");
    let observed = state.observe();
    assert!(!observed.serving && observed.partitions[&P].next_offset == 0, "{observed:?}");
    assert!(observed.bare, "the leader is told");
    let attempt = recovering(&effects);
    let holes = Start { from: 2, end: 9, held: [(5, 0)].into(), ..Start::default() };
    state.on(Event::Recovered(P, attempt, Ok(holes)), 11);
    assert!(!state.observe().serving);
    state.on(Event::Lost(P, attempt, Stall::TopicMissing), 12);
    assert!(!state.observe().serving && state.observe().bare, "it has its holes still");
    let attempt = recovering(&state.on(Event::Tick, 20_000));
    state.on(Event::Recovered(P, attempt, Ok(Start { from: 6, end: 9, ..Start::default() })), 20_001);
    assert!(state.observe().serving && !state.observe().bare, "they were filled");
    state.on(Event::Begin, 20_002);
    assert!(!state.observe().bare, "a look at a table that is there");
}

/// Sweep seed 2370: the answer that the table had been made got lost and was told of as late as a deadline, after the
/// server was found restarted and all was looked at again. It had all looked at once more, past an insert under way.
#[test]
fn what_an_earlier_preparation_did_is_for_a_later_one_to_see() {
    let (mut state, _) = streaming();
    state.on(Event::Begin, 10);
    state.on(Event::Begin, 11);
    let attempt = recovering(&state.on(Event::Prepared(3, false, Ok(3)), 12));
    assert!(!state.observe().serving, "the other one may have made the table anew");
    state.on(Event::Recovered(P, attempt, Ok(Start { end: 4, ..Start::default() })), 13);
    assert!(state.observe().serving);
    let (insert, ..) = inserting(&state.on(Event::Fetched(P, attempt, chunk(0..4)), 14));
    assert_eq!(state.on(Event::Prepared(2, true, Ok(2)), 15), []);
    assert_eq!(committed(&state.on(Event::Inserted(P, insert, done(4)), 16)), Some(4));
}

#[test]
fn a_parent_ends_its_insert_takes_no_more_and_tells_where_it_stands() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    state.on(Event::Fetched(P, assignment, chunk(4..6)), 1);
    assert!(!state.at_rest(), "it is not to stop");
    assert_eq!(state.on(Event::Part, 2), [Effect::Unassign(P)]);
    assert!(!state.at_rest(), "its insert has not ended");
    assert!(state.stands().is_empty(), "and nothing is known of it until then");
    assert_eq!(state.on(Event::Fetched(P, assignment, chunk(6..9)), 3), []);
    assert_eq!(state.on(Event::Tick, 500), []);
    let effects = state.on(Event::Inserted(P, attempt, done(4)), 501);
    assert!(effects.iter().all(|e| matches!(e, Effect::Report | Effect::Commit(P, 4, _))), "{effects:?}");
    assert!(state.at_rest());
    let stands = state.stands();
    assert_eq!((stands[&P].gate, stands[&P].start.from, stands[&P].start.last_row_offset), (1, 4, Some(3)));
    assert_eq!(stands[&P].start.held, BTreeSet::new());
    assert_eq!(state.on(Event::Begin, 502), [], "it stays where it is");
}

#[test]
fn where_a_parent_does_not_know_what_came_of_its_insert_nothing_is_told() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    state.on(Event::Part, 2);
    state.on(Event::Inserted(P, attempt, Outcome::Unknown("timeout".into())), 3);
    assert!(state.at_rest() && state.stands().is_empty());
    let mut looking = self::state();
    looking.on(Event::Begin, 0);
    let attempt = recovering(&looking.on(Event::Prepared(1, false, Ok(1)), 0));
    looking.on(Event::Part, 1);
    assert_eq!(looking.on(Event::Recovered(P, attempt, Ok(Start::default())), 2), []);
    assert!(looking.at_rest() && looking.stands().is_empty(), "a look's answer came too late");
}

/// A node with many partitions lets batches grow for seconds: a split would add that to its pause.
#[test]
fn what_has_waited_while_a_shard_was_split_is_inserted_at_once() {
    let mut state = state();
    state.on(Event::Begin, 0);
    let attempt = recovering(&state.on(Event::Prepared(1, false, Ok(1)), 0));
    let told = Start { from: 7, at_once: true, ..Start::default() };
    state.on(Event::Recovered(P, attempt, Ok(told)), 0);
    let (first, _, messages, _) = inserting(&state.on(Event::Fetched(P, attempt, chunk(7..8)), 10));
    assert_eq!(messages, 1);
    state.on(Event::Inserted(P, first, done(8)), 12);
    let effects = state.on(Event::Fetched(P, attempt, chunk(8..9)), 13);
    assert!(effects.contains(&Effect::WakeAt(113)), "the next one grows as ever: {effects:?}");
}

#[test]
fn what_waited_for_room_is_not_inserted_any_more_and_what_the_lane_lost_is_looked_into() {
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    state.on(Event::Part, 1);
    state.on(Event::Inserted(P, attempt, Outcome::Unsent), 2);
    assert!(state.at_rest() && state.stands()[&P].start.from == 0);
    let (mut state, assignment) = streaming();
    let (attempt, ..) = inserting(&state.on(Event::Fetched(P, assignment, chunk(0..4)), 0));
    state.on(Event::Lost(P, assignment, Stall::TopicMissing), 1);
    state.on(Event::Part, 2);
    state.on(Event::Inserted(P, attempt, done(4)), 3);
    assert!(state.at_rest() && state.stands().is_empty());
}
