//! `converthouse placement` on instance files: what people see, Ctrl-C, and files that are wrong.

use super::{command, offline};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An instance whose shards all stand on two of its nodes; sizes vary.
fn instance(folder: &Path, nodes: usize, shards: usize) -> PathBuf {
    let mut text = format!("{nodes} {shards} 2 3 0.9\n");
    (0..nodes).for_each(|n| text += &format!("{} {} 0\n", n % 3, shards * 200));
    (0..shards).for_each(|s| text += &format!("{} {} {}\n", 1 + s * 7919 % 97, s % 2, 2));
    let path = folder.join("instance.txt");
    std::fs::write(&path, text).unwrap();
    path
}

fn placement(arguments: &[&str]) -> super::Ran {
    offline(&[&["placement"], arguments].concat())
}

#[test]
fn a_solve_can_be_written_judged_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = instance(folder.path(), 5, 30);
    let (path, out) = (path.to_str().unwrap(), folder.path().join("solution.txt"));
    let out = out.to_str().unwrap();
    let solve = ["solve", path, "--work-limit", "200000", "--out", out, "--plan", "--json"];
    let ran = placement(&solve);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("annealing"), "progress: {}", ran.err);
    let solved: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(solved["broken"], 0);
    assert!(solved["bound"].as_f64() <= solved["after"]["z"].as_f64());
    assert!(
        solved["plan"]["waves"].as_u64() > Some(0) && solved["plan"]["left"].as_array().unwrap().is_empty()
    );
    let written = std::fs::read_to_string(out).unwrap();
    let mut again: serde_json::Value = serde_json::from_str(&placement(&solve).out).unwrap();
    again["seconds"] = solved["seconds"].clone();
    assert_eq!(again, solved, "a work limit repeats");
    assert_eq!(std::fs::read_to_string(out).unwrap(), written);
    let judged: serde_json::Value =
        serde_json::from_str(&placement(&["evaluate", path, out, "--json"]).out).unwrap();
    assert_eq!(judged["z"], solved["after"]["z"]);
    let moves = solved["moves"].as_array().unwrap();
    assert!(!moves.is_empty() && moves.iter().all(|one| one["why"].is_string() && one["nodes"].is_array()));
    let bytes: u64 = moves.iter().map(|one| one["bytes"].as_u64().unwrap()).sum();
    assert_eq!(Some(bytes), solved["after"]["bytes_moved"].as_u64());
    let counted: u64 = solved["reasons"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(counted, 30, "every shard has a reason: {}", solved["reasons"]);
    let text = placement(&["solve", path, "--work-limit", "100000"]).out;
    assert!(text.contains("shards by reason: ") && text.contains("in_place "), "{text}");
    let why = placement(&["explain", path, "3", "--solution", out]);
    assert_eq!(why.code, 0, "{}", why.err);
    let rows = |text: &str| text.lines().filter(|l| l.trim_start().starts_with(char::is_numeric)).count();
    let (nodes, leaders) = why.out.split_once("other leaders, the best first:").expect(&why.out);
    assert_eq!((rows(nodes), rows(leaders)), (3, 1), "{}", why.out);
    assert!(nodes.contains("SCORE CHANGE") && nodes.contains("BYTES") && nodes.contains("COPY"), "{nodes}");
    let why = placement(&["explain", path, "3", "--solution", out, "--goal", "leaders", "--json"]);
    let why: serde_json::Value = serde_json::from_str(&why.out).expect(&why.err);
    for change in why["candidates"].as_array().unwrap().iter().chain(why["transfers"].as_array().unwrap()) {
        let terms = change["terms"].as_object().unwrap().values().map(|term| term.as_f64().unwrap());
        assert!((terms.sum::<f64>() - change["change"].as_f64().unwrap()).abs() < 1e-9, "{change}");
    }
    let ran = placement(&["explain", path, "3", "--engine", "greedy"]);
    assert!(ran.code == 0 && !ran.err.contains("annealing"), "{}", ran.err);
}

#[test]
fn budgets_and_goals_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = instance(folder.path(), 5, 30);
    let path = path.to_str().unwrap();
    let moved = |more: &[&str]| -> (u64, u64) {
        let ran = placement(&[&["solve", path, "--work-limit", "100000", "--json"][..], more].concat());
        let solved: serde_json::Value = serde_json::from_str(&ran.out).expect(&ran.err);
        let of = |name: &str| solved["after"][name].as_u64().unwrap();
        (of("bytes_moved"), of("copies"))
    };
    assert!((1..=200).contains(&moved(&["--max-bytes", "200"]).0));
    assert!((1..=3).contains(&moved(&["--max-moves", "3"]).1));
    assert_eq!(moved(&["--goal", "leaders"]), (0, 0));
    assert_eq!(moved(&["--goal", "relieve"]), (0, 0), "no disk is full");
}

