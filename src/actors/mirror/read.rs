//! From the store's bytes to the view's records. Pure.

use crate::adapters::metadata::Change;
use crate::adapters::metadata::keys::{Key, Keys};
use crate::adapters::metadata::records::{self, Record as _};
use crate::model::balance::{BalanceSetting, PlanRun};
use crate::model::hold::Hold;
use crate::model::view::{Leader, Live, Record, Versioned};
use crate::model::{Node, Operation, Shard, Table, Term};

/// The record that a change brings; `None` for keys that a view does not hold.
pub fn read(keys: &Keys, change: &Change) -> Result<Option<Record>, String> {
    let (key, pair) = match change {
        Change::Put(pair) => (&pair.key, Some(pair)),
        Change::Delete { key, .. } => (key, None),
    };
    let parsed = keys.parse(key).map_err(|error| error.to_string())?;
    let told = |error: records::DecodeError| error.to_string();
    let record = match (parsed, pair) {
        (Key::Leader, None) => Record::Leader(None),
        (Key::Leader, Some(pair)) => {
            let leader = records::Leader::decode(key, &pair.value).map_err(told)?;
            let term = Term(pair.create_revision);
            Record::Leader(Some(Leader { node: leader.node, daemon_url: leader.daemon_url, term }))
        }
        (Key::Node(id), None) => Record::Node(id, None),
        (Key::Node(id), Some(pair)) => {
            let record = Node::decode(key, &pair.value).map_err(told)?;
            Record::Node(id, Some(Versioned { record, revision: pair.mod_revision }))
        }
        (Key::Live(id), None) => Record::Live(id, None),
        (Key::Live(id), Some(pair)) => {
            let live = records::Live::decode(key, &pair.value).map_err(told)?;
            Record::Live(id, Some(Live { incarnation: live.incarnation, daemon_url: live.daemon_url }))
        }
        (Key::Table(id), None) => Record::Table(id, None),
        (Key::Table(id), Some(pair)) => {
            let record = Table::decode(key, &pair.value).map_err(told)?;
            Record::Table(id, Some(Versioned { record, revision: pair.mod_revision }.into()))
        }
        (Key::Shard(table, id), None) => Record::Shard(table, id, None),
        (Key::Shard(table, id), Some(pair)) => {
            let record = Shard::decode(key, &pair.value).map_err(told)?;
            Record::Shard(table, id, Some(Versioned { record, revision: pair.mod_revision }.into()))
        }
        (Key::Operation(id), None) => Record::Operation(id, None),
        (Key::Operation(id), Some(pair)) => {
            let record = Operation::decode(key, &pair.value).map_err(told)?;
            Record::Operation(id, Some(Versioned { record, revision: pair.mod_revision }.into()))
        }
        (Key::Hold(scope), None) => Record::Hold(scope, None),
        (Key::Hold(scope), Some(pair)) => {
            let record = Hold::decode(key, &pair.value).map_err(told)?;
            Record::Hold(scope, Some(Versioned { record, revision: pair.mod_revision }))
        }
        (Key::Balance, None) => Record::Balance(None),
        (Key::Balance, Some(pair)) => {
            let record = BalanceSetting::decode(key, &pair.value).map_err(told)?;
            Record::Balance(Some(Versioned { record, revision: pair.mod_revision }))
        }
        (Key::Plan, None) => Record::PlanRun(None),
        (Key::Plan, Some(pair)) => {
            let record = PlanRun::decode(key, &pair.value).map_err(told)?;
            Record::PlanRun(Some(Box::new(Versioned { record, revision: pair.mod_revision })))
        }
        (Key::Name(_), _) => return Ok(None),
    };
    Ok(Some(record))
}
