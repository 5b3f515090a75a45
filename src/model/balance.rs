//! What the cluster may do by itself to stay in balance, as configured and as said at run time, and how it stands.

use super::ids::{NodeId, ShardId, TableId};
use super::operation::Kind;
use super::plan::{ClusterPlan, PlannedSplit};
use serde::{Deserialize, Serialize};

/// What the balancer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BalanceMode {
    /// Nothing.
    Off,
    /// Plan, and show the plan.
    Advisory,
    /// Carry it out.
    On,
}

/// Who looks for the balancer's plans: the engines of `placement`, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Planner {
    /// What daemons use: prices, annealing and repairs, bounded by work.
    #[default]
    Hybrid,
    /// An exact model.
    Milp,
    /// Annealing alone.
    LocalSearch,
    /// One pass.
    Greedy,
    /// Nothing but what rules ask for.
    Pinned,
}

/// Where the policy has shards cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitAt {
    /// In the middle of their partitions.
    Middle,
    /// Where the halves have taken the most equal numbers of messages, which stand for their bytes.
    Bytes,
}

/// The balancer's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceRules {
    /// What it may do, unless something else was said at run time.
    pub mode: BalanceMode,
    /// Between two looks.
    pub every_ms: u64,
    /// Copies under way in the whole cluster at most.
    pub copies_max: u32,
    /// Copies under way to one node at most, and from one.
    pub copies_per_node_max: u32,
    /// A table with fewer replicas than this a node has all its shards split, if its partitions allow it (C9).
    pub replicas_per_node_min: u32,
    /// A shard with more bytes than this is split; 0: however big.
    pub split_above_bytes: u64,
    /// Where shards are cut.
    pub split_at: SplitAt,
    /// How long an operation may take beside what its bytes take.
    pub operation_deadline_ms: u64,
    /// How long one plan may be looked for; one that takes longer is not carried out.
    pub solve_deadline_ms: u64,
    /// Who looks for plans. Daemons use the default; the simulator compares.
    pub planner: Planner,
}

impl Default for BalanceRules {
    fn default() -> Self {
        Self {
            mode: BalanceMode::On,
            every_ms: 5_000,
            copies_max: 8,
            copies_per_node_max: 2,
            replicas_per_node_min: 1,
            split_above_bytes: 0,
            split_at: SplitAt::Middle,
            operation_deadline_ms: 6 * 3_600_000,
            solve_deadline_ms: 60_000,
            planner: Planner::default(),
        }
    }
}

/// What was said at run time, as stored: it stands, whoever leads, until it is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceSetting {
    /// What the balancer may do.
    pub mode: BalanceMode,
    /// Why, for those who look later.
    pub reason: String,
    /// When it was said, on the wall clock.
    pub since_unix_ms: u64,
}

/// `balance off|advisory|on|configured`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBalance {
    /// `None`: what the configuration says.
    pub mode: Option<BalanceMode>,
    /// Why.
    pub reason: String,
}

/// How big a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlannedSize {
    /// Shards to be split.
    pub splits: u32,
    /// Shards to be moved, or led by another node.
    pub moves: u32,
    /// Bytes to be copied.
    pub bytes: u64,
}

/// How balancing stands, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BalanceStatus {
    /// What is in force; `None`: nobody leads, and nothing was said at run time.
    pub mode: Option<BalanceMode>,
    /// What the leader's configuration says.
    pub configured: Option<BalanceMode>,
    /// Why it is not as configured; empty if it is.
    pub reason: String,
    /// The newest plan; `None` while there is none.
    pub planned: Option<PlannedSize>,
    /// Why nothing can be planned.
    pub waits_for: Option<String>,
    /// The plan that was applied last.
    pub run: Option<PlanRunStatus>,
}

/// `plan apply`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplyPlan {
    /// What.
    pub plan: ClusterPlan,
    /// Check everything, change nothing.
    pub dry_run: bool,
}

/// The life of a plan that was applied. The last three are ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Being carried out.
    Running,
    /// As planned.
    Done,
    /// No further step is begun.
    Cancelled,
    /// Given up, since what it asks for cannot be had any more; nothing is lost.
    Failed,
}

/// A shard that is to be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Its table.
    pub table: TableId,
    /// The shard.
    pub shard: ShardId,
    /// First partition of the right half.
    pub cut: u32,
    /// The left half's number.
    pub left: ShardId,
    /// The right half's number.
    pub right: ShardId,
}

impl Cut {
    /// As an operation.
    pub fn kind(self) -> Kind {
        Kind::Split { shard: self.shard, cut: self.cut, left: self.left, right: self.right }
    }
}

impl From<&PlannedSplit> for Cut {
    fn from(split: &PlannedSplit) -> Self {
        let PlannedSplit { table, shard, cut, left, right, .. } = *split;
        Self { table, shard, cut, left, right }
    }
}

/// Where a shard is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its table.
    pub table: TableId,
    /// The shard.
    pub shard: ShardId,
    /// Its nodes, the preferred leader first.
    pub nodes: Vec<NodeId>,
}

/// The plan that is being carried out, as stored. How far it is stands in the shards' records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRun {
    /// Life.
    pub state: RunState,
    /// Why it ended so, if not as planned.
    pub outcome: String,
    /// When it was applied, on the wall clock.
    pub started_unix_ms: u64,
    /// When it ended; 0 while open.
    pub ended_unix_ms: u64,
    /// What is split first, oldest number first.
    pub splits: Vec<Cut>,
    /// What is moved then.
    pub targets: Vec<Target>,
}

/// The same, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRunStatus {
    /// Life.
    pub state: RunState,
    /// Why it ended so, if not as planned.
    pub outcome: String,
    /// When it was applied, on the wall clock.
    pub started_unix_ms: u64,
    /// When it ended; 0 while open.
    pub ended_unix_ms: u64,
    /// Splits of the plan.
    pub splits: u32,
    /// Those not made yet.
    pub splits_left: u32,
    /// Moves of the plan.
    pub moves: u32,
    /// Those not made yet.
    pub moves_left: u32,
}
