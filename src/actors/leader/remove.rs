//! What goes: `DROP TABLE`, given to the cluster (the record says so, agents let go, the table actor forgets at the
//! end), and nodes that are not to come back.

use super::{Lead, create::of_metadata};
use crate::adapters::metadata::{Compare, TxnOutcome, Write, records::Record as _};
use crate::adapters::peers::Error;
use crate::model::control::DropTable;
use crate::model::ids::NodeId;
use crate::model::table::{TableName, TableState};
use crate::model::view::ClusterView;

/// Begins to drop a table. The name is free at once; nodes that are down let go when they come back.
pub async fn drop_table(lead: Lead, request: DropTable) -> Result<(), Error> {
    let name = TableName { database: request.database, table: request.table };
    let found = {
        let view = lead.view.read();
        let id = view.table_named(&name).map(|table| table.id);
        id.and_then(|id| view.tables.get(&id).cloned())
    };
    let Some(found) = found else {
        return if request.if_exists { Ok(()) } else { Err(Error::NotFound(format!("table {name}"))) };
    };
    if let Some(why) = lead.kafka.keeps_topics().filter(|_| request.delete_topics) {
        return Err(Error::Refused(format!("{why}: drop {name} without deleting them")));
    }
    let mut table = found.record.clone();
    table.state = TableState::Dropping;
    table.delete_topics = request.delete_topics;
    let key = lead.keys.table(table.id);
    let compares = vec![Compare::ModifiedAt(key.clone(), found.revision)];
    let writes =
        vec![Write::Put { key, value: table.encode(), lease: None }, Write::Delete(lead.keys.name(&name))];
    match lead.write(compares, writes).await {
        Ok(TxnOutcome::Committed(_)) => {
            tracing::info!(table = %name, id = %table.id, "table is being dropped");
            Ok(())
        }
        Ok(TxnOutcome::Refused) => {
            Err(Error::Unavailable(format!("table {name} changed at the same moment: try again")))
        }
        Err(error) => Err(of_metadata(&error)),
    }
}

/// Things that a refusal names one by one.
const HELD_TOLD: usize = 5;

/// Forgets a node. Its daemon must be gone, since one that runs registers its node anew; and nothing may be on the
/// node any more, so that no copy is given up by it.
pub async fn remove_node(lead: Lead, id: NodeId) -> Result<(), Error> {
    let found = {
        let view = lead.view.read();
        let found = view.nodes.get(&id).cloned().ok_or_else(|| Error::NotFound(format!("node {id}")))?;
        if view.is_live(&id) {
            return Err(Error::Refused(format!(
                "the daemon of {id} runs: drain the node, then stop its daemon"
            )));
        }
        let held = held(&view, &id);
        if !held.is_empty() {
            let told = held.iter().take(HELD_TOLD).cloned().collect::<Vec<_>>().join(", ");
            let more = match held.len().saturating_sub(HELD_TOLD) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Err(Error::Refused(format!("{id} still holds {told}{more}")));
        }
        found
    };
    let (node, live) = (lead.keys.node(&id), lead.keys.live(&id));
    let compares = vec![Compare::ModifiedAt(node.clone(), found.revision), Compare::Absent(live)];
    match lead.write(compares, vec![Write::Delete(node)]).await {
        Ok(TxnOutcome::Committed(_)) => {
            tracing::info!(node = %id, "node forgotten");
            let mut reports = lead.observed.write();
            reports.heartbeats.remove(&id);
            reports.received_ms.remove(&id);
            reports.unfit_since_ms.remove(&id);
            reports.dark_since_ms.remove(&id);
            lead.metrics.forget_heartbeat(id.as_str());
            Ok(())
        }
        Ok(TxnOutcome::Refused) => {
            Err(Error::Unavailable(format!("node {id} changed at the same moment: try again")))
        }
        Err(error) => Err(of_metadata(&error)),
    }
}

/// What the records say is on a node, or on its way to or from it. Pure.
fn held(view: &ClusterView, id: &NodeId) -> Vec<String> {
    let mut held = Vec::new();
    for (table, shards) in &view.shards {
        let record = view.tables.get(table).map(|table| &table.record);
        // A table that is being dropped waits for its nodes: one that is gone for good must not wait for it.
        if record.is_some_and(|record| record.state == TableState::Dropping) {
            continue;
        }
        let name = record.map_or_else(|| table.to_string(), |record| record.name.to_string());
        let here = shards.values().filter(|shard| shard.record.replica_on(id).is_some());
        held.extend(here.map(|shard| format!("{} of {name}", shard.record.id)));
    }
    let open = view.open_operations().filter(|operation| operation.kind.target() == Some(id));
    held.extend(open.map(|operation| format!("the target of {} ({})", operation.id, operation.kind)));
    held
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::operation::{Kind, Operation, State};
    use crate::model::range::PartitionRange;
    use crate::model::table::Shard;
    use crate::model::view::Versioned;
    use crate::model::{OperationId, ShardId, TableId};

    /// Found by reading: the table waited for the node that was lost, and the node could not be removed for the table.
    #[test]
    fn a_table_that_is_being_dropped_holds_no_node() {
        let node = |name: &str| name.parse::<NodeId>().unwrap();
        let mut view = ClusterView::default();
        let range = PartitionRange::new(0, 4).unwrap();
        for state in [TableState::Active, TableState::Dropping] {
            let record = crate::actors::table::decide_tests::table(state, 1, 1);
            let shard = Shard::new(record.id, ShardId(0), range, [node("n1")]);
            view.shards
                .entry(record.id)
                .or_default()
                .insert(ShardId(0), Versioned { record: shard, revision: 1 }.into());
            view.tables.insert(record.id, Versioned { record, revision: 1 }.into());
            assert_eq!(held(&view, &node("n1")).is_empty(), state == TableState::Dropping);
        }
    }

    #[test]
    fn what_a_node_holds_is_named() {
        let node = |name: &str| name.parse::<NodeId>().unwrap();
        let table = TableId(uuid::Uuid::from_u128(7));
        let mut view = ClusterView::default();
        let range = PartitionRange::new(0, 4).unwrap();
        let record = Shard::new(table, ShardId(2), range, [node("n1"), node("n2")]);
        view.shards.entry(table).or_default().insert(ShardId(2), Versioned { record, revision: 1 }.into());
        assert_eq!(held(&view, &node("n1")), [format!("s2 of {table}")]);
        assert_eq!(held(&view, &node("n3")), Vec::<String>::new());
        let record = Operation {
            id: OperationId(5),
            table,
            kind: Kind::Add { shard: ShardId(2), to: node("n3") },
            state: State::Running,
            reason: String::new(),
            outcome: String::new(),
            started_unix_ms: 0,
            ended_unix_ms: 0,
        };
        view.operations.insert(OperationId(5), Versioned { record, revision: 1 }.into());
        assert_eq!(held(&view, &node("n3")), ["the target of o5 (add s2 on n3)"]);
    }
}
