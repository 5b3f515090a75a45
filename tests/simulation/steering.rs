//! Plans applied, balancing set at run time, and holds, in virtual time.

use converthouse::adapters::peers::{Daemon, Error};
use converthouse::model::balance::{ApplyPlan, BalanceMode, RunState, SetBalance};
use converthouse::model::control::{Asked, Operate};
use converthouse::model::hold::{Brake, NamedScope, SetHold};
use converthouse::model::plan::ClusterPlan;
use converthouse::model::{NodeId, NodeState, ShardId};
use converthouse::simulation::{self, Cluster, Failure, NewTable, Setup};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Four replicas of each table a node at least.
fn setup(mode: BalanceMode) -> Setup {
    let mut setup = Setup::nodes(3);
    setup.options.balance.replicas_per_node_min = 4;
    setup.options.balance.mode = mode;
    setup
}

/// Three nodes with rows, and a fourth that has joined and reports.
async fn joined(cluster: &Cluster, shards: u32) -> Result<NodeId, Failure> {
    cluster.start().await?;
    cluster.start_readers(4);
    let table = NewTable { shards, partitions: 32, ..NewTable::named("t") };
    let table = cluster.create_table(&table).await?;
    cluster.produce_everywhere(&table, 200);
    cluster.until_nothing_lacks(60_000).await?;
    let node = cluster.add_node()?;
    cluster.until("the node's record", 30_000, |c| c.view().nodes.contains_key(&node)).await?;
    cluster.advance(10_000).await?;
    Ok(node)
}

async fn plan(cluster: &Cluster) -> Result<ClusterPlan, Failure> {
    cluster.ask("plan", |daemon| async move { daemon.make_plan().await }).await
}

async fn hold(cluster: &Cluster, brake: Brake, ttl_ms: u64) -> Result<(), Failure> {
    let scope = NamedScope { table: None, shard: None };
    let request = SetHold { scope, brake: Some(brake), reason: "audit".into(), ttl_ms };
    let set = |daemon: Arc<dyn Daemon>| {
        let request = request.clone();
        async move { daemon.set_hold(request).await }
    };
    cluster.ask("hold", set).await.map(|_| ())
}

/// Where shards in the topology are.
fn placed(cluster: &Cluster) -> BTreeMap<ShardId, Vec<NodeId>> {
    let view = cluster.view();
    let shards = view.all_shards();
    shards.map(|shard| (shard.id, shard.replicas.iter().map(|r| r.node.clone()).collect())).collect()
}

fn empty(cluster: &Cluster, node: &NodeId) -> bool {
    placed(cluster).values().flatten().all(|holder| holder != node)
}

#[test]
fn an_applied_plan_splits_and_moves_as_shown_though_its_leader_dies_and_balancing_is_off() {
    let run = simulation::run(&setup(BalanceMode::Off), async |cluster: &Cluster| {
        let node = joined(cluster, 4).await?;
        cluster.advance(60_000).await?;
        assert!(empty(cluster, &node) && placed(cluster).len() == 4, "nothing happens by itself");
        let shown = plan(cluster).await?;
        assert!(!shown.splits.is_empty() && !shown.moves.is_empty(), "{shown:?}");
        let apply = |daemon: Arc<dyn Daemon>| {
            let request = ApplyPlan { plan: shown.clone(), dry_run: false };
            async move { daemon.apply_plan(request).await }
        };
        cluster.ask("apply", apply).await?;
        cluster.until("a split", 120_000, |c| placed(c).len() > 4).await?;
        let leader = cluster.leader().expect("one leads").to_string();
        cluster.kill_daemon(&leader)?;
        cluster.advance(20_000).await?;
        cluster.start_daemon(&leader)?;
        let over =
            |c: &Cluster| c.view().run.as_ref().is_some_and(|run| run.record.state != RunState::Running);
        cluster.until("the plan's end", 900_000, over).await?;
        let record = cluster.view().run.clone().expect("it ended").record;
        assert_eq!((record.state, record.outcome.as_str()), (RunState::Done, ""));
        for of in &shown.moves {
            let (mut wanted, mut is) = (of.nodes.clone(), placed(cluster)[&of.shard].clone());
            wanted.sort();
            is.sort();
            assert_eq!(wanted, is, "shard {}", of.shard);
        }
        cluster.until_nothing_lacks(60_000).await?;
        let again = plan(cluster).await?;
        assert!(again.splits.is_empty() && again.bytes == 0, "nothing is left to be copied: {again:?}");
        // The same plan is of another world now.
        let refused = cluster.ask("apply", apply).await.expect_err("its world is no more");
        assert!(refused.what.contains("the world has changed"), "{refused:?}");
        cluster.heal(120_000).await
    });
    assert!(run.passed(), "{run}");
}

