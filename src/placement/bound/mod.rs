//! A lower bound on the objective: the Lagrangian relaxation of the balance rows, priced shard by shard.
//!
//! Any prices give a valid bound, so the search for good prices (a volume-style subgradient ascent) may stop
//! at any moment. The prices are also what guides local search. Per-table, write and read terms are bounded
//! by zero. The bound holds for solutions that break no hard rule.

mod ascent;
mod envelope;
mod pricing;
mod row;

pub use ascent::{Ascent, AscentLimits};
pub use envelope::{Envelope, Line};
pub use pricing::{Priced, Prices, Pricing};
pub use row::Row;
