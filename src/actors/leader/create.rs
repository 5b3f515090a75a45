//! `CREATE TABLE`, given to the cluster: check everything, make the topics, write one record.
//!
//! The table actor does the rest from that record, whoever leads by then. Until the record is written nothing but
//! topics was made, so a request may be repeated after any failure.

use super::{Lead, parse, status, target};
use crate::actors::replica::encode;
use crate::adapters::kafka::{self, NewTopic};
use crate::adapters::metadata::{Compare, TxnOutcome, Write, records::Record as _};
use crate::adapters::peers::Error;
use crate::adapters::{clickhouse, metadata};
use crate::error::{Coded, Retry};
use crate::model::control::{CreateTable, DdlAsked, ParsedDdl, TableStatus};
use crate::model::ids::{Epoch, NodeId, PartitionId, ShardId, TableId};
use crate::model::names;
use crate::model::range::PartitionRange;
use crate::model::table::{BatchLimits, ReplicationMode, Schema, Shard, Source};
use crate::model::table::{Table, TableName, TableState, TopicLayout};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most partitions of a table.
const PARTITIONS_MAX: u32 = 65_536;
/// How names of settings begin that say how rows are read.
const PARSING: [&str; 8] = [
    "input_format_",
    "format_",
    "date_time_input_format",
    "bool_",
    "precise_float_parsing",
    "type_json_",
    "json_type_",
    "session_timezone",
];
/// What settings say in their names that have a server leave rows out: how many lines it skips, how many errors it
/// overlooks.
const LOSSY: [&str; 2] = ["_skip_first_lines", "_allow_errors_"];
/// Topics looked at at once.
const LOOKS_AT_ONCE: usize = 16;
/// How long new topics may take to get their leaders.
const TOPICS_READY_WITHIN_MS: u64 = 15_000;
/// Longest wait for our own write to show in the view.
const SHOWS_AFTER_MAX_MS: u64 = 5_000;

/// Makes a table; returns once its record is written.
pub async fn create_table(lead: Lead, request: CreateTable) -> Result<TableStatus, Error> {
    check_numbers(&lead, &request)?;
    let asked = DdlAsked { ddl: request.ddl.clone(), partition_by: request.partition_by.clone() };
    let ParsedDdl { name, schema, partition_by } = parse::anywhere(&lead, &asked).await?;
    if let Some(existing) = existing(&lead, &name, &schema, &request)? {
        return Ok(existing);
    }
    // Of a table that is there nothing of this matters any more.
    check_settings(&request).map_err(Error::Invalid)?;
    if let Some(node) = &request.first_node {
        target::able(&lead.view.read(), &lead.observed.read().heartbeats, node)?;
    }
    check_expression(&request.partition_by, partition_by)?;
    let mut table = record(&lead, name, schema, &request);
    check_topics_free(&lead, &table)?;
    if request.dry_run {
        return Ok(status::of_new(&table));
    }
    let asked = Some(request.topic_replication).filter(|copies| *copies > 0);
    let copies = asked.unwrap_or(lead.topic_replication);
    tracing::debug!(table = %table.name, topics = table.source.topic_prefix, "making topics");
    create_topics(&lead, &table.source, table.partitions, copies).await?;
    table.origin_offsets = origins(&lead, &table).await?.into();
    // One at a time from the last look at the topics until the record can be seen: of two requests for the same topics
    // at the same moment the second is refused.
    let _turn = lead.creating.lock().await;
    check_topics_free(&lead, &table)?;
    write(&lead, &table, request.first_node).await?;
    shown(&lead, table.id).await;
    let view = lead.view.read();
    let reports = lead.observed.read();
    Ok(view.tables.get(&table.id).map_or_else(
        || status::of_new(&table),
        |record| status::table(&view, &reports, &record.record, lead.clock.unix_ms()),
    ))
}

