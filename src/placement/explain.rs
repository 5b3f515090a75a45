//! Why a shard moves, and why it stays.
//!
//! Reasons are codes with a sentence; they are found by comparing loads and rules before and after, not by
//! asking the engine, so they hold for every engine.

use super::constraint::{Broken, broken, fits, spreads};
use super::problem::{Compromise, Fair, NONE, Problem};
use super::solution::{Held, Solution, held};
use serde::Serialize;

/// Why a shard moves or stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It has a replica on a node that is draining, down, or excluded for it.
    NodeGone,
    /// It has fewer replicas than it should.
    Missing,
    /// It has more replicas than it should.
    Surplus,
    /// It must be on a node that it is pinned to.
    Pinned,
    /// Its replicas share a zone or rack, and need not.
    Spread,
    /// A node that holds it is above the watermark.
    Watermark,
    /// A node that holds it has more than its share of bytes, or the one that gets it less.
    Bytes,
    /// The same for the number of replicas.
    Replicas,
    /// Leadership goes to a node with fewer leaders.
    Leaders,
    /// It makes room for others: an exchange that betters the whole.
    Exchange,
    /// It stays: no better place is worth the copy.
    InPlace,
    /// It stays: an operation is in flight or the operator froze it.
    Frozen,
    /// It stays: no node may take it.
    NoNode,
    /// It stays: what could be gained is below the hysteresis.
    NotWorthIt,
    /// It stays: it would move, but for the budget of bytes or copies.
    Budget,
    /// It stays, and breaks a rule that the goal leaves alone.
    NotCovered,
    /// It stays, with fewer replicas than wanted: fewer nodes may hold it.
    TooFewNodes,
    /// It stays, with replicas that share a zone or rack: there are too few of them.
    TooFewZones,
    /// It stays: the node that it is pinned to may not hold it, or it is pinned to more nodes than it has replicas.
    PinUnmet,
    /// It stays on a node above the watermark: no other node that may hold it has room.
    Overfull,
}

impl Why {
    /// The code, as in JSON.
    pub fn code(self) -> &'static str {
        match self {
            Self::NodeGone => "node_gone",
            Self::Missing => "missing",
            Self::Surplus => "surplus",
            Self::Pinned => "pinned",
            Self::Spread => "spread",
            Self::Watermark => "watermark",
            Self::Bytes => "bytes",
            Self::Replicas => "replicas",
            Self::Leaders => "leaders",
            Self::Exchange => "exchange",
            Self::InPlace => "in_place",
            Self::Frozen => "frozen",
            Self::NoNode => "no_node",
            Self::NotWorthIt => "not_worth_it",
            Self::Budget => "budget",
            Self::NotCovered => "not_covered",
            Self::TooFewNodes => "too_few_nodes",
            Self::TooFewZones => "too_few_zones",
            Self::PinUnmet => "pin_unmet",
            Self::Overfull => "overfull",
        }
    }

    /// One sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NodeGone => "a node that holds it is draining, down or excluded",
            Self::Missing => "it has fewer replicas than wanted",
            Self::Surplus => "it has more replicas than wanted",
            Self::Pinned => "it has to be on the node that it is pinned to",
            Self::Spread => "its replicas share a zone or rack and need not",
            Self::Watermark => "a node that holds it is above the watermark",
            Self::Bytes => "bytes become more even",
            Self::Replicas => "replica counts become more even",
            Self::Leaders => "leader counts become more even",
            Self::Exchange => "it makes room for others in an exchange that betters the whole",
            Self::InPlace => "no better place is worth the copy",
            Self::Frozen => "an operation is in flight, or it is frozen",
            Self::NoNode => "no node may take it",
            Self::NotWorthIt => "what could be gained is below the hysteresis",
            Self::Budget => "it would move, but for the budget of bytes or copies",
            Self::NotCovered => "it breaks a rule that the goal leaves alone",
            Self::TooFewNodes => "it has fewer replicas than wanted, since fewer nodes may hold it",
            Self::TooFewZones => "its replicas share a zone or rack, since there are too few",
            Self::PinUnmet => "it cannot be on a node that it is pinned to",
            Self::Overfull => "it is on a node above the watermark, and no node that may hold it has room",
        }
    }
}

