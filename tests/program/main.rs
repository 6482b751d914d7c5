//! What runs the built program, as people and servers do. `cargo test --test program report::` runs one file.

mod cli;
mod data;
mod determinism;
mod fitted;
mod operator;
mod output;
mod presets;
mod report;
mod resume;
mod settings;
mod support;
mod weights;

#[path = "../common/runs.rs"]
mod runs;
#[path = "../common/setups.rs"]
mod setups;
