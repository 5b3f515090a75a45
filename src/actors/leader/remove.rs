//! `DROP TABLE`, given to the cluster: the record says so, agents let go, the table actor forgets at the end.

use super::{Lead, create::of_metadata};
use crate::adapters::metadata::{Compare, TxnOutcome, Write, records::Record as _};
use crate::adapters::peers::Error;
use crate::model::control::DropTable;
use crate::model::table::{TableName, TableState};

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
