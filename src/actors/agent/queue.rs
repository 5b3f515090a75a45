//! Whether the node's Kafka can be used: asked every now and then, so that a wrong broker list is told before the first
//! table is made. What partitions meet by themselves they tell by themselves.

use super::Agent;
use crate::adapters::kafka;
use crate::error::Coded;
use actix::prelude::*;

/// Between two asks while it answers.
const EVERY_MS: u64 = 10_000;
/// And while it does not.
const AGAIN_MS: u64 = 2_000;
/// So many asks in a row without an answer are told: one alone may be a broker that is just being restarted.
const TOLD_AFTER: u32 = 2;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    asking: bool,
    due_at_ms: u64,
    unanswered: u32,
}

impl Queue {
    /// Whether it is to be asked now.
    fn due(&mut self, now_ms: u64) -> bool {
        let due = !self.asking && now_ms >= self.due_at_ms;
        self.asking |= due;
        due
    }

    /// It answered, or did not; what is to be told of it now, `None` for what was told before.
    fn answered(&mut self, answer: Result<(), kafka::Error>, now_ms: u64) -> Option<String> {
        self.asking = false;
        let Err(error) = answer else {
            (self.unanswered, self.due_at_ms) = (0, now_ms + EVERY_MS);
            return Some(String::new());
        };
        (self.unanswered, self.due_at_ms) = (self.unanswered.saturating_add(1), now_ms + AGAIN_MS);
        let certain = self.unanswered >= TOLD_AFTER || matches!(error, kafka::Error::Denied(_));
        certain.then(|| format!("{}; {}", error.told(), error.remedy()))
    }
}

impl Agent {
    /// Asks if it is time to.
    pub(super) fn ask_kafka(&mut self, ctx: &mut Context<Self>) {
        if !self.queue.due(self.ports.clock.now_ms()) {
            return;
        }
        let kafka = self.ports.kafka.clone();
        self.then(ctx, async move { kafka.reach().await }, |agent, answer, _| {
            let now_ms = agent.ports.clock.now_ms();
            let Some(told) = agent.queue.answered(answer, now_ms) else { return };
            if agent.sight.kafka_error != told {
                if !told.is_empty() {
                    tracing::warn!(node = %agent.ports.node, told, "Kafka does not answer");
                }
                agent.sight.change().kafka_error = told;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_twice_is_told_with_what_helps_and_an_answer_takes_it_back() {
        let mut queue = Queue::default();
        let dead = || Err(kafka::Error::Unreachable("k1:9092".into()));
        assert!(queue.due(0));
        assert!(!queue.due(0), "one ask at a time");
        assert_eq!(queue.answered(dead(), 5_000), None);
        assert!(!queue.due(6_999));
        assert!(queue.due(7_000));
        let told = queue.answered(dead(), 12_000).unwrap();
        assert!(
            told.contains("CVH-0501") && told.contains("k1:9092") && told.contains("[kafka] brokers"),
            "{told}"
        );
        assert!(queue.due(14_000));
        assert_eq!(queue.answered(Ok(()), 14_000).as_deref(), Some(""));
        assert!(!queue.due(23_999));
        assert!(queue.due(24_000));
        let told = queue.answered(Err(kafka::Error::Denied("no".into())), 24_000).unwrap();
        assert!(told.contains("CVH-0503"), "{told}");
    }
}
