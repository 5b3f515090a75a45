//! The field's words. Pure: no clock, no I/O, no async, no actix, nothing random.
//!
//! Desired state ([`table`], [`node`]), observed state ([`observed`]) and in-flight work ([`operation`]) are
//! three families of types with three owners; a decision sees all three, none is stored in another.

pub mod balance;
pub mod batch;
pub mod control;
pub mod hold;
pub mod ids;
pub mod ingest;
pub mod invariants;
pub mod names;
pub mod node;
pub mod observed;
pub mod operation;
pub mod parts;
pub mod plan;
pub mod range;
pub mod routes;
pub mod shards;
pub mod shared;
pub mod table;
pub mod trace;
pub mod verify;
pub mod view;

pub use ids::{Epoch, NodeId, OperationId, PartitionId, ReplicaId, ShardId, TableId, Term};
pub use node::{Node, NodeState};
pub use operation::Operation;
pub use range::PartitionRange;
pub use table::{Replica, ReplicaState, Shard, ShardState, Table, TableName, TableState};
