//! The ClickHouse adapter against a real 18.16.1 and, through a shim, against the current engine.

use crate::support::clickhouse::{Running, endpoint_at};
use converthouse::adapters::clickhouse::{
    ClickHouse, DistributedTable, Error, HttpClickHouse, Insert, ReplicaTables, conformance,
};
use converthouse::adapters::routes::{FileRoutes, RoutesFile, render};
use converthouse::error::{Coded, Retry};
use converthouse::model::node::Secret;
use converthouse::model::routes::{RouteReplica, RouteShard, TableRoutes};
use converthouse::model::table::{MessageFormat, Schema};
use converthouse::model::{PartitionRange, TableName, ids, names};
use std::collections::BTreeMap;
use std::sync::Arc;

fn replica_database(name: &TableName) -> String {
    let table = ids::TableId(uuid::Uuid::from_u128(7 << 96));
    names::replica_database(name, table, ids::ShardId(1))
}

#[tokio::test]
async fn the_oldest_server_keeps_the_contract() {
    let running = Running::start("contract").await;
    let another = Running::start("another").await;
    let other = conformance::Other { server: Arc::new(another.client()), endpoint: another.endpoint() };
    conformance::run_all(Arc::new(running.client()), other, 1).await;
    assert!(running.server.is_running() && running.folder.path().is_dir());
}

pub const ODD_DDL: &str = "-- a table with every difficulty in its names
    CREATE TABLE IF NOT EXISTS `a.b`.`sel``ect 'x' \"日\\\\本\"` (
        ts DateTime DEFAULT now(), `from` String COMMENT 'it''s', `a``b.c\\\\d` Int64,
        up String MATERIALIZED upper(`from`), `日` UInt64 ALIAS `a``b.c\\\\d` + 1, n Nested(k String, v UInt8)
    ) ENGINE = MergeTree PARTITION BY (toYYYYMM(ts), `a``b.c\\\\d` % 2) ORDER BY (`from`, intHash32(`a``b.c\\\\d`))
    SAMPLE BY intHash32(`a``b.c\\\\d`) SETTINGS index_granularity = 1024;";

pub async fn parsed(client: &impl ClickHouse, ddl: &str) -> (TableName, Schema) {
    client.parse_ddl(ddl, 42).await.unwrap_or_else(|error| panic!("{ddl}: {error}"))
}

#[tokio::test]
async fn ddl_with_odd_names_is_read_back_whole_and_leaves_nothing() {
    let running = Running::start("ddl").await;
    let client = running.client();
    let (name, schema) = parsed(&client, ODD_DDL).await;
    assert_eq!(name, TableName { database: "a.b".into(), table: "sel`ect 'x' \"日\\本\"".into() });
    let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["ts", "from", "a`b.c\\d", "n.k", "n.v", "up", "日"], "as the server orders them");
    assert_eq!(schema.columns[1].codec, "COMMENT 'it\\'s'");
    assert_eq!(schema.partition_key, "(toYYYYMM(ts), `a\\`b.c\\\\d` % 2)");
    assert_eq!(schema.settings, "index_granularity = 1024");
    let databases = running.query("SHOW DATABASES").await;
    assert!(!databases.contains("scratch") && !databases.contains("a.b"), "{databases}");
    // Made of the schema, on a server, with rows in.
    let replica = ReplicaTables { database: replica_database(&name), schema };
    client.create_replica(&replica).await.unwrap();
    client.renew_gate(&replica.database).await.unwrap();
    assert_eq!(client.type_of(&replica.schema, "cityHash64(`from`)").await.unwrap(), "UInt64");
}

#[tokio::test]
async fn ddl_that_cannot_be_distributed_is_refused_with_its_reason() {
    let running = Running::start("refusals").await;
    let client = running.client();
    for (ddl, reason) in [
        ("CREATE TABLE t (a Int8) ENGINE = ReplacingMergeTree ORDER BY a", "offsets"),
        ("CREATE TABLE t (a Int8) ENGINE = Memory", "MergeTree"),
        ("CREATE TABLE t (_cvh_row Int8) ENGINE = MergeTree ORDER BY tuple()", "rename"),
        ("CREATE TABLE t (a NoSuchType) ENGINE = MergeTree ORDER BY a", "NoSuchType"),
        ("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a, b)", "Syntax error"),
        ("CREATE TABLE t ON CLUSTER c (a Int8) ENGINE = MergeTree ORDER BY a", "ON CLUSTER"),
        ("DROP TABLE t", "CREATE TABLE"),
    ] {
        match client.parse_ddl(ddl, 1).await {
            Err(Error::Refused { message, .. }) => assert!(message.contains(reason), "{ddl}: {message}"),
            other => panic!("{ddl}: {other:?}"),
        }
    }
    assert!(!running.query("SHOW DATABASES").await.contains("scratch"), "failures leave nothing behind");
    let old = "CREATE TABLE d.t (d Date, a UInt32) ENGINE = MergeTree(d, a, (a, d), 8192)";
    let (_, schema) = parsed(&client, old).await;
    assert_eq!((schema.partition_key.as_str(), schema.sampling_key.as_str()), ("toYYYYMM(d)", "a"));
}

