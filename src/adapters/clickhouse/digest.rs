//! What a replica holds of a range of offsets, in a few numbers: read by one thread, after everybody else's queries.
//!
//! Columns that a server computes by itself from more than the row (`MATERIALIZED`, or a `DEFAULT` of the clock or of
//! chance) differ between replicas that are all right, so they do not count; nor do states of aggregate functions.

use super::errcode::Doing;
use super::http::{Call, Settings};
use super::real::{HttpClickHouse, SCAN_DEADLINE};
use super::statement::Statement;
use super::{Error, ddl};
use crate::model::PartitionId;
use crate::model::names::HIDDEN_PREFIX;
use crate::model::table::Column;
use crate::model::verify::Digest;

/// What makes a default's value depend on more than the row.
const UNSTABLE: [&str; 7] = ["now", "today", "yesterday", "rand", "uuid", "hostname", "fuzz"];

/// Whether replicas that took the same message hold the same in this column.
fn counts(column: &Column) -> bool {
    let expression = column.default_expression.to_lowercase();
    let stable = column.default_kind.is_empty() || !UNSTABLE.iter().any(|word| expression.contains(word));
    let stored = matches!(column.default_kind.as_str(), "" | "DEFAULT");
    stored
        && stable
        && !column.name.starts_with(HIDDEN_PREFIX)
        && !column.data_type.contains("AggregateFunction(")
}

impl HttpClickHouse {
    pub(super) async fn digest_of(
        &self,
        database: &str,
        partition: PartitionId,
        (from, below): (i64, i64),
    ) -> Result<Digest, Error> {
        ddl::check_replica_database(database)?;
        let local = Self::local(database);
        let mut columns = self.columns_of(&local).await?;
        if columns.is_empty() {
            return Err(Error::Missing(local.to_string()));
        }
        columns.retain(counts);
        columns.sort_by(|one, other| one.name.cmp(&other.name));
        let offset = |offset: i64| u64::try_from(offset).unwrap_or(0);
        let (from, below, columns) = (offset(from), offset(below), columns.as_slice());
        let can = self.capabilities().await?;
        let settings: Settings =
            [("max_threads", "1"), ("priority", "9")].map(|(name, value)| (name.into(), value.into())).into();
        let call = Call {
            statement: &Statement::Digest { database, partition, from, below, columns },
            doing: Doing::Read,
            what: "comparison of a partition",
            settings,
            deadline: SCAN_DEADLINE,
        };
        let rows = self.transport().rows(call, &can).await?;
        let read = || {
            let [count, distinct, messages, min, max, hash] = rows.first()?.first_chunk::<6>()?;
            let rows: u64 = count.parse().ok()?;
            let offset = |text: &String| text.parse().ok().filter(|_| rows > 0);
            Some(Digest {
                rows,
                distinct: distinct.parse().ok()?,
                messages: messages.parse().ok()?,
                min_offset: offset(min),
                max_offset: offset(max),
                hash: hash.parse().ok()?,
            })
        };
        read().ok_or_else(|| ddl::refused(format!("digest not understood: {rows:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_replicas_share_counts() {
        let column = |name: &str, data_type: &str, kind: &str, expression: &str| Column {
            name: name.into(),
            data_type: data_type.into(),
            default_kind: kind.into(),
            default_expression: expression.into(),
            codec: String::new(),
        };
        assert!(counts(&column("a", "String", "", "")));
        assert!(counts(&column("a", "String", "DEFAULT", "'none'")));
        for other in [
            column("a", "DateTime", "DEFAULT", "now()"),
            column("a", "UInt64", "MATERIALIZED", "length(b)"),
            column("a", "UInt64", "ALIAS", "b + 1"),
            column("_cvh_row", "UInt32", "", ""),
            column("a", "AggregateFunction(sum, UInt64)", "", ""),
        ] {
            assert!(!counts(&other), "{other:?}");
        }
    }
}
