//! From the file's sections to a [`Config`], with the rules that concern more than one key.

use super::reader::{Part, Reader};
use super::store::{metadata, password, tls};
use super::{
    Config, DaemonOptions, FailoverOptions, IngestOptions, KafkaOptions, NodeOptions, RecordOptions,
    StoreOptions, TransferOptions, units,
};
use crate::model::NodeId;
use crate::model::balance::{BalanceMode, BalanceRules, SplitAt};
use crate::model::node::{ClickHouseEndpoint, Secret};
use crate::model::routes::RouteGroup;
use crate::telemetry::{self, LogFormat, LogOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use toml::de::DeTable;

/// With less, batches are too small for either side.
const BUFFER_MIN_BYTES: u64 = 32_000_000;
/// With less, a trace of a cluster of ordinary size would have no room for its beginning.
const TRACE_MIN_BYTES: u64 = 16_000_000;
/// With less, the pieces of one copy would be minutes apart.
const PACE_MIN_BYTES_PER_S: u64 = 1_000_000;

/// `None` only with a problem on the list.
pub(super) fn config<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> Option<Config> {
    reader.known_sections(root);
    let kind = reader.part(root, "metadata");
    // `None`: something is wrong with it, said already; what depends on it is not blamed on top.
    let standalone = reader.text(&kind, "kind").map(|kind| kind == "embedded");
    let nodes = nodes(reader, root, standalone);
    let part = reader.part(root, "daemon");
    let daemon = daemon(reader, root, &part, &nodes);
    let data_dir = daemon.as_ref().map_or(PathBuf::new(), |daemon| daemon.data_dir.clone());
    let metadata = metadata(reader, root, &kind, &data_dir);
    if let (Some(daemon), Some(metadata)) = (&daemon, &metadata) {
        reach(reader, &part, &daemon.grpc_listen, &metadata.store);
    }
    let config = (cluster(reader, root), kafka(reader, root, standalone), log(reader, root));
    let (ingest, failover, route_groups) =
        (ingest(reader, root), failover(reader, root), groups(reader, root));
    let (balance, transfer) = (balance(reader, root), transfer(reader, root));
    Some(Config {
        cluster: config.0?,
        daemon: daemon?,
        metadata: metadata?,
        kafka: config.1?,
        nodes,
        ingest,
        failover,
        balance,
        transfer,
        route_groups,
        log: config.2?,
    })
}

fn cluster<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> Option<String> {
    let part = reader.part(root, "cluster");
    let name = reader.text(&part, "name")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.len() > 63 || !name.chars().all(plain) {
        reader.blame(&part, "name", &format!("is {name:?}"), "use at most 63 letters, digits, `-` and `_`");
    }
    Some(name)
}

fn daemon<'a>(
    reader: &mut Reader<'a>,
    root: &'a DeTable<'a>,
    part: &Part<'a>,
    nodes: &[NodeOptions],
) -> Option<DaemonOptions> {
    let node: Option<NodeId> = reader.parsed(part, "node");
    if let Some(node) = node.as_ref().filter(|id| !nodes.is_empty() && !nodes.iter().any(|n| n.id == **id)) {
        let known = nodes.iter().map(|n| n.id.as_str()).collect::<Vec<_>>().join(", ");
        reader.blame(
            part,
            "node",
            &format!("is {node}, which no [[node]] has as id"),
            &format!("known: {known}"),
        );
    }
    let tls = tls(reader, root, "daemon.tls", true);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let data_dir = reader.path(part, "data_dir");
    let grpc_listen = reader.text(part, "grpc_listen");
    let grpc_advertise = match (reader.text(part, "grpc_advertise"), &grpc_listen) {
        (Some(url), _) => {
            if !url.starts_with(&format!("{scheme}://")) {
                let what = format!("is {url:?}, but gRPC is served as {scheme}");
                reader.blame(part, "grpc_advertise", &what, "make it fit to whether there is [daemon.tls]");
            }
            Some(url)
        }
        (None, Some(listen)) if wildcard(listen) => {
            let what = format!("is missing, and grpc_listen = {listen:?} is no address to reach it by");
            reader.blame(part, "grpc_advertise", &what, "add it with this host's name");
            None
        }
        (None, listen) => listen.as_ref().map(|listen| format!("{scheme}://{listen}")),
    };
    let http_listen = reader.text(part, "http_listen");
    let http_advertise = reader.text(part, "http_advertise").or_else(|| {
        let listen = http_listen.as_ref()?;
        let port = listen.rsplit_once(':')?.1;
        let host = if wildcard(listen) { format!("127.0.0.1:{port}") } else { listen.clone() };
        Some(format!("http://{host}"))
    });
    let bytes_max = reader.bytes_at_least(part, "record_trace_bytes_max", TRACE_MIN_BYTES);
    let record = reader.path(part, "record_trace").map(|folder| RecordOptions { folder, bytes_max });
    if record.as_ref().is_some_and(|record| record.folder.is_file()) {
        reader.blame(part, "record_trace", "is a file", "name a folder; it is made if it is not there");
    }
    let same = grpc_listen.is_some() && grpc_listen == http_listen;
    if same && !grpc_listen.as_deref().is_some_and(|listen| listen.ends_with(":0")) {
        reader.blame(part, "http_listen", "is the same as grpc_listen", "give each a port of its own");
    }
    Some(DaemonOptions {
        node: node.or_else(|| nodes.first().map(|node| node.id.clone()))?,
        data_dir: data_dir?,
        grpc_listen: grpc_listen?,
        grpc_advertise: grpc_advertise?,
        http_listen: http_listen?,
        http_advertise: http_advertise?,
        tls,
        record,
    })
}

