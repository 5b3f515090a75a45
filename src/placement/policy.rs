//! What the operator wants of placement, as data: limits, spread, the weights of the objective.
//!
//! Nothing here decides; engines and the objective read it.

use serde::{Deserialize, Serialize};

/// The weights of the soft goals. A weight of 0 switches a goal off. All goals are relative: a deviation of
/// 0.1 is a tenth of a node's fair share, a move term of 0.1 is a tenth of all bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Worst deviation of a node's replica count from its fair share.
    pub replicas: f64,
    /// Worst deviation of a node's leader count from its fair share.
    pub leaders: f64,
    /// Worst deviation of a node's bytes from its share by capacity.
    pub bytes: f64,
    /// Share of all bytes that must be copied.
    pub moved: f64,
    /// Share of all replicas that must be copied, however small they are.
    pub copies: f64,
    /// Share of shards whose leader changes.
    pub leader_changes: f64,
    /// Share of replicas that are more on a node than their table's fair share, rounded up.
    pub per_table: f64,
    /// Worst deviation of a node's write rate.
    pub writes: f64,
    /// Worst deviation of a node's read rate.
    pub reads: f64,
}

impl Weights {
    /// The yardstick of `scripts/placement/evaluate.py`: `Z = Dr + Dl + Db + M + 0.05 L`.
    pub const YARDSTICK: Self = Self {
        replicas: 1.0,
        leaders: 1.0,
        bytes: 1.0,
        moved: 1.0,
        copies: 0.0,
        leader_changes: 0.05,
        per_table: 0.0,
        writes: 0.0,
        reads: 0.0,
    };

    /// Of clusters: as the yardstick, and a copy costs as its share of replicas. By bytes alone thousands of small
    /// shards would be copied for what a few bigger ones level as well, and each copy has costs of its own. Of copies
    /// that are made anyway those are preferred that spread each table evenly; none is worth it for that alone.
    pub const CLUSTER: Self = Self { copies: 1.0, per_table: 0.1, ..Self::YARDSTICK };
}

/// How many times as much a goal weighs as the next one in a policy file's `order`.
pub const ORDER_FACTOR: f64 = 16.0;

impl Weights {
    /// The goals' names, as in files.
    pub const NAMES: [&str; 9] =
        ["replicas", "leaders", "bytes", "moved", "copies", "leader_changes", "per_table", "writes", "reads"];

    /// The weight of that name.
    pub fn named(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "replicas" => &mut self.replicas,
            "leaders" => &mut self.leaders,
            "bytes" => &mut self.bytes,
            "moved" => &mut self.moved,
            "copies" => &mut self.copies,
            "leader_changes" => &mut self.leader_changes,
            "per_table" => &mut self.per_table,
            "writes" => &mut self.writes,
            "reads" => &mut self.reads,
            _ => return None,
        })
    }
}

/// Worst deviations that count as none: within them nothing is gained. With the hysteresis on top they make two
/// thresholds, one at which work begins and a lower one at which it ends.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tolerance {
    /// Of replica counts.
    pub replicas: f64,
    /// Of leader counts.
    pub leaders: f64,
    /// Of bytes.
    pub bytes: f64,
}

impl Tolerance {
    /// Their names, as in files.
    pub const NAMES: [&str; 3] = ["replicas", "leaders", "bytes"];

    /// In each goal the greater one of two.
    pub fn or_more(&self, other: &Self) -> Self {
        Self {
            replicas: self.replicas.max(other.replicas),
            leaders: self.leaders.max(other.leaders),
            bytes: self.bytes.max(other.bytes),
        }
    }

    /// The tolerance of that name.
    pub fn named(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "replicas" => &mut self.replicas,
            "leaders" => &mut self.leaders,
            "bytes" => &mut self.bytes,
            _ => return None,
        })
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self::CLUSTER
    }
}

/// What a node's fair share of replicas and leaders is proportional to. Bytes go by capacity always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// The same number on every node that may hold replicas.
    Equal,
    /// By the node's weight.
    #[default]
    Weight,
}

/// What a solve is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// The whole objective.
    #[default]
    Balance,
    /// Leaders only: no copies.
    Leaders,
    /// Only nodes above the watermark, with the fewest bytes: what breaks other rules stays as it is.
    Relieve,
    /// Only what hard rules ask: drained and lost nodes, spread, watermark, missing replicas.
    Repair,
}

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Weights of the soft goals.
    pub weights: Weights,
    /// Deviations that count as none.
    pub tolerance: Tolerance,
    /// What counts are shared by.
    pub share: Share,
    /// What this solve is for.
    pub goal: Goal,
    /// Share of a node's capacity that replicas may fill, at every moment; above 0.
    pub watermark: f64,
    /// A new placement is proposed only if it betters the score by this much; keeps placements from flapping.
    pub hysteresis: f64,
    /// Bytes that may be copied; none is no limit. Repairs of hard rules come first.
    pub bytes_max: Option<u64>,
    /// Copies that may be made; none is no limit.
    pub moves_max: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            weights: Weights::CLUSTER,
            tolerance: Tolerance::default(),
            share: Share::Weight,
            goal: Goal::Balance,
            watermark: 0.85,
            hysteresis: 0.01,
            bytes_max: None,
            moves_max: None,
        }
    }
}

impl Policy {
    /// The policy that `evaluate.py` judges by: equal counts, yardstick weights, every improvement counts.
    pub fn yardstick(watermark: f64) -> Self {
        let weights = Weights::YARDSTICK;
        Self { weights, share: Share::Equal, hysteresis: 0.0, watermark, ..Self::default() }
    }
}
