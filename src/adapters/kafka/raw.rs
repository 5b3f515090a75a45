//! The few calls of librdkafka's C interface that a lane needs and `rdkafka` does not offer.
//!
//! `rdkafka`'s safe consumer gives one message a call and drops the topic's name from end-of-partition and offset
//! errors, which is no use to a consumer of many one-partition topics. Here messages come in batches, with their
//! topic; partitions start and stop one by one, without any consumer group; stopping purges what was fetched.
//! All `unsafe` of this crate's Kafka side is in this file. It knows nothing of lanes.
#![allow(unsafe_code)] // librdkafka's C interface

use super::Error;
use super::options::{Effect, error, of_code};
use crate::model::names::TopicPartition;
use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long librdkafka may take to move a partition's position; it asks no broker for that.
const SEEK_WAIT: Duration = Duration::from_secs(5);

/// What librdkafka says from its own threads.
#[derive(Default)]
struct Heard {
    trouble: Option<String>,
    missing: Vec<TopicPartition>,
    replaced: Vec<String>,
}

type Ears = Mutex<Heard>;

/// A consumer without a group. Usable from any thread, as librdkafka is.
pub(super) struct RawConsumer {
    rk: *mut sys::rd_kafka_t,
    queue: *mut sys::rd_kafka_queue_t,
    /// Kept alive for the callbacks, which hold a plain pointer to it.
    ears: Arc<Ears>,
}

// SAFETY: librdkafka's handles may be used from any thread at once; `ears` is a mutex.
unsafe impl Send for RawConsumer {}
// SAFETY: as above.
unsafe impl Sync for RawConsumer {}

/// A topic's handle; equal topics of one consumer have equal keys.
pub(super) struct Topic(*mut sys::rd_kafka_topic_t);

// SAFETY: a reference-counted handle of a thread-safe library.
unsafe impl Send for Topic {}

