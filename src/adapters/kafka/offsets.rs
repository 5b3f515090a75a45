//! Recorded positions of groups that have no members: read and written, never rebalanced.
#![allow(unsafe_code)] // librdkafka's C interface

use super::client::{Ears, Looker, failed};
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

/// Kafka's own limit, as brokers have it by default.
const METADATA_MAX_BYTES: usize = 4096;

/// How soon a coordinator is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// One consumer a group, made at first use.
pub(super) struct Groups {
    options: Options,
    consumers: Mutex<BTreeMap<String, Arc<Mutex<Looker>>>>,
}

impl Groups {
    pub(super) fn new(options: Options) -> Self {
        Self { options, consumers: Mutex::default() }
    }

    fn consumer(&self, group: &str) -> Result<Arc<Mutex<Looker>>, Error> {
        let mut consumers = self.consumers.lock().expect("no panic while held");
        if let Some(consumer) = consumers.get(group) {
            return Ok(Arc::clone(consumer));
        }
        let mut config = self.options.config("offsets")?;
        config.set("group.id", group);
        config.set("enable.auto.commit", "false");
        // How long a commit waits for a coordinator.
        config.set("session.timeout.ms", "10000");
        let made: Looker = config
            .create_with_context(Ears::default())
            .map_err(|failure| error(&failure, group, Effect::Read))?;
        let made = Arc::new(Mutex::new(made));
        consumers.insert(group.to_owned(), Arc::clone(&made));
        Ok(made)
    }

    /// See [`super::Kafka::committed`].
    pub(super) fn committed(
        &self,
        group: &str,
        sources: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, Error> {
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let consumer = self.consumer(group)?;
        let consumer = consumer.lock().expect("no panic while held");
        let mut list = TopicPartitionList::with_capacity(sources.len());
        for source in sources {
            checked(source)?;
            list.add_partition(&source.topic, source.partition);
        }
        self.patiently(|left| look_up(&consumer, group, &list, sources, left))
    }

    /// A coordinator that is still loading, or just moved, is asked again.
    fn patiently<T>(&self, mut call: impl FnMut(Duration) -> Result<T, Error>) -> Result<T, Error> {
        let until = Instant::now() + self.options.deadline();
        loop {
            let result = call(until.saturating_duration_since(Instant::now()));
            if !matches!(result, Err(Error::Unreachable(_))) || Instant::now() + AGAIN > until {
                return result;
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// See [`super::Kafka::commit`].
    pub(super) fn commit(&self, group: &str, positions: &[(TopicPartition, Committed)]) -> Result<(), Error> {
        if positions.is_empty() {
            return Ok(());
        }
        let consumer = self.consumer(group)?;
        let consumer = consumer.lock().expect("no panic while held");
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (source, position) in positions {
            checked(source)?;
            if position.metadata.len() > METADATA_MAX_BYTES {
                let length = position.metadata.len();
                let limit =
                    format!("{source}: {length} bytes beside a position, at most {METADATA_MAX_BYTES}");
                return Err(Error::Invalid(limit));
            }
            let mut place = list.add_partition(&source.topic, source.partition);
            place
                .set_offset(Offset::Offset(position.next))
                .map_err(|_| Error::Invalid(format!("{source}: offset {}", position.next)))?;
            place.set_metadata(&position.metadata);
        }
        self.patiently(|_| record(&consumer, group, &list))
    }
}

fn record(consumer: &Looker, group: &str, list: &TopicPartitionList) -> Result<(), Error> {
    let mut outcome = Outcome::default();
    // SAFETY: with no queue given, the callback runs within this call, so `outcome` outlives it.
    let code = unsafe {
        let opaque = std::ptr::from_mut(&mut outcome).cast::<c_void>();
        let client = consumer.client().native_ptr();
        sys::rd_kafka_commit_queue(client, list.ptr(), std::ptr::null_mut(), Some(on_commit), opaque)
    };
    let code = Code::from(code);
    let general = (code != Code::NoError).then(|| (code, group.to_owned()));
    match outcome.failure.or(general) {
        None => Ok(()),
        Some((code, about)) => {
            let failure = KafkaError::ConsumerCommit(code);
            Err(failed(consumer, &failure, &about, Effect::Write("positions recorded")))
        }
    }
}

fn look_up(
    consumer: &Looker,
    group: &str,
    list: &TopicPartitionList,
    sources: &[TopicPartition],
    wait: Duration,
) -> Result<Vec<Option<Committed>>, Error> {
    let list = consumer
        .committed_offsets(list.clone(), wait)
        .map_err(|failure| failed(consumer, &failure, group, Effect::Read))?;
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

/// What the callback saw; judged after the call.
#[derive(Default)]
struct Outcome {
    failure: Option<(Code, String)>,
}

/// Librdkafka's own result is good if only some partitions failed: each one's is looked at here.
unsafe extern "C" fn on_commit(
    _: *mut sys::rd_kafka_t,
    code: RDKafkaRespErr,
    list: *mut sys::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: see `record`.
    let outcome = unsafe { &mut *opaque.cast::<Outcome>() };
    // SAFETY: librdkafka's list, valid for the time of this call, or null.
    let failed = unsafe { list.as_ref() }.map(elements).unwrap_or_default();
    let failed = failed.iter().find(|place| Code::from(place.err) != Code::NoError);
    if let Some(place) = failed {
        outcome.failure = Some((place.err.into(), topic_of(place)));
    } else if Code::from(code) != Code::NoError {
        tracing::debug!(?code, "librdkafka recorded no position");
    }
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
