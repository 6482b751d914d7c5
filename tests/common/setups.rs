//! What runs of the tests' presets are made from.

use perennial::experiment::{Config, Setup};

/// The preset of the tests, relative to the crate's folder, where tests run.
pub const TINY_RUN: &str = "tests/fixtures/tiny-run.toml";

/// The same over time, with everything that can be measured.
pub const TINY_TIC: &str = "tests/fixtures/tiny-tic.toml";

/// What a run of `preset` with these settings is made from.
pub fn setup(preset: &str, method: &str, settings: &[&str]) -> Setup {
    let mut config = Config::find(preset).unwrap().for_method(method).unwrap();
    settings.iter().for_each(|setting| config.set(setting).unwrap());
    Setup::open(&config).unwrap()
}
