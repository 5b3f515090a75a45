//! The real side of every port, made from the configuration.

use super::Error;
use crate::actors::table::decide::Rules;
use crate::actors::{LocalNode, Options};
use crate::adapters::clickhouse::{ByParts, HttpClickHouse};
use crate::adapters::compute::etcd_member::{EtcdMember, ManagedEtcd, Peer};
use crate::adapters::kafka::embedded::EmbeddedKafka;
use crate::adapters::kafka::{self, Kafka, KafkaClient};
use crate::adapters::metadata::{EmbeddedStore, EtcdOptions, EtcdStore, EtcdTls, MetaStore};
use crate::adapters::peers::TlsIdentity;
use crate::adapters::recording::{FileRecording, Recording};
use crate::adapters::routes::FileRoutes;
use crate::config::{self, Config, EtcdAccess, NodeOptions, RecordOptions, StoreOptions};
use crate::model::node::Secret;
use crate::model::{Node, NodeState};
use std::sync::Arc;

/// Puts the ports that were bound where the configuration says 0.
pub fn fill_ports(config: &mut Config, grpc: u16, http: u16) {
    let fill = |url: &mut String, port: u16| {
        if let Some(base) = url.strip_suffix(":0") {
            *url = format!("{base}:{port}");
        }
    };
    fill(&mut config.daemon.grpc_advertise, grpc);
    fill(&mut config.daemon.http_advertise, http);
}

/// The member that this daemon runs, if the store is managed (C8): three such daemons form their own store. One whose
/// node is not on the list runs none, and uses theirs.
pub async fn managed_etcd(config: &Config) -> Result<Option<ManagedEtcd>, Error> {
    let StoreOptions::Managed { members, binary, listen, .. } = &config.metadata.store else {
        return Ok(None);
    };
    if !members.iter().any(|member| member.node == config.daemon.node) {
        let list = members.iter().map(|member| member.node.as_str()).collect::<Vec<_>>().join(", ");
        tracing::warn!(node = %config.daemon.node, members = list, "no member of etcd runs here: using theirs");
        return Ok(None);
    }
    let peer = |member: &config::EtcdMember| Peer {
        name: member.node.to_string(),
        peer_url: member.peer_url.clone(),
        client_url: member.client_url.clone(),
    };
    let member = EtcdMember {
        program: binary.clone(),
        folder: config.daemon.data_dir.join("etcd"),
        cluster: config.cluster.clone(),
        name: config.daemon.node.to_string(),
        peers: members.iter().map(peer).collect(),
        listen: *listen,
    };
    ManagedEtcd::start(member).await.map(Some).map_err(|error| Error::of(&error))
}

/// The metadata store.
pub async fn store(config: &Config) -> Result<Arc<dyn MetaStore>, Error> {
    let (endpoints, access) = match &config.metadata.store {
        StoreOptions::Embedded { path } => {
            if let Some(folder) = path.parent() {
                let remedy = "let the daemon's user write there, or set [daemon] data_dir";
                std::fs::create_dir_all(folder)
                    .map_err(|error| Error::new(format!("{}: {error}", folder.display()), remedy))?;
            }
            let store = EmbeddedStore::open(path).await.map_err(|error| Error::of(&error))?;
            return Ok(Arc::new(store));
        }
        StoreOptions::Etcd { endpoints, access } => (endpoints.clone(), access),
        StoreOptions::Managed { members, access, .. } => {
            // The member beside us first: the others are asked when it is down.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|member| member.node != config.daemon.node);
            (members.iter().map(|member| member.client_url.clone()).collect(), access)
        }
    };
    let store = EtcdStore::new(&etcd_options(endpoints, access)).map_err(|error| Error::of(&error))?;
    Ok(Arc::new(store))
}

fn etcd_options(endpoints: Vec<String>, access: &EtcdAccess) -> EtcdOptions {
    let mut options = EtcdOptions::new(endpoints);
    if let Some((user, password)) = &access.user {
        options.user = user.clone();
        options.password = password.clone();
    }
    options.tls = access.tls.as_ref().map(|tls| {
        let own = |own: &TlsIdentity| (own.certificate_pem.clone(), Secret::new(own.key_pem.clone()));
        EtcdTls { ca_pem: tls.ca_pem.clone(), identity: tls.identity.as_ref().map(own) }
    });
    options
}

