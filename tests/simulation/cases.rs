//! Cases as files: the large ones, decisions row by row, known failures, and what cases may expect.

use converthouse::simulation::case::{Case, Issue};
use converthouse::simulation::{self, Run, case_file, figures, rows};
use expect_test::expect_file;
use std::fmt::Write as _;
use std::path::Path;

/// Of `simulations/large`, those that take seconds; the others take up to minutes also when optimised, and are played
/// by hand.
const QUICK: [&str; 5] =
    ["asim-add-node", "asim-heterogeneous", "pd-import-data", "pd-region-split", "redpanda-two-drains"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> Case {
    case_file::read(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_quick_large_case_holds() {
    let file = |name: &&str| root().join(format!("simulations/large/{name}.toml"));
    let cases: Vec<Case> = QUICK.iter().map(|name| read(&file(name))).collect();
    let runs = simulation::play_all(&cases, |_, _| {});
    let played = || cases.iter().zip(&runs);
    let failed: Vec<String> = played()
        .filter(|(_, run)| !run.passed())
        .map(|(case, run)| format!("{}: {:?} {:?}", case.name, run.failure, run.violations))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    expect_file!["../../simulations/large/figures.txt"].assert_eq(&figures::text(played()));
}

/// The others are not played, but they must be cases.
#[test]
fn every_large_case_can_be_read() {
    let files = case_file::find(&[root().join("simulations/large")]).expect("the folder can be read");
    let names: Vec<String> = files.iter().map(|file| read(file).name).collect();
    assert!(QUICK.iter().all(|quick| names.iter().any(|name| name == quick)), "{names:?}");
}

/// Every decision of a case that ships, row by row.
fn decides_as_before(name: &str) {
    let case = read(&root().join(format!("simulations/{name}.toml")));
    let run = simulation::play(&case);
    assert!(run.passed(), "{run}");
    let mut text = format!("# {}\n", case.about);
    run.rows.iter().for_each(|row| {
        let _ = writeln!(text, "{row}");
    });
    let end = rows::stamp(run.virtual_ms);
    let _ = writeln!(text, "{end} end: seed {}, {} events, digest {:016x}", run.seed, run.events, run.digest);
    expect_file![root().join(format!("simulations/golden/{name}.txt"))].assert_eq(&text);
}

#[test]
fn a_leader_that_dies_is_replaced_as_before() {
    decides_as_before("leader-dies");
}

#[test]
fn shards_are_merged_as_before() {
    decides_as_before("merge");
}

#[test]
fn a_zone_that_is_lost_is_left_as_before() {
    decides_as_before("zone-lost");
}

/// Two nodes, and a merge of shards that are no neighbours, which is refused.
const REFUSED: &str = r#"about = "what cannot be is asked for"
faults_end = "10s"
[world]
nodes = 2
[[table]]
name = "t"
partitions = 8
shards = 4
replicas = 2
[[event]]
at = "1s"
do = "merge"
table = "t"
left = 0
right = 2
[expect]
"#;

fn played(expect: &str) -> Run {
    let text = format!("{REFUSED}{expect}\n");
    simulation::play(&case_file::parse("c.toml", &text).unwrap_or_else(|error| panic!("{error}")))
}

#[test]
fn a_case_may_expect_shards_and_that_nothing_is_refused() {
    let run = played("shards = { t = [4, 4] }\nrefused_max = 1\ncopied_bytes_max = 0");
    assert!(run.passed(), "{run}");
    let told: Vec<String> = run.checks.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "bytes copied: 0, at most 0 expected",
            "requests that were refused: 1, at most 1 expected",
            "shards of t: 4, 4 to 4 expected",
        ]
    );
    let failure = |expect| played(expect).failure.expect("it does not hold");
    assert!(failure("refused_max = 0").contains("requests that were refused: 1, at most 0 expected"));
    assert!(failure("shards = { t = [3, 3] }").contains("shards of t: 4, 3 to 3 expected"));
}

#[test]
fn bytes_that_come_with_copies_are_counted() {
    let text = r#"about = "a replica with history moves"
faults_end = "60s"
[world]
nodes = 3
[policy]
balance = "off"
[[table]]
name = "t"
partitions = 2
shards = 2
replicas = 1
message = "1MiB"
history = 8
[[event]]
at = "1s"
do = "move"
table = "t"
shard = 0
from = "n1"
to = "n3"
[expect]
copied_bytes_max = "7MiB"
"#;
    let case = case_file::parse("c.toml", text).unwrap_or_else(|error| panic!("{error}"));
    let run = simulation::play(&case);
    assert_eq!(run.measures.copied_bytes, 8 << 20, "{run}");
    let failure = run.failure.expect("it does not hold");
    assert!(failure.contains("bytes copied: 8388608, at most 7340032 expected"), "{failure}");
}

/// What becomes of a case that is known to fail for want of 1 refusal, if its failure is to say this.
fn known(fails_with: &str, expect: &str) -> Option<String> {
    let text = format!("{REFUSED}{expect}\n");
    let case = case_file::parse("c.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    let issue = Issue { is: "#12".into(), fails_with: fails_with.into() };
    simulation::play(&Case { issue: Some(issue), ..case }).failure
}

#[test]
fn a_case_with_an_issue_fails_as_it_is_known_to_and_not_otherwise() {
    assert_eq!(known("requests that were refused: 1", "refused_max = 0"), None);
    let other = known("replicas on n1", "refused_max = 0").expect("another failure");
    assert!(
        other.starts_with("expected to fail with \"replicas on n1\" until #12 is solved, and"),
        "{other}"
    );
    assert!(other.contains("requests that were refused: 1"), "what it is: {other}");
    let solved = known("requests that were refused", "refused_max = 1").expect("it passes");
    assert!(solved.ends_with("and passed: remove `issue`"), "{solved}");
}
