//! The keys of `[balance]`: what the cluster may do by itself.

use super::Absent::{Default, Otherwise};
use super::Kind::{Bytes, Choice, Integer};
use super::{Key, MS_MAX, key};

pub(super) const BALANCE: &[Key] = &[
    key(
        "mode",
        Choice(&["off", "advisory", "on"]),
        Default("\"on\""),
        "\"on\"",
        "`on`: shards split and move by themselves; `advisory`: the plan is made and its size shown (status, log, \
         metrics), not carried out; `off`: only splits, moves and plans that an operator asks for, and what nodes \
         that are lost make necessary. Drained nodes are emptied with `on` alone. `converthouse balance` says \
         otherwise at run time.",
    ),
    key("every_ms", Integer(500, MS_MAX), Default("5000"), "5000", "Between two looks at the whole cluster."),
    key(
        "copies_max",
        Integer(1, 10_000),
        Default("8"),
        "8",
        "Replicas that may be copied at once in the whole cluster: for balance, after a loss, or where some are \
         missing. What an operator asks for is not held back, but counts.",
    ),
    key(
        "copies_per_node_max",
        Integer(1, 1_000),
        Default("2"),
        "2",
        "Replicas that may be copied to one node at once, and as many that may be copied from it.",
    ),
    key(
        "replicas_per_node_min",
        Integer(0, 10_000),
        Default("1"),
        "1",
        "Replicas of each table that there should be for every node. When nodes join and a table has fewer, all its \
         shards are split (the widest first, as far as its partitions go), and halves move to the new nodes. With 1 a \
         node that joins gets whole shards and mostly nothing is split; with 4 and more nodes come to hold equal \
         shares, and shards are split about each time the cluster has doubled. 0: no shard is split since nodes join.",
    ),
    key(
        "split_above_bytes",
        Bytes,
        Otherwise("shards are not split for their size"),
        "\"200GiB\"",
        "A shard with more bytes than this in a replica is split.",
    ),
    key(
        "split_at",
        Choice(&["middle", "bytes"]),
        Default("\"middle\""),
        "\"middle\"",
        "Where a shard is cut that is split by itself: in the middle of its partitions, or (`bytes`) where the halves \
         have taken the most equal numbers of messages from their topics, which stand for their bytes: bytes by \
         partition are not known.",
    ),
    key(
        "operation_deadline_ms",
        Integer(60_000, MS_MAX),
        Default("21600000"),
        "21600000",
        "How long a split, merge or move may take, beside what its bytes take at a mebibyte a second (slower where \
         `[transfer]` says so); then it is undone, and says what it waited for.",
    ),
    key(
        "solve_deadline_ms",
        Integer(100, MS_MAX),
        Default("60000"),
        "60000",
        "How long one plan may be looked for; what is found later is not used.",
    ),
];
