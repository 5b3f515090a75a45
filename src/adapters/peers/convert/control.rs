//! Requests and statuses of the `Control` service.

use super::agent::{stall_from_wire, stall_to_wire};
use super::balance::{balance_from_wire, balance_to_wire, holds_from_wire, holds_to_wire};
use super::{
    Malformed, each, format_from_wire, format_to_wire, layout_from_wire, layout_to_wire, node, optional_node,
    range, table_id,
};
use crate::model::control::{
    ClusterStatus, CreateTable, DropTable, InsertRows, NodeStatus, ReplicaStatus, ShardStatus, TableStatus,
};
use crate::model::ids::InvalidId;
use crate::model::table::{BatchLimits, ShardState};
use crate::model::{Epoch, NodeState, PartitionId, ShardId, TableState};
use crate::wire;

/// Zeroes stand for defaults, so that a caller in another language may leave them out.
pub fn create_from_wire(w: wire::CreateTableRequest) -> Result<CreateTable, Malformed> {
    let default = BatchLimits::default();
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    Ok(CreateTable {
        partitions: w.partitions,
        shards: w.shards,
        replicas: w.replicas,
        layout: layout_from_wire(w.topic_mapping)?,
        topic_replication: if w.topic_replication == 0 { -1 } else { w.topic_replication },
        format: format_from_wire(w.format)?,
        batch: BatchLimits {
            rows_max: or(w.batch_rows_max, default.rows_max),
            bytes_max: or(w.batch_bytes_max, default.bytes_max),
            age_max_ms: if w.batch_age_max_ms == 0 { default.age_max_ms } else { w.batch_age_max_ms },
        },
        first_node: optional_node("first_node", w.first_node.as_ref())?,
        dry_run: w.dry_run,
        if_not_exists: w.if_not_exists,
        ddl: w.ddl,
        partition_by: w.partition_by,
        topic_prefix: w.topic_prefix,
        format_settings: w.format_settings,
    })
}

/// See [`create_from_wire`].
pub fn create_to_wire(m: CreateTable) -> wire::CreateTableRequest {
    wire::CreateTableRequest {
        ddl: m.ddl,
        partitions: m.partitions,
        shards: m.shards,
        replicas: m.replicas,
        partition_by: m.partition_by,
        topic_prefix: m.topic_prefix,
        topic_mapping: layout_to_wire(m.layout),
        topic_replication: m.topic_replication,
        format: format_to_wire(m.format),
        format_settings: m.format_settings,
        batch_rows_max: m.batch.rows_max,
        batch_bytes_max: m.batch.bytes_max,
        batch_age_max_ms: m.batch.age_max_ms,
        first_node: m.first_node.map(String::from),
        dry_run: m.dry_run,
        if_not_exists: m.if_not_exists,
    }
}

/// Nothing in it can be malformed.
pub fn drop_from_wire(w: wire::DropTableRequest) -> DropTable {
    DropTable { database: w.database, table: w.table, delete_topics: w.delete_topics, if_exists: w.if_exists }
}

/// See [`drop_from_wire`].
pub fn drop_to_wire(m: DropTable) -> wire::DropTableRequest {
    wire::DropTableRequest {
        database: m.database,
        table: m.table,
        delete_topics: m.delete_topics,
        if_exists: m.if_exists,
    }
}

/// Rows as they came.
pub fn insert_from_wire(w: wire::InsertRequest) -> Result<InsertRows, Malformed> {
    let format = format_from_wire(w.format)?;
    let batch = Some(w.batch).filter(|batch| !batch.is_empty());
    let named = |text: String| text.parse().map_err(|e: InvalidId| Malformed::new("batch", e.to_string()));
    let batch = batch.map(named).transpose()?;
    Ok(InsertRows { database: w.database, table: w.table, format, body: w.body.into(), batch })
}

/// See [`insert_from_wire`].
pub fn insert_to_wire(m: InsertRows) -> wire::InsertRequest {
    let format = format_to_wire(m.format);
    let batch = m.batch.map(|batch| batch.to_string()).unwrap_or_default();
    wire::InsertRequest { database: m.database, table: m.table, format, body: m.body.into(), batch }
}

