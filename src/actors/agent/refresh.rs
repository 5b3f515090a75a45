//! Keeps a node's positions in Kafka from expiring.
//!
//! Brokers forget a group's position some days after it was last recorded (`offsets.retention.minutes`, seven days),
//! and partitions without new messages record none. A position that is gone costs more than a long look: offsets
//! without rows (tombstones, dead letters, transaction markers) that retention took as well could no longer be told
//! from lost messages. So every position is recorded again from time to time, as it stands.

use super::Agent;
use crate::adapters::kafka::{Committed, Error, Kafka};
use crate::model::names::{self, TopicPartition};
use actix::prelude::*;
use std::sync::Arc;

/// Soon after the start: a daemon that is often restarted must come to it too.
const FIRST_AFTER_MS: u64 = 60_000;
/// Far more often than anything expires.
const EVERY_MS: u64 = 6 * 3_600_000;
/// After a failure.
const AGAIN_AFTER_MS: u64 = 60_000;
/// Positions asked for at once.
const AT_ONCE: usize = 500;

impl Agent {
    /// Records every position again, if it is time. Not beside an ordinary commit: the newer one must win.
    pub(super) fn refresh(&mut self, ctx: &mut Context<Self>) {
        let now_ms = self.ports.clock.now_ms();
        let due_ms = *self.refresh_at_ms.get_or_insert(now_ms + FIRST_AFTER_MS);
        if now_ms < due_ms || self.committing {
            return;
        }
        self.committing = true;
        let (kafka, group) = (self.ports.kafka.clone(), self.ports.group.clone());
        let work = again(kafka, group, self.sources());
        self.then(ctx, work, move |agent, result, _| {
            agent.committing = false;
            let wait_ms = match result {
                Ok(()) => EVERY_MS,
                Err(error) => {
                    tracing::warn!(%error, "positions could not be recorded again in Kafka: trying later");
                    AGAIN_AFTER_MS
                }
            };
            agent.refresh_at_ms = Some(agent.ports.clock.now_ms() + wait_ms);
        });
    }

    fn sources(&self) -> Vec<TopicPartition> {
        // What a copy that is being made has recorded must not be undone by what was there before.
        let serves = |place| self.sight.observed.get(place).is_some_and(|seen| seen.serving);
        let wanted = self.running.iter().filter(|(place, _)| serves(place));
        let wanted = wanted.map(|(_, running)| &running.wanted);
        let of = |wanted: &super::Wanted| {
            let source = wanted.table.source.clone();
            wanted
                .shard
                .record
                .range
                .partitions()
                .map(move |partition| names::topic_partition(&source, partition))
        };
        wanted.flat_map(of).collect()
    }
}

async fn again(kafka: Arc<dyn Kafka>, group: String, sources: Vec<TopicPartition>) -> Result<(), Error> {
    for some in sources.chunks(AT_ONCE) {
        let recorded = kafka.committed(&group, some).await?;
        let known = some.iter().cloned().zip(recorded);
        let positions: Vec<(TopicPartition, Committed)> =
            known.filter_map(|(source, committed)| Some((source, committed?))).collect();
        if !positions.is_empty() {
            kafka.commit(&group, &positions).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::kafka::NewTopic;
    use crate::adapters::kafka::sim::{Lost, SimKafka};

    #[tokio::test(start_paused = true)]
    async fn positions_are_recorded_again_as_they_stand() {
        let kafka = Arc::new(SimKafka::new());
        let topic = NewTopic { name: "t".into(), partitions: 2, replication: 1, settings: Vec::new() };
        kafka.create_topics(&[topic]).await.unwrap();
        let source = |partition| TopicPartition { topic: "t".into(), partition };
        let position = Committed { next: 7, metadata: "cvh1 t=00000000 s=0".into() };
        kafka.commit("g", &[(source(0), position.clone())]).await.unwrap();
        let all = vec![source(0), source(1)];
        again(kafka.clone(), "g".into(), all.clone()).await.unwrap();
        assert_eq!(kafka.committed("g", &all).await.unwrap(), [Some(position), None]);
        kafka.lose_next_commit(Lost::Request);
        assert!(again(kafka, "g".into(), all).await.is_err(), "it does commit");
    }
}
