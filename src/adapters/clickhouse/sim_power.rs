//! What a simulated server has written and its kernel not yet put on the disk: gone by chance when power goes, part by
//! part, so that a table has holes where older parts went and newer ones did not.
//!
//! Parts that were linked or copied elsewhere stay there: the daemon syncs copies, and a link shares its data.

use super::sim::SimClickHouse;
use super::sim_rows::HeldRows;
use super::sim_world::World;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Linux has written back by then.
const WRITTEN_BACK_AFTER: Duration = Duration::from_secs(30);

struct Part {
    written: Instant,
    database: String,
    partition: u32,
    rows: HeldRows,
    bytes: u64,
}

/// The parts of the last half minute, oldest first.
#[derive(Default)]
pub(super) struct Unwritten(VecDeque<Part>);

impl Unwritten {
    /// A part was written just now.
    pub fn add(
        &mut self,
        database: &str,
        partition: u32,
        rows: impl Iterator<Item = (i64, u32)>,
        bytes: u64,
    ) {
        let written = Instant::now();
        self.forget_before(written);
        let mut held = HeldRows::default();
        rows.for_each(|(offset, row)| held.insert(offset, row));
        self.0.push_back(Part { written, database: database.to_owned(), partition, rows: held, bytes });
    }

    fn forget_before(&mut self, now: Instant) {
        while self.0.front().is_some_and(|part| now - part.written >= WRITTEN_BACK_AFTER) {
            self.0.pop_front();
        }
    }

    /// A replica is dropped, and so are its parts.
    pub fn drop_of(&mut self, database: &str) {
        self.0.retain(|part| part.database != database);
    }

    /// So is all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl World {
    fn lose_power(&mut self, mut is_lost: impl FnMut() -> bool) -> u64 {
        self.unwritten.forget_before(Instant::now());
        let mut lost = 0;
        for part in std::mem::take(&mut self.unwritten.0) {
            let Some(replica) = self.replicas.get_mut(&part.database) else { continue };
            let Some(held) = replica.rows.get_mut(&part.partition).filter(|_| is_lost()) else { continue };
            lost += part
                .rows
                .from(i64::MIN)
                .into_iter()
                .filter(|(offset, row)| held.remove(*offset, *row))
                .count() as u64;
            replica.bytes = replica.bytes.saturating_sub(part.bytes);
            self.disk_free_bytes += part.bytes;
        }
        self.power_took_rows |= lost > 0;
        lost
    }
}

impl SimClickHouse {
    /// Its machine's power goes, while it is down: each part of the last half minute is lost if `is_lost` says so.
    /// Tells how many rows are.
    pub fn lose_power(&self, is_lost: impl FnMut() -> bool) -> u64 {
        self.world().lose_power(is_lost)
    }
}
