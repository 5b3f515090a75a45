//! Kafka in `tokio`'s time, without sockets or threads: the same contract, deterministic, and faults on request.
//!
//! Messages may be given by number and one payload: they share its buffer, so that a simulated day of traffic
//! costs a few words a batch. Whatever is changed through [`SimKafka`] takes effect at once; what the ports'
//! callers do takes [`SimKafka::set_latency_ms`]. It knows no groups' members and no brokers, only "reachable or not".

use super::sim_lane::SimLane;
use super::sim_log::SimLog;
use super::{BatchFate, Chunk, Committed, Error, Kafka, Lane, NamedBatch, NewTopic, Outgoing, Watermarks};
use crate::model::names::TopicPartition;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// How often ends are told again.
const END_EVERY_MS: u64 = 1_000;
/// What Kafka takes beside a position.
const METADATA_MAX_BYTES: usize = 4096;

/// A call whose answer gets lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The request never arrived.
    Request,
    /// It was carried out; the answer never arrived.
    Answer,
}

type Topic = Vec<SimLog>;

/// A group's position in a partition.
struct Recorded {
    committed: Committed,
    at_ms: i64,
}

/// A topic made again has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TopicId(u64);

#[derive(Default)]
pub(super) struct World {
    names: BTreeMap<String, TopicId>,
    /// Those that are there: names take long to compare where there are many.
    topics: BTreeMap<TopicId, Topic>,
    topics_made: u64,
    groups: BTreeMap<String, BTreeMap<TopicPartition, Recorded>>,
    /// How long a position is kept that nobody records again; `None`: for ever.
    positions_kept_ms: Option<i64>,
    pub latency_ms: u64,
    pub unreachable: bool,
    /// Largest payload that is taken; `None`: any.
    payload_bytes_max: Option<usize>,
    lose_commits: Vec<Lost>,
    lose_sends: Vec<Lost>,
    /// What changed for each lane since it looked.
    pub lanes: BTreeMap<u64, News>,
    /// Which lanes read a partition.
    pub readers: BTreeMap<TopicPartition, BTreeSet<u64>>,
    lanes_made: u64,
    start: Option<Instant>,
    /// How often ends are told again.
    pub end_every_ms: u64,
}

/// For one lane: what it should look at. Most changes concern one partition, and so few lanes.
#[derive(Default)]
pub(super) struct News {
    pub changed: Arc<Notify>,
    pub sources: BTreeSet<TopicPartition>,
    pub all: bool,
}

impl World {
    /// Everything may have changed.
    fn wake(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.all = true;
            lane.changed.notify_one();
        }
    }

    /// One partition changed.
    fn wake_readers(&mut self, source: &TopicPartition) {
        let Some(readers) = self.readers.get(source) else { return };
        for reader in readers {
            if let Some(lane) = self.lanes.get_mut(reader) {
                lane.sources.insert(source.clone());
                lane.changed.notify_one();
            }
        }
    }

    /// The topic that has the name now.
    pub fn named(&self, topic: &str) -> Option<TopicId> {
        self.names.get(topic).copied()
    }

    /// A topic's partition, if they are there.
    pub fn log_of(&self, topic: TopicId, partition: i32) -> Option<&SimLog> {
        self.topics.get(&topic)?.get(usize::try_from(partition).ok()?)
    }

    fn log(&self, source: &TopicPartition) -> Option<&SimLog> {
        self.log_of(self.named(&source.topic)?, source.partition)
    }

    fn log_mut(&mut self, source: &TopicPartition) -> Option<&mut SimLog> {
        let topic = self.named(&source.topic)?;
        self.topics.get_mut(&topic)?.get_mut(usize::try_from(source.partition).ok()?)
    }

    fn now_ms(&self) -> i64 {
        let passed = self.start.map(|start| start.elapsed()).unwrap_or_default();
        i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
    }

    fn position(&self, group: &str, source: &TopicPartition) -> Option<&Committed> {
        let recorded = self.groups.get(group)?.get(source)?;
        let is_kept = |kept_ms| self.now_ms() - recorded.at_ms <= kept_ms;
        self.positions_kept_ms.is_none_or(is_kept).then_some(&recorded.committed)
    }

    fn record(&mut self, group: &str, source: TopicPartition, committed: Committed) {
        let at_ms = self.now_ms();
        let group = self.groups.entry(group.to_owned()).or_default();
        group.insert(source, Recorded { committed, at_ms });
    }

    /// All or nothing, as under a lock. What ends a transaction takes an offset of each partition, and one that is
    /// given up leaves the offsets of its messages too.
    fn send_once(&mut self, batch: NamedBatch) -> Result<BatchFate, Error> {
        if let Some(before) = self.position(&batch.name, &batch.mark) {
            return Ok(BatchFate::SentBefore(before.metadata.clone()));
        }
        let targets: BTreeSet<_> = batch.messages.iter().map(|message| message.target.clone()).collect();
        let absent = targets.iter().chain([&batch.mark]).find(|target| self.log(target).is_none());
        let refusal = absent.map(|absent| Error::TopicMissing(absent.topic.clone()));
        let now_ms = self.now_ms();
        for message in batch.messages {
            let Some(log) = self.log_mut(&message.target) else { continue };
            if refusal.is_none() {
                log.append(vec![message.payload], now_ms);
            } else {
                log.skip(1);
            }
        }
        for target in &targets {
            if let Some(log) = self.log_mut(target) {
                log.skip(1);
                self.wake_readers(target);
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let mark = Committed { next: 0, metadata: batch.note };
        self.record(&batch.name, batch.mark, mark);
        Ok(BatchFate::Sent)
    }

    fn create(&mut self, topic: &NewTopic) -> Result<(), Error> {
        if let Some(there) = self.named(&topic.name).and_then(|topic| self.topics.get(&topic)) {
            let has = i32::try_from(there.len()).unwrap_or(i32::MAX);
            return super::client::enough(topic, has);
        }
        let partitions = usize::try_from(topic.partitions).unwrap_or(0);
        if partitions == 0 || topic.name.is_empty() {
            return Err(Error::Invalid(format!("topic {:?} of {partitions} partitions", topic.name)));
        }
        self.topics_made += 1;
        let id = TopicId(self.topics_made);
        self.names.insert(topic.name.clone(), id);
        self.topics.insert(id, std::iter::repeat_with(SimLog::default).take(partitions).collect());
        Ok(())
    }
}

/// A simulated Kafka cluster. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct SimKafka {
    world: Arc<Mutex<World>>,
}

