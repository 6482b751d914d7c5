//! The model: specifications, parameters, the two towers, and the formats in which weights travel.

pub mod parameters;
pub mod spec;
