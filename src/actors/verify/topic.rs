//! Reads stretches of topics: what stands between two offsets, whatever holes there are.

use crate::adapters::kafka::{Chunk, Fetched, Kafka, Lane, Message};
use crate::error::Coded as _;
use crate::model::names::TopicPartition;
use std::sync::Arc;
use std::time::Duration;

/// Wait for the next thing that a lane has to say of a topic.
const WAIT: Duration = Duration::from_secs(20);

/// See the module. One lane, made at first use.
pub(super) struct Reader {
    kafka: Arc<dyn Kafka>,
    lane: Option<Arc<dyn Lane>>,
}

impl Reader {
    pub(super) fn new(kafka: Arc<dyn Kafka>) -> Self {
        Self { kafka, lane: None }
    }

    /// Hands on the messages at `from` up to `below`, exclusive, in order, until `take` has enough. Returns the offset
    /// up to which it has read.
    pub(super) async fn read(
        &mut self,
        source: &TopicPartition,
        (from, below): (i64, i64),
        take: &mut (dyn FnMut(&Chunk, &Message) -> bool + Send),
    ) -> Result<i64, String> {
        if from >= below {
            return Ok(below);
        }
        let lane = match &self.lane {
            Some(lane) => lane.clone(),
            None => self.lane.insert(self.kafka.lane("verify").map_err(|e| e.told())?).clone(),
        };
        lane.assign(source, from);
        let read = walk(lane.as_ref(), source, (from, below), take).await;
        lane.unassign(source);
        read
    }
}

async fn walk(
    lane: &dyn Lane,
    source: &TopicPartition,
    (from, below): (i64, i64),
    take: &mut (dyn FnMut(&Chunk, &Message) -> bool + Send),
) -> Result<i64, String> {
    loop {
        match next(lane, source).await? {
            Fetched::Chunk(chunk) => {
                for message in &chunk.messages {
                    if message.offset >= below {
                        return Ok(below);
                    }
                    if !take(&chunk, message) || message.offset + 1 == below {
                        return Ok(message.offset + 1);
                    }
                }
            }
            Fetched::Passed(_, next) if next >= below => return Ok(below),
            // What retention took meanwhile is no message any more.
            Fetched::OutOfRange { low, .. } if low >= below => return Ok(below),
            Fetched::OutOfRange { low, .. } if low > from => lane.assign(source, low),
            Fetched::OutOfRange { wanted, high, .. } => {
                return Err(format!("{source} ends at {high}, before {wanted}"));
            }
            Fetched::TopicMissing(_) => return Err(format!("{source} is not there")),
            _ => {}
        }
    }
}

/// The next thing that says how far reading is.
async fn next(lane: &dyn Lane, source: &TopicPartition) -> Result<Fetched, String> {
    let telling = async {
        loop {
            match lane.next().await {
                Fetched::End(..) | Fetched::Unreachable(..) | Fetched::Trouble(_) => {}
                telling => return telling,
            }
        }
    };
    let waited = tokio::time::timeout(WAIT, telling).await;
    waited.map_err(|_| format!("nothing of {source} came for {} s", WAIT.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::kafka::{NewTopic, SimKafka};

    #[tokio::test(start_paused = true)]
    async fn a_stretch_is_read_whatever_holes_there_are() {
        let sim = SimKafka::new();
        let topic = NewTopic { name: "t".into(), partitions: 1, replication: 1, settings: Vec::new() };
        sim.create_topics(&[topic]).await.unwrap();
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        // 0 1 2 _ 4 5 _ _ _
        sim.append_same(&source, 3, &"x".into());
        sim.skip(&source, 1);
        sim.append_same(&source, 2, &"y".into());
        sim.skip(&source, 3);
        let mut reader = Reader::new(Arc::new(sim.clone()));
        for ((from, below), expected, end) in [
            ((0, 9), &[0, 1, 2, 4, 5][..], 9),
            ((1, 3), &[1, 2], 3),
            ((3, 4), &[], 4),
            ((6, 9), &[], 9),
            ((5, 7), &[5], 7),
            ((4, 4), &[], 4),
        ] {
            let mut seen = Vec::new();
            let mut take = |_: &Chunk, message: &Message| {
                seen.push(message.offset);
                true
            };
            assert_eq!(reader.read(&source, (from, below), &mut take).await, Ok(end), "{from} to {below}");
            assert_eq!(seen, expected, "{from} to {below}");
        }
        let mut left = 2;
        let mut take = |_: &Chunk, _: &Message| {
            left -= 1;
            left > 0
        };
        assert_eq!(reader.read(&source, (0, 9), &mut take).await, Ok(2), "enough");
        sim.truncate(&source, 5);
        let mut seen = Vec::new();
        let mut take = |_: &Chunk, message: &Message| {
            seen.push(message.offset);
            true
        };
        assert_eq!(reader.read(&source, (0, 9), &mut take).await, Ok(9));
        assert_eq!(seen, [5]);
    }
}
