//! The lane reader: pumps one lane's messages to the replicas that subscribed to their partitions.
//!
//! Decides nothing. Flow control is the replicas': they pause a partition when enough of it waits.

use crate::adapters::kafka::{Fetched, Lane};
use crate::model::names::TopicPartition;
use actix::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The actor.
pub struct LaneReader {
    lane: Arc<dyn Lane>,
    subscribers: BTreeMap<TopicPartition, (u32, Recipient<FromLane>)>,
}

/// What a lane brought for one assignment of a partition.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct FromLane {
    /// The subscription's number: what comes for an older one is out of date.
    pub assignment: u32,
    /// What.
    pub fetched: Fetched,
}

/// Read a partition from an offset on. Replaces an earlier subscription to it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Subscribe {
    /// Which.
    pub source: TopicPartition,
    /// First offset wanted.
    pub from: i64,
    /// The subscriber's number for it, returned with everything that comes.
    pub assignment: u32,
    /// Who gets it.
    pub to: Recipient<FromLane>,
}

/// Read it no more; says nothing to a subscription that somebody else has taken over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unsubscribe {
    /// Which.
    pub source: TopicPartition,
    /// Whose.
    pub to: Recipient<FromLane>,
}

/// Pause or resume a partition.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Flow {
    /// Which.
    pub source: TopicPartition,
    /// Whose.
    pub to: Recipient<FromLane>,
    /// Whether messages should come.
    pub on: bool,
}

impl LaneReader {
    /// Reads that lane.
    pub fn new(lane: Arc<dyn Lane>) -> Self {
        Self { lane, subscribers: BTreeMap::new() }
    }

    fn is_of(&self, source: &TopicPartition, subscriber: &Recipient<FromLane>) -> bool {
        self.subscribers.get(source).is_some_and(|(_, present)| present == subscriber)
    }

    fn pump(&self, ctx: &mut Context<Self>) {
        let lane = self.lane.clone();
        let next = async move { lane.next().await };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(next).map(|fetched, actor, ctx| {
            actor.deliver(fetched);
            actor.pump(ctx);
        }));
    }

    fn deliver(&mut self, fetched: Fetched) {
        let (source, over) = match &fetched {
            Fetched::Chunk(chunk) => (&chunk.source, false),
            Fetched::End(source, _) | Fetched::Passed(source, _) => (source, false),
            Fetched::Unreachable(source, error) => {
                tracing::warn!(%source, error, "a partition's broker does not answer");
                (source, false)
            }
            Fetched::OutOfRange { source, .. } | Fetched::TopicMissing(source) => (source, true),
            Fetched::Trouble(error) => {
                tracing::warn!(%error, "Kafka lane has trouble");
                return;
            }
        };
        let subscriber =
            if over { self.subscribers.remove(source) } else { self.subscribers.get(source).cloned() };
        if let Some((assignment, subscriber)) = subscriber {
            subscriber.do_send(FromLane { assignment, fetched });
        }
    }
}

impl Actor for LaneReader {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.pump(ctx);
    }
}

impl Handler<Subscribe> for LaneReader {
    type Result = ();
    fn handle(&mut self, message: Subscribe, _: &mut Context<Self>) {
        self.lane.assign(&message.source, message.from);
        self.subscribers.insert(message.source, (message.assignment, message.to));
    }
}

impl Handler<Unsubscribe> for LaneReader {
    type Result = ();
    fn handle(&mut self, message: Unsubscribe, _: &mut Context<Self>) {
        if self.is_of(&message.source, &message.to) {
            self.subscribers.remove(&message.source);
            self.lane.unassign(&message.source);
        }
    }
}

impl Handler<Flow> for LaneReader {
    type Result = ();
    fn handle(&mut self, message: Flow, _: &mut Context<Self>) {
        if !self.is_of(&message.source, &message.to) {
            return;
        }
        if message.on {
            self.lane.resume(&message.source);
        } else {
            self.lane.pause(&message.source);
        }
    }
}
