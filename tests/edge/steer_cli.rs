//! `plan`, `balance` and `hold` as people and scripts meet them.

use super::edge::{Asked, Edge, Mood, name, samples};
use super::{NAME, golden, run};
use converthouse::adapters::peers::Error;
use converthouse::model::ShardId;
use converthouse::model::balance::{ApplyPlan, BalanceMode, SetBalance};
use converthouse::model::control::{Asked as Change, Operate};
use converthouse::model::hold::{Brake, NamedScope, SetHold};
use converthouse::model::plan::ClusterPlan;
use expect_test::expect_file;

#[test]
fn what_people_and_programs_see() {
    let edge = Edge::start();
    golden(&edge, &["plan"], expect_file!["../golden/cli_plan.txt"]);
    golden(&edge, &["plan", "--all"], expect_file!["../golden/cli_plan_all.txt"]);
    golden(&edge, &["plan", "--json"], expect_file!["../golden/cli_plan.json"]);
    golden(&edge, &["balance", "show"], expect_file!["../golden/cli_balance.txt"]);
    golden(&edge, &["hold", "list"], expect_file!["../golden/cli_hold_list.txt"]);
    golden(&edge, &["hold", "list", "--json"], expect_file!["../golden/cli_hold_list.json"]);
    let help = super::offline(&["plan", "--help"]);
    expect_file!["../golden/cli_help_plan.txt"].assert_eq(&help.out);
}

#[test]
fn a_plan_is_saved_and_applied_as_it_was() {
    let edge = Edge::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.json");
    let file = file.to_str().unwrap();
    let printed = run(&edge, &["plan", "--json", "--out", file]);
    assert_eq!(std::fs::read_to_string(file).unwrap(), printed.out, "what is saved is what is shown");
    let saved: ClusterPlan = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(saved, samples::plan());
    let tried = run(&edge, &["plan", "apply", file, "--dry-run"]);
    assert_eq!((tried.code, tried.out.as_str()), (0, "the plan fits: 1 split and 3 moves would be made\n"));
    assert_eq!(
        edge.daemon.last(),
        Asked::ApplyPlan(Box::new(ApplyPlan { plan: saved.clone(), dry_run: true }))
    );
    let begun = run(&edge, &["plan", "apply", file, "--no-wait"]);
    assert_eq!((begun.code, begun.out.as_str()), (0, "plan running: 1 of 1 split and 1 of 3 moves made\n"));
    assert_eq!(edge.daemon.last(), Asked::ApplyPlan(Box::new(ApplyPlan { plan: saved, dry_run: false })));
    let late = run(&edge, &["plan", "apply", file, "--timeout", "1"]);
    assert_eq!(late.code, 3, "{}", late.err);
    let cancelled = run(&edge, &["plan", "cancel"]);
    assert_eq!(cancelled.out, "plan cancelled (1 split, 3 moves): cancelled by an operator\n");
    edge.daemon.set(Mood::Fails(Error::Stale("the world has changed: node n9 has joined".into())));
    let stale = run(&edge, &["plan", "apply", file]);
    let said = "error [CVH-0810]: the world has changed: node n9 has joined\n\
                remedy: make a new plan with `converthouse plan`\n";
    assert_eq!((stale.code, stale.err.as_str()), (1, said));
}

#[test]
fn a_file_that_is_no_plan_is_refused_with_the_place() {
    let edge = Edge::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.json");
    let mut plan = serde_json::to_value(samples::plan()).unwrap();
    plan["moves"][0]["nodes"][0] = "N 1".into();
    for (text, place) in [
        ("{}".to_owned(), "missing field `version` at line 1 column 2"),
        (serde_json::to_string_pretty(&plan).unwrap(), "\"N 1\" is not a node name"),
    ] {
        std::fs::write(&file, text).unwrap();
        let refused = run(&edge, &["plan", "apply", file.to_str().unwrap()]);
        assert!(refused.code == 1 && refused.err.contains(place), "{}", refused.err);
    }
    let missing = run(&edge, &["plan", "apply", "/nowhere/p.json"]);
    assert_eq!(missing.code, 2, "{}", missing.err);
}

#[test]
fn modes_and_holds_are_sent_as_typed() {
    let edge = Edge::start();
    for (word, mode) in [
        ("off", Some(BalanceMode::Off)),
        ("advisory", Some(BalanceMode::Advisory)),
        ("on", Some(BalanceMode::On)),
        ("configured", None),
    ] {
        assert_eq!(run(&edge, &["balance", word, "--reason", "disks"]).code, 0);
        assert_eq!(edge.daemon.last(), Asked::Balance(SetBalance { mode, reason: "disks".into() }));
    }
    let hold = |table, shard, brake, reason: &str, ttl_ms| {
        let scope = NamedScope { table, shard };
        Asked::Hold(SetHold { scope, brake, reason: reason.into(), ttl_ms })
    };
    assert_eq!(run(&edge, &["hold", "pause", "--for", "90m", "--reason", "x"]).code, 0);
    assert_eq!(edge.daemon.last(), hold(None, None, Some(Brake::Pause), "x", 5_400_000));
    assert_eq!(run(&edge, &["hold", "freeze", NAME, "s3", "--for", "1d", "--reason", "y"]).code, 0);
    assert_eq!(
        edge.daemon.last(),
        hold(Some(name()), Some(ShardId(3)), Some(Brake::Freeze), "y", 86_400_000)
    );
    assert_eq!(run(&edge, &["hold", "release", NAME]).code, 0);
    assert_eq!(edge.daemon.last(), hold(Some(name()), None, None, "", 0));
    for wrong in [
        &["hold", "pause", "--for", "1h"][..],
        &["hold", "pause", "--reason", "x"],
        &["hold", "freeze", "--for", "soon", "--reason", "x"],
    ] {
        assert_eq!(run(&edge, wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn replicas_and_nodes_come_and_go_as_typed() {
    let edge = Edge::start();
    let node = |name: &str| name.parse().unwrap();
    let shard = ShardId(3);
    for (arguments, asked) in [
        (&["add", NAME, "s3", "n2"][..], Change::Add { shard, to: node("n2"), force: false }),
        (&["add", NAME, "s3", "n2", "--force"], Change::Add { shard, to: node("n2"), force: true }),
        (&["remove", NAME, "s3", "n2"], Change::Remove { shard, from: node("n2") }),
        (
            &["split", NAME, "s3", "--by-bytes"],
            Change::Split { shard: Some(shard), cut: None, by_bytes: true },
        ),
    ] {
        let arguments = [&["shard"], arguments, &["--no-wait"]].concat();
        assert_eq!(run(&edge, &arguments).code, 0, "{arguments:?}");
        let (database, table) = (name().database, name().table);
        let request = Operate { database, table, asked, reason: String::new(), dry_run: false };
        assert_eq!(edge.daemon.last(), Asked::Operate(request));
    }
    let both = run(&edge, &["shard", "split", NAME, "s3", "--at", "4", "--by-bytes"]);
    assert_eq!(both.code, 2, "{}", both.err);
    assert_eq!(run(&edge, &["node", "remove", "n9"]).out, "node n9 is forgotten\n");
    assert_eq!(edge.daemon.last(), Asked::RemoveNode(node("n9")));
    let json = run(&edge, &["node", "remove", "n9", "--json"]).out;
    assert_eq!(json, "{\n  \"node\": \"n9\",\n  \"removed\": true\n}\n");
}