#[tokio::test]
async fn rows_that_go_round_the_gate_are_refused() {
    let running = Running::start("guard").await;
    let client = running.client();
    let ddl = "CREATE TABLE g.t (ts DateTime, v String) ENGINE = MergeTree ORDER BY ts";
    let (name, schema) = parsed(&client, ddl).await;
    let database = replica_database(&name);
    let replica = ReplicaTables { database: database.clone(), schema };
    client.create_replica(&replica).await.unwrap();
    for insert in ["(ts, v) VALUES (1, 'x')", "FORMAT JSONEachRow {\"ts\":5}", "VALUES (1, 2, 3, 'x')"] {
        let refused = running.try_query(&format!("INSERT INTO `{database}`.local {insert}")).await;
        assert!(refused.is_err(), "{insert}: {refused:?}");
    }
    assert_eq!(running.query(&format!("SELECT count() FROM `{database}`.local")).await, "0\n");
}

/// Routes of one table over one server, in two shards of 7 and 3 partitions.
fn two_shards(running: &Running, name: &TableName) -> TableRoutes {
    two_shards_at(running.server.tcp_port(), &running.password, name)
}

/// The same over whatever is at a native port.
pub fn two_shards_at(port: u16, password: &Secret, name: &TableName) -> TableRoutes {
    let endpoint = endpoint_at(port, password);
    let table = ids::TableId(uuid::Uuid::from_u128(7 << 96));
    let shard = |number, lo, hi| RouteShard {
        shard: ids::ShardId(number),
        range: PartitionRange::new(lo, hi).unwrap(),
        replicas: vec![RouteReplica {
            node: "n1".parse().unwrap(),
            endpoint: endpoint.clone(),
            database: names::replica_database(name, table, ids::ShardId(number)),
        }],
    };
    TableRoutes {
        table,
        name: name.clone(),
        epoch: ids::Epoch(1),
        partitions: 10,
        shards: vec![shard(1, 0, 7), shard(2, 7, 10)],
        groups: BTreeMap::from([("read".to_owned(), vec![shard(1, 0, 10)])]),
    }
}

/// Writes, reloads, and waits until the server shows what it should.
async fn publish(running: &Running, routes: &TableRoutes) {
    let client = running.client();
    let file = FileRoutes::new(&running.server.routes_file());
    file.replace(&render::render(std::slice::from_ref(routes)).into()).await.unwrap();
    client.reload_config().await.unwrap();
    for (cluster, expected) in render::expected(routes) {
        assert_eq!(*client.cluster(&cluster).await.unwrap(), expected, "{cluster}");
    }
}

/// A batch of CSV rows.
pub fn batch(database: &str, gate: u64, schema: &Schema, body: &str) -> Insert {
    let hidden = [names::PARTITION_COLUMN, names::OFFSET_COLUMN, names::ROW_COLUMN].map(str::to_owned);
    let own = schema.columns.iter().filter(|column| column.insertable()).map(|column| column.name.clone());
    Insert {
        database: database.to_owned(),
        gate,
        columns: hidden.into_iter().chain(own).collect(),
        format: MessageFormat::CSV,
        format_settings: BTreeMap::new(),
        rows: u32::try_from(body.lines().count()).unwrap(),
        skip_bad_rows: false,
        body: body.to_owned().into(),
        query_id: uuid::Uuid::new_v4().to_string(),
        deadline_ms: 60_000,
    }
}