/// The message queue.
pub fn kafka(config: &Config) -> Result<Arc<dyn Kafka>, Error> {
    match &config.kafka.brokers {
        None => {
            let embedded = EmbeddedKafka::start(1).map_err(|error| Error::of(&error))?;
            tracing::warn!(
                brokers = embedded.bootstrap(),
                "embedded Kafka broker: messages live in memory only"
            );
            Ok(Arc::new(embedded))
        }
        Some(brokers) => {
            let mut options = kafka::Options::new(brokers.join(","));
            // All but the rows being sent, see `actors::Options`.
            options.buffer_bytes = config.ingest.buffer_bytes / 4 * 3;
            for (key, value) in &config.kafka.settings {
                options.settings.insert(key.clone(), value.expose().to_owned());
            }
            let client = KafkaClient::new(options).map_err(|error| Error::of(&error))?;
            Ok(Arc::new(client))
        }
    }
}

/// Where the leader's trace goes.
pub fn recording(config: &Config) -> Result<Option<Arc<dyn Recording>>, Error> {
    let Some(RecordOptions { folder, bytes_max }) = &config.daemon.record else { return Ok(None) };
    let remedy = "let the daemon's user write there, or set [daemon] record_trace";
    let recording = FileRecording::open(folder, *bytes_max).map_err(|error| Error::new(error, remedy))?;
    Ok(Some(Arc::new(recording)))
}

/// The servers beside this daemon.
pub fn nodes(config: &Config) -> Vec<LocalNode> {
    let local = |node: &NodeOptions| LocalNode {
        node: Node {
            id: node.id.clone(),
            labels: node.labels.clone(),
            capacity_bytes: node.capacity_bytes,
            weight_milli: node.weight_milli,
            state: NodeState::Active,
            clickhouse: node.endpoint.clone(),
            daemon_url: config.daemon.grpc_advertise.clone(),
        },
        clickhouse: Arc::new(server(config, node)),
        routes: Arc::new(FileRoutes::new(&node.routes_file)),
    };
    // The daemon's own node first: it is the daemon's name in the election, and the first to parse users' DDL.
    let mut nodes: Vec<&NodeOptions> = config.nodes.iter().collect();
    nodes.sort_by_key(|node| node.id != config.daemon.node);
    nodes.into_iter().map(local).collect()
}

fn server(config: &Config, node: &NodeOptions) -> HttpClickHouse {
    let by_parts = ByParts { off: !config.transfer.by_parts, data_folder: node.clickhouse_data.clone() };
    HttpClickHouse::new(&node.clickhouse_url, &node.clickhouse_user, &node.clickhouse_password)
        .with_parts(by_parts)
}

/// How slow a copy may be that shares what it may have with as many others as there may be.
fn slowest(config: &Config) -> u64 {
    let transfer = &config.transfer;
    let of_node = (transfer.bytes_per_s, u64::from(transfer.copies_at_once));
    let of_cluster = (transfer.cluster_bytes_per_s, u64::from(config.balance.copies_max));
    let limits = [of_node, of_cluster].into_iter().filter(|(pace, _)| *pace > 0);
    limits.map(|(pace, copies)| pace / copies.max(1) / 4).min().unwrap_or(u64::MAX).max(1)
}

/// The actors' numbers.
pub fn options(config: &Config) -> Options {
    let defaults = Options::default();
    Options {
        lease_ttl_ms: config.metadata.lease_ttl_ms,
        lanes_max: config.ingest.lanes_max,
        daily_bytes_per_partition: config.ingest.daily_bytes_per_partition,
        insert_deadline_ms: config.ingest.insert_deadline_ms,
        inserts_per_s: config.ingest.inserts_per_s,
        batch_age_max_ms: config.ingest.batch_age_max_ms,
        buffer_bytes: config.ingest.buffer_bytes / config.nodes.len().max(1) as u64,
        copies_at_once: config.transfer.copies_at_once,
        transfer_bytes_per_s: config.transfer.bytes_per_s,
        cluster_transfer_bytes_per_s: config.transfer.cluster_bytes_per_s,
        topic_replication: config.kafka.replication,
        rules: Rules {
            caught_up_lag_max: config.failover.preferred_leader_lag_max,
            down_after_ms: config.failover.down_after_ms,
            operation_deadline_ms: config.balance.operation_deadline_ms,
            copy_bytes_per_s_min: slowest(config).min(defaults.rules.copy_bytes_per_s_min),
            ..defaults.rules
        },
        balance: config.balance,
        ..defaults
    }
}
