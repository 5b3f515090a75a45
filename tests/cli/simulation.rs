//! `converthouse sim` and `converthouse trace` as commands: files in; tables, JSON, pages and exit statuses out.

use super::{Ran, offline};
use expect_test::expect_file;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A case in which nothing happens, so that its figures stay what they are.
const TINY: &str = r#"about = "two nodes at rest"
faults_end = "2s"

[world]
nodes = 2
readers = 0

[[table]]
name = "t"
partitions = 4
shards = 2
replicas = 2

[expect]
moves_max = 0
replicas_each = [2, 2]
"#;

/// A folder with one case.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::write(folder.case(), text).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn case(&self) -> PathBuf {
        self.path("tiny.toml")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn sim(arguments: &[&str]) -> Ran {
    offline(&[&["sim"], arguments].concat())
}

fn trace(arguments: &[&str]) -> Ran {
    offline(&[&["trace"], arguments].concat())
}

fn parsed(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", ran.out, ran.err))
}

/// The trace that ships: a week of a hundred nodes.
fn week() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations/traces/week.ndjson.zst")
}

/// A day of a few nodes.
fn day(folder: &Folder) -> PathBuf {
    let out = folder.path("day.ndjson");
    let ran = trace(&["generate", "--nodes", "6", "--days", "1", "--seed", "7", "--out", text(&out)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    out
}

#[test]
fn a_case_is_played_from_its_file_and_from_its_folder() {
    let folder = Folder::with(TINY);
    let ran = sim(&["run", text(&folder.case())]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    expect_file!["../golden/cli_sim_run.txt"].assert_eq(&ran.out);
    assert_eq!(sim(&["run", text(folder.0.path())]).out, ran.out);
    let rows = sim(&["run", text(&folder.case()), "--rows"]);
    assert!(
        rows.out.starts_with("tiny: two nodes at rest\n") && rows.out.ends_with(&ran.out),
        "{}",
        rows.out
    );
    assert!(rows.out.contains("cluster leader n"), "{}", rows.out);
}

#[test]
fn a_case_that_does_not_hold_ends_with_1_and_says_what_came() {
    let folder = Folder::with(&TINY.replace("[2, 2]", "[3, 3]"));
    let ran = sim(&["run", text(&folder.case())]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("1 of 1 cases do not hold: tiny"), "{}", ran.err);
    assert!(ran.out.contains("replicas on n1: 2, 3 to 3 expected; replicas on n2: 2"), "{}", ran.out);
}

#[test]
fn a_case_is_played_by_other_engines_and_with_another_seed() {
    let folder = Folder::with(TINY);
    let ran = sim(&["run", text(&folder.case()), "--engine", "greedy", "--engine", "hybrid"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("tiny (greedy)  ") && ran.out.contains("tiny (hybrid)  "), "{}", ran.out);
    assert_eq!(sim(&["run", text(&folder.case()), "--engine", "oracle"]).code, 2);
    // Readers ask by chance; a cluster at rest knows none.
    let folder = Folder::with(&TINY.replace("readers = 0", "readers = 1"));
    let with = |seed| parsed(&sim(&["run", text(&folder.case()), "--seed", seed, "--json"]));
    let seeds = ["5", "5", "6"].map(with);
    assert_eq!((&seeds[0][0]["seed"], &seeds[2][0]["seed"]), (&5.into(), &6.into()));
    assert_eq!(seeds[0], seeds[1], "a run repeats, also in another process");
    assert_ne!(seeds[0][0]["digest"], seeds[2][0]["digest"]);
}

#[test]
fn programs_see_what_the_table_shows_and_more() {
    let folder = Folder::with(TINY);
    let report = folder.path("report.html");
    let ran = sim(&["run", text(&folder.case()), "--json", "--report", text(&report)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let case = &parsed(&ran)[0];
    let keys: Vec<&str> = case.as_object().unwrap().keys().map(String::as_str).collect();
    expect_file!["../golden/cli_sim_run_keys.txt"].assert_eq(&(keys.join("\n") + "\n"));
    assert_eq!((&case["passed"], &case["measures"]["copied_bytes"]), (&true.into(), &0.into()));
    assert_eq!(case["checks"][0]["what"], "replicas added");
    let page = std::fs::read_to_string(&report).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("two nodes at rest"), "the report");
    let ran = sim(&["run", text(&folder.case()), "--report", text(&folder.path("no/such/folder.html"))]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("folder.html") && ran.err.contains("may be written"), "{}", ran.err);
}

#[test]
fn cases_that_cannot_be_read_are_wrong_usage() {
    let folder = Folder::with(&TINY.replace("replicas = 2", "replicas = 3"));
    let ran = sim(&["run", text(&folder.case())]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("tiny.toml:12: table t: replicas must be 1 to 2"), "{}", ran.err);
    assert!(ran.err.contains("[CVH-1101]"), "{}", ran.err);
    let ran = sim(&["run", text(&folder.path("none.toml"))]);
    assert!(ran.code == 2 && ran.err.contains("none.toml:1: "), "{}", ran.err);
    std::fs::remove_file(folder.case()).unwrap();
    let ran = sim(&["run", text(folder.0.path())]);
    assert!(ran.code == 2 && ran.err.contains("there is no case"), "{}", ran.err);
}

#[test]
fn the_case_that_sim_new_prints_can_be_played() {
    let new = sim(&["new"]);
    assert_eq!(new.code, 0);
    let folder = Folder::with(&new.out);
    let ran = sim(&["run", text(&folder.case())]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}

#[test]
fn a_sweep_tells_how_much_it_played_and_repeats_a_seed() {
    let ran = sim(&["sweep", "--seeds", "3"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("3 seeds, ") && ran.out.ends_with(", 0 failed\n"), "{}", ran.out);
    let json = parsed(&sim(&["sweep", "--seeds", "3", "--json"]));
    assert_eq!(
        (&json["seeds"], &json["from"], &json["failed"]),
        (&3.into(), &1.into(), &Value::Array(vec![]))
    );
    assert!(ran.out.contains(json["digest"].as_str().unwrap()), "the same in both: {}", ran.out);
    let one = sim(&["sweep", "--seed", "2"]);
    assert_eq!(one.code, 0, "{}", one.err);
    assert!(one.out.starts_with("Case {") && one.out.contains("seed 2 "), "{}", one.out);
    assert_eq!(sim(&["sweep", "--seed", "2", "--seeds", "3"]).code, 2);
}

#[test]
fn a_trace_that_is_made_up_is_the_same_again_and_is_shown() {
    let folder = Folder::with(TINY);
    let out = day(&folder);
    let first = std::fs::read(&out).unwrap();
    assert_eq!(std::fs::read(day(&folder)).unwrap(), first);
    let ran = trace(&["show", text(&out)]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    expect_file!["../golden/cli_trace_show.txt"].assert_eq(&ran.out);
    let packed = folder.path("day.ndjson.zst");
    let ran =
        trace(&["generate", "--nodes", "6", "--days", "1", "--seed", "7", "--out", text(&packed), "--json"]);
    assert_eq!(
        parsed(&ran)["lines"],
        first.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
    );
    let shown = |path: &Path| parsed(&trace(&["show", text(path), "--json"]));
    assert_eq!(shown(&packed), shown(&out), "compressed or not");
    assert_eq!(shown(&week())["nodes"], 100);
    assert_eq!(trace(&["generate", "--nodes", "2", "--out", text(&out)]).code, 2);
}

#[test]
fn a_trace_that_is_cut_short_is_told_with_its_line() {
    let folder = Folder::with(TINY);
    let out = day(&folder);
    let whole = std::fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    std::fs::write(&out, format!("{}\n{}", lines[..9].join("\n"), &lines[9][..20])).unwrap();
    for command in [&["trace", "show"][..], &["sim", "what-if"], &["sim", "replay"]] {
        let ran = offline(&[command, &[text(&out)]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{command:?}");
        assert!(ran.err.contains("day.ndjson:10: "), "{command:?}: {}", ran.err);
    }
}

#[test]
fn what_if_plans_for_other_nodes() {
    let folder = Folder::with(TINY);
    let out = day(&folder);
    let ran = sim(&["what-if", text(&out), "--add", "1", "--drain", "n2"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    expect_file!["../golden/cli_sim_what_if.txt"].assert_eq(&ran.out);
    let json = parsed(&sim(&["what-if", text(&out), "--add", "1", "--drain", "n2", "--json"]));
    // All disks are full: what the plan says stays does stay, and nothing else does.
    let plan = &json["plan"];
    let on = |shard: &Value| (shard["table"].to_string(), shard["shard"].to_string());
    let stays: BTreeSet<_> =
        plan["stays"].as_array().unwrap().iter().filter(|s| s["reason"] == "no_room").map(on).collect();
    let leaves = |of: &&Value| of["remove"].as_array().unwrap().iter().any(|node| node == "n2");
    let short = plan["moves"].as_array().unwrap().iter().filter(leaves).filter(|of| stays.contains(&on(of)));
    assert_eq!(json["nodes"]["n2"][1]["replicas"], short.count(), "{}", json["nodes"]["n2"]);
    let (now, then) = (&json["nodes"]["new1"][0]["bytes"], json["nodes"]["new1"][1]["bytes"].as_u64());
    assert!(now == 0 && then <= plan["bytes"].as_u64() && then > Some(0), "{then:?} of {}", plan["bytes"]);
    let ran = sim(&["what-if", text(&out), "--drain", "n99"]);
    assert!(ran.code == 1 && ran.err.contains("n99"), "{}", ran.err);
    assert_eq!(sim(&["what-if", text(&out), "--capacity", "1TB"]).code, 2, "of which node?");
    let json =
        parsed(&sim(&["what-if", text(&week()), "--at", "1h", "--engine", "greedy", "--add", "2", "--json"]));
    assert_eq!(json["added"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_trace_is_played_again() {
    let folder = Folder::with(TINY);
    let out = day(&folder);
    let ran = sim(&["replay", text(&out), "--until", "30m", "--engine", "greedy", "--engine", "pinned"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    expect_file!["../golden/cli_sim_replay.txt"].assert_eq(&ran.out);
    let json = parsed(&sim(&["replay", text(&week()), "--until", "10m", "--engine", "greedy", "--json"]));
    assert_eq!(json["replayed"][0]["engine"], "greedy");
    assert!(json["recorded"]["worst_milli"].as_u64() >= Some(1_000), "{json}");
}