fn check_numbers(lead: &Lead, request: &CreateTable) -> Result<(), Error> {
    let invalid = |text: String| Err(Error::Invalid(text));
    if request.partitions == 0 || request.partitions > PARTITIONS_MAX {
        return invalid(format!("partitions must be 1 to {PARTITIONS_MAX}, not {}", request.partitions));
    }
    if request.shards == 0 || request.shards > request.partitions {
        let most = request.partitions;
        return invalid(format!(
            "shards must be 1 to {most} (the number of partitions), not {}",
            request.shards
        ));
    }
    let nodes = lead.view.read().nodes.len();
    if request.replicas == 0 {
        return invalid("replicas must be at least 1".into());
    }
    if request.replicas as usize > nodes {
        return Err(Error::Refused(format!(
            "{} replicas a shard need as many nodes, and {nodes} are registered: add nodes first, or ask for fewer \
             replicas",
            request.replicas
        )));
    }
    if request.partition_by.trim().is_empty() {
        return invalid("partition_by must be an integer expression over the table's columns".into());
    }
    check_batch(request).or_else(invalid)
}

/// How rows are read from messages.
fn check_settings(request: &CreateTable) -> Result<(), String> {
    for (key, value) in encode::required_settings(request.format) {
        if request.format_settings.get(*key).is_some_and(|given| given != value) {
            let format = request.format;
            return Err(format!("setting {key} must stay {value:?} for {format}: rows are cut apart by it"));
        }
    }
    for name in request.format_settings.keys() {
        if !PARSING.iter().any(|prefix| name.starts_with(prefix)) {
            let known = PARSING.join(", ");
            return Err(format!("setting {name} is none for parsing messages: those begin with {known}"));
        }
        if LOSSY.iter().any(|part| name.contains(part)) {
            return Err(format!("setting {name} would have the server drop rows in silence: leave it out"));
        }
    }
    Ok(())
}

/// How many messages go into an insert, and how long they wait for it.
fn check_batch(request: &CreateTable) -> Result<(), String> {
    let (batch, rows, ages) = (&request.batch, BatchLimits::ROWS, BatchLimits::AGE_MS);
    if !rows.contains(&batch.rows_max) {
        let (least, most) = (rows.start(), rows.end());
        return Err(format!("batch rows must be {least} to {most}, not {}", batch.rows_max));
    }
    if !ages.contains(&batch.age_max_ms) {
        let (least, most) = (ages.start(), ages.end());
        return Err(format!("batch age must be {least} to {most} ms, not {}", batch.age_max_ms));
    }
    Ok(())
}

fn existing(
    lead: &Lead,
    name: &TableName,
    schema: &Schema,
    request: &CreateTable,
) -> Result<Option<TableStatus>, Error> {
    let view = lead.view.read();
    let Some(table) = view.table_named(name) else { return Ok(None) };
    if !request.if_not_exists {
        return Err(Error::Exists(format!("table {name}")));
    }
    let shards: Vec<&Shard> = view.shards_of(table.id).collect();
    let differs = differences(table, &shards, schema, request);
    if differs.is_empty() {
        return Ok(Some(status::table(&view, &lead.observed.read(), table, lead.clock.unix_ms())));
    }
    Err(Error::Exists(format!("table {name} with another definition ({})", differs.join(", "))))
}

/// In what a table is not the one that is asked for.
fn differences(table: &Table, shards: &[&Shard], schema: &Schema, request: &CreateTable) -> Vec<String> {
    let mut differs = Vec::new();
    let mut compare = |what: &str, is: String, asked: String| {
        if is != asked {
            differs.push(format!("{what} {is}, not {asked}"));
        }
    };
    let source = &table.source;
    compare("partitions", table.partitions.to_string(), request.partitions.to_string());
    compare("replicas", table.replicas.to_string(), request.replicas.to_string());
    // Once shards were split or merged, nobody knows any more how many there were to begin with.
    if shards.iter().all(|shard| shard.parents.is_empty()) {
        compare("shards", table.next_shard.to_string(), request.shards.to_string());
    }
    compare("partition expression", table.partition_by.clone(), request.partition_by.clone());
    compare("format", source.format.to_string(), request.format.to_string());
    let settings = |all: &BTreeMap<String, String>| {
        let each: Vec<_> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if each.is_empty() { "none".to_owned() } else { each.join(" ") }
    };
    compare("format settings", settings(&source.format_settings), settings(&request.format_settings));
    let batch = (source.batch, request.batch);
    compare("batch rows", batch.0.rows_max.to_string(), batch.1.rows_max.to_string());
    compare("batch bytes", batch.0.bytes_max.to_string(), batch.1.bytes_max.to_string());
    compare("batch age", format!("{} ms", batch.0.age_max_ms), format!("{} ms", batch.1.age_max_ms));
    compare("topic layout", format!("{:?}", source.layout), format!("{:?}", request.layout));
    if let Some(prefix) = &request.topic_prefix {
        compare("topic prefix", source.topic_prefix.clone(), prefix.clone());
    }
    if table.schema != *schema {
        differs.push("its CREATE TABLE".into());
    }
    differs
}

