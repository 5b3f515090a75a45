//! `converthouse demo`, as a user runs it: it proves what it says, and leaves nothing behind however it ends.

use super::support::cluster::program;
use super::support::kafka::{TestKafka, outgoing, topic};
use converthouse::adapters::kafka::{Kafka, Watermarks};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut demo = Command::new(program());
    demo.args(["demo", "--folder"]).arg(folder).args(arguments).stdin(Stdio::null());
    demo
}

/// Neither its folder nor a process that was started with a file of it is there any more.
fn nothing_left(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let ours = folder.display().to_string();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let command = std::fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        assert!(!command.contains(&ours), "{command}");
    }
}

#[test]
fn the_demo_proves_what_it_says_for_programs_too_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ran = demo(folder.path(), &["--rows", "20000", "--json"]).output().unwrap();
    let story = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(0), "{story}");
    let shown: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(shown["proven"].as_array().unwrap().len() > 8, "{shown}");
    assert!(shown["seconds"].as_f64().unwrap() > 0.0, "{shown}");
    assert!(story.contains("100 %: 20000 of 20000 rows are readable"), "{story}");
    nothing_left(folder.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_kafka_the_demo_touches_its_own_topics_alone_and_deletes_them_however_it_ends() {
    let kafka = TestKafka::start(1, &[]).await;
    let client = kafka.client();
    // A user's, with the name of the table that the demo makes.
    let users = topic(&client, "shop.events.0", 1, 1).await.remove(0);
    client.produce(outgoing(&users, ["a user's".to_owned()])).await.unwrap();
    let own = async || {
        let topics = client.topics().await.unwrap();
        topics.into_iter().filter(|topic| !topic.starts_with("__")).collect::<Vec<_>>()
    };
    let brokers = kafka.brokers.bootstrap().to_owned();
    let arguments = ["--rows", "2000", "--kafka", &brokers];
    let folder = tempfile::tempdir().unwrap();
    let mut begun =
        demo(folder.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut looks = 0;
    while !own().await.iter().any(|topic| topic.starts_with("converthouse-demo-")) {
        assert!(begun.try_wait().unwrap().is_none() && looks < 1_000, "it never made its topics");
        looks += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = Command::new("kill").args(["-TERM", &begun.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let ended = tokio::task::spawn_blocking(move || begun.wait().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(1), "it ends by itself, in good order");
    nothing_left(folder.path());
    assert_eq!(own().await, ["shop.events.0"]);
    let mut whole = demo(folder.path(), &arguments);
    let ran = tokio::task::spawn_blocking(move || whole.output().unwrap()).await.unwrap();
    let story = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(0), "{story}");
    nothing_left(folder.path());
    assert_eq!(own().await, ["shop.events.0"]);
    assert_eq!(client.watermarks(&users).await.unwrap(), Watermarks { low: 0, high: 1 });
}
