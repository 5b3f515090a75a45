//! Local search on flat arrays: see `anneal` for the moves, `state` for the energy.

pub mod anneal;
mod ranges;
pub mod state;

pub use anneal::{Dice, Schedule, anneal};
pub use ranges::zone_floor;
pub use state::{Ranges, State};
