//! Replicas that take over rows of others on the same server: wholly, once, and only what is theirs.

use super::*;

fn range(lo: u32, hi: u32) -> PartitionRange {
    PartitionRange::new(lo, hi).expect("not empty")
}

impl Subject {
    /// Makes the replica with rows in each of the ten partitions, and tells its gate.
    async fn filled(&self) -> u64 {
        let gate = self.with_gate().await;
        for partition in 0..PARTITIONS {
            self.fill(gate, partition, 0..6 + i64::from(partition)).await;
        }
        gate
    }

    pub(super) async fn begin(&self, nonce: u64) {
        self.server.begin_seed(&self.replica(), nonce).await.expect("begun");
    }

    async fn link(&self, nonce: u64, source: &Self, lo: u32, hi: u32) -> u64 {
        let linked =
            self.server.link_partitions(&self.database, nonce, &source.database, range(lo, hi)).await;
        linked.expect("linked")
    }

    pub(super) async fn finish(&self, nonce: u64) {
        self.server.finish_seed(&self.database, nonce).await.expect("finished");
    }

    async fn has_local(&self) -> bool {
        self.server.has_local(&self.database).await.expect("told")
    }
}

/// What one has of its range, and nothing of the others.
fn only(all: &[Vec<i64>], lo: usize, hi: usize) -> Vec<Vec<i64>> {
    let within =
        |(at, rows): (usize, &Vec<i64>)| if (lo..hi).contains(&at) { rows.clone() } else { Vec::new() };
    all.iter().enumerate().map(within).collect()
}

pub(super) async fn links_give_the_sources_rows_once(source: Subject) {
    source.filled().await;
    let target = source.beside(1_001);
    assert!(!target.has_local().await, "nothing is there");
    target.begin(7).await;
    target.begin(7).await;
    assert!(!target.has_local().await, "a staging table is no replica");
    assert!(source.server.replica_databases().await.expect("told").contains(&target.database));
    assert_eq!(target.link(7, &source, 2, 6).await, 8, "four partitions of two months each");
    assert_eq!(target.link(7, &source, 2, 6).await, 0, "nothing has changed");
    for _ in 0..2 {
        target.finish(7).await;
        assert!(target.has_local().await);
    }
    let all = source.all().await;
    assert_eq!(target.all().await, only(&all, 2, 6));
    let gate = source.server.renew_gate(&target.database).await.expect("it is a replica as any other");
    target.fill(gate, 3, 100..104).await;
    target.finish(7).await;
    assert_eq!(target.held(3, 100).await, [100, 101, 102, 103]);
    assert_eq!(source.all().await, all, "the source is as it was");
    target.end().await;
    assert!(source.has_local().await && source.all().await == all, "and stays so without the other");
    source.end().await;
}

pub(super) async fn links_made_during_inserts_are_exact_after_the_gates_closed(source: Subject) {
    let gate = source.filled().await;
    let target = source.beside(1_002);
    target.begin(1).await;
    let inserting = async {
        for step in 0..20_u32 {
            let from = 100 + i64::from(step) * 10;
            source.fill(gate, step % PARTITIONS, from..from + 10).await;
        }
    };
    let linking = async {
        for _ in 0..4 {
            target.link(1, &source, 0, PARTITIONS).await;
        }
    };
    futures::join!(inserting, linking);
    source.server.close_gates(&source.database).await.expect("closed");
    let late = source.put(gate, 0, 900..901).await;
    assert!(matches!(late, Err(Error::Missing(_))), "the gate is closed: {late:?}");
    target.link(1, &source, 0, PARTITIONS).await;
    target.finish(1).await;
    assert_eq!(target.all().await, source.all().await);
    target.end().await;
    source.end().await;
}

pub(super) async fn a_replica_splits_in_two_that_go_on_by_themselves(source: Subject) {
    let gate = source.filled().await;
    let halves = [(source.beside(1_003), 0, 4), (source.beside(1_004), 4, PARTITIONS)];
    for (half, lo, hi) in &halves {
        half.begin(5).await;
        half.link(5, &source, *lo, *hi).await;
    }
    source.fill(gate, 3, 50..53).await;
    source.fill(gate, 7, 60..63).await;
    source.server.close_gates(&source.database).await.expect("closed");
    let frozen = source.all().await;
    for (half, lo, hi) in &halves {
        half.link(5, &source, *lo, *hi).await;
        half.finish(5).await;
        let own = half.server.renew_gate(&half.database).await.expect("a gate opens");
        half.fill(own, *lo, 200..210).await;
    }
    let mut expected = frozen.clone();
    expected[0].extend(200..210);
    expected[4].extend(200..210);
    assert_eq!(halves[0].0.all().await, only(&expected, 0, 4));
    assert_eq!(halves[1].0.all().await, only(&expected, 4, 10));
    assert_eq!(source.all().await, frozen, "readers of the old epoch see it unchanged");
    source.end().await;
    for (half, lo, hi) in halves {
        let (lo, hi) = (usize::try_from(lo).expect("few"), usize::try_from(hi).expect("few"));
        assert_eq!(half.all().await, only(&expected, lo, hi), "it stands without its source");
        half.end().await;
    }
}