/// Daemons that meet in a store on another machine are told each other's addresses; one that means this machine would
/// lead each of them to itself.
fn reach(reader: &mut Reader<'_>, part: &Part<'_>, listen: &str, store: &StoreOptions) {
    let urls: Vec<&String> = match store {
        StoreOptions::Etcd { endpoints, .. } => endpoints.iter().collect(),
        StoreOptions::Managed { members, .. } => members.iter().map(|member| &member.peer_url).collect(),
        StoreOptions::Embedded { .. } => return,
    };
    let stays = units::host_port(listen).is_ok_and(|(host, _)| units::is_loopback(&host));
    let is_elsewhere = |url: &&&String| units::url(url).is_ok_and(|(host, _)| !units::is_loopback(&host));
    let elsewhere = urls.iter().find(is_elsewhere).filter(|_| stays && !part.has("grpc_advertise"));
    if let Some(url) = elsewhere {
        let what = format!("is {listen:?}, out of reach for daemons that meet at {url}");
        let remedy = "listen on \"0.0.0.0:7400\" and set grpc_advertise; if all run here, only the latter";
        reader.blame(part, "grpc_listen", &what, remedy);
    }
}

fn wildcard(listen: &str) -> bool {
    listen.starts_with("0.0.0.0:") || listen.starts_with("[::]:")
}

fn kafka<'a>(
    reader: &mut Reader<'a>,
    root: &'a DeTable<'a>,
    standalone: Option<bool>,
) -> Option<KafkaOptions> {
    let part = reader.part(root, "kafka");
    let embedded = reader.text(&part, "kind")? == "embedded";
    let brokers = reader.texts(&part, "brokers");
    if embedded && standalone == Some(false) {
        let remedy = "name real brokers, or set [metadata] kind = \"embedded\" for one process";
        reader.blame(&part, "kind", "is \"embedded\", and other daemons could not reach it", remedy);
    }
    if embedded && brokers.is_some() {
        reader.blame(&part, "brokers", "is given, and kind is \"embedded\"", "keep one of them");
    }
    if !embedded && brokers.as_ref().map_or(!part.has("brokers"), Vec::is_empty) {
        reader.blame(&part, "brokers", "is missing", "add some: brokers = [\"host:9092\"]");
    }
    for broker in brokers.iter().flatten() {
        if let Err(what) = units::host_port(broker) {
            reader.blame(
                &part,
                "brokers",
                &format!("has {broker:?}: {what}"),
                "write, for example, [\"host:9092\"]",
            );
        }
    }
    let replication: i32 = reader.number(&part, "replication");
    if replication == 0 {
        reader.blame(&part, "replication", "is 0", "use -1 for the brokers' default, or at least 1");
    }
    let mut settings: BTreeMap<String, Secret> =
        reader.map(&part, "settings").into_iter().map(|(name, value)| (name, Secret::new(value))).collect();
    let password = reader.content(&part, "password_file").map(Secret::new);
    let replaced = password.and_then(|password| settings.insert("sasl.password".into(), password));
    if replaced.is_some() {
        let what = "is given, and settings have sasl.password";
        reader.blame(&part, "password_file", what, "keep one of them");
    }
    Some(KafkaOptions { brokers: (!embedded).then(|| brokers.unwrap_or_default()), replication, settings })
}

