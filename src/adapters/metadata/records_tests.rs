//! Records survive the round trip, and a damaged one is refused with its reason.

use super::*;
use crate::model::OperationId;
use crate::model::operation::{Kind, Operation, State};
use crate::model::table::{Column, Schema};
use proptest::prelude::*;
use uuid::Uuid;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,12}", "[a-z]{1,8}"]
}

fn table_id() -> impl Strategy<Value = TableId> {
    any::<u128>().prop_map(|number| TableId(Uuid::from_u128(number)))
}

fn node_id() -> impl Strategy<Value = NodeId> {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn partitions() -> impl Strategy<Value = PartitionRange> {
    (any::<u32>(), any::<u32>()).prop_filter_map("empty", |(lo, hi)| PartitionRange::new(lo, hi))
}

fn texts() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    prop::collection::btree_map(text(), text(), 0..4)
}

fn node() -> impl Strategy<Value = Node> {
    let state = prop::sample::select(vec![NodeState::Active, NodeState::Cordoned, NodeState::Draining]);
    let endpoint = (text(), any::<u16>(), any::<bool>(), text(), text()).prop_map(
        |(host, port, secure, user, password)| ClickHouseEndpoint {
            host,
            port,
            secure,
            user,
            password: Secret::new(password),
        },
    );
    (node_id(), texts(), any::<u64>(), any::<u32>(), state, endpoint, text()).prop_map(
        |(id, labels, capacity_bytes, weight_milli, state, clickhouse, daemon_url)| Node {
            id,
            labels,
            capacity_bytes,
            weight_milli,
            state,
            clickhouse,
            daemon_url,
        },
    )
}

fn schema() -> impl Strategy<Value = Schema> {
    let column = prop::array::uniform5(text()).prop_map(|[name, data_type, kind, expression, codec]| {
        Column { name, data_type, default_kind: kind, default_expression: expression, codec }
    });
    (prop::collection::vec(column, 0..5), prop::array::uniform8(text())).prop_map(|(columns, parts)| {
        let [engine, engine_arguments, partition_key, sorting_key, primary_key, sampling_key, ttl, settings] =
            parts;
        Schema {
            columns,
            engine,
            engine_arguments,
            partition_key,
            sorting_key,
            primary_key,
            sampling_key,
            ttl,
            settings,
        }
    })
}

fn source() -> impl Strategy<Value = Source> {
    let layout = prop::sample::select(vec![TopicLayout::TopicPerPartition, TopicLayout::OneTopic]);
    let formats = vec![MessageFormat::JSONEachRow, MessageFormat::CSV, MessageFormat::TSV];
    let batch = (any::<u32>(), any::<u32>(), any::<u64>());
    (text(), layout, prop::sample::select(formats), texts(), batch).prop_map(
        |(topic_prefix, layout, format, format_settings, (rows_max, bytes_max, age_max_ms))| Source {
            topic_prefix,
            layout,
            format,
            format_settings,
            batch: BatchLimits { rows_max, bytes_max, age_max_ms },
        },
    )
}

fn table() -> impl Strategy<Value = Table> {
    let state = prop::sample::select(vec![TableState::Creating, TableState::Active, TableState::Dropping]);
    let origin = prop::collection::btree_map(any::<u32>().prop_map(PartitionId), any::<i64>(), 0..5);
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>());
    let texts = prop::array::uniform4(text());
    let published_by =
        prop::collection::btree_map(any::<u64>().prop_map(Epoch), any::<u64>().prop_map(Publisher), 0..3);
    (table_id(), texts, state, schema(), numbers, source(), (origin, published_by), any::<bool>()).prop_map(
        |(id, [database, table, ddl, by], state, schema, numbers, source, maps, delete_topics)| {
            let (origin_offsets, published_by) = maps;
            let (partitions, replicas, next_shard, epoch) = numbers;
            Table {
                id,
                name: TableName { database, table },
                state,
                schema,
                ddl,
                partitions,
                replicas,
                partition_by: by,
                mode: ReplicationMode::Log,
                source,
                epoch: Epoch(epoch),
                next_shard,
                origin_offsets: origin_offsets.into(),
                delete_topics,
                published_by,
            }
        },
    )
}

fn epoch() -> impl Strategy<Value = Option<Epoch>> {
    prop::option::of((1..=u64::MAX).prop_map(Epoch))
}

fn operation() -> impl Strategy<Value = Operation> {
    let shard = || any::<u32>().prop_map(ShardId);
    let kind = prop_oneof![
        (shard(), any::<u32>(), shard(), shard()).prop_map(|(shard, cut, left, right)| Kind::Split {
            shard,
            cut,
            left,
            right
        }),
        (shard(), shard(), shard()).prop_map(|(left, right, into)| Kind::Merge { left, right, into }),
        (shard(), node_id(), node_id()).prop_map(|(shard, from, to)| Kind::Move { shard, from, to }),
        (shard(), node_id()).prop_map(|(shard, to)| Kind::Add { shard, to }),
        (shard(), node_id()).prop_map(|(shard, from)| Kind::Remove { shard, from }),
        (shard(), node_id()).prop_map(|(shard, to)| Kind::Lead { shard, to }),
    ];
    let states = vec![State::Running, State::Cancelling, State::Done, State::Cancelled, State::Failed];
    (any::<u64>(), table_id(), kind, prop::sample::select(states), ".*", any::<u64>()).prop_map(
        |(id, table, kind, state, text, at)| Operation {
            id: OperationId(id),
            table,
            kind,
            state,
            reason: text.clone(),
            outcome: text,
            started_unix_ms: at,
            ended_unix_ms: at / 2,
        },
    )
}

