//! The ClickHouse adapter against a real 18.16.1 and, through a shim, against the current engine.

use crate::support::clickhouse::Running;
use converthouse::adapters::clickhouse::{ClickHouse, Error, conformance};
use converthouse::model::table::Schema;
use converthouse::model::{TableName, ids};
use std::sync::Arc;

fn replica_database(name: &TableName) -> String {
    let table = ids::TableId(uuid::Uuid::from_u128(7 << 96));
    converthouse::model::names::replica_database(name, table, ids::ShardId(1))
}

#[tokio::test]
async fn the_oldest_server_keeps_the_contract() {
    let running = Running::start("contract").await;
    conformance::run_all(Arc::new(running.client()), 1).await;
    assert!(running.server.is_running() && running.folder.path().is_dir());
}

const ODD_DDL: &str = "-- a table with every difficulty in its names
    CREATE TABLE IF NOT EXISTS `a.b`.`sel``ect 'x' \"日\\\\本\"` (
        ts DateTime DEFAULT now(), `from` String COMMENT 'it''s', `a``b.c\\\\d` Int64,
        up String MATERIALIZED upper(`from`), `日` UInt64 ALIAS `a``b.c\\\\d` + 1, n Nested(k String, v UInt8)
    ) ENGINE = MergeTree PARTITION BY (toYYYYMM(ts), `a``b.c\\\\d` % 2) ORDER BY (`from`, intHash32(`a``b.c\\\\d`))
    SAMPLE BY intHash32(`a``b.c\\\\d`) SETTINGS index_granularity = 1024;";

async fn parsed(client: &impl ClickHouse, ddl: &str) -> (TableName, Schema) {
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
    let replica =
        converthouse::adapters::clickhouse::ReplicaTables { database: replica_database(&name), schema };
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
    let replica = converthouse::adapters::clickhouse::ReplicaTables { database: database.clone(), schema };
    client.create_replica(&replica).await.unwrap();
    for insert in ["(ts, v) VALUES (1, 'x')", "FORMAT JSONEachRow {\"ts\":5}", "VALUES (1, 2, 3, 'x')"] {
        let refused = running.try_query(&format!("INSERT INTO `{database}`.local {insert}")).await;
        assert!(refused.is_err(), "{insert}: {refused:?}");
    }
    assert_eq!(running.query(&format!("SELECT count() FROM `{database}`.local")).await, "0\n");
}
