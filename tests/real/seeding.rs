//! Seeding replicas on real 18.16.1 servers: that every column is taken over as it is, and what may go wrong.

use crate::clickhouse::{batch, parsed};
use crate::support::clickhouse::Running;
use converthouse::adapters::clickhouse::{
    ClickHouse, CopyLimits, Error, HttpClickHouse, RemoteReplica, ReplicaTables,
};
use converthouse::model::node::Secret;
use converthouse::model::table::Schema;
use converthouse::model::{PartitionId, PartitionRange};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub const SOURCE: &str = "d__t__cvh00000007_s1";
pub const TARGET: &str = "d__t__cvh00000007_s2";
/// A column that nobody could compute again, one of another engine's sort, and a partition key that is hashed.
pub const DDL: &str = "CREATE TABLE d.t (ts DateTime, `k'1` String, v String DEFAULT 'none', odd UInt64 MATERIALIZED \
                   rand64(), al UInt64 ALIAS odd + 1) ENGINE = MergeTree PARTITION BY (toYYYYMM(ts), `k'1`) \
                   PRIMARY KEY ts ORDER BY (ts, `k'1`) SAMPLE BY ts SETTINGS index_granularity = 1024";
const EVERYTHING: &str =
    "count(), sum(cityHash64(_cvh_partition, _cvh_offset, _cvh_row, ts, `k'1`, v, odd, al))";

fn limits(deadline_ms: u64) -> CopyLimits {
    CopyLimits { deadline_ms, bytes_per_s: 0 }
}

fn range(lo: u32, hi: u32) -> PartitionRange {
    PartitionRange::new(lo, hi).unwrap()
}

pub fn tables(database: &str, schema: &Schema) -> ReplicaTables {
    ReplicaTables { database: database.into(), schema: schema.clone() }
}

/// The source replica with its first gate.
pub async fn source(running: &Running, engine: &str) -> (HttpClickHouse, Schema, u64) {
    let client = running.client();
    let (_, mut schema) = parsed(&client, DDL).await;
    engine.clone_into(&mut schema.engine);
    client.create_replica(&tables(SOURCE, &schema)).await.unwrap();
    let gate = client.renew_gate(SOURCE).await.unwrap();
    (client, schema, gate)
}

/// Puts rows into four partitions, six months and two keys.
pub async fn fill(client: &HttpClickHouse, gate: u64, schema: &Schema, offsets: std::ops::Range<i64>) {
    let row = |o: i64| {
        let (partition, month, key) = (o % 4, 1 + o / 4 % 6, o % 2);
        format!("{partition},{o},0,\"2026-0{month}-02 00:00:0{}\",\"k'{key}\",\"v{o}\"\n", o % 10)
    };
    let body: String = offsets.map(row).collect();
    client.insert(batch(SOURCE, gate, schema, &body)).await.unwrap();
}

pub async fn everything(running: &Running, database: &str, condition: &str) -> String {
    running.query(&format!("SELECT {EVERYTHING} FROM `{database}`.local WHERE {condition}")).await
}

#[tokio::test]
async fn links_take_every_column_over_as_it_is_whatever_the_engine() {
    let running = Running::start("links").await;
    for engine in ["MergeTree", "ReplacingMergeTree"] {
        let (client, schema, gate) = source(&running, engine).await;
        // FINAL is not for every engine.
        let all = async |database: &str| {
            let clause = if engine == "MergeTree" { "" } else { "FINAL" };
            running.query(&format!("SELECT {EVERYTHING} FROM `{database}`.local {clause}")).await
        };
        client.begin_seed(&tables(TARGET, &schema), 1).await.unwrap();
        fill(&client, gate, &schema, 0..300).await;
        assert_eq!(client.link_partitions(TARGET, 1, SOURCE, range(0, 4)).await.unwrap(), 24);
        fill(&client, gate, &schema, 300..310).await;
        running.query(&format!("OPTIMIZE TABLE `{SOURCE}`.local")).await;
        // A whole month goes, as by a TTL, in the time between two links.
        running
            .query(&format!("ALTER TABLE `{SOURCE}`.local DROP PARTITION ID '{}'", one_of(&running).await))
            .await;
        client.close_gates(SOURCE).await.unwrap();
        // By another client: what the first remembers of its links is only to be quick.
        running.client().link_partitions(TARGET, 1, SOURCE, range(0, 4)).await.unwrap();
        client.link_partitions(TARGET, 1, SOURCE, range(0, 4)).await.unwrap();
        client.finish_seed(TARGET, 1).await.unwrap();
        let (there, wanted) = (all(TARGET).await, all(SOURCE).await);
        assert!(there == wanted && !there.starts_with("310\t"), "{engine}: {there} is not {wanted}");
        // Merges go on as its first gate opens.
        assert!(client.open_gate(TARGET).await.unwrap().is_first);
        running.query(&format!("OPTIMIZE TABLE `{TARGET}`.local FINAL")).await;
        client.close_gates(TARGET).await.unwrap();
        client.drop_replica(SOURCE).await.unwrap();
        assert_eq!(all(TARGET).await, wanted, "hard links outlive their source");
        let tables =
            running.query(&format!("SELECT name FROM system.tables WHERE database = '{TARGET}'")).await;
        let tables: Vec<&str> = tables.lines().filter(|table| !table.starts_with("shut_")).collect();
        assert_eq!(tables, ["gate_source", "local"], "nothing is left over");
        client.drop_replica(TARGET).await.unwrap();
    }
}

