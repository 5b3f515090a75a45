//! Operations: durable, resumable changes to a table's shards. The record says what is wanted and how it ended; how
//! far it has come is read off the shards' own records, so any leader goes on where the last one stopped.
//!
//! Pure. The steps are decided in `actors::table::operate`.

use super::ids::{NodeId, OperationId, ShardId, TableId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// One shard becomes two, on the same nodes, without copying.
    Split {
        /// Which.
        shard: ShardId,
        /// First partition of the right half.
        cut: u32,
        /// The left half's number.
        left: ShardId,
        /// The right half's number.
        right: ShardId,
    },
    /// Two neighbouring shards on the same nodes become one, without copying.
    Merge {
        /// The lower.
        left: ShardId,
        /// The upper.
        right: ShardId,
        /// Their successor's number.
        into: ShardId,
    },
    /// A replica goes from one node to another: copied, caught up, published, only then removed where it was.
    Move {
        /// Whose.
        shard: ShardId,
        /// Where it is.
        from: NodeId,
        /// Where it goes.
        to: NodeId,
    },
    /// One more replica.
    Add {
        /// Whose.
        shard: ShardId,
        /// Where.
        to: NodeId,
    },
    /// One replica less.
    Remove {
        /// Whose.
        shard: ShardId,
        /// Where.
        from: NodeId,
    },
    /// Another replica leads, and is preferred from now on.
    Lead {
        /// Whose.
        shard: ShardId,
        /// Who.
        to: NodeId,
    },
}

impl Kind {
    /// Every [`Kind::name`].
    pub const NAMES: [&'static str; 6] = ["split", "merge", "move", "add", "remove", "lead"];

    /// Its one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Split { .. } => "split",
            Self::Merge { .. } => "merge",
            Self::Move { .. } => "move",
            Self::Add { .. } => "add",
            Self::Remove { .. } => "remove",
            Self::Lead { .. } => "lead",
        }
    }

    /// The shards that it changes and that are there before it begins.
    pub fn shards(&self) -> Vec<ShardId> {
        match self {
            Self::Split { shard, .. }
            | Self::Move { shard, .. }
            | Self::Add { shard, .. }
            | Self::Remove { shard, .. }
            | Self::Lead { shard, .. } => vec![*shard],
            Self::Merge { left, right, .. } => vec![*left, *right],
        }
    }

    /// Whether it concerns that shard, before or after.
    pub fn touches(&self, id: ShardId) -> bool {
        self.touched().any(|touched| touched == id)
    }

    /// The shards that it concerns, before or after.
    pub fn touched(&self) -> impl Iterator<Item = ShardId> + use<> {
        let (first, made) = match self {
            Self::Split { shard, left, right, .. } => (*shard, [Some(*left), Some(*right)]),
            Self::Merge { left, right, into } => (*left, [Some(*right), Some(*into)]),
            Self::Move { shard, .. }
            | Self::Add { shard, .. }
            | Self::Remove { shard, .. }
            | Self::Lead { shard, .. } => (*shard, [None, None]),
        };
        std::iter::once(first).chain(made.into_iter().flatten())
    }

    /// The node that a copy is being made on, if any.
    pub fn target(&self) -> Option<&NodeId> {
        match self {
            Self::Move { to, .. } | Self::Add { to, .. } => Some(to),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split { shard, cut, left, right } => {
                write!(f, "split {shard} at {cut} into {left}, {right}")
            }
            Self::Merge { left, right, into } => write!(f, "merge {left}, {right} into {into}"),
            Self::Move { shard, from, to } => write!(f, "move {shard} from {from} to {to}"),
            Self::Add { shard, to } => write!(f, "add {shard} on {to}"),
            Self::Remove { shard, from } => write!(f, "remove {shard} from {from}"),
            Self::Lead { shard, to } => write!(f, "lead {shard} by {to}"),
        }
    }
}

/// An operation's life. The last three are ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Under way, or waiting for its turn.
    Running,
    /// To be undone; what cannot be undone any more is finished instead.
    Cancelling,
    /// As wanted.
    Done,
    /// As it was before.
    Cancelled,
    /// Given up, with the reason in `outcome`; nothing is lost.
    Failed,
}

impl State {
    /// Whether anything is left to be done.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Running | Self::Cancelling)
    }

    /// The legal transitions, all of them.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Running => next != Self::Running && next != Self::Cancelled,
            Self::Cancelling => matches!(next, Self::Done | Self::Cancelled | Self::Failed),
            Self::Done | Self::Cancelled | Self::Failed => false,
        }
    }
}

