//! Parts on their way. Names are checked where they become paths: see `model::parts`.

use super::{Malformed, node};
use crate::model::parts::{FileSize, HeldFile, PartFiles, Piece, WantedParts};
use crate::model::{NodeId, PartitionId};
use crate::wire;

/// What is asked for, and of whom.
pub fn wanted_to_wire(node: &NodeId, wanted: WantedParts) -> wire::SendPartitionRequest {
    let held =
        |m: HeldFile| wire::HeldFile { part: m.part, file: m.file, bytes: m.bytes, checksum: m.checksum };
    wire::SendPartitionRequest {
        node: node.to_string(),
        database: wanted.database,
        partition: wanted.partition.0,
        version: wanted.version,
        held: wanted.held.into_iter().map(held).collect(),
    }
}

/// See [`wanted_to_wire`].
pub fn wanted_from_wire(w: wire::SendPartitionRequest) -> Result<(NodeId, WantedParts), Malformed> {
    let held =
        |w: wire::HeldFile| HeldFile { part: w.part, file: w.file, bytes: w.bytes, checksum: w.checksum };
    let wanted = WantedParts {
        database: w.database,
        partition: PartitionId(w.partition),
        version: w.version,
        held: w.held.into_iter().map(held).collect(),
    };
    Ok((node("node", &w.node)?, wanted))
}

/// A piece.
pub fn piece_to_wire(piece: Piece) -> wire::SendPartitionResponse {
    use wire::send_partition_response::Piece as W;
    let file = |m: FileSize| wire::FileSize { name: m.name, bytes: m.bytes };
    let part = |m: PartFiles| wire::PartFiles {
        name: m.name,
        rows: m.rows,
        files: m.files.into_iter().map(file).collect(),
    };
    let piece = match piece {
        Piece::Declined(reason) => W::Declined(reason),
        Piece::Begin(parts) => W::Begin(wire::PartsBegin { parts: parts.into_iter().map(part).collect() }),
        Piece::Data(content) => W::Data(content),
        Piece::End { checksum, held } => W::End(wire::FileEnd { checksum, held }),
    };
    wire::SendPartitionResponse { piece: Some(piece) }
}

/// See [`piece_to_wire`].
pub fn piece_from_wire(w: wire::SendPartitionResponse) -> Result<Piece, Malformed> {
    use wire::send_partition_response::Piece as W;
    let file = |w: wire::FileSize| FileSize { name: w.name, bytes: w.bytes };
    let part = |w: wire::PartFiles| PartFiles {
        name: w.name,
        rows: w.rows,
        files: w.files.into_iter().map(file).collect(),
    };
    Ok(match w.piece.ok_or_else(|| Malformed::absent("piece"))? {
        W::Declined(reason) => Piece::Declined(reason),
        W::Begin(begin) => Piece::Begin(begin.parts.into_iter().map(part).collect()),
        W::Data(content) => Piece::Data(content),
        W::End(end) => Piece::End { checksum: end.checksum, held: end.held },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn pieces_and_requests_round_trip() {
        let file = FileSize { name: "a.bin".into(), bytes: 7 };
        let parts = vec![PartFiles { name: "1_1_1_0".into(), rows: 3, files: vec![file] }];
        for piece in [
            Piece::Declined("no".into()),
            Piece::Begin(parts),
            Piece::Begin(Vec::new()),
            Piece::Data(Bytes::from_static(b"x")),
            Piece::End { checksum: u32::MAX, held: true },
        ] {
            assert_eq!(piece_from_wire(piece_to_wire(piece.clone())), Ok(piece));
        }
        assert!(piece_from_wire(wire::SendPartitionResponse { piece: None }).is_err());
        let held = HeldFile { part: "p".into(), file: "f".into(), bytes: 1, checksum: 2 };
        let (database, version) = ("d".into(), "18.16.1".into());
        let wanted = WantedParts { database, partition: PartitionId(3), version, held: vec![held] };
        let node: NodeId = "n1".parse().unwrap();
        let there = wanted_to_wire(&node, wanted.clone());
        assert_eq!(wanted_from_wire(there.clone()), Ok((node, wanted)));
        assert!(wanted_from_wire(wire::SendPartitionRequest { node: "no node".into(), ..there }).is_err());
    }
}
