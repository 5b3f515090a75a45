//! Logs and metrics.
//!
//! The registry is made here and passed on; nothing is global but the process's one log subscriber, which
//! `main` sets. Metric names are `converthouse_<part>_<noun>_<unit>[_total]`, listed in `docs/metrics.md`.

mod elastic;

pub use elastic::Elastic;

use crate::model::invariants::Invariant;
use prometheus::core::Collector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,converthouse::actors=debug`.
    pub level: String,
    /// How.
    pub format: LogFormat,
}

/// What libraries say below this is of no use to an operator, unless a directive of the operator's own asks for it.
const LIBRARIES: &str =
    "h2=warn,hyper=warn,hyper_util=warn,tower=warn,rustls=warn,librdkafka=warn,tonic=warn";

/// Reads a level; the error says what is wrong with it.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    let quiet = format!("{LIBRARIES},{level}");
    EnvFilter::builder().parse(quiet).map_err(|e| e.to_string())
}

/// Starts logging to standard error. Fails if the level cannot be read, or if logging was started before.
pub fn start_logs(options: &LogOptions) -> Result<(), String> {
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter(&options.level)?).with_writer(std::io::stderr);
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let started = match options.format {
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
        LogFormat::Text => logs.with_ansi(colour).try_init(),
    };
    started.map_err(|e| e.to_string())
}

/// Tables with labels of their own; rows of further ones count under [`OTHER_TABLES`].
pub const TABLE_LABELS_MAX: usize = 1_000;
/// Label of the tables beyond [`TABLE_LABELS_MAX`].
pub const OTHER_TABLES: &str = "_other";

/// Every metric of a process; clones share their values. Methods take table names and keep the labels few.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    tables: Arc<Mutex<BTreeSet<String>>>,
    ingest_rows_total: IntCounterVec,
    ingest_bytes_total: IntCounterVec,
    ingest_lag_messages: IntGaugeVec,
    dead_letters_total: IntCounterVec,
    copied_rows_total: IntCounterVec,
    copied_bytes_total: IntCounterVec,
    offset_gaps_total: IntCounterVec,
    replicas: IntGaugeVec,
    invariant_violations_total: IntCounterVec,
    heartbeat_age_seconds: GaugeVec,
    metadata_errors_total: IntCounterVec,
    terms_ended_total: IntCounterVec,
    actor_deaths_total: IntCounterVec,
    clickhouse_up: IntGaugeVec,
    epoch_lag: IntGaugeVec,
    replication_spread_messages: IntGaugeVec,
    stalled_partitions: IntGaugeVec,
    /// Duration of inserts into ClickHouse, failed ones too.
    pub insert_seconds: Histogram,
    /// 1 on the daemon that leads the cluster.
    pub leader: IntGauge,
    /// Shards led by this daemon's nodes.
    pub shard_leaders: IntGauge,
    /// What the leader plans and carries out.
    pub elastic: Elastic,
}

const INSERT_BUCKETS_S: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const COPIED_ROWS: &str = "Rows copied to this daemon's nodes from other nodes";
const COPIED_BYTES: &str = "Bytes copied to this daemon's nodes from other nodes, by parts or by a select";

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), &[label]).expect("name and label are legal")
}

fn per_table(name: &str, help: &str) -> IntCounterVec {
    counters(name, help, "table")
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), labels).expect("name and labels are legal")
}

fn seconds(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), labels).expect("name and labels are legal")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("the name is legal")
}

const CLICKHOUSE_UP: &str = "1 if the last probe was answered";
const ACTOR_DEATHS: &str =
    "Actors that failed and were made anew from the store, and placements that failed; a bug";

fn insert_seconds() -> Histogram {
    let options = HistogramOpts::new("converthouse_insert_seconds", "Duration of inserts into ClickHouse");
    Histogram::with_opts(options.buckets(INSERT_BUCKETS_S.to_vec())).expect("the buckets rise")
}

impl Metrics {
    /// Makes all metrics in a registry of their own.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::new(),
            tables: Arc::default(),
            ingest_rows_total: per_table("converthouse_ingest_rows_total", "Rows inserted"),
            ingest_bytes_total: per_table("converthouse_ingest_bytes_total", "Bytes of payload inserted"),
            ingest_lag_messages: gauges(
                "converthouse_ingest_lag_messages",
                "Messages not yet taken",
                &["table", "node"],
            ),
            dead_letters_total: per_table(
                "converthouse_dead_letters_total",
                "Messages put into the dead-letter topic",
            ),
            offset_gaps_total: per_table(
                "converthouse_offset_gaps_total",
                "Offsets for which a topic had no message",
            ),
            replicas: gauges("converthouse_replicas", "Replicas of this daemon's nodes", &["node", "state"]),
            copied_rows_total: per_table("converthouse_copied_rows_total", COPIED_ROWS),
            copied_bytes_total: counters("converthouse_copied_bytes_total", COPIED_BYTES, "by"),
            invariant_violations_total: counters(
                "converthouse_invariant_violations_total",
                "Broken invariants; any is a bug",
                "id",
            ),
            heartbeat_age_seconds: seconds(
                "converthouse_heartbeat_age_seconds",
                "Time since the leader heard of a node; on the leader only",
                &["node"],
            ),
            metadata_errors_total: counters(
                "converthouse_metadata_errors_total",
                "Failed calls of the metadata store",
                "code",
            ),
            terms_ended_total: counters(
                "converthouse_terms_ended_total",
                "Times that this daemon stopped leading",
                "reason",
            ),
            actor_deaths_total: counters("converthouse_actor_deaths_total", ACTOR_DEATHS, "kind"),
            clickhouse_up: gauges("converthouse_clickhouse_up", CLICKHOUSE_UP, &["node"]),
            epoch_lag: gauges(
                "converthouse_epoch_lag",
                "Published epochs not loaded by the node's ClickHouse yet, the worst table",
                &["node"],
            ),
            replication_spread_messages: gauges(
                "converthouse_replication_spread_messages",
                "Messages that some replicas of a shard have and others lack; on the leader only",
                &["table"],
            ),
            stalled_partitions: gauges(
                "converthouse_stalled_partitions",
                "Partitions of the node's replicas that do not move on",
                &["node", "reason"],
            ),
            insert_seconds: insert_seconds(),
            leader: gauge("converthouse_leader", "1 on the daemon that leads the cluster"),
            shard_leaders: gauge("converthouse_shard_leaders", "Shards led by this daemon's nodes"),
            elastic: Elastic::new(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let build = gauges("converthouse_build_info", "The running version", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all: Vec<Box<dyn Collector>> = vec![
            Box::new(build),
            Box::new(self.ingest_rows_total.clone()),
            Box::new(self.ingest_bytes_total.clone()),
            Box::new(self.ingest_lag_messages.clone()),
            Box::new(self.dead_letters_total.clone()),
            Box::new(self.copied_rows_total.clone()),
            Box::new(self.copied_bytes_total.clone()),
            Box::new(self.offset_gaps_total.clone()),
            Box::new(self.replicas.clone()),
            Box::new(self.invariant_violations_total.clone()),
            Box::new(self.heartbeat_age_seconds.clone()),
            Box::new(self.metadata_errors_total.clone()),
            Box::new(self.terms_ended_total.clone()),
            Box::new(self.actor_deaths_total.clone()),
            Box::new(self.clickhouse_up.clone()),
            Box::new(self.insert_seconds.clone()),
            Box::new(self.leader.clone()),
            Box::new(self.shard_leaders.clone()),
            Box::new(self.epoch_lag.clone()),
            Box::new(self.replication_spread_messages.clone()),
            Box::new(self.stalled_partitions.clone()),
        ];
        for collector in all.into_iter().chain(self.elastic.collectors()) {
            self.registry.register(collector).expect("every name is there once");
        }
    }

    /// What `/metrics` shows.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The label that a table's metrics have. Those of a table beyond [`TABLE_LABELS_MAX`] share one: gauges are to be
    /// set to what all of them come to.
    pub fn label<'a>(&self, table: &'a str) -> &'a str {
        let mut tables = self.tables.lock().expect("nothing panics while it is held");
        if tables.contains(table) {
            return table;
        }
        if tables.len() >= TABLE_LABELS_MAX {
            return OTHER_TABLES;
        }
        tables.insert(table.to_owned());
        table
    }

    /// Counter of rows inserted into a table. Keep it: finding it by name costs a lock.
    pub fn ingest_rows(&self, table: &str) -> IntCounter {
        self.ingest_rows_total.with_label_values(&[self.label(table)])
    }

    /// Counter of payload bytes inserted into a table.
    pub fn ingest_bytes(&self, table: &str) -> IntCounter {
        self.ingest_bytes_total.with_label_values(&[self.label(table)])
    }

    /// Messages of a table not yet taken by a node's replicas.
    pub fn ingest_lag(&self, table: &str, node: &str) -> IntGauge {
        self.ingest_lag_messages.with_label_values(&[self.label(table), node])
    }

    /// Messages that some replicas of a table's shards have and others lack.
    pub fn replication_spread(&self, table: &str) -> IntGauge {
        self.replication_spread_messages.with_label_values(&[self.label(table)])
    }

    /// Partitions of a node's replicas that do not move on for that reason ([`Stall::reason`]).
    ///
    /// [`Stall::reason`]: crate::model::observed::Stall::reason
    pub fn stalled_partitions(&self, node: &str, reason: &str) -> IntGauge {
        self.stalled_partitions.with_label_values(&[node, reason])
    }

    /// Published epochs that a node's ClickHouse has not loaded yet; the worst table.
    pub fn epoch_lag(&self, node: &str) -> IntGauge {
        self.epoch_lag.with_label_values(&[node])
    }

    /// Counter of a table's messages in the dead-letter topic.
    pub fn dead_letters(&self, table: &str) -> IntCounter {
        self.dead_letters_total.with_label_values(&[self.label(table)])
    }

    /// Counter of the offsets for which a table's topics had no message.
    pub fn offset_gaps(&self, table: &str) -> IntCounter {
        self.offset_gaps_total.with_label_values(&[self.label(table)])
    }

    /// A node's replicas in a state (`creating`, `ready`, …).
    pub fn replicas(&self, node: &str, state: &str) -> IntGauge {
        self.replicas.with_label_values(&[node, state])
    }

    /// Counter of a table's rows copied from other nodes.
    pub fn copied_rows(&self, table: &str) -> IntCounter {
        self.copied_rows_total.with_label_values(&[self.label(table)])
    }

    /// Bytes copied from other nodes, by `parts` or by `select`.
    pub fn copied_bytes(&self, by: &str) -> IntCounter {
        self.copied_bytes_total.with_label_values(&[by])
    }

    /// Counter of an invariant's violations.
    pub fn invariant_violations(&self, id: Invariant) -> IntCounter {
        self.invariant_violations_total.with_label_values(&[id.as_str()])
    }

    /// Sets the time since the leader heard of a node.
    #[expect(clippy::cast_precision_loss, reason = "nobody waits for so long")]
    pub fn heartbeat_age(&self, node: &str, age_ms: u64) {
        self.heartbeat_age_seconds.with_label_values(&[node]).set(age_ms as f64 / 1_000.0);
    }

    /// Counter of the metadata store's errors of one code.
    pub fn metadata_errors(&self, code: crate::error::Code) -> IntCounter {
        self.metadata_errors_total.with_label_values(&[code.to_string().as_str()])
    }

    /// Times that this daemon stopped leading, by why.
    pub fn terms_ended(&self, reason: &str) -> IntCounter {
        self.terms_ended_total.with_label_values(&[reason])
    }

    /// Actors of a kind that failed and were made anew, or answered with an error. Any is a bug.
    pub fn actor_deaths(&self, kind: &str) -> IntCounter {
        self.actor_deaths_total.with_label_values(&[kind])
    }

    /// 1 if a node's ClickHouse answered the last probe.
    pub fn clickhouse_up(&self, node: &str) -> IntGauge {
        self.clickhouse_up.with_label_values(&[node])
    }

    /// A dropped table shows no more.
    pub fn forget_table(&self, table: &str) {
        self.tables.lock().expect("nothing panics while it is held").remove(table);
        let families = [
            &self.ingest_rows_total,
            &self.ingest_bytes_total,
            &self.dead_letters_total,
            &self.copied_rows_total,
            &self.offset_gaps_total,
        ];
        for family in families {
            // Absent is what is wanted.
            let _ = family.remove_label_values(&[table]);
        }
    }

    /// A table that has left a node shows no lag there.
    pub fn forget_lag(&self, table: &str, node: &str) {
        let _ = self.ingest_lag_messages.remove_label_values(&[table, node]);
    }

    /// A table that the leader has forgotten shows no spread.
    pub fn forget_spread(&self, table: &str) {
        let _ = self.replication_spread_messages.remove_label_values(&[table]);
    }

    /// A node that the leader has forgotten has no heartbeats.
    pub fn forget_heartbeat(&self, node: &str) {
        let _ = self.heartbeat_age_seconds.remove_label_values(&[node]);
    }

    /// Only the leader has heartbeats: a deposed one shows nothing that comes from them.
    pub fn forget_heartbeats(&self) {
        self.heartbeat_age_seconds.reset();
        self.replication_spread_messages.reset();
        self.elastic.forget();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ShardId;
    use crate::model::operation::{Kind, State};

    fn text(metrics: &Metrics) -> String {
        prometheus::TextEncoder::new().encode_to_string(&metrics.registry().gather()).unwrap()
    }

    #[test]
    fn clones_share_values_and_registries_do_not() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.clone().ingest_rows("shop.events").inc_by(3);
        assert!(text(&one).contains("converthouse_ingest_rows_total{table=\"shop.events\"} 3"));
        assert!(!text(&other).contains("shop.events"));
    }

    #[test]
    fn a_thousand_tables_have_labels_and_the_rest_share_one() {
        let metrics = Metrics::new();
        for number in 0..TABLE_LABELS_MAX + 5 {
            metrics.ingest_rows(&format!("t{number}")).inc();
        }
        assert!(text(&metrics).contains("{table=\"_other\"} 5"));
        metrics.forget_table("t0");
        assert!(!text(&metrics).contains("{table=\"t0\"}"));
    }

    #[test]
    fn levels_are_checked() {
        assert!(filter("info,converthouse::actors=debug").is_ok());
        assert!(filter("converthouse=loud").is_err());
    }

    #[test]
    fn the_document_lists_every_metric() {
        let metrics = Metrics::new();
        metrics.ingest_rows("t");
        metrics.ingest_bytes("t");
        metrics.ingest_lag("t", "n1");
        metrics.replication_spread("t");
        metrics.stalled_partitions("n1", "topic_missing");
        metrics.epoch_lag("n1");
        metrics.copied_rows("t");
        metrics.copied_bytes("parts");
        metrics.dead_letters("t");
        metrics.offset_gaps("t");
        metrics.replicas("n1", "ready");
        metrics.invariant_violations(Invariant::Fenced);
        metrics.heartbeat_age("n1", 250);
        metrics.metadata_errors(crate::error::Code(301));
        metrics.terms_ended("lease_late");
        metrics.actor_deaths("replica");
        metrics.clickhouse_up("n1");
        metrics.elastic.forget();
        let lead = Kind::Lead { shard: ShardId(1), to: "n1".parse().unwrap() };
        metrics.elastic.operation_ended(&lead, State::Done, 1_500);
        let families = metrics.registry().gather();
        assert_eq!(families.len(), 33, "call each metric with labels above, so that it shows");
        let document = include_str!("../docs/metrics.md");
        for family in families {
            assert!(document.contains(&format!("| `{}", family.name())), "{} is not listed", family.name());
        }
    }
}
