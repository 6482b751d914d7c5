//! CLIP models that keep learning: new classes, new domains, new years, without forgetting.
//!
//! The modules are floors of one house, and imports point down this list only: [`check`], [`report`], [`experiment`], [`method`],
//! [`train`], [`eval`], [`stream`] and [`memory`], [`data`], [`model`], [`ops`]; in the cellar [`error`],
//! [`files`], [`interrupt`], [`pickle`], [`rng`], [`seal`].

pub mod check;
pub mod data;
pub mod error;
pub mod eval;
pub mod experiment;
pub mod files;
pub mod interrupt;
pub mod memory;
pub mod method;
pub mod model;
pub mod ops;
pub mod pickle;
pub mod report;
pub mod rng;
pub mod seal;
pub mod stream;
pub mod train;
