//! Recorded positions of groups that have no members: read and written, never rebalanced.
//!
//! Replicas of a node share its group and each records often: what comes while a request is under way goes into the
//! next one together. One request at a time, so that an older position never overtakes a newer one, also when a caller
//! has given up on the older.
#![allow(unsafe_code)] // librdkafka's C interface

use super::client::{Ears, Looker, answered};
use super::options::{Effect, Options, error, of_code};
use super::{Committed, Error};
use crate::model::names::TopicPartition;
use rdkafka::bindings as sys;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Kafka's own limit, as brokers have it by default.
const METADATA_MAX_BYTES: usize = 4096;

/// How soon brokers that are about to know are asked again.
pub(super) const AGAIN: Duration = Duration::from_millis(100);

/// Positions that wait for the next request, and who wants to know.
struct Waiter {
    positions: Vec<(TopicPartition, Committed)>,
    answer: oneshot::Sender<Result<(), Error>>,
}

struct Group {
    name: String,
    consumer: Looker,
    deadline: Duration,
    waiting: Mutex<Vec<Waiter>>,
    /// Held by whoever runs a request; goes with it to its thread.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// One consumer a group, made at first use.
pub(super) struct Groups {
    options: Options,
    groups: Mutex<BTreeMap<String, Arc<Group>>>,
}

impl Groups {
    pub(super) fn new(options: Options) -> Self {
        Self { options, groups: Mutex::default() }
    }

    fn group(&self, name: &str) -> Result<Arc<Group>, Error> {
        let mut groups = self.groups.lock().expect("no panic while held");
        if let Some(group) = groups.get(name) {
            return Ok(Arc::clone(group));
        }
        let group = Arc::new(Group {
            name: name.to_owned(),
            consumer: consumer(&self.options, name)?,
            deadline: self.options.deadline(),
            waiting: Mutex::default(),
            turn: Arc::default(),
        });
        groups.insert(name.to_owned(), Arc::clone(&group));
        Ok(group)
    }

    /// See [`super::Kafka::committed`]. Blocks.
    pub(super) fn committed(
        &self,
        group: &str,
        sources: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, Error> {
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let group = self.group(group)?;
        look_up_patiently(&group.consumer, &group.name, sources, self.options.deadline())
    }

    /// See [`super::Kafka::commit`].
    pub(super) async fn commit(
        &self,
        group: &str,
        positions: &[(TopicPartition, Committed)],
    ) -> Result<(), Error> {
        if positions.is_empty() {
            return Ok(());
        }
        positions.iter().try_for_each(|(source, position)| acceptable(source, position))?;
        let group = self.group(group)?;
        let (answer, mut outcome) = oneshot::channel();
        let waiter = Waiter { positions: positions.to_vec(), answer };
        group.waiting.lock().expect("no panic while held").push(waiter);
        let unknown = |reason: &str| {
            let what = "positions recorded".to_owned();
            Err(Error::OutcomeUnknown { what, reason: reason.to_owned() })
        };
        // librdkafka waits for a coordinator as long as it likes, hence the deadline. What was begun goes on.
        let work = async {
            let turn = Arc::clone(&group.turn).lock_owned().await;
            if let Ok(result) = outcome.try_recv() {
                return result;
            }
            let flushing = Arc::clone(&group);
            tokio::task::spawn_blocking(move || {
                flushing.flush();
                drop(turn);
            });
            outcome.await.unwrap_or_else(|_| unknown("the client ended"))
        };
        let deadline = self.options.deadline() + Duration::from_secs(10);
        tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| unknown("no answer in time"))
    }
}

impl Group {
    /// Records what waits, all in one request, and tells everybody.
    fn flush(&self) {
        let waiters = std::mem::take(&mut *self.waiting.lock().expect("no panic while held"));
        let mut all = BTreeMap::new();
        for (source, position) in waiters.iter().flat_map(|waiter| &waiter.positions) {
            // The last one said counts.
            all.insert(source, position);
        }
        let failures = self.failures(&all);
        for Waiter { positions, answer } in waiters {
            let own = positions.iter().find_map(|(source, _)| failures.get(source)).cloned();
            // Whoever gave up does not listen.
            let _ = answer.send(own.map_or(Ok(()), Err));
        }
    }

