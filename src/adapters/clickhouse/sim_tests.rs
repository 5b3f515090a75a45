//! The simulated server keeps the contract, and its faults do what they say.

use super::*;
use crate::adapters::clickhouse::conformance;
use crate::adapters::routes::{RoutesFile, render};
use crate::model::routes::{RouteReplica, RouteShard, TableRoutes};
use crate::model::{Epoch, PartitionRange, ShardId, TableId};

#[tokio::test(start_paused = true)]
async fn the_simulated_server_keeps_the_contract() {
    let sim = SimClickHouse::new(SimRoutes::new());
    sim.set_latency_ms(40);
    // It judges no types; what the suite sends as bad rows is named to it.
    sim.refuse_rows(|row| {
        let row = String::from_utf8_lossy(row);
        let torn = row.starts_with('{') && !row.trim_end().ends_with('}');
        let twice = row.matches("_cvh_offset").count() > 1;
        torn || twice || ["never", ",x7", "no such column", ":{}", ",}"].iter().any(|bad| row.contains(bad))
    });
    let servers = SimServers::new();
    let other = SimClickHouse::new(SimRoutes::new());
    sim.join(&servers, "one", 9000);
    other.join(&servers, "other", 9000);
    let endpoint = crate::model::node::ClickHouseEndpoint {
        host: "other".into(),
        port: 9000,
        secure: false,
        user: String::new(),
        password: crate::model::node::Secret::default(),
    };
    let other = conformance::Other { server: Arc::new(other), endpoint };
    conformance::run_all(Arc::new(sim), other, 1).await;
}

const DATABASE: &str = "d__t__cvh00000000_s1";

async fn replica(sim: &SimClickHouse) -> u64 {
    let ddl =
        "CREATE TABLE d.t (ts DateTime, v String) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts";
    let (_, schema) = sim.parse_ddl(ddl, 1).await.unwrap();
    sim.create_replica(&ReplicaTables { database: DATABASE.into(), schema }).await.unwrap();
    sim.renew_gate(DATABASE).await.unwrap()
}

fn batch(gate: u64, offsets: std::ops::Range<i64>) -> Insert {
    let line = |offset: i64| format!("3,{offset},0,\"2026-{:02}-01 00:00:00\",\"x\"\n", 1 + offset % 2);
    Insert {
        database: DATABASE.into(),
        gate,
        columns: Vec::new(),
        format: MessageFormat::CSV,
        format_settings: BTreeMap::new(),
        rows: 2,
        skip_bad_rows: false,
        body: offsets.map(line).collect::<String>().into(),
        query_id: "q".into(),
        deadline_ms: 1_000,
    }
}

fn held(sim: &SimClickHouse) -> usize {
    sim.contents(DATABASE, PartitionId(3)).len()
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_one_of_three() {
    let sim = SimClickHouse::new(SimRoutes::new());
    let gate = replica(&sim).await;
    for (fault, expected) in
        [(InsertFault::LostRequest, 0), (InsertFault::LostAnswer, 2), (InsertFault::HalfIn, 3)]
    {
        sim.fail_next_insert(fault);
        let from = 10 * i64::try_from(held(&sim)).unwrap();
        let outcome = sim.insert(batch(gate, from..from + 2)).await;
        assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{fault:?}: {outcome:?}");
        assert_eq!(held(&sim), expected, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_insert_arrives_only_while_its_gate_is_open() {
    for renewed in [false, true] {
        let sim = SimClickHouse::new(SimRoutes::new());
        let gate = replica(&sim).await;
        sim.fail_next_insert(InsertFault::Late { by_ms: 5_000 });
        assert!(sim.insert(batch(gate, 0..2)).await.is_err());
        assert_eq!(held(&sim), 0);
        if renewed {
            sim.renew_gate(DATABASE).await.unwrap();
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(held(&sim), if renewed { 0 } else { 2 });
    }
}

/// As with a real server: of what is frozen, some may be before it and some after it.
#[tokio::test(start_paused = true)]
async fn a_mutation_that_begins_while_parts_are_frozen_refuses_them() {
    let sim = SimClickHouse::new(SimRoutes::new());
    let gate = replica(&sim).await;
    sim.insert(batch(gate, 0..2)).await.unwrap();
    sim.set_copy_ms(4_000);
    let wanted = WantedParts {
        database: DATABASE.into(),
        partition: PartitionId(3),
        version: "99.1".into(),
        held: Vec::new(),
    };
    let mutate = async {
        sleep(Duration::from_millis(500)).await;
        sim.set_mutating(true);
    };
    let (sent, ()) = futures::join!(sim.send_partition(wanted.clone()), mutate);
    assert!(matches!(sent.err(), Some(Error::Mutating(_))));
    sim.set_mutating(false);
    assert!(sim.send_partition(wanted).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_and_bad_rows_and_a_server_that_is_down_are_told_apart() {
    let sim = SimClickHouse::new(SimRoutes::new());
    let gate = replica(&sim).await;
    sim.set_disk(100, 0);
    assert!(matches!(sim.insert(batch(gate, 0..2)).await, Err(Error::Overloaded { code: 243, .. })));
    sim.set_disk(1 << 30, 1 << 30);
    sim.refuse_rows(|row| row.starts_with(b"3,1,"));
    assert!(matches!(sim.insert(batch(gate, 0..2)).await, Err(Error::BadRows { .. })));
    assert_eq!(held(&sim), 0);
    sim.set_up(false);
    assert!(matches!(sim.insert(batch(gate, 5..7)).await, Err(Error::Unreachable { .. })));
    sim.set_up(true);
    sim.insert(batch(gate, 5..7)).await.unwrap();
    sim.insert(batch(gate, 5..6)).await.unwrap();
    assert_eq!(sim.rows(DATABASE), (3, 1), "a row that comes twice is counted");
}

#[tokio::test(start_paused = true)]
async fn a_reload_shows_what_the_cluster_file_says() {
    let routes = SimRoutes::new();
    let sim = SimClickHouse::new(routes.clone());
    let endpoint = crate::model::node::ClickHouseEndpoint {
        host: "h<1>".into(),
        port: 9000,
        secure: false,
        user: "u".into(),
        password: crate::model::node::Secret::new("p&"),
    };
    let replica = RouteReplica { node: "n1".parse().unwrap(), endpoint, database: "a&b".into() };
    let shard = |id, lo, hi| RouteShard {
        shard: ShardId(id),
        range: PartitionRange::new(lo, hi).unwrap(),
        replicas: vec![replica.clone(), replica.clone()],
    };
    let table = TableRoutes {
        table: TableId(uuid::Uuid::from_u128(1)),
        name: TableName { database: "d".into(), table: "t".into() },
        epoch: Epoch(1),
        partitions: 10,
        groups: BTreeMap::from([("read".into(), vec![shard(1, 0, 10)])]),
        shards: vec![shard(1, 0, 7), shard(2, 7, 10)],
    };
    routes.replace(&render::render(std::slice::from_ref(&table)).into()).await.unwrap();
    assert!(sim.cluster(&table.cluster()).await.unwrap().is_empty(), "not before the reload");
    sim.reload_config().await.unwrap();
    for (name, expected) in render::expected(&table) {
        assert_eq!(*sim.cluster(&name).await.unwrap(), expected, "{name}");
    }
}
