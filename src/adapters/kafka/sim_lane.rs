//! A lane of simulated Kafka: looks at what changed rather than at all that it reads, so that a node may hold many
//! partitions.

use super::sim::{SimKafka, TopicId, World};
use super::{Fetched, Lane};
use crate::model::names::TopicPartition;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// Messages and bytes of a chunk at most.
const CHUNK_MAX: (usize, usize) = (16_384, 4 << 20);

struct Part {
    next: i64,
    paused: bool,
    /// The topic that was first seen under the name.
    topic: Option<TopicId>,
    told: Option<(i64, Instant)>,
    /// Said to be out of reach.
    away: bool,
}

#[derive(Default)]
struct Parts {
    all: BTreeMap<TopicPartition, Part>,
    /// Those that may have something to tell.
    queue: BTreeSet<TopicPartition>,
    /// Whose turn is over: the search goes on behind it.
    last: Option<TopicPartition>,
    /// When all were last put into the queue: ends are told again from time to time.
    swept: Option<Instant>,
    told_trouble: bool,
}

impl Parts {
    /// The next in turn.
    fn next(&self) -> Option<TopicPartition> {
        let behind = |last: &TopicPartition| {
            self.queue.range((Bound::Excluded(last.clone()), Bound::Unbounded)).next()
        };
        self.last.as_ref().and_then(behind).or_else(|| self.queue.first()).cloned()
    }
}

/// A lane of a simulated cluster.
pub(super) struct SimLane {
    sim: SimKafka,
    id: u64,
    changed: Arc<Notify>,
    parts: Mutex<Parts>,
}

impl Drop for SimLane {
    fn drop(&mut self) {
        let mut world = self.sim.world();
        world.lanes.remove(&self.id);
        for readers in world.readers.values_mut() {
            readers.remove(&self.id);
        }
    }
}

impl SimLane {
    /// Reads nothing yet. `changed` is told when there is news for the lane of that number.
    pub fn new(sim: SimKafka, id: u64, changed: Arc<Notify>) -> Self {
        Self { sim, id, changed, parts: Mutex::default() }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().expect("no panic while held")
    }

    fn read_by(&self, source: &TopicPartition, read: bool) {
        let mut world = self.sim.world();
        let readers = world.readers.entry(source.clone()).or_default();
        if read {
            readers.insert(self.id);
        } else {
            readers.remove(&self.id);
        }
    }

    /// What can be yielded now.
    fn look(&self) -> Option<Fetched> {
        let mut world = self.sim.world();
        let mut parts = self.parts();
        if world.unreachable {
            let why = "the simulated brokers are cut off";
            if !std::mem::replace(&mut parts.told_trouble, true) {
                return Some(Fetched::Trouble(why.into()));
            }
            let (source, part) = parts.all.iter_mut().find(|(_, part)| !part.away && !part.paused)?;
            part.away = true;
            return Some(Fetched::Unreachable(source.clone(), why.into()));
        }
        if std::mem::take(&mut parts.told_trouble) {
            for part in parts.all.values_mut().filter(|part| part.away) {
                (part.away, part.told) = (false, None);
            }
            parts.swept = None;
        }
        let end_every = Duration::from_millis(world.end_every_ms);
        let news = world
            .lanes
            .get_mut(&self.id)
            .map(|news| (std::mem::take(&mut news.sources), std::mem::take(&mut news.all)));
        let (sources, all) = news.unwrap_or_default();
        parts.queue.extend(sources);
        if all || parts.swept.is_none_or(|at| at.elapsed() >= end_every) {
            parts.queue = parts.all.keys().cloned().collect();
            parts.swept = Some(Instant::now());
        }
        while let Some(source) = parts.next() {
            let part = parts.all.get_mut(&source).filter(|part| !part.paused);
            match part.and_then(|part| part.look(&world, &source, end_every)) {
                None => {
                    parts.queue.remove(&source);
                }
                Some(fetched) => {
                    if matches!(fetched, Fetched::TopicMissing(_) | Fetched::OutOfRange { .. }) {
                        parts.all.remove(&source);
                    }
                    parts.last = Some(source);
                    return Some(fetched);
                }
            }
        }
        None
    }
}

impl Part {
    fn look(&mut self, world: &World, source: &TopicPartition, end_every: Duration) -> Option<Fetched> {
        self.topic = self.topic.or_else(|| world.named(&source.topic));
        let Some(log) = self.topic.and_then(|topic| world.log_of(topic, source.partition)) else {
            return Some(Fetched::TopicMissing(source.clone()));
        };
        let (low, high) = (log.low(), log.high());
        if self.next < low || self.next > high {
            return Some(Fetched::OutOfRange { source: source.clone(), wanted: self.next, low, high });
        }
        let due = self.told.is_none_or(|(_, at)| at.elapsed() >= end_every);
        let moved = self.told.is_none_or(|(told, _)| told != high);
        if due || (self.next == high && moved) {
            self.told = Some((high, Instant::now()));
            return Some(Fetched::End(source.clone(), high));
        }
        let Some(chunk) = log.read(source, self.next, CHUNK_MAX) else {
            // Behind the last message there may be a hole up to the end.
            let hole = self.next < high;
            self.next = high;
            return hole.then(|| Fetched::Passed(source.clone(), high));
        };
        self.next = chunk.messages.last().map_or(high, |last| last.offset + 1);
        Some(Fetched::Chunk(chunk))
    }
}

#[async_trait]
impl Lane for SimLane {
    fn assign(&self, source: &TopicPartition, from: i64) {
        self.read_by(source, true);
        let mut parts = self.parts();
        parts
            .all
            .insert(source.clone(), Part { next: from, paused: false, topic: None, told: None, away: false });
        parts.queue.insert(source.clone());
        self.changed.notify_one();
    }

    fn unassign(&self, source: &TopicPartition) {
        self.read_by(source, false);
        self.parts().all.remove(source);
    }

    fn pause(&self, source: &TopicPartition) {
        self.parts().all.entry(source.clone()).and_modify(|part| part.paused = true);
    }

    fn resume(&self, source: &TopicPartition) {
        let mut parts = self.parts();
        parts.all.entry(source.clone()).and_modify(|part| part.paused = false);
        parts.queue.insert(source.clone());
        self.changed.notify_one();
    }

    async fn next(&self) -> Fetched {
        loop {
            let (latency_ms, end_every_ms) = {
                let world = self.sim.world();
                (world.latency_ms, world.end_every_ms)
            };
            if latency_ms > 0 {
                sleep(Duration::from_millis(latency_ms)).await;
            }
            // Looking takes the thing: nothing is awaited behind it, so nothing is lost when we are dropped.
            if let Some(fetched) = self.look() {
                return fetched;
            }
            let idle = self.parts().all.is_empty();
            if idle || self.sim.world().unreachable {
                self.changed.notified().await;
            } else {
                // An end is due again by then; being woken earlier is the same to us.
                let _ = timeout(Duration::from_millis(end_every_ms), self.changed.notified()).await;
            }
        }
    }
}
