//! Policy files: what the operator wants of placement, as TOML, for instance files.
//!
//! ```toml
//! share = "equal"              # or "weight": what counts are shared by
//! watermark = 0.8              # share of a disk that may be filled; the instance's if not given
//! hysteresis = 0.01            # what a proposal has to better the score by
//! order = ["bytes", "moved"]   # each goal named weighs ORDER_FACTOR times as much as the next; the rest come last
//!
//! [weights]                    # within their rank; 0 switches a goal off
//! bytes = 2.0
//! [tolerance]                  # deviations up to these count as none
//! bytes = 0.05
//! [waves]
//! copies_per_table_max = 4
//! [[nodes]]
//! node = 3
//! cordoned = true              # keeps what it has, takes nothing new
//! [[shards]]
//! shard = 7
//! pinned = [0]
//! excluded = [2]
//! table = 1                    # instance files have no tables, nor rates: table 0 and none if not given
//! write_rate = 20.0
//! read_rate = 5.0
//! ```
//! Every way in which a file can be wrong is answered with the file, the line and the reason. It opens no file.

use super::instance::{InstanceError, Reason};
use super::policy::{Goal, ORDER_FACTOR, Policy, Share, Tolerance, Weights};
use super::problem::{NodeSpec, ShardSpec};
use super::sequence::WaveLimits;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

