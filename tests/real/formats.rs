//! Messages that are no rows of their table's format, among good ones, on real servers: each is put aside whole and as
//! it was, also if only a part of it is bad, and nothing else is.

use super::ingest::put_aside;
use super::support::cluster::Cluster;
use converthouse::adapters::kafka::{Kafka, Outgoing};
use converthouse::model::names::TopicPartition;

/// Good messages of each partition; from the middle on, bad ones stand between them.
const GOOD: u64 = 300;
/// Partitions of each table: in the first a good message has three rows, in the second one.
const ROWS: [u64; 2] = [3, 1];

/// A table for each format, called after it.
struct Case {
    format: &'static str,
    row: fn(u64) -> String,
    /// Bad messages, by partition. Those of their rows that are good have ids from 1000000 on.
    bad: [&'static [&'static str]; 2],
}

const CASES: [Case; 3] = [
    Case {
        format: "CSV",
        // Quoted, so that a quote left open before it would end in it.
        row: |id| format!("{id},\"row {id}\""),
        bad: [
            &[
                "1000000,row\n1000002,\"a quote that stays open\n1000004,row",
                "1000006,row\n1000008\n1000010,row",
                "1000012,row\n1000014,row,more\n1000016,row",
            ],
            &["1000001,\"row", "1000003", "1000005,row,more"],
        ],
    },
    Case {
        format: "TSV",
        row: |id| format!("{id}\trow {id}"),
        bad: [
            &["1000000\trow\nno number\trow\n1000004\trow", "1000006\trow\n1000008\n1000010\trow"],
            &["1000001\trow\tmore", "1000003\trow\\"],
        ],
    },
    Case {
        format: "JSONEachRow",
        row: |id| format!("{{\"id\":{id},\"note\":\"row {id}\"}}"),
        bad: [
            &["{\"id\":1000000,\"note\":\"row\"}\n{\"id\":\"poison\"}\n{\"id\":1000004,\"note\":\"row\"}"],
            // On one line, among messages of one row: there the server may be told to leave bad rows out.
            &[
                "{\"id\":1000001,\"note\":\"row\"}{\"id\":\"poison\"}{\"id\":1000005,\"note\":\"row\"}",
                "{\"id\":1000007,\"note\":\"row\"}{\"nothing\":\"known\"}{\"id\":1000011,\"note\":\"row\"}",
            ],
        ],
    },
];

impl Case {
    fn table(&self) -> String {
        format!("shop.{}", self.format)
    }

    fn create(&self, cluster: &Cluster) {
        let ddl =
            format!("CREATE TABLE {} (id UInt64, note String) ENGINE = MergeTree ORDER BY id", self.table());
        let format = ["--format", self.format, "--topic-layout", "one-topic"];
        let numbers = ["--partitions", "2", "--replicas", "2", "--partition-by", "id"];
        let made =
            cluster.cli(&[&["table", "create", &ddl, "--wait-complete"], &format[..], &numbers[..]].concat());
        made.unwrap_or_else(|error| panic!("{error}"));
    }

    /// What is sent to a partition, in order.
    fn messages(&self, partition: u8) -> Vec<Outgoing> {
        let (rows, bad) = (ROWS[usize::from(partition)], self.bad[usize::from(partition)]);
        let good = |number: u64| {
            let ids = (0..rows).map(|row| (number * rows + row) * 2 + u64::from(partition));
            ids.map(self.row).collect::<Vec<_>>().join("\n")
        };
        let mut texts: Vec<String> = (0..GOOD).map(good).collect();
        let middle = texts.len() / 2;
        for (number, text) in bad.iter().enumerate() {
            texts.insert(middle + 2 * number, (*text).to_owned());
        }
        let target = TopicPartition { topic: self.table(), partition: partition.into() };
        let message = |text: String| Outgoing {
            target: target.clone(),
            payload: Some(text.into()),
            headers: Vec::new(),
        };
        texts.into_iter().map(message).collect()
    }

    /// Waits until every replica has taken everything; then all good rows are there once, no other, and the bad
    /// messages are in the dead-letter topic.
    async fn prove(&self, cluster: &Cluster) {
        let rows = GOOD * ROWS.iter().sum::<u64>();
        let bad = self.bad.concat();
        cluster.prove(&self.table(), rows, bad.len() as u64).await;
        let sql = format!(
            "SELECT count(), uniqExact(id), countIf(id >= 1000000), countIf(note = concat('row ', toString(id))) \
             FROM {}",
            self.table()
        );
        for node in &cluster.nodes {
            let shown = node.query(&sql).await.unwrap();
            assert_eq!(shown, format!("{rows}\t{rows}\t0\t{rows}"), "{} on {}", self.format, node.id);
        }
        put_aside(cluster, &self.table(), &bad).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_which_a_part_is_no_row_of_its_format_is_put_aside_whole_and_alone() {
    let cluster = Cluster::start_standalone(2).await;
    CASES.iter().for_each(|case| case.create(&cluster));
    for case in &CASES {
        cluster.client.produce([case.messages(0), case.messages(1)].concat()).await.unwrap();
    }
    for case in &CASES {
        case.prove(&cluster).await;
    }
    // An open quote or escape would swallow the rows behind it, so such messages are not even shown to the server.
    for (refused, messages) in [("CVH-0755", 2), ("CVH-0757", 1)] {
        let said = cluster.nodes[0].said(refused);
        assert!(said >= 2 * messages, "{refused}: {said} times, of {messages} messages on two nodes");
    }
}