/// Makes an instance of a solution: what was found is what is there.
fn accepted(instance: &Path, solution: &Path) {
    let (old, placed) =
        (std::fs::read_to_string(instance).unwrap(), std::fs::read_to_string(solution).unwrap());
    let nodes: usize = old.split_whitespace().next().unwrap().parse().unwrap();
    let mut text: String = old.lines().take(1 + nodes).map(|line| format!("{line}\n")).collect();
    for (row, placed) in old.lines().skip(1 + nodes).zip(placed.lines()) {
        text += &format!("{} {placed}\n", row.split_whitespace().next().unwrap());
    }
    std::fs::write(instance, text).unwrap();
}

#[test]
fn a_solution_stands_when_it_is_solved_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (instance(folder.path(), 6, 60), folder.path().join("solution.txt"));
    for engine in ["hybrid", "local-search", "greedy"] {
        for seed in ["1", "2"] {
            instance(folder.path(), 6, 60);
            let files = [path.to_str().unwrap(), "--out", out.to_str().unwrap()];
            let limits = ["--engine", engine, "--seed", seed, "--work-limit", "60000", "--json"];
            let solve = || -> serde_json::Value {
                serde_json::from_str(&placement(&[&["solve"][..], &files, &limits].concat()).out).unwrap()
            };
            let first = solve();
            assert!(first["after"]["copies"].as_u64() > Some(0), "{engine}");
            accepted(&path, &out);
            assert_eq!(solve()["after"]["copies"], 0, "{engine}, seed {seed}");
        }
    }
}

/// Three nodes, of which one is drained, and three replicas of everything.
#[test]
fn copies_that_cannot_be_placed_stay_and_break_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("i.txt"), folder.path().join("s.txt"));
    let text = "3 2 3 3 0.9\n0 100 0\n1 100 0\n2 100 1\n5 2 0 1\n7 0 1 2\n";
    std::fs::write(&path, text).unwrap();
    let (path, out) = (path.to_str().unwrap(), out.to_str().unwrap());
    let solve = ["solve", path, "--work-limit", "20000", "--out", out];
    let solved: serde_json::Value =
        serde_json::from_str(&placement(&[&solve[..], &["--json"]].concat()).out).unwrap();
    let rows = std::fs::read_to_string(out).unwrap();
    assert!(rows.lines().all(|row| row.split(' ').count() == 3 && row.ends_with(" 2")), "{rows}");
    assert_eq!((&solved["broken"], &solved["gap"]), (&serde_json::json!(2), &serde_json::Value::Null));
    assert_eq!(solved["compromised"][0], serde_json::json!({"shard": 0, "why": "too_few_nodes"}));
    assert_eq!(solved["broken_rules"][0], serde_json::json!({"rule": "forbidden", "shard": 0, "node": 2}));
    let ran = placement(&["evaluate", path, out]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains("broken=2") && ran.out.contains("shard 1: must not be on node 2"),
        "{}",
        ran.out
    );
    let text = placement(&solve).out;
    assert!(text.contains("gap=-") && text.contains("broken: shard 0: must not be on node 2"), "{text}");
    let bench = placement(&["bench", path, "--work-limit", "5000"]);
    assert!(bench.code == 0 && !bench.out.contains("NaN"), "{}", bench.out);
}

#[test]
fn explanations_know_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let (path, policy) = (instance(folder.path(), 5, 30), folder.path().join("policy.toml"));
    std::fs::write(&policy, "[[shards]]\nshard = 3\npinned = [2]\n[[shards]]\nshard = 4\nfrozen = true\n")
        .unwrap();
    let (path, policy) = (path.to_str().unwrap(), policy.to_str().unwrap());
    let explain = |shard: &str| {
        let limits = ["--work-limit", "50000", "--json", "--policy", policy];
        let ran = placement(&[&["explain", path, shard][..], &limits].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()
    };
    let pinned = explain("3");
    let at = pinned["placed"].as_array().unwrap().iter().position(|node| node == 2).expect("on its pin");
    for candidate in pinned["candidates"].as_array().unwrap() {
        assert!(!candidate["forbidden"].is_null() || candidate["slot"] != at, "{candidate}");
    }
    let frozen = explain("4");
    assert_eq!(frozen["reason"], "frozen");
    assert!(
        frozen["candidates"].as_array().unwrap().iter().all(|one| one["forbidden"] == "the shard is frozen")
    );
    let ran = placement(&["explain", path, "30"]);
    assert!(ran.code != 0 && ran.err.contains("shards are 0 to 29"), "{}", ran.err);
    let full = folder.path().join("full.txt");
    std::fs::write(&full, "2 2 1 2 0.5\n0 100 0\n1 100 0\n90 0\n40 1\n").unwrap();
    let ran = placement(&["explain", full.to_str().unwrap(), "0", "--work-limit", "5000"]);
    assert!(
        ran.out.contains("overfull: ") && ran.out.contains("node 0: 40 B above the watermark"),
        "{}",
        ran.out
    );
}

