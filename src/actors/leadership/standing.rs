//! What a daemon has reached, and what an answer makes of it that may come late. Pure.
//!
//! A step of lease and election takes as long as the store takes to answer, and meanwhile the daemon may step down. An
//! answer then tells of a time that is over: whoever has stepped down from a term never leads by that term again, and
//! what was reached under a lease whose time is up counts for nothing.

use crate::adapters::metadata::LeaseId;
use crate::model::{NodeId, Term};
use std::collections::BTreeSet;

/// What has been reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The lease.
    pub lease: Option<LeaseId>,
    /// When its last renewal was begun, on our clock.
    pub renewed_ms: u64,
    /// Nodes registered under it.
    pub registered: BTreeSet<NodeId>,
    /// The term, if elected.
    pub term: Option<Term>,
    /// The newest term that this daemon stepped down from. What it had under way then may still arrive at the store and
    /// would pass as the term's, so it leads again by a later term only.
    pub given_up: Option<Term>,
}

impl Standing {
    /// Whether the lease was not renewed for its whole length: the store may have ended it.
    pub fn is_over(&self, now_ms: u64, lease_ttl_ms: u64) -> bool {
        self.lease.is_some() && now_ms.saturating_sub(self.renewed_ms) >= lease_ttl_ms
    }

    /// The same without its term, for good.
    #[must_use]
    pub fn stepped_down(self) -> Self {
        Self { given_up: self.given_up.max(self.term), term: None, ..self }
    }

    /// Without a lease.
    #[must_use]
    pub fn without_lease(self) -> Self {
        Self { given_up: self.given_up.max(self.term), ..Self::default() }
    }

    /// What the answer of a step makes of the standing as it is when it comes.
    #[must_use]
    pub fn answered(&self, answer: Self, now_ms: u64, lease_ttl_ms: u64) -> Self {
        let given_up = self.given_up.max(answer.given_up);
        let old = answer.term.is_some() && answer.term <= given_up;
        let over = answer.is_over(now_ms, lease_ttl_ms);
        let standing = Self { given_up, ..answer };
        if old || over { standing.stepped_down() } else { standing }
    }

    /// Why the term of this standing has ended in the next one; `None` if it has not, or if there was none.
    pub fn ended(&self, next: &Self, now_ms: u64, lease_ttl_ms: u64) -> Option<Ending> {
        if self.term.is_none() || self.term == next.term {
            return None;
        }
        Some(match next.lease {
            lease if lease != self.lease => Ending::LeaseGone,
            _ if next.term.is_none() && next.is_over(now_ms, lease_ttl_ms) => Ending::LeaseLate,
            _ => Ending::Deposed,
        })
    }
}

/// Why a daemon leads no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It could not renew its lease for the lease's whole length.
    LeaseLate,
    /// The store had ended its lease.
    LeaseGone,
    /// The leader key was taken away, or is somebody else's.
    Deposed,
    /// It is being stopped.
    Resigned,
    /// The coordinator ended by a bug; the daemon makes another one for the same term.
    CoordinatorDied,
}

impl Ending {
    /// The label of the metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::LeaseLate => "lease_late",
            Self::LeaseGone => "lease_gone",
            Self::Deposed => "deposed",
            Self::Resigned => "resigned",
            Self::CoordinatorDied => "coordinator_died",
        }
    }

    /// For the log.
    pub fn told(self) -> &'static str {
        match self {
            Self::LeaseLate => "the lease could not be renewed in time",
            Self::LeaseGone => "the store had ended the lease",
            Self::Deposed => "the leader key is gone or somebody else's",
            Self::Resigned => "the daemon is being stopped",
            Self::CoordinatorDied => "the coordinator died: it is made anew from the store",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL_MS: u64 = 9_000;

    fn standing(lease: i64, renewed_ms: u64, term: impl Into<Option<i64>>) -> Standing {
        let (lease, term) = (Some(LeaseId(lease)), term.into().map(Term));
        Standing { lease, renewed_ms, term, ..Standing::default() }
    }

    fn given_up(term: i64, standing: Standing) -> Standing {
        Standing { given_up: Some(Term(term)), ..standing }
    }

    /// What it has when the answer comes, the answer, the time; the term afterwards.
    #[test]
    fn who_stepped_down_leads_again_only_by_a_later_term() {
        let down = given_up(7, standing(1, 0, None));
        for (now, answer, now_ms, term) in [
            (standing(1, 0, 7), standing(1, 3_000, 7), 3_010, Some(7)),
            (standing(1, 0, None), standing(1, 3_000, 7), 3_010, Some(7)),
            // A renewal that failed tells what was true when it was begun.
            (down.clone(), standing(1, 0, 7), 9_500, None),
            // One that got through late, and found the key still there.
            (down.clone(), standing(1, 6_000, 7), 9_500, None),
            (down.clone(), given_up(7, standing(1, 9_000, 8)), 9_500, Some(8)),
            (down.clone(), standing(2, 9_000, 8), 9_500, Some(8)),
            (down, given_up(7, standing(1, 9_000, None)), 9_500, None),
            // Won, but the answer took longer than the lease.
            (standing(1, 0, None), standing(1, 1_000, 7), 10_000, None),
            (standing(1, 0, 7), standing(1, 0, 7), 9_000, None),
        ] {
            let after = now.answered(answer.clone(), now_ms, TTL_MS);
            assert_eq!(after.term, term.map(Term), "{now:?}, then {answer:?} at {now_ms}");
            assert!(after.given_up >= now.given_up, "what was given up stays so");
            let again = after.answered(answer, now_ms, TTL_MS);
            assert_eq!(again.term, after.term, "the same answer once more changes nothing");
        }
    }

    #[test]
    fn a_won_term_that_came_too_late_is_given_up_too() {
        let after = standing(1, 0, None).answered(standing(1, 1_000, 7), 10_000, TTL_MS);
        assert_eq!(after.given_up, Some(Term(7)));
        assert_eq!(standing(1, 0, 7).without_lease(), given_up(7, Standing::default()));
    }

    #[test]
    fn a_term_that_ends_has_its_reason() {
        let led = standing(1, 0, 7);
        for (next, now_ms, ending) in [
            (led.clone(), 20_000, None),
            (led.clone().stepped_down(), 9_000, Some(Ending::LeaseLate)),
            (led.clone().without_lease(), 9_000, Some(Ending::LeaseGone)),
            (standing(2, 9_000, None), 9_000, Some(Ending::LeaseGone)),
            (standing(2, 9_000, 8), 9_000, Some(Ending::LeaseGone)),
            (standing(1, 3_000, None), 3_010, Some(Ending::Deposed)),
            (standing(1, 3_000, 8), 3_010, Some(Ending::Deposed)),
        ] {
            assert_eq!(led.ended(&next, now_ms, TTL_MS), ending, "{next:?}");
        }
        let follower = standing(1, 0, None);
        assert_eq!(follower.ended(&follower.clone().without_lease(), 9_000, TTL_MS), None);
    }
}
