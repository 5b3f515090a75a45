//! Instance and solution files: the text formats of `scripts/placement/generate.py` and `evaluate.py`.
//!
//! Every way in which a file can be wrong is answered with the file, the line and the reason. Reading and
//! writing is from and to text; the command line opens the files.
//!
//! ```text
//! N S R Z watermark            nodes, shards, replicas a shard, zones, share of disk that may be filled
//! zone capacity drained        N lines; drained is 0 or 1
//! size node_1 .. node_R        S lines; the leader first
//! ```
//! A solution is S lines of R node numbers, the leader first.

use super::constraint::{Broken, broken};
use super::policy::Policy;
use super::policy_file::PolicyFile;
use super::problem::{NONE, NodeSpec, Problem, ShardSpec};
use super::snapshot::Load;
use super::solution::Solution;
use crate::error::{Code, Coded, Retry, ranges};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Why a file is not an instance, a solution or a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct InstanceError {
    /// The file as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The file ends too early.
    #[error("the file ends here, {expected} expected (truncated?)")]
    Truncated {
        /// What should have come.
        expected: String,
    },
    /// An empty line with more lines after it.
    #[error("this line is empty, {expected} expected")]
    Blank {
        /// What should be there.
        expected: String,
    },
    /// More lines than the header announces.
    #[error("nothing more expected, found {found:?}")]
    Trailing {
        /// The first words.
        found: String,
    },
    /// Not as many fields as there should be.
    #[error("{expected} fields expected ({meaning}), found {found}")]
    Fields {
        /// How many.
        expected: usize,
        /// Their meaning.
        meaning: String,
        /// How many there are.
        found: usize,
    },
    /// A field that is not what it should be.
    #[error("{field} must be {rule}, found {found:?}")]
    Field {
        /// Its meaning.
        field: &'static str,
        /// The rule that it breaks.
        rule: String,
        /// The text.
        found: String,
    },
    /// A node that does not exist.
    #[error("node {node} does not exist: nodes are 0 to {last}")]
    UnknownNode {
        /// The number given.
        node: u64,
        /// The last node.
        last: usize,
    },
    /// Two replicas of a shard on one node.
    #[error("node {node} holds the same shard twice")]
    DuplicateReplica {
        /// The node.
        node: u64,
    },
    /// A policy that is wrong.
    #[error("{reason}")]
    Policy {
        /// What is wrong with it.
        reason: String,
    },
    /// A number of things that must be at least one.
    #[error("{what} must be at least 1, found 0")]
    Zero {
        /// Nodes, replicas, zones or a capacity.
        what: &'static str,
    },
}

impl Coded for InstanceError {
    fn code(&self) -> Code {
        Code(ranges::PLACEMENT + 1)
    }
    fn retry(&self) -> Retry {
        Retry::Never
    }
    fn remedy(&self) -> &'static str {
        "correct the named line, or generate the file anew"
    }
}

/// An instance as read: a problem and what a solution file must look like.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Nodes.
    pub nodes: Vec<NodeSpec>,
    /// Bytes of a replica, by shard.
    pub sizes: Vec<u64>,
    /// Present nodes, shard after shard, the leader first.
    pub present: Vec<u32>,
    /// Replicas a shard.
    pub replicas: u32,
    /// Share of disk that may be filled.
    pub watermark: f64,
}

impl Instance {
    /// The problem under the policy that `evaluate.py` judges by.
    pub fn problem(&self) -> Problem {
        self.problem_with(&Policy::yardstick(self.watermark), &PolicyFile::default())
    }

    /// The problem under a policy, with what a file says of nodes and shards.
    pub fn problem_with(&self, policy: &Policy, file: &PolicyFile) -> Problem {
        let named = file.shards();
        let shard = |(shard, (&bytes, present)): (usize, (&u64, &[u32]))| {
            let mut spec = ShardSpec {
                load: Load { bytes, ..Load::default() },
                replicas: self.replicas,
                present: present.to_vec(),
                ..ShardSpec::default()
            };
            if named.binary_search(&shard).is_ok() {
                file.apply_to_shard(shard, &mut spec);
            }
            spec
        };
        let rows = self.sizes.iter().zip(self.present.chunks(self.replicas as usize)).enumerate();
        let mut nodes = self.nodes.clone();
        file.apply_to_nodes(&mut nodes);
        Problem::new(nodes, rows.map(shard), policy)
    }

