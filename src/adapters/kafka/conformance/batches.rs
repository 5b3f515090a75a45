//! Named batches, and the offsets that transactions leave without a message.

use super::super::{BatchFate, Error, Fetched, NamedBatch, Outgoing};
use super::{PATIENCE, Reader, Subject, texts};
use crate::model::names::TopicPartition;
use tokio::time::timeout;

/// A batch with these texts for each of the targets.
fn batch(subject: &Subject, name: &str, targets: &[TopicPartition], texts: &[String]) -> NamedBatch {
    let of = |target: &TopicPartition| {
        let target = target.clone();
        texts.iter().map(move |text| Outgoing {
            target: target.clone(),
            payload: Some(text.clone().into()),
            headers: Vec::new(),
        })
    };
    NamedBatch {
        name: format!("{}.import.{name}", subject.prefix),
        mark: targets[0].clone(),
        note: format!("note of {name}"),
        messages: targets.iter().flat_map(of).collect(),
    }
}

/// Whether there are batches at all; where not, they are refused by name.
async fn takes_batches(subject: &Subject) -> bool {
    let Some(why) = subject.kafka.no_transactions() else { return true };
    let target = subject.topic("refused", 1).await.remove(0);
    let refused = subject.kafka.produce_once(batch(subject, "refused", &[target], &texts(0, 1))).await;
    assert_eq!(refused, Err(Error::Invalid(why.into())));
    false
}

