//! CLIP models that keep learning: new classes, new domains, new years, without forgetting.
//!
//! The crate's root has what most programs need: [`Clip`] embeds images and texts and classifies zero-shot by any checkpoint, [`run`]
//! trains a method through a stream with the settings of a [`Config`].
//!
//! Beside it, [`method`] takes in a method of your own ([`method::register`], docs/extending.md), which is written against [`train`],
//! [`model`] and [`ops`].
//!
//! Imports between modules point down this list only: the command line (`src/cli/`), the facade at the root, [`check`], [`report`],
//! [`experiment`], [`method`], [`train`], [`eval`], [`stream`] and [`memory`], [`data`], [`model`], [`ops`]; and below them
//! [`error`], `files`, `interrupt`, `pickle`, `place`, [`rng`], [`seal`]. What is `pub` is for other crates, the tests in `tests/` among
//! them, and has its line here; the rest is `pub(crate)`.

#![deny(missing_docs, unnameable_types, unreachable_pub)]

pub mod check;
mod cli;
pub mod data;
pub mod error;
pub mod eval;
pub mod experiment;
mod facade;
mod files;
mod interrupt;
pub mod memory;
pub mod method;
pub mod model;
pub mod ops;
mod pickle;
mod place;
pub mod report;
pub mod rng;
pub mod seal;
pub mod stream;
pub mod train;

#[doc(hidden)]
pub use cli::main as cli;
pub use data::text::prompts::Templates;
pub use experiment::Config;
pub use facade::{Clip, ClipOptions, Rows, TestSet, run, run_on};
pub use ops::linear::Activation;
pub use place::Place;