    /// Reads an instance; `file` is its name in errors.
    pub fn read(file: &str, text: &str) -> Result<Self, InstanceError> {
        let mut lines = Lines::new(file, text);
        let head = lines.next_line("the header `N S R Z watermark`")?;
        let [nodes, shards, replicas, zones, watermark] = lines.fields(head, HEADER)?;
        let nodes = lines.count(nodes, "nodes", 50_000_000)?;
        let shards = lines.count_or_none(shards, "shards", 1 << 31)?;
        let replicas = lines.count(replicas, "replicas", 255)?;
        let zones = lines.count(zones, "zones", 50_000_000)?;
        let rule = || "a number above 0 and at most 1".to_owned();
        let watermark = match watermark.parse::<f64>() {
            Ok(number) if number > 0.0 && number <= 1.0 => number,
            _ => return Err(lines.field("the watermark", rule(), watermark)),
        };
        let mut instance = Self {
            nodes: Vec::new(),
            sizes: Vec::with_capacity(shards.min(1 << 20)),
            present: Vec::with_capacity((shards * replicas).min(1 << 20)),
            replicas: replicas as u32,
            watermark,
        };
        for node in 0..nodes {
            let line = lines.next_line(&format!("node {node} of {nodes}"))?;
            instance.nodes.push(lines.node(line, node as u32, zones)?);
        }
        instance.rank_zones();
        let mut all = 0u64;
        for shard in 0..shards {
            let line = lines.next_line_or(|| format!("shard {shard} of {shards}"))?;
            let (size, present) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let bytes = lines.size("a size", size)?;
            // Each replica, and one more that is on its way.
            all = all.saturating_add(bytes.saturating_mul(replicas as u64 + 1));
            if all > ALL_MAX {
                let rule = "at most 2^62 bytes with all other replicas".to_owned();
                return Err(lines.field("a size", rule, size));
            }
            instance.sizes.push(bytes);
            instance.present.extend(lines.replicas(present, replicas, nodes, 1)?);
        }
        lines.end()?;
        Ok(instance)
    }

    /// Numbers the zones that nodes are in one after the other: a file may skip millions, and engines count by zone.
    fn rank_zones(&mut self) {
        let zones: BTreeSet<u32> = self.nodes.iter().map(|node| node.zone).collect();
        let ranks: BTreeMap<u32, u32> = zones.into_iter().zip(0..).collect();
        self.nodes.iter_mut().for_each(|node| node.zone = ranks[&node.zone]);
    }

    /// Reads a solution of this instance.
    pub fn read_solution(&self, file: &str, text: &str) -> Result<Vec<Vec<u32>>, InstanceError> {
        let mut lines = Lines::new(file, text);
        let mut placed = Vec::with_capacity(self.sizes.len());
        for shard in 0..self.sizes.len() {
            let line = lines.next_line_or(|| format!("shard {shard} of {}", self.sizes.len()))?;
            placed.push(lines.replicas(line, self.replicas as usize, self.nodes.len(), 0)?);
        }
        lines.end()?;
        Ok(placed)
    }
}

/// The nodes of every shard in a solution file, the leader first: as many as were asked for. Where fewer may be placed,
/// present copies that are in no one's place follow, though they break a rule where they are.
pub fn rows(problem: &Problem, solution: &Solution) -> Vec<Vec<u32>> {
    let row = |shard: usize| {
        let placed = solution.of(problem, shard).iter().copied().filter(|&node| node != NONE);
        let mut row: Vec<u32> = placed.collect();
        let others: Vec<u32> =
            problem.present(shard).iter().copied().filter(|node| !row.contains(node)).collect();
        row.extend(others.into_iter().take(problem.asked(shard).saturating_sub(row.len())));
        row
    };
    (0..problem.shards()).map(row).collect()
}

/// Rows of a solution file as a solution, and the rules that they break. Of a row with more nodes than the shard can
/// have replicas, those that may not hold it are in no slot and break a rule each.
pub fn judged(problem: &Problem, rows: &[Vec<u32>]) -> (Solution, Vec<Broken>) {
    let mut solution = Solution::empty(problem);
    let mut beyond = Vec::new();
    for (shard, row) in rows.iter().enumerate() {
        let mut row = row.clone();
        let slots = &mut solution.nodes[problem.slots(shard)];
        if row.len() > slots.len() {
            row.sort_by_key(|&node| !problem.may_hold(shard, node));
        }
        let left = row.get(slots.len()..).unwrap_or_default();
        beyond.extend(left.iter().map(|&node| Broken::Forbidden { shard: shard as u32, node }));
        slots.iter_mut().zip(&row).for_each(|(slot, &node)| *slot = node);
    }
    let mut rules = broken(problem, &solution);
    rules.extend(beyond);
    rules.sort_unstable();
    (solution, rules)
}

/// Writes a solution.
pub fn write_solution(problem: &Problem, solution: &Solution) -> String {
    let mut text = String::with_capacity(problem.replicas() * 6);
    for row in rows(problem, solution) {
        for (index, node) in row.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            let _ = write!(text, "{gap}{node}");
        }
        text.push('\n');
    }
    text
}

