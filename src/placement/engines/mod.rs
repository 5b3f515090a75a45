//! The engines: ways to find a placement, behind one trait, chosen by name.
//!
//! An engine sees the problem, a seed and a budget; it never sees a clock. Whatever happens it answers with a
//! placement: the best that it has when the budget ends.

mod greedy;
mod hybrid;
mod kicks;
pub mod local_search;
pub mod milp;
mod neighbourhood;
mod pinned;
pub mod repair;

use super::budget::Budget;
use super::problem::Problem;
use super::solution::Solution;
use crate::model::balance::Planner;
pub use greedy::Greedy;
pub use hybrid::Hybrid;
pub use local_search::LocalSearch;
pub use milp::Milp;
pub use pinned::Pinned;

/// What an engine says while it works.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress<'a> {
    /// What it does now.
    pub phase: &'static str,
    /// The best bound so far; 0 if it has none.
    pub bound: f64,
    /// The best score so far, once it has one.
    pub score: Option<f64>,
    /// The best placement so far, once it has one: what is left if it is not waited for.
    pub best: Option<&'a Solution>,
}

/// What an engine found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The placement.
    pub solution: Solution,
    /// No placement that keeps the hard rules scores less; 0 if the engine looks for no bound.
    pub bound: f64,
    /// Work spent, in proposals or what takes as long.
    pub work: u64,
}

/// A way to find a placement.
pub trait Engine: Send + Sync {
    /// The name that it is chosen by.
    fn name(&self) -> &'static str;

    /// Why the engine does not take a problem, if it does not; asked to solve it, it does what it can.
    fn refuses(&self, _problem: &Problem) -> Option<String> {
        None
    }

    /// Whether it looks for a bound of its own. If not, who calls it may ask the prices for one.
    fn proves(&self) -> bool {
        false
    }

    /// Whether it solves integer programs, which may overrun a limit of time.
    fn is_exact(&self) -> bool {
        false
    }

    /// Finds a placement. Repeats exactly for the same problem, seed and work budget.
    fn solve(
        &self,
        problem: &Problem,
        seed: u64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Outcome;
}

/// Whether what an engine is doing by its [`Progress`] is an integer program: HiGHS looks at no flag, and at its clock
/// between its own phases only.
pub fn is_program(phase: &str) -> bool {
    phase == milp::PROGRAM || phase == neighbourhood::NEIGHBOURHOODS
}

/// The names of the engines that come with it, the default first.
pub const NAMES: [&str; 5] = ["hybrid", "milp", "local-search", "greedy", "pinned"];

/// The engine that looks for the balancer's plans, bounded by work alone.
pub fn of_planner(planner: Planner) -> Box<dyn Engine> {
    match planner {
        Planner::Hybrid => Box::new(Hybrid::HEURISTIC),
        Planner::Milp => Box::new(Milp),
        Planner::LocalSearch => Box::new(LocalSearch),
        Planner::Greedy => Box::new(Greedy),
        Planner::Pinned => Box::new(Pinned),
    }
}

/// The engine of that name.
pub fn by_name(name: &str) -> Option<Box<dyn Engine>> {
    Some(match name {
        "hybrid" => Box::new(Hybrid::EXACT),
        "milp" => Box::new(Milp),
        "local-search" => Box::new(LocalSearch),
        "greedy" => Box::new(Greedy),
        "pinned" => Box::new(Pinned),
        _ => return None,
    })
}
