//! The keys of `[transfer]`: how replicas are copied from node to node.

use super::Absent::{Default, Otherwise};
use super::Kind::{Bool, Bytes, Integer};
use super::{Key, key};

pub(super) const TRANSFER: &[Key] = &[
    key(
        "by_parts",
        Bool,
        Default("true"),
        "true",
        "Replicas are copied as the files of their parts, from daemon to daemon, which is several times as fast as the \
         `INSERT … SELECT FROM remote()` that is used otherwise. It needs the server's data folder within reach of \
         the daemons at both ends, which run as the server's user (or root), on plain local disks, and a server \
         at the receiving end that is not older. Where that is not so, the select is used, and the reason is shown.",
    ),
    key(
        "bytes_per_s",
        Bytes,
        Otherwise("no limit"),
        "\"200MB\"",
        "Bytes a second that copies may bring to each node of this daemon, and as many that they may take from it, all \
         copies of the node together. A select is held to it at the receiving end only.",
    ),
    key(
        "cluster_bytes_per_s",
        Bytes,
        Otherwise("no limit"),
        "\"1GB\"",
        "Bytes a second that copies may move in the whole cluster. Each node that is being copied to keeps to its \
         share, by how many replicas are being copied to it, and to `bytes_per_s`. Give all daemons the same.",
    ),
    key(
        "copies_at_once",
        Integer(1, 1_000),
        Default("2"),
        "2",
        "Replicas that are copied to a node of this daemon at once; others wait for their turn.",
    ),
];
