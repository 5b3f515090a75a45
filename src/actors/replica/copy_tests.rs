//! Where a copy comes from (H8): the chosen source first, then the leader, then the others; five at most.

use super::position::Position;
use super::seed::{Seed, Source, plan};
use super::work::Job;
use super::writer_tests::{DATABASE, P, stage, texts};
use crate::actors::mirror::View;
use crate::adapters::clickhouse::{RemoteReplica, ReplicaTables, SimServers};
use crate::adapters::kafka::{Committed, NewTopic, Outgoing};
use crate::model::names;
use crate::model::node::Secret;
use crate::model::range::PartitionRange;
use crate::model::table::{Replica, ReplicaState};
use crate::model::view::{ClusterView, Live, Versioned};
use crate::model::{Epoch, Node, NodeId, Shard, ShardId};
use std::collections::BTreeSet;

fn id(number: usize) -> NodeId {
    format!("n{number}").parse().unwrap()
}

/// The order in which n1's new copy, to be taken from n4, asks n2 to n6, of which n3 leads and n5 is down.
#[tokio::test(start_paused = true)]
async fn the_chosen_source_is_asked_first_then_the_leader_then_the_others_that_live() {
    let Job { table, mut shard, .. } = stage().await.job;
    shard.replicas = (2..=6).map(|n| Replica::creating(id(n))).collect();
    shard.replicas.iter_mut().for_each(|replica| replica.state = ReplicaState::Ready);
    shard.replicas.push(Replica { copy_from: Some(id(4)), ..Replica::creating(id(1)) });
    shard.leader = Some(id(3));
    let mut view = ClusterView { complete: true, ..ClusterView::default() };
    for number in 1..=6 {
        view.nodes.insert(id(number), Versioned { record: Node::plain(&id(number)), revision: 1 });
        if number != 5 {
            view.live.insert(id(number), Live { incarnation: 1, daemon_url: String::new() });
        }
    }
    view.tables.insert(table.id, Versioned { record: (*table).clone(), revision: 1 }.into());
    let Seed::Copy(sources) = plan(&view, table.id, &shard, &id(1), &BTreeSet::new()) else {
        panic!("a copy")
    };
    let asked: Vec<_> = sources.iter().map(|source| source.node.clone()).collect();
    assert_eq!(asked, [4, 3, 2, 6].map(id));
    // One that was whole before and has gone is no new one: it is filled from the others too.
    let mut lost = shard.clone();
    lost.replicas[5] = Replica { state: ReplicaState::Behind, ..Replica::creating(id(1)) };
    let again = plan(&view, table.id, &lost, &id(1), &BTreeSet::new());
    assert!(matches!(&again, Seed::Copy(sources) if sources.len() == 4), "{again:?}");
    view.live.clear();
    let none = plan(&view, table.id, &shard, &id(1), &BTreeSet::new());
    assert!(matches!(none, Seed::Nowhere(_)), "{none:?}");
    // Found by reading: those that have it are down for a moment, and its topics may not go back as far as they do.
    let none = plan(&view, table.id, &lost, &id(1), &BTreeSet::new());
    assert!(matches!(none, Seed::Nowhere(_)), "{none:?}");
    // Nobody else has it now: its topics are what there is, whatever it was made out of.
    lost.replicas.retain(|replica| replica.node == id(1));
    lost.parents = vec![ShardId(9)];
    assert_eq!(plan(&view, table.id, &lost, &id(1), &BTreeSet::new()), Seed::Fresh);
    lost.parents.clear();
    lost.replicas[0].state = ReplicaState::Creating;
    assert_eq!(plan(&view, table.id, &lost, &id(1), &BTreeSet::new()), Seed::Fresh, "a new table's");
}