fn nodes<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>, standalone: Option<bool>) -> Vec<NodeOptions> {
    let parts = reader.parts(root, "node");
    if parts.is_empty() && !root.contains_key("node") {
        let remedy = "add a [[node]] with id and clickhouse_url";
        reader.add(None, "node".into(), "is missing: there is no ClickHouse to serve".into(), remedy.into());
    }
    if parts.len() > 1 && standalone == Some(false) {
        let what = "is one too many: with etcd, every ClickHouse has a daemon of its own";
        reader.blame(
            &parts[1],
            "",
            what,
            "keep this host's node only, or set [metadata] kind = \"embedded\"",
        );
    }
    let nodes: Vec<Option<NodeOptions>> = parts.iter().map(|part| node(reader, part, standalone)).collect();
    let mut seen = BTreeSet::new();
    for (part, node) in parts.iter().zip(&nodes) {
        let Some(node) = node else { continue };
        let file = node.routes_file.display().to_string();
        let words = [
            ("id", node.id.to_string()),
            ("clickhouse_url", node.clickhouse_url.clone()),
            ("routes_file", file),
        ];
        for (name, word) in words {
            if !seen.insert((name, word.clone())) {
                reader.blame(part, name, &format!("is {word}, as another node's"), "give each node its own");
            }
        }
    }
    nodes.into_iter().flatten().collect()
}

fn node<'a>(reader: &mut Reader<'a>, part: &Part<'a>, standalone: Option<bool>) -> Option<NodeOptions> {
    let id = reader.parsed(part, "id");
    let url = reader.text(part, "clickhouse_url");
    let user = reader.text(part, "clickhouse_user");
    let password = password(reader, part, "clickhouse_password").unwrap_or_default();
    let host = reader.text(part, "clickhouse_host").or_else(|| {
        if standalone == Some(false) && !part.has("clickhouse_host") {
            let remedy = "add the name by which other ClickHouse servers reach this one";
            reader.blame(part, "clickhouse_host", "is missing", remedy);
        }
        Some(units::url(url.as_ref()?).ok()?.0)
    });
    let secure = reader.bool(part, "clickhouse_secure");
    let port = reader.integer(part, "clickhouse_port").and_then(|port| u16::try_from(port).ok());
    let query_user = reader.text(part, "query_user").or_else(|| user.clone());
    let given = self::password(reader, part, "query_password");
    if given.is_none() && part.has("query_user") {
        let remedy = "add its password, or an empty query_password if it has none";
        reader.blame(part, "query_password", "is missing, and query_user is given", remedy);
    }
    let labels = reader.map(part, "labels");
    let (capacity_bytes, weight_milli) =
        (reader.bytes(part, "capacity_bytes"), reader.weight_milli(part, "weight"));
    let (routes_file, clickhouse_data) =
        (reader.path(part, "routes_file"), reader.path(part, "clickhouse_data"));
    Some(NodeOptions {
        id: id?,
        labels,
        capacity_bytes,
        weight_milli,
        clickhouse_url: url?,
        clickhouse_user: user?,
        endpoint: ClickHouseEndpoint {
            host: host?,
            port: port.unwrap_or(if secure { 9440 } else { 9000 }),
            secure,
            user: query_user?,
            password: given.unwrap_or_else(|| password.clone()),
        },
        clickhouse_password: password,
        routes_file: routes_file?,
        clickhouse_data,
    })
}