/// What it is to the server: a type, or a refusal.
fn check_expression(expression: &str, data_type: Result<String, String>) -> Result<(), Error> {
    let invalid = |text: String| Err(Error::Invalid(format!("partition expression {expression:?}{text}")));
    match data_type {
        Ok(data_type) if is_integer(&data_type) => Ok(()),
        Ok(data_type) => {
            invalid(format!(" is {data_type}, not an integer: wrap it, as in cityHash64({expression})"))
        }
        Err(refusal) => invalid(format!(": {refusal}")),
    }
}

/// By name: `IntervalDay` begins as integers do, and wider ones are not what producers compute with.
fn is_integer(data_type: &str) -> bool {
    let width = data_type.strip_prefix('U').unwrap_or(data_type).strip_prefix("Int");
    width.is_some_and(|width| ["8", "16", "32", "64"].contains(&width))
}

fn record(lead: &Lead, name: TableName, schema: Schema, request: &CreateTable) -> Table {
    let id = (u128::from(lead.clock.random()) << 64) | u128::from(lead.clock.random());
    let id = TableId(uuid::Builder::from_random_bytes(id.to_be_bytes()).into_uuid());
    let prefix = request.topic_prefix.clone().unwrap_or_else(|| names::topic_prefix(&name));
    Table {
        id,
        name,
        state: TableState::Creating,
        schema,
        ddl: request.ddl.clone(),
        partitions: request.partitions,
        replicas: request.replicas,
        partition_by: request.partition_by.clone(),
        mode: ReplicationMode::Log,
        source: Source {
            topic_prefix: prefix,
            layout: request.layout,
            format: request.format,
            format_settings: request.format_settings.clone(),
            batch: request.batch,
        },
        epoch: Epoch(0),
        next_shard: request.shards,
        origin_offsets: Default::default(),
        delete_topics: false,
        published_by: BTreeMap::new(),
    }
}

/// Two tables on the same topics would each take the other's messages.
fn check_topics_free(lead: &Lead, table: &Table) -> Result<(), Error> {
    let prefix = &table.source.topic_prefix;
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if prefix.is_empty() || prefix.len() > 200 || !prefix.chars().all(legal) {
        return Err(Error::Invalid(format!(
            "topic prefix {prefix:?} must be 1 to 200 letters, digits, '.', '_' or '-' (Kafka's rule)"
        )));
    }
    let topics = names::topics(&table.source, table.partitions);
    let view = lead.view.read();
    // Of a table that is being dropped the topics count for as long as they are still to be deleted: deleting them
    // later would take the new table's messages.
    let holds = |other: &&Table| other.state != TableState::Dropping || other.delete_topics;
    let shares = |other: &&Table| !names::topics(&other.source, other.partitions).is_disjoint(&topics);
    let taken = view.tables.values().map(|t| &t.record).filter(holds).find(shares);
    taken.map_or(Ok(()), |other| {
        let whose = format!("{}.*, the topics of {}", other.source.topic_prefix, other.name);
        Err(match other.state {
            TableState::Dropping => Error::Unavailable(format!(
                "{whose} are still being deleted with it: try again once they are gone, or choose another topic prefix"
            )),
            _ => Error::Exists(format!("a table on {whose}; choose another topic prefix,")),
        })
    })
}