/// Why the cluster begins operations by itself: how its reasons start.
pub mod cause {
    /// The balancer.
    pub const BALANCE: &str = "balance";
    /// The plan that was applied.
    pub const PLAN: &str = "plan";
    /// A shard has fewer replicas than its table wants.
    pub const WANTED: &str = "a replica is wanted";
    /// A table has too few shards for its nodes, or one is too big.
    pub const GROWN: &str = "nodes joined, or the shard has grown";
    /// A node has been down for too long; its name follows.
    pub const LOST: &str = "down for too long: node";
}

/// One operation, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Number.
    pub id: OperationId,
    /// Whose shards.
    pub table: TableId,
    /// What.
    pub kind: Kind,
    /// Life.
    pub state: State,
    /// Why it was begun: an operator's word, or the policy's.
    pub reason: String,
    /// Why it was cancelled or failed, or done though it was to be undone; empty otherwise.
    pub outcome: String,
    /// When it was recorded, on the wall clock of the leader of that time: for people.
    pub started_unix_ms: u64,
    /// When it ended; 0 while open.
    pub ended_unix_ms: u64,
}

impl Operation {
    /// Whether the cluster began it by itself, as its reason says. An operator could give the same reason.
    pub fn is_own(&self) -> bool {
        use cause::{BALANCE, GROWN, LOST, PLAN, WANTED};
        let by = |who: &&str| {
            self.reason.strip_prefix(who).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', ' ']))
        };
        [BALANCE, PLAN, WANTED, GROWN, LOST].iter().any(by)
    }
}

/// Why an open operation does not go on, for programs: codes do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitCode {
    /// An earlier operation on one of its shards ends first.
    Turn,
    /// One of its shards is frozen.
    Frozen,
    /// Another replica of the shard is on its way or leaving.
    ReplicaInFlight,
    /// The new copy is being made: copied, or catching up.
    Copying,
    /// The new shards are being linked from the old ones.
    Linking,
    /// Tables have mutations that are not done: what is made of them now would lack them.
    Mutations,
    /// A node reports why it cannot do its part; the words say which and why.
    NodeProblem,
    /// A node is down, or takes no replicas.
    NodeDown,
    /// Too few complete live copies would be left.
    FewCopies,
    /// A leader that is new has not heard yet how the copies are that it would count on.
    Unheard,
    /// Queries that began before may still read what is to go.
    Queries,
}

impl WaitCode {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Turn,
        Self::Frozen,
        Self::ReplicaInFlight,
        Self::Copying,
        Self::Linking,
        Self::Mutations,
        Self::NodeProblem,
        Self::NodeDown,
        Self::FewCopies,
        Self::Unheard,
        Self::Queries,
    ];

    /// As in JSON and on the wire.
    pub fn code(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Frozen => "frozen",
            Self::ReplicaInFlight => "replica_in_flight",
            Self::Copying => "copying",
            Self::Linking => "linking",
            Self::Mutations => "mutations",
            Self::NodeProblem => "node_problem",
            Self::NodeDown => "node_down",
            Self::FewCopies => "few_copies",
            Self::Unheard => "unheard",
            Self::Queries => "queries",
        }
    }

    /// See [`WaitCode::code`].
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_one_code_everywhere() {
        for code in WaitCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.code());
            assert_eq!(WaitCode::from_code(code.code()), Some(code));
        }
    }

    #[test]
    fn an_end_is_an_end_and_only_what_is_being_cancelled_is_cancelled() {
        let all = [State::Running, State::Cancelling, State::Done, State::Cancelled, State::Failed];
        let open = [[0, 1, 1, 0, 1], [0, 0, 1, 1, 1]];
        for (at, from) in all.into_iter().enumerate() {
            let legal = all.map(|to| u8::from(from.may_become(to)));
            assert_eq!(legal, open.get(at).copied().unwrap_or([0; 5]), "{from:?}");
            assert_eq!(from.is_open(), at < open.len(), "{from:?}");
        }
    }

    #[test]
    fn a_split_touches_its_parent_and_its_children() {
        let split = Kind::Split { shard: ShardId(1), cut: 4, left: ShardId(5), right: ShardId(6) };
        assert_eq!(split.to_string(), "split s1 at 4 into s5, s6");
        assert_eq!([0, 1, 5, 6].map(|id| split.touches(ShardId(id))), [false, true, true, true]);
    }
}
