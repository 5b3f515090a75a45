//! Actors: thin shells round pure states.

pub mod replica;