async fn create_topics(lead: &Lead, source: &Source, partitions: u32, replication: i32) -> Result<(), Error> {
    let count = i32::try_from(partitions).expect("checked against PARTITIONS_MAX");
    let topic =
        |name: String, partitions: i32| NewTopic { name, partitions, replication, settings: Vec::new() };
    let mut topics: Vec<NewTopic> = match source.layout {
        TopicLayout::OneTopic => vec![topic(source.topic_prefix.clone(), count)],
        TopicLayout::TopicPerPartition => {
            let name = |p| names::topic_partition(source, PartitionId(p)).topic;
            (0..partitions).map(|p| topic(name(p), 1)).collect()
        }
    };
    topics.push(topic(names::dead_letter_topic(source), 1));
    for some in topics.chunks(100) {
        lead.kafka.create_topics(some).await.map_err(of_kafka)?;
    }
    Ok(())
}

/// Where each partition's history begins: topics may have been there, and filled, before the table.
async fn origins(lead: &Lead, table: &Table) -> Result<BTreeMap<PartitionId, i64>, Error> {
    let look = |partition: PartitionId| {
        let (kafka, source) = (lead.kafka.clone(), names::topic_partition(&table.source, partition));
        let until_ms = lead.clock.now_ms() + TOPICS_READY_WITHIN_MS;
        async move {
            // A topic just made has no leader for a moment: that is no reason to refuse the table.
            loop {
                match kafka.watermarks(&source).await {
                    Ok(watermarks) => return Ok::<_, kafka::Error>((partition, watermarks.low)),
                    Err(error) if error.retry() == Retry::Safe && lead.clock.now_ms() < until_ms => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    };
    let looks = stream::iter((0..table.partitions).map(PartitionId).map(look)).buffered(LOOKS_AT_ONCE);
    looks.try_collect().await.map_err(of_kafka)
}

/// The first shard with its first replica, where the caller named a node (C2): the rest follows by itself.
fn first_shard(table: &Table, node: NodeId) -> Option<Shard> {
    let range = *PartitionRange::divide(table.partitions, table.next_shard)?.first()?;
    Some(Shard::new(table.id, ShardId(0), range, [node]))
}

async fn write(lead: &Lead, table: &Table, first: Option<NodeId>) -> Result<(), Error> {
    let name = lead.keys.name(&table.name);
    let compares = vec![Compare::Absent(name.clone())];
    let mut writes = vec![
        Write::Put { key: name, value: table.id.encode(), lease: None },
        Write::Put { key: lead.keys.table(table.id), value: table.encode(), lease: None },
    ];
    if let Some(shard) = first.and_then(|node| first_shard(table, node)) {
        let key = lead.keys.shard(table.id, shard.id);
        writes.push(Write::Put { key, value: shard.encode(), lease: None });
    }
    match lead.write(compares, writes).await {
        Ok(TxnOutcome::Committed(_)) => {
            tracing::info!(table = %table.name, id = %table.id, shards = table.next_shard, "table recorded");
            Ok(())
        }
        Ok(TxnOutcome::Refused) => match lead.store.get(&lead.keys.name(&table.name)).await {
            Ok(Some(_)) => Err(Error::Exists(format!("table {}", table.name))),
            _ => Err(Error::NoLeader("this daemon's term ended meanwhile".into())),
        },
        Err(error) if error.retry() == Retry::OutcomeUnknown => {
            match lead.store.get(&lead.keys.table(table.id)).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(of_metadata(&error)),
                Err(_) => Err(Error::OutcomeUnknown(error.to_string())),
            }
        }
        Err(error) => Err(of_metadata(&error)),
    }
}

async fn shown(lead: &Lead, table: TableId) {
    let until = lead.clock.now_ms() + SHOWS_AFTER_MAX_MS;
    while !lead.view.read().tables.contains_key(&table) && lead.clock.now_ms() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a part said, and what helps there: the request's own remedy names no part.
fn with_remedy(error: &impl Coded) -> String {
    format!("{}; {}", error.told(), error.remedy())
}

/// A ClickHouse error as the answer to a request.
pub fn of_clickhouse(error: clickhouse::Error) -> Error {
    let told = error.told();
    match error {
        clickhouse::Error::Refused { .. } | clickhouse::Error::BadRows { .. } => Error::Invalid(told),
        clickhouse::Error::Conflict(_) => Error::Refused(told),
        clickhouse::Error::Denied(_) => Error::Refused(with_remedy(&error)),
        _ => Error::Unavailable(with_remedy(&error)),
    }
}

/// A Kafka error as the answer to a request.
pub fn of_kafka(error: kafka::Error) -> Error {
    let told = error.told();
    match error {
        kafka::Error::Invalid(_) | kafka::Error::TooLarge(_) => Error::Invalid(told),
        kafka::Error::OutcomeUnknown { .. } => Error::OutcomeUnknown(told),
        // Nothing that trying again would help.
        kafka::Error::Denied(_) => Error::Refused(with_remedy(&error)),
        _ => Error::Unavailable(with_remedy(&error)),
    }
}

/// A store's error as the answer to a request.
pub fn of_metadata(error: &metadata::Error) -> Error {
    match error {
        metadata::Error::Denied(_) => Error::Refused(with_remedy(error)),
        metadata::Error::OutcomeUnknown(_) => Error::OutcomeUnknown(error.told()),
        _ => Error::Unavailable(with_remedy(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::table::MessageFormat;

    #[test]
    fn settings_that_parse_nothing_or_lose_rows_and_odd_batches_are_refused() {
        let told = |settings: &[(&str, &str)], batch: BatchLimits| {
            let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let request = CreateTable {
                ddl: String::new(),
                partitions: 1,
                shards: 1,
                replicas: 1,
                partition_by: "a".into(),
                topic_prefix: None,
                layout: TopicLayout::OneTopic,
                topic_replication: -1,
                format: MessageFormat::CSV,
                format_settings: settings.collect(),
                batch,
                first_node: None,
                dry_run: false,
                if_not_exists: false,
            };
            check_settings(&request).and_then(|()| check_batch(&request))
        };
        let default = BatchLimits::default();
        let good = [
            ("input_format_skip_unknown_fields", "1"),
            ("format_csv_delimiter", ","),
            ("date_time_input_format", "best_effort"),
            ("bool_true_representation", "yes"),
            ("session_timezone", "UTC"),
        ];
        assert_eq!(told(&good, default), Ok(()));
        for (name, why) in [
            ("input_format_csv_skip_first_lines", "drop rows in silence"),
            ("input_format_tsv_skip_first_lines", "drop rows in silence"),
            ("input_format_allow_errors_num", "drop rows in silence"),
            ("input_format_allow_errors_ratio", "drop rows in silence"),
            ("query", "none for parsing"),
            ("password", "none for parsing"),
            ("max_insert_block_size", "none for parsing"),
            ("", "none for parsing"),
        ] {
            let refused = told(&[(name, "1")], default).unwrap_err();
            assert!(refused.contains(why), "{name}: {refused}");
        }
        assert!(told(&[("format_csv_delimiter", ";")], default).unwrap_err().contains("must stay \",\""));
        for age_max_ms in [0, 9, 3_600_001, u64::MAX] {
            let refused = told(&[], BatchLimits { age_max_ms, ..default }).unwrap_err();
            assert!(refused.contains("batch age must be 10 to 3600000 ms"), "{refused}");
        }
        assert!(told(&[], BatchLimits { rows_max: 0, ..default }).is_err());
    }

    #[test]
    fn only_plain_integers_are_partition_expressions() {
        let plain = ["Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"];
        assert!(plain.iter().all(|data_type| is_integer(data_type)));
        for other in [
            "IntervalDay",
            "Int128",
            "UInt128",
            "Int256",
            "UInt256",
            "UUInt8",
            "Int",
            "UInt",
            "U",
            "",
            "Nullable(UInt64)",
            "LowCardinality(UInt8)",
            "String",
            "Float64",
            "Date",
            "int8",
        ] {
            assert!(!is_integer(other), "{other}");
        }
        let told = |data_type| check_expression("d", data_type).unwrap_err().to_string();
        let shown = "partition expression \"d\" is IntervalDay, not an integer: wrap it, as in cityHash64(d)";
        assert_eq!(told(Ok("IntervalDay".into())), shown);
        assert_eq!(told(Err("no column".into())), "partition expression \"d\": no column");
    }
}