/// Everything up to an end, as texts; and that end.
async fn up_to_end(reader: &Reader, source: &TopicPartition, end: i64) -> Vec<String> {
    reader.0.assign(source, 0);
    let (mut came, mut next) = (Vec::new(), 0);
    let read = async {
        while next < end {
            match reader.0.next().await {
                Fetched::Chunk(chunk) => {
                    next = chunk.messages.last().map_or(next, |last| last.offset + 1);
                    came.extend(super::read(&chunk).into_iter().map(|(_, text)| text));
                }
                Fetched::Passed(about, to) => {
                    assert_eq!(&about, source);
                    next = to;
                }
                Fetched::End(..) | Fetched::Unreachable(..) | Fetched::Trouble(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("{source}: stands before {end}"));
    came
}

async fn high(subject: &Subject, source: &TopicPartition) -> i64 {
    subject.kafka.watermarks(source).await.expect("it answers").high
}

/// The same once so many messages can be read: a commit is answered before its markers are written.
async fn high_after(subject: &Subject, source: &TopicPartition, messages: i64) -> i64 {
    let come = async {
        loop {
            let high = high(subject, source).await;
            if high >= messages {
                return high;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, come).await.unwrap_or_else(|_| panic!("{source}: {messages} messages do not come"))
}

pub(super) async fn a_named_batch_goes_in_whole_and_once(subject: &Subject) {
    if !takes_batches(subject).await {
        return;
    }
    let targets = subject.topic("batch", 2).await;
    let sent = texts(0, 500);
    let whole = batch(subject, "whole", &targets, &sent);
    assert_eq!(subject.kafka.produce_once(whole.clone()).await, Ok(BatchFate::Sent));
    let reader = subject.reader("batch");
    for target in &targets {
        assert_eq!(up_to_end(&reader, target, high_after(subject, target, 500).await).await, sent);
    }
    let ends = [high(subject, &targets[0]).await, high(subject, &targets[1]).await];
    let again = NamedBatch { note: "another note".into(), ..whole.clone() };
    let other = batch(subject, "whole", &targets, &texts(7, 9));
    for repeated in [whole, again, other] {
        let before = BatchFate::SentBefore("note of whole".into());
        assert_eq!(subject.kafka.produce_once(repeated).await, Ok(before));
    }
    assert_eq!([high(subject, &targets[0]).await, high(subject, &targets[1]).await], ends, "nothing more");
    let next = batch(subject, "next", &targets[..1], &texts(500, 501));
    assert_eq!(subject.kafka.produce_once(next).await, Ok(BatchFate::Sent), "batches are apart");
    let empty = batch(subject, "empty", &targets, &[]);
    assert_eq!(subject.kafka.produce_once(empty.clone()).await, Ok(BatchFate::Sent));
    assert_eq!(subject.kafka.produce_once(empty).await, Ok(BatchFate::SentBefore("note of empty".into())));
    let mut long = batch(subject, "long", &targets, &sent);
    long.note = "x".repeat(5_000);
    assert!(matches!(subject.kafka.produce_once(long).await, Err(Error::Invalid(_))));
}

pub(super) async fn a_batch_that_cannot_go_in_whole_leaves_nothing(subject: &Subject) {
    if !takes_batches(subject).await {
        return;
    }
    let targets = subject.topic("partly", 1).await;
    let absent = TopicPartition { topic: format!("{}.partly-absent", subject.prefix), partition: 0 };
    let mixed = [targets[0].clone(), absent.clone()];
    let refused = subject.kafka.produce_once(batch(subject, "partly", &mixed, &texts(0, 50))).await;
    assert_eq!(refused, Err(Error::TopicMissing(absent.topic)));
    let reader = subject.reader("partly");
    let end = high(subject, &targets[0]).await;
    assert_eq!(up_to_end(&reader, &targets[0], end).await, Vec::<String>::new());
    // The same name again, as it can go in.
    let good = batch(subject, "partly", &targets, &texts(0, 50));
    assert_eq!(subject.kafka.produce_once(good).await, Ok(BatchFate::Sent));
    let end = high_after(subject, &targets[0], end + 50).await;
    assert_eq!(up_to_end(&reader, &targets[0], end).await, texts(0, 50));
}

pub(super) async fn a_batch_sent_twice_at_a_time_is_in_once(subject: &Subject) {
    if !takes_batches(subject).await {
        return;
    }
    let targets = subject.topic("twice", 2).await;
    let whole = batch(subject, "twice", &targets, &texts(0, 300));
    let attempts = (0..3).map(|_| subject.kafka.produce_once(whole.clone()));
    for fate in futures::future::join_all(attempts).await {
        // Who was overtaken does not know.
        assert!(matches!(fate, Ok(_) | Err(Error::OutcomeUnknown { .. })), "{fate:?}");
    }
    let settled = subject.kafka.produce_once(whole).await;
    assert!(settled.is_ok(), "{settled:?}");
    let reader = subject.reader("twice");
    for target in &targets {
        assert_eq!(up_to_end(&reader, target, high_after(subject, target, 300).await).await, texts(0, 300));
    }
}

pub(super) async fn offsets_without_a_message_are_passed(subject: &Subject) {
    if subject.kafka.no_transactions().is_some() {
        return;
    }
    let target = subject.topic("holes", 1).await.remove(0);
    let reader = subject.reader("holes");
    reader.0.assign(&target, 0);
    let mut next = 0;
    for name in ["holes-1", "holes-2"] {
        let few = batch(subject, name, std::slice::from_ref(&target), &texts(0, 3));
        assert_eq!(subject.kafka.produce_once(few).await, Ok(BatchFate::Sent));
        let came = reader.messages(3).await;
        assert_eq!(came[&target][0].0, next, "after the hole");
        let end = next + 4;
        assert_eq!(high(subject, &target).await, end, "the end of the transaction takes an offset");
        let (mut passed, mut told) = (false, false);
        while !passed || !told {
            match reader.next().await {
                Fetched::Passed(about, to) => passed = (about, to) == (target.clone(), end),
                Fetched::End(_, told_end) => told |= told_end == end,
                Fetched::Trouble(_) => {}
                other => panic!("{other:?}"),
            }
        }
        next = end;
    }
    let peeked =
        subject.kafka.peek(&target, 3).await.expect("it answers").expect("a message behind the hole");
    assert_eq!(peeked.messages[0].offset, 4);
    assert_eq!(subject.kafka.peek(&target, 7).await, Ok(None), "a hole up to the end");
    // Held at its end, it goes on behind the hole.
    reader.0.pause(&target);
    subject.send(&target, texts(9, 10)).await;
    reader.silent_about(&target).await;
    reader.0.resume(&target);
    assert_eq!(reader.messages(1).await[&target], [(8, "message 9".to_owned())]);
    for from in [3, 7] {
        reader.0.assign(&target, from);
        let Fetched::Chunk(chunk) = reader.essential().await else { panic!("messages from {from}") };
        assert_eq!(chunk.messages[0].offset, from + 1, "begun in a hole");
    }
}
