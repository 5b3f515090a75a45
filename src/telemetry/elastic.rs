//! Metrics of what the leader plans and carries out: balance, operations, copies that are lacking.

use super::{gauge, gauges};
use crate::model::operation::{Kind, State};
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntGauge, IntGaugeVec};

/// From a leadership to a copy of a terabyte.
const OPERATION_BUCKETS_S: [f64; 12] =
    [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0];
/// A cluster of a few nodes to one of thousands.
const PLAN_BUCKETS_S: [f64; 8] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0];

/// See the module. Clones share their values; on a daemon that does not lead all gauges are 0.
#[derive(Clone)]
pub struct Elastic {
    /// Splits of the newest plan.
    pub planned_splits: IntGauge,
    /// Moves of the newest plan.
    pub planned_moves: IntGauge,
    /// Bytes that the newest plan copies.
    pub planned_bytes: IntGauge,
    /// Moves that are planned or under way.
    pub moves_left: IntGauge,
    /// Bytes of copies that are planned or under way.
    pub bytes_left: IntGauge,
    /// Shards with fewer readable copies on live nodes than wanted.
    pub under_replicated_shards: IntGauge,
    /// Shards that no live node leads.
    pub leaderless_shards: IntGauge,
    /// Shards that are paused or frozen.
    pub held_shards: IntGauge,
    /// 0 off, 1 advisory, 2 on.
    pub balance_mode: IntGauge,
    /// How long plans were looked for.
    pub plan_seconds: Histogram,
    operations_open: IntGaugeVec,
    operation_seconds: HistogramVec,
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(buckets.to_vec())
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Running | State::Cancelling => "open",
        State::Done => "done",
        State::Cancelled => "cancelled",
        State::Failed => "failed",
    }
}

impl Elastic {
    /// In no registry yet.
    pub(super) fn new() -> Self {
        let took = histogram(
            "converthouse_operation_seconds",
            "From an operation's begin to its end",
            &OPERATION_BUCKETS_S,
        );
        let looked =
            histogram("converthouse_plan_seconds", "How long plans were looked for", &PLAN_BUCKETS_S);
        Self {
            planned_splits: gauge("converthouse_planned_splits", "Splits of the leader's newest plan"),
            planned_moves: gauge("converthouse_planned_moves", "Moves of the leader's newest plan"),
            planned_bytes: gauge("converthouse_planned_bytes", "Bytes that the leader's newest plan copies"),
            moves_left: gauge("converthouse_moves_left", "Moves that are planned or under way"),
            bytes_left: gauge("converthouse_bytes_left", "Bytes of copies that are planned or under way"),
            under_replicated_shards: gauge(
                "converthouse_under_replicated_shards",
                "Shards with fewer readable copies on live nodes than wanted",
            ),
            leaderless_shards: gauge("converthouse_leaderless_shards", "Shards that no live node leads"),
            held_shards: gauge("converthouse_held_shards", "Shards that are paused or frozen"),
            balance_mode: gauge("converthouse_balance_mode", "0 off, 1 advisory, 2 on"),
            plan_seconds: Histogram::with_opts(looked).expect("the buckets rise"),
            operations_open: gauges(
                "converthouse_operations_open",
                "Operations that have not ended",
                &["kind"],
            ),
            operation_seconds: HistogramVec::new(took, &["kind", "state"])
                .expect("name and labels are legal"),
        }
    }

    /// The gauges without labels.
    fn plain(&self) -> [&IntGauge; 9] {
        [
            &self.planned_splits,
            &self.planned_moves,
            &self.planned_bytes,
            &self.moves_left,
            &self.bytes_left,
            &self.under_replicated_shards,
            &self.leaderless_shards,
            &self.held_shards,
            &self.balance_mode,
        ]
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let mut all: Vec<Box<dyn Collector>> = vec![
            Box::new(self.plan_seconds.clone()),
            Box::new(self.operations_open.clone()),
            Box::new(self.operation_seconds.clone()),
        ];
        for gauge in self.plain() {
            all.push(Box::new(gauge.clone()));
        }
        all
    }

    /// Operations of a kind that have not ended.
    pub fn operations_open(&self, kind: &str) -> IntGauge {
        self.operations_open.with_label_values(&[kind])
    }

    /// An operation has ended.
    #[expect(clippy::cast_precision_loss, reason = "nothing takes so long")]
    pub fn operation_ended(&self, kind: &Kind, state: State, took_ms: u64) {
        let histogram = self.operation_seconds.with_label_values(&[kind.name(), state_name(state)]);
        histogram.observe(took_ms as f64 / 1_000.0);
    }

    /// A daemon that leads no more has nothing to say of all this.
    pub fn forget(&self) {
        self.plain().iter().for_each(|gauge| gauge.set(0));
        Kind::NAMES.iter().for_each(|kind| self.operations_open(kind).set(0));
    }
}
