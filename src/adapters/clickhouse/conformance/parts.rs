//! Partitions copied as the files of parts.

use super::*;
use crate::adapters::clickhouse::Pieces;
use crate::model::parts::{HeldFile, Piece, WantedParts};
use futures::{StreamExt, stream};

const FROM: &str = "n7/of the check";

impl Subject {
    async fn held_parts(&self, nonce: u64, partition: u32) -> Result<Vec<HeldFile>, Error> {
        self.server.files_held(&self.database, nonce, FROM, PartitionId(partition)).await
    }

    /// What `source` sends to a server of that version.
    async fn sent(
        &self,
        source: &Subject,
        partition: u32,
        held: Vec<HeldFile>,
        version: &str,
    ) -> Result<Pieces, Error> {
        let (database, version) = (source.database.clone(), version.to_owned());
        let wanted = WantedParts { database, partition: PartitionId(partition), version, held };
        source.server.send_partition(wanted).await
    }

    async fn take(
        &self,
        nonce: u64,
        partition: u32,
        held: Vec<HeldFile>,
        pieces: Pieces,
    ) -> Result<u64, Error> {
        let partition = PartitionId(partition);
        self.server.take_partition(&self.database, nonce, FROM, partition, held, pieces).await
    }

    /// The whole way.
    async fn by_parts(&self, nonce: u64, source: &Subject, partition: u32) -> Result<u64, Error> {
        let held = self.held_parts(nonce, partition).await?;
        let version = self.server.server_info().await?.version;
        let pieces = self.sent(source, partition, held.clone(), &version).await?;
        self.take(nonce, partition, held, pieces).await
    }

    async fn version(&self) -> String {
        self.server.server_info().await.expect("told").version
    }
}

async fn all_of(pieces: Pieces) -> Vec<Piece> {
    pieces.map(|piece| piece.expect("sent")).collect().await
}

fn sending(pieces: Vec<Piece>) -> Pieces {
    stream::iter(pieces.into_iter().map(Ok)).boxed()
}

fn data_bytes(pieces: &[Piece]) -> usize {
    let bytes = |piece: &Piece| if let Piece::Data(content) = piece { content.len() } else { 0 };
    pieces.iter().map(bytes).sum()
}

pub(super) async fn parts_give_one_partition_as_it_is_elsewhere(subject: Subject) {
    let source = subject.elsewhere(3_001);
    let gate = source.with_gate().await;
    for from in 0..4 {
        source.fill(gate, 3, from * 10..(from + 1) * 10).await;
    }
    source.fill(gate, 4, 0..20).await;
    let sizes = subject.server.remote_sizes(&source.remote()).await.expect("told");
    let rows: Vec<_> =
        sizes.iter().map(|(partition, sizes)| (partition.0, sizes.rows, sizes.bytes > 0)).collect();
    assert_eq!(rows, [(3, 40, true), (4, 20, true)]);
    subject.begin(11).await;
    for _ in 0..2 {
        assert_eq!(subject.by_parts(11, &source, 3).await.expect("copied"), 40);
    }
    source.fill(gate, 3, 40..50).await;
    let both = futures::join!(subject.by_parts(11, &source, 3), subject.by_parts(11, &source, 4));
    assert_eq!((both.0.expect("copied"), both.1.expect("copied")), (50, 20), "several at once");
    assert_eq!(subject.by_parts(11, &source, 7).await.expect("copied"), 0, "nothing is there to copy");
    source.fill(gate, 3, 50..60).await;
    subject.finish(11).await;
    let mut expected = vec![Vec::new(); 10];
    expected[3].extend(0..50);
    expected[4].extend(0..20);
    assert_eq!(subject.all().await, expected, "the copy is of that moment");
    let late = subject.by_parts(11, &source, 3).await;
    assert!(matches!(late, Err(Error::Missing(_))), "a replica that stands is not copied into: {late:?}");
    let none = subject.sent(&subject.beside(3_002), 3, Vec::new(), &subject.version().await).await;
    assert!(matches!(none.err(), Some(Error::Missing(_))), "no such replica");
    assert_eq!(subject.all().await, expected);
    source.end().await;
    subject.end().await;
}

