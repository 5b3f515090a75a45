//! Copies by parts on real servers: every column as it is, nothing of anybody else touched, nothing left over, and
//! daemons and servers that die on the way.

use super::seeding::{DDL, SOURCE, TARGET, everything, fill, remote, source, tables};
use super::support::clickhouse::{Current, Running};
use super::support::cluster::Cluster;
use super::support::producer::Producer;
use crate::clickhouse::parsed;
use converthouse::adapters::clickhouse::{ByParts, ClickHouse, CopyLimits, Error, HttpClickHouse, Pieces};
use converthouse::adapters::routes::render;
use converthouse::model::control::TableStatus;
use converthouse::model::parts::{HeldFile, WantedParts};
use converthouse::model::{PartitionId, PartitionRange, names};
use futures::StreamExt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

async fn sent(
    from: &HttpClickHouse,
    partition: u32,
    held: Vec<HeldFile>,
    to: &HttpClickHouse,
) -> Result<Pieces, Error> {
    let version = to.server_info().await?.version;
    let (database, partition) = (SOURCE.to_owned(), PartitionId(partition));
    from.send_partition(WantedParts { database, partition, version, held }).await
}

async fn by_parts(
    from: &HttpClickHouse,
    to: &HttpClickHouse,
    nonce: u64,
    partition: u32,
) -> Result<u64, Error> {
    let held = to.files_held(TARGET, nonce, "from", PartitionId(partition)).await?;
    let pieces = sent(from, partition, held.clone(), to).await?;
    to.take_partition(TARGET, nonce, "from", PartitionId(partition), held, pieces).await
}

