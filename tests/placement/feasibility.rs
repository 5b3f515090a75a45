//! Worlds in which no placement keeps every rule, or hardly one: each gets the best there is, and says why.
//!
//! What is best is found by trying every placement, so these worlds are tiny, but for the last.

use converthouse::placement::budget::WorkBudget;
use converthouse::placement::constraint::{Broken, broken};
use converthouse::placement::engines::repair::standing;
use converthouse::placement::engines::{NAMES, by_name};
use converthouse::placement::explain::Why;
use converthouse::placement::objective::score;
use converthouse::placement::policy::Weights;
use converthouse::placement::problem::{Compromise, NodeSpec, Problem, ShardSpec};
use converthouse::placement::{Decision, Load, Policy, decide};

const WORK: u64 = 200_000;

/// In a zone of its own, with room for 85 bytes.
fn node(n: u32) -> NodeSpec {
    NodeSpec { zone: n, rack: n, capacity_bytes: 100, weight: 1.0, takes: true, holds: true }
}

fn shard(bytes: u64, replicas: u32, present: &[u32]) -> ShardSpec {
    let load = Load { bytes, ..Load::default() };
    ShardSpec { load, replicas, present: present.to_vec(), ..ShardSpec::default() }
}

fn problem(nodes: Vec<NodeSpec>, shards: Vec<ShardSpec>) -> Problem {
    let policy =
        Policy { weights: Weights::YARDSTICK, hysteresis: 0.0, watermark: 0.85, ..Policy::default() };
    Problem::new(nodes, shards, &policy)
}

/// The fewest broken rules of any placement of the problem's slots, and the least score of those.
fn best(problem: &Problem) -> (usize, f64) {
    let (nodes, slots) = (problem.nodes.len() as u32, problem.replicas() as u32);
    let mut best = (usize::MAX, f64::INFINITY);
    for code in 0..nodes.pow(slots) {
        let mut solution = standing(problem);
        for shard in (0..problem.shards()).filter(|&shard| !problem.frozen[shard]) {
            for slot in problem.slots(shard) {
                solution.nodes[slot] = code / nodes.pow(slot as u32) % nodes;
            }
        }
        let found = (broken(problem, &solution).len(), score(problem, &solution).total);
        if found < best {
            best = found;
        }
    }
    best
}

fn decided(problem: &Problem, name: &str) -> Decision {
    let engine = by_name(name).expect("an engine");
    decide(problem, engine.as_ref(), 1, &mut WorkBudget::new(WORK), &mut |_| {})
}

/// The default engine and the integer program find the best; no engine breaks more than what is there does, once what
/// can be repaired is. `rules` are broken at best, and those shards have these reasons.
fn check(what: &str, problem: &Problem, rules: &[Broken], why: &[(usize, Why)]) {
    let (fewest, least) = best(problem);
    assert_eq!(rules.len(), fewest, "{what}");
    let start = broken(problem, &standing(problem)).len();
    for name in NAMES {
        let found = decided(problem, name);
        assert!(found.broken.len() <= start, "{what}, {name}: {:?}", found.broken);
        assert_eq!(found.reasons.len(), problem.shards(), "{what}, {name}");
        if ["hybrid", "milp"].contains(&name) {
            assert_eq!(found.broken, rules, "{what}, {name}");
            assert!(found.after.total <= least + 1e-6, "{what}, {name}: {} {least}", found.after.total);
            for (shard, why) in why {
                assert_eq!(found.reasons[*shard], *why, "{what}, {name}: shard {shard}");
            }
        }
    }
}

#[test]
fn over_full_nodes_keep_what_fits_nowhere_and_give_up_the_rest() {
    let pair = || vec![node(0), node(1)];
    let overfull = |node| [Broken::Overfull { node }];
    let (stays, goes) = (Why::Overfull, Why::Watermark);
    let big = vec![shard(99, 1, &[0]), shard(99, 1, &[0])];
    check("none fits anywhere", &problem(pair(), big), &overfull(0), &[(0, stays), (1, stays)]);
    let three = vec![shard(60, 1, &[0]), shard(60, 1, &[0]), shard(60, 1, &[0])];
    check("too much in all", &problem(pair(), three), &overfull(0), &[(2, goes)]);
    let giant = vec![shard(500, 1, &[0]), shard(20, 1, &[0]), shard(20, 1, &[0])];
    check("one giant", &problem(pair(), giant), &overfull(0), &[(0, stays), (1, goes), (2, goes)]);
}