pub(super) async fn parts_that_break_off_are_not_sent_again(subject: Subject) {
    let source = subject.elsewhere(3_003);
    let gate = source.with_gate().await;
    source.fill(gate, 3, 0..40).await;
    let version = subject.version().await;
    subject.begin(1).await;
    assert_eq!(subject.held_parts(1, 3).await.expect("told"), []);
    let all = all_of(subject.sent(&source, 3, Vec::new(), &version).await.expect("sent")).await;
    assert!(data_bytes(&all) > 0, "{all:?}");
    let at = all.iter().position(|piece| matches!(piece, Piece::End { .. })).expect("a file ends") + 1;
    let broken = subject.take(1, 3, Vec::new(), sending(all[..at].to_vec())).await;
    assert!(matches!(broken, Err(Error::Overloaded { .. })), "{broken:?}");
    assert!(!subject.server.has_local(&subject.database).await.expect("told"));
    // Also after the daemon was started anew: another nonce.
    subject.begin(2).await;
    let held = subject.held_parts(2, 3).await.expect("told");
    assert_eq!(held.len(), 1, "the file that came whole: {held:?}");
    subject.server.sweep_parts().await.expect("swept");
    assert_eq!(subject.held_parts(2, 3).await.expect("told"), held, "what is still wanted is not swept away");
    let rest = all_of(subject.sent(&source, 3, held.clone(), &version).await.expect("sent")).await;
    assert_eq!(data_bytes(&rest) as u64, data_bytes(&all) as u64 - held[0].bytes);
    assert_eq!(subject.take(2, 3, held, sending(rest)).await.expect("taken"), 40);
    // What the other side has in another form is sent again.
    let damaged = |held: HeldFile| HeldFile { checksum: !held.checksum, ..held };
    let held: Vec<_> = subject.held_parts(2, 3).await.expect("told").into_iter().map(damaged).collect();
    let again = all_of(subject.sent(&source, 3, held, &version).await.expect("sent")).await;
    assert_eq!(data_bytes(&again), data_bytes(&all));
    subject.finish(2).await;
    assert_eq!(subject.held(3, 0).await, (0..40).collect::<Vec<_>>());
    source.end().await;
    subject.end().await;
}

pub(super) async fn parts_that_are_not_as_told_change_nothing(subject: Subject) {
    let source = subject.elsewhere(3_004);
    let gate = source.with_gate().await;
    source.fill(gate, 3, 0..10).await;
    source.fill(gate, 4, 0..10).await;
    let version = subject.version().await;
    subject.begin(1).await;
    subject.by_parts(1, &source, 4).await.expect("copied");
    let all = all_of(subject.sent(&source, 3, Vec::new(), &version).await.expect("sent")).await;
    let end = all.iter().position(|piece| matches!(piece, Piece::End { .. })).expect("a file ends");
    let with = |at: usize, piece: Piece| {
        let mut all = all.clone();
        all[at] = piece;
        all
    };
    let Piece::Begin(parts) = all[0].clone() else { panic!("{:?}", all[0]) };
    let mut escaping = parts.clone();
    escaping[0].name = "../../../cvh_escaped".into();
    let mut more = parts.clone();
    more[0].rows += 1;
    for (what, pieces) in [
        ("nothing", Vec::new()),
        ("refused", vec![Piece::Declined("for the check".into())]),
        ("damaged", with(end, Piece::End { checksum: 1, held: false })),
        ("believed to be held", with(end, Piece::End { checksum: 1, held: true })),
        ("not begun", all[1..].to_vec()),
        ("not whole", all[..all.len() - 1].to_vec()),
        ("a name that is a path", with(0, Piece::Begin(escaping))),
        ("other rows", with(0, Piece::Begin(more))),
    ] {
        let taken = subject.take(1, 3, Vec::new(), sending(pieces)).await;
        let declined = matches!(taken, Err(Error::NotByParts(_)));
        assert!(matches!(taken, Err(Error::Overloaded { .. })) || declined, "{what}: {taken:?}");
        assert_eq!(declined, what == "refused", "{what}: {taken:?}");
    }
    // Parts of another partition than was asked for.
    let other = subject.sent(&source, 4, Vec::new(), &version).await.expect("sent");
    let taken = subject.take(1, 3, Vec::new(), other).await;
    assert!(matches!(taken, Err(Error::Overloaded { .. })), "{taken:?}");
    subject.finish(1).await;
    let mut expected = vec![Vec::new(); 10];
    expected[4].extend(0..10);
    assert_eq!(subject.all().await, expected);
    source.end().await;
    subject.end().await;
}

pub(super) async fn a_newer_server_sends_no_parts(subject: Subject) {
    let source = subject.elsewhere(3_005);
    source.with_gate().await;
    let sent = subject.sent(&source, 3, Vec::new(), "1.1.54378").await;
    assert!(matches!(sent.as_ref().err(), Some(Error::NotByParts(_))), "{:?}", sent.err());
    assert!(subject.sent(&source, 3, Vec::new(), "99.1").await.is_ok(), "an older one does");
    source.end().await;
    subject.end().await;
}

pub(super) async fn a_staging_table_tells_its_room_and_disks_are_synced_where_they_are_found(
    subject: Subject,
) {
    let none = subject.server.room(&subject.database, 1).await;
    assert!(matches!(none, Err(Error::Missing(_))), "no staging table: {none:?}");
    subject.begin(1).await;
    subject.server.room(&subject.database, 1).await.expect("told, or not known");
    let synced = subject.server.sync_disks().await;
    assert!(matches!(synced, Ok(()) | Err(Error::NotByParts(_))), "{synced:?}");
    subject.finish(1).await;
    subject.end().await;
}
