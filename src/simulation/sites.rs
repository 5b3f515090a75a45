//! Which nodes have certainly been fit to take copies for a while, whoever leads: what VALID's rule on zones asks.

use super::cluster::Cluster;
use super::node::{Port, SimNode};
use crate::adapters::faults::Weather;
use crate::model::invariants::zones::{self, Site};
use crate::model::view::ClusterView;
use crate::model::{NodeId, NodeState};
use std::collections::BTreeMap;

/// Every leader knows by then what is to be known of a node: longer than a deposed one goes on, than a new one takes to
/// hear of all, and than reports get old.
const KNOWN_AFTER_MS: u64 = 20_000;

/// Since when nodes have been fit.
#[derive(Default)]
pub(super) struct Sites {
    fit_since_ms: BTreeMap<NodeId, u64>,
    /// Some daemons do not reach others.
    parted: bool,
}

impl Sites {
    /// Some daemons do not reach others, or all do.
    pub(super) fn part(&mut self, parted: bool) {
        self.parted = parted;
    }
}

/// Whether a node takes copies and everybody would know: its daemon lives and is cut off from nothing, its server is
/// up, its disk has room.
fn is_fit(node: &SimNode, view: &ClusterView) -> bool {
    let (total, free) = node.server.disk();
    let active = view.nodes.get(&node.record.id).is_some_and(|node| node.record.state == NodeState::Active);
    let cut = |port: Port| node.line_to(port).is_none_or(|line| line.weather().cut);
    let runs = node.daemon_runs() && view.is_live(&node.record.id) && !Port::ALL.into_iter().any(cut);
    active && runs && node.server.is_up() && free / 4 >= total / 5
}

impl Cluster {
    /// Looks at all nodes. In rough weather a leader may believe of any that it is down.
    pub(super) fn note_sites(&self) {
        let calm = self.fair_everywhere() && !self.0.sites.borrow().parted;
        let (view, now_ms) = (self.view(), self.now_ms());
        let since_ms = &mut self.0.sites.borrow_mut().fit_since_ms;
        for (id, node) in &*self.0.nodes.borrow() {
            if calm && is_fit(node, &view) {
                since_ms.entry(id.clone()).or_insert(now_ms);
            } else {
                since_ms.remove(id);
            }
        }
    }

    /// Copies share no zone where they need not (VALID). Zones are those that nodes have, not those that they told.
    pub(super) fn check_zones(&self, before: &ClusterView, after: &ClusterView) {
        let sites = || {
            let (sites, now_ms) = (self.0.sites.borrow(), self.now_ms());
            let known = |id: &NodeId| {
                sites.fit_since_ms.get(id).is_some_and(|since_ms| now_ms - since_ms >= KNOWN_AFTER_MS)
            };
            let nodes = self.0.nodes.borrow();
            let site = |(id, node): (&NodeId, &SimNode)| {
                (id.clone(), Site { zone: node.record.zone().to_owned(), fit: known(id) })
            };
            nodes.iter().map(site).collect()
        };
        for violation in zones::check(before, after, sites) {
            self.journal().violation(violation.invariant.as_str(), &violation.what);
        }
    }

    fn fair_everywhere(&self) -> bool {
        self.weather() == Weather::FAIR
    }
}