#[tokio::test(start_paused = true)]
async fn of_two_shards_that_merge_each_gives_its_own_partitions() {
    let Job { table, shard, .. } = stage().await.job;
    let range = |lo, hi| PartitionRange::new(lo, hi).unwrap();
    let mut view = ClusterView { complete: true, ..ClusterView::default() };
    view.tables.insert(table.id, Versioned { record: (*table).clone(), revision: 1 }.into());
    for (number, range) in [(5, range(0, 2)), (6, range(2, 4))] {
        let record = Shard::new(table.id, ShardId(number), range, [id(1)]);
        let parents = view.shards.entry(table.id).or_default();
        parents.insert(ShardId(number), Versioned { record, revision: 1 }.into());
    }
    let parents = vec![ShardId(5), ShardId(6)];
    let child = Shard { parents, range: range(0, 4), ..shard };
    let databases = [5, 6].map(|number| names::replica_database(&table.name, table.id, ShardId(number)));
    let whole = BTreeSet::from(databases.clone());
    let [left, right] = databases;
    let link = Seed::Link(vec![(left, range(0, 2)), (right.clone(), range(2, 4))]);
    assert_eq!(plan(&view, table.id, &child, &id(1), &whole), link);
    let half = plan(&view, table.id, &child, &id(1), &BTreeSet::from([right]));
    assert!(matches!(half, Seed::Nowhere(_)), "{half:?}");
}

/// The replica of the stage, as a copy on that node.
fn source(number: usize, shard: Shard) -> Source {
    Source {
        node: id(number),
        shard,
        replica: RemoteReplica {
            host: id(number).to_string(),
            port: 9_000,
            user: String::new(),
            password: Secret::default(),
            secure: false,
            database: DATABASE.into(),
        },
        daemon_url: String::new(),
    }
}

