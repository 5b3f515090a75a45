//! Pause and freeze: an operator's brake on the cluster, a table or a shard, with a reason and an end.
//!
//! *Paused*: the cluster begins nothing by itself there, neither splits nor moves; what has begun is finished, what
//! an operator asks for is done, and lost replicas are rebuilt. *Frozen*: nothing moves nor splits there at all: what
//! is asked for is refused, moves under way stand still at their next step, copies stop (what an operator deletes by
//! hand would come back with them), lost replicas are not rebuilt. Two things go on even then, since readers would
//! suffer: leadership goes to a copy that lives, and a split or merge whose children have been made is finished. A hold
//! ends by itself. Pure.

use super::ids::{ShardId, TableId};
use super::table::{Table, TableName};
use super::view::ClusterView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How strong a hold is. The greater one counts where two concern a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Brake {
    /// The cluster begins nothing by itself.
    Pause,
    /// Nothing moves nor splits.
    Freeze,
}

impl Brake {
    /// `paused` or `frozen`: the reason code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Freeze => "frozen",
        }
    }
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything.
    Cluster,
    /// A table with all its shards.
    Table(TableId),
    /// One shard; its children are not held.
    Shard(TableId, ShardId),
}

/// A hold, as stored: one a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// How strong.
    pub brake: Brake,
    /// Why, for those who look later.
    pub reason: String,
    /// When it was set, on the wall clock.
    pub since_unix_ms: u64,
    /// When it ends, on the wall clock of whoever leads then.
    pub until_unix_ms: u64,
}

impl Hold {
    /// Whether it is over.
    pub fn over(&self, now_unix_ms: u64) -> bool {
        self.until_unix_ms <= now_unix_ms
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.brake.code(), self.reason)
    }
}

/// A scope as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedScope {
    /// `None`: the whole cluster.
    pub table: Option<TableName>,
    /// `None`: the whole table.
    pub shard: Option<ShardId>,
}

impl fmt::Display for NamedScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.table, self.shard) {
            (None, _) => f.write_str("the cluster"),
            (Some(table), None) => write!(f, "table {table}"),
            (Some(table), Some(shard)) => write!(f, "shard {shard} of {table}"),
        }
    }
}

/// `hold pause|freeze|release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetHold {
    /// What.
    pub scope: NamedScope,
    /// `None` releases it.
    pub brake: Option<Brake>,
    /// Why.
    pub reason: String,
    /// For how long.
    pub ttl_ms: u64,
}

/// A hold, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// What.
    #[serde(flatten)]
    pub scope: NamedScope,
    /// How strong.
    pub brake: Brake,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since_unix_ms: u64,
    /// Until when.
    pub until_unix_ms: u64,
}

impl fmt::Display for HoldStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} ({})", self.scope, self.brake.code(), self.reason)
    }
}

impl ClusterView {
    /// The strongest hold in force on a shard.
    pub fn held(&self, table: TableId, shard: ShardId, now_unix_ms: u64) -> Option<&Hold> {
        let scopes = [Scope::Cluster, Scope::Table(table), Scope::Shard(table, shard)];
        let set = scopes.iter().filter_map(|scope| self.holds.get(scope)).map(|hold| &hold.record);
        set.filter(|hold| !hold.over(now_unix_ms)).max_by_key(|hold| hold.brake)
    }

    /// The freeze in force on a shard, if any.
    pub fn frozen(&self, table: TableId, shard: ShardId, now_unix_ms: u64) -> Option<&Hold> {
        self.held(table, shard, now_unix_ms).filter(|hold| hold.brake == Brake::Freeze)
    }

    /// A table's frozen shards, and in which words.
    pub fn frozen_shards(&self, table: TableId, now_unix_ms: u64) -> BTreeMap<ShardId, String> {
        if self.holds.is_empty() {
            return BTreeMap::new();
        }
        let shards = self.shards_of(table).map(|shard| shard.id);
        shards
            .filter_map(|shard| Some((shard, self.frozen(table, shard, now_unix_ms)?.to_string())))
            .collect()
    }