#[test]
fn what_fits_by_one_arrangement_alone_is_arranged_so() {
    let pair = vec![node(0), node(1)];
    let four = [50, 50, 35, 35].map(|bytes| shard(bytes, 1, &[0]));
    check("two nodes to the last byte", &problem(pair, four.to_vec()), &[], &[]);
    let three = (0..3).map(node).collect();
    let two_each = vec![shard(50, 2, &[0, 1]), shard(35, 2, &[0, 1]), shard(35, 1, &[0]), shard(35, 1, &[1])];
    check("replicas apart", &problem(three, two_each), &[], &[(0, Why::InPlace)]);
}

#[test]
fn too_few_zones_or_nodes_give_as_many_and_as_far_apart_as_there_are() {
    let zoned = |n: u32| NodeSpec { zone: n / 2, ..node(n) };
    let zones = problem(
        (0..3).map(zoned).collect(),
        vec![shard(9, 3, &[0]), shard(5, 2, &[0, 1]), shard(5, 1, &[0])],
    );
    check("three replicas, two zones", &zones, &[], &[(0, Why::Missing), (1, Why::Spread)]);
    assert_eq!(zones.compromises, [(0, Compromise::TooFewZones)]);
    let nodes =
        problem((0..2).map(node).collect(), vec![shard(9, 5, &[0]), shard(5, 2, &[0, 1]), shard(5, 1, &[0])]);
    check("five replicas, two nodes", &nodes, &[], &[(0, Why::Missing)]);
    assert_eq!(
        (nodes.compromises.as_slice(), nodes.slots(0).len()),
        (&[(0, Compromise::TooFewNodes)][..], 2)
    );
    let whole = problem((0..2).map(node).collect(), vec![shard(9, 5, &[0, 1])]);
    check("as many as there are", &whole, &[], &[(0, Why::TooFewNodes)]);
}

#[test]
fn what_is_drained_stays_only_where_nothing_may_take_it() {
    let gone = |n: u32| NodeSpec { takes: false, holds: false, ..node(n) };
    let shards = vec![shard(9, 2, &[0, 1]), shard(5, 1, &[0]), shard(4, 1, &[])];
    let nowhere = [0, 1, 2].map(|shard| (shard, Why::NoNode));
    let all_gone = problem((0..2).map(gone).collect(), shards.clone());
    check("all nodes down or drained", &all_gone, &[], &nowhere);
    assert_eq!(decided(&all_gone, "hybrid").solution.nodes, [0, 1, 0], "where it is");
    let no_node = shards.into_iter().map(|shard| ShardSpec { present: vec![], ..shard }).collect();
    check("no node at all", &problem(vec![], no_node), &[], &nowhere);
    let full = vec![shard(50, 2, &[0, 1]), shard(50, 1, &[0]), shard(50, 1, &[2]), shard(20, 1, &[0])];
    let full = problem(vec![gone(0), node(1), node(2)], full);
    let why = [(0, Why::NodeGone), (1, Why::NodeGone), (2, Why::Overfull), (3, Why::NodeGone)];
    check("the others have no room", &full, &[Broken::Overfull { node: 2 }], &why);
}

#[test]
fn shards_without_bytes_are_levelled_by_number() {
    let nodes = || (0..3).map(node).collect();
    check("one copy each", &problem(nodes(), vec![shard(0, 1, &[0]); 8]), &[], &[]);
    check("two copies each", &problem(nodes(), vec![shard(0, 2, &[0, 1]); 4]), &[], &[]);
}

#[test]
fn a_million_tiny_shards_are_levelled_each_with_its_reason() {
    let wide = |n: u32| NodeSpec { capacity_bytes: 4_000_000, ..node(n) };
    let tiny = (0..1_000_000).map(|number: u32| shard(1, 1, &[number % 2])).collect();
    let problem = problem((0..3).map(wide).collect(), tiny);
    for name in ["hybrid", "greedy"] {
        let engine = by_name(name).expect("an engine");
        let found = decide(&problem, engine.as_ref(), 1, &mut WorkBudget::new(8_000_000), &mut |_| {});
        assert_eq!((found.broken.len(), found.reasons.len()), (0, 1_000_000), "{name}");
        // A third has to move, and to lead where it goes: 1/3 + 0.05/3 is the least.
        assert!(name != "hybrid" || found.after.total < 0.351, "{name}: {}", found.after.total);
        let (before, after) = (found.before.total, found.after.total);
        assert!(found.bound <= after + 1e-9 && after < before, "{name}: {} {after} {before}", found.bound);
        for (shard, why) in found.reasons.iter().enumerate() {
            let stays = found.solution.of(&problem, shard) == problem.present(shard);
            assert_eq!(stays, *why == Why::InPlace, "{name}: {why:?}");
        }
    }
}
