//! What may befall inserts and looks on a real 18.16.1: a connection cut in mid-body, a crash between two parts, a full
//! disk, a gate made late, limits in the user's profile.

use crate::clickhouse::{batch, parsed};
use crate::support::clickhouse::Running;
use crate::support::disk::SmallDisk;
use converthouse::adapters::clickhouse::{
    ClickHouse, DistributedTable, Error, HttpClickHouse, ReplicaTables,
};
use converthouse::model::table::Schema;
use converthouse::model::{PartitionId, TableName};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const DATABASE: &str = "d__t__cvh00000007_s1";
const DDL: &str =
    "CREATE TABLE d.t (ts DateTime, v String) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts";

/// A replica and its first gate.
async fn replica(client: &HttpClickHouse) -> (Schema, u64) {
    let (_, schema) = parsed(client, DDL).await;
    client
        .create_replica(&ReplicaTables { database: DATABASE.into(), schema: schema.clone() })
        .await
        .unwrap();
    (schema, client.renew_gate(DATABASE).await.unwrap())
}

/// A row whose text does not compress, alternating between two months.
fn row(offset: i64) -> String {
    let noise = uuid::Uuid::new_v4();
    format!("5,{offset},0,\"2026-{:02}-01 00:00:00\",\"{noise}{noise}\"\n", 1 + offset % 2)
}

async fn held(client: &HttpClickHouse) -> Vec<i64> {
    let held = client.holdings(DATABASE, PartitionId(5), 0).await.unwrap();
    held.rows.into_iter().map(|(offset, _)| offset).collect()
}

/// Passes `bytes` of each connection on, then ends it in an orderly way, as a dying host's kernel does.
async fn cutting_proxy(to: u16, bytes: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let (client_in, mut client_out) = client.into_split();
                let (mut server_in, mut server_out) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut server_in, &mut client_out).await });
                tokio::io::copy(&mut client_in.take(bytes), &mut server_out).await.ok();
                server_out.shutdown().await.ok();
            });
        }
    });
    port
}

#[tokio::test]
async fn a_connection_cut_in_mid_body_inserts_nothing() {
    let running = Running::start("cut").await;
    let client = running.client();
    let body: String = (0..5_000).map(row).collect();
    for bytes in [3_000, 60_000, 120_000] {
        let (schema, gate) = replica(&client).await;
        let port = cutting_proxy(running.server.http_port(), bytes).await;
        let cut = HttpClickHouse::new(&format!("http://127.0.0.1:{port}"), "default", &running.password);
        cut.server_info().await.unwrap();
        let outcome = cut.insert(batch(DATABASE, gate, &schema, &body)).await;
        assert!(outcome.is_err(), "cut after {bytes}: {outcome:?}");
        let gate_after = client.renew_gate(DATABASE).await.unwrap();
        assert!(gate_after > gate);
        assert_eq!(held(&client).await, [0_i64; 0], "cut after {bytes}");
        client.drop_replica(DATABASE).await.unwrap();
    }
    // The hazard is real: the same cut of a plain body leaves what had arrived, half a value included.
    let mut plain = TcpStream::connect(("127.0.0.1", running.server.http_port())).await.unwrap();
    running.query("CREATE TABLE plain (a UInt32, b String) ENGINE = Memory").await;
    let head = format!(
        "POST /?user=default&password={}&query=INSERT%20INTO%20plain%20FORMAT%20CSV HTTP/1.1\r\n\
         Host: x\r\nContent-Length: 1000\r\n\r\n1,whole\n2,tor",
        "s%3Ce%3Ec%26r%27e%22t"
    );
    plain.write_all(head.as_bytes()).await.unwrap();
    plain.shutdown().await.unwrap();
    plain.read_to_end(&mut Vec::new()).await.ok();
    assert_eq!(running.query("SELECT a, b FROM plain ORDER BY a").await, "1\twhole\n2\ttor\n");
}

