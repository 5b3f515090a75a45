//! Counts what comes of a copy, and tells the agent.

use super::work::Job;
use crate::actors::agent::ReplicaNews;
use crate::model::PartitionId;
use crate::model::observed::Seeding;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Between two reports of a copy that goes on.
const REPORT_EVERY_MS: u64 = 1_000;

/// See the module. Clones count together.
#[derive(Clone)]
pub(super) struct Meter {
    job: Job,
    began_ms: u64,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    seeding: Seeding,
    told_ms: u64,
    /// Of partitions that are whole, as large as they were said to be.
    whole_bytes: u64,
    /// Of the others, in their present try.
    under_way: BTreeMap<PartitionId, u64>,
}

impl Meter {
    /// Of a copy of so many partitions and bytes that begins now.
    pub(super) fn new(job: &Job, of: u32, bytes_of: u64) -> Self {
        let now_ms = job.ports.clock.now_ms();
        let seeding = Seeding { of, bytes_of, ..Seeding::default() };
        let counts = Counts { seeding, told_ms: now_ms, ..Counts::default() };
        let meter = Self { job: job.clone(), began_ms: now_ms, counts: Arc::new(Mutex::new(counts)) };
        meter.note(true, |_| {});
        meter
    }

    /// A partition is asked for, from its beginning.
    pub(super) fn begins(&self, partition: PartitionId) {
        self.count(false, |counts| {
            counts.under_way.insert(partition, 0);
        });
    }

    /// Some of it has come.
    pub(super) fn comes(&self, partition: PartitionId, bytes: u64) {
        self.job.ports.metrics.copied_bytes("parts").inc_by(bytes);
        self.count(false, |counts| {
            *counts.under_way.entry(partition).or_default() += bytes;
            counts.seeding.bytes_moved += bytes;
        });
    }

    /// It is here, and was said to have so many bytes.
    pub(super) fn whole(&self, partition: PartitionId, bytes: u64) {
        self.count(true, |counts| {
            counts.under_way.remove(&partition);
            counts.whole_bytes += bytes;
            counts.seeding.done += 1;
        });
    }

    /// Changes the report; sends it if it is time to, or at once.
    pub(super) fn note(&self, at_once: bool, change: impl FnOnce(&mut Seeding)) {
        self.count(at_once, |counts| change(&mut counts.seeding));
    }

    fn count(&self, at_once: bool, change: impl FnOnce(&mut Counts)) {
        let now_ms = self.job.ports.clock.now_ms();
        let told = {
            let mut counts = self.counts.lock().expect("nothing panics while it is held");
            change(&mut counts);
            counts.seeding.bytes_done = counts.whole_bytes + counts.under_way.values().sum::<u64>();
            counts.seeding.elapsed_ms = now_ms - self.began_ms;
            let due = at_once || now_ms >= counts.told_ms + REPORT_EVERY_MS;
            due.then(|| {
                self.job.take_share();
                counts.told_ms = now_ms;
                counts.seeding.clone()
            })
        };
        if let Some(seeding) = told {
            self.job.tell(ReplicaNews::Seeding(seeding));
        }
    }
}