    /// Holds in force, as an operator names them; those of tables that are gone are left out. With `of`, only those
    /// that concern that table.
    pub fn holds_in_force(&self, of: Option<&Table>, now_unix_ms: u64) -> Vec<HoldStatus> {
        let name = |id: &TableId| self.tables.get(id).map(|table| table.record.name.clone());
        let concerns = |id: &TableId| of.is_none_or(|table| table.id == *id);
        let named = |scope: &Scope| match scope {
            Scope::Cluster => Some(NamedScope { table: None, shard: None }),
            Scope::Table(id) if concerns(id) => Some(NamedScope { table: Some(name(id)?), shard: None }),
            Scope::Shard(id, shard) if concerns(id) => {
                Some(NamedScope { table: Some(name(id)?), shard: Some(*shard) })
            }
            Scope::Table(_) | Scope::Shard(..) => None,
        };
        let set = self.holds.iter().map(|(scope, hold)| (scope, &hold.record));
        let in_force = set.filter(|(_, hold)| !hold.over(now_unix_ms));
        let status = |(scope, hold): (&Scope, &Hold)| {
            Some(HoldStatus {
                scope: named(scope)?,
                brake: hold.brake,
                reason: hold.reason.clone(),
                since_unix_ms: hold.since_unix_ms,
                until_unix_ms: hold.until_unix_ms,
            })
        };
        in_force.filter_map(status).collect()
    }

    /// Holds that hold nothing any more: over, or of what is gone. Their records may go.
    pub fn idle_holds(&self, now_unix_ms: u64) -> Vec<Scope> {
        let gone = |scope: &Scope| match scope {
            Scope::Cluster => false,
            Scope::Table(id) => !self.tables.contains_key(id),
            Scope::Shard(id, shard) => !self.shards.get(id).is_some_and(|shards| shards.contains_key(shard)),
        };
        let idle = |(scope, hold): (&Scope, &super::view::Versioned<Hold>)| {
            (hold.record.over(now_unix_ms) || gone(scope)).then_some(*scope)
        };
        self.holds.iter().filter_map(idle).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::Versioned;

    fn table(number: u128) -> TableId {
        TableId(uuid::Uuid::from_u128(number))
    }

    fn view(holds: &[(Scope, Brake, u64)]) -> ClusterView {
        let hold = |(scope, brake, until_unix_ms): &(Scope, Brake, u64)| {
            let (reason, since_unix_ms) = ("why".to_owned(), 1);
            let record = Hold { brake: *brake, reason, since_unix_ms, until_unix_ms: *until_unix_ms };
            (*scope, Versioned { record, revision: 1 })
        };
        ClusterView { holds: holds.iter().map(hold).collect(), ..ClusterView::default() }
    }

    #[test]
    fn the_strongest_hold_counts_and_ends_by_itself() {
        let (a, s) = (table(1), ShardId(4));
        let view = view(&[
            (Scope::Cluster, Brake::Pause, 100),
            (Scope::Table(a), Brake::Freeze, 50),
            (Scope::Shard(table(2), s), Brake::Freeze, 70),
        ]);
        let code = |of, shard, now| view.held(of, shard, now).map(|hold| hold.brake.code());
        assert_eq!(code(a, s, 49), Some("frozen"));
        assert_eq!(code(a, s, 50), Some("paused"), "a hold is over at its end");
        assert_eq!(code(a, s, 100), None);
        assert_eq!(code(table(2), s, 10), Some("frozen"));
        assert_eq!(code(table(2), ShardId(5), 10), Some("paused"), "a shard's hold is the shard's alone");
        assert!(view.frozen(a, s, 60).is_none(), "a pause is no freeze");
    }

    #[test]
    fn holds_of_what_is_gone_hold_nothing() {
        let view = view(&[(Scope::Cluster, Brake::Pause, 100), (Scope::Table(table(1)), Brake::Freeze, 100)]);
        assert_eq!(view.idle_holds(10), [Scope::Table(table(1))]);
        assert_eq!(view.idle_holds(100), [Scope::Cluster, Scope::Table(table(1))]);
        let shown: Vec<String> = view.holds_in_force(None, 10).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["the cluster is paused (why)"]);
    }
}
