//! The engines: ways to find a placement, behind one trait, chosen by name.

pub mod local_search;
pub mod repair;