    /// Records positions; what went wrong, by partition.
    fn failures(&self, all: &BTreeMap<&TopicPartition, &Committed>) -> BTreeMap<TopicPartition, Error> {
        let Err(failure) = self.record_patiently(all) else { return BTreeMap::new() };
        let shared =
            matches!(failure, Error::Unreachable(_) | Error::OutcomeUnknown { .. } | Error::Denied(_));
        if shared || all.len() == 1 {
            return all.keys().map(|source| ((*source).clone(), failure.clone())).collect();
        }
        // librdkafka puts one partition's error on the others as well: ask for each by itself.
        let each = all.iter().filter_map(|(source, position)| {
            let result = self.record_patiently(&BTreeMap::from([(*source, *position)]));
            result.err().map(|failure| ((*source).clone(), failure))
        });
        each.collect()
    }

    /// A coordinator that is still loading, or just moved, is asked again.
    fn record_patiently(&self, all: &BTreeMap<&TopicPartition, &Committed>) -> Result<(), Error> {
        let until = Instant::now() + self.deadline;
        loop {
            let result = self.record(all);
            if !matches!(result, Err(Error::Unreachable(_))) || Instant::now() + AGAIN > until {
                return result;
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn record(&self, all: &BTreeMap<&TopicPartition, &Committed>) -> Result<(), Error> {
        let mut list = TopicPartitionList::with_capacity(all.len());
        for (source, position) in all {
            let mut place = list.add_partition(&source.topic, source.partition);
            place
                .set_offset(Offset::Offset(position.next))
                .map_err(|_| Error::Invalid(format!("{source}: offset {}", position.next)))?;
            place.set_metadata(&position.metadata);
        }
        let mut failure: Option<(String, Code)> = None;
        // SAFETY: with no queue given, the callback runs within this call, so `failure` outlives it.
        let code = unsafe {
            let opaque = std::ptr::from_mut(&mut failure).cast::<c_void>();
            let client = self.consumer.client().native_ptr();
            sys::rd_kafka_commit_queue(client, list.ptr(), std::ptr::null_mut(), Some(on_commit), opaque)
        };
        let code = Code::from(code);
        let failure = failure.or_else(|| (code != Code::NoError).then(|| (self.name.clone(), code)));
        let (about, code) = failure.unwrap_or_else(|| (self.name.clone(), Code::NoError));
        let answer = match code {
            Code::NoError => Ok(()),
            code => Err(KafkaError::ConsumerCommit(code)),
        };
        answered(&self.consumer, answer, &about, Effect::Write("positions recorded"))
    }
}

pub(super) fn acceptable(source: &TopicPartition, position: &Committed) -> Result<(), Error> {
    checked(source)?;
    let length = position.metadata.len();
    if length > METADATA_MAX_BYTES {
        let limit = format!("{source}: {length} bytes beside a position, at most {METADATA_MAX_BYTES}");
        return Err(Error::Invalid(limit));
    }
    if position.next < 0 {
        return Err(Error::Invalid(format!("{source}: offset {}", position.next)));
    }
    Ok(())
}

/// A consumer that only reads and records a group's positions.
pub(super) fn consumer(options: &Options, group: &str) -> Result<Looker, Error> {
    let mut config = options.config("offsets")?;
    config.set("group.id", group);
    config.set("enable.auto.commit", "false");
    // How long a commit waits for a coordinator.
    config.set("session.timeout.ms", "10000");
    config.create_with_context(Ears::default()).map_err(|failure| error(&failure, group, Effect::Read))
}

/// What a group recorded: of transactions, those that have ended; one that is just ending is waited for. Blocks.
pub(super) fn look_up_patiently(
    consumer: &Looker,
    group: &str,
    sources: &[TopicPartition],
    wait: Duration,
) -> Result<Vec<Option<Committed>>, Error> {
    let mut list = TopicPartitionList::with_capacity(sources.len());
    for source in sources {
        checked(source)?;
        list.add_partition(&source.topic, source.partition);
    }
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let found = look_up(consumer, group, &list, sources, left);
        // A coordinator that is still loading, or just moved, is asked again.
        if !matches!(found, Err(Error::Unreachable(_))) || Instant::now() + AGAIN > until {
            return found;
        }
        std::thread::sleep(AGAIN);
    }
}

fn look_up(
    consumer: &Looker,
    group: &str,
    list: &TopicPartitionList,
    sources: &[TopicPartition],
    wait: Duration,
) -> Result<Vec<Option<Committed>>, Error> {
    let list = consumer.committed_offsets(list.clone(), wait);
    let list = answered(consumer, list, group, Effect::Read)?;
    let mut found = BTreeMap::new();
    for place in places(&list) {
        match Code::from(place.err) {
            Code::NoError => {}
            // Nothing was ever recorded for a topic that is not there.
            Code::UnknownTopicOrPartition => continue,
            code => return Err(of_code(code, group, Effect::Read)),
        }
        if place.offset >= 0 {
            let committed = Committed { next: place.offset, metadata: metadata_of(place) };
            found.insert((topic_of(place), place.partition), committed);
        }
    }
    Ok(sources.iter().map(|source| found.get(&(source.topic.clone(), source.partition)).cloned()).collect())
}

/// Librdkafka's own result is good if only some partitions failed: each one's is looked at here.
unsafe extern "C" fn on_commit(
    _: *mut sys::rd_kafka_t,
    _: RDKafkaRespErr,
    list: *mut sys::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: see `Group::record`.
    let failure = unsafe { &mut *opaque.cast::<Option<(String, Code)>>() };
    // SAFETY: librdkafka's list, valid for the time of this call, or null.
    let places = unsafe { list.as_ref() }.map(elements).unwrap_or_default();
    let failed = places.iter().find(|place| Code::from(place.err) != Code::NoError);
    *failure = failed.map(|place| (topic_of(place), place.err.into()));
}

fn checked(source: &TopicPartition) -> Result<(), Error> {
    let bad = source.topic.is_empty() || source.topic.contains('\0');
    if bad { Err(Error::Invalid(format!("topic name {:?}", source.topic))) } else { Ok(()) }
}

fn places(list: &TopicPartitionList) -> &[sys::rd_kafka_topic_partition_t] {
    // SAFETY: a list that lives as long as the slice.
    elements(unsafe { &*list.ptr() })
}

fn elements(list: &sys::rd_kafka_topic_partition_list_t) -> &[sys::rd_kafka_topic_partition_t] {
    let count = usize::try_from(list.cnt).unwrap_or(0);
    if count == 0 {
        return &[];
    }
    // SAFETY: librdkafka keeps `cnt` elements there.
    unsafe { std::slice::from_raw_parts(list.elems, count) }
}

fn topic_of(place: &sys::rd_kafka_topic_partition_t) -> String {
    // SAFETY: every element has a name.
    unsafe { std::ffi::CStr::from_ptr(place.topic) }.to_string_lossy().into_owned()
}

/// `rdkafka` would panic at a foreign client's bytes that are no text.
fn metadata_of(place: &sys::rd_kafka_topic_partition_t) -> String {
    if place.metadata.is_null() {
        return String::new();
    }
    // SAFETY: pointer and length of librdkafka's copy.
    let bytes = unsafe { std::slice::from_raw_parts(place.metadata.cast::<u8>(), place.metadata_size) };
    String::from_utf8_lossy(bytes).into_owned()
}
