//! The Kafka adapter on real brokers: its contract, dying brokers, users.

use crate::support::certificates;
use crate::support::kafka::{TestKafka, noise, outgoing, topic};
use converthouse::adapters::compute::process::free_port;
use converthouse::adapters::kafka::conformance::{self, Subject, Truncate};
use converthouse::adapters::kafka::{Committed, Error, Fetched, Kafka, KafkaClient, Lane, Options};
use converthouse::model::names::TopicPartition;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

async fn delete_records(bootstrap: String, source: TopicPartition, before: i64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&source.topic, source.partition, Offset::Offset(before)).unwrap();
    admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker_keeps_the_contract() {
    let kafka = TestKafka::start(1, &[]).await;
    let bootstrap = kafka.brokers.bootstrap();
    let truncate: Truncate =
        Arc::new(move |source, before| Box::pin(delete_records(bootstrap.clone(), source, before)));
    let subject = Subject::new(Arc::new(kafka.client()), "real").deletes().truncates(truncate);
    conformance::run_all(&subject).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_loses_nothing_and_the_lane_goes_on() {
    let mut kafka = TestKafka::start(3, &[]).await;
    let client = kafka.client();
    let sources = topic(&client, "three", 3, 3).await;
    let lane = client.lane("killed").unwrap();
    sources.iter().for_each(|source| lane.assign(source, 0));
    let done = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(send_until(client.clone(), sources.clone(), Arc::clone(&done)));
    let mut seen = Seen::default();
    for victim in 0..2 {
        seen.read_more(&*lane, 3_000).await;
        kafka.brokers.kill(victim).unwrap();
        seen.read_more(&*lane, 3_000).await;
        kafka.brokers.restart(victim).await.unwrap();
    }
    seen.read_more(&*lane, 3_000).await;
    done.store(true, Ordering::Release);
    let acknowledged = sending.await.unwrap();
    let start = Instant::now();
    while !acknowledged.is_subset(&seen.texts) {
        assert!(
            start.elapsed() < PATIENCE,
            "{} acknowledged are missing",
            acknowledged.difference(&seen.texts).count()
        );
        seen.read_more(&*lane, 1).await;
    }
    assert!(acknowledged.len() >= 9_000, "{}", acknowledged.len());
    let group = "after-the-kill";
    let position = Committed { next: 7, metadata: "kept".into() };
    client.commit(group, &[(sources[0].clone(), position.clone())]).await.unwrap();
    assert_eq!(client.committed(group, &sources[..1]).await, Ok(vec![Some(position)]));
}

/// librdkafka keeps a "no such topic" among what it knows of other topics, behind whose age of 15 minutes it does not
/// expire: a broker that had just started and did not know its topics yet made them missing for that long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_missing_when_it_was_asked_for_is_found_once_it_is_there() {
    let kafka = TestKafka::start(1, &[]).await;
    let (asking, creating) = (kafka.client(), kafka.client());
    let known = topic(&creating, "known", 1, 1).await.remove(0);
    asking.watermarks(&known).await.unwrap();
    let late = TopicPartition { topic: "late".into(), partition: 0 };
    assert_eq!(asking.watermarks(&late).await, Err(Error::TopicMissing("late".into())));
    assert_eq!(topic(&creating, "late", 1, 1).await, std::slice::from_ref(&late));
    let there = asking.watermarks(&late).await;
    assert!(there.as_ref().is_ok_and(|marks| (marks.low, marks.high) == (0, 0)), "{there:?}");
}