/// What a solve found and did not take: why shards stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Untaken {
    /// Nothing was looked for: whatever there is betters the score by less than the hysteresis.
    pub all: bool,
    /// A placement that is better, by less than the hysteresis.
    pub hysteresis: Option<Solution>,
    /// A placement that copies more than the budget allows.
    pub budget: Option<Solution>,
}

impl Untaken {
    /// Why a shard stays where it is.
    fn why(&self, problem: &Problem, shard: usize) -> Why {
        let moves = |found: &Option<Solution>| {
            found.as_ref().is_some_and(|found| !stays(problem.present(shard), found.of(problem, shard)))
        };
        match () {
            () if self.all || moves(&self.hysteresis) => Why::NotWorthIt,
            () if moves(&self.budget) => Why::Budget,
            () => Why::InPlace,
        }
    }
}

/// Whether a shard keeps its copies and its leader.
fn stays(present: &[u32], placed: &[u32]) -> bool {
    same(present, placed) && present.first() == placed.first()
}

fn same(present: &[u32], placed: &[u32]) -> bool {
    present.len() == placed.len() && present.iter().all(|node| placed.contains(node))
}

/// Why each shard moves or stays, by shard.
pub fn reasons(problem: &Problem, solution: &Solution, untaken: &Untaken) -> Vec<Why> {
    let before = present_load(problem);
    let mut reasons = Vec::with_capacity(problem.shards());
    for shard in 0..problem.shards() {
        reasons.push(reason(problem, &before, shard, solution.of(problem, shard), untaken));
    }
    for (shard, why) in unmended(problem, solution) {
        let stays = matches!(reasons[shard as usize], Why::InPlace | Why::NotWorthIt | Why::Budget);
        if stays || why == Why::NoNode {
            reasons[shard as usize] = why;
        }
    }
    reasons
}

/// Rules that a placement breaks or stretches since they cannot be kept: the shards, and why. A shard may have
/// several.
pub fn unmended(problem: &Problem, solution: &Solution) -> Vec<(u32, Why)> {
    let stretched = problem.compromises.iter().filter_map(|&(shard, why)| {
        let why = match why {
            Compromise::TooFewNodes => Why::TooFewNodes,
            Compromise::TooFewZones | Compromise::TooFewRacks => Why::TooFewZones,
            Compromise::NoNode => Why::NoNode,
            Compromise::NotCovered => Why::NotCovered,
            Compromise::PinnedTogether => return None,
        };
        Some((shard, why))
    });
    let broken = broken(problem, solution);
    let rules = broken.iter().filter_map(|rule| {
        Some(match *rule {
            Broken::Missing { shard } => (shard, Why::TooFewNodes),
            Broken::Crowded { shard } | Broken::SameNode { shard, .. } => (shard, Why::TooFewZones),
            Broken::Unpinned { shard, .. } => (shard, Why::PinUnmet),
            Broken::Forbidden { shard, .. } => (shard, Why::NoNode),
            Broken::Overfull { .. } => return None,
        })
    });
    let mut found: Vec<(u32, Why)> = stretched.chain(rules).collect();
    let full = |node: &u32| broken.binary_search(&Broken::Overfull { node: *node }).is_ok();
    if broken.iter().any(|rule| matches!(rule, Broken::Overfull { .. })) {
        let load = held(problem, solution);
        let there = (0..problem.shards()).filter(|&s| !problem.frozen[s] && problem.bytes[s] > 0);
        let stuck = there.filter(|&shard| {
            let placed = solution.of(problem, shard);
            let hot = (0..placed.len()).filter(|&slot| full(&placed[slot]));
            hot.clone().next().is_some()
                && !hot.into_iter().any(|slot| finds_room(problem, &load, shard, placed, slot))
        });
        found.extend(stuck.map(|shard| (shard as u32, Why::Overfull)));
    }
    found.sort_unstable();
    found
}

/// Whether another node may take a slot's replica and has room for it.
fn finds_room(problem: &Problem, load: &[Held], shard: usize, placed: &[u32], slot: usize) -> bool {
    let bytes = problem.bytes[shard];
    let room = |node: u32| (load[node as usize].bytes + bytes) as f64 <= problem.room_bytes(node);
    !problem.is_pinned(shard, placed[slot])
        && (0..problem.nodes.len() as u32)
            .any(|node| room(node) && !placed.contains(&node) && fits(problem, shard, placed, slot, node))
}