/// Linking again while the server merges what was linked before.
#[tokio::test]
async fn a_merge_under_way_brings_nothing_back() {
    const PARTS: u64 = 8;
    let running = Running::start("merge").await;
    let (client, schema, gate) = source(&running, "MergeTree").await;
    let insert = async |offset: u64, rows: u64| {
        let into = format!("`{SOURCE}`.gate_{gate} (_cvh_partition, _cvh_offset, _cvh_row, ts, `k'1`, v)");
        let row =
            format!("1, {offset} + number, 0, toDateTime(1600000000), 'k', toString(cityHash64(number))");
        running.query(&format!("INSERT INTO {into} SELECT {row} FROM numbers({rows})")).await;
    };
    let stop = format!("SYSTEM STOP MERGES `{SOURCE}`.local");
    running.query(&stop).await;
    for part in 0..PARTS {
        insert(part * 1_000_000, 200_000).await;
    }
    client.begin_seed(&tables(TARGET, &schema), 1).await.unwrap();
    let optimize = format!("OPTIMIZE TABLE `{TARGET}`.seed_1_1");
    client.link_partitions(TARGET, 1, SOURCE, range(1, 2)).await.unwrap();
    let refused = running.try_query(&optimize).await.unwrap_err();
    assert!(refused.to_string().contains("236"), "a staging table is not merged: {refused}");
    // As on a server that does not let us say so.
    running.query(&format!("SYSTEM START MERGES `{TARGET}`.seed_1_1")).await;
    let merging = format!("SELECT count() FROM system.merges WHERE database = '{TARGET}'");
    let parts = format!("SELECT count() < {PARTS} FROM system.parts WHERE database = '{TARGET}' AND active");
    while running.query(&merging).await == "0\n" && running.query(&parts).await == "0\n" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    insert(PARTS * 1_000_000, 10).await;
    client.close_gates(SOURCE).await.unwrap();
    client.link_partitions(TARGET, 1, SOURCE, range(1, 2)).await.unwrap();
    client.finish_seed(TARGET, 1).await.unwrap();
    while running.query(&merging).await != "0\n" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(everything(&running, TARGET, "1").await, everything(&running, SOURCE, "1").await);
    client.renew_gate(TARGET).await.unwrap();
    running.query(&format!("OPTIMIZE TABLE `{TARGET}`.local FINAL")).await;
    // What an operator has stopped stays so.
    client.create_replica(&tables(SOURCE, &schema)).await.unwrap();
    client.renew_gate(SOURCE).await.unwrap();
    running.try_query(&format!("OPTIMIZE TABLE `{SOURCE}`.local FINAL")).await.unwrap_err();
}

/// The id of one ClickHouse partition of the source.
async fn one_of(running: &Running) -> String {
    let ids = "SELECT min(partition_id) FROM system.parts WHERE active AND table = 'local' AND database = ";
    running.query(&format!("{ids}'{SOURCE}'")).await.trim().to_owned()
}

