//! The same adapter against the current engine (26.9, in process, behind a shim): that the SQL we generate is right
//! there too. What only a server has (native port, reload, running queries) is proven on 18.16.1 alone.

use crate::clickhouse::{ODD_DDL, parsed, two_shards_at};
use crate::support::clickhouse::{Current, endpoint_at};
use converthouse::adapters::clickhouse::{
    ClickHouse, DistributedTable, Error, ReplicaTables, Written, conformance,
};
use converthouse::adapters::routes::render;
use converthouse::model::TableName;
use converthouse::model::node::Secret;
use converthouse::model::table::MessageFormat;
use std::sync::Arc;

#[tokio::test]
async fn the_current_engine_keeps_the_contract() {
    let Some(current) = Current::start(&render::render(&[])).await else { return };
    let client = Arc::new(current.client());
    // Port 1 stands for the engine itself: see the shim.
    let other =
        conformance::Other { server: client.clone(), endpoint: endpoint_at(1, &Secret::new("s'e\\c")) };
    conformance::run_all(client.clone(), other, 1).await;
    let info = client.server_info().await.unwrap();
    assert!(info.version.starts_with("26.") && info.disk_total_bytes > 0, "{info:?}");
}

#[tokio::test]
async fn the_current_engine_reads_ddl_back_whole() {
    let Some(current) = Current::start(&render::render(&[])).await else { return };
    let client = current.client();
    let (name, schema) = parsed(&client, ODD_DDL).await;
    assert_eq!(name.table, "sel`ect 'x' \"日\\本\"");
    let replica = ReplicaTables { database: "x__y__cvh00000007_s1".into(), schema };
    client.create_replica(&replica).await.unwrap();
    client.create_replica(&replica).await.unwrap();
    client.renew_gate(&replica.database).await.unwrap();
    assert_eq!(client.type_of(&replica.schema, "cityHash64(`from`)").await.unwrap(), "UInt64");
    let (_, kept) = parsed(
        &client,
        "CREATE TABLE t (ts DateTime CODEC(DoubleDelta), v LowCardinality(String) COMMENT 'why' CODEC(ZSTD(3))) \
         ENGINE = MergeTree ORDER BY ts TTL ts + INTERVAL 1 DAY SETTINGS index_granularity = 1024",
    )
    .await;
    assert_eq!(kept.columns[1].codec, "COMMENT 'why' CODEC(ZSTD(3))");
    assert_eq!(
        (kept.ttl.as_str(), kept.settings.as_str()),
        ("ts + toIntervalDay(1)", "index_granularity = 1024")
    );
    for lost in [
        "CREATE TABLE t (a Int8, INDEX i a TYPE minmax GRANULARITY 1) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE t (a Int8, PROJECTION p (SELECT a ORDER BY a)) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE t (a Int8, CONSTRAINT c CHECK a > 0) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE t (a Int8, d Date TTL d + INTERVAL 1 DAY) ENGINE = MergeTree ORDER BY a",
        "CREATE TABLE t (a Int8 EPHEMERAL, b Int8) ENGINE = MergeTree ORDER BY b",
        "CREATE TABLE t (a Int8) ENGINE = ReplacingMergeTree ORDER BY a",
    ] {
        let refused = client.parse_ddl(lost, 3).await;
        assert!(matches!(refused, Err(Error::Refused { code: 0, .. })), "{lost}: {refused:?}");
    }
    let left = current.query("SELECT name FROM system.databases WHERE name LIKE '%scratch%'").await.unwrap();
    assert_eq!(left, "");
}

