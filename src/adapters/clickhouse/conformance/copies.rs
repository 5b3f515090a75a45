//! Partitions copied from another server.

use super::*;

const LIMITS: CopyLimits = CopyLimits { deadline_ms: 60_000, bytes_per_s: 0 };

impl Subject {
    async fn copy(&self, nonce: u64, source: &RemoteReplica, partition: u32) -> Result<u64, Error> {
        let partition = PartitionId(partition);
        self.server.copy_partition(&self.database, nonce, source, partition, LIMITS).await
    }
}

pub(super) async fn a_copy_gives_one_partition_as_it_is_elsewhere(subject: Subject) {
    let source = subject.elsewhere(2_001);
    let gate = source.with_gate().await;
    source.fill(gate, 3, 0..40).await;
    source.fill(gate, 4, 0..20).await;
    let remote = source.remote();
    subject.begin(11).await;
    for _ in 0..2 {
        assert_eq!(subject.copy(11, &remote, 3).await.expect("copied"), 40);
    }
    source.fill(gate, 3, 40..50).await;
    let both = futures::join!(subject.copy(11, &remote, 3), subject.copy(11, &remote, 4));
    assert_eq!((both.0.expect("copied"), both.1.expect("copied")), (50, 20), "several at once");
    assert_eq!(subject.copy(11, &remote, 7).await.expect("copied"), 0, "nothing is there to copy");
    source.fill(gate, 3, 50..60).await;
    assert!(!subject.server.has_local(&subject.database).await.expect("told"));
    subject.finish(11).await;
    let mut expected = vec![Vec::new(); 10];
    expected[3].extend(0..50);
    expected[4].extend(0..20);
    assert_eq!(subject.all().await, expected, "the copy is of that moment");
    let late = subject.copy(11, &remote, 3).await;
    assert!(matches!(late, Err(Error::Missing(_))), "a replica that stands is not copied into: {late:?}");
    assert_eq!(subject.all().await, expected);
    assert_eq!(source.held(3, 0).await.len(), 60);
    source.end().await;
    subject.end().await;
}

pub(super) async fn digests_tell_equal_ranges_from_others(subject: Subject) {
    let source = subject.elsewhere(2_004);
    for each in [&subject, &source] {
        let gate = each.with_gate().await;
        each.fill(gate, 3, 0..20).await;
        each.fill(gate, 4, 0..3).await;
    }
    let digest = async |of: &Subject, from: i64, below: i64| {
        of.server.digest(&of.database, PartitionId(3), from, below).await.expect("told")
    };
    let whole = digest(&subject, 0, 1_000).await;
    let told = (whole.rows, whole.distinct, whole.messages, whole.min_offset, whole.max_offset);
    assert_eq!(told, (20, 20, 20, Some(0), Some(19)));
    assert_eq!(whole, digest(&source, -5, 20).await, "the same on another server");
    let halves = digest(&subject, 0, 7).await.with(digest(&subject, 7, 20).await);
    assert_eq!(whole, halves);
    assert_ne!(digest(&subject, 0, 1).await.hash, digest(&subject, 1, 2).await.hash);
    assert_eq!(digest(&subject, 500, 600).await, Default::default());
    let missing = subject.server.digest(&subject.beside(2_005).database, PartitionId(3), 0, 1).await;
    assert!(matches!(missing, Err(Error::Missing(_))), "{missing:?}");
    source.end().await;
    subject.end().await;
}

pub(super) async fn a_copy_that_fails_leaves_the_rest_alone(subject: Subject) {
    let source = subject.elsewhere(2_002);
    let gate = source.with_gate().await;
    source.fill(gate, 3, 0..10).await;
    source.fill(gate, 4, 0..10).await;
    let remote = source.remote();
    let none = subject.copy(1, &remote, 3).await;
    assert!(matches!(none, Err(Error::Missing(_))), "no staging table: {none:?}");
    subject.begin(1).await;
    subject.copy(1, &remote, 3).await.expect("copied");
    let gone = subject.elsewhere(2_003).remote();
    let deaf = RemoteReplica { port: 2, ..remote.clone() };
    for broken in [gone, deaf] {
        let failed = subject.copy(1, &broken, 4).await;
        assert!(matches!(failed, Err(Error::Overloaded { .. })), "{broken:?}: {failed:?}");
    }
    let pattern = RemoteReplica { host: "h{1..3}".into(), ..remote.clone() };
    let failed = subject.copy(1, &pattern, 4).await;
    assert!(failed.is_err(), "a host is no pattern: {failed:?}");
    subject.copy(1, &remote, 4).await.expect("the next one goes well");
    subject.finish(1).await;
    assert_eq!(subject.held(3, 0).await.len() + subject.held(4, 0).await.len(), 20);
    let sizes = subject.server.sizes().await.expect("told")[&subject.database];
    assert_eq!(sizes.rows, 20, "nothing came twice");
    source.end().await;
    subject.end().await;
}
