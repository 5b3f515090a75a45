//! Rows from a client to their topics (C5): ClickHouse says which partition each row belongs to, each row becomes
//! one message of that partition's topic, and every replica's consumer takes it from there.
//!
//! All rows are acknowledged by Kafka, or the client is told otherwise. A client that repeats an insert whose answer
//! it never got sends its rows twice, as with any queue; it should send them again only if told so.

use super::leader::create::{of_clickhouse, of_kafka};
use super::replica::encode;
use crate::adapters::clickhouse::ClickHouse;
use crate::adapters::kafka::{Kafka, Outgoing};
use crate::adapters::peers::Error;
use crate::model::control::Inserted;
use crate::model::names;
use crate::model::table::{MessageFormat, Table};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Sends the rows of `body` to their topics.
pub async fn insert(
    clickhouse: &dyn ClickHouse,
    kafka: &dyn Kafka,
    table: &Table,
    format: MessageFormat,
    body: Bytes,
) -> Result<Inserted, Error> {
    if format != table.source.format {
        return Err(Error::Invalid(format!(
            "table {} takes its messages as {}, these rows are {format}",
            table.name, table.source.format
        )));
    }
    let rows = encode::split(format, &body).map_err(|reason| Error::Invalid(format!("rows: {reason}")))?;
    if rows.is_empty() {
        return Ok(Inserted { rows: 0, partitions: 0 });
    }
    let partitions = clickhouse
        .partitions_of(&table.schema, &table.partition_by, table.partitions, format, body.clone())
        .await
        .map_err(of_clickhouse)?;
    if partitions.len() != rows.len() {
        return Err(Error::Invalid(format!(
            "the body has {} rows for us and {} for ClickHouse: check the format",
            rows.len(),
            partitions.len()
        )));
    }
    let count = rows.len() as u64;
    let distinct: BTreeSet<_> = partitions.iter().copied().collect();
    let outgoing = rows.into_iter().zip(partitions).map(|(row, partition)| Outgoing {
        target: names::topic_partition(&table.source, partition),
        payload: Some(row),
        headers: Vec::new(),
    });
    kafka.produce(outgoing.collect()).await.map_err(of_kafka)?;
    let partitions = u32::try_from(distinct.len()).expect("partitions are u32");
    Ok(Inserted { rows: count, partitions })
}