#[tokio::test]
async fn the_current_engine_guards_and_replaces_the_user_facing_tables() {
    let name = TableName { database: "sh.op".into(), table: "e'v`s".into() };
    let routes = two_shards_at(1, &Secret::new(""), &name);
    let Some(current) = Current::start(&render::render(std::slice::from_ref(&routes))).await else { return };
    let client = current.client();
    for (cluster, expected) in render::expected(&routes) {
        assert_eq!(*client.cluster(&cluster).await.unwrap(), expected, "{cluster}");
    }
    let ddl = "CREATE TABLE `sh.op`.`e'v``s` (ts DateTime, k UInt64, m String MATERIALIZED toString(k), \
               al UInt64 ALIAS k + 1) ENGINE = MergeTree ORDER BY ts";
    let (_, schema) = parsed(&client, ddl).await;
    let mut table = DistributedTable {
        name: name.clone(),
        schema,
        cluster: routes.cluster(),
        sharding_key: "k".into(),
        insert_url: Some("http://127.0.0.1:1/insert?a=b".into()),
    };
    for key in ["k", "k", "cityHash64(k) -- other"] {
        table.sharding_key = key.into();
        client.create_distributed(&table).await.unwrap();
    }
    let tables = "SELECT name, engine FROM system.tables WHERE database = 'sh.op' ORDER BY name";
    let shown = current.query(tables).await.unwrap();
    assert_eq!(shown, "e'v`s\tDistributed\ne'v`s__insert\tURL\n");
    for insert in ["(ts, k) VALUES (1, 2)", "FORMAT JSONEachRow {\"k\":5}"] {
        let refused = current.query(&format!("INSERT INTO `sh.op`.`e'v``s` {insert}")).await.unwrap_err();
        assert!(refused.contains("395") && refused.contains("__insert or send to the topics"), "{refused}");
    }
    client.drop_distributed(&name, &table.cluster).await.unwrap();
    assert_eq!(current.query(tables).await.unwrap(), "");
}

#[tokio::test]
async fn the_current_engine_finds_partitions() {
    let Some(current) = Current::start(&render::render(&[])).await else { return };
    let client = current.client();
    let ddl = "CREATE TABLE d.t (k Int32, v String) ENGINE = MergeTree ORDER BY k";
    let (_, schema) = parsed(&client, ddl).await;
    let body = "-1,a\n0,b\n13,\"c,d\"\n";
    let found = client.partitions_of(&schema, "k", 7, MessageFormat::CSV, body.into()).await.unwrap();
    assert_eq!(found.iter().map(|partition| partition.0).collect::<Vec<_>>(), [3, 0, 6]);
    let bad = client.partitions_of(&schema, "k", 7, MessageFormat::JSONEachRow, "{\"k\":\"x\"}".into()).await;
    assert!(matches!(bad, Err(Error::BadRows { .. })), "{bad:?}");
    for expression in ["count()", "k), (k", "nope"] {
        let refused = client.type_of(&schema, expression).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{expression}: {refused:?}");
    }
}

#[tokio::test]
async fn the_current_engine_tells_what_a_trace_is_made_of() {
    let shard =
        |port: u16| format!("<shard><replica><host>127.0.0.1</host><port>{port}</port></replica></shard>");
    let config = format!(
        "<clickhouse><part_log><database>system</database><table>part_log</table>\
         <flush_interval_milliseconds>100</flush_interval_milliseconds></part_log>\
         <remote_servers><ours>{}{}</ours></remote_servers></clickhouse>",
        shard(9),
        shard(1)
    );
    let Some(current) = Current::start(&config).await else { return };
    for sql in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.events (id UInt64) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO shop.events SELECT number FROM numbers(1000)",
        "SYSTEM FLUSH LOGS",
    ] {
        current.query(sql).await.unwrap();
    }
    let survey = current.client().survey(24).await.unwrap();
    let clusters: Vec<(&str, u32, &str)> = survey
        .clusters
        .iter()
        .map(|line| (line.cluster.as_str(), line.shard, line.address.as_str()))
        .collect();
    assert_eq!(clusters, [("ours", 1, "127.0.0.1:9"), ("ours", 2, "127.0.0.1:1")]);
    let held: Vec<(&str, &str)> =
        survey.held.iter().map(|held| (held.database.as_str(), held.table.as_str())).collect();
    assert_eq!(held, [("shop", "events")]);
    let written = survey.written.expect("it keeps a part log");
    let of_table: Vec<&Written> = written.iter().filter(|written| written.database == "shop").collect();
    let [written] = of_table[..] else { panic!("{written:?}") };
    assert_eq!((written.table.as_str(), written.hour_unix_s % 3_600), ("events", 0));
    assert!(written.bytes > 0 && survey.now_unix_s - written.hour_unix_s < 7_200, "{written:?}");
    let without = Current::start(&render::render(&[])).await.unwrap();
    assert_eq!(without.client().survey(24).await.unwrap().written, None);
}