/// Everything.
pub fn cluster_from_wire(w: &wire::ClusterStatusResponse) -> Result<ClusterStatus, Malformed> {
    Ok(ClusterStatus {
        cluster: w.cluster.clone(),
        leader: optional_node("leader", w.leader.as_ref())?,
        term: w.term,
        nodes: each("nodes", &w.nodes, node_from_wire)?,
        tables: each("tables", &w.tables, table_from_wire)?,
        healthy: w.healthy,
        problems: w.problems.clone(),
        balance: balance_from_wire(w.balance.as_ref().unwrap_or(&wire::BalanceStatus::default()))
            .map_err(|error| error.within("balance"))?,
        holds: holds_from_wire(&w.holds)?,
        unread: w.unread,
    })
}

/// See [`cluster_from_wire`].
pub fn cluster_to_wire(m: ClusterStatus) -> wire::ClusterStatusResponse {
    wire::ClusterStatusResponse {
        cluster: m.cluster,
        leader: m.leader.map(String::from),
        term: m.term,
        nodes: m.nodes.into_iter().map(node_to_wire).collect(),
        tables: m.tables.into_iter().map(table_to_wire).collect(),
        healthy: m.healthy,
        problems: m.problems,
        balance: Some(balance_to_wire(m.balance)),
        holds: holds_to_wire(m.holds),
        unread: m.unread,
    }
}

/// What is wanted of a node.
pub fn node_state_from_wire(state: i32) -> Result<NodeState, Malformed> {
    use wire::node_status::State;
    match State::try_from(state) {
        Ok(State::Active) => Ok(NodeState::Active),
        Ok(State::Cordoned) => Ok(NodeState::Cordoned),
        Ok(State::Draining) => Ok(NodeState::Draining),
        Ok(State::Unspecified) => Err(Malformed::absent("state")),
        Err(_) => Err(Malformed::new("state", format!("{state} is no node state known here"))),
    }
}

/// See [`node_state_from_wire`].
pub fn node_state_to_wire(state: NodeState) -> i32 {
    use wire::node_status::State;
    let state = match state {
        NodeState::Active => State::Active,
        NodeState::Cordoned => State::Cordoned,
        NodeState::Draining => State::Draining,
    };
    state.into()
}

/// One node.
pub fn node_from_wire(w: &wire::NodeStatus) -> Result<NodeStatus, Malformed> {
    Ok(NodeStatus {
        id: node("id", &w.id)?,
        labels: w.labels.clone(),
        state: node_state_from_wire(w.state)?,
        live: w.live,
        clickhouse_up: w.clickhouse_up,
        clickhouse_version: w.clickhouse_version.clone(),
        clickhouse: w.clickhouse.clone(),
        daemon_url: w.daemon_url.clone(),
        replicas: w.replicas,
        leaders: w.leaders,
        bytes: w.bytes,
        disk_total_bytes: w.disk_total_bytes,
        disk_free_bytes: w.disk_free_bytes,
    })
}

/// See [`node_from_wire`].
pub fn node_to_wire(m: NodeStatus) -> wire::NodeStatus {
    wire::NodeStatus {
        id: m.id.into(),
        labels: m.labels,
        state: node_state_to_wire(m.state),
        live: m.live,
        clickhouse_up: m.clickhouse_up,
        clickhouse_version: m.clickhouse_version,
        clickhouse: m.clickhouse,
        daemon_url: m.daemon_url,
        replicas: m.replicas,
        leaders: m.leaders,
        bytes: m.bytes,
        disk_total_bytes: m.disk_total_bytes,
        disk_free_bytes: m.disk_free_bytes,
    }
}

/// One table.
pub fn table_from_wire(w: &wire::TableStatus) -> Result<TableStatus, Malformed> {
    use wire::table_status::State;
    let state = match State::try_from(w.state) {
        Ok(State::Creating) => TableState::Creating,
        Ok(State::Active) => TableState::Active,
        Ok(State::Dropping) => TableState::Dropping,
        Ok(State::Unspecified) => return Err(Malformed::absent("state")),
        Err(_) => return Err(Malformed::new("state", format!("{} is no table state known here", w.state))),
    };
    let acknowledged =
        w.acknowledged.iter().map(|(id, epoch)| Ok((node("acknowledged", id)?, Epoch(*epoch))));
    Ok(TableStatus {
        id: table_id("id", &w.id)?,
        database: w.database.clone(),
        table: w.table.clone(),
        state,
        epoch: Epoch(w.epoch),
        partitions: w.partitions,
        replicas: w.replicas,
        partition_by: w.partition_by.clone(),
        cluster: w.cluster.clone(),
        topic_prefix: w.topic_prefix.clone(),
        format: format_from_wire(w.format)?,
        batch_age_ms: w.batch_age_ms,
        ddl: w.ddl.clone(),
        shards: each("shards", &w.shards, shard_from_wire)?,
        acknowledged: acknowledged.collect::<Result<_, Malformed>>()?,
        usable: w.usable,
        complete: w.complete,
        waiting_for: w.waiting_for.clone(),
        holds: holds_from_wire(&w.holds)?,
    })
}

