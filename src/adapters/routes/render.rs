//! Routes to the text of a cluster file, and to what a server that has read it shows in `system.clusters`. Pure.
//!
//! Each table is one cluster, each of its route groups one more. Shards stand in range order with their width as
//! weight, which makes ClickHouse's `key % sum(weights)` the owner of the partition; the leader is the first
//! replica. The same routes give the same bytes, so an unchanged file is not written again.

use crate::adapters::clickhouse::ClusterReplica;
use crate::model::ids::{Epoch, ShardId, TableId};
use crate::model::names;
use crate::model::routes::{RouteReplica, RouteShard, TableRoutes};
use crate::model::table::{Publisher, TableName};
use quick_xml::escape::escape;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A table's clusters by name: its own, then its groups'.
fn clusters(table: &TableRoutes) -> Vec<(String, &[RouteShard])> {
    let groups = table
        .groups
        .iter()
        .map(|(group, shards)| (names::cluster(&table.name, table.table, Some(group)), shards.as_slice()));
    std::iter::once((table.cluster(), table.shards.as_slice())).chain(groups).collect()
}

/// The whole file. An empty slice gives a file without clusters, which takes earlier ones away.
pub fn render(tables: &[TableRoutes]) -> String {
    let texts: Vec<String> = tables.iter().map(clusters_of).collect();
    file(tables.iter().zip(&texts).map(|(table, text)| (table, None, text.as_str())))
}

/// A table's part of the file.
pub fn clusters_of(table: &TableRoutes) -> String {
    let mut out = String::new();
    for (name, shards) in clusters(table) {
        push(&mut out, 8, &format!("<{name}>"));
        shards.iter().for_each(|each| shard(&mut out, each));
        push(&mut out, 8, &format!("</{name}>"));
    }
    out
}

/// The whole file, of tables, who published them, and their parts of it.
pub fn file<'a>(tables: impl Iterator<Item = (&'a TableRoutes, Option<Publisher>, &'a str)>) -> String {
    let ordered: BTreeMap<String, (Epoch, Option<Publisher>, &str)> =
        tables.map(|(table, by, text)| (table.cluster(), (table.epoch, by, text))).collect();
    let mut out = String::from(
        "<?xml version=\"1.0\"?>\n<!-- Written by Converthouse: changes made here are overwritten.\n",
    );
    for (cluster, (epoch, by, _)) in &ordered {
        let by = by.map_or_else(String::new, |by| format!(" by {by}"));
        push(&mut out, 5, &format!("{cluster}: epoch {}{by}", epoch.0));
    }
    out.push_str("-->\n<yandex>\n    <remote_servers>\n");
    ordered.values().for_each(|(_, _, text)| out.push_str(text));
    out.push_str("    </remote_servers>\n</yandex>\n");
    out
}

/// The topologies that a file was written for, by table's cluster: what [`file`] says at its head.
pub fn topologies(file: &str) -> BTreeMap<&str, (Epoch, Option<Publisher>)> {
    let head = file.split_once("-->").map_or("", |(head, _)| head);
    let named = head.lines().filter_map(|line| line.trim().split_once(": epoch "));
    let topology = |said: &str| {
        let (epoch, by) = said.split_once(" by ").map_or((said, None), |(epoch, by)| (epoch, Some(by)));
        let by = by.and_then(|by| u64::from_str_radix(by, 16).ok()).map(Publisher);
        Some((Epoch(epoch.parse().ok()?), by))
    };
    named.filter_map(|(cluster, said)| Some((cluster, topology(said)?))).collect()
}

/// The highest number of a shard that a file names in databases of this table.
pub fn newest_shard(file: &str, name: &TableName, table: TableId) -> Option<u32> {
    let first = names::replica_database(name, table, ShardId(0));
    let head = escape(first.trim_end_matches('0')).into_owned();
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok());
    file.split(head.as_str()).skip(1).filter_map(number).max()
}

fn push(out: &mut String, indent: usize, line: &str) {
    writeln!(out, "{:indent$}{line}", "").expect("a String takes everything");
}

fn shard(out: &mut String, shard: &RouteShard) {
    push(out, 12, &format!("<!-- partitions {} -->", shard.range));
    push(out, 12, "<shard>");
    push(out, 16, &format!("<weight>{}</weight>", shard.range.width()));
    push(out, 16, "<internal_replication>true</internal_replication>");
    shard.replicas.iter().for_each(|each| replica(out, each));
    push(out, 12, "</shard>");
}

fn replica(out: &mut String, replica: &RouteReplica) {
    let endpoint = &replica.endpoint;
    let secure = if endpoint.secure { "1" } else { "" };
    let lines: [(&str, &str); 6] = [
        ("host", &endpoint.host),
        ("port", &endpoint.port.to_string()),
        ("secure", secure),
        ("default_database", &replica.database),
        ("user", &endpoint.user),
        ("password", endpoint.password.expose()),
    ];
    push(out, 16, "<replica>");
    for (name, text) in lines.into_iter().filter(|(_, text)| !text.is_empty()) {
        push(out, 20, &format!("<{name}>{}</{name}>", escape(text)));
    }
    push(out, 16, "</replica>");
}

