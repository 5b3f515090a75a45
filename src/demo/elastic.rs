//! The demo's second act, under ingest and queries all the time: shards split, a node joins and takes its share,
//! another is drained, a server is killed.

use super::scene::{self, Scene, node};
use super::steps::{Report, check, everywhere, failed, seconds, status, until};
use super::traffic::{Task, Traffic};
use crate::adapters::clock::SystemClock;
use crate::daemon::Error;
use crate::model::NodeState;
use crate::model::control::{Asked, NodeStatus, Operate};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// How often the live line is drawn anew.
const LINE_EVERY: Duration = Duration::from_millis(250);

/// The whole act; `rows` are there already. Returns how many there are at its end.
pub async fn play(scene: &mut Scene, rows: u64, report: &mut Report) -> Result<u64, Error> {
    report
        .say("from here on rows come in (10000 a second at most), and every server is queried, all the time");
    let servers: Vec<String> = scene.servers.iter().map(|server| server.url().to_owned()).collect();
    let traffic = Traffic::start(scene.kafka.clone(), &scene.prefix, rows, servers);
    let line = live_line(scene, &traffic);
    let acts = acts(scene, &traffic, report).await;
    line.ended().await;
    let seen = traffic.seen.clone();
    let total = traffic.end().await;
    acts?;
    if let Some(error) = seen.broken.take() {
        return Err(failed(&format!("rows could not be sent: {error}")));
    }
    let (answered, wrong, failures) = (seen.answered.get(), seen.wrong.take(), seen.failed.take());
    if let Some(first) = wrong.first().or(failures.first()) {
        let (wrong, failures) = (wrong.len(), failures.len());
        return Err(failed(&format!("of {answered} queries {wrong} were wrong, {failures} failed: {first}")));
    }
    if answered == 0 {
        return Err(failed("no query was answered while the cluster changed"));
    }
    let cut = seen.cut.get();
    let cut =
        if cut > 0 { format!("; {cut} broke off with the server that was killed") } else { String::new() };
    report.prove(format!("{answered} queries were answered while all this went on: 0 wrong, 0 failed{cut}"));
    everywhere(scene, total, report).await?;
    Ok(total)
}

async fn acts(scene: &mut Scene, traffic: &Traffic, report: &mut Report) -> Result<(), Error> {
    split(scene, report).await?;
    join(scene, traffic, report).await?;
    drain(scene, report).await?;
    kill(scene, traffic, report).await
}

/// One line that is drawn over and over, on a terminal: queries, rows, who holds how much.
fn live_line(scene: &Scene, traffic: &Traffic) -> Task {
    let (seen, daemon) = (traffic.seen.clone(), scene.daemon.clone());
    let bar = ProgressBar::new_spinner();
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("          {spinner} {msg}") {
        bar.set_style(style);
    }
    Task::start(async move {
        loop {
            let held = match daemon.cluster_status().await {
                Ok(status) => {
                    let one = |node: &NodeStatus| format!("{} {}", node.id, node.replicas);
                    status.nodes.iter().map(one).collect::<Vec<_>>().join("  ")
                }
                Err(_) => "the daemon is being started".to_owned(),
            };
            bar.set_message(format!(
                "{} queries, {} wrong, {} failed   {} rows sent   replicas: {held}",
                seen.answered.get(),
                seen.wrong.borrow().len(),
                seen.failed.borrow().len(),
                seen.rows.get()
            ));
            bar.tick();
            tokio::time::sleep(LINE_EVERY).await;
        }
    })
}

async fn idle(scene: &Scene) -> Result<bool, Error> {
    let operations = scene.daemon.operations().await.map_err(|error| scene::of(&error))?;
    Ok(operations.iter().all(|status| !status.operation.state.is_open()))
}

async fn split(scene: &Scene, report: &mut Report) -> Result<(), Error> {
    report.say("converthouse shard split shop.events");
    let before = status(scene).await?.shards.len();
    let request = Operate {
        database: "shop".into(),
        table: "events".into(),
        asked: Asked::Split { shard: None, cut: None, by_bytes: false },
        reason: "the demo".into(),
        dry_run: false,
    };
    let began = SystemClock::new();
    scene.daemon.operate(request).await.map_err(|error| scene::of(&error))?;
    until("all shards to be split", async || {
        Ok(idle(scene).await? && status(scene).await?.shards.len() == 2 * before)
    })
    .await?;
    report.prove(format!(
        "{before} shards became {} under ingest, without copying a row, in {:.1} s",
        2 * before,
        seconds(&began)
    ));
    Ok(())
}

