//! Which of two families of kernels multiplies matrices on a GPU that could have both.

use std::sync::{Mutex, MutexGuard};

use super::launch::{Gpu, Target};
use crate::error::{Error, Result, unknown};

/// Kernels of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `mma.sync`: every GPU has it.
    Mma,
    /// `wgmma` and TMA: Hopper alone, and faster there.
    Wgmma,
}

/// The variable that says what `--kernels` would.
const VARIABLE: &str = "PERENNIAL_KERNELS";

static CHOSEN: Mutex<Option<Family>> = Mutex::new(None);

/// GPUs whose wgmma was found to compute what is not so.
static DISTRUSTED: Mutex<Vec<Gpu>> = Mutex::new(Vec::new());

impl Family {
    /// The names by which a family is asked for.
    pub const NAMES: [&str; 2] = ["mma", "wgmma"];

    /// The family of a name.
    pub fn parse(name: &str) -> Result<Family> {
        match name {
            "mma" => Ok(Family::Mma),
            "wgmma" => Ok(Family::Wgmma),
            _ => Err(unknown("family of kernels", name, Family::NAMES)),
        }
    }

    /// Has all GPUs that this process opens from here on use `family`, or again what they would without a choice.
    pub fn choose(family: Option<Family>) {
        *locked(&CHOSEN) = family;
    }

    /// What was chosen: by [`Family::choose`], or else by the environment variable `PERENNIAL_KERNELS`.
    pub fn chosen() -> Result<Option<Family>> {
        let variable = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty());
        match (*locked(&CHOSEN), variable) {
            (Some(family), _) => Ok(Some(family)),
            (None, Some(name)) => Family::parse(&name).map(Some).map_err(|error| error.at(VARIABLE)),
            (None, None) => Ok(None),
        }
    }

    /// Has `gpu` use [`Family::Mma`] unless the other one is asked for.
    pub fn distrust_wgmma(gpu: Gpu) {
        locked(&DISTRUSTED).push(gpu);
    }

    /// What a GPU called `name` uses. Fails where it is asked for what it has not.
    pub(super) fn of(gpu: Gpu, target: Target, name: &str) -> Result<Family> {
        let distrusted = || locked(&DISTRUSTED).contains(&gpu);
        match (Family::chosen()?, target) {
            (Some(Family::Wgmma), Target::Sm80 | Target::Compute80) => Err(Error::input(format!(
                "the kernels wgmma were asked for (--kernels, {VARIABLE}), which GPUs of compute capability 9.0 alone have, and \
                 not {name}; without it runs with mma"
            ))),
            (Some(family), _) => Ok(family),
            (None, Target::Sm90a) if !distrusted() => Ok(Family::Wgmma),
            (None, _) => Ok(Family::Mma),
        }
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