pub(super) async fn two_replicas_become_one(left: Subject) {
    let right = left.beside(1_005);
    for (source, partition) in [(&left, 1), (&right, 8)] {
        let gate = source.with_gate().await;
        source.fill(gate, partition, 0..30).await;
        source.fill(gate, 5, 0..9).await;
        source.server.close_gates(&source.database).await.expect("closed");
    }
    let target = left.beside(1_006);
    target.begin(9).await;
    target.link(9, &left, 0, 5).await;
    target.link(9, &right, 5, PARTITIONS).await;
    target.link(9, &left, 0, 5).await;
    target.finish(9).await;
    let mut expected = vec![Vec::new(); 10];
    expected[1].extend(0..30);
    expected[8].extend(0..30);
    expected[5].extend(0..9);
    assert_eq!(target.all().await, expected);
    for each in [left, right, target] {
        each.end().await;
    }
}

pub(super) async fn of_two_that_seed_one_stands(source: Subject) {
    let gate = source.filled().await;
    let target = source.beside(1_007);
    let (server, database) = (&target.server, target.database.as_str());
    target.begin(1).await;
    target.link(1, &source, 0, 5).await;
    target.begin(2).await;
    let linked = server.link_partitions(database, 1, &source.database, range(0, 5)).await;
    assert!(matches!(linked, Err(Error::Missing(_))), "the other's staging table is gone: {linked:?}");
    let finished = server.finish_seed(database, 1).await;
    assert!(matches!(finished, Err(Error::Missing(_))), "and cannot be finished: {finished:?}");
    target.link(2, &source, 5, PARTITIONS).await;
    target.finish(2).await;
    let all = target.all().await;
    assert_eq!(all, only(&source.all().await, 5, 10));
    for nonce in [1, 2, 3] {
        let begun = server.begin_seed(&target.replica(), nonce).await;
        assert!(matches!(begun, Err(Error::Conflict(_))), "a whole replica is not seeded again: {begun:?}");
        let linked = server.link_partitions(database, nonce, &source.database, range(0, 5)).await;
        assert!(matches!(linked, Err(Error::Missing(_))), "{linked:?}");
        target.finish(nonce).await;
    }
    assert_eq!(target.all().await, all, "who comes late changes nothing");
    // Made directly while somebody seeds: what stands is not replaced.
    let direct = source.beside(1_008);
    direct.begin(4).await;
    direct.link(4, &source, 0, 5).await;
    let own = direct.with_gate().await;
    direct.fill(own, 9, 0..3).await;
    direct.finish(4).await;
    assert_eq!(direct.all().await[9], [0, 1, 2]);
    assert_eq!(direct.held(1, 0).await, [0_i64; 0]);
    source.fill(gate, 1, 500..502).await;
    for each in [source, target, direct] {
        each.end().await;
    }
}

pub(super) async fn what_is_not_there_cannot_be_seeded(source: Subject) {
    let target = source.beside(1_009);
    let (server, database) = (&source.server, target.database.as_str());
    server.close_gates(database).await.expect("nothing to close");
    let finished = server.finish_seed(database, 1).await;
    assert!(matches!(finished, Err(Error::Missing(_))), "{finished:?}");
    let linked = server.link_partitions(database, 1, &source.database, range(0, 5)).await;
    assert!(matches!(linked, Err(Error::Missing(_))), "{linked:?}");
    target.begin(1).await;
    let linked = server.link_partitions(database, 1, &source.database, range(0, 5)).await;
    assert!(matches!(linked, Err(Error::Missing(_))), "no source, so not an empty one: {linked:?}");
    source.begin(1).await;
    let linked = server.link_partitions(database, 1, &source.database, range(0, 5)).await;
    assert!(matches!(linked, Err(Error::Missing(_))), "a source half made: {linked:?}");
    let other = ReplicaTables { database: "default".into(), ..target.replica() };
    assert!(server.begin_seed(&other, 1).await.is_err(), "no replica database");
    assert!(server.running_queries().await.expect("told").is_empty(), "ours are not users'");
    target.finish(1).await;
    assert_eq!(target.all().await, vec![Vec::<i64>::new(); 10], "an empty one may be what was wanted");
    target.end().await;
    source.end().await;
}