/// Passes everything on, but holds the first `CREATE MATERIALIZED VIEW` up: tells of it, and waits to be told.
async fn holding_proxy(to: u16, held: Arc<Notify>, let_go: Arc<Notify>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let first = Arc::new(AtomicBool::new(true));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (held, let_go, first) = (held.clone(), let_go.clone(), first.clone());
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let (mut client_in, mut client_out) = client.into_split();
                let (mut server_in, mut server_out) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut server_in, &mut client_out).await });
                let mut buffer = vec![0; 1 << 16];
                while let Ok(bytes @ 1..) = client_in.read(&mut buffer).await {
                    let create =
                        String::from_utf8_lossy(&buffer[..bytes]).contains("CREATE MATERIALIZED VIEW");
                    if create && first.swap(false, Ordering::Relaxed) {
                        held.notify_one();
                        let_go.notified().await;
                    }
                    server_out.write_all(&buffer[..bytes]).await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_gate_that_is_made_late_leaves_nobody_elses_open() {
    let running = Running::start("late-gate").await;
    let client = running.client();
    let (schema, _) = replica(&client).await;
    let (held_up, let_go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let port = holding_proxy(running.server.http_port(), held_up.clone(), let_go.clone()).await;
    let slow = HttpClickHouse::new(&format!("http://127.0.0.1:{port}"), "default", &running.password);
    let late = tokio::spawn(async move { slow.renew_gate(DATABASE).await });
    held_up.notified().await;
    let mut others = 0;
    // So often that the late number is below the last one.
    for _ in 0..8 {
        others = client.renew_gate(DATABASE).await.unwrap();
    }
    client.insert(batch(DATABASE, others, &schema, &row(0))).await.unwrap();
    let_go.notify_one();
    let last = late.await.unwrap().unwrap();
    assert!(last > others, "{last} is not above {others}");
    let shut = client.insert(batch(DATABASE, others, &schema, &row(1))).await;
    assert!(matches!(shut, Err(Error::Missing(_))), "{shut:?}");
    client.insert(batch(DATABASE, last, &schema, &row(1))).await.unwrap();
    let tables = running.query(&format!("SHOW TABLES FROM {DATABASE}")).await;
    assert_eq!(tables, format!("gate_{last}\ngate_source\nlocal\n"), "no other lets rows in");
    assert_eq!(held(&client).await, [0, 1]);
}

#[tokio::test]
async fn limits_in_the_users_profile_cut_no_answer_off() {
    const ROWS: i64 = 60;
    let running = Running::start("profile").await;
    let client = running.client();
    let (schema, gate) = replica(&client).await;
    let body: String = (0..ROWS).map(row).collect();
    client.insert(batch(DATABASE, gate, &schema, &body)).await.unwrap();
    let users = running.server.folder().join("users.xml");
    let text = std::fs::read_to_string(&users).unwrap();
    let limit = async |limits: &str| {
        let limited = text.replace("<max_memory_usage>", &format!("{limits}<max_memory_usage>"));
        assert_ne!(limited, text);
        std::fs::write(&users, limited).unwrap();
        client.reload_config().await.unwrap();
    };
    // A limit is looked at after each block.
    limit(
        "<max_block_size>2</max_block_size><max_result_rows>2</max_result_rows>\
         <result_overflow_mode>break</result_overflow_mode>",
    )
    .await;
    let told = running.query(&format!("SELECT _cvh_offset FROM {DATABASE}.local ORDER BY _cvh_offset")).await;
    assert!(told.lines().count() < 60, "the hazard is real: {told}");
    assert_eq!(held(&client).await, (0..ROWS).collect::<Vec<_>>());
    let next = client.renew_gate(DATABASE).await.unwrap();
    assert!(next > gate && client.newest_gate(DATABASE).await.unwrap() == next);
    // What one statement may read is the operator's to limit: the daemon is told, and does not take a piece for all.
    limit(
        "<max_block_size>2</max_block_size><max_rows_to_read>10</max_rows_to_read>\
         <read_overflow_mode>break</read_overflow_mode>",
    )
    .await;
    let refused = client.holdings(DATABASE, PartitionId(5), 0).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_crash_during_an_insert_leaves_whole_parts_and_the_rest_can_be_added() {
    const ROWS: i64 = 60_000;
    let mut running = Running::start("crash").await;
    let client = running.client();
    let (schema, _) = replica(&client).await;
    let rows: Vec<String> = (0..ROWS).map(row).collect();
    let body = rows.concat();
    for kill_after_ms in [5, 40, 80, 120, 160, 240] {
        let gate = client.renew_gate(DATABASE).await.unwrap();
        let insert = batch(DATABASE, gate, &schema, &body);
        let sender = running.client();
        let sending = tokio::spawn(async move { sender.insert(insert).await });
        tokio::time::sleep(Duration::from_millis(kill_after_ms)).await;
        running.server.kill().unwrap();
        let outcome = sending.await.unwrap();
        running.server.start().await.unwrap();
        let gate = client.renew_gate(DATABASE).await.unwrap();
        let there = held(&client).await;
        let there: BTreeSet<i64> =
            if outcome.is_ok() { (0..ROWS).collect() } else { there.into_iter().collect() };
        for month in 0..2 {
            let of_month = there.iter().filter(|offset| **offset % 2 == month).count();
            assert!(
                of_month == 0 || of_month == 30_000,
                "{kill_after_ms} ms: a torn part of {of_month} rows"
            );
        }
        let rest: String =
            (0..ROWS).filter(|o| !there.contains(o)).map(|o| rows[o as usize].as_str()).collect();
        if !rest.is_empty() {
            client.insert(batch(DATABASE, gate, &schema, &rest)).await.unwrap();
        }
        let counted = format!("SELECT count() = uniqExact(_cvh_offset), count() FROM {DATABASE}.local");
        assert_eq!(running.query(&counted).await, format!("1\t{ROWS}\n"), "killed after {kill_after_ms} ms");
        client.drop_replica(DATABASE).await.unwrap();
        replica(&client).await;
    }
}

#[tokio::test]
async fn a_full_disk_is_no_fault_of_the_rows_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), 24) else { return };
    let running = Running::start_with("full", Some(disk.path().join("data"))).await;
    let client = running.client();
    let (schema, gate) = replica(&client).await;
    let mut full = None;
    for step in 0..40 {
        let body: String = (0..20_000).map(|offset| row(step * 20_000 + offset)).collect();
        if let Err(error) = client.insert(batch(DATABASE, gate, &schema, &body)).await {
            full = Some(error);
            break;
        }
    }
    let Some(Error::OutcomeUnknown { reason, .. }) = full else { panic!("the disk is full: {full:?}") };
    assert!(reason.contains("Code: "), "it says what the server said: {reason}");
    let filler = disk.path().join("filler");
    // Nothing at all is free any more: even a new gate is refused, for a reason that may pass.
    std::fs::write(&filler, vec![0_u8; 24 << 20]).ok();
    let refused = client.renew_gate(DATABASE).await;
    assert!(matches!(refused, Err(Error::Overloaded { .. })), "{refused:?}");
    std::fs::remove_file(&filler).unwrap();
    client.drop_replica(DATABASE).await.unwrap();
    let (schema, gate) = replica(&client).await;
    client.insert(batch(DATABASE, gate, &schema, &row(0))).await.unwrap();
    assert_eq!(held(&client).await, [0]);
    drop(running);
}

