//! The `Agent` service: heartbeats, and tables that are to be made.

use super::{Malformed, each, node, table_id};
use crate::adapters::schema_wire;
use crate::model::control::ParsedDdl;
use crate::model::observed::{CopyWay, Heartbeat, PartitionProgress, ReplicaObservation, Seeding, Stall};
use crate::model::{Epoch, PartitionId, ShardId, TableId, TableName};
use crate::wire;
use std::collections::BTreeMap;

/// One heartbeat; a replica or partition named twice is malformed.
pub fn heartbeat_from_wire(w: &wire::HeartbeatRequest) -> Result<Heartbeat, Malformed> {
    let mut replicas: BTreeMap<TableId, BTreeMap<ShardId, ReplicaObservation>> = BTreeMap::new();
    for (at, report) in w.replicas.iter().enumerate() {
        let place = format!("replicas[{at}]");
        let table = table_id("table_id", &report.table_id).map_err(|e| e.within(&place))?;
        let observation = replica_from_wire(report).map_err(|e| e.within(&place))?;
        if replicas.entry(table).or_default().insert(ShardId(report.shard), observation).is_some() {
            return Err(Malformed::new(place, "this replica is reported twice"));
        }
    }
    let epoch = |field, (id, epoch): (&String, &u64)| Ok((table_id(field, id)?, Epoch(*epoch)));
    let epochs = w.epochs.iter().map(|entry| epoch("epochs", entry));
    let settled = w.settled.iter().map(|entry| epoch("settled", entry));
    Ok(Heartbeat {
        node: node("node", &w.node)?,
        incarnation: w.incarnation,
        clickhouse_up: w.clickhouse_up,
        clickhouse_error: w.clickhouse_error.clone(),
        clickhouse_version: w.clickhouse_version.clone(),
        kafka_error: w.kafka_error.clone(),
        disk_free_bytes: w.disk_free_bytes,
        disk_total_bytes: w.disk_total_bytes,
        replicas,
        epochs: epochs.collect::<Result<_, Malformed>>()?,
        settled: settled.collect::<Result<_, Malformed>>()?,
        dropped: each("dropped", &w.dropped, |id| table_id("id", id))?,
    })
}

/// See [`heartbeat_from_wire`].
pub fn heartbeat_to_wire(m: &Heartbeat) -> wire::HeartbeatRequest {
    let reports = m.replicas.iter().flat_map(|(table, shards)| {
        shards.iter().map(|(shard, observation)| replica_to_wire(*table, *shard, observation))
    });
    wire::HeartbeatRequest {
        node: m.node.to_string(),
        incarnation: m.incarnation,
        clickhouse_up: m.clickhouse_up,
        clickhouse_error: m.clickhouse_error.clone(),
        clickhouse_version: m.clickhouse_version.clone(),
        kafka_error: m.kafka_error.clone(),
        disk_free_bytes: m.disk_free_bytes,
        disk_total_bytes: m.disk_total_bytes,
        replicas: reports.collect(),
        epochs: m.epochs.iter().map(|(table, epoch)| (table.to_string(), epoch.0)).collect(),
        settled: m.settled.iter().map(|(table, epoch)| (table.to_string(), epoch.0)).collect(),
        dropped: m.dropped.iter().map(ToString::to_string).collect(),
    }
}

/// A table as a server read it.
pub fn parsed_to_wire(m: ParsedDdl) -> wire::ParseDdlResponse {
    use wire::parse_ddl_response::PartitionBy as W;
    wire::ParseDdlResponse {
        database: m.name.database,
        table: m.name.table,
        schema: Some(schema_wire::to_wire(&m.schema)),
        partition_by: Some(m.partition_by.map_or_else(W::Refusal, W::DataType)),
    }
}

/// See [`parsed_to_wire`].
pub fn parsed_from_wire(w: wire::ParseDdlResponse) -> Result<ParsedDdl, Malformed> {
    use wire::parse_ddl_response::PartitionBy as W;
    Ok(ParsedDdl {
        name: TableName { database: w.database, table: w.table },
        schema: schema_wire::from_wire(w.schema.ok_or_else(|| Malformed::absent("schema"))?),
        partition_by: match w.partition_by.ok_or_else(|| Malformed::absent("partition_by"))? {
            W::DataType(data_type) => Ok(data_type),
            W::Refusal(refusal) => Err(refusal),
        },
    })
}