#[tokio::test]
async fn a_distributed_table_asks_every_shard_and_takes_no_rows_itself() {
    let running = Running::start("distributed").await;
    let client = running.client();
    let ddl = "CREATE TABLE `sh.op`.`e'v``s` (ts DateTime, `k'1` UInt64, v String DEFAULT 'd', m String MATERIALIZED \
               upper(v), al UInt64 ALIAS `k'1` + 1) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts";
    let (name, schema) = parsed(&client, ddl).await;
    let routes = two_shards(&running, &name);
    publish(&running, &routes).await;
    for (shard, partition) in [(0, 1), (1, 8)] {
        let database = routes.shards[shard].replicas[0].database.clone();
        client
            .create_replica(&ReplicaTables { database: database.clone(), schema: schema.clone() })
            .await
            .unwrap();
        let gate = client.renew_gate(&database).await.unwrap();
        let row = format!("{partition},5,0,\"2026-01-01 00:00:00\",{partition},\"x{partition}\"\n");
        client.insert(batch(&database, gate, &schema, &row)).await.unwrap();
    }
    let mut table = DistributedTable {
        name: name.clone(),
        schema,
        cluster: routes.cluster(),
        sharding_key: "`k'1` -- the key".into(),
        insert_url: None,
    };
    for key in ["`k'1` -- the key", "`k'1` -- the key", "cityHash64(`k'1`)"] {
        table.sharding_key = key.into();
        client.create_distributed(&table).await.unwrap();
    }
    let shown = running.query("SELECT engine_full FROM system.tables WHERE database = 'sh.op'").await;
    assert!(
        shown.lines().count() == 1 && shown.contains("cityHash64"),
        "replaced, nothing left over: {shown}"
    );
    let quoted = "`sh.op`.`e'v``s`";
    let all = running.query(&format!("SELECT *, m, al FROM {quoted} ORDER BY `k'1`")).await;
    assert_eq!(all, "2026-01-01 00:00:00\t1\tx1\tX1\t2\n2026-01-01 00:00:00\t8\tx8\tX8\t9\n");
    for insert in ["(ts, v) VALUES (1, 'x')", "FORMAT JSONEachRow {\"ts\":5}"] {
        let refused = running.try_query(&format!("INSERT INTO {quoted} {insert}")).await;
        assert!(refused.as_ref().is_err_and(|error| error.contains("Code: 395")), "{insert}: {refused:?}");
    }
    client.drop_distributed(&name, "cvh_another").await.unwrap();
    assert_eq!(
        running.query(&format!("EXISTS TABLE {quoted}")).await,
        "1\n",
        "of another cluster, left alone"
    );
    for _ in 0..2 {
        client.drop_distributed(&name, &table.cluster).await.unwrap();
    }
    assert_eq!(running.query(&format!("EXISTS TABLE {quoted}")).await, "0\n");
    running.query(&format!("CREATE TABLE {quoted} (a Int8) ENGINE = Log")).await;
    let made = client.create_distributed(&table).await;
    assert!(matches!(made, Err(Error::Conflict(_))), "somebody's own table is left alone: {made:?}");
    client.drop_distributed(&name, &table.cluster).await.unwrap();
    assert_eq!(running.query(&format!("EXISTS TABLE {quoted}")).await, "1\n");
}

#[tokio::test]
async fn the_insert_table_sends_its_rows_to_the_daemon() {
    let running = Running::start("insert-table").await;
    let client = running.client();
    let ddl = "CREATE TABLE d.t (ts DateTime, v String DEFAULT 'none', m String MATERIALIZED upper(v)) \
               ENGINE = MergeTree ORDER BY ts";
    let (name, schema) = parsed(&client, ddl).await;
    publish(&running, &two_shards(&running, &name)).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/insert?database=d&table=t", listener.local_addr().unwrap());
    let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
    let app = axum::Router::new().fallback(axum::routing::any(async move |body: String| {
        let status = if body.contains("refuse me") { 503 } else { 200 };
        sent.send(body).unwrap();
        (axum::http::StatusCode::from_u16(status).unwrap(), "the daemon's word")
    }));
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let table = DistributedTable {
        cluster: two_shards(&running, &name).cluster(),
        name,
        schema,
        sharding_key: "1".into(),
        insert_url: Some(url),
    };
    for _ in 0..2 {
        client.create_distributed(&table).await.unwrap();
    }
    running.query("INSERT INTO d.t__insert (ts, v) VALUES (1, 'a\"b'), (2, 'c')").await;
    let rows = received.recv().await.unwrap();
    assert_eq!(
        rows,
        "{\"ts\":\"1970-01-01 00:00:01\",\"v\":\"a\\\"b\"}\n{\"ts\":\"1970-01-01 00:00:02\",\"v\":\"c\"}\n"
    );
    running.query("INSERT INTO d.t__insert (ts) VALUES (3)").await;
    assert!(received.recv().await.unwrap().contains("none"), "defaults are filled in before");
    let refused = running.try_query("INSERT INTO d.t__insert (ts, v) VALUES (1, 'refuse me')").await;
    assert!(refused.as_ref().is_err_and(|error| error.contains("the daemon's word")), "{refused:?}");
    let gone = DistributedTable { insert_url: None, ..table.clone() };
    client.create_distributed(&gone).await.unwrap();
    assert_eq!(running.query("EXISTS TABLE d.t__insert").await, "0\n");
    serving.abort();
}