/// What a `RENAME` or `CREATE` leaves on 18.16 that could not be written, or that a crash cut in two.
#[tokio::test]
async fn what_failures_left_behind_is_in_no_seeds_way() {
    let running = Running::start("left").await;
    let (client, schema, gate) = source(&running, "MergeTree").await;
    fill(&client, gate, &schema, 0..100).await;
    let wanted = everything(&running, SOURCE, "1").await;
    let data = running.server.folder().join("data");
    let file = |name: &str| data.join("metadata").join(TARGET).join(format!("{name}.sql.tmp"));
    let seed = async |nonce: u64, before_finish: &dyn Fn()| {
        client.begin_seed(&tables(TARGET, &schema), nonce).await?;
        client.link_partitions(TARGET, nonce, SOURCE, range(0, 4)).await?;
        before_finish();
        // Another one does not know that nothing is on its way to the staging table, and gives it its next name.
        running.client().finish_seed(TARGET, nonce).await
    };
    // A file in the way of the last rename, and of the one before it.
    seed(1, &|| std::fs::write(file("local"), "CRE").unwrap()).await.unwrap();
    assert_eq!(everything(&running, TARGET, "1").await, wanted);
    client.drop_replica(TARGET).await.unwrap();
    let refused = seed(2, &|| std::fs::write(file("seed_2_2"), "CRE").unwrap()).await;
    assert!(matches!(refused, Err(Error::Spoilt(_))), "{refused:?}");
    client.finish_seed(TARGET, 2).await.unwrap();
    assert_eq!(everything(&running, TARGET, "1").await, wanted, "mended, and no row less");
    client.drop_replica(TARGET).await.unwrap();
    // A folder without a table, as after a crash in the middle of a rename.
    seed(3, &|| {
        let (from, to) =
            (data.join("data").join(SOURCE).join("local"), data.join("data").join(TARGET).join("local"));
        let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    })
    .await
    .unwrap();
    assert_eq!(everything(&running, TARGET, "1").await, wanted);
    client.drop_replica(TARGET).await.unwrap();
    // A rename that failed and was not mended: the next seed clears it away.
    client.begin_seed(&tables(TARGET, &schema), 4).await.unwrap();
    std::fs::write(file("seed_4_2"), "CRE").unwrap();
    running.try_query(&format!("RENAME TABLE `{TARGET}`.seed_4_1 TO `{TARGET}`.seed_4_2")).await.unwrap_err();
    std::fs::write(file("gate_source"), "CRE").unwrap();
    running.query(&format!("DROP TABLE `{TARGET}`.gate_source")).await;
    seed(5, &|| ()).await.unwrap();
    assert_eq!(everything(&running, TARGET, "1").await, wanted);
}

pub fn remote(running: &Running, port: u16, password: &Secret) -> RemoteReplica {
    let endpoint = running.endpoint();
    let (host, user, password) = (endpoint.host, endpoint.user, password.clone());
    RemoteReplica { host, port, user, password, secure: false, database: SOURCE.into() }
}

#[tokio::test]
async fn copies_take_every_column_over_as_it_is() {
    let (there, here) = (Running::start("there").await, Running::start("here").await);
    let (source, schema, gate) = source(&there, "MergeTree").await;
    fill(&source, gate, &schema, 0..20_000).await;
    let client = here.client();
    client.begin_seed(&tables(TARGET, &schema), 3).await.unwrap();
    let from = remote(&there, there.server.tcp_port(), &there.password);
    for partition in [1, 2, 1] {
        let copied =
            client.copy_partition(TARGET, 3, &from, PartitionId(partition), limits(60_000)).await.unwrap();
        assert_eq!(copied, 5_000);
    }
    // Whatever the profile of the user says, a server that cannot be asked is no empty one.
    let wrong = remote(&there, there.server.tcp_port(), &Secret::new("it's wr\\ong"));
    let refused = client.copy_partition(TARGET, 3, &wrong, PartitionId(3), limits(60_000)).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    let secure = RemoteReplica { secure: true, ..wrong };
    let unknown = client.copy_partition(TARGET, 3, &secure, PartitionId(3), limits(60_000)).await;
    assert!(matches!(unknown, Err(Error::Refused { .. })), "18.16 has no remoteSecure: {unknown:?}");
    for told in [refused, unknown] {
        assert!(!format!("{told:?}").contains("wr"), "the password is told nowhere: {told:?}");
    }
    client.finish_seed(TARGET, 3).await.unwrap();
    let wanted = everything(&there, SOURCE, "_cvh_partition IN (1, 2)").await;
    assert_eq!(everything(&here, TARGET, "1").await, wanted);
    let tables = here.query(&format!("SELECT name FROM system.tables WHERE database = '{TARGET}'")).await;
    assert_eq!(tables, "gate_source\nlocal\n", "nothing is left over");
}

