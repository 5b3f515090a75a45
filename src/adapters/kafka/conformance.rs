//! The contract of [`Kafka`] and [`Lane`] as a suite: real brokers, the embedded and the simulated one pass it.
//!
//! Part of the library so that unit tests and `tests/` run the very same checks. A check panics with what it found.
//! Each works on topics of its own, so the cluster may hold others.

mod batches;

use super::{Chunk, Committed, Error, Fetched, Kafka, Lane, NewTopic, Outgoing, Watermarks};
use crate::model::names::TopicPartition;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Anything that should happen has happened by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must happen before we believe that it does not.
const SILENCE: Duration = Duration::from_millis(700);

/// Removes all messages below an offset, as retention does.
pub type Truncate = Arc<dyn Fn(TopicPartition, i64) -> BoxFuture<'static, ()> + Send + Sync>;

/// What is checked, and what it can do beyond the least.
#[derive(Clone)]
pub struct Subject {
    kafka: Arc<dyn Kafka>,
    prefix: String,
    deletes: bool,
    truncate: Option<Truncate>,
}

impl Subject {
    /// Topics and groups get names that begin with `prefix`.
    pub fn new(kafka: Arc<dyn Kafka>, prefix: &str) -> Self {
        Self { kafka, prefix: prefix.to_owned(), deletes: false, truncate: None }
    }

    /// It can delete topics.
    pub fn deletes(mut self) -> Self {
        self.deletes = true;
        self
    }

    /// It can drop old messages.
    pub fn truncates(mut self, truncate: Truncate) -> Self {
        self.truncate = Some(truncate);
        self
    }

    async fn topic(&self, name: &str, partitions: i32) -> Vec<TopicPartition> {
        let name = format!("{}.{name}", self.prefix);
        self.kafka.create_topics(&[new_topic(&name, partitions)]).await.expect("a topic is made");
        (0..partitions).map(|partition| TopicPartition { topic: name.clone(), partition }).collect()
    }

    async fn send(&self, target: &TopicPartition, texts: impl IntoIterator<Item = String>) {
        let message = |text: String| Outgoing {
            target: target.clone(),
            payload: Some(text.into()),
            headers: Vec::new(),
        };
        self.kafka.produce(texts.into_iter().map(message).collect()).await.expect("messages are taken");
    }

    fn reader(&self, name: &str) -> Reader {
        Reader(self.kafka.lane(name).expect("a lane is made"))
    }
}

fn new_topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, replication: 1, settings: Vec::new() }
}

fn texts(from: i64, to: i64) -> Vec<String> {
    (from..to).map(|n| format!("message {n}")).collect()
}

/// Takes from a lane, with patience.
struct Reader(Arc<dyn Lane>);

impl Reader {
    async fn next(&self) -> Fetched {
        timeout(PATIENCE, self.0.next()).await.expect("the lane yields something in time")
    }

    /// The next thing that is no news of an end, nor trouble.
    async fn essential(&self) -> Fetched {
        let essential = async {
            loop {
                match self.0.next().await {
                    Fetched::End(..) | Fetched::Passed(..) => {}
                    Fetched::Unreachable(..) | Fetched::Trouble(_) => {}
                    other => return other,
                }
            }
        };
        timeout(PATIENCE, essential).await.expect("the lane yields something in time")
    }

    /// Messages until `count` of them came, as offset and text by source; checks their order.
    async fn messages(&self, count: usize) -> BTreeMap<TopicPartition, Vec<(i64, String)>> {
        let mut all: BTreeMap<_, Vec<(i64, String)>> = BTreeMap::new();
        let mut came = 0;
        while came < count {
            let Fetched::Chunk(chunk) = self.essential().await else { panic!("messages were expected") };
            came += chunk.messages.len();
            let list = all.entry(chunk.source.clone()).or_default();
            list.extend(read(&chunk));
            assert!(list.is_sorted_by(|a, b| a.0 < b.0), "offsets of {} grow: {list:?}", chunk.source);
        }
        assert_eq!(came, count, "no more than was asked for");
        all
    }