#[tokio::test]
async fn partitions_are_what_the_servers_own_sharding_makes_of_the_key() {
    let running = Running::start("partitions").await;
    let client = running.client();
    let ddl = "CREATE TABLE d.t (k Int32, `s'x` String) ENGINE = MergeTree ORDER BY k";
    let (_, schema) = parsed(&client, ddl).await;
    let of = async |key: &str, format, body: &str| {
        let found = client.partitions_of(&schema, key, 7, format, body.to_owned().into()).await;
        found.map(|found| found.into_iter().map(|partition| partition.0).collect::<Vec<_>>())
    };
    // A negative key counts as unsigned of the same width: 4294967295 % 7 = 3.
    let csv = "-1,a\n0,b\n13,\"c,d\"\n";
    assert_eq!(of("k", MessageFormat::CSV, csv).await.unwrap(), [3, 0, 6]);
    assert_eq!(of("k", MessageFormat::TSV, "5\tx\n").await.unwrap(), [5]);
    let json = "{\"s'x\":\"a\",\"k\":8}\n{\"k\":-1}\n";
    assert_eq!(of("k -- key", MessageFormat::JSONEachRow, json).await.unwrap(), [1, 3]);
    let hashes = of("cityHash64(`s'x`)", MessageFormat::CSV, csv).await.unwrap();
    let expected = running.query("SELECT groupArray(cityHash64(arrayJoin(['a','b','c,d'])) % 7)").await;
    assert_eq!(format!("{hashes:?}").replace(' ', ""), expected.trim());
    assert!(matches!(of("k", MessageFormat::CSV, "x,y\n").await, Err(Error::BadRows { .. })));
    assert!(matches!(of("nope", MessageFormat::CSV, csv).await, Err(Error::Refused { .. })));
    for (expression, found) in [("k", "Int32"), ("k % 3", "Int8"), ("`s'x`", "String"), ("(k, k)", "Tuple")] {
        let kind = client.type_of(&schema, expression).await.unwrap();
        assert!(kind.starts_with(found), "{expression}: {kind}");
    }
    for expression in ["count()", "k), (k", "", "nope", "k FROM system.one --"] {
        let refused = client.type_of(&schema, expression).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{expression}: {refused:?}");
    }
}

#[tokio::test]
async fn wrong_credentials_and_an_unreachable_server_are_told_apart() {
    let running = Running::start("denied").await;
    let wrong = HttpClickHouse::new(&running.server.url(), "default", &Secret::new("wrong"));
    let denied = wrong.server_info().await;
    assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    assert!(!format!("{denied:?}").contains("wrong"), "the password is told nowhere: {denied:?}");
    let nobody = HttpClickHouse::new(&running.server.url(), "nobody", &Secret::new(""));
    assert!(matches!(nobody.server_info().await, Err(Error::Denied(_))));
    for url in ["http://127.0.0.1:1", "http://no-such-host.invalid:8123", "nonsense"] {
        let client = HttpClickHouse::new(url, "", &Secret::new(""));
        let error = client.create_replica(&replica_of("CREATE", "d__t__cvh00000007_s1")).await.unwrap_err();
        let expected = matches!(error, Error::Unreachable { .. } | Error::Refused { code: 0, .. });
        assert!(expected && error.retry() != Retry::OutcomeUnknown, "{url}: {error:?}");
    }
}

fn replica_of(engine: &str, database: &str) -> ReplicaTables {
    let schema = Schema { engine: engine.into(), ..Schema::default() };
    ReplicaTables { database: database.into(), schema }
}