#[test]
fn a_freeze_holds_everything_and_ends_by_itself() {
    let run = simulation::run(&setup(BalanceMode::Off), async |cluster: &Cluster| {
        let node = joined(cluster, 4).await?;
        hold(cluster, Brake::Freeze, 200_000).await?;
        let on = |daemon: Arc<dyn Daemon>| async move {
            daemon.set_balance(SetBalance { mode: Some(BalanceMode::On), reason: "test".into() }).await
        };
        let status = cluster.ask("balance", on).await?;
        assert_eq!((status.mode, status.configured), (Some(BalanceMode::On), Some(BalanceMode::Off)));
        cluster.advance(150_000).await?;
        assert!(empty(cluster, &node) && placed(cluster).len() == 4, "frozen");
        cluster.until("the freeze to end and shards to come", 300_000, |c| !empty(c, &node)).await?;
        cluster.until("its record to go", 60_000, |c| c.view().holds.is_empty()).await?;
        cluster.heal(300_000).await
    });
    assert!(run.passed(), "{run}");
}

#[test]
fn a_freeze_stops_a_copy_under_way_and_the_move_is_done_after_it() {
    let run = simulation::run(&setup(BalanceMode::Off), async |cluster: &Cluster| {
        let node = joined(cluster, 4).await?;
        let servers: Vec<_> =
            cluster.view().nodes.keys().filter_map(|n| cluster.server(n.as_str())).collect();
        servers.iter().for_each(|server| server.set_copy_ms(50_000));
        let (table, shard) = {
            let view = cluster.view();
            let shard = view.all_shards().next().expect("made").clone();
            (view.tables[&shard.table].record.name.clone(), shard)
        };
        let from = shard.leader.clone().expect("led");
        let asked = Asked::Move { shard: shard.id, from, to: node.clone(), force: false };
        let (database, reason) = (table.database, "test".to_owned());
        let request = Operate { database, table: table.table, asked, reason, dry_run: false };
        let begin = |daemon: Arc<dyn Daemon>| {
            let request = request.clone();
            async move { daemon.operate(request).await }
        };
        cluster.ask("move", begin).await?;
        cluster.advance(90_000).await?;
        let target = cluster.server(node.as_str()).expect("it is there");
        let before = target.copied_bytes();
        assert!(before > 0, "some partitions have come");
        hold(cluster, Brake::Freeze, 300_000).await?;
        cluster.advance(3_000).await?;
        let frozen = target.copied_bytes();
        cluster.advance(200_000).await?;
        assert_eq!(target.copied_bytes(), frozen, "nothing comes under the freeze");
        let done = |c: &Cluster| c.view().open_operations().next().is_none();
        assert!(!done(cluster));
        cluster.until("the move's end", 900_000, done).await?;
        assert!(!empty(cluster, &node));
        cluster.heal(300_000).await
    });
    assert!(run.passed(), "{run}");
}

#[test]
fn advice_is_shown_and_not_followed() {
    let run = simulation::run(&setup(BalanceMode::Advisory), async |cluster: &Cluster| {
        let node = joined(cluster, 4).await?;
        cluster.advance(60_000).await?;
        assert!(empty(cluster, &node), "nothing moves");
        let planned = cluster.status().await?.balance.planned.expect("there is advice");
        let shown = plan(cluster).await?;
        assert_eq!(
            (planned.splits as usize, planned.moves as usize),
            (shown.splits.len(), shown.moves.len())
        );
        assert_eq!(planned.bytes, shown.bytes);
        assert!(planned.splits > 0 && planned.bytes > 0, "{planned:?}");
        cluster.heal(120_000).await
    });
    assert!(run.passed(), "{run}");
}

