//! Routes of the `Routing` service. Passwords stay at home: what is read back has empty ones.

use super::{Malformed, each, node, range, table_id};
use crate::model::node::{ClickHouseEndpoint, Secret};
use crate::model::routes::{RouteReplica, RouteShard, TableRoutes};
use crate::model::{Epoch, ShardId, TableName};
use crate::wire;

/// A table's routes, passwords empty.
pub fn routes_from_wire(w: &wire::Routes) -> Result<TableRoutes, Malformed> {
    let group = |(name, group): (&String, &wire::RouteGroupShards)| {
        let shards = each("shards", &group.shards, shard_from_wire);
        Ok((name.clone(), shards.map_err(|e| e.within(&format!("groups[{name:?}]")))?))
    };
    Ok(TableRoutes {
        table: table_id("table_id", &w.table_id)?,
        name: TableName { database: w.database.clone(), table: w.table.clone() },
        epoch: Epoch(w.epoch),
        partitions: w.partitions,
        shards: each("shards", &w.shards, shard_from_wire)?,
        groups: w.groups.iter().map(group).collect::<Result<_, Malformed>>()?,
    })
}

/// See [`routes_from_wire`].
pub fn routes_to_wire(m: TableRoutes) -> wire::Routes {
    let cluster = m.cluster();
    let shards = |shards: Vec<RouteShard>| shards.into_iter().map(shard_to_wire).collect();
    wire::Routes {
        table_id: m.table.to_string(),
        database: m.name.database,
        table: m.name.table,
        epoch: m.epoch.0,
        partitions: m.partitions,
        shards: shards(m.shards),
        cluster,
        groups: m
            .groups
            .into_iter()
            .map(|(name, group)| (name, wire::RouteGroupShards { shards: shards(group) }))
            .collect(),
    }
}

fn shard_from_wire(w: &wire::RouteShard) -> Result<RouteShard, Malformed> {
    Ok(RouteShard {
        shard: ShardId(w.shard),
        range: range(w.range_lo, w.range_hi)?,
        replicas: each("replicas", &w.replicas, replica_from_wire)?,
    })
}

fn shard_to_wire(m: RouteShard) -> wire::RouteShard {
    wire::RouteShard {
        shard: m.shard.0,
        range_lo: m.range.lo(),
        range_hi: m.range.hi(),
        replicas: m.replicas.into_iter().map(replica_to_wire).collect(),
    }
}

fn replica_from_wire(w: &wire::RouteReplica) -> Result<RouteReplica, Malformed> {
    let port = u16::try_from(w.port);
    Ok(RouteReplica {
        node: node("node", &w.node)?,
        endpoint: ClickHouseEndpoint {
            host: w.host.clone(),
            port: port.map_err(|_| Malformed::new("port", format!("{} is no port", w.port)))?,
            secure: w.secure,
            user: w.user.clone(),
            password: Secret::default(),
        },
        database: w.shard_database.clone(),
    })
}

fn replica_to_wire(m: RouteReplica) -> wire::RouteReplica {
    wire::RouteReplica {
        node: m.node.into(),
        host: m.endpoint.host,
        port: m.endpoint.port.into(),
        secure: m.endpoint.secure,
        user: m.endpoint.user,
        shard_database: m.database,
    }
}