impl SimKafka {
    /// An empty cluster, reachable and without latency. Made inside the runtime whose time it shows.
    pub fn new() -> Self {
        let sim = Self::default();
        sim.world().start = Some(Instant::now());
        sim.world().end_every_ms = END_EVERY_MS;
        sim
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic while held")
    }

    /// What each call and each fetch takes.
    pub fn set_latency_ms(&self, latency_ms: u64) {
        self.world().latency_ms = latency_ms;
    }

    /// How often lanes tell a partition's end again; seldom for worlds of many partitions.
    pub fn set_end_every_ms(&self, end_every_ms: u64) {
        self.world().end_every_ms = end_every_ms;
    }

    /// Has positions forgotten that nobody records again for so long (`offsets.retention.minutes`).
    pub fn set_positions_kept_ms(&self, kept_ms: u64) {
        self.world().positions_kept_ms = Some(i64::try_from(kept_ms).unwrap_or(i64::MAX));
    }

    /// Cuts everybody off, or lets them in again.
    pub fn set_reachable(&self, reachable: bool) {
        let mut world = self.world();
        world.unreachable = !reachable;
        world.wake();
    }

    /// Messages whose payload is larger are refused from now on.
    pub fn set_payload_bytes_max(&self, bytes: usize) {
        self.world().payload_bytes_max = Some(bytes);
    }

    /// The next commit's answer gets lost.
    pub fn lose_next_commit(&self, lost: Lost) {
        self.world().lose_commits.push(lost);
    }

    /// The next send's answer gets lost.
    pub fn lose_next_send(&self, lost: Lost) {
        self.world().lose_sends.push(lost);
    }

    /// Adds messages; offsets are given out one after the other. Returns the first one; `None` if there is no such
    /// topic partition.
    pub fn append(&self, source: &TopicPartition, payloads: Vec<Option<Bytes>>) -> Option<i64> {
        self.change(source, |log, now_ms| log.append(payloads, now_ms))
    }

    /// Adds `count` messages of the same payload, which is kept once. Returns the first one's offset.
    pub fn append_same(&self, source: &TopicPartition, count: u64, payload: &Bytes) -> Option<i64> {
        self.change(source, |log, now_ms| log.append_same(count, payload.clone(), now_ms))
    }

    /// Messages from an offset on that have been there for so long at least, without time or faults: for judging.
    pub fn waiting(&self, source: &TopicPartition, from: i64, age_ms: u64) -> u64 {
        let world = self.world();
        let before_ms = world.now_ms() - i64::try_from(age_ms).unwrap_or(i64::MAX);
        world.log(source).map_or(0, |log| log.count(from, before_ms))
    }

    /// First offset and one past the last, without time or faults: for judging.
    pub fn ends(&self, source: &TopicPartition) -> Option<Watermarks> {
        let world = self.world();
        world.log(source).map(|log| Watermarks { low: log.low(), high: log.high() })
    }

