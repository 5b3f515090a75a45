//! The keys of `[metadata]` and its members.

use super::Absent::{Default, Otherwise, Required};
use super::Kind::{Choice, Integer, Ip, Node, Path, Secret, Text, Texts, Url};
use super::{Key, key};

pub(super) const METADATA: &[Key] = &[
    key(
        "kind",
        Choice(&["etcd", "embedded", "managed"]),
        Required,
        "\"etcd\"",
        "`etcd`: an etcd that runs already. `managed`: daemons start and watch over etcd members themselves, \
         without login and TLS: whoever reaches their ports reads and changes everything, ClickHouse passwords \
         included. `embedded`: a file of this process, which then serves every `[[node]]` alone (standalone mode).",
    ),
    key(
        "endpoints",
        Texts,
        Otherwise("none; `etcd` needs some"),
        "[\"http://etcd1:2379\", \"http://etcd2:2379\", \"http://etcd3:2379\"]",
        "etcd's client addresses. For `kind = \"etcd\"` only.",
    ),
    key(
        "user",
        Text,
        Otherwise("no authentication"),
        "\"converthouse\"",
        "etcd user. For `kind = \"etcd\"` only.",
    ),
    key("password", Secret, Otherwise("none"), "\"…\"", "Its password; better in a file."),
    key(
        "password_file",
        Path,
        Otherwise("none"),
        "\"etcd.password\"",
        "File that holds the password; a line end at its end is dropped.",
    ),
    key(
        "lease_ttl_ms",
        Integer(1_000, 600_000),
        Default("10000"),
        "10000",
        "A daemon that is not heard of for so long counts as gone: its leaderships move.",
    ),
    key(
        "path",
        Path,
        Otherwise("`<data_dir>/metadata.redb`"),
        "\"metadata.redb\"",
        "File of the embedded store. For `kind = \"embedded\"` only.",
    ),
    key(
        "binary",
        Path,
        Default("\"etcd\""),
        "\"/usr/bin/etcd\"",
        "etcd's program; a bare name is looked for on the PATH. For `kind = \"managed\"` only.",
    ),
    key(
        "listen",
        Ip,
        Otherwise("the member's own host if that is an IP address, else all addresses"),
        "\"10.0.0.1\"",
        "Address that this daemon's member listens on, where its `client_url` and `peer_url` are host names. For \
         `kind = \"managed\"` only.",
    ),
];

pub(super) const MEMBER: &[Key] = &[
    key("node", Node, Required, "\"n1\"", "Node whose daemon runs this member."),
    key("client_url", Url, Required, "\"http://n1.example.org:2379\"", "Where clients reach it."),
    key("peer_url", Url, Required, "\"http://n1.example.org:2380\"", "Where other members reach it."),
];