fn replica_from_wire(w: &wire::ReplicaReport) -> Result<ReplicaObservation, Malformed> {
    let mut partitions = BTreeMap::new();
    for report in &w.partitions {
        let progress = PartitionProgress {
            next_offset: report.next_offset,
            end_offset: report.end_offset,
            reach_offset: report.reach_offset,
            stall: report.stall.as_ref().map(stall_from_wire).transpose()?,
        };
        if partitions.insert(PartitionId(report.partition), progress).is_some() {
            let twice = format!("partition {} is reported twice", report.partition);
            return Err(Malformed::new("partitions", twice));
        }
    }
    Ok(ReplicaObservation {
        since: Epoch(w.since),
        serving: w.serving,
        bare: w.bare,
        bytes: w.bytes,
        rows: w.rows,
        parts: w.parts,
        partitions,
        dead_letters: w.dead_letters,
        batch_age_ms: w.batch_age_ms,
        problem: w.problem.clone(),
        seeding: w.seeding.as_ref().map(seeding_from_wire),
    })
}

pub(super) fn seeding_from_wire(w: &wire::SeedingReport) -> Seeding {
    Seeding {
        done: w.partitions_done,
        of: w.partitions_of,
        bytes_done: w.bytes_done,
        bytes_of: w.bytes_of,
        bytes_moved: w.bytes_moved,
        elapsed_ms: w.elapsed_ms,
        way: w.by_select.clone().map_or(CopyWay::Parts, |why| CopyWay::Select { why }),
    }
}

pub(super) fn seeding_to_wire(m: Seeding) -> wire::SeedingReport {
    wire::SeedingReport {
        partitions_done: m.done,
        partitions_of: m.of,
        bytes_done: m.bytes_done,
        bytes_of: m.bytes_of,
        bytes_moved: m.bytes_moved,
        elapsed_ms: m.elapsed_ms,
        by_select: match m.way {
            CopyWay::Parts => None,
            CopyWay::Select { why } => Some(why),
        },
    }
}

fn replica_to_wire(table: TableId, shard: ShardId, m: &ReplicaObservation) -> wire::ReplicaReport {
    let partition = |(partition, progress): (&PartitionId, &PartitionProgress)| wire::PartitionReport {
        partition: partition.0,
        next_offset: progress.next_offset,
        end_offset: progress.end_offset,
        reach_offset: progress.reach_offset,
        stall: progress.stall.clone().map(stall_to_wire),
    };
    wire::ReplicaReport {
        table_id: table.to_string(),
        shard: shard.0,
        since: m.since.0,
        serving: m.serving,
        bare: m.bare,
        bytes: m.bytes,
        rows: m.rows,
        parts: m.parts,
        partitions: m.partitions.iter().map(partition).collect(),
        dead_letters: m.dead_letters,
        batch_age_ms: m.batch_age_ms,
        problem: m.problem.clone(),
        seeding: m.seeding.clone().map(seeding_to_wire),
    }
}

/// Why a partition stands still.
pub(super) fn stall_from_wire(w: &wire::StallReport) -> Result<Stall, Malformed> {
    use wire::stall_report::Reason;
    Ok(match w.reason.as_ref().ok_or_else(|| Malformed::absent("stall.reason"))? {
        Reason::TopicMissing(_) => Stall::TopicMissing,
        Reason::OffsetsGone(gone) => Stall::OffsetsGone { from: gone.from, to: gone.to },
        Reason::TopicReplaced(topic) => Stall::TopicReplaced { next: topic.next, end: topic.end },
        Reason::ServerRefuses(refusal) => Stall::ServerRefuses { error: refusal.error.clone() },
        Reason::DeadLetterUnavailable(trouble) => {
            Stall::DeadLetterUnavailable { error: trouble.error.clone() }
        }
        Reason::KafkaUnreachable(trouble) => Stall::KafkaUnreachable { error: trouble.error.clone() },
    })
}

/// See [`stall_from_wire`].
pub(super) fn stall_to_wire(m: Stall) -> wire::StallReport {
    use wire::stall_report as s;
    let reason = match m {
        Stall::TopicMissing => s::Reason::TopicMissing(s::TopicMissing {}),
        Stall::OffsetsGone { from, to } => s::Reason::OffsetsGone(s::OffsetsGone { from, to }),
        Stall::TopicReplaced { next, end } => s::Reason::TopicReplaced(s::TopicReplaced { next, end }),
        Stall::ServerRefuses { error } => s::Reason::ServerRefuses(s::ServerRefuses { error }),
        Stall::DeadLetterUnavailable { error } => {
            s::Reason::DeadLetterUnavailable(s::DeadLetterUnavailable { error })
        }
        Stall::KafkaUnreachable { error } => s::Reason::KafkaUnreachable(s::KafkaUnreachable { error }),
    };
    wire::StallReport { reason: Some(reason) }
}
