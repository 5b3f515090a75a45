//! Replica databases: made, compared, removed, measured.

use super::*;
use crate::adapters::clickhouse::ReplicaSizes;

pub(super) async fn a_server_tells_its_version(subject: Subject) {
    let info = subject.server.server_info().await.expect("it answers");
    assert!(info.version.split('.').next().is_some_and(|major| major.parse::<u32>().is_ok()), "{info:?}");
    assert!(info.disk_free_bytes <= info.disk_total_bytes, "{info:?}");
}

pub(super) async fn a_replica_is_made_once_and_twice_and_removed(subject: Subject) {
    let Subject { server, database, .. } = &subject;
    for _ in 0..2 {
        server.create_replica(&subject.replica()).await.expect("making twice is no error");
        assert!(server.replica_databases().await.expect("told").contains(database));
    }
    for _ in 0..2 {
        server.drop_replica(database).await.expect("removing twice is no error");
        assert!(!server.replica_databases().await.expect("told").contains(database));
    }
}

pub(super) async fn a_replica_of_another_shape_is_a_conflict(subject: Subject) {
    subject.server.create_replica(&subject.replica()).await.expect("made");
    let changes: [fn(&mut Schema); 3] = [
        |schema| schema.columns[1].data_type = "FixedString(9)".into(),
        |schema| schema.sorting_key = "ts".into(),
        |schema| schema.columns[3].default_expression = "lower(text)".into(),
    ];
    for change in changes {
        let mut other = subject.replica();
        change(&mut other.schema);
        let made = subject.server.create_replica(&other).await;
        assert!(matches!(made, Err(Error::Conflict(_))), "{made:?}");
    }
    subject.server.create_replica(&subject.replica()).await.expect("it is still as it was");
    subject.end().await;
}

pub(super) async fn sizes_count_what_is_there(subject: Subject) {
    let gate = subject.with_gate().await;
    let of = async || subject.server.sizes().await.expect("told").get(&subject.database).copied();
    assert_eq!(of().await.unwrap_or_default(), ReplicaSizes::default());
    subject.put(gate, 3, 0..100).await.expect("inserted");
    let sizes = of().await.expect("a replica with rows has a size");
    assert_eq!((sizes.rows, sizes.parts), (100, 1));
    assert!(sizes.bytes > 0, "{sizes:?}");
    subject.end().await;
}

pub(super) async fn other_databases_are_not_touched(subject: Subject) {
    for other in ["default", "system", "shop__events"] {
        assert!(subject.server.drop_replica(other).await.is_err(), "{other}");
        let replica = ReplicaTables { database: other.to_owned(), schema: schema() };
        assert!(subject.server.create_replica(&replica).await.is_err(), "{other}");
        assert!(!subject.server.replica_databases().await.expect("told").contains(&other.to_owned()));
    }
    assert!(subject.name.table.contains('`'));
}
