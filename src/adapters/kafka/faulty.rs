//! Simulated Kafka at the far end of a [`Line`]: what one simulated daemon sees of it.

use super::sim::SimKafka;
use super::{
    BatchFate, Chunk, Committed, Error, Fetched, Kafka, Lane, NamedBatch, NewTopic, Outgoing, Watermarks,
};
use crate::adapters::faults::{Call, Line, Trouble};
use crate::model::names::TopicPartition;
use async_trait::async_trait;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a daemon waits, as librdkafka's requests do.
const DEADLINE_MS: u64 = 10_000;

/// What is there so shortly after an answer came with it.
const SAME_ANSWER: Duration = Duration::from_millis(20);

/// See the module.
pub struct FaultyKafka {
    kafka: SimKafka,
    line: Line,
}

impl FaultyKafka {
    /// The brokers behind that line.
    pub fn new(kafka: SimKafka, line: Line) -> Self {
        Self { kafka, line }
    }

    async fn ask<T>(
        &self,
        verb: &'static str,
        effect: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let failed = |_| Error::Unreachable("simulated: no answer".into());
        self.line.carry(Call::asks(verb, DEADLINE_MS), effect, failed).await
    }

    async fn change<T>(
        &self,
        verb: &'static str,
        effect: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let failed = |trouble| match trouble {
            Trouble::Refused => Error::Unreachable("simulated: no connection".into()),
            Trouble::Lost => unknown(verb),
        };
        self.line.carry(Call::changes(verb, DEADLINE_MS), effect, failed).await
    }

    /// How many of so many things are done before a call that is carried out in part breaks off; `None` for all.
    fn part_of(&self, all: usize) -> Option<usize> {
        self.line.happens(self.line.weather().partial_per_mille).then_some(all / 2)
    }
}

fn unknown(verb: &str) -> Error {
    Error::OutcomeUnknown { what: verb.into(), reason: "simulated: no answer".into() }
}

#[async_trait]
impl Kafka for FaultyKafka {
    /// At once, and by no chance of its own: what is asked so often is not to change what else happens.
    async fn reach(&self) -> Result<(), Error> {
        if self.line.weather().cut {
            return Err(Error::Unreachable("simulated: no connection".into()));
        }
        self.kafka.reach().await
    }

    async fn create_topics(&self, topics: &[NewTopic]) -> Result<(), Error> {
        self.change("create_topics", async {
            let Some(some) = self.part_of(topics.len()) else {
                return self.kafka.create_topics(topics).await;
            };
            self.kafka.create_topics(&topics[..some]).await?;
            Err(unknown("create_topics"))
        })
        .await
    }

    async fn delete_topics(&self, topics: &[String]) -> Result<(), Error> {
        self.change("delete_topics", self.kafka.delete_topics(topics)).await
    }

    fn keeps_topics(&self) -> Option<&'static str> {
        self.kafka.keeps_topics()
    }

    async fn watermarks(&self, source: &TopicPartition) -> Result<Watermarks, Error> {
        self.ask("watermarks", self.kafka.watermarks(source)).await
    }

    async fn peek(&self, source: &TopicPartition, offset: i64) -> Result<Option<Chunk>, Error> {
        self.ask("peek", self.kafka.peek(source, offset)).await
    }

    async fn committed(
        &self,
        group: &str,
        sources: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, Error> {
        self.ask("committed", self.kafka.committed(group, sources)).await
    }

    async fn commit(&self, group: &str, positions: &[(TopicPartition, Committed)]) -> Result<(), Error> {
        self.change("commit", async {
            let Some(some) = self.part_of(positions.len()) else {
                return self.kafka.commit(group, positions).await;
            };
            self.kafka.commit(group, &positions[..some]).await?;
            Err(unknown("commit"))
        })
        .await
    }

    async fn produce(&self, messages: Vec<Outgoing>) -> Result<(), Error> {
        self.change("produce", async {
            let Some(some) = self.part_of(messages.len()) else { return self.kafka.produce(messages).await };
            self.kafka.produce(messages.into_iter().take(some).collect()).await?;
            Err(unknown("produce"))
        })
        .await
    }

    fn no_transactions(&self) -> Option<&'static str> {
        self.kafka.no_transactions()
    }

    async fn produce_once(&self, batch: NamedBatch) -> Result<BatchFate, Error> {
        self.change("produce_once", self.kafka.produce_once(batch)).await
    }

    fn lane(&self, name: &str) -> Result<Arc<dyn Lane>, Error> {
        let lane = self.kafka.lane(name)?;
        Ok(Arc::new(FaultyLane { lane, line: self.line.clone(), state: Mutex::default() }))
    }
}

#[derive(Default)]
struct LaneState {
    told_trouble: bool,
    /// Arrived while nothing got through.
    kept: Option<Fetched>,
    /// When the last answer came: what comes at the same moment came with it.
    answered: Option<Instant>,
}

struct FaultyLane {
    lane: Arc<dyn Lane>,
    line: Line,
    state: Mutex<LaneState>,
}

impl FaultyLane {
    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, source: &TopicPartition) {
        let mut state = self.state();
        let of_it = |kept: &Fetched| match kept {
            Fetched::Chunk(chunk) => chunk.source == *source,
            Fetched::End(of, _)
            | Fetched::Passed(of, _)
            | Fetched::OutOfRange { source: of, .. }
            | Fetched::TopicMissing(of)
            | Fetched::Unreachable(of, _) => of == source,
            Fetched::Trouble(_) => false,
        };
        state.kept = state.kept.take().filter(|kept| !of_it(kept));
    }

    fn take_kept(&self) -> Option<Fetched> {
        self.state().kept.take()
    }

    fn tell_trouble(&self) -> bool {
        !std::mem::replace(&mut self.state().told_trouble, true)
    }
}

#[async_trait]
impl Lane for FaultyLane {
    fn assign(&self, source: &TopicPartition, from: i64) {
        self.forget(source);
        self.lane.assign(source, from);
    }

    fn unassign(&self, source: &TopicPartition) {
        self.forget(source);
        self.lane.unassign(source);
    }

    fn pause(&self, source: &TopicPartition) {
        self.lane.pause(source);
    }

    fn resume(&self, source: &TopicPartition) {
        self.lane.resume(source);
    }

    async fn next(&self) -> Fetched {
        loop {
            if self.line.weather().cut {
                if self.tell_trouble() {
                    return Fetched::Trouble("simulated: no connection".into());
                }
                self.line.until_open().await;
            }
            self.state().told_trouble = false;
            if let Some(kept) = self.take_kept() {
                return kept;
            }
            // One answer of a broker holds what many partitions have: the way is paid once.
            if self.state().answered.is_none_or(|at| at.elapsed() >= SAME_ANSWER) {
                self.line.delay().await;
                self.state().answered = Some(Instant::now());
            }
            let fetched = self.lane.next().await;
            if !self.line.weather().cut {
                return fetched;
            }
            self.state().kept = Some(fetched);
        }
    }
}
