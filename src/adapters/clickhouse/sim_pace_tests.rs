//! Copies share a server's pace, and what does not fit its disk is refused.

use super::super::{ClickHouse, CopyLimits, Insert, ReplicaTables, SimServers};
use super::*;
use crate::adapters::routes::SimRoutes;
use crate::model::table::MessageFormat;
use std::collections::BTreeMap;
use tokio::time::{Duration, Instant};

const DATABASES: [&str; 2] = ["d__t__cvh00000000_s1", "d__t__cvh00000000_s2"];
/// What a row weighs, and how many there are in a replica.
const ROW_BYTES: u64 = 1_000;
const ROWS: u64 = 80;

fn remote(database: &str) -> RemoteReplica {
    RemoteReplica {
        host: "one".into(),
        port: 9000,
        user: String::new(),
        password: crate::model::node::Secret::default(),
        secure: false,
        database: database.into(),
    }
}

fn batch(database: &str, gate: u64, rows: u64) -> Insert {
    Insert {
        database: database.into(),
        gate,
        columns: Vec::new(),
        format: MessageFormat::CSV,
        format_settings: BTreeMap::new(),
        rows: u32::try_from(rows).unwrap(),
        skip_bad_rows: false,
        body: (0..rows).map(|offset| format!("3,{offset},0,\"x\"\n")).collect::<String>().into(),
        query_id: "q".into(),
        deadline_ms: 1_000,
    }
}

async fn tables(sim: &SimClickHouse, database: &str) -> ReplicaTables {
    let ddl = "CREATE TABLE d.t (v String) ENGINE = MergeTree ORDER BY v";
    let (_, schema) = sim.parse_ddl(ddl, 1).await.unwrap();
    ReplicaTables { database: database.into(), schema }
}

/// A server with two replicas, and one that begins to make the same by copies.
async fn two() -> (SimClickHouse, SimClickHouse) {
    let servers = SimServers::new();
    let [one, other] = ["one", "other"].map(|host| {
        let sim = SimClickHouse::new(SimRoutes::new());
        sim.join(&servers, host, 9000);
        sim.weigh_rows("d__t__", ROW_BYTES);
        sim
    });
    for database in DATABASES {
        let tables = tables(&one, database).await;
        one.create_replica(&tables).await.unwrap();
        let gate = one.renew_gate(database).await.unwrap();
        one.insert(batch(database, gate, ROWS)).await.unwrap();
        other.begin_seed(&tables, 7).await.unwrap();
    }
    (one, other)
}

async fn copy(to: &SimClickHouse, database: &str, bytes_per_s: u64) -> Result<u64, Error> {
    let limits = CopyLimits { deadline_ms: 3_600_000, bytes_per_s };
    to.copy_partition(database, 7, &remote(database), PartitionId(3), limits).await
}

async fn took_ms(work: impl Future<Output = ()>) -> u128 {
    let begun = Instant::now();
    work.await;
    begun.elapsed().as_millis()
}

#[tokio::test(start_paused = true)]
async fn copies_at_the_same_time_share_the_pace_of_each_server() {
    let (one, other) = two().await;
    let both = async |to: &SimClickHouse| {
        let (first, second) = tokio::join!(copy(to, DATABASES[0], 0), copy(to, DATABASES[1], 0));
        assert_eq!((first.unwrap(), second.unwrap()), (ROWS, ROWS));
    };
    assert_eq!(took_ms(both(&other)).await, 0, "without a pace at once");
    one.set_copy_rate(ROWS * ROW_BYTES);
    assert_eq!(took_ms(both(&other)).await, 2_000, "a second each, one after the other: the sender's pace");
    one.set_copy_rate(0);
    other.set_copy_rate(ROWS * ROW_BYTES / 2);
    assert_eq!(took_ms(both(&other)).await, 4_000, "the taker's");
    other.set_copy_rate(0);
    let limited = async || assert_eq!(copy(&other, DATABASES[0], ROW_BYTES).await.unwrap(), ROWS);
    assert_eq!(took_ms(limited()).await, 80_000, "the copy's own");
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_no_longer_takes_up_the_pace() {
    let (one, other) = two().await;
    one.set_copy_rate(ROWS * ROW_BYTES / 8);
    let given_up = tokio::time::timeout(Duration::from_millis(1), copy(&other, DATABASES[0], 0)).await;
    assert!(given_up.is_err());
    let second = async || assert_eq!(copy(&other, DATABASES[1], 0).await.unwrap(), ROWS);
    assert_eq!(took_ms(second()).await, 8_999, "eight seconds, and the stretch that had begun");
}

#[tokio::test(start_paused = true)]
async fn a_copy_dies_with_either_server() {
    for (dies, expected) in [(0, "All connection tries failed"), (1, "restarted")] {
        let (one, other) = two().await;
        one.set_copy_rate(ROWS * ROW_BYTES);
        let restart = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let server = [&one, &other][dies];
            server.set_up(false);
            tokio::time::sleep(Duration::from_millis(1)).await;
            server.set_up(true);
        };
        let (copied, ()) = tokio::join!(copy(&other, DATABASES[0], 0), restart);
        let told = copied.unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_the_disk_is_refused_and_what_goes_gives_its_room_back() {
    let (one, other) = two().await;
    let all = ROWS * ROW_BYTES;
    let is_full = |outcome: Result<u64, Error>| matches!(outcome, Err(Error::Overloaded { code: 243, .. }));
    one.set_disk(10 * all, all - 1);
    let gate = one.renew_gate(DATABASES[0]).await.unwrap();
    assert!(is_full(one.insert(batch(DATABASES[0], gate, ROWS)).await.map(|()| 0)));
    one.insert(batch(DATABASES[0], gate, ROWS - 1)).await.unwrap();
    assert_eq!(one.disk(), (10 * all, ROW_BYTES - 1));
    other.set_disk(10 * all, all);
    assert_eq!(copy(&other, DATABASES[1], 0).await.unwrap(), ROWS);
    assert_eq!(other.disk().1, 0);
    assert!(is_full(copy(&other, DATABASES[0], 0).await));
    other.drop_replica(DATABASES[1]).await.unwrap();
    assert_eq!(other.disk().1, all, "what was only copied is gone too");
}