    /// Nothing of `source` is yielded for a while.
    async fn silent_about(&self, source: &TopicPartition) {
        let until = tokio::time::Instant::now() + SILENCE;
        while let Ok(fetched) = tokio::time::timeout_at(until, self.0.next()).await {
            let about = match &fetched {
                Fetched::Chunk(chunk) => &chunk.source,
                Fetched::End(about, _)
                | Fetched::Passed(about, _)
                | Fetched::TopicMissing(about)
                | Fetched::Unreachable(about, _) => about,
                Fetched::OutOfRange { source, .. } => source,
                Fetched::Trouble(_) => continue,
            };
            assert_ne!(about, source, "{fetched:?}");
        }
    }
}

fn read(chunk: &Chunk) -> Vec<(i64, String)> {
    let text = |message| String::from_utf8_lossy(chunk.payload_of(message)).into_owned();
    chunk.messages.iter().map(|message| (message.offset, text(message))).collect()
}

/// Runs every check that the subject can stand.
pub async fn run_all(subject: &Subject) {
    macro_rules! run {
        ($($check:ident),+ $(,)?) => {
            $(
                tracing::info!(check = stringify!($check), "conformance");
                $check(subject).await;
            )+
        };
    }
    use batches::*;
    run!(
        it_says_that_it_is_there,
        topics_are_made_once_and_too_few_partitions_are_refused,
        what_is_not_there_is_said_to_be_missing,
        messages_come_back_as_they_were_sent,
        many_messages_come_in_order_none_twice,
        a_paused_partition_is_silent_and_goes_on_where_it_was,
        partitions_paused_at_their_end_go_on_without_a_gap_however_much_waits,
        a_new_assignment_replaces_the_old_one,
        the_end_is_told_again_when_it_moves,
        positions_are_recorded_with_what_stands_beside_them,
        an_offset_that_is_not_there_is_reported,
        one_message_can_be_looked_at,
        truncated_messages_are_reported,
        a_topic_deleted_while_it_is_read_is_reported,
        a_topic_made_anew_is_not_taken_for_the_old_one,
        a_named_batch_goes_in_whole_and_once,
        a_batch_that_cannot_go_in_whole_leaves_nothing,
        a_batch_sent_twice_at_a_time_is_in_once,
        offsets_without_a_message_are_passed,
    );
}

async fn it_says_that_it_is_there(subject: &Subject) {
    subject.kafka.reach().await.expect("it answers");
}

async fn topics_are_made_once_and_too_few_partitions_are_refused(subject: &Subject) {
    let sources = subject.topic("made", 2).await;
    let name = &sources[0].topic;
    for partitions in [1, 2] {
        subject.kafka.create_topics(&[new_topic(name, partitions)]).await.expect("it is there already");
    }
    let refused = subject.kafka.create_topics(&[new_topic(name, 3)]).await;
    assert!(matches!(&refused, Err(Error::Invalid(text)) if text.contains(name)), "{refused:?}");
    let empty = Watermarks { low: 0, high: 0 };
    assert_eq!(subject.kafka.watermarks(&sources[1]).await, Ok(empty));
}

async fn what_is_not_there_is_said_to_be_missing(subject: &Subject) {
    let name = format!("{}.absent", subject.prefix);
    let absent = TopicPartition { topic: name.clone(), partition: 0 };
    assert_eq!(subject.kafka.watermarks(&absent).await, Err(Error::TopicMissing(name.clone())));
    assert_eq!(subject.kafka.peek(&absent, 0).await, Err(Error::TopicMissing(name.clone())));
    assert_eq!(subject.kafka.delete_topics(&[name]).await, Ok(()));
    let group = format!("{}.absent", subject.prefix);
    assert_eq!(subject.kafka.committed(&group, std::slice::from_ref(&absent)).await, Ok(vec![None]));
    let reader = subject.reader("absent");
    reader.0.assign(&absent, 0);
    assert_eq!(reader.essential().await, Fetched::TopicMissing(absent));
}

