//! Where a copy comes from (H8): the chosen source first, then the leader, then the others; five at most.

use super::position::Position;
use super::seed::{Seed, Source, plan};
use super::work::Job;
use super::writer_tests::{DATABASE, P, Stage, stage, texts};
use crate::adapters::clickhouse::{ClickHouse, Error, RemoteReplica, ReplicaTables, SimServers};
use crate::adapters::kafka::{Committed, NewTopic, Outgoing};
use crate::adapters::machine::Boot;
use crate::model::hold::{Brake, Hold, Scope};
use crate::model::names;
use crate::model::node::Secret;
use crate::model::range::PartitionRange;
use crate::model::table::{Replica, ReplicaState, ShardState};
use crate::model::view::{ClusterView, Live, Versioned};
use crate::model::{Epoch, Node, NodeId, Shard, ShardId};
use std::collections::BTreeSet;
use std::time::Duration;

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

/// The partition's topic with twenty messages in it.
async fn twenty_messages(job: &Job) -> names::TopicPartition {
    let (kafka, topic) = (&job.ports.kafka, names::topic_partition(&job.table.source, P));
    let made = NewTopic { name: topic.topic.clone(), partitions: 1, replication: 1, settings: vec![] };
    kafka.create_topics(&[made]).await.unwrap();
    let message = Outgoing { target: topic.clone(), payload: Some("{}".into()), headers: vec![] };
    kafka.produce(vec![message; 20]).await.unwrap();
    topic
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
    let kafka = &job.ports.kafka;
    let topic = twenty_messages(&job).await;
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

/// Two nodes of one network, the second with ten rows, and the copy that the first is to make of one partition.
struct Pair {
    here: Stage,
    _there: Stage,
    job: Job,
    tables: ReplicaTables,
    sources: Vec<Source>,
}

async fn pair() -> Pair {
    let (here, there) = (stage().await, stage().await);
    there.insert(&texts(10, |_| false)).await;
    let network = SimServers::new();
    here.server.join(&network, "n1", 9_000);
    there.server.join(&network, "n2", 9_000);
    let mut job = Job { database: "d__t__cvh00000000_s1".to_owned(), ..here.job.clone() };
    job.shard.range = PartitionRange::new(P.0, P.0 + 1).unwrap();
    let tables = ReplicaTables { database: job.database.clone(), schema: job.table.schema.clone() };
    let sources = vec![source(2, job.shard.clone())];
    Pair { here, _there: there, job, tables, sources }
}

impl Pair {
    async fn copy(&self) -> Result<(), String> {
        self.job.copy(&self.tables, &self.sources).await
    }

    /// Whether the copy is a replica, and the rows of it.
    async fn made(&self) -> (bool, usize) {
        let server = &self.here.server;
        let made = server.has_local(&self.job.database).await;
        (made.unwrap(), server.contents(&self.job.database, P).len())
    }

    /// The store says this of the shard and its table.
    fn view(&self, state: ShardState, brake: Option<Brake>) {
        let mut view = ClusterView { complete: true, ..ClusterView::default() };
        let record = Shard { state, ..self.job.shard.clone() };
        let table = self.job.table.id;
        let shard = Versioned { record, revision: 1 }.into();
        view.shards.entry(table).or_default().insert(self.job.shard.id, shard);
        let hold = |brake| Hold { brake, reason: "delete".into(), since_unix_ms: 1, until_unix_ms: 1_000 };
        let holds = brake.map(|brake| (Scope::Table(table), Versioned { record: hold(brake), revision: 2 }));
        view.holds.extend(holds);
        self.job.view.set(view);
    }
}

/// What is deleted by hand under a freeze would come back with a copy that was taken before.
#[tokio::test(start_paused = true)]
async fn a_freeze_ends_a_copy_under_way_and_lets_none_begin() {
    let pair = pair().await;
    let frozen = Err("frozen: delete".to_owned());
    pair.here.server.set_copy_ms(600_000);
    pair.view(ShardState::Serving, Some(Brake::Pause));
    let clock = pair.job.ports.clock.clone();
    let began_ms = clock.now_ms();
    let freeze = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        pair.view(ShardState::Serving, Some(Brake::Freeze));
    };
    let (ended, ()) = futures::join!(pair.copy(), freeze);
    assert_eq!(ended, frozen);
    assert!(clock.now_ms() - began_ms <= 62_000, "within two seconds: {}", clock.now_ms() - began_ms);
    assert_eq!(pair.made().await, (false, 0));
    // By this node's clock it is long over: whoever leads says when.
    assert_eq!(pair.copy().await, frozen, "none begins");
    assert!(clock.now_ms() - began_ms <= 62_000);
    pair.here.server.set_copy_ms(0);
    pair.view(ShardState::Serving, None);
    assert_eq!((pair.copy().await, pair.made().await), (Ok(()), (true, 10)));
}