fn data(running: &Running) -> PathBuf {
    running.server.folder().join("data")
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Frozen parts go with their stream, which may end on a thread of its own.
async fn nothing_frozen(data: &Path) {
    let began = Instant::now();
    while names_in(&data.join("shadow")).iter().any(|name| names::is_frozen(name)) {
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", names_in(&data.join("shadow")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn parts_take_every_column_over_as_it_is_and_leave_nothing() {
    let (there, here) = (Running::start("there").await, Running::start("here").await);
    let (source, schema, gate) = source(&there, "MergeTree").await;
    for batch in 0..4 {
        fill(&source, gate, &schema, batch * 5_000..(batch + 1) * 5_000).await;
    }
    let client = here.client();
    client.begin_seed(&tables(TARGET, &schema), 3).await.unwrap();
    // What others have frozen or detached there is theirs.
    for foreign in [data(&there).join("shadow/backup/data"), data(&here).join("shadow/1/data")] {
        std::fs::create_dir_all(foreign).unwrap();
    }
    for partition in [1, 2, 1] {
        assert_eq!(by_parts(&source, &client, 3, partition).await.unwrap(), 5_000);
    }
    // The source goes on meanwhile: what is read is what was frozen.
    let pieces = sent(&source, 3, Vec::new(), &client).await.unwrap();
    there.query(&format!("OPTIMIZE TABLE `{SOURCE}`.local FINAL")).await;
    let taken = client.take_partition(TARGET, 3, "from", PartitionId(3), Vec::new(), pieces).await.unwrap();
    assert_eq!(taken, 5_000);
    // A stream that nobody reads to its end leaves nothing either.
    drop(sent(&source, 0, Vec::new(), &client).await.unwrap());
    client.finish_seed(TARGET, 3).await.unwrap();
    let wanted = everything(&there, SOURCE, "_cvh_partition IN (1, 2, 3)").await;
    assert_eq!(everything(&here, TARGET, "1").await, wanted);
    let left = here.query(&format!("SELECT name FROM system.tables WHERE database = '{TARGET}'")).await;
    assert_eq!(left, "gate_source\nlocal\n", "nothing is left over");
    nothing_frozen(&data(&there)).await;
    assert_eq!(names_in(&data(&there).join("shadow")), ["backup"]);
    assert_eq!(names_in(&data(&here).join("shadow")), ["1"]);
    assert_eq!(names_in(&data(&here).join(names::TAKEN_FOLDER)), [""; 0]);
    here.query(&format!("OPTIMIZE TABLE `{TARGET}`.local FINAL")).await;
    assert_eq!(everything(&here, TARGET, "1").await, wanted, "and it merges");
}

#[tokio::test]
async fn what_cannot_be_copied_by_parts_says_why() {
    let (there, here) = (Running::start("there").await, Running::start("here").await);
    let (source, schema, gate) = source(&there, "MergeTree").await;
    fill(&source, gate, &schema, 0..100).await;
    let client = here.client();
    client.begin_seed(&tables(TARGET, &schema), 3).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |options: ByParts, running: &Running| running.client().with_parts(options);
    let lost = || ByParts { data_folder: Some(elsewhere.path().to_owned()), ..ByParts::default() };
    let off = || ByParts { off: true, ..ByParts::default() };
    let reason = |refused: Result<u64, Error>| match refused {
        Err(Error::NotByParts(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let declined = |said: String, what: &str| assert!(said.contains(what), "{said}");
    declined(reason(by_parts(&at(lost(), &there), &client, 3, 1).await), "out of its daemon's reach");
    declined(reason(by_parts(&source, &at(lost(), &here), 3, 1).await), "out of this daemon's reach");
    declined(reason(by_parts(&at(off(), &there), &client, 3, 1).await), "switched off");
    declined(reason(by_parts(&source, &at(off(), &here), 3, 1).await), "switched off");
    nothing_frozen(&data(&there)).await;
    // The same folder under another name, as in a container.
    let mounted = elsewhere.path().join("mounted");
    std::os::unix::fs::symlink(data(&there), &mounted).unwrap();
    let mounted = at(ByParts { data_folder: Some(mounted), ..ByParts::default() }, &there);
    assert_eq!(by_parts(&mounted, &client, 3, 1).await.unwrap(), 25);
    nothing_frozen(&data(&there)).await;
}

#[tokio::test]
async fn a_mutation_that_is_not_done_is_waited_for() {
    let (there, here) = (Running::start("there").await, Running::start("here").await);
    let (source, schema, gate) = source(&there, "MergeTree").await;
    fill(&source, gate, &schema, 0..400).await;
    let client = here.client();
    client.begin_seed(&tables(TARGET, &schema), 3).await.unwrap();
    there.query(&format!("SYSTEM STOP MERGES `{SOURCE}`.local")).await;
    there.query(&format!("ALTER TABLE `{SOURCE}`.local DELETE WHERE _cvh_offset = 5")).await;
    let refused = by_parts(&source, &client, 3, 1).await;
    assert!(matches!(refused, Err(Error::Mutating(_))), "{refused:?}");
    // Nor is it selected, nor linked for a split on its own server.
    let limits = CopyLimits { deadline_ms: 30_000, bytes_per_s: 0 };
    let from = remote(&there, there.server.tcp_port(), &there.password);
    let selected = client.copy_partition(TARGET, 3, &from, PartitionId(1), limits).await;
    assert!(matches!(selected, Err(Error::Mutating(_))), "{selected:?}");
    source.begin_seed(&tables(TARGET, &schema), 4).await.unwrap();
    let whole = PartitionRange::new(0, 4).unwrap();
    let linked = source.link_partitions(TARGET, 4, SOURCE, whole).await;
    assert!(matches!(linked, Err(Error::Mutating(_))), "{linked:?}");
    there.query(&format!("SYSTEM START MERGES `{SOURCE}`.local")).await;
    let began = Instant::now();
    loop {
        match by_parts(&source, &client, 3, 1).await {
            Ok(rows) => break assert_eq!(rows, 99),
            Err(Error::Mutating(_)) => assert!(began.elapsed() < Duration::from_secs(30)),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_dead_daemons_left_is_swept_and_nothing_else() {
    let (there, here) = (Running::start("there").await, Running::start("here").await);
    let (source, schema, gate) = source(&there, "MergeTree").await;
    fill(&source, gate, &schema, 0..100).await;
    // A daemon that was killed while it sent, and one while it took.
    there.query(&format!("ALTER TABLE `{SOURCE}`.local FREEZE WITH NAME '{}'", names::frozen("dead"))).await;
    there.query(&format!("ALTER TABLE `{SOURCE}`.local FREEZE WITH NAME 'backup'")).await;
    let client = here.client();
    client.begin_seed(&tables(TARGET, &schema), 3).await.unwrap();
    let all: Vec<_> = sent(&source, 1, Vec::new(), &client).await.unwrap().collect().await;
    let half = futures::stream::iter(all.into_iter().take(9)).boxed();
    client.take_partition(TARGET, 3, "from", PartitionId(1), Vec::new(), half).await.unwrap_err();
    let taken = data(&here).join(names::TAKEN_FOLDER);
    std::fs::create_dir_all(taken.join("0badcafe_s9/1")).unwrap();
    let held = client.files_held(TARGET, 3, "from", PartitionId(1)).await.unwrap();
    assert!(!held.is_empty());
    for restarted in [there.client(), here.client()] {
        restarted.sweep_parts().await.unwrap();
    }
    assert_eq!(
        names_in(&data(&there).join("shadow"))
            .into_iter()
            .filter(|name| name != "increment.txt")
            .collect::<Vec<_>>(),
        ["backup"]
    );
    assert_eq!(names_in(&taken), [names::taken_folder(TARGET).unwrap()]);
    assert_eq!(client.files_held(TARGET, 3, "from", PartitionId(1)).await.unwrap(), held);
    client.drop_replica(TARGET).await.unwrap();
    assert_eq!(names_in(&taken), [""; 0]);
}

#[tokio::test]
async fn a_current_engine_takes_the_parts_of_an_old_server_and_not_the_other_way_round() {
    let Some(current) = Current::start(&render::render(&[])).await else { return };
    let old = Running::start("old").await;
    let (source, schema, gate) = source(&old, "MergeTree").await;
    fill(&source, gate, &schema, 0..2_000).await;
    let client = current.client();
    let (_, new_schema) = parsed(&client, &DDL.replace(" SAMPLE BY ts", "")).await;
    client.begin_seed(&tables(TARGET, &new_schema), 3).await.unwrap();
    for partition in 0..4 {
        assert_eq!(by_parts(&source, &client, 3, partition).await.unwrap(), 500);
    }
    client.finish_seed(TARGET, 3).await.unwrap();
    let sql = |database: &str| {
        format!(
            "SELECT count(), sum(cityHash64(_cvh_partition, _cvh_offset, _cvh_row, ts, `k'1`, v, odd)) \
             FROM `{database}`.local"
        )
    };
    assert_eq!(current.query(&sql(TARGET)).await.unwrap(), old.query(&sql(SOURCE)).await);
    let version = old.client().server_info().await.unwrap().version;
    let wanted =
        WantedParts { database: TARGET.into(), partition: PartitionId(1), version, held: Vec::new() };
    let refused = client.send_partition(wanted).await.err();
    assert!(matches!(&refused, Some(Error::NotByParts(why)) if why.contains("newer")), "{refused:?}");
}

/// A cluster whose copies go at a walk, with rows in one shard of two replicas.
async fn slow_cluster(bytes_per_s: u64, by_parts: bool) -> (Cluster, TableStatus) {
    let mut cluster = Cluster::start(3, 1).await;
    for node in &mut cluster.nodes {
        node.kill_daemon();
        let path = cluster.folder.path().join(&node.id).join("converthouse.toml");
        let mut config = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        let transfer = format!("[transfer]\nbytes_per_s = {bytes_per_s}\nby_parts = {by_parts}\n");
        config.write_all(format!("{transfer}[balance]\nmode = \"off\"\n").as_bytes()).unwrap();
        node.start_daemon();
    }
    cluster.until("a leader and all nodes live", |status| {
        status.leader.is_some()
            && status.nodes.iter().all(|node| node.live && node.clickhouse_up == Some(true))
    });
    cluster.create_events(1);
    let table = cluster.table("shop.events").unwrap();
    (cluster, table)
}

/// The node that leads the one shard, and the one without a replica of it.
fn ends(cluster: &Cluster, table: &TableStatus) -> (usize, usize) {
    let shard = &table.shards[0];
    let number =
        |wanted: &dyn Fn(&str) -> bool| cluster.nodes.iter().position(|node| wanted(&node.id)).unwrap();
    let from = number(&|id| shard.leader.as_ref().is_some_and(|leader| leader.as_str() == id));
    let to = number(&|id| shard.replicas.iter().all(|replica| replica.node.as_str() != id));
    (from, to)
}

fn begin_move(cluster: &Cluster, table: &TableStatus, (from, to): (usize, usize)) {
    let (from, to) = (&cluster.nodes[from].id, &cluster.nodes[to].id);
    let shard = table.shards[0].id.to_string();
    cluster.cli(&["shard", "move", "shop.events", &shard, from, to, "--no-wait"]).unwrap();
}

/// Waits until the copy says so.
fn until_told(cluster: &Cluster, what: &str, told: impl Fn(&str) -> bool) {
    let began = Instant::now();
    loop {
        let list = cluster.cli(&["op", "list"]).unwrap_or_else(|error| error);
        if told(&list) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "waited for {what}: {list}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn until_moved(cluster: &Cluster, to: usize) {
    let id = cluster.nodes[to].id.clone();
    cluster.until("the replica to have moved", |status| {
        let shard = &status.tables[0].shards[0];
        let ready = shard
            .replicas
            .iter()
            .any(|r| r.node.as_str() == id && ["ready", "leader"].contains(&r.state.as_str()));
        shard.replicas.len() == 2 && ready
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_by_parts_survives_kills_on_both_sides_under_ingest() {
    let (mut cluster, table) = slow_cluster(1_000_000, true).await;
    let stream = Producer::start(&cluster, 20_000);
    stream.flow(150_000).await;
    let (from, to) = ends(&cluster, &table);
    begin_move(&cluster, &table, (from, to));
    let copied = |node: usize, cluster: &Cluster| {
        let node = &cluster.nodes[node];
        let answers = std::net::TcpStream::connect(node.http_url.strip_prefix("http://").unwrap()).is_ok();
        if answers { node.metric("converthouse_copied_bytes_total") } else { 0.0 }
    };
    let until_copied = async |cluster: &Cluster| {
        let began = Instant::now();
        while copied(to, cluster) < 500_000.0 {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", cluster.nodes[to].log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until_copied(&cluster).await;
    until_told(&cluster, "progress in bytes", |list| list.contains(" MiB"));
    cluster.nodes[to].kill_daemon();
    cluster.nodes[to].start_daemon();
    until_copied(&cluster).await;
    cluster.nodes[from].kill_daemon();
    cluster.nodes[from].start_daemon();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.nodes[to].server.kill().unwrap();
    cluster.nodes[to].server.start().await.unwrap();
    until_moved(&cluster, to);
    let selects = cluster.nodes[to].metrics();
    assert!(
        !selects.contains("by=\"select\"") || selects.contains("by=\"select\"} 0"),
        "by parts throughout"
    );
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
    for node in &cluster.nodes {
        nothing_frozen(&node.server.folder().join("data")).await;
        assert_eq!(
            names_in(&node.server.folder().join("data").join(names::TAKEN_FOLDER)),
            [""; 0],
            "{}",
            node.id
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_move_stops_its_copy_whichever_way_it_goes() {
    for by_parts in [true, false] {
        let (cluster, table) = slow_cluster(1_000_000, by_parts).await;
        let stream = Producer::start(&cluster, 20_000);
        stream.flow(300_000).await;
        let rows = stream.end().await;
        let (from, to) = ends(&cluster, &table);
        begin_move(&cluster, &table, (from, to));
        let way = if by_parts { " MiB" } else { "by a select (not by parts: it is switched off there" };
        until_told(&cluster, way, |list| list.contains(way));
        let list = cluster.cli(&["op", "list", "--json"]).unwrap();
        let open: Vec<converthouse::model::control::OperationStatus> = serde_json::from_str(&list).unwrap();
        let id = open.last().unwrap().operation.id.to_string();
        cluster.cli(&["op", "cancel", &id]).unwrap();
        let began = Instant::now();
        let node = &cluster.nodes[to];
        let running = "SELECT count() FROM system.processes WHERE startsWith(query_id, 'cvh-seed-')";
        let there = "SELECT count() FROM system.databases WHERE name LIKE '%cvh%'";
        while node.query(running).await.unwrap() != "0" || node.query(there).await.unwrap() != "0" {
            assert!(began.elapsed() < Duration::from_secs(20), "{by_parts}: {}", node.log_tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for node in &cluster.nodes {
            nothing_frozen(&node.server.folder().join("data")).await;
        }
        assert_eq!(names_in(&node.server.folder().join("data").join(names::TAKEN_FOLDER)), [""; 0]);
        cluster.prove_events(rows, 0).await;
    }
}

/// Rows of the one shard with an id below that, on a node; `None` where it has no such table.
async fn rows_below(cluster: &Cluster, node: usize, id: u64) -> Option<u64> {
    let node = &cluster.nodes[node];
    let database = "SELECT name FROM system.databases WHERE name LIKE '%cvh%'";
    let database = node.query(database).await.unwrap();
    let rows = format!("SELECT count() FROM `{database}`.local WHERE id < {id}");
    node.query(&rows).await.ok().and_then(|rows| rows.parse().ok())
}

/// Found by a stranger's reading: a copy under way went on under the freeze and brought back what was deleted then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_deleted_by_hand_under_a_freeze_do_not_come_back_with_a_copy() {
    const BELOW: u64 = 50_000;
    for by_parts in [true, false] {
        let (cluster, table) = slow_cluster(1_000_000, by_parts).await;
        let stream = Producer::start(&cluster, 20_000);
        stream.flow(300_000).await;
        stream.end().await;
        let (from, to) = ends(&cluster, &table);
        begin_move(&cluster, &table, (from, to));
        let way = if by_parts { " MiB" } else { "by a select" };
        until_told(&cluster, way, |list| list.contains(way));
        cluster.cli(&["hold", "freeze", "shop.events", "--for", "1h", "--reason", "delete"]).unwrap();
        let running = "SELECT count() FROM system.processes WHERE startsWith(query_id, 'cvh-seed-')";
        tokio::time::sleep(Duration::from_secs(3)).await;
        let began = Instant::now();
        while cluster.nodes[to].query(running).await.unwrap() != "0" {
            assert!(began.elapsed() < Duration::from_secs(20), "{}", cluster.nodes[to].log_tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(rows_below(&cluster, to, BELOW).await, None, "it is not whole");
        let holders: Vec<usize> = (0..3).filter(|node| *node != to).collect();
        for &holder in &holders {
            let node = &cluster.nodes[holder];
            let database = "SELECT name FROM system.databases WHERE name LIKE '%cvh%'";
            let database = node.query(database).await.unwrap();
            node.query(&format!("ALTER TABLE `{database}`.local DELETE WHERE id < {BELOW}")).await.unwrap();
            let began = Instant::now();
            while node.query("SELECT count() FROM system.mutations WHERE NOT is_done").await.unwrap() != "0" {
                assert!(began.elapsed() < Duration::from_secs(60));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(rows_below(&cluster, holder, BELOW).await, Some(0));
        }
        cluster.cli(&["hold", "release", "shop.events"]).unwrap();
        until_moved(&cluster, to);
        assert_eq!(rows_below(&cluster, to, BELOW).await, Some(0), "by parts: {by_parts}");
    }
}