/// What `system.clusters` shows of a table's clusters once the file is loaded, in the order of shard and replica.
pub fn expected(table: &TableRoutes) -> Vec<(String, Vec<ClusterReplica>)> {
    let shown = |shards: &[RouteShard]| {
        let each = (1..).zip(shards).flat_map(|(shard_num, shard)| {
            (1..).zip(&shard.replicas).map(move |(replica_num, replica)| ClusterReplica {
                shard_num,
                shard_weight: shard.range.width(),
                replica_num,
                host_name: replica.endpoint.host.clone(),
                port: replica.endpoint.port,
                default_database: replica.database.clone(),
            })
        });
        each.collect::<Vec<_>>()
    };
    clusters(table).into_iter().map(|(name, shards)| (name, shown(shards))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PartitionRange;
    use crate::model::node::{ClickHouseEndpoint, Secret};
    use expect_test::expect;
    use uuid::Uuid;

    fn endpoint(host: &str, user: &str, password: &str, secure: bool) -> ClickHouseEndpoint {
        let (host, user, password) = (host.to_owned(), user.to_owned(), Secret::new(password));
        ClickHouseEndpoint { host, port: 9000, secure, user, password }
    }

    fn routes(table: &str, id: u128) -> TableRoutes {
        let replica = |node: &str, endpoint| RouteReplica {
            node: node.parse().unwrap(),
            endpoint,
            database: format!("a.b__{table}__s<1>"),
        };
        let (plain, secured) = (endpoint("n1", "", "", false), endpoint("n2", "u\"&", "p<'>", true));
        let one = RouteShard {
            shard: ShardId(1),
            range: PartitionRange::new(0, 7).unwrap(),
            replicas: vec![replica("n2", secured), replica("n1", plain.clone())],
        };
        let two = RouteShard {
            shard: ShardId(2),
            range: PartitionRange::new(7, 10).unwrap(),
            replicas: vec![replica("n1", plain)],
        };
        TableRoutes {
            table: TableId(Uuid::from_u128(id << 96)),
            name: TableName { database: "a.b".into(), table: table.into() },
            epoch: Epoch(3),
            partitions: 10,
            groups: BTreeMap::from([("read".to_owned(), vec![two.clone()])]),
            shards: vec![one, two],
        }
    }

    #[test]
    fn a_file_is_as_clickhouse_wants_it() {
        let golden = expect![[r#"
            <?xml version="1.0"?>
            <!-- Written by Converthouse: changes made here are overwritten.
                 cvh_a_b_____00000001: epoch 3
            -->
            <yandex>
                <remote_servers>
                    <cvh_a_b_____00000001>
                        <!-- partitions [0, 7) -->
                        <shard>
                            <weight>7</weight>
                            <internal_replication>true</internal_replication>
                            <replica>
                                <host>n2</host>
                                <port>9000</port>
                                <secure>1</secure>
                                <default_database>a.b__--é__s&lt;1&gt;</default_database>
                                <user>u&quot;&amp;</user>
                                <password>p&lt;&apos;&gt;</password>
                            </replica>
                            <replica>
                                <host>n1</host>
                                <port>9000</port>
                                <default_database>a.b__--é__s&lt;1&gt;</default_database>
                            </replica>
                        </shard>
                        <!-- partitions [7, 10) -->
                        <shard>
                            <weight>3</weight>
                            <internal_replication>true</internal_replication>
                            <replica>
                                <host>n1</host>
                                <port>9000</port>
                                <default_database>a.b__--é__s&lt;1&gt;</default_database>
                            </replica>
                        </shard>
                    </cvh_a_b_____00000001>
                    <cvh_a_b_____00000001__read>
                        <!-- partitions [7, 10) -->
                        <shard>
                            <weight>3</weight>
                            <internal_replication>true</internal_replication>
                            <replica>
                                <host>n1</host>
                                <port>9000</port>
                                <default_database>a.b__--é__s&lt;1&gt;</default_database>
                            </replica>
                        </shard>
                    </cvh_a_b_____00000001__read>
                </remote_servers>
            </yandex>
        "#]];
        golden.assert_eq(&render(&[routes("--é", 1)]));
    }

    #[test]
    fn order_does_not_matter_and_the_file_is_sound() {
        let (one, two) = (routes("x", 1), routes("y", 2));
        let text = render(&[one.clone(), two.clone()]);
        assert_eq!(text, render(&[two, one.clone()]));
        let mut reader = quick_xml::Reader::from_str(&text);
        while !matches!(reader.read_event().unwrap(), quick_xml::events::Event::Eof) {}
        assert!(render(&[]).contains("<remote_servers>"));
        let (names, shown): (Vec<String>, Vec<_>) = expected(&one).into_iter().unzip();
        assert!(names.iter().all(|name| text.contains(&format!("<{name}>"))), "{names:?}");
        assert_eq!(
            shown[0].iter().map(|r| (r.shard_num, r.replica_num)).collect::<Vec<_>>(),
            [(1, 1), (1, 2), (2, 1)]
        );
        assert_eq!(shown[0].iter().map(|r| r.shard_weight).collect::<Vec<_>>(), [7, 7, 3]);
    }
}