    /// Leaves out the next `count` offsets, as transactions and compaction do.
    pub fn skip(&self, source: &TopicPartition, count: u64) -> Option<i64> {
        self.change(source, |log, _| log.skip(count))
    }

    /// Drops what is below an offset, as retention does.
    pub fn truncate(&self, source: &TopicPartition, before: i64) {
        self.change(source, |log, _| log.truncate(before));
    }

    fn change<T>(&self, source: &TopicPartition, change: impl FnOnce(&mut SimLog, i64) -> T) -> Option<T> {
        let mut world = self.world();
        let now_ms = world.now_ms();
        let result = world.log_mut(source).map(|log| change(log, now_ms));
        world.wake_readers(source);
        result
    }

    /// Lets a call's time pass; fails if nobody answers.
    async fn answer(&self) -> Result<MutexGuard<'_, World>, Error> {
        let latency_ms = self.world().latency_ms;
        if latency_ms > 0 {
            sleep(Duration::from_millis(latency_ms)).await;
        }
        let world = self.world();
        if world.unreachable {
            return Err(Error::Unreachable("the simulated brokers are cut off".into()));
        }
        Ok(world)
    }
}

fn acceptable(source: &TopicPartition, metadata: &str) -> Result<(), Error> {
    let length = metadata.len();
    if length > METADATA_MAX_BYTES {
        return Err(Error::Invalid(format!("{source}: {length} bytes beside a position")));
    }
    Ok(())
}

fn lost(what: &str) -> Error {
    Error::OutcomeUnknown { what: what.into(), reason: "the answer got lost".into() }
}

fn take_first(list: &mut Vec<Lost>) -> Option<Lost> {
    if list.is_empty() { None } else { Some(list.remove(0)) }
}

#[async_trait]
impl Kafka for SimKafka {
    async fn reach(&self) -> Result<(), Error> {
        if self.world().unreachable { Err(Error::Unreachable("simulated".into())) } else { Ok(()) }
    }

    async fn create_topics(&self, topics: &[NewTopic]) -> Result<(), Error> {
        let mut world = self.answer().await?;
        topics.iter().try_for_each(|topic| world.create(topic))
    }

    async fn delete_topics(&self, topics: &[String]) -> Result<(), Error> {
        let mut world = self.answer().await?;
        for topic in topics {
            if let Some(id) = world.names.remove(topic) {
                world.topics.remove(&id);
            }
            let gone = |source: &TopicPartition| source.topic == *topic;
            world.groups.values_mut().for_each(|group| group.retain(|source, _| !gone(source)));
        }
        world.wake();
        Ok(())
    }

    async fn watermarks(&self, source: &TopicPartition) -> Result<Watermarks, Error> {
        let world = self.answer().await?;
        let log = world.log(source).ok_or_else(|| Error::TopicMissing(source.topic.clone()))?;
        Ok(Watermarks { low: log.low(), high: log.high() })
    }

    async fn peek(&self, source: &TopicPartition, offset: i64) -> Result<Option<Chunk>, Error> {
        let world = self.answer().await?;
        let log = world.log(source).ok_or_else(|| Error::TopicMissing(source.topic.clone()))?;
        Ok(log.read(source, offset.max(log.low()), (1, usize::MAX)))
    }

    async fn committed(
        &self,
        group: &str,
        sources: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, Error> {
        let world = self.answer().await?;
        Ok(sources.iter().map(|source| world.position(group, source).cloned()).collect())
    }

    async fn commit(&self, group: &str, positions: &[(TopicPartition, Committed)]) -> Result<(), Error> {
        positions.iter().try_for_each(|(source, position)| acceptable(source, &position.metadata))?;
        let mut world = self.answer().await?;
        let fault = take_first(&mut world.lose_commits);
        if fault == Some(Lost::Request) {
            return Err(lost("positions recorded"));
        }
        for (source, position) in positions {
            if world.log(source).is_none() {
                return Err(Error::TopicMissing(source.topic.clone()));
            }
            world.record(group, source.clone(), position.clone());
        }
        fault.map_or(Ok(()), |_| Err(lost("positions recorded")))
    }

    async fn produce(&self, messages: Vec<Outgoing>) -> Result<(), Error> {
        let mut world = self.answer().await?;
        let fault = take_first(&mut world.lose_sends);
        if fault == Some(Lost::Request) {
            return Err(lost("messages sent"));
        }
        let now_ms = world.now_ms();
        let bytes_max = world.payload_bytes_max.unwrap_or(usize::MAX);
        let (fitting, large): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|message| message.payload.as_ref().is_none_or(|payload| payload.len() <= bytes_max));
        let refusal = large.first().map(|message| match fitting.len() {
            0 => Error::TooLarge(message.target.topic.clone()),
            _ => lost("messages sent"),
        });
        for message in fitting {
            let Some(log) = world.log_mut(&message.target) else {
                return Err(Error::TopicMissing(message.target.topic));
            };
            log.append(vec![message.payload], now_ms);
            world.wake_readers(&message.target);
        }
        fault.map(|_| lost("messages sent")).or(refusal).map_or(Ok(()), Err)
    }