impl Topic {
    /// Names the topic among those of its consumer, for as long as this handle lives.
    pub(super) fn key(&self) -> usize {
        self.0 as usize
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_topic_new`, given back once.
        unsafe { sys::rd_kafka_topic_destroy(self.0) }
    }
}

/// One message or event of a batch.
pub(super) struct Item(*mut sys::rd_kafka_message_t);

impl Item {
    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the pointer is valid until this item is dropped.
        unsafe { &*self.0 }
    }

    /// The key of its topic (see [`Topic::key`]) and its partition.
    pub(super) fn place(&self) -> (usize, i32) {
        (self.raw().rkt as usize, self.raw().partition)
    }

    /// What is wrong, if this is an event rather than a message.
    pub(super) fn event(&self) -> Option<Code> {
        let code = self.raw().err;
        (code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }

    /// What an event says of itself.
    pub(super) fn reason(&self) -> String {
        String::from_utf8_lossy(self.payload().unwrap_or_default()).into_owned()
    }

    pub(super) fn offset(&self) -> i64 {
        self.raw().offset
    }

    /// Length of the payload.
    pub(super) fn len(&self) -> usize {
        if self.raw().payload.is_null() { 0 } else { self.raw().len }
    }

    /// The payload; `None` for a tombstone.
    pub(super) fn payload(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: librdkafka gives pointer and length of a buffer that lives as long as the message.
        (!raw.payload.is_null()).then(|| unsafe { std::slice::from_raw_parts(raw.payload.cast(), raw.len) })
    }

    /// Milliseconds since 1970; -1 if none.
    pub(super) fn timestamp_ms(&self) -> i64 {
        // SAFETY: a valid message; the kind of time is not asked for.
        unsafe { sys::rd_kafka_message_timestamp(self.0, std::ptr::null_mut()) }
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        // SAFETY: handed to us by the batch call, given back once.
        unsafe { sys::rd_kafka_message_destroy(self.0) }
    }
}

impl RawConsumer {
    /// Makes a consumer; nothing is asked of the brokers yet.
    pub(super) fn new(config: &ClientConfig) -> Result<Self, Error> {
        let mut config = config.clone();
        // Says when a topic's id changes: see `on_log`.
        let debug = config.get("debug").map_or("topic".to_owned(), |own| format!("{own},topic"));
        config.set("debug", debug);
        let conf = config.create_native_config().map_err(|e| error(&e, "consumer", Effect::Read))?;
        let conf = ManuallyDrop::new(conf);
        let ears = Arc::new(Ears::default());
        let mut reason = [0 as c_char; 512];
        // SAFETY: `rd_kafka_new` takes the configuration over on success. The opaque pointer outlives the handle:
        // `ears` is dropped after `rd_kafka_destroy` has ended librdkafka's threads.
        let (rk, queue) = unsafe {
            sys::rd_kafka_conf_set_opaque(conf.ptr(), Arc::as_ptr(&ears) as *mut c_void);
            sys::rd_kafka_conf_set_error_cb(conf.ptr(), Some(on_error));
            sys::rd_kafka_conf_set_log_cb(conf.ptr(), Some(on_log));
            let kind = sys::rd_kafka_type_t::RD_KAFKA_CONSUMER;
            let rk = sys::rd_kafka_new(kind, conf.ptr(), reason.as_mut_ptr(), reason.len());
            if rk.is_null() {
                drop(ManuallyDrop::into_inner(conf));
                let text = CStr::from_ptr(reason.as_ptr()).to_string_lossy().into_owned();
                return Err(Error::Invalid(text));
            }
            (rk, sys::rd_kafka_queue_new(rk))
        };
        Ok(Self { rk, queue, ears })
    }

    /// Begins to read a partition into the common queue.
    pub(super) fn start(&self, source: &TopicPartition, from: i64) -> Result<Topic, Error> {
        let name = name(&source.topic)?;
        // SAFETY: valid handles; a null configuration means the default one.
        let topic = unsafe { sys::rd_kafka_topic_new(self.rk, name.as_ptr(), std::ptr::null_mut()) };
        if topic.is_null() {
            return Err(of_code(last_error(), &source.topic, Effect::Read));
        }
        let topic = Topic(topic);
        // SAFETY: valid handles.
        let done = unsafe { sys::rd_kafka_consume_start_queue(topic.0, source.partition, from, self.queue) };
        if done == 0 { Ok(topic) } else { Err(of_code(last_error(), &source.topic, Effect::Read)) }
    }

    /// Stops reading; what was fetched and not taken is purged.
    pub(super) fn stop(&self, topic: &Topic, source: &TopicPartition) {
        // SAFETY: valid handle; the only failure is a partition that was not started.
        unsafe { sys::rd_kafka_consume_stop(topic.0, source.partition) };
        // A later start must not find the partition held.
        // SAFETY: see `hold`.
        let resumed = |list| unsafe { sys::rd_kafka_resume_partitions(self.rk, list) };
        let _ = self.with_list(source, None, resumed);
    }

    /// Holds a partition: what was fetched and not taken is dropped, nothing more is fetched.
    pub(super) fn hold(&self, source: &TopicPartition) {
        // SAFETY: the list is ours, for this call, which waits until librdkafka has done it.
        let paused = |list| unsafe { sys::rd_kafka_pause_partitions(self.rk, list) };
        let _ = self.with_list(source, None, paused);
    }

    /// Lets a held partition go on at `next`, whatever librdkafka thinks where it was: an end that was told counts
    /// there as a message taken, so that after a hold it would leave out the message that comes next, or ask for one
    /// beyond the end.
    pub(super) fn release(&self, source: &TopicPartition, next: i64) -> Result<(), Error> {
        self.with_list(source, Some(next), |list| {
            let wait_ms = c_int::try_from(SEEK_WAIT.as_millis()).unwrap_or(c_int::MAX);
            // SAFETY: the list is ours, for this call; an error that is returned is ours to give back.
            unsafe {
                let failure = sys::rd_kafka_seek_partitions(self.rk, list, wait_ms);
                if !failure.is_null() {
                    let code = sys::rd_kafka_error_code(failure);
                    sys::rd_kafka_error_destroy(failure);
                    return code;
                }
                match (*(*list).elems).err {
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                        sys::rd_kafka_resume_partitions(self.rk, list)
                    }
                    code => code,
                }
            }
        })
    }

    /// Runs a call that takes a list of partitions on a list of one.
    fn with_list(
        &self,
        source: &TopicPartition,
        offset: Option<i64>,
        call: impl FnOnce(*mut sys::rd_kafka_topic_partition_list_t) -> RDKafkaRespErr,
    ) -> Result<(), Error> {
        let name = name(&source.topic)?;
        // SAFETY: the list is made, used and given back here; a new element is valid until the list is gone.
        let code = unsafe {
            let list = sys::rd_kafka_topic_partition_list_new(1);
            let element = sys::rd_kafka_topic_partition_list_add(list, name.as_ptr(), source.partition);
            if let Some(offset) = offset {
                (*element).offset = offset;
            }
            let code = call(list);
            sys::rd_kafka_topic_partition_list_destroy(list);
            Code::from(code)
        };
        if code == Code::NoError { Ok(()) } else { Err(of_code(code, &source.topic, Effect::Read)) }
    }

    /// Takes what is there, up to `most` items; waits for the first one.
    pub(super) fn take(&self, most: usize, wait: Duration, into: &mut Vec<Item>) {
        self.serve();
        // The batch call waits until the batch is full: so wait for one only, then take what is there.
        if self.take_now(1, wait, into) == 1 {
            self.take_now(most - 1, Duration::ZERO, into);
        }
    }

    fn take_now(&self, most: usize, wait: Duration, into: &mut Vec<Item>) -> usize {
        let wait_ms = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        into.reserve(most);
        let spare = into.spare_capacity_mut().as_mut_ptr().cast::<*mut sys::rd_kafka_message_t>();
        // SAFETY: `Item` is a message pointer and nothing else; room for `most` was reserved; the call fills the
        // first `taken` places.
        unsafe {
            let taken = sys::rd_kafka_consume_batch_queue(self.queue, wait_ms, spare, most);
            let taken = usize::try_from(taken).unwrap_or(0);
            into.set_len(into.len() + taken);
            taken
        }
    }

    /// Runs callbacks that wait for a thread of ours.
    pub(super) fn serve(&self) {
        // SAFETY: valid handle.
        unsafe { sys::rd_kafka_poll(self.rk, 0) };
    }

    /// Makes a waiting [`RawConsumer::take`] return.
    pub(super) fn wake(&self) {
        // SAFETY: valid handle.
        unsafe { sys::rd_kafka_queue_yield(self.queue) }
    }

    /// The partition's end as the last fetch reported it.
    pub(super) fn known_end(&self, source: &TopicPartition) -> Option<i64> {
        let name = name(&source.topic).ok()?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: valid handle and places.
        let code = unsafe {
            let (name, partition) = (name.as_ptr(), source.partition);
            sys::rd_kafka_get_watermark_offsets(self.rk, name, partition, &mut low, &mut high)
        };
        (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
    }

    /// First and last offset, asked of the broker.
    pub(super) fn ask_watermarks(
        &self,
        source: &TopicPartition,
        wait: Duration,
    ) -> Result<(i64, i64), Error> {
        let name = name(&source.topic)?;
        let wait_ms = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        let (mut low, mut high) = (-1, -1);
        // SAFETY: valid handle and places.
        let code: Code = unsafe {
            let (name, partition) = (name.as_ptr(), source.partition);
            sys::rd_kafka_query_watermark_offsets(self.rk, name, partition, &mut low, &mut high, wait_ms)
        }
        .into();
        if code == Code::NoError { Ok((low, high)) } else { Err(of_code(code, &source.topic, Effect::Read)) }
    }

    /// What went wrong with the consumer as a whole since the last call.
    pub(super) fn trouble(&self) -> Option<String> {
        self.ears.lock().expect("no panic while held").trouble.take()
    }

    /// Partitions that are being read and are said not to be there, since the last call.
    pub(super) fn missing(&self) -> Vec<TopicPartition> {
        std::mem::take(&mut self.ears.lock().expect("no panic while held").missing)
    }

    /// Topics that were deleted and created again since the last call.
    pub(super) fn replaced(&self) -> Vec<String> {
        std::mem::take(&mut self.ears.lock().expect("no panic while held").replaced)
    }
}

impl Drop for RawConsumer {
    fn drop(&mut self) {
        // SAFETY: both were made by us and are given back once; topics are gone before (see `lane`).
        unsafe {
            sys::rd_kafka_queue_destroy(self.queue);
            sys::rd_kafka_destroy(self.rk);
        }
    }
}

fn name(topic: &str) -> Result<CString, Error> {
    CString::new(topic).map_err(|_| Error::Invalid(format!("topic name {topic:?} holds a NUL")))
}

fn last_error() -> Code {
    // SAFETY: reads a thread-local number.
    unsafe { sys::rd_kafka_last_error() }.into()
}

unsafe extern "C" fn on_error(
    _: *mut sys::rd_kafka_t,
    code: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: set in `RawConsumer::new`, alive as long as the handle; the reason is a C string.
    let (ears, reason) = unsafe { (&*opaque.cast::<Ears>(), CStr::from_ptr(reason).to_string_lossy()) };
    tracing::debug!(code, %reason, "librdkafka");
    let Ok(mut heard) = ears.lock() else { return };
    let known = RDKafkaRespErr::try_from(code).map(Code::from);
    match known {
        // Only here does librdkafka tell of a partition that vanishes, or never was: `T [P]: topic does not exist`.
        Ok(code) if unknown(code) => heard.missing.extend(partition_named(&reason)),
        // One connection is no trouble while another broker answers.
        Ok(Code::BrokerTransportFailure | Code::OperationTimedOut) => {}
        _ => heard.trouble = Some(reason.into_owned()),
    }
}

/// Whether an error says that a topic or partition is not there.
pub(super) fn unknown(code: Code) -> bool {
    use Code::{UnknownPartition, UnknownTopic, UnknownTopicId, UnknownTopicOrPartition};
    matches!(code, UnknownTopic | UnknownPartition | UnknownTopicOrPartition | UnknownTopicId)
}

/// The partition that a text begins with, as `T [P]: …`.
fn partition_named(text: &str) -> Option<TopicPartition> {
    let (topic, rest) = text.split_once(" [")?;
    let (partition, _) = rest.split_once("]:")?;
    Some(TopicPartition { topic: topic.to_owned(), partition: partition.parse().ok()? })
}

/// Topic ids are not in librdkafka's interface, and it reads on in a topic that was deleted and created again if the
/// offset happens to exist there. It says so in its log before it fetches from the new one, so the log is listened to.
unsafe extern "C" fn on_log(rk: *const sys::rd_kafka_t, level: c_int, _: *const c_char, text: *const c_char) {
    // SAFETY: a valid C string for the time of the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if level < 5 {
        tracing::warn!(%text, "librdkafka");
    } else if level < 7 {
        tracing::debug!(%text, "librdkafka");
    }
    let Some(topic) = topic_with_new_id(&text) else { return };
    // SAFETY: the opaque pointer is set in `RawConsumer::new` and alive as long as the handle.
    let ears = unsafe { sys::rd_kafka_opaque(rk).cast::<Ears>().as_ref() };
    if let Some(Ok(mut heard)) = ears.map(Mutex::lock) {
        heard.replaced.push(topic.to_owned());
    }
}

/// `… Topic T changed id from A to B` unless `A` is nothing (22 times the letter A is sixteen zero bytes).
fn topic_with_new_id(text: &str) -> Option<&str> {
    let (head, ids) = text.split_once(" changed id from ")?;
    let (_, topic) = head.rsplit_once("Topic ")?;
    let (old, _) = ids.split_once(" to ")?;
    old.bytes().any(|byte| byte != b'A').then_some(topic)
}

#[cfg(test)]
mod tests {
    use super::{partition_named, topic_with_new_id};

    #[test]
    fn a_topic_with_a_new_id_is_found_in_the_log_line() {
        let line = "[thrd:main]: Topic a.b changed id from kq4YvKJ1Q3a1gE9uF5nC4A to 2JgbY6cYQ4Gm3xW0rT1k9g";
        assert_eq!(topic_with_new_id(line), Some("a.b"));
        let first = "[thrd:main]: Topic a.b changed id from AAAAAAAAAAAAAAAAAAAAAA to 2JgbY6cYQ4Gm3xW0rT1k9g";
        assert_eq!(topic_with_new_id(first), None, "the first id is no change");
        assert_eq!(topic_with_new_id("Topic a.b [0] Leader 1"), None);
    }

    #[test]
    fn a_missing_partition_is_found_in_the_error_text() {
        let named = partition_named("a.b [17]: topic does not exist (Broker: Unknown topic)").unwrap();
        assert_eq!((named.topic.as_str(), named.partition), ("a.b", 17));
        assert_eq!(partition_named("1/1 brokers are down"), None);
    }
}