/// What a `CREATE` leaves on 18.16 when its definition cannot be written, put there by hand.
fn spoil(running: &Running, names: &[&str]) {
    let metadata = running.server.folder().join("data/metadata");
    for name in names {
        std::fs::write(metadata.join(format!("{name}.sql.tmp")), "CREATE TA").unwrap();
    }
}

#[tokio::test]
async fn what_a_failed_create_left_is_in_no_replicas_way() {
    let mut running = Running::start("spoilt").await;
    let client = running.client();
    let (_, schema) = parsed(&client, DDL).await;
    let tables = ReplicaTables { database: DATABASE.into(), schema: schema.clone() };
    let of = |table: &str| format!("{DATABASE}/{table}");
    spoil(&running, &[DATABASE]);
    client.create_replica(&tables).await.unwrap();
    client.drop_replica(DATABASE).await.unwrap();
    for given in ["local", "gate_source", "shape"] {
        running.query(&format!("ATTACH DATABASE IF NOT EXISTS {DATABASE} ENGINE = Ordinary")).await;
        spoil(&running, &[&of(given)]);
        client.create_replica(&tables).await.unwrap();
        spoil(&running, &[&of("left")]);
        client.drop_replica(DATABASE).await.unwrap();
        assert!(
            !running.server.folder().join("data/metadata").join(DATABASE).exists(),
            "{given}: nothing is left"
        );
    }
    client.create_replica(&tables).await.unwrap();
    let gate = client.renew_gate(DATABASE).await.unwrap();
    client.insert(batch(DATABASE, gate, &schema, &row(0))).await.unwrap();
    // As after a long shortage: whatever number comes next was tried, and the tables were compared each time.
    let spoilt: Vec<String> = (1..100).map(|number| of(&format!("gate_{}", gate + number))).collect();
    spoil(&running, &spoilt.iter().map(String::as_str).collect::<Vec<_>>());
    spoil(&running, &[&of("shape")]);
    client.create_replica(&tables).await.unwrap();
    let next = client.renew_gate(DATABASE).await.unwrap();
    assert!(next > gate + 99, "{next}");
    client.insert(batch(DATABASE, next, &schema, &row(1))).await.unwrap();
    assert_eq!(
        running
            .query(&format!("SELECT name FROM system.tables WHERE database = '{DATABASE}' ORDER BY name"))
            .await,
        format!("gate_{next}\ngate_source\nlocal\n"),
        "what was made for a moment is gone"
    );
    // A given name in a replica that takes inserts is not worth a moment without its tables.
    running.query(&format!("DROP TABLE {DATABASE}.gate_source")).await;
    spoil(&running, &[&of("gate_source")]);
    let refused = client.create_replica(&tables).await;
    assert!(matches!(refused, Err(Error::Spoilt(_))), "{refused:?}");
    // The database without a definition of its own is found after a restart, which clears all names.
    running.server.stop().unwrap();
    running.server.start().await.unwrap();
    client.create_replica(&tables).await.unwrap();
    assert_eq!(held(&client).await, [0, 1]);
}

