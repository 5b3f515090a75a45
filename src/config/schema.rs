//! Every section and key that a configuration file may have: type, default, meaning. The reader takes defaults
//! from here, and the reference page and the example are made from here, so that the three cannot differ.

mod balance;
mod ingest;
mod metadata;
mod transfer;

use balance::BALANCE;
use ingest::INGEST;
use metadata::{MEMBER, METADATA};
use transfer::TRANSFER;

/// What values a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A text never shown again.
    Secret,
    /// A path; a relative one is taken from the configuration file's folder.
    Path,
    /// `host:port`.
    Address,
    /// An IP address.
    Ip,
    /// `http(s)://host:port`.
    Url,
    /// A node's name.
    Node,
    /// A whole number within limits.
    Integer(i64, i64),
    /// A number above 0, with at most three decimals.
    Weight,
    /// Bytes: a whole number, or a text with a unit such as `"2TB"` or `"512MiB"`.
    Bytes,
    /// `true` or `false`.
    Bool,
    /// A list of texts.
    Texts,
    /// A table of texts, by any names.
    Map,
    /// One of these texts.
    Choice(&'static [&'static str]),
}

/// What holds if a key is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It has to be given.
    Required,
    /// Nothing, or what the text says.
    Otherwise(&'static str),
    /// This TOML value.
    Default(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Name within its section.
    pub name: &'static str,
    /// Values.
    pub kind: Kind,
    /// If not given.
    pub absent: Absent,
    /// A TOML value for the example.
    pub example: &'static str,
    /// Meaning, one or more sentences.
    pub doc: &'static str,
}

/// One section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Path, such as `metadata.tls`.
    pub path: &'static str,
    /// `[[path]]`: any number of them.
    pub repeated: bool,
    /// Shown in the example as live, rather than commented out.
    pub in_example: bool,
    /// Meaning.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

const fn key(
    name: &'static str,
    kind: Kind,
    absent: Absent,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, kind, absent, example, doc }
}

use Absent::{Default, Otherwise, Required};
use Kind::{Address, Bool, Bytes, Choice, Integer, Map, Node, Path, Secret, Text, Texts, Url, Weight};

const MS_MAX: i64 = 366 * 24 * 3_600_000;

const CERTIFICATES: &[Key] = &[
    key(
        "ca",
        Path,
        Otherwise("nobody"),
        "\"ca.pem\"",
        "Certificates (PEM) of those who sign the other side's.",
    ),
    key("cert", Path, Otherwise("none"), "\"n1.pem\"", "Certificate chain (PEM) shown to the other side."),
    key("key", Path, Otherwise("none"), "\"n1.key\"", "Private key (PEM) of `cert`."),
];

const DAEMON: &[Key] = &[
    key("node", Node, Otherwise("the first `[[node]]`"), "\"n1\"", "The node that this daemon stands for."),
    key(
        "data_dir",
        Path,
        Default("\"/var/lib/converthouse\""),
        "\"/var/lib/converthouse\"",
        "Folder for what the daemon keeps: the embedded store, the data of a managed etcd member.",
    ),
    key(
        "grpc_listen",
        Address,
        Default("\"127.0.0.1:7400\""),
        "\"0.0.0.0:7400\"",
        "Where gRPC is served: to the command line and to other daemons; in cluster mode an address that \
         those reach, such as `0.0.0.0:7400` with `grpc_advertise`. Port 0 takes any free one.",
    ),
    key(
        "grpc_advertise",
        Url,
        Otherwise("`grpc_listen`, if that is not a wildcard"),
        "\"http://n1.example.org:7400\"",
        "How other daemons reach this one's gRPC.",
    ),
    key(
        "http_listen",
        Address,
        Default("\"127.0.0.1:7401\""),
        "\"127.0.0.1:7401\"",
        "Where HTTP is served: metrics, probes, and inserts from ClickHouse. With the default, only a Prometheus on \
         this machine reaches it.",
    ),
    key(
        "http_advertise",
        Url,
        Otherwise("`http_listen`; for a wildcard, 127.0.0.1"),
        "\"http://127.0.0.1:7401\"",
        "How the ClickHouse beside this daemon reaches its HTTP, for `INSERT INTO <table>__insert`.",
    ),
    key(
        "record_trace",
        Path,
        Otherwise("nothing is recorded"),
        "\"/var/lib/converthouse/traces\"",
        "Folder where this daemon writes a trace of the cluster while it leads: a file each term, and a new one when \
         one is full. For `converthouse trace` and `converthouse sim`.",
    ),
    key(
        "record_trace_bytes_max",
        Bytes,
        Default("1000000000"),
        "\"1GB\"",
        "Traces in that folder have no more bytes than this; the oldest go. At least 16MB.",
    ),
];

