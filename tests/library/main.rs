//! What calls the library: a test here starts no program of ours. `cargo test --test library checkpoint::` runs one file.

mod checkpoint;
mod kernels;
mod largest;
mod methods;
mod parity;
mod setup;
mod whole_models;

#[path = "../common/fixtures.rs"]
mod fixtures;
#[path = "../common/setups.rs"]
mod setups;
