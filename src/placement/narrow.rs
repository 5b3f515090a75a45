//! What a solve for full disks alone leaves aside.
//!
//! [`Goal::Relieve`] looks at nodes above the watermark and at nothing else. Rules that are broken otherwise stay
//! broken as they are: replicas stay on draining and lost nodes, missing ones stay missing, crowded ones crowded. So
//! the problem is built with those rules waived, and whoever works on it needs no case distinctions. A shard that has
//! more copies than wanted loses them all the same: a placement has no slot for them.

use super::policy::Goal;
use super::problem::{NodeSpec, ShardSpec};
use super::rooms::Room;

/// The rules that a goal waives.
pub(super) struct Narrowed {
    /// Nodes that may not keep what they have, but for the goal; none if the goal covers all rules.
    gone: Option<Vec<bool>>,
}

impl Narrowed {
    /// Lets every node keep what it has, if the goal is not about that.
    pub fn new(nodes: &mut [NodeSpec], goal: Goal) -> Self {
        if goal != Goal::Relieve {
            return Self { gone: None };
        }
        let gone = nodes.iter().map(|node| !node.holds).collect();
        nodes.iter_mut().for_each(|node| node.holds = true);
        Self { gone: Some(gone) }
    }

    /// Takes back what a shard's own rules ask beyond what it has; answers whether anything was.
    pub fn waive(&self, spec: &mut ShardSpec) -> bool {
        let Some(gone) = &self.gone else { return false };
        let rules = spec.excluded.len() + spec.pinned.len();
        let present = &spec.present;
        spec.excluded.retain(|node| !present.contains(node));
        spec.pinned.retain(|node| present.contains(node));
        let missing = spec.replicas.saturating_sub(present.len() as u32);
        spec.replicas -= missing;
        let out = present.iter().any(|&node| gone[node as usize]);
        out || missing > 0 || spec.excluded.len() + spec.pinned.len() < rules
    }

    /// Lets a shard's replicas share the zones and racks that they share now; answers whether they need to.
    pub fn widen(&self, nodes: &[NodeSpec], spec: &ShardSpec, room: &mut Room) -> bool {
        if self.gone.is_none() || spec.frozen {
            return false;
        }
        let place = |&node: &u32| (nodes[node as usize].zone, nodes[node as usize].rack);
        let pinned = std::mem::take(&mut room.pinned);
        room.allow(&spec.present.iter().map(place).collect::<Vec<_>>());
        std::mem::replace(&mut room.pinned, pinned)
    }
}
