//! The library in a few calls, at the crate's root: [`crate::Clip`] for embeddings and zero-shot classification by any checkpoint,
//! [`crate::run`] for a run. The command line uses these too.

mod clip;
mod rows;
mod test_set;

use std::path::Path;

pub use clip::{Clip, ClipOptions};
pub use rows::Rows;
pub use test_set::TestSet;

use crate::error::Result;
use crate::experiment::{self, Access, Config, Evaluation, Iteration, Observer, Setup};
use crate::ops::Plan;
use crate::place::{Place, on_device};

/// Trains and tests one method through a stream of steps on the CPU, without a word. `out` is the run's directory; the same call goes on
/// where a run in it was stopped, and of a finished run it returns what there is.
///
/// ```
/// use perennial::Config;
///
/// let mut config = Config::find("tests/fixtures/tiny-run.toml")?;
/// config.method = "sequential".to_string();
/// config.set("train.epochs=1")?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let out = folder.path().join("run");
/// let evaluation = perennial::run(&config, &out)?;
/// println!("accuracy after each step: {:?}", evaluation.accuracy);
/// assert_eq!(evaluation.accuracy.len(), 3);
/// assert!(out.join("checkpoints/step-003.safetensors").exists());
/// # Ok::<(), perennial::error::Error>(())
/// ```
pub fn run(config: &Config, out: impl AsRef<Path>) -> Result<Evaluation> {
    let access = Access { lock: true, start_over: false };
    run_on(&Place::Cpu, config, out.as_ref(), access, &mut Silent)
}

/// The same on any device, with a word on what is in the run's directory already, and an observer who is told of every iteration and step.
pub fn run_on(
    place: &Place,
    config: &Config,
    out: &Path,
    access: Access,
    observer: &mut dyn Observer,
) -> Result<Evaluation> {
    on_device!(place, D, at => experiment::run::<D>(at, config, out, access, observer))
}

/// Does nothing with what it is told.
struct Silent;

impl Observer for Silent {
    fn started(&mut self, _: &Setup, _: &Plan, _: Option<&str>) {}
    fn iteration(&mut self, _: &Setup, _: Iteration) {}
    fn evaluated(&mut self, _: &Setup, _: &Evaluation) {}
    fn note(&mut self, _: &str) {}
}