async fn messages_come_back_as_they_were_sent(subject: &Subject) {
    let source = subject.topic("sent", 1).await.remove(0);
    let payloads = [Some("one"), Some(""), None, Some("vier\n\0")];
    let outgoing = payloads.map(|payload| Outgoing {
        target: source.clone(),
        payload: payload.map(|text| Bytes::from_static(text.as_bytes())),
        headers: vec![("reason".into(), "because".into())],
    });
    subject.kafka.produce(outgoing.to_vec()).await.expect("messages are taken");
    let reader = subject.reader("sent");
    reader.0.assign(&source, 0);
    let mut came = Vec::new();
    let mut end = None;
    while came.len() < payloads.len() || end != Some(4) {
        match reader.next().await {
            Fetched::Chunk(chunk) => {
                for message in &chunk.messages {
                    let text = String::from_utf8_lossy(chunk.payload_of(message)).into_owned();
                    came.push((message.offset, (!message.tombstone).then_some(text)));
                }
            }
            Fetched::End(about, high) => {
                assert_eq!(about, source);
                end = Some(high);
            }
            other => panic!("{other:?}"),
        }
    }
    let sent: Vec<_> = (0..).zip(payloads.map(|payload| payload.map(str::to_owned))).collect();
    assert_eq!(came, sent);
}

async fn many_messages_come_in_order_none_twice(subject: &Subject) {
    let sources = subject.topic("many", 3).await;
    for source in &sources {
        subject.send(source, texts(0, 4_000)).await;
    }
    let reader = subject.reader("many");
    for (source, from) in sources.iter().zip([0, 1_500, 3_999]) {
        reader.0.assign(source, from);
    }
    let came = reader.messages(4_000 + 2_500 + 1).await;
    for (source, from) in sources.iter().zip([0, 1_500, 3_999]) {
        let expected: Vec<_> = (from..4_000).zip(texts(from, 4_000)).collect();
        assert!(came[source] == expected, "{source} from {from}: {} messages", came[source].len());
    }
}

async fn a_paused_partition_is_silent_and_goes_on_where_it_was(subject: &Subject) {
    let sources = subject.topic("paused", 2).await;
    let reader = subject.reader("paused");
    for source in &sources {
        subject.send(source, texts(0, 10)).await;
        reader.0.assign(source, 0);
    }
    reader.messages(20).await;
    reader.0.pause(&sources[0]);
    reader.0.pause(&sources[0]);
    for source in &sources {
        subject.send(source, texts(10, 20)).await;
    }
    let came = reader.messages(10).await;
    assert_eq!(came.keys().collect::<Vec<_>>(), [&sources[1]]);
    reader.silent_about(&sources[0]).await;
    reader.0.resume(&sources[0]);
    let came = reader.messages(10).await;
    assert_eq!(came[&sources[0]], (10..20).zip(texts(10, 20)).collect::<Vec<_>>());
}

/// So much waits that the lane must stop fetching, after it saw the end: what comes next is still the next message.
async fn partitions_paused_at_their_end_go_on_without_a_gap_however_much_waits(subject: &Subject) {
    let sources = subject.topic("pressed", 4).await;
    let reader = subject.reader("pressed");
    let long = |from, to| texts(from, to).into_iter().map(|text| text + &" ".repeat(4_000));
    let mut sent = 0;
    for more in [1, 2] {
        for source in &sources {
            subject.send(source, long(sent, sent + 1_100)).await;
            reader.0.assign(source, sent);
            reader.0.pause(source);
            // Its end is seen before the last of them makes it too much.
            tokio::time::sleep(SILENCE / 2).await;
        }
        for source in &sources {
            subject.send(source, long(sent + 1_100, sent + 1_100 + more)).await;
            reader.0.resume(source);
        }
        let came = reader.messages(sources.len() * usize::try_from(1_100 + more).expect("small")).await;
        for source in &sources {
            let offsets: Vec<_> = came[source].iter().map(|(offset, _)| *offset).collect();
            assert!(offsets.iter().copied().eq(sent..sent + 1_100 + more), "{source}: a gap in {offsets:?}");
        }
        sent += 1_100 + more;
    }
}

