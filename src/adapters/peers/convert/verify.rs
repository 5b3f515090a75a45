//! Comparisons of replicas.

use super::{Malformed, node};
use crate::model::verify::{Difference, Digest, DigestAsked, PartitionVerdict};
use crate::model::{PartitionId, ShardId};
use crate::wire;
use crate::wire::difference::{self, Kind};

/// What is asked of a node.
pub fn digest_asked_to_wire(m: DigestAsked) -> wire::DigestRequest {
    wire::DigestRequest {
        node: m.node.into(),
        database: m.database,
        partition: m.partition.0,
        from: m.from,
        below: m.below,
    }
}

/// See [`digest_asked_to_wire`].
pub fn digest_asked_from_wire(w: wire::DigestRequest) -> Result<DigestAsked, Malformed> {
    Ok(DigestAsked {
        node: node("node", &w.node)?,
        database: w.database,
        partition: PartitionId(w.partition),
        from: w.from,
        below: w.below,
    })
}

/// What it holds.
pub fn digest_to_wire(m: Digest) -> wire::DigestResponse {
    wire::DigestResponse {
        rows: m.rows,
        distinct: m.distinct,
        messages: m.messages,
        min_offset: m.min_offset,
        max_offset: m.max_offset,
        hash: m.hash,
    }
}

/// See [`digest_to_wire`].
pub fn digest_from_wire(w: &wire::DigestResponse) -> Digest {
    Digest {
        rows: w.rows,
        distinct: w.distinct,
        messages: w.messages,
        min_offset: w.min_offset,
        max_offset: w.max_offset,
        hash: w.hash,
    }
}

fn difference_to_wire(m: Difference) -> wire::Difference {
    let kind = match m {
        Difference::Doubled { node, rows } => Kind::Doubled(difference::Doubled { node: node.into(), rows }),
        Difference::Differing { node, other, offsets } => {
            Kind::Differing(difference::Differing { node: node.into(), other: other.into(), offsets })
        }
        Difference::Missing { node, offsets } => {
            Kind::Missing(difference::Missing { node: node.into(), offsets })
        }
    };
    wire::Difference { kind: Some(kind) }
}

fn difference_from_wire(w: wire::Difference) -> Result<Difference, Malformed> {
    Ok(match w.kind.ok_or_else(|| Malformed::absent("differences.kind"))? {
        Kind::Doubled(w) => Difference::Doubled { node: node("node", &w.node)?, rows: w.rows },
        Kind::Differing(w) => Difference::Differing {
            node: node("node", &w.node)?,
            other: node("other", &w.other)?,
            offsets: w.offsets,
        },
        Kind::Missing(w) => Difference::Missing { node: node("node", &w.node)?, offsets: w.offsets },
    })
}

/// How a partition was found.
pub fn verdict_to_wire(m: PartitionVerdict) -> wire::VerifyResponse {
    let replica = |(node, digest): (crate::model::NodeId, Digest)| (node.into(), digest_to_wire(digest));
    wire::VerifyResponse {
        shard: m.shard.0,
        partition: m.partition.0,
        topic_from: m.topic_from,
        below: m.below,
        replicas: m.replicas.into_iter().map(replica).collect(),
        differences: m.differences.into_iter().map(difference_to_wire).collect(),
        dead_letters: m.dead_letters,
        empty: m.empty,
        unchecked: m.unchecked,
        notes: m.notes,
    }
}

/// See [`verdict_to_wire`].
pub fn verdict_from_wire(w: wire::VerifyResponse) -> Result<PartitionVerdict, Malformed> {
    let replica = |(id, digest): (&String, &wire::DigestResponse)| {
        Ok((node("replicas", id)?, digest_from_wire(digest)))
    };
    Ok(PartitionVerdict {
        shard: ShardId(w.shard),
        partition: PartitionId(w.partition),
        topic_from: w.topic_from,
        below: w.below,
        replicas: w.replicas.iter().map(replica).collect::<Result<_, _>>()?,
        differences: w.differences.into_iter().map(difference_from_wire).collect::<Result<_, _>>()?,
        dead_letters: w.dead_letters,
        empty: w.empty,
        unchecked: w.unchecked,
        notes: w.notes,
    })
}
