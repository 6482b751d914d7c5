//! The model: specifications, parameters, the two towers, and the formats in which weights travel.

pub mod checkpoint;
pub mod clip;
pub mod frozen;
pub mod parameters;
pub mod spec;
pub mod text;
pub(crate) mod tower;
pub mod trainable;
pub mod transformer;
pub mod vision;
pub mod weights;