#[tokio::test]
async fn what_a_failed_create_left_is_in_no_user_tables_way() {
    let running = Running::start("spoilt-user").await;
    let client = running.client();
    let (_, schema) = parsed(&client, DDL).await;
    let mut table = DistributedTable {
        name: TableName { database: "shop".into(), table: "events".into() },
        cluster: "cvh_shop_events_00000007".into(),
        schema,
        sharding_key: "rand()".into(),
        insert_url: Some("http://127.0.0.1:1/x".into()),
    };
    publish_one(&running, &table.cluster).await;
    spoil(&running, &["shop"]);
    client.create_distributed(&table).await.unwrap();
    client.drop_distributed(&table.name, &table.cluster).await.unwrap();
    let all = ["shop/events", "shop/events__insert", "shop/events__cvh_fresh", "shop/events__cvh_retired"];
    spoil(&running, &all);
    client.create_distributed(&table).await.unwrap();
    spoil(&running, &all);
    table.sharding_key = "cityHash64(v)".into();
    client.create_distributed(&table).await.unwrap();
    let made = running.query("SHOW CREATE TABLE shop.events").await;
    assert!(made.contains("cityHash64(v)"), "{made}");
    assert_eq!(running.query("SHOW TABLES FROM shop").await, "events\nevents__insert\n");
    // A user's own table is not taken away, not even for a moment.
    client.drop_distributed(&table.name, &table.cluster).await.unwrap();
    running.query("CREATE TABLE shop.own (a UInt8) ENGINE = Log").await;
    spoil(&running, &["shop/events"]);
    let refused = client.create_distributed(&table).await;
    assert!(matches!(refused, Err(Error::Spoilt(_))), "{refused:?}");
    assert!(running.server.folder().join("data/metadata/shop/events.sql.tmp").exists());
}

/// A cluster of one server, itself.
async fn publish_one(running: &Running, cluster: &str) {
    let port = running.server.tcp_port();
    let text = format!(
        "<yandex><remote_servers><{cluster}><shard><replica><host>127.0.0.1</host><port>{port}</port></replica></shard>\
         </{cluster}></remote_servers></yandex>"
    );
    std::fs::write(running.server.routes_file(), text).unwrap();
    running.client().reload_config().await.unwrap();
}
