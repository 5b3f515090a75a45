//! `trace import` against real servers of 18.16.1: one that keeps a part log, one that keeps none.

use crate::support::clickhouse::Running;
use converthouse::adapters::compute::clickhouse_server::{ClickHouseServer, Options, Place};
use converthouse::model::node::Secret;
use converthouse::simulation::trace;
use std::process::{Command, Output};
use tempfile::TempDir;

const PART_LOG: &str = "<yandex><part_log><database>system</database><table>part_log</table>\
                        <flush_interval_milliseconds>100</flush_interval_milliseconds></part_log></yandex>";

/// A server that logs its parts, as many are configured.
async fn logging() -> Running {
    let folder = TempDir::with_prefix("converthouse-").unwrap();
    let password = Secret::new("s<e>c&r'e\"t");
    let options = Options {
        name: "logging".to_owned(),
        folder: folder.path().join("logging"),
        data: None,
        password: password.clone(),
        place: Place::default(),
    };
    let mut server = ClickHouseServer::prepare(options).unwrap();
    std::fs::write(server.folder().join("config.d/part_log.xml"), PART_LOG).unwrap();
    server.start().await.unwrap_or_else(|error| panic!("{error}"));
    Running { server, password, folder }
}

async fn clustered(servers: [&Running; 2]) {
    let shard = |running: &Running| {
        let port = running.server.tcp_port();
        format!("<shard><replica><host>127.0.0.1</host><port>{port}</port></replica></shard>")
    };
    let shards: String = servers.into_iter().map(shard).collect();
    let third = "<shard><replica><host>127.0.0.1</host><port>1</port></replica></shard>";
    for running in servers {
        let text = format!("<yandex><remote_servers><ours>{shards}{third}</ours></remote_servers></yandex>");
        std::fs::write(running.server.routes_file(), text).unwrap();
        running.query("SYSTEM RELOAD CONFIG").await;
    }
}

async fn import(arguments: &[&str], password: &Secret) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_converthouse"));
    command.args(["trace", "import"]).args(arguments).env_clear();
    command.env("CONVERTHOUSE_CLICKHOUSE_PASSWORD", password.expose());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_clusters_system_tables_become_a_trace_that_can_be_planned_on() {
    let (one, two) = (logging().await, Running::start("plain").await);
    clustered([&one, &two]).await;
    for (running, rows) in [(&one, 100_000), (&two, 50_000)] {
        running.query("CREATE DATABASE shop").await;
        running
            .query("CREATE TABLE shop.events (id UInt64, text String) ENGINE = MergeTree ORDER BY id")
            .await;
        let rows = format!("SELECT number, toString(number) FROM numbers({rows})");
        running.query(&format!("INSERT INTO shop.events {rows}")).await;
    }
    // The log is written in the background; it is there once it shows the part.
    let seen = "SELECT count() FROM system.part_log WHERE event_type = 'NEW_PART' AND database = 'shop'";
    let logged = async {
        while one.try_query(seen).await.is_ok_and(|count| count.trim() != "1")
            || one.try_query(seen).await.is_err()
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), logged)
        .await
        .expect("the part log shows the part");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("ours.ndjson.zst");
    let out = file.to_str().unwrap();
    let urls = format!("{},{}", one.server.url(), two.server.url());
    let ran = import(&["--clickhouse", &urls, "--out", out], &one.password).await;
    let (said, notes) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}{notes}");
    assert!(said.starts_with("cluster ours: 2 nodes, 1 tables, 3 shards"), "{said}");
    assert!(notes.contains("shard 3 replica 1 at 127.0.0.1:1 was not asked"), "{notes}");
    assert!(notes.contains(&format!("no system.part_log on {}", two.server.url())), "{notes}");
    let summary = trace::read(&file).unwrap();
    let sizes: Vec<u64> = summary.world.shards.values().map(|shard| shard.bytes).collect();
    assert!(sizes[0] > sizes[1] && sizes[1] > 50_000 && sizes[2] == 0, "{sizes:?}");
    assert_eq!(summary.events.get("sizes"), Some(&1), "the hour in which the part came");

    let wrong = import(&["--clickhouse", &urls, "--cluster", "theirs", "--out", out], &one.password).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no server that was asked is in cluster theirs"));
    let denied = import(&["--clickhouse", &urls, "--out", out], &Secret::new("no")).await;
    assert!(String::from_utf8_lossy(&denied.stderr).contains("refused the credentials"), "{denied:?}");
    let away = import(&["--clickhouse", "http://127.0.0.1:1", "--out", out], &one.password).await;
    assert_eq!(away.status.code(), Some(3), "{away:?}");
}
