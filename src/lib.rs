//! CLIP models that keep learning: new classes, new domains, new years, without forgetting.
pub mod error;
pub mod model;
pub mod ops;
pub mod rng;
