//! What a simulated server lets through: one pace for all copies that leave it and one for all that come to it, however
//! many there are at a time, and the room on its disk.

use super::sim::SimClickHouse;
use super::sim_world::{Replica, World};
use super::{Error, RemoteReplica, sim_seed};
use crate::model::PartitionId;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Stretches of a copy: copies under way at the same time take turns.
const STRETCHES: u64 = 8;

/// Which way a copy's bytes go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// To another server.
    Out,
    /// From another server.
    In,
}

/// What so many bytes take; nothing without a pace.
fn lasting(bytes: u64, bytes_per_s: u64) -> Duration {
    let micros = (u128::from(bytes) * 1_000_000).checked_div(u128::from(bytes_per_s)).unwrap_or(0);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

impl World {
    /// Takes up the pace for so many bytes, after those that were let through before; when they are.
    pub fn book(&mut self, way: Way, bytes: u64, begun: Instant) -> Instant {
        let takes = lasting(bytes, self.copy_bytes_per_s);
        if takes.is_zero() {
            return begun;
        }
        let busy_until = match way {
            Way::Out => &mut self.sending_until,
            Way::In => &mut self.taking_until,
        };
        let through = (*busy_until).max(begun) + takes;
        *busy_until = through;
        through
    }

    /// Whether anything can be written.
    pub fn check_disk(&self) -> Result<(), Error> {
        self.check_room(1)
    }

    /// Whether so many bytes can be written.
    pub fn check_room(&self, bytes: u64) -> Result<(), Error> {
        let full = || Error::Overloaded { code: 243, message: "not enough space".into() };
        if self.disk_free_bytes >= bytes.max(1) { Ok(()) } else { Err(full()) }
    }

    /// A replica or what was to become one is gone; its disk space is free unless another replica here has the same
    /// parts as links.
    pub fn free(&mut self, database: &str, gone: &Replica) {
        let head = database.rsplit_once("_s").map_or(database, |(head, _)| head);
        let linked = |partition: &u32| {
            let mut others = self.replicas.iter().filter(|(name, _)| name.starts_with(head));
            others.any(|(_, other)| other.rows.contains_key(partition))
        };
        let own = gone.rows.keys().filter(|partition| !linked(partition));
        let freed: u64 = own.map(|partition| gone.taken(PartitionId(*partition)).bytes()).sum();
        self.disk_free_bytes = (self.disk_free_bytes + freed).min(self.disk_total_bytes);
    }

    /// Puts what was copied of a partition in its place.
    pub fn put_copy(
        &mut self,
        (database, nonce): (&str, u64),
        partition: PartitionId,
        rows: sim_seed::PartitionRows,
    ) -> Result<u64, Error> {
        let (copied, bytes) = (rows.row_count(), rows.bytes());
        self.check_room(bytes)?;
        let seed = self.seed(database, nonce)?;
        let before = seed.taken(partition).bytes();
        seed.put(partition, rows);
        self.disk_free_bytes =
            (self.disk_free_bytes + before).saturating_sub(bytes).min(self.disk_total_bytes);
        self.copied_bytes += bytes;
        Ok(copied)
    }
}

async fn until(through: Instant, begun: Instant) {
    if through > begun {
        sleep_until(through).await;
    }
}

impl SimClickHouse {
    /// Bytes a second that its disk or network lets through for copies, each way; 0: all at once.
    pub fn set_copy_rate(&self, bytes_per_s: u64) {
        let mut world = self.world();
        let now = Instant::now();
        (world.copy_bytes_per_s, world.sending_until, world.taking_until) = (bytes_per_s, now, now);
    }

    /// Waits until so many bytes have come from another server: as fast as both let them through beside what else is
    /// under way, and as this copy alone may.
    pub(super) async fn come_through(&self, from: &Self, bytes: u64, own_bytes_per_s: u64) {
        for stretch in 0..STRETCHES {
            let bytes = bytes * (stretch + 1) / STRETCHES - bytes * stretch / STRETCHES;
            let begun = Instant::now();
            let sent = from.world().book(Way::Out, bytes, begun);
            let taken = self.world().book(Way::In, bytes, begun);
            until(sent.max(taken).max(begun + lasting(bytes, own_bytes_per_s)), begun).await;
        }
    }

    /// Waits until so many bytes have left.
    pub(super) async fn let_out(&self, bytes: u64) {
        let begun = Instant::now();
        let sent = self.world().book(Way::Out, bytes, begun);
        until(sent, begun).await;
    }

    /// Waits until so many bytes are in, which have been coming since then.
    pub(super) async fn let_in(&self, bytes: u64, since: Instant) {
        let taken = self.world().book(Way::In, bytes, since);
        until(taken, Instant::now()).await;
    }

    /// Whether it has run all the time since then, so that a query that began then has not died with it.
    pub(super) fn has_run_since(&self, started: Instant) -> bool {
        let world = self.world();
        world.up && world.started == started
    }

    /// What a copy by a select died of, if either server was restarted while it ran.
    pub(super) fn copy_died(
        &self,
        own: Instant,
        (peer, theirs): (&Self, Instant),
        source: &RemoteReplica,
    ) -> Option<Error> {
        if !self.has_run_since(own) {
            let reason = "the server was restarted meanwhile".to_owned();
            return Some(Error::OutcomeUnknown { what: format!("copy from {}", source.host), reason });
        }
        (!peer.has_run_since(theirs)).then(|| sim_seed::unreachable(source))
    }
}

#[cfg(test)]
#[path = "sim_pace_tests.rs"]
mod tests;
