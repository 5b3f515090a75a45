//! Named batches (`converthouse insert --batch`) on a live cluster: whole or not at all, and once, whatever is killed.

use super::support::cluster::{Cluster, event};
use converthouse::adapters::kafka::{Error, Kafka, NamedBatch};
use converthouse::model::control::Inserted;
use converthouse::model::names::TopicPartition;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A file with the rows of these ids.
fn rows(cluster: &Cluster, ids: std::ops::Range<u64>) -> PathBuf {
    let file = cluster.folder.path().join(format!("rows-{}-{}.json", ids.start, ids.end));
    let mut text = Vec::new();
    for id in ids {
        text.extend_from_slice(&event(id).payload.unwrap());
        text.push(b'\n');
    }
    std::fs::write(&file, text).unwrap();
    file
}

/// Inserts a file as a batch by way of a node; the error's text if it is refused.
fn import(cluster: &Cluster, node: usize, batch: &str, file: &std::path::Path) -> Result<Inserted, String> {
    let file = file.to_str().unwrap();
    let arguments = ["insert", "shop.events", "--batch", batch, "--file", file, "--json"];
    let said: Value = serde_json::from_str(&cluster.nodes[node].cli(&arguments)?).unwrap();
    let before = said["before"].as_bool().unwrap();
    Ok(Inserted { rows: said["rows"].as_u64().unwrap(), partitions: 0, before })
}

fn sent(rows: u64, before: bool) -> Result<Inserted, String> {
    Ok(Inserted { rows, partitions: 0, before })
}

/// Every replica holds each of so many rows once, nothing is behind, and `verify` has nothing to say.
async fn prove(cluster: &Cluster, rows: u64) {
    // Offsets have holes where transactions ended, as they may have where there are dead letters.
    let holes = 1;
    cluster.prove_events(rows, holes).await;
    let began = Instant::now();
    while let Err(said) = cluster.cli(&["verify", "shop.events"]) {
        // Positions are recorded a little later than rows are there.
        assert!(began.elapsed() < Duration::from_secs(20), "{said}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_in_whole_and_once_however_often_it_is_sent() {
    let cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    // Nothing was ever sent: nothing to compare is no reason to complain.
    prove_empty(&cluster).await;
    let first = rows(&cluster, 0..3_000);
    assert_eq!(import(&cluster, 0, "load-1", &first), sent(3_000, false));
    for node in [0, 1] {
        assert_eq!(import(&cluster, node, "load-1", &first), sent(3_000, true));
    }
    prove(&cluster, 3_000).await;
    let other = rows(&cluster, 3_000..4_000);
    let refused = import(&cluster, 1, "load-1", &other).unwrap_err();
    assert!(refused.contains("load-1") && refused.contains("CVH-0803"), "{refused}");
    assert_eq!(import(&cluster, 1, "load-2", &other), sent(1_000, false));
    // Two at a time, by both daemons: who is overtaken is told to repeat it.
    let third = rows(&cluster, 4_000..6_000);
    let (one, two) = std::thread::scope(|scope| {
        let attempt = |node| {
            let (cluster, third) = (&cluster, &third);
            scope.spawn(move || import(cluster, node, "load-3", third))
        };
        let (one, two) = (attempt(0), attempt(1));
        (one.join().unwrap(), two.join().unwrap())
    });
    for outcome in [&one, &two] {
        let repeat = |said: &String| said.contains("CVH-0811") && said.contains("same batch name");
        assert!(outcome.as_ref().is_ok_and(|sent| sent.rows == 2_000) || outcome.as_ref().is_err_and(repeat));
    }
    assert_eq!(import(&cluster, 0, "load-3", &third).map(|sent| sent.rows), Ok(2_000));
    prove(&cluster, 6_000).await;
    // What was given up leaves offsets without a message, and no row.
    let absent = TopicPartition { topic: "shop.absent".into(), partition: 0 };
    let mut messages: Vec<_> = (6_000..6_500).map(event).collect();
    messages.push(converthouse::adapters::kafka::Outgoing { target: absent, ..event(1) });
    let mark = TopicPartition { topic: "shop.events.0".into(), partition: 0 };
    let batch = NamedBatch { name: "given-up".into(), mark, note: String::new(), messages };
    let refused = cluster.client.produce_once(batch).await;
    assert!(matches!(refused, Err(Error::TopicMissing(_))), "{refused:?}");
    prove(&cluster, 6_000).await;
    // And rows without a name go on as ever.
    cluster.produce(6_000..7_000).await;
    prove(&cluster, 7_000).await;
}

async fn prove_empty(cluster: &Cluster) {
    cluster.until("a table", |status| status.tables.iter().all(|table| table.complete));
    let said = cluster.cli(&["verify", "shop.events"]);
    assert!(said.is_ok(), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_daemon_or_broker_is_killed_is_repeated_until_it_is_in_once() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    let each = 100_000;
    let mut takes = Duration::ZERO;
    for round in 0..2 {
        let whole = rows(&cluster, round * each..(round + 1) * each);
        let began = Instant::now();
        assert_eq!(import(&cluster, 0, &format!("whole-{round}"), &whole), sent(each, false));
        takes = began.elapsed();
    }
    let (mut interrupted, last) = (0, 7);
    for round in 2..=last {
        cluster.until("all nodes live", |status| status.nodes.iter().all(|node| node.live));
        let file = rows(&cluster, round * each..(round + 1) * each);
        let batch = format!("killed-{round}");
        std::thread::scope(|scope| {
            let (url, file, batch) = (cluster.nodes[0].grpc_url.clone(), file.clone(), batch.clone());
            scope.spawn(move || {
                let arguments = ["insert", "shop.events", "--batch", &batch, "--file"];
                let _ = std::process::Command::new(env!("CARGO_BIN_EXE_converthouse"))
                    .args(["--server", &url])
                    .args(arguments)
                    .arg(file)
                    .output();
            });
            // From early on until about its end.
            std::thread::sleep(takes * (u32::try_from(round).unwrap() - 1) / 7);
            if round == last {
                cluster.kafka.brokers.kill(0).unwrap();
            } else {
                cluster.nodes[0].kill_daemon();
            }
        });
        if round == last {
            cluster.kafka.brokers.restart(0).await.unwrap();
        } else {
            cluster.nodes[0].start_daemon();
        }
        // By the other daemon, until it is known.
        let began = Instant::now();
        loop {
            match import(&cluster, 1, &batch, &file) {
                Ok(sent) => {
                    interrupted += u32::from(!sent.before);
                    break assert_eq!(sent.rows, each);
                }
                Err(said) => assert!(began.elapsed() < Duration::from_secs(90), "{said}"),
            }
        }
        assert_eq!(import(&cluster, 1, &batch, &file), sent(each, true));
    }
    assert!(interrupted > 0, "each batch was in before anything was killed");
    prove(&cluster, (last + 1) * each).await;
}