/// Copies from n2 to n7, of which only n`number` is there; what came of it, and the rows that came.
async fn copied_from_the_only_one(number: usize) -> (Result<(), String>, u64) {
    let (here, there) = (stage().await, stage().await);
    there.insert(&texts(10, |_| false)).await;
    let network = SimServers::new();
    here.server.join(&network, "n1", 9_000);
    there.server.join(&network, &id(number).to_string(), 9_000);
    let database = "d__t__cvh00000000_s1".to_owned();
    let sources: Vec<Source> = (2..=7).map(|number| source(number, here.job.shard.clone())).collect();
    let job = Job { database: database.clone(), ..here.job.clone() };
    let tables = ReplicaTables { database: database.clone(), schema: job.table.schema.clone() };
    let ended = job.copy(&tables, &sources).await;
    (ended, here.server.contents(&database, P).len() as u64)
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_on_with_the_next_source_and_gives_up_after_the_fifth() {
    for number in [2, 6] {
        let (ended, rows) = copied_from_the_only_one(number).await;
        assert_eq!((ended, rows), (Ok(()), 10), "the source is n{number}");
    }
    let (ended, rows) = copied_from_the_only_one(7).await;
    let why = ended.unwrap_err();
    assert!(why.contains("cannot be copied from n6"), "{why}");
    assert_eq!(rows, 0, "the sixth is for a later try");
}

/// A node that had the shard before recorded how far that copy had come: the new one has fewer rows, and none is lost.
#[tokio::test(start_paused = true)]
async fn what_was_recorded_of_an_earlier_copy_on_the_node_says_nothing_of_the_new_one() {
    let (here, there) = (stage().await, stage().await);
    there.insert(&texts(10, |_| false)).await;
    let network = SimServers::new();
    here.server.join(&network, "n1", 9_000);
    there.server.join(&network, "n2", 9_000);
    let mut job = here.job.clone();
    job.database = "d__t__cvh00000000_s1".to_owned();
    let own = job.ports.node.clone();
    let topic = names::topic_partition(&job.table.source, P);
    let kafka = &job.ports.kafka;
    let made = NewTopic { name: topic.topic.clone(), partitions: 1, replication: 1, settings: vec![] };
    kafka.create_topics(&[made]).await.unwrap();
    let message = Outgoing { target: topic.clone(), payload: Some("{}".into()), headers: vec![] };
    kafka.produce(vec![message; 20]).await.unwrap();
    let before =
        Position { last_row_offset: Some(19), ..Position::start(job.table.id, job.shard.id, Epoch(0)) };
    let recorded = Committed { next: 20, metadata: before.encode() };
    kafka.commit(&job.ports.group, &[(topic.clone(), recorded)]).await.unwrap();
    job.shard.replicas = vec![Replica { since: Epoch(7), ..Replica::creating(own) }];
    let of_source = job.shard.clone();
    let source = source(2, of_source);
    let tables = ReplicaTables { database: job.database.clone(), schema: job.table.schema.clone() };
    job.copy(&tables, &[source]).await.unwrap();
    let start = job.clone().recover(P, topic.clone(), None).await.unwrap();
    assert_eq!((start.lost_from, start.last_row_offset, start.end), (None, Some(9), 20));
    let after = job.ports.kafka.committed(&job.ports.group, std::slice::from_ref(&topic)).await.unwrap();
    let after = after[0].as_ref().map(|committed| Position::decode(&committed.metadata));
    assert_eq!(after, Some(None), "a child would take what its parent's earlier copy recorded for its own");
}

/// Found by reading: what the node had not cleared away of an earlier copy was taken for the whole new one.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_earlier_copy_goes_before_the_new_one_is_made_and_a_copy_just_made_stays() {
    for (recorded_by, stays) in [(0, false), (7, true)] {
        let here = stage().await;
        here.insert(&texts(10, |_| false)).await;
        let mut job = here.job.clone();
        let topic = names::topic_partition(&job.table.source, P);
        let kafka = &job.ports.kafka;
        let made = NewTopic { name: topic.topic.clone(), partitions: 1, replication: 1, settings: vec![] };
        kafka.create_topics(&[made]).await.unwrap();
        let position = Position::start(job.table.id, job.shard.id, Epoch(recorded_by));
        let recorded = Committed { next: 10, metadata: position.encode() };
        kafka.commit(&job.ports.group, &[(topic, recorded)]).await.unwrap();
        let source = Replica { state: ReplicaState::Ready, ..Replica::creating(id(2)) };
        let target =
            Replica { since: Epoch(7), copy_from: Some(id(2)), ..Replica::creating(job.ports.node.clone()) };
        job.shard.replicas = vec![source, target];
        let mut view = ClusterView { complete: true, ..ClusterView::default() };
        for number in [1, 2] {
            view.nodes.insert(id(number), Versioned { record: Node::plain(&id(number)), revision: 1 });
            view.live.insert(id(number), Live { incarnation: 1, daemon_url: String::new() });
        }
        view.tables.insert(job.table.id, Versioned { record: (*job.table).clone(), revision: 1 }.into());
        let record = Versioned { record: job.shard.clone(), revision: 1 }.into();
        view.shards.entry(job.table.id).or_default().insert(job.shard.id, record);
        // Nobody to copy from: then what is here is the best that there is.
        let alone = ClusterView { live: Default::default(), ..view.clone() };
        job.view = View::of(alone);
        assert_eq!(job.clear_left_over(true).await, Ok(true));
        // It is whole for its leader: nothing of it is thrown away on any word of Kafka's.
        let mut whole = view.clone();
        let of = whole.shards.get_mut(&job.table.id).unwrap();
        of.get_mut(&job.shard.id).unwrap().record.replicas[1].state = ReplicaState::Ready;
        job.view = View::of(whole);
        assert_eq!(job.clear_left_over(true).await, Ok(true));
        job.view = View::of(view);
        assert_eq!(job.clear_left_over(true).await, Ok(stays), "recorded by life {recorded_by}");
        let rows = here.server.contents(DATABASE, P).len();
        assert_eq!(rows, if stays { 10 } else { 0 });
    }
}