#[test]
fn advice_is_followed_once_balancing_is_on() {
    let run = simulation::run(&setup(BalanceMode::Advisory), async |cluster: &Cluster| {
        // Shards enough: what is advised is moves alone.
        let node = joined(cluster, 8).await?;
        cluster.advance(60_000).await?;
        let planned = cluster.status().await?.balance.planned.expect("there is advice");
        assert!(planned.splits == 0 && planned.moves > 0 && empty(cluster, &node), "{planned:?}");
        let on = |daemon: Arc<dyn Daemon>| async move {
            daemon.set_balance(SetBalance { mode: Some(BalanceMode::On), reason: "test".into() }).await
        };
        cluster.ask("balance", on).await?;
        cluster.until("shards to come", 120_000, |c| !empty(c, &node)).await?;
        cluster.heal(300_000).await
    });
    assert!(run.passed(), "{run}");
}

#[test]
fn a_plan_whose_node_dies_is_given_up_with_the_reason() {
    let mut setup = setup(BalanceMode::Off);
    setup.options.rules.down_after_ms = 60_000;
    let run = simulation::run(&setup, async |cluster: &Cluster| {
        let node = joined(cluster, 4).await?;
        let shown = plan(cluster).await?;
        let refused = cluster.ask("cancel", |daemon| async move {
            match daemon.cancel_plan().await {
                Err(Error::NotFound(what)) => Ok(what),
                other => Err(Error::Internal(format!("{other:?}"))),
            }
        });
        assert_eq!(refused.await?, "a plan that is being carried out");
        let apply = |daemon: Arc<dyn Daemon>| {
            let request = ApplyPlan { plan: shown.clone(), dry_run: false };
            async move { daemon.apply_plan(request).await }
        };
        cluster.ask("apply", apply).await?;
        cluster.kill_daemon(node.as_str())?;
        let over =
            |c: &Cluster| c.view().run.as_ref().is_some_and(|run| run.record.state != RunState::Running);
        cluster.until("the plan to be given up", 900_000, over).await?;
        let record = cluster.view().run.clone().expect("it ended").record;
        assert_eq!(record.state, RunState::Failed, "{record:?}");
        assert!(record.outcome.contains("would break a rule"), "{record:?}");
        cluster.start_daemon(node.as_str())?;
        cluster.heal(300_000).await
    });
    assert!(run.passed(), "{run}");
}

/// Found by reading: the balancer rested as long as any shard was being split or merged, for whatever that waited.
#[test]
fn a_node_is_emptied_though_the_split_of_another_table_waits_for_a_node_that_is_down() {
    let run = simulation::run(&Setup::nodes(4), async |cluster: &Cluster| {
        cluster.start().await?;
        for name in ["a", "t"] {
            let table = cluster.create_table(&NewTable { shards: 6, ..NewTable::named(name) }).await?;
            cluster.produce_everywhere(&table, 50);
        }
        cluster.until_nothing_lacks(60_000).await?;
        let table = NewTable::named("a").full_name();
        let split = Operate {
            database: table.database.clone(),
            table: table.table.clone(),
            asked: Asked::Split { shard: None, cut: None, by_bytes: false },
            reason: "test".into(),
            dry_run: false,
        };
        let stop = serde_json::json!({ "do": "stop-clickhouse", "node": "n4" });
        let begin = |daemon: Arc<dyn Daemon>| {
            let request = split.clone();
            async move { daemon.operate(request).await }
        };
        cluster.happen(&serde_json::from_value(stop).expect("an event"))?;
        cluster.ask("split", begin).await?;
        let node: NodeId = "n1".parse().expect("a name");
        let drain = |daemon: Arc<dyn Daemon>| {
            let node = node.clone();
            async move { daemon.set_node_state(node, NodeState::Draining).await }
        };
        cluster.ask("drain", drain).await?;
        let left = |cluster: &Cluster| {
            let view = cluster.view();
            let t = view.tables.values().find(|table| table.record.name.table == "t").map(|t| t.record.id);
            t.map_or(0, |t| view.shards_of(t).filter(|shard| shard.replica_on(&node).is_some()).count())
        };
        cluster.until("the other table to have left", 900_000, |c| left(c) == 0).await?;
        assert!(cluster.view().open_operations().next().is_some(), "the split is still under way");
        Ok(())
    });
    assert!(run.passed(), "{run}");
}
