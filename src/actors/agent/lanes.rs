//! The Kafka consumers of a node: made as its tables need them (H7), kept until the daemon ends.

use crate::actors::lane_reader::LaneReader;
use crate::adapters::kafka::{Error, Kafka};
use crate::model::NodeId;
use actix::prelude::*;
use std::sync::Arc;

/// A node's lanes. Replicas that were started with fewer stay with those.
pub struct Lanes {
    kafka: Arc<dyn Kafka>,
    name: String,
    readers: Vec<Addr<LaneReader>>,
}

impl Lanes {
    /// None yet.
    pub fn new(kafka: Arc<dyn Kafka>, node: &NodeId) -> Self {
        Self { kafka, name: node.to_string(), readers: Vec::new() }
    }

    /// Makes lanes until there are so many.
    ///
    /// # Errors
    /// What the client said; the lanes made so far stay.
    pub fn widen(&mut self, wanted: u32) -> Result<(), Error> {
        while self.readers.len() < wanted as usize {
            let lane = self.kafka.lane(&format!("{}-{}", self.name, self.readers.len()))?;
            self.readers.push(LaneReader::new(lane).start());
        }
        Ok(())
    }

    /// All of them.
    pub fn readers(&self) -> &[Addr<LaneReader>] {
        &self.readers
    }

    /// Whether one has died.
    pub fn broken(&self) -> bool {
        self.readers.iter().any(|reader| !reader.connected())
    }
}