/// A policy file as read and checked against an instance.
#[derive(Debug, Clone, Default)]
pub struct PolicyFile {
    /// Limits of waves.
    pub waves: WaveLimits,
    written: Written,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    goal: Option<Goal>,
    share: Option<Share>,
    watermark: Option<Spanned<f64>>,
    hysteresis: Option<Spanned<f64>>,
    bytes_max: Option<u64>,
    moves_max: Option<u64>,
    order: Vec<Spanned<String>>,
    weights: BTreeMap<String, Spanned<f64>>,
    tolerance: BTreeMap<String, Spanned<f64>>,
    waves: Waves,
    nodes: Vec<NodeRule>,
    shards: Vec<ShardRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Waves {
    copies_in_max: Option<Spanned<u32>>,
    copies_out_max: Option<Spanned<u32>>,
    copies_per_table_max: Option<Spanned<u32>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeRule {
    node: Spanned<u64>,
    weight: Option<Spanned<f64>>,
    rack: Option<Spanned<u64>>,
    #[serde(default)]
    cordoned: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardRule {
    shard: Spanned<u64>,
    #[serde(default)]
    pinned: Vec<Spanned<u64>>,
    #[serde(default)]
    excluded: Vec<Spanned<u64>>,
    #[serde(default)]
    frozen: bool,
    table: Option<Spanned<u64>>,
    write_rate: Option<Spanned<f64>>,
    read_rate: Option<Spanned<f64>>,
}

/// Racks of an instance are numbered by node, so those of a file come after them.
const RACKS: u32 = 1 << 30;

impl PolicyFile {
    /// Reads a policy for an instance of so many nodes and shards of so many replicas; `file` is its name in errors.
    pub fn read(file: &str, text: &str, size: (usize, usize, u32)) -> Result<Self, InstanceError> {
        let place = Place { file, text };
        let written: Written = toml::from_str(text).map_err(|e| {
            let reason = Reason::Policy { reason: e.message().to_owned() };
            place.fail(e.span().map_or(0, |span| span.start), reason)
        })?;
        place.check(&written, size)?;
        let (usual, waves) = (WaveLimits::default(), &written.waves);
        let or =
            |limit: &Option<Spanned<u32>>, usual: u32| limit.as_ref().map_or(usual, |limit| *limit.get_ref());
        let waves = WaveLimits {
            copies_in_max: or(&waves.copies_in_max, usual.copies_in_max),
            copies_out_max: or(&waves.copies_out_max, usual.copies_out_max),
            copies_per_table_max: or(&waves.copies_per_table_max, usual.copies_per_table_max),
            ..usual
        };
        Ok(Self { waves, written })
    }

    /// The policy: what the file says, and `base` for the rest.
    pub fn policy(&self, base: Policy) -> Policy {
        let written = &self.written;
        let number = |given: &Option<Spanned<f64>>, base: f64| given.as_ref().map_or(base, |n| *n.get_ref());
        let mut weights = base.weights;
        for (name, weight) in &written.weights {
            if let Some(field) = weights.named(name) {
                *field = *weight.get_ref();
            }
        }
        let mut tolerance = base.tolerance;
        for (name, off) in &written.tolerance {
            if let Some(field) = tolerance.named(name) {
                *field = *off.get_ref();
            }
        }
        for (rank, name) in written.order.iter().rev().enumerate() {
            if let Some(field) = weights.named(name.get_ref()) {
                *field *= ORDER_FACTOR.powi(rank as i32 + 1);
            }
        }
        Policy {
            weights,
            tolerance,
            share: written.share.unwrap_or(base.share),
            goal: written.goal.unwrap_or(base.goal),
            watermark: number(&written.watermark, base.watermark),
            hysteresis: number(&written.hysteresis, base.hysteresis),
            bytes_max: written.bytes_max.or(base.bytes_max),
            moves_max: written.moves_max.or(base.moves_max),
        }
    }

    /// What the file says of an instance's nodes.
    pub fn apply_to_nodes(&self, nodes: &mut [NodeSpec]) {
        for rule in &self.written.nodes {
            let Some(node) = nodes.get_mut(*rule.node.get_ref() as usize) else { continue };
            if let Some(weight) = &rule.weight {
                node.weight = *weight.get_ref();
            }
            node.rack = rule.rack.as_ref().map_or(node.rack, |rack| RACKS + *rack.get_ref() as u32);
            node.takes &= !rule.cordoned;
        }
    }

    /// What the file says of a shard.
    pub fn apply_to_shard(&self, shard: usize, spec: &mut ShardSpec) {
        let at = |nodes: &[Spanned<u64>]| -> Vec<u32> {
            let mut nodes: Vec<u32> = nodes.iter().map(|node| *node.get_ref() as u32).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes
        };
        for rule in self.written.shards.iter().filter(|rule| *rule.shard.get_ref() == shard as u64) {
            spec.pinned = at(&rule.pinned);
            spec.excluded = at(&rule.excluded);
            spec.frozen = rule.frozen;
            spec.table = rule.table.as_ref().map_or(0, |table| *table.get_ref() as u32);
            let rate = |rate: &Option<Spanned<f64>>| rate.as_ref().map_or(0.0, |rate| *rate.get_ref());
            (spec.load.write_rate, spec.load.read_rate) = (rate(&rule.write_rate), rate(&rule.read_rate));
        }
    }

    /// Shards that the file speaks of, sorted.
    pub fn shards(&self) -> Vec<usize> {
        let mut shards: Vec<usize> =
            self.written.shards.iter().map(|rule| *rule.shard.get_ref() as usize).collect();
        shards.sort_unstable();
        shards
    }
}

/// Where in the file something is.
struct Place<'a> {
    file: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn fail(&self, at: usize, reason: Reason) -> InstanceError {
        let before = self.text.get(..at.min(self.text.len())).unwrap_or("");
        let line = before.matches('\n').count() + 1;
        InstanceError { file: self.file.to_owned(), line, reason }
    }

    fn refuse<T>(&self, at: &Spanned<T>, reason: String) -> InstanceError {
        self.fail(at.span().start, Reason::Policy { reason })
    }

    fn number(
        &self,
        what: &str,
        number: &Spanned<f64>,
        (least, most): (f64, f64),
    ) -> Result<(), InstanceError> {
        let found = *number.get_ref();
        if found >= least && found <= most {
            return Ok(());
        }
        Err(self.refuse(number, format!("{what} must be a number from {least} to {most}, found {found}")))
    }

    fn node(&self, node: &Spanned<u64>, nodes: usize) -> Result<(), InstanceError> {
        let number = *node.get_ref();
        if number < nodes as u64 {
            return Ok(());
        }
        let last = nodes.saturating_sub(1);
        Err(self.fail(node.span().start, Reason::UnknownNode { node: number, last }))
    }

    fn check(
        &self,
        written: &Written,
        (nodes, shards, replicas): (usize, usize, u32),
    ) -> Result<(), InstanceError> {
        if let Some(watermark) = &written.watermark {
            self.number("the watermark", watermark, (1e-6, 1.0))?;
        }
        if let Some(hysteresis) = &written.hysteresis {
            self.number("the hysteresis", hysteresis, (0.0, 1e6))?;
        }
        for (name, weight) in &written.weights {
            if Weights::default().named(name).is_none() {
                return Err(
                    self.refuse(weight, format!("there is no goal {name:?}: {}", Weights::NAMES.join(", ")))
                );
            }
            self.number("a weight", weight, (0.0, 1e6))?;
        }
        for (name, off) in &written.tolerance {
            if Tolerance::default().named(name).is_none() {
                let names = Tolerance::NAMES.join(", ");
                return Err(self.refuse(off, format!("there is no tolerance {name:?}: {names}")));
            }
            self.number("a tolerance", off, (0.0, 1e3))?;
        }
        self.order(&written.order)?;
        let waves = &written.waves;
        for limit in
            [&waves.copies_in_max, &waves.copies_out_max, &waves.copies_per_table_max].into_iter().flatten()
        {
            if *limit.get_ref() == 0 {
                return Err(self.refuse(limit, "a limit of copies must be at least 1, found 0".to_owned()));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for rule in &written.nodes {
            self.node(&rule.node, nodes)?;
            if !seen.insert(*rule.node.get_ref()) {
                return Err(self.refuse(&rule.node, format!("node {} is there twice", rule.node.get_ref())));
            }
            if let Some(weight) = &rule.weight {
                self.number("a node's weight", weight, (1e-3, 1e6))?;
            }
            if let Some(rack) = rule.rack.as_ref().filter(|rack| *rack.get_ref() >= u64::from(RACKS)) {
                return Err(self.refuse(rack, format!("a rack must be a number below {RACKS}")));
            }
        }
        self.shards(&written.shards, (nodes, shards, replicas))
    }

    fn order(&self, order: &[Spanned<String>]) -> Result<(), InstanceError> {
        for (at, name) in order.iter().enumerate() {
            if Weights::default().named(name.get_ref()).is_none() {
                let names = Weights::NAMES.join(", ");
                return Err(self.refuse(name, format!("there is no goal {:?}: {names}", name.get_ref())));
            }
            if order[..at].iter().any(|before| before.get_ref() == name.get_ref()) {
                return Err(self.refuse(name, format!("{:?} is there twice", name.get_ref())));
            }
        }
        Ok(())
    }

    fn shards(
        &self,
        rules: &[ShardRule],
        (nodes, shards, replicas): (usize, usize, u32),
    ) -> Result<(), InstanceError> {
        let mut seen = std::collections::BTreeSet::new();
        for rule in rules {
            let shard = *rule.shard.get_ref();
            if shard >= shards as u64 {
                let last = shards.saturating_sub(1);
                return Err(
                    self.refuse(&rule.shard, format!("shard {shard} does not exist: shards are 0 to {last}"))
                );
            }
            if !seen.insert(shard) {
                return Err(self.refuse(&rule.shard, format!("shard {shard} is there twice")));
            }
            for node in rule.pinned.iter().chain(&rule.excluded) {
                self.node(node, nodes)?;
            }
            for node in &rule.pinned {
                if rule.excluded.iter().any(|other| other.get_ref() == node.get_ref()) {
                    let node_is = format!("node {} is both pinned and excluded", node.get_ref());
                    return Err(self.refuse(node, node_is));
                }
            }
            if let Some(pin) = rule.pinned.get(replicas as usize) {
                return Err(self.refuse(pin, format!("more pins than the {replicas} replicas of a shard")));
            }
            if let Some(table) = rule.table.as_ref().filter(|table| *table.get_ref() >= shards as u64) {
                let last = shards.saturating_sub(1);
                let rule = format!("a table must be a number from 0 to {last}, one a shard at most");
                return Err(self.refuse(table, rule));
            }
            for rate in rule.write_rate.iter().chain(&rule.read_rate) {
                self.number("a rate", rate, (0.0, 1e15))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_says_what_it_says() {
        let text = "share = \"weight\"\nhysteresis = 0.02\norder = [\"bytes\", \"moved\"]\n\
                    [weights]\nbytes = 2.0\n[tolerance]\nbytes = 0.1\n[waves]\ncopies_in_max = 5\n\
                    [[nodes]]\nnode = 1\ncordoned = true\nweight = 3.0\nrack = 7\n[[shards]]\nshard = 2\n\
                    pinned = [1, 1]\nexcluded = [2]\ntable = 3\nwrite_rate = 20.0\nread_rate = 5\n";
        let file = PolicyFile::read("p.toml", text, (3, 4, 2)).unwrap();
        let policy = file.policy(Policy::yardstick(0.9));
        assert_eq!((policy.share, policy.watermark, policy.hysteresis), (Share::Weight, 0.9, 0.02));
        assert_eq!(policy.weights.bytes, 2.0 * ORDER_FACTOR * ORDER_FACTOR);
        assert_eq!((policy.weights.moved, policy.weights.replicas), (ORDER_FACTOR, 1.0));
        assert_eq!((policy.tolerance.bytes, file.waves.copies_in_max), (0.1, 5));
        let mut spec = ShardSpec::default();
        file.apply_to_shard(2, &mut spec);
        assert_eq!((spec.pinned, spec.excluded, spec.table), (vec![1], vec![2], 3));
        assert_eq!((spec.load.write_rate, spec.load.read_rate), (20.0, 5.0));
        let node =
            |n| NodeSpec { zone: n, rack: n, capacity_bytes: 9, weight: 1.0, takes: true, holds: true };
        let mut nodes = [0, 1, 2].map(node);
        file.apply_to_nodes(&mut nodes);
        assert_eq!(nodes.clone().map(|node| node.weight), [1.0, 3.0, 1.0]);
        assert_eq!(nodes.map(|node| (node.rack, node.takes)), [(0, true), (RACKS + 7, false), (2, true)]);
    }

    #[test]
    fn a_bad_file_names_file_line_and_reason() {
        for (text, expected) in [
            (
                "order = [\n\"bytes\",\n\"size\"]",
                "p.toml:3: there is no goal \"size\": replicas, leaders, bytes",
            ),
            ("order = [\"bytes\", \"bytes\"]", "p.toml:1: \"bytes\" is there twice"),
            ("\nwatermark = 1.5", "p.toml:2: the watermark must be a number from 0.000001 to 1, found 1.5"),
            ("[weights]\nbytes = nan", "p.toml:2: a weight must be a number from 0 to 1000000, found NaN"),
            ("[weights]\nbyte = 1.0", "p.toml:2: there is no goal \"byte\""),
            ("[weights]\nbytes = -1.0", "p.toml:2: a weight must be a number from 0"),
            (
                "[tolerance]\nmoved = 0.1",
                "p.toml:2: there is no tolerance \"moved\": replicas, leaders, bytes",
            ),
            ("hysteresis = \"much\"", "p.toml:1: invalid type: string"),
            ("# x\nmood = 1", "p.toml:2: unknown field `mood`"),
            ("a = [", "p.toml:1: "),
            ("[waves]\ncopies_in_max = 0", "p.toml:2: a limit of copies must be at least 1"),
            ("[[nodes]]\nnode = 3", "p.toml:2: node 3 does not exist: nodes are 0 to 2"),
            ("[[nodes]]\nnode = 1\nweight = 0.0", "p.toml:3: a node's weight must be"),
            ("[[shards]]\nshard = 4", "p.toml:2: shard 4 does not exist: shards are 0 to 3"),
            ("[[shards]]\nshard = 1\n[[shards]]\nshard = 1", "p.toml:4: shard 1 is there twice"),
            ("[[shards]]\nshard = 1\npinned = [0, 7]", "p.toml:3: node 7 does not exist"),
            (
                "[[shards]]\nshard = 1\npinned = [0]\nexcluded = [0]",
                "p.toml:3: node 0 is both pinned and excluded",
            ),
            (
                "[[shards]]\nshard = 1\npinned = [0, 1, 2]",
                "p.toml:3: more pins than the 2 replicas of a shard",
            ),
            ("[[shards]]\nshard = 1\ntable = 4", "p.toml:3: a table must be a number from 0 to 3"),
            ("[[shards]]\nshard = 1\nwrite_rate = nan", "p.toml:3: a rate must be a number from 0"),
            ("[[shards]]\nshard = 1\nread_rate = -1.0", "p.toml:3: a rate must be a number from 0"),
            ("[[nodes]]\nnode = 1\nrack = 1073741824", "p.toml:3: a rack must be a number below"),
        ] {
            let error = PolicyFile::read("p.toml", text, (3, 4, 2)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }
}