async fn a_new_assignment_replaces_the_old_one(subject: &Subject) {
    let source = subject.topic("again", 1).await.remove(0);
    subject.send(&source, texts(0, 100)).await;
    let reader = subject.reader("again");
    for from in [0, 60, 20] {
        reader.0.assign(&source, from);
        match reader.essential().await {
            Fetched::Chunk(chunk) => assert_eq!(chunk.messages[0].offset, from),
            other => panic!("{other:?}"),
        }
    }
}

async fn the_end_is_told_again_when_it_moves(subject: &Subject) {
    let source = subject.topic("end", 1).await.remove(0);
    subject.send(&source, texts(0, 5)).await;
    let reader = subject.reader("end");
    reader.0.assign(&source, 0);
    for (from, wanted) in [(0, 5), (5, 8)] {
        if from > 0 {
            subject.send(&source, texts(from, wanted)).await;
        }
        loop {
            match reader.next().await {
                Fetched::End(_, high) if high == wanted => break,
                Fetched::End(..) | Fetched::Chunk(_) | Fetched::Trouble(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn positions_are_recorded_with_what_stands_beside_them(subject: &Subject) {
    let sources = subject.topic("positions", 3).await;
    let kafka = &subject.kafka;
    for source in &sources {
        subject.send(source, texts(0, 10)).await;
    }
    let reader = subject.reader("positions");
    reader.0.assign(&sources[0], 0);
    reader.messages(10).await;
    let at = |next, metadata: &str| Committed { next, metadata: metadata.to_owned() };
    let group = format!("{}.positions", subject.prefix);
    let long = "ä=\"{}\" ".repeat(400);
    let both = [(sources[0].clone(), at(3, &long)), (sources[1].clone(), at(9, ""))];
    kafka.commit(&group, &both).await.expect("recorded");
    let expected = vec![Some(at(3, &long)), Some(at(9, "")), None];
    assert_eq!(kafka.committed(&group, &sources).await, Ok(expected));
    kafka.commit(&group, &[(sources[0].clone(), at(2, "back"))]).await.expect("recorded");
    assert_eq!(kafka.committed(&group, &sources[..1]).await, Ok(vec![Some(at(2, "back"))]));
    let other = format!("{}.others", subject.prefix);
    assert_eq!(kafka.committed(&other, &sources[..1]).await, Ok(vec![None]), "groups are apart");
    let refused = kafka.commit(&group, &[(sources[0].clone(), at(1, &"x".repeat(5_000)))]).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let many = (0..30).map(|next| (sources[2].clone(), at(next % 10, &format!("{next}"))));
    let many: Vec<_> = many.map(|position| [position]).collect();
    let all = many.iter().map(|position| kafka.commit(&group, position));
    futures::future::try_join_all(all).await.expect("recorded at once");
    assert_eq!(
        kafka.committed(&group, &sources[2..]).await,
        Ok(vec![Some(at(9, "29"))]),
        "the last one counts"
    );
    let missing = TopicPartition { topic: format!("{}.nowhere", subject.prefix), partition: 0 };
    let mixed = [[(missing, at(1, ""))], [(sources[1].clone(), at(4, ""))]];
    let (bad, good) = futures::join!(kafka.commit(&group, &mixed[0]), kafka.commit(&group, &mixed[1]));
    assert!(matches!(&bad, Err(Error::TopicMissing(topic)) if topic.ends_with("nowhere")), "{bad:?}");
    assert_eq!(good, Ok(()), "another's mistake is not mine");
    subject.send(&sources[0], texts(10, 11)).await;
    let came = reader.messages(1).await;
    assert_eq!(came[&sources[0]], [(10, "message 10".to_owned())], "a lane reads on where it was");
}

async fn an_offset_that_is_not_there_is_reported(subject: &Subject) {
    let source = subject.topic("beyond", 1).await.remove(0);
    subject.send(&source, texts(0, 5)).await;
    let reader = subject.reader("beyond");
    reader.0.assign(&source, 17);
    let reported = Fetched::OutOfRange { source: source.clone(), wanted: 17, low: 0, high: 5 };
    assert_eq!(reader.essential().await, reported);
    reader.0.assign(&source, 4);
    let came = reader.messages(1).await;
    assert_eq!(came[&source][0].0, 4, "it can be assigned again");
}

async fn one_message_can_be_looked_at(subject: &Subject) {
    let source = subject.topic("peeked", 1).await.remove(0);
    assert_eq!(subject.kafka.peek(&source, 0).await, Ok(None));
    subject.send(&source, texts(0, 5)).await;
    for offset in [3, 0] {
        let chunk = subject.kafka.peek(&source, offset).await.expect("it answers").expect("it is there");
        assert_eq!(read(&chunk)[0], (offset, format!("message {offset}")));
    }
    assert_eq!(subject.kafka.peek(&source, 5).await, Ok(None));
}

async fn truncated_messages_are_reported(subject: &Subject) {
    let Some(truncate) = &subject.truncate else { return };
    let source = subject.topic("truncated", 1).await.remove(0);
    subject.send(&source, texts(0, 10)).await;
    truncate(source.clone(), 6).await;
    assert_eq!(subject.kafka.watermarks(&source).await, Ok(Watermarks { low: 6, high: 10 }));
    let reader = subject.reader("truncated");
    reader.0.assign(&source, 2);
    let reported = Fetched::OutOfRange { source: source.clone(), wanted: 2, low: 6, high: 10 };
    assert_eq!(reader.essential().await, reported);
    let chunk = subject.kafka.peek(&source, 0).await.expect("it answers").expect("it is there");
    assert_eq!(chunk.messages[0].offset, 6, "the first one there is");
}

async fn a_topic_deleted_while_it_is_read_is_reported(subject: &Subject) {
    if !subject.deletes {
        return;
    }
    let sources = subject.topic("deleted", 1).await;
    let other = subject.topic("stays", 1).await.remove(0);
    let reader = subject.reader("deleted");
    subject.send(&sources[0], texts(0, 5)).await;
    reader.0.assign(&sources[0], 0);
    reader.0.assign(&other, 0);
    reader.messages(5).await;
    subject.kafka.delete_topics(&[sources[0].topic.clone()]).await.expect("deleted");
    assert_eq!(reader.essential().await, Fetched::TopicMissing(sources[0].clone()));
    subject.send(&other, texts(0, 1)).await;
    assert_eq!(reader.messages(1).await[&other][0].0, 0, "the lane goes on");
}

async fn a_topic_made_anew_is_not_taken_for_the_old_one(subject: &Subject) {
    if !subject.deletes {
        return;
    }
    // Shorter than what was read, as long, and longer: the offset wanted is there again.
    for (name, length) in [("shorter", 2), ("equal", 5), ("longer", 20)] {
        let source = subject.topic(name, 1).await.remove(0);
        subject.send(&source, texts(0, 5)).await;
        let reader = subject.reader(name);
        reader.0.assign(&source, 0);
        reader.messages(5).await;
        subject.kafka.delete_topics(std::slice::from_ref(&source.topic)).await.expect("deleted");
        subject.topic(name, 1).await;
        subject.send(&source, (0..length).map(|n| format!("new {n}"))).await;
        match reader.essential().await {
            Fetched::TopicMissing(about) => assert_eq!(about, source),
            Fetched::OutOfRange { source: about, wanted: 5, low: 0, .. } => assert_eq!(about, source),
            other => panic!("{name}: {other:?}"),
        }
    }
}
