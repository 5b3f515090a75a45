//! FENCED, as far as records show it: terms only grow. (That a deposed leader's write is refused is the store's doing.)

use super::{Invariant, Violation};
use crate::model::view::ClusterView;

/// A leader with an older term than one that was seen before.
pub fn check(before: &ClusterView, after: &ClusterView) -> Vec<Violation> {
    match (&before.leader, &after.leader) {
        (Some(old), Some(new)) if new.term < old.term => vec![Violation::new(
            Invariant::Fenced,
            format!(
                "{} leads with term {}, after {} led with {}",
                new.node, new.term.0, old.node, old.term.0
            ),
        )],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Cluster, ids};

    #[test]
    fn a_term_that_goes_back_is_found() {
        let mut cluster = Cluster::new(2);
        cluster.lead("n1", 7);
        let before = cluster.view();
        cluster.lead("n2", 9);
        assert_eq!(super::check(&before, &cluster.view()), []);
        cluster.lead("n2", 6);
        assert_eq!(ids(&super::check(&before, &cluster.view())), ["FENCED"]);
    }
}