async fn join(scene: &mut Scene, traffic: &Traffic, report: &mut Report) -> Result<(), Error> {
    let number = scene.servers.len();
    let name = node(number);
    report
        .say(&format!("{name} joins: a fourth ClickHouse, and the daemon started again with it in its file"));
    let began = SystemClock::new();
    scene.add_server().await?;
    scene.restart_daemon()?;
    until("the new node to be queried", async || {
        let sql = "SELECT count() FROM system.tables WHERE database = 'shop' AND name = 'events'";
        Ok(scene.ask(number, sql).await.unwrap_or_default() == "1")
    })
    .await?;
    traffic.seen.servers.borrow_mut().insert(scene.servers[number].url().to_owned());
    until("the new node to have its share", async || {
        let Ok(status) = scene.daemon.cluster_status().await else { return Ok(false) };
        let held = || status.nodes.iter().map(|node| node.replicas);
        let even = held().max().unwrap_or(0) - held().min().unwrap_or(0) <= 1;
        Ok(even && status.nodes.len() == number + 1 && idle(scene).await?)
    })
    .await?;
    let status = scene.daemon.cluster_status().await.map_err(|error| scene::of(&error))?;
    let taken = status.nodes.iter().find(|node| node.id.as_str() == name).map_or(0, |node| node.replicas);
    report.prove(format!(
        "{name} joined and took over {taken} replicas by itself, {:.1} s later",
        seconds(&began)
    ));
    Ok(())
}

async fn drain(scene: &Scene, report: &mut Report) -> Result<(), Error> {
    let name = node(0);
    report.say(&format!("converthouse node drain {name} --wait"));
    let began = SystemClock::new();
    let id = name.parse().map_err(|error| Error::new(format!("{error}"), "this is a bug in the demo"))?;
    scene.daemon.set_node_state(id, NodeState::Draining).await.map_err(|error| scene::of(&error))?;
    until("the node to be empty", async || {
        let status = scene.daemon.cluster_status().await.map_err(|error| scene::of(&error))?;
        let empty = status.nodes.iter().any(|node| node.id.as_str() == name && node.replicas == 0);
        Ok(empty && idle(scene).await?)
    })
    .await?;
    report.prove(format!("{name} was emptied in {:.1} s and still answers queries", seconds(&began)));
    Ok(())
}

async fn kill(scene: &mut Scene, traffic: &Traffic, report: &mut Report) -> Result<(), Error> {
    let victim = 2;
    let url = scene.servers[victim].url().to_owned();
    // Nobody asks a server that is known to be dead; the others are asked on.
    traffic.seen.servers.borrow_mut().remove(&url);
    tokio::time::sleep(Duration::from_millis(500)).await;
    report.say(&format!("kill -9 of ClickHouse on {}", node(victim)));
    let before = traffic.seen.answered.get();
    traffic.seen.kills.set(traffic.seen.kills.get() + 1);
    scene.servers[victim].kill().map_err(|error| scene::of(&error))?;
    until("queries to go on", async || Ok(traffic.seen.answered.get() >= before + 20)).await?;
    scene.servers[victim].start().await.map_err(|error| scene::of(&error))?;
    let began = SystemClock::new();
    until("it to catch up", async || {
        let Ok(table) = status(scene).await else { return Ok(false) };
        Ok(table.complete && idle(scene).await?)
    })
    .await?;
    traffic.seen.servers.borrow_mut().insert(url);
    let shown = scene.ask(victim, "SELECT count() - uniqExact(id) FROM shop.events").await?;
    check(&shown, "0", &format!("rows counted twice on {}", node(victim)))?;
    report.prove(format!(
        "queries went on while {} was dead; back, it had caught up in {:.1} s",
        node(victim),
        seconds(&began)
    ));
    Ok(())
}
