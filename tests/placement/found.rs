//! Worlds that broke a property once, each by the name of what was wrong.

use super::{accepted, node, propose, shard};
use converthouse::model::{NodeId, NodeState};
use converthouse::placement::{NodeView, Policy, ShardView, Snapshot};

/// Nodes of 4000 and 8000 bytes by turns in `zones`, those in `lost` down, and shards by bytes and nodes.
fn world(nodes: usize, zones: usize, lost: &[usize], replicas: u32, shards: &[(u64, &[usize])]) -> Snapshot {
    let view =
        |n: usize| node(n, n % zones, 4000 * (1 + n as u64 % 2), NodeState::Active, !lost.contains(&n));
    let nodes: Vec<NodeView> = (0..nodes).map(view).collect();
    let shards = shards.iter().enumerate().map(|(number, (bytes, on))| {
        let on: Vec<NodeId> = on.iter().map(|&n| nodes[n].id.clone()).collect();
        shard(number as u32, *bytes, replicas, &on)
    });
    let shards: Vec<ShardView> = shards.collect();
    Snapshot { nodes, shards }
}

/// A proposal that left a node with less than half of its share was begun anew with that node as a newcomer.
#[test]
fn a_node_that_a_proposal_leaves_nearly_empty_is_no_newcomer_to_the_next() {
    let bare: &[usize] = &[];
    let worlds = [
        world(
            8,
            4,
            &[4],
            3,
            &[
                (1, bare),
                (0, &[2, 1]),
                (26, bare),
                (486, &[2, 0, 4]),
                (19, &[2]),
                (0, &[4, 2]),
                (90, &[4, 0]),
                (0, &[1, 3]),
            ],
        ),
        world(
            9,
            3,
            &[],
            2,
            &[
                (1481, bare),
                (128, &[0]),
                (0, bare),
                (847, &[7, 1]),
                (84, &[1]),
                (0, &[5, 2]),
                (1011, &[5]),
                (1548, &[2]),
                (94, bare),
                (52, bare),
            ],
        ),
    ];
    for world in worlds {
        let verdict = propose(&world, &Policy::default());
        let again = propose(&accepted(&world, &verdict), &Policy::default());
        assert!(again.moves.is_empty(), "{:?}", again.moves);
    }
}