/// Bytes of all replicas: sums of them are added up.
const ALL_MAX: u64 = 1 << 62;

const HEADER: &str = "nodes shards replicas zones watermark";

struct Lines<'a> {
    file: &'a str,
    lines: std::str::Lines<'a>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, lines: text.lines(), number: 0 }
    }

    fn fail(&self, reason: Reason) -> InstanceError {
        InstanceError { file: self.file.to_owned(), line: self.number.max(1), reason }
    }

    fn field(&self, field: &'static str, rule: String, found: &str) -> InstanceError {
        let found = found.chars().take(40).collect();
        self.fail(Reason::Field { field, rule, found })
    }

    fn next_line(&mut self, expected: &str) -> Result<&'a str, InstanceError> {
        self.next_line_or(|| expected.to_owned())
    }

    fn next_line_or(&mut self, expected: impl Fn() -> String) -> Result<&'a str, InstanceError> {
        self.number += 1;
        match self.lines.next().map(str::trim) {
            Some(line) if !line.is_empty() => Ok(line),
            Some(_) if self.lines.clone().any(|line| !line.trim().is_empty()) => {
                Err(self.fail(Reason::Blank { expected: expected() }))
            }
            _ => Err(self.fail(Reason::Truncated { expected: expected() })),
        }
    }

    fn end(&mut self) -> Result<(), InstanceError> {
        for line in self.lines.by_ref() {
            self.number += 1;
            if !line.trim().is_empty() {
                let found = line.trim().chars().take(40).collect();
                return Err(self.fail(Reason::Trailing { found }));
            }
        }
        Ok(())
    }

    fn fields<const K: usize>(&self, line: &'a str, meaning: &str) -> Result<[&'a str; K], InstanceError> {
        let mut fields = [""; K];
        let mut found = 0;
        for word in line.split_whitespace() {
            if let Some(field) = fields.get_mut(found) {
                *field = word;
            }
            found += 1;
        }
        let reason = || Reason::Fields { expected: K, meaning: meaning.to_owned(), found };
        if found == K { Ok(fields) } else { Err(self.fail(reason())) }
    }

    fn count_or_none(&self, text: &str, what: &'static str, max: usize) -> Result<usize, InstanceError> {
        match text.parse::<usize>() {
            Ok(number) if number <= max => Ok(number),
            _ => Err(self.field(what, format!("a whole number up to {max}"), text)),
        }
    }

    fn count(&self, text: &str, what: &'static str, max: usize) -> Result<usize, InstanceError> {
        match self.count_or_none(text, what, max)? {
            0 => Err(self.fail(Reason::Zero { what })),
            number => Ok(number),
        }
    }

    fn size(&self, what: &'static str, text: &str) -> Result<u64, InstanceError> {
        match text.parse::<u64>() {
            Ok(number) if number < 1 << 53 => Ok(number),
            _ => Err(self.field(what, "a whole number from 0 up to 2^53".to_owned(), text)),
        }
    }

    fn node(&self, line: &'a str, node: u32, zones: usize) -> Result<NodeSpec, InstanceError> {
        let [zone, capacity, drained] = self.fields(line, "zone capacity drained")?;
        let zone = match zone.parse::<u32>() {
            Ok(zone) if (zone as usize) < zones => zone,
            _ => return Err(self.field("a zone", format!("a number below {zones}"), zone)),
        };
        let capacity_bytes = match self.size("a capacity", capacity)? {
            0 => return Err(self.fail(Reason::Zero { what: "a capacity" })),
            bytes => bytes,
        };
        let takes = match drained {
            "0" => true,
            "1" => false,
            _ => return Err(self.field("drained", "0 or 1".to_owned(), drained)),
        };
        Ok(NodeSpec { zone, rack: node, capacity_bytes, weight: 1.0, takes, holds: takes })
    }

    fn replicas(
        &self,
        text: &str,
        replicas: usize,
        nodes: usize,
        before: usize,
    ) -> Result<Vec<u32>, InstanceError> {
        let mut placed: Vec<u32> = Vec::with_capacity(replicas);
        let mut found = 0;
        for word in text.split_whitespace() {
            found += 1;
            let rule = || "a node number".to_owned();
            let node: u64 = word.parse().map_err(|_| self.field("a replica", rule(), word))?;
            if node >= nodes as u64 {
                return Err(self.fail(Reason::UnknownNode { node, last: nodes - 1 }));
            }
            if placed.contains(&(node as u32)) {
                return Err(self.fail(Reason::DuplicateReplica { node }));
            }
            placed.push(node as u32);
        }
        if found != replicas {
            let meaning = if before > 0 { "size, then replicas" } else { "replicas" }.to_owned();
            let (expected, found) = (replicas + before, found + before);
            return Err(self.fail(Reason::Fields { expected, meaning, found }));
        }
        Ok(placed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const GOOD: &str = "3 2 2 3 0.85\n0 100 0\n1 100 0\n2 100 1\n10 0 1\n20 2 0\n";

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&Instance::read("i.txt", text).unwrap_err().to_string());
    }

    #[test]
    fn a_good_instance_reads_and_its_solution_round_trips() {
        let instance = Instance::read("i.txt", GOOD).unwrap();
        let problem = instance.problem();
        let solution = Solution::present(&problem);
        let text = write_solution(&problem, &solution);
        assert_eq!(text, "0 1\n2 0\n");
        assert_eq!(instance.read_solution("s.txt", &text).unwrap(), [[0, 1], [2, 0]]);
    }

    #[test]
    fn zones_that_nobody_is_in_cost_nothing() {
        let far = GOOD.replace("3 2 2 3 ", "3 2 2 50000000 ").replace("2 100 1", "49999999 100 1");
        let nodes = |text: &str| Instance::read("i.txt", text).unwrap().nodes;
        assert_eq!(nodes(GOOD), nodes(&far));
    }

    #[test]
    fn a_bad_instance_names_file_line_and_reason() {
        check(
            "",
            expect!["i.txt:1: the file ends here, the header `N S R Z watermark` expected (truncated?)"],
        );
        check(
            "3 2 2 3",
            expect!["i.txt:1: 5 fields expected (nodes shards replicas zones watermark), found 4"],
        );
        check("0 2 2 3 0.85", expect!["i.txt:1: nodes must be at least 1, found 0"]);
        check(
            "3 2 2 3 NaN",
            expect![[r#"i.txt:1: the watermark must be a number above 0 and at most 1, found "NaN""#]],
        );
        check(&GOOD[..40], expect!["i.txt:5: 3 fields expected (size, then replicas), found 1"]);
        check(
            &GOOD.replace("20 2 0\n", ""),
            expect!["i.txt:6: the file ends here, shard 1 of 2 expected (truncated?)"],
        );
        check(&GOOD.replace("20 2 0", "20 3 0"), expect!["i.txt:6: node 3 does not exist: nodes are 0 to 2"]);
        check(&GOOD.replace("20 2 0", "20 2 2"), expect!["i.txt:6: node 2 holds the same shard twice"]);
        check(
            &GOOD.replace("20 2", "-20 2"),
            expect![[r#"i.txt:6: a size must be a whole number from 0 up to 2^53, found "-20""#]],
        );
        let many = format!("1 2000 1 1 0.85\n0 100 0\n{}", format!("{} 0\n", (1u64 << 53) - 1).repeat(2_000));
        check(
            &many,
            expect![
                "i.txt:259: a size must be at most 2^62 bytes with all other replicas, found \"9007199254740991\""
            ],
        );
        check(
            &GOOD.replace("20 2", "nan 2"),
            expect![[r#"i.txt:6: a size must be a whole number from 0 up to 2^53, found "nan""#]],
        );
        check(
            &GOOD.replace("1 100 0", "9 100 0"),
            expect![[r#"i.txt:3: a zone must be a number below 3, found "9""#]],
        );
        check(&GOOD.replace("1 100 0", "1 0 0"), expect!["i.txt:3: a capacity must be at least 1, found 0"]);
        check(
            &GOOD.replace("1 100 0", "1 inf 0"),
            expect![[r#"i.txt:3: a capacity must be a whole number from 0 up to 2^53, found "inf""#]],
        );
        check(
            &GOOD.replace("2 100 1", "2 100 x"),
            expect![[r#"i.txt:4: drained must be 0 or 1, found "x""#]],
        );
        check(
            &GOOD.replace("10 0 1", "\n10 0 1"),
            expect!["i.txt:5: this line is empty, shard 0 of 2 expected"],
        );
        check(&format!("{GOOD}\n1 2 3\n"), expect![[r#"i.txt:8: nothing more expected, found "1 2 3""#]]);
    }

    #[test]
    fn a_bad_solution_names_file_line_and_reason() {
        let instance = Instance::read("i.txt", GOOD).unwrap();
        let fail = |text: &str| instance.read_solution("s.txt", text).unwrap_err().to_string();
        assert_eq!(fail("0 1\n"), "s.txt:2: the file ends here, shard 1 of 2 expected (truncated?)");
        assert_eq!(fail("0 1\n0 7\n"), "s.txt:2: node 7 does not exist: nodes are 0 to 2");
        assert_eq!(fail("0 1\n0 0\n"), "s.txt:2: node 0 holds the same shard twice");
        assert_eq!(fail("0 1\n0 1\n2"), "s.txt:3: nothing more expected, found \"2\"");
    }
}