/// Passes a server's first bytes on, and the rest when it is let go.
async fn holding_proxy(to: u16, bytes: u64, gate: Arc<Semaphore>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let gate = gate.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let (mut client_in, mut client_out) = client.into_split();
                let (mut server_in, mut server_out) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut client_in, &mut server_out).await });
                tokio::io::copy(&mut (&mut server_in).take(bytes), &mut client_out).await.ok();
                let _pass = gate.acquire().await;
                tokio::io::copy(&mut server_in, &mut client_out).await.ok();
            });
        }
    });
    port
}

#[tokio::test]
async fn a_copy_that_was_given_up_lands_nowhere() {
    let (there, here) = (Running::start("there").await, Running::start("here").await);
    let (source, schema, gate) = source(&there, "MergeTree").await;
    fill(&source, gate, &schema, 0..200_000).await;
    let client = here.client();
    client.begin_seed(&tables(TARGET, &schema), 3).await.unwrap();
    let pass = Arc::new(Semaphore::new(0));
    let port = holding_proxy(there.server.tcp_port(), 200_000, pass.clone()).await;
    let held = remote(&there, port, &there.password);
    let late = client.copy_partition(TARGET, 3, &held, PartitionId(1), limits(3_000)).await;
    assert!(matches!(late, Err(Error::Overloaded { code: 159, .. })), "{late:?}");
    let direct = remote(&there, there.server.tcp_port(), &there.password);
    let copied = client.copy_partition(TARGET, 3, &direct, PartitionId(2), limits(60_000)).await.unwrap();
    assert_eq!(copied, 50_000, "another goes on meanwhile");
    client.finish_seed(TARGET, 3).await.unwrap();
    // Now the rest arrives.
    pass.close();
    let running = format!("SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO `{TARGET}`%'");
    while here.query(&running).await != "0\n" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let wanted = everything(&there, SOURCE, "_cvh_partition = 2").await;
    assert_eq!(everything(&here, TARGET, "1").await, wanted);
}

#[tokio::test]
async fn the_queries_of_users_are_told_and_ours_are_not() {
    let (running, another) = (Running::start("queries").await, Running::start("asking").await);
    let client = running.client();
    assert!(client.running_queries().await.unwrap().is_empty());
    let url = running.server.url();
    let endless = clickhouse::Client::default()
        .with_url(&url)
        .with_user("default")
        .with_password(running.password.expose())
        .with_setting("query_id", "a user's own 'name'");
    let asking =
        tokio::spawn(async move { endless.query_raw("SELECT count() FROM system.numbers").execute().await });
    // One that another server sent here may come from another cluster, which tells nobody; a copy of ours is ours.
    let sent = format!(
        "SELECT count() FROM remote('127.0.0.1:{}', system, numbers, 'default', '{}')",
        running.server.tcp_port(),
        running.password.expose().replace('\'', "\\'")
    );
    let ours = clickhouse::Client::default()
        .with_url(another.server.url())
        .with_user("default")
        .with_password(another.password.expose())
        .with_setting("query_id", "cvh-copy");
    let copy = sent.clone();
    let copying = tokio::spawn(async move { ours.query_raw(&copy).execute().await });
    let sending = tokio::spawn(async move { (another.try_query(&sent).await, another) });
    while running.query("SELECT count() FROM system.processes WHERE NOT is_initial_query").await != "2\n" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let theirs =
        "SELECT query_id FROM system.processes WHERE NOT is_initial_query AND initial_query_id != 'cvh-copy'";
    let theirs = running.query(theirs).await;
    let told = client.running_queries().await.unwrap();
    assert_eq!(told, BTreeSet::from([theirs.trim().to_owned(), "a user's own 'name'".to_owned()]));
    running.query("KILL QUERY WHERE query LIKE '%system.numbers%' AND query NOT LIKE 'KILL%' ASYNC").await;
    assert!(asking.await.unwrap().is_err() && sending.await.unwrap().0.is_err(), "both were killed");
    assert!(copying.await.unwrap().is_err(), "and so was the third");
    while !client.running_queries().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
