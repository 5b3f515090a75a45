//! Who looks for plans, as the simulator's commands take it.

use crate::model::balance::Planner;
use clap::ValueEnum;

/// Who looks for plans.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Engine {
    /// What daemons use
    Hybrid,
    /// An exact model; for small worlds
    Milp,
    /// Annealing alone
    LocalSearch,
    /// One pass
    Greedy,
    /// Nothing but what rules ask for
    Pinned,
}

impl From<Engine> for Planner {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Hybrid => Self::Hybrid,
            Engine::Milp => Self::Milp,
            Engine::LocalSearch => Self::LocalSearch,
            Engine::Greedy => Self::Greedy,
            Engine::Pinned => Self::Pinned,
        }
    }
}

impl Engine {
    /// As it is given.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