fn ingest<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> IngestOptions {
    let part = reader.part(root, "ingest");
    IngestOptions {
        lanes_max: reader.number(&part, "lanes_max"),
        daily_bytes_per_partition: reader.bytes(&part, "daily_bytes_per_partition"),
        insert_deadline_ms: reader.number(&part, "insert_deadline_ms"),
        inserts_per_s: reader.number(&part, "inserts_per_s"),
        batch_age_max_ms: reader.number(&part, "batch_age_max_ms"),
        buffer_bytes: reader.bytes_at_least(&part, "buffer_bytes", BUFFER_MIN_BYTES),
    }
}

fn transfer<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> TransferOptions {
    let part = reader.part(root, "transfer");
    let mut pace = |key| {
        if part.has(key) {
            reader.bytes_at_least(&part, key, PACE_MIN_BYTES_PER_S)
        } else {
            reader.bytes(&part, key)
        }
    };
    let (bytes_per_s, cluster_bytes_per_s) = (pace("bytes_per_s"), pace("cluster_bytes_per_s"));
    TransferOptions {
        by_parts: reader.bool(&part, "by_parts"),
        bytes_per_s,
        cluster_bytes_per_s,
        copies_at_once: reader.number(&part, "copies_at_once"),
    }
}

fn failover<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> FailoverOptions {
    let part = reader.part(root, "failover");
    FailoverOptions {
        down_after_ms: reader.number(&part, "down_after_ms"),
        preferred_leader_lag_max: reader.number(&part, "preferred_leader_lag_max"),
    }
}

fn balance<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> BalanceRules {
    let part = reader.part(root, "balance");
    let mode = match reader.text(&part, "mode").as_deref() {
        Some("off") => BalanceMode::Off,
        Some("advisory") => BalanceMode::Advisory,
        _ => BalanceMode::On,
    };
    BalanceRules {
        mode,
        every_ms: reader.number(&part, "every_ms"),
        copies_max: reader.number(&part, "copies_max"),
        copies_per_node_max: reader.number(&part, "copies_per_node_max"),
        replicas_per_node_min: reader.number(&part, "replicas_per_node_min"),
        split_above_bytes: reader.bytes(&part, "split_above_bytes"),
        split_at: match reader.text(&part, "split_at").as_deref() {
            Some("bytes") => SplitAt::Bytes,
            _ => SplitAt::Middle,
        },
        operation_deadline_ms: reader.number(&part, "operation_deadline_ms"),
        solve_deadline_ms: reader.number(&part, "solve_deadline_ms"),
        ..BalanceRules::default()
    }
}

fn groups<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> Vec<RouteGroup> {
    let parts = reader.parts(root, "route_group");
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for part in &parts {
        let name = reader.text(part, "name");
        let (label, value) = (reader.text(part, "label"), reader.text(part, "value"));
        let Some(name) = name else { continue };
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            reader.blame(part, "name", &format!("is {name:?}"), "use letters, digits and `_`");
        }
        if !seen.insert(name.clone()) {
            reader.blame(part, "name", &format!("is {name}, as another group's"), "give each its own");
        }
        if let Some((label, value)) = label.zip(value) {
            groups.push(RouteGroup { name, label, value });
        }
    }
    groups
}

fn log<'a>(reader: &mut Reader<'a>, root: &'a DeTable<'a>) -> Option<LogOptions> {
    let part = reader.part(root, "log");
    let level = reader.text(&part, "level");
    if let Some(Err(what)) = level.as_deref().map(telemetry::filter) {
        reader.blame(
            &part,
            "level",
            &format!("cannot be read: {what}"),
            "write, for example, level = \"info\"",
        );
    }
    let json = reader.text(&part, "format").as_deref() == Some("json");
    Some(LogOptions { level: level?, format: if json { LogFormat::Json } else { LogFormat::Text } })
}