/// See [`table_from_wire`].
pub fn table_to_wire(m: TableStatus) -> wire::TableStatus {
    use wire::table_status::State;
    let state = match m.state {
        TableState::Creating => State::Creating,
        TableState::Active => State::Active,
        TableState::Dropping => State::Dropping,
    };
    wire::TableStatus {
        id: m.id.to_string(),
        database: m.database,
        table: m.table,
        state: state.into(),
        epoch: m.epoch.0,
        partitions: m.partitions,
        replicas: m.replicas,
        partition_by: m.partition_by,
        cluster: m.cluster,
        topic_prefix: m.topic_prefix,
        format: format_to_wire(m.format),
        batch_age_ms: m.batch_age_ms,
        ddl: m.ddl,
        shards: m.shards.into_iter().map(shard_to_wire).collect(),
        acknowledged: m.acknowledged.into_iter().map(|(node, epoch)| (node.into(), epoch.0)).collect(),
        usable: m.usable,
        complete: m.complete,
        waiting_for: m.waiting_for,
        holds: holds_to_wire(m.holds),
    }
}

fn shard_from_wire(w: &wire::ShardStatus) -> Result<ShardStatus, Malformed> {
    Ok(ShardStatus {
        id: ShardId(w.id),
        epoch: Epoch(w.epoch),
        range: range(w.range_lo, w.range_hi)?,
        spread: w.spread,
        state: shard_state_from_wire(w.state)?,
        leader: optional_node("leader", w.leader.as_ref())?,
        preferred_leader: optional_node("preferred_leader", w.preferred_leader.as_ref())?,
        replicas: each("replicas", &w.replicas, replica_from_wire)?,
    })
}

fn shard_to_wire(m: ShardStatus) -> wire::ShardStatus {
    wire::ShardStatus {
        id: m.id.0,
        epoch: m.epoch.0,
        range_lo: m.range.lo(),
        range_hi: m.range.hi(),
        spread: m.spread,
        state: shard_state_to_wire(m.state),
        leader: m.leader.map(String::from),
        preferred_leader: m.preferred_leader.map(String::from),
        replicas: m.replicas.into_iter().map(replica_to_wire).collect(),
    }
}

fn shard_state_from_wire(state: i32) -> Result<ShardState, Malformed> {
    use wire::ShardStateRecord as State;
    match State::try_from(state) {
        Ok(State::Unspecified | State::Serving) => Ok(ShardState::Serving),
        Ok(State::Preparing) => Ok(ShardState::Preparing),
        Ok(State::Retired) => Ok(ShardState::Retired),
        Err(_) => Err(Malformed::new("state", format!("{state} is no shard state known here"))),
    }
}

fn shard_state_to_wire(state: ShardState) -> i32 {
    use wire::ShardStateRecord as State;
    let state = match state {
        ShardState::Serving => State::Serving,
        ShardState::Preparing => State::Preparing,
        ShardState::Retired => State::Retired,
    };
    state.into()
}

fn replica_from_wire(w: &wire::ReplicaStatus) -> Result<ReplicaStatus, Malformed> {
    let stall = |(partition, stall): (&u32, _)| Ok((PartitionId(*partition), stall_from_wire(stall)?));
    Ok(ReplicaStatus {
        node: node("node", &w.node)?,
        state: w.state.clone(),
        lag: w.lag,
        bytes: w.bytes,
        rows: w.rows,
        dead_letters: w.dead_letters,
        stalls: w.stalls.iter().map(stall).collect::<Result<_, Malformed>>()?,
        problem: w.problem.clone(),
    })
}

fn replica_to_wire(m: ReplicaStatus) -> wire::ReplicaStatus {
    wire::ReplicaStatus {
        node: m.node.into(),
        state: m.state,
        lag: m.lag,
        bytes: m.bytes,
        rows: m.rows,
        dead_letters: m.dead_letters,
        stalls: m.stalls.into_iter().map(|(p, stall)| (p.0, stall_to_wire(stall))).collect(),
        problem: m.problem,
    }
}