/// Sends small batches, again until each is acknowledged; returns what was.
async fn send_until(
    kafka: KafkaClient,
    targets: Vec<TopicPartition>,
    done: Arc<AtomicBool>,
) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for number in 0.. {
        if done.load(Ordering::Acquire) {
            break;
        }
        let texts = (0..50).map(|n| format!("{number}-{n}"));
        let batch = outgoing(&targets[number % targets.len()], texts.clone());
        match kafka.produce(batch).await {
            Ok(()) => acknowledged.extend(texts),
            Err(failure) => {
                assert!(matches!(failure, Error::Unreachable(_) | Error::OutcomeUnknown { .. }), "{failure}")
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    acknowledged
}

#[derive(Default)]
struct Seen {
    texts: BTreeSet<String>,
    places: BTreeSet<(TopicPartition, i64)>,
}

impl Seen {
    /// Reads until so many more messages came, each offset once.
    async fn read_more(&mut self, lane: &dyn Lane, count: usize) {
        let wanted = self.places.len() + count;
        while self.places.len() < wanted {
            match timeout(PATIENCE, lane.next()).await.expect("the lane goes on") {
                Fetched::Chunk(chunk) => {
                    for message in &chunk.messages {
                        let text = String::from_utf8_lossy(chunk.payload_of(message)).into_owned();
                        self.texts.insert(text);
                        let fresh = self.places.insert((chunk.source.clone(), message.offset));
                        assert!(fresh, "{} offset {} came twice", chunk.source, message.offset);
                    }
                }
                Fetched::End(..) | Fetched::Unreachable(..) | Fetched::Trouble(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Partitions that are paused and resumed at random while messages come in bursts, so that the lane holds them now in
/// the middle of a fetch and now at their end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_held_again_and_again_under_load_come_whole_in_order_and_once() {
    const MESSAGES: i64 = 30_000;
    let kafka = TestKafka::start(1, &[]).await;
    let client = kafka.client();
    let sources = topic(&client, "held", 4, 1).await;
    let lane = client.lane("held").unwrap();
    sources.iter().for_each(|source| lane.assign(source, 0));
    let (sender, targets) = (client.clone(), sources.clone());
    let sending = tokio::spawn(async move {
        let text = "x".repeat(1_000);
        for round in 0..MESSAGES / 1_000 {
            for target in &targets {
                sender.produce(outgoing(target, (0..1_000).map(|_| text.clone()))).await.unwrap();
            }
            if round % 5 == 4 {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    });
    let mut next = vec![0; sources.len()];
    let mut paused = vec![false; sources.len()];
    let mut dice = 1_u64;
    let start = Instant::now();
    while next.iter().any(|next| *next < MESSAGES) {
        assert!(start.elapsed() < 3 * PATIENCE, "the last messages do not come: {next:?}");
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let which = usize::try_from(dice >> 33).unwrap() % sources.len();
        paused[which] = !paused[which];
        if paused[which] {
            lane.pause(&sources[which])
        } else {
            lane.resume(&sources[which])
        }
        // While all are paused the lane takes in what there is and holds them; then a little is taken.
        let patience = Duration::from_millis(if paused.iter().all(|paused| *paused) { 400 } else { 20 });
        while let Ok(fetched) = timeout(patience, lane.next()).await {
            let chunk = match fetched {
                Fetched::Chunk(chunk) => chunk,
                Fetched::End(..) | Fetched::Unreachable(..) | Fetched::Trouble(_) => continue,
                other => panic!("{other:?}"),
            };
            let at = usize::try_from(chunk.source.partition).unwrap();
            for message in &chunk.messages {
                assert_eq!(message.offset, next[at], "{}: not the next message", chunk.source);
                next[at] += 1;
            }
            if next.iter().sum::<i64>() % 3 == 0 {
                break;
            }
        }
    }
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_open_transaction_has_sent_is_no_lag() {
    let kafka = TestKafka::start(1, &[]).await;
    let client = kafka.client();
    let source = topic(&client, "open", 1, 1).await.remove(0);
    client.produce(outgoing(&source, ["one".into()])).await.unwrap();
    let lane = client.lane("open").unwrap();
    lane.assign(&source, 0);
    Seen::default().read_more(&*lane, 1).await;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers.bootstrap()).set("transactional.id", "another's");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    let send = |text: &str| {
        producer.send(BaseRecord::<[u8], [u8]>::to("open").partition(0).payload(text.as_bytes())).unwrap();
        producer.flush(PATIENCE).unwrap();
    };
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    send("two");
    let end_is = async |wanted: i64| {
        let told = timeout(PATIENCE, async {
            // It is told again and again, so it must stay.
            let mut times = 0;
            while times < 3 {
                match lane.next().await {
                    Fetched::End(_, end) if end == wanted => times += 1,
                    Fetched::End(..) => times = 0,
                    Fetched::Chunk(chunk) => panic!("not committed: {chunk:?}"),
                    _ => {}
                }
            }
        });
        told.await.unwrap_or_else(|_| panic!("the end is {wanted}"));
    };
    end_is(1).await;
    send("three");
    end_is(1).await;
    assert_eq!(client.watermarks(&source).await.unwrap().high, 1, "what can be read");
    producer.commit_transaction(PATIENCE).unwrap();
    Seen::default().read_more(&*lane, 2).await;
    end_is(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_is_trouble_and_its_return_is_noticed() {
    let mut kafka = TestKafka::start(1, &[]).await;
    let client = kafka.client();
    let sources = topic(&client, "down", 1, 1).await;
    client.produce(outgoing(&sources[0], ["one".into()])).await.unwrap();
    let lane = client.lane("down").unwrap();
    lane.assign(&sources[0], 0);
    let mut seen = Seen::default();
    seen.read_more(&*lane, 1).await;
    kafka.brokers.kill(0).unwrap();
    let mut quick = kafka.brokers.options();
    quick.deadline_ms = 2_000;
    let quick = KafkaClient::new(quick).unwrap();
    assert!(matches!(quick.watermarks(&sources[0]).await, Err(Error::Unreachable(_))));
    let told = timeout(PATIENCE, async {
        loop {
            if let Fetched::Trouble(text) = lane.next().await {
                return text;
            }
        }
    });
    assert!(told.await.expect("trouble is told").contains("down"));
    let sent = quick.produce(outgoing(&sources[0], ["lost?".into()])).await;
    assert!(matches!(sent, Err(Error::Unreachable(_) | Error::OutcomeUnknown { .. })), "{sent:?}");
    let position = Committed { next: 1, metadata: String::new() };
    let recorded = quick.commit("g", &[(sources[0].clone(), position)]).await;
    assert!(matches!(recorded, Err(Error::Unreachable(_) | Error::OutcomeUnknown { .. })), "{recorded:?}");
    kafka.brokers.restart(0).await.unwrap();
    client.produce(outgoing(&sources[0], ["two".into()])).await.unwrap();
    seen.read_more(&*lane, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_checked_and_a_wrong_password_is_denied() {
    let kafka = TestKafka::start_with_user("alice", "wonder land").await;
    let client = kafka.client();
    let sources = topic(&client, "users", 1, 1).await;
    client.produce(outgoing(&sources[0], ["one".into()])).await.unwrap();
    let lane = client.lane("users").unwrap();
    lane.assign(&sources[0], 0);
    Seen::default().read_more(&*lane, 1).await;
    let mut wrong = kafka.brokers.options();
    wrong.deadline_ms = 4_000;
    wrong.settings.insert("sasl.password".into(), "hush".into());
    let wrong = KafkaClient::new(wrong).unwrap();
    for refused in [
        wrong.watermarks(&sources[0]).await.map(|_| ()),
        wrong.committed("g", &sources).await.map(|_| ()),
        wrong.produce(outgoing(&sources[0], ["two".into()])).await,
    ] {
        let text = format!("{refused:?}");
        assert!(matches!(refused, Err(Error::Denied(_))), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }
    let plain =
        KafkaClient::new(Options { deadline_ms: 3_000, ..Options::new(kafka.brokers.bootstrap()) }).unwrap();
    assert!(plain.watermarks(&sources[0]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_both_ways_is_spoken_and_a_stranger_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    certificates::make(folder.path());
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    std::fs::write(path("server.both"), read("server.key") + &read("server.pem")).unwrap();
    let tls = format!("127.0.0.1:{}", free_port().unwrap());
    let listeners = format!("CLIENT://127.0.0.1:{{port}},INTERNAL://127.0.0.1:{{internal_port}},TLS://{tls}");
    let kafka = TestKafka::start(
        1,
        &[
            ("listeners", &format!("{listeners},CONTROLLER://127.0.0.1:{{controller_port}}")),
            ("advertised.listeners", &listeners),
            (
                "listener.security.protocol.map",
                "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL",
            ),
            ("ssl.keystore.type", "PEM"),
            ("ssl.keystore.location", &path("server.both")),
            ("ssl.truststore.type", "PEM"),
            ("ssl.truststore.location", &path("ca.pem")),
            ("ssl.client.auth", "required"),
        ],
    )
    .await;
    let client = |authority: &str, identity: Option<&str>| {
        let mut options = Options { deadline_ms: 4_000, ..Options::new(tls.as_str()) };
        let mut set = |name: &str, value: String| options.settings.insert(name.into(), value);
        set("security.protocol", "ssl".into());
        set("ssl.ca.location", path(authority));
        if let Some(name) = identity {
            set("ssl.certificate.location", path(&format!("{name}.pem")));
            set("ssl.key.location", path(&format!("{name}.key")));
        }
        KafkaClient::new(options).unwrap()
    };
    let good = client("ca.pem", Some("client"));
    let sources = topic(&good, "sealed", 1, 1).await;
    good.produce(outgoing(&sources[0], ["one".into()])).await.unwrap();
    let lane = good.lane("sealed").unwrap();
    lane.assign(&sources[0], 0);
    Seen::default().read_more(&*lane, 1).await;
    for (authority, identity, why) in [
        ("other.pem", Some("client"), "a broker that another authority signed"),
        ("ca.pem", None, "no certificate of our own"),
        ("ca.pem", Some("other"), "a certificate of another authority"),
    ] {
        let told = client(authority, identity).watermarks(&sources[0]).await;
        assert!(told.is_err(), "{why}: {told:?}");
    }
    drop(kafka);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_brokers_and_client_name_what_is_wrong() {
    let kafka = TestKafka::start(1, &[]).await;
    let client = kafka.client();
    let new = |name: &str, replication, settings: &[(&str, &str)]| converthouse::adapters::kafka::NewTopic {
        name: name.into(),
        partitions: 1,
        replication,
        settings: settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    for (topic, word) in [
        (new("bad name", 1, &[]), "bad name"),
        (new("copies", 3, &[]), "copies"),
        (new("setting", 1, &[("retention.seconds", "5")]), "setting"),
    ] {
        let refused = client.create_topics(&[topic]).await;
        assert!(matches!(&refused, Err(Error::Invalid(text)) if text.contains(word)), "{refused:?}");
    }
    let mut options = kafka.brokers.options();
    options.settings.insert("sasl.usrname".into(), "x".into());
    let refused = KafkaClient::new(options).err();
    assert!(matches!(&refused, Some(Error::Invalid(text)) if text.contains("sasl.usrname")), "{refused:?}");
    let sources = topic(&client, "sized", 1, 1).await;
    // What counts is what is left of it once it is compressed: by the broker's measure, then by the client's.
    for bytes in [3 << 20, 33 << 20] {
        let refused = client.produce(outgoing(&sources[0], [noise(bytes)])).await;
        assert!(matches!(&refused, Err(Error::TooLarge(text)) if text.contains("sized")), "{refused:?}");
    }
    client.produce(outgoing(&sources[0], [noise(1_020_000)])).await.expect("brokers take it as they are");
    client.produce(outgoing(&sources[0], ["small".into()])).await.expect("the producer lives on");
}
