//! Where each shard's replicas and leader should be, how to get there, and a proof of how good that is.
//!
//! Pure: a [`Snapshot`] and a [`Policy`] in, a verdict and a plan out. No clock, no I/O, no async: time limits
//! come in as a budget that says when to stop. The algorithms are described in this folder's `README.md`.
//!
//! Who keeps a cluster in balance calls [`plan()`]; [`place_new`] is for the shards of a new table; engines,
//! bound and instance files are for the command line.

pub mod bound;
pub mod budget;
mod budgeted;
pub mod candidates;
mod caps;
pub mod constraint;
pub mod engines;
pub mod explain;
pub mod goals;
pub mod ids;
pub mod instance;
mod narrow;
mod newcomers;
pub mod objective;
pub mod place_new;
pub mod plan;
pub mod policy;
pub mod policy_file;
pub mod problem;
pub mod proposal;
mod relief;
pub mod replay;
mod rooms;
mod scale;
pub mod sequence;
mod shares;
pub mod snapshot;
pub mod solution;
mod vain;
pub mod verdict;

pub use place_new::{NewPlacement, NewShard, NewTable, place_new};
pub use policy::Policy;
pub use proposal::{ClusterAction, ClusterStep, HeldUp, Limits, Proposal, plan, resume, toward, try_plan};
pub use sequence::WaveLimits;
pub use snapshot::{Load, NodeView, ReplicaView, ShardView, Snapshot};
pub use verdict::{Decision, Move, Verdict, decide, settle};