/// Loads of what is there now, surplus replicas and replicas on lost nodes included.
fn present_load(problem: &Problem) -> Vec<Held> {
    let mut load = vec![Held::default(); problem.nodes.len()];
    for shard in 0..problem.shards() {
        for (index, &node) in problem.present(shard).iter().enumerate() {
            let on = &mut load[node as usize];
            on.replicas += 1;
            on.bytes += problem.bytes[shard];
            on.leaders += u32::from(index == 0);
        }
    }
    load
}

fn reason(problem: &Problem, before: &[Held], shard: usize, placed: &[u32], untaken: &Untaken) -> Why {
    let present = problem.present(shard);
    if problem.frozen[shard] {
        return Why::Frozen;
    }
    if stays(present, placed) {
        return untaken.why(problem, shard);
    }
    if same(present, placed) {
        return Why::Leaders;
    }
    let leaving = || present.iter().filter(|node| !placed.contains(node));
    let coming = || placed.iter().filter(|node| !present.contains(node) && **node != NONE);
    if leaving().any(|&node| !problem.may_hold(shard, node)) {
        return Why::NodeGone;
    }
    if coming().any(|&node| problem.is_pinned(shard, node)) {
        return Why::Pinned;
    }
    if present.len() < placed.len() {
        return Why::Missing;
    }
    if present.len() > placed.len() && coming().next().is_none() {
        return Why::Surplus;
    }
    let crowded = |slot: usize| !spreads(problem, shard, &present[..slot], slot, present[slot]);
    if (0..present.len()).any(crowded) {
        return Why::Spread;
    }
    if leaving().any(|&node| before[node as usize].bytes as f64 > problem.room_bytes(node)) {
        return Why::Watermark;
    }
    let excess = |load: fn(&Held) -> f64, fair: fn(&Fair) -> f64| {
        let over = |&node: &u32| {
            let fair = fair(&problem.fair[node as usize]);
            if fair > 0.0 { load(&before[node as usize]) / fair - 1.0 } else { 0.0 }
        };
        let from = leaving().map(over).fold(0.0, f64::max);
        from.max(coming().map(|node| -over(node)).fold(0.0, f64::max))
    };
    let bytes = excess(|held| held.bytes as f64, |fair| fair.bytes);
    let replicas = excess(|held| f64::from(held.replicas), |fair| fair.replicas);
    match () {
        () if bytes.max(replicas) < 0.01 => Why::Exchange,
        () if bytes >= replicas => Why::Bytes,
        () => Why::Replicas,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::engines::repair::standing;
    use crate::placement::policy::Policy;
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;

    /// In a zone of its own.
    fn node(n: u32) -> NodeSpec {
        NodeSpec { zone: n, rack: n, capacity_bytes: 100, weight: 1.0, takes: true, holds: true }
    }

    #[test]
    fn what_cannot_be_mended_is_said() {
        let up = |n| n < 3;
        let node = |(n, zone): (u32, u32)| NodeSpec { zone, rack: n, takes: up(n), holds: up(n), ..node(n) };
        let nodes: Vec<NodeSpec> = [(0, 0), (1, 0), (2, 0), (3, 1)].map(node).into();
        let shard = |bytes: u64, replicas: u32, present: &[u32]| ShardSpec {
            load: Load { bytes, ..Load::default() },
            replicas,
            present: present.to_vec(),
            ..ShardSpec::default()
        };
        let shards = vec![
            shard(90, 1, &[0]),
            shard(1, 2, &[1, 2]),
            shard(0, 5, &[0, 1, 2]),
            ShardSpec { pinned: vec![3], ..shard(1, 1, &[1]) },
            ShardSpec { excluded: vec![0, 1, 2], ..shard(1, 1, &[1]) },
            shard(1, 1, &[2]),
        ];
        let problem = Problem::new(nodes, shards, &Policy { watermark: 0.85, ..Policy::default() });
        let why = reasons(&problem, &standing(&problem), &Untaken::default());
        let expected =
            [Why::Overfull, Why::TooFewZones, Why::TooFewNodes, Why::PinUnmet, Why::NoNode, Why::InPlace];
        assert_eq!(why, expected);
        let two = unmended(&problem, &standing(&problem));
        assert!(two.contains(&(2, Why::TooFewZones)), "{two:?}");
    }

    fn plain(sizes: &[(u64, u32)], policy: &Policy) -> Problem {
        let shard = |&(bytes, on): &(u64, u32)| ShardSpec {
            load: Load { bytes, ..Load::default() },
            replicas: 1,
            present: vec![on],
            ..ShardSpec::default()
        };
        Problem::new((0..3).map(node).collect(), sizes.iter().map(shard), policy)
    }

    #[test]
    fn a_shard_stays_for_what_was_found_and_not_taken_alone() {
        let problem = plain(&[(10, 0), (10, 0), (10, 1)], &Policy::default());
        let (present, other) = (Solution { nodes: vec![0, 0, 1] }, Solution { nodes: vec![0, 2, 1] });
        let check = |untaken: Untaken, second: Why| {
            assert_eq!(reasons(&problem, &present, &untaken), [Why::InPlace, second, Why::InPlace]);
        };
        check(Untaken::default(), Why::InPlace);
        check(Untaken { hysteresis: Some(other.clone()), ..Untaken::default() }, Why::NotWorthIt);
        check(Untaken { budget: Some(other), ..Untaken::default() }, Why::Budget);
        let all = reasons(&problem, &present, &Untaken { all: true, ..Untaken::default() });
        assert_eq!(all, [Why::NotWorthIt; 3]);
    }

    #[test]
    fn a_full_node_is_a_reason_only_where_no_other_has_room() {
        // The giant fits nowhere; its neighbour would, and does not help.
        let problem =
            plain(&[(90, 0), (5, 0), (40, 1), (40, 2)], &Policy { watermark: 0.8, ..Policy::default() });
        let why = reasons(&problem, &Solution { nodes: vec![0, 0, 1, 2] }, &Untaken::default());
        assert_eq!(why, [Why::Overfull, Why::InPlace, Why::InPlace, Why::InPlace]);
    }

    #[test]
    fn every_move_has_its_reason() {
        let shard = |bytes: u64, replicas: u32, present: &[u32]| ShardSpec {
            load: Load { bytes, ..Load::default() },
            replicas,
            present: present.to_vec(),
            ..ShardSpec::default()
        };
        let one = |bytes, on| shard(bytes, 1, &[on]);
        let nodes = || -> Vec<NodeSpec> { (0..3).map(node).collect() };
        let gone = |n: u32| NodeSpec { takes: n != 0, holds: n != 0, ..node(n) };
        let zones = |n: u32| NodeSpec { zone: n / 2, ..node(n) };
        let pinned = ShardSpec { pinned: vec![1], ..one(1, 0) };
        let wrong = ShardSpec { excluded: vec![0], ..one(1, 0) };
        let two = |present: &[u32]| vec![shard(1, 2, present)];
        // Of the first shard.
        let cases = vec![
            (Why::NodeGone, (0..3).map(gone).collect(), vec![one(1, 0)], vec![1]),
            (Why::NodeGone, nodes(), vec![wrong], vec![1]),
            (Why::Missing, nodes(), two(&[0]), vec![0, 1]),
            (Why::Surplus, nodes(), vec![shard(1, 1, &[0, 1])], vec![0]),
            (Why::Pinned, nodes(), vec![pinned], vec![1]),
            (Why::Spread, (0..3).map(zones).collect(), two(&[0, 1]), vec![0, 2]),
            (Why::Watermark, nodes(), vec![one(90, 0)], vec![1]),
            (Why::Bytes, nodes(), vec![one(10, 0), one(30, 0), one(10, 1)], vec![2, 0, 1]),
            (Why::Replicas, nodes(), vec![one(1, 0), one(1, 0), one(10, 1), one(10, 2)], vec![1, 0, 1, 2]),
            (Why::Leaders, nodes(), two(&[0, 1]), vec![1, 0]),
            (Why::Exchange, nodes(), vec![one(10, 0), one(10, 1), one(10, 2)], vec![1, 0, 2]),
        ];
        for (wanted, nodes, shards, placed) in cases {
            let policy = Policy { watermark: 0.85, ..Policy::default() };
            let problem = Problem::new(nodes, shards, &policy);
            let found = reasons(&problem, &Solution { nodes: placed }, &Untaken::default());
            assert_eq!(found[0], wanted, "{}", wanted.code());
        }
    }
}