fn shard() -> impl Strategy<Value = Shard> {
    let states =
        vec![ReplicaState::Creating, ReplicaState::Ready, ReplicaState::Behind, ReplicaState::Leaving];
    let replica =
        (node_id(), prop::sample::select(states), prop::option::of(node_id()), epoch(), any::<u64>());
    let replica = replica.prop_map(|(node, state, copy_from, left_at, since)| {
        let since = Epoch(since);
        Replica { node, state, copy_from, left_at, since }
    });
    let replicas = prop::collection::vec(replica, 0..4);
    let states = vec![ShardState::Preparing, ShardState::Serving, ShardState::Retired];
    let life = (prop::sample::select(states), prop::collection::vec(any::<u32>(), 0..3), epoch());
    let leader = prop::option::of(node_id());
    (table_id(), any::<u32>(), any::<u64>(), partitions(), replicas, leader, life).prop_map(
        |(table, id, epoch, range, replicas, leader, (state, parents, retired_at))| Shard {
            table,
            id: ShardId(id),
            epoch: Epoch(epoch),
            range,
            replicas,
            leader,
            state,
            ancestors: parents.iter().rev().copied().map(ShardId).collect(),
            parents: parents.into_iter().map(ShardId).collect(),
            retired_at,
        },
    )
}

fn round_trips<R: Record + PartialEq + std::fmt::Debug>(record: &R) {
    let value = record.encode();
    assert_eq!(value[0], VERSION);
    assert_eq!(R::decode("k", &value).as_ref(), Ok(record));
    // Whatever is cut off or changed, reading does not panic, and an error names the key.
    for cut in 0..value.len() {
        if let Err(error) = R::decode("the/key", &value[..cut]) {
            assert!(error.to_string().contains("the/key"), "{error}");
        }
        let mut flipped = value.clone();
        flipped[cut] ^= 0x55;
        let _ = R::decode("k", &flipped);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tables_round_trip(table in table()) {
        round_trips(&table);
    }

    #[test]
    fn nodes_round_trip(node in node()) {
        round_trips(&node);
    }

    #[test]
    fn shards_round_trip(shard in shard()) {
        round_trips(&shard);
    }

    #[test]
    fn operations_round_trip(operation in operation()) {
        round_trips(&operation);
    }

    #[test]
    fn small_records_round_trip(
        table in table_id(), incarnation: u64, node in node_id(), url in text(),
    ) {
        round_trips(&Leader { node: node.clone(), daemon_url: url.clone() });
        round_trips(&Live { node, incarnation, daemon_url: url });
        round_trips(&table);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Table::decode("k", &bytes);
        let _ = Node::decode("k", &[&[VERSION], &bytes[..]].concat());
        let _ = Shard::decode("k", &[&[VERSION], &bytes[..]].concat());
    }
}

fn value(wire: &impl Message) -> Vec<u8> {
    [&[VERSION], &wire.encode_to_vec()[..]].concat()
}

#[test]
fn what_is_wrong_with_a_record_is_named() {
    let shard =
        wire::ShardRecord { table: TableId(Uuid::nil()).to_string(), lo: 1, hi: 2, ..Default::default() };
    let replica = |state| wire::ReplicaRecord { node: "n1".into(), state, ..Default::default() };
    let with = |state| wire::ShardRecord { replicas: vec![replica(state)], ..shard.clone() };
    for (value, problem) in [
        (vec![], Problem::Empty),
        (vec![9, 1, 2], Problem::UnknownVersion(9)),
        (value(&wire::ShardRecord::default()), Problem::Missing("table")),
        (value(&with(0)), Problem::Missing("replicas.state")),
        (value(&with(77)), Problem::UnknownEnum { field: "replicas.state", number: 77 }),
    ] {
        assert_eq!(Shard::decode("k", &value), Err(DecodeError { key: "k".into(), problem }));
    }
    let empty = Shard::decode("k", &value(&wire::ShardRecord { hi: 1, ..shard.clone() })).unwrap_err();
    assert!(empty.to_string().contains("[1, 1) is empty"), "{empty}");
    let cut = Shard::decode("k", &value(&shard)[..5]).unwrap_err();
    assert!(matches!(cut.problem, Problem::Damaged(_)), "{cut}");
    assert_eq!((cut.code(), cut.retry()), (Code(312), Retry::Never));
    let newer = Shard::decode("k", &[9]).unwrap_err();
    assert_eq!((newer.code(), newer.remedy().contains("upgrade")), (Code(311), true));
}