#[tokio::test(start_paused = true)]
async fn the_halves_of_a_split_that_has_begun_are_made_under_a_freeze() {
    let pair = pair().await;
    pair.view(ShardState::Preparing, Some(Brake::Freeze));
    assert_eq!((pair.copy().await, pair.made().await), (Ok(()), (true, 10)));
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_on_the_disk_before_it_counts_as_whole() {
    let pair = pair().await;
    let broken = Error::Overloaded { code: 0, message: "input/output error".into() };
    pair.here.server.set_sync(Err(broken));
    let why = pair.copy().await.unwrap_err();
    assert!(why.contains("input/output error"), "{why}");
    assert_eq!(pair.made().await, (false, 0));
    // Where the daemon does not see the disks it is left to the server.
    pair.here.server.set_sync(Err(Error::NotByParts("no disk here".into())));
    assert_eq!((pair.copy().await, pair.made().await), (Ok(()), (true, 10)));
    assert_eq!(pair.here.server.syncs(), 3, "and once more with its last name");
}

/// Each try may take hours, and retention passes on: the position is the one from before the try that went well.
#[tokio::test(start_paused = true)]
async fn a_position_is_as_young_as_the_try_that_went_well() {
    let pair = pair().await;
    let (job, kafka) = (&pair.job, &pair.job.ports.kafka);
    let topic = twenty_messages(job).await;
    let group = names::consumer_group(&job.ports.cluster, &id(2));
    let start = Position::start(job.table.id, job.shard.id, job.shard.life_on(&id(2)));
    let at = |next: i64| {
        let position = Position { last_row_offset: Some(next - 1), ..start.clone() };
        [(topic.clone(), Committed { next, metadata: position.encode() })]
    };
    kafka.commit(&group, &at(3)).await.unwrap();
    // There is no daemon to ask for parts: a select follows after three seconds.
    let later = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        kafka.commit(&group, &at(7)).await.unwrap();
    };
    let (ended, ()) = futures::join!(pair.copy(), later);
    assert_eq!(ended, Ok(()));
    let recorded = kafka.committed(&job.ports.group, std::slice::from_ref(&topic)).await.unwrap();
    assert_eq!(recorded[0].as_ref().map(|committed| committed.next), Some(7));
}

/// The source lost power and may have holes from what was safe on: so may its copy, on another machine.
#[tokio::test(start_paused = true)]
async fn a_copy_is_looked_through_from_what_was_safe_where_it_comes_from() {
    let here = stage().await;
    let mut job = here.job.clone();
    job.ports.boot = Some(Boot(2));
    let kafka = &job.ports.kafka;
    let topic = twenty_messages(&job).await;
    here.insert(&texts(20, |_| false)).await;
    let source = source(2, job.shard.clone());
    let group = names::consumer_group(&job.ports.cluster, &source.node);
    let looked_at_from = async |boot| {
        let theirs = Position::start(job.table.id, job.shard.id, source.shard.life_on(&source.node));
        let theirs = Position { last_row_offset: Some(19), safe: Some(12), boot, ..theirs };
        let recorded = Committed { next: 20, metadata: theirs.encode() };
        kafka.commit(&group, &[(topic.clone(), recorded)]).await.unwrap();
        let ours = job.position_of(&source, &topic).await.unwrap().unwrap();
        let taken = Position::decode(&ours.metadata).unwrap();
        assert_eq!((ours.next, taken.safe, taken.boot), (20, Some(12), boot));
        kafka.commit(&job.ports.group, &[(topic.clone(), ours)]).await.unwrap();
        job.clone().recover(P, topic.clone(), None).await.unwrap().from
    };
    assert_eq!(looked_at_from(Some(Boot(1))).await, 12);
    assert_eq!(looked_at_from(Some(Boot(2))).await, 20, "both are on one machine");
    assert_eq!(looked_at_from(None).await, 20, "of an older daemon, or a machine that does not tell");
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
        job.view.set(alone);
        assert_eq!(job.clear_left_over(true).await, Ok(true));
        // It is whole for its leader: nothing of it is thrown away on any word of Kafka's.
        let mut whole = view.clone();
        let of = whole.shards.get_mut(&job.table.id).unwrap();
        of.get_mut(&job.shard.id).unwrap().record.replicas[1].state = ReplicaState::Ready;
        job.view.set(whole);
        assert_eq!(job.clear_left_over(true).await, Ok(true));
        job.view.set(view);
        assert_eq!(job.clear_left_over(true).await, Ok(stays), "recorded by life {recorded_by}");
        let rows = here.server.contents(DATABASE, P).len();
        assert_eq!(rows, if stays { 10 } else { 0 });
    }
}