    async fn produce_once(&self, batch: NamedBatch) -> Result<BatchFate, Error> {
        acceptable(&batch.mark, &batch.note)?;
        let mut world = self.answer().await?;
        let fault = take_first(&mut world.lose_sends);
        if fault == Some(Lost::Request) {
            return Err(lost("batch sent"));
        }
        let fate = world.send_once(batch)?;
        fault.map_or(Ok(fate), |_| Err(lost("batch sent")))
    }

    fn lane(&self, _name: &str) -> Result<Arc<dyn Lane>, Error> {
        let mut world = self.world();
        world.lanes_made += 1;
        let (id, news) = (world.lanes_made, News::default());
        let changed = news.changed.clone();
        world.lanes.insert(id, news);
        Ok(Arc::new(SimLane::new(self.clone(), id, changed)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fetched;
    use super::super::conformance::{self, Subject};
    use super::*;
    use tokio::time::timeout;

    fn source() -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: 0 }
    }

    async fn with_topic() -> SimKafka {
        let sim = SimKafka::new();
        let topic = NewTopic { name: "t".into(), partitions: 1, replication: 1, settings: Vec::new() };
        sim.create_topics(&[topic]).await.unwrap();
        sim
    }

    #[tokio::test(start_paused = true)]
    async fn the_simulated_cluster_keeps_the_contract() {
        for latency_ms in [0, 3] {
            let sim = SimKafka::new();
            sim.set_latency_ms(latency_ms);
            let handle = sim.clone();
            let truncate: conformance::Truncate = Arc::new(move |source, before| {
                handle.truncate(&source, before);
                Box::pin(async {})
            });
            let subject = Subject::new(Arc::new(sim), "sim").deletes().truncates(truncate);
            conformance::run_all(&subject).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_leaves_the_outcome_open() {
        let sim = with_topic().await;
        let position = Committed { next: 3, metadata: "m".into() };
        for (fault, there) in [(Lost::Request, None), (Lost::Answer, Some(position.clone()))] {
            sim.lose_next_commit(fault);
            let answer = sim.commit("g", &[(source(), position.clone())]).await;
            assert!(matches!(answer, Err(Error::OutcomeUnknown { .. })));
            assert_eq!(sim.committed("g", &[source()]).await, Ok(vec![there]));
        }
        let message = Outgoing { target: source(), payload: None, headers: Vec::new() };
        for (fault, high) in [(Lost::Request, 0), (Lost::Answer, 1)] {
            sim.lose_next_send(fault);
            assert!(matches!(sim.produce(vec![message.clone()]).await, Err(Error::OutcomeUnknown { .. })));
            assert_eq!(sim.watermarks(&source()).await, Ok(Watermarks { low: 0, high }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_is_cut_off_says_so_once_and_goes_on() {
        let sim = with_topic().await;
        let lane = sim.lane("x").unwrap();
        sim.append_same(&source(), 5, &vec![0; 100].into());
        sim.skip(&source(), 2);
        sim.set_reachable(false);
        lane.assign(&source(), 0);
        assert!(matches!(lane.next().await, Fetched::Trouble(_)));
        assert!(matches!(lane.next().await, Fetched::Unreachable(cut, _) if cut == source()));
        assert!(timeout(Duration::from_secs(60), lane.next()).await.is_err());
        assert!(matches!(sim.watermarks(&source()).await, Err(Error::Unreachable(_))));
        sim.set_reachable(true);
        assert_eq!(lane.next().await, Fetched::End(source(), 7));
        let Fetched::Chunk(chunk) = lane.next().await else { panic!("messages") };
        assert_eq!(chunk.messages.len(), 5);
        assert_eq!(chunk.payload_of(&chunk.messages[4]), &[0; 100]);
        assert_eq!(chunk.payload.len(), 100, "they share one buffer");
        assert_eq!(lane.next().await, Fetched::Passed(source(), 7), "nothing is left to read");
        let told = Instant::now();
        assert_eq!(lane.next().await, Fetched::End(source(), 7));
        assert!(told.elapsed() >= Duration::from_millis(900), "a hole at the end is no reason to hurry");
    }
}
