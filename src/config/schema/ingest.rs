//! The keys of `[ingest]`: from Kafka into ClickHouse.

use super::Absent::Default;
use super::Kind::{Bytes, Integer};
use super::{Key, key};

pub(super) const INGEST: &[Key] = &[
    key("lanes_max", Integer(1, 256), Default("4"), "4", "Kafka consumers (threads) of a node at most."),
    key(
        "daily_bytes_per_partition",
        Bytes,
        Default("\"36GB\""),
        "\"36GB\"",
        "Volume of one partition a day; by it and by what the node holds consumers are counted, each taking 360 GB a \
         day, never more than the node has shards.",
    ),
    key(
        "insert_deadline_ms",
        Integer(1_000, 3_600_000),
        Default("60000"),
        "60000",
        "An insert without an answer for so long counts as in doubt: the daemon closes the way that it took, looks at \
         what the table holds, and inserts the rest.",
    ),
    key(
        "inserts_per_s",
        Integer(1, 10_000),
        Default("20"),
        "20",
        "Inserts a second that one ClickHouse should have to take, all tables together. Each partition is an insert \
         of its own: where a node holds many, batches grow older instead, up to `batch_age_max_ms`.",
    ),
    key(
        "batch_age_max_ms",
        Integer(100, 600_000),
        Default("10000"),
        "10000",
        "How old batches grow for `inserts_per_s` at most; above that there are more inserts a second instead. What \
         it comes to is shown by `converthouse table show`.",
    ),
    key(
        "buffer_bytes",
        Bytes,
        Default("\"384MB\""),
        "\"384MB\"",
        "Memory for what is between Kafka and ClickHouse, whatever the number of partitions: half for messages that \
         wait or are being inserted, a quarter for rows being sent, a quarter for what the consumers have fetched. At \
         least 32 MB. The daemon itself and librdkafka's own queues, 8 MB of payload a consumer, come on top.",
    ),
];
