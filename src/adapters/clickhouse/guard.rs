//! Guards: columns whose default throws, so that an insert which goes round the gates or into the `Distributed`
//! table fails at once instead of storing rows without offsets.
//!
//! What they cannot stop: a user who names `_cvh_partition` and writes into the replica's database on purpose.

use super::sql::{GUARD_COLUMN, quote_name, quote_text};
use super::versions::Capabilities;
use crate::model::TableName;
use crate::model::names::{self, OFFSET_COLUMN, PARTITION_COLUMN, ROW_COLUMN};

/// `throwIf(condition[, message])`.
fn throw(condition: &str, message: &str, can: &Capabilities) -> String {
    if can.throw_message {
        format!("throwIf({condition}, {})", quote_text(message))
    } else {
        format!("throwIf({condition})")
    }
}

/// The local table's hidden columns. The partition is the guard: gates always give it, nobody else does.
pub fn local_columns(can: &Capabilities) -> [String; 3] {
    let message = "rows reach this table by its topics: insert into the table that ends in __insert";
    // An offset is always >= 0; the comparison makes the expression depend on a column, or it would be evaluated
    // when the table is made.
    let thrown = throw(&format!("{} >= 0", quote_name(OFFSET_COLUMN)), message, can);
    let kind = if can.defaults_for_omitted { "DEFAULT" } else { "MATERIALIZED" };
    let (ids, numbers) = if can.codecs { (" CODEC(Delta, ZSTD(1))", " CODEC(ZSTD(1))") } else { ("", "") };
    [
        format!("{} UInt32 {kind} toUInt32({thrown}){numbers}", quote_name(PARTITION_COLUMN)),
        format!("{} UInt64{ids}", quote_name(OFFSET_COLUMN)),
        format!("{} UInt32{numbers}", quote_name(ROW_COLUMN)),
    ]
}

/// The guard of the user-facing table. `MATERIALIZED`: not in `SELECT *`, evaluated by every insert.
pub fn distributed_column(name: &TableName, can: &Capabilities) -> String {
    let message = format!("insert into {} or send to the topics", names::insert_table(name));
    format!("{} UInt8 MATERIALIZED {}", quote_name(GUARD_COLUMN), throw("rand() >= 0", &message, can))
}