#[test]
fn an_interrupt_gives_the_best_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let path = instance(folder.path(), 30, 3000);
    interrupted(&path, &["--time-limit", "900"], "annealing");
    // In the middle of it, seconds later.
    interrupted(&path, &["--time-limit", "900"], " % of the limit");
}

/// Solves until it says that it is at that phase, and interrupts: what it says then.
fn interrupted(instance: &Path, more: &[&str], phase: &str) -> serde_json::Value {
    let solve = ["placement", "solve", instance.to_str().unwrap(), "--json"];
    let mut child = command(None, &[&solve[..], more].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next().expect("it goes on").unwrap().contains(phase) {}
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(lines.any(|line| line.unwrap().contains("best placement so far")));
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    let solved: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(solved["broken"], 0);
    assert!(solved["after"]["z"].as_f64() < solved["before"]["z"].as_f64());
    solved
}

#[test]
fn a_file_that_is_wrong_is_told_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.txt");
    let good = "3 2 2 3 0.85\n0 100 0\n1 100 0\n2 100 0\n10 0 1\n20 2 0\n";
    for (text, line, reason) in [
        (good[..29].to_owned(), 4, "the file ends here"),
        (good.replace("20 2", "20 5"), 6, "node 5 does not exist"),
        (good.replace("20 2 0", "20 0 0"), 6, "holds the same shard twice"),
        (good.replace("20 2", "-20 2"), 6, "a size must be"),
        (good.replace("3 2 2", "0 2 2"), 1, "nodes must be at least 1"),
        (good.replace("0.85", "NaN"), 1, "the watermark must be"),
        (good.replace("2 100 0", "2 -1 0"), 4, "a capacity must be"),
        (good.replace("2 100 0", "\n2 100 0"), 4, "this line is empty"),
    ] {
        std::fs::write(&path, text).unwrap();
        for verb in ["solve", "bench"] {
            let ran = placement(&[verb, path.to_str().unwrap()]);
            assert_eq!(ran.code, 1);
            assert!(ran.err.contains(&format!("bad.txt:{line}: ")), "{}", ran.err);
            assert!(ran.err.contains(reason) && ran.err.contains("CVH-0901"), "{}", ran.err);
        }
    }
}

#[test]
fn a_policy_file_says_what_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = instance(folder.path(), 5, 30);
    let (path, policy) = (path.to_str().unwrap(), folder.path().join("policy.toml"));
    let out = folder.path().join("solution.txt");
    let solve = |text: &str| {
        std::fs::write(&policy, text).unwrap();
        let (policy, out) = (policy.to_str().unwrap(), out.to_str().unwrap());
        let limits = ["--work-limit", "100000", "--plan", "--json"];
        placement(&[&["solve", path, "--policy", policy, "--out", out][..], &limits].concat())
    };
    let text = "order = [\"bytes\"]\n[waves]\ncopies_in_max = 1\n\
                [[shards]]\nshard = 4\npinned = [3]\n[[shards]]\nshard = 5\nfrozen = true\n\
                [[nodes]]\nnode = 4\ncordoned = true\n";
    let ran = solve(text);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let solved: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(solved["broken"], 0);
    let placed = std::fs::read_to_string(&out).unwrap();
    let rows: Vec<Vec<u32>> =
        placed.lines().map(|row| row.split(' ').map(|node| node.parse().unwrap()).collect()).collect();
    assert!(rows[4].contains(&3), "pinned: {:?}", rows[4]);
    assert_eq!(rows[5], [1, 2], "frozen");
    assert!(!rows.iter().any(|row| row.contains(&4)), "cordoned");
    let steps = solved["plan"]["steps"].as_array().unwrap();
    let mut copies = std::collections::BTreeSet::new();
    for step in steps.iter().filter(|step| step["action"] == "add") {
        assert!(
            copies.insert((step["wave"].as_u64(), step["node"].as_u64())),
            "one copy into a node: {step}"
        );
    }
    let ran = solve("[weights]\nbytes = 1.0\nreplica = 2.0\n");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("policy.toml:3: ") && ran.err.contains("CVH-0901"), "{}", ran.err);
}

/// HiGHS looks at no flag: what it is in the middle of is not waited for.
#[test]
fn an_interrupt_during_an_integer_program_gives_the_best_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let path = instance(folder.path(), 10, 240);
    let solved = interrupted(&path, &["--engine", "milp", "--work-limit", "3000000"], "integer program");
    assert!(solved["bound"].as_f64() > Some(0.0));
}