const KAFKA: &[Key] = &[
    key(
        "kind",
        Choice(&["brokers", "embedded"]),
        Default("\"brokers\""),
        "\"brokers\"",
        "`embedded` is a broker inside this process, for a try in standalone mode: it keeps 5 MB a partition at \
         most, and forgets all when it ends. Tables are remembered: they have to be dropped and made again then.",
    ),
    key(
        "brokers",
        Texts,
        Otherwise("none; `brokers` needs some"),
        "[\"kafka1:9092\", \"kafka2:9092\"]",
        "`host:port` of some brokers; the others are found from them.",
    ),
    key(
        "replication",
        Integer(-1, 100),
        Default("-1"),
        "3",
        "Copies of a new topic on brokers; -1 is the brokers' own default.",
    ),
    key(
        "password_file",
        Path,
        Otherwise("none"),
        "\"kafka.password\"",
        "File that holds `sasl.password`; a line end at its end is dropped.",
    ),
    key(
        "settings",
        Map,
        Default("{}"),
        "{ \"security.protocol\" = \"SASL_SSL\", \"sasl.mechanisms\" = \"SCRAM-SHA-512\", \"sasl.username\" = \"ch\" }",
        "Settings of librdkafka, by its own names, for every producer and consumer. Those that exactly-once rests on \
         (acknowledgements, groups, commits, isolation, where reading begins) are the daemon's own, and refused.",
    ),
];

const NODE: &[Key] = &[
    key("id", Node, Required, "\"n1\"", "The node's name: lower-case letters, digits and inner hyphens."),
    key(
        "labels",
        Map,
        Default("{}"),
        "{ zone = \"a\", rack = \"r1\" }",
        "Labels, for placement (`zone`, `rack`) and for route groups.",
    ),
    key(
        "capacity_bytes",
        Bytes,
        Default("0"),
        "\"2TB\"",
        "Disk of which tables may fill 85 %; 0 takes what ClickHouse says of its disk `default`. Servers before \
         20.1 say nothing: there, and with storage policies over other disks, no limit is kept unless it is given.",
    ),
    key("weight", Weight, Default("1.0"), "1.0", "Share of the load, relative to a normal node's 1.0."),
    key(
        "clickhouse_url",
        Url,
        Default("\"http://127.0.0.1:8123\""),
        "\"http://127.0.0.1:8123\"",
        "HTTP address of the node's ClickHouse, as this daemon reaches it.",
    ),
    key(
        "clickhouse_user",
        Text,
        Default("\"default\""),
        "\"converthouse\"",
        "User for the daemon's statements.",
    ),
    key("clickhouse_password", Secret, Otherwise("empty"), "\"…\"", "Its password; better in a file."),
    key(
        "clickhouse_password_file",
        Path,
        Otherwise("none"),
        "\"clickhouse.password\"",
        "File that holds the password; a line end at its end is dropped.",
    ),
    key(
        "clickhouse_host",
        Text,
        Otherwise("standalone mode: the host of `clickhouse_url`; cluster mode: has to be given"),
        "\"n1.example.org\"",
        "Host name or address by which other ClickHouse servers reach this one.",
    ),
    key(
        "clickhouse_port",
        Integer(1, 65_535),
        Otherwise("9000, or 9440 if secure"),
        "9000",
        "Port of the native protocol there.",
    ),
    key("clickhouse_secure", Bool, Default("false"), "false", "TLS between ClickHouse servers."),
    key(
        "query_user",
        Text,
        Otherwise("`clickhouse_user`"),
        "\"distributed\"",
        "User that distributed queries run as on this node.",
    ),
    key(
        "query_password",
        Secret,
        Otherwise("`clickhouse_password`"),
        "\"…\"",
        "Its password; better in a file.",
    ),
    key(
        "query_password_file",
        Path,
        Otherwise("none"),
        "\"query.password\"",
        "File that holds that password; a line end at its end is dropped.",
    ),
    key(
        "clickhouse_data",
        Path,
        Otherwise("where the server says that it is"),
        "\"/mnt/clickhouse\"",
        "Where this daemon finds the folder that the server calls its `path`, if that is another place for it, as in a \
         container. For copies by parts: see `[transfer]`.",
    ),
    key(
        "routes_file",
        Path,
        Default("\"/etc/clickhouse-server/config.d/converthouse_routes.xml\""),
        "\"/etc/clickhouse-server/config.d/converthouse_routes.xml\"",
        "The cluster file that the daemon writes for this ClickHouse; in a folder that the server reads.",
    ),
];

const FAILOVER: &[Key] = &[
    key(
        "down_after_ms",
        Integer(1_000, MS_MAX),
        Default("1800000"),
        "1800000",
        "A node gone for so long gets its replicas rebuilt elsewhere. Its leaderships move at once.",
    ),
    key(
        "preferred_leader_lag_max",
        Integer(0, 999_999),
        Default("10000"),
        "10000",
        "A copy joins the routes once it lags by no more messages than this, and a returning preferred leader leads \
         again. One that falls 1 000 000 behind leaves them.",
    ),
];

const ROUTE_GROUP: &[Key] = &[
    key(
        "name",
        Text,
        Required,
        "\"dc1\"",
        "Suffix of the group's cluster (`cvh_<db>_<table>_<id>__<name>`): letters, digits and `_`.",
    ),
    key("label", Text, Required, "\"dc\"", "Label that a node must have to be in the group."),
    key("value", Text, Required, "\"dc1\"", "The label's value."),
];

const LOG: &[Key] = &[
    key(
        "level",
        Text,
        Default("\"info\""),
        "\"info\"",
        "`error`, `warn`, `info`, `debug` or `trace`, or directives: `info,converthouse::actors=debug`.",
    ),
    key(
        "format",
        Choice(&["text", "json"]),
        Default("\"text\""),
        "\"json\"",
        "Lines for people, or JSON objects.",
    ),
];

const CLUSTER: &[Key] = &[key(
    "name",
    Text,
    Default("\"converthouse\""),
    "\"production\"",
    "Name of the cluster: letters, digits, `-`, `_`.",
)];

/// Every section, in the order of the reference.
pub const SECTIONS: &[Section] = &[
    Section { path: "cluster", repeated: false, in_example: true, doc: "The cluster.", keys: CLUSTER },
    Section { path: "daemon", repeated: false, in_example: true, doc: "This process.", keys: DAEMON },
    Section {
        path: "daemon.tls",
        repeated: false,
        in_example: false,
        doc: "TLS for gRPC, both ways: daemons and the command line show a certificate too, signed by `ca`. All \
              three keys are needed.",
        keys: CERTIFICATES,
    },
    Section {
        path: "metadata",
        repeated: false,
        in_example: true,
        doc: "Where tables, shards and nodes are kept.",
        keys: METADATA,
    },
    Section {
        path: "metadata.tls",
        repeated: false,
        in_example: false,
        doc: "TLS to etcd; `cert` and `key` where it wants a certificate of its clients.",
        keys: CERTIFICATES,
    },
    Section {
        path: "metadata.member",
        repeated: true,
        in_example: false,
        doc: "One member of a managed etcd; the same list on every daemon, an odd number of them. A daemon whose node \
              is not on the list runs none, and uses those that are.",
        keys: MEMBER,
    },
    Section { path: "kafka", repeated: false, in_example: true, doc: "The message queue.", keys: KAFKA },
    Section {
        path: "node",
        repeated: true,
        in_example: true,
        doc: "A node: one ClickHouse server. Exactly one with `etcd` and `managed`; any number with `embedded`.",
        keys: NODE,
    },
    Section {
        path: "ingest",
        repeated: false,
        in_example: true,
        doc: "From Kafka into ClickHouse.",
        keys: INGEST,
    },
    Section {
        path: "transfer",
        repeated: false,
        in_example: true,
        doc: "How replicas are copied from node to node.",
        keys: TRANSFER,
    },
    Section {
        path: "failover",
        repeated: false,
        in_example: true,
        doc: "When nodes go and come.",
        keys: FAILOVER,
    },
    Section {
        path: "balance",
        repeated: false,
        in_example: true,
        doc: "What the cluster may do by itself to stay in balance.",
        keys: BALANCE,
    },
    Section {
        path: "route_group",
        repeated: true,
        in_example: false,
        doc: "A further cluster per table, over the replicas on nodes with a label; a shard without one there is \
              read where it is.",
        keys: ROUTE_GROUP,
    },
    Section { path: "log", repeated: false, in_example: true, doc: "Logs, on standard error.", keys: LOG },
];

/// The section of a path.
pub fn section(path: &str) -> &'static Section {
    SECTIONS
        .iter()
        .find(|section| section.path == path)
        .expect("the reader asks for sections of this list only")
}
