//! `perennial check`: every kernel against the CPU reference.

use super::compute::{Place, on_device};
use super::output::put;
use crate::check::linear::LinearCase;
use crate::check::{self, Case, Checker, Outcome, Size, conformance};
use crate::error::{Error, Result, unknown};
use crate::ops::Backend;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::driver::Identity;
use crate::ops::cuda::family::Family;
use crate::ops::cuda::launch::{Gpu, Target};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// cuda[:N], or emulated[:N] (of a build with the feature `emulator`)
    #[arg(long, default_value = "cuda", value_name = "DEVICE")]
    device: String,
    /// Only this op, or "ptx" (single instructions), or "step"
    #[arg(long, value_name = "OP")]
    only: Option<String>,
    /// The smallest shapes alone: for compute-sanitizer
    #[arg(long)]
    smallest: bool,
    /// What multiplies matrices on a GPU of compute capability 9.0: mma or wgmma [default: wgmma]
    #[arg(long, value_name = "FAMILY")]
    kernels: Option<String>,
    /// The seed of the operands [default: another each time]
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let place = Place::parse(&arguments.device)?;
    if let Some(name) = &arguments.kernels {
        Family::choose(Some(Family::parse(name)?));
    }
    let size = match place {
        Place::Cpu => return Err(Error::input("the CPU is what others are checked against: give --device cuda[:N]")),
        _ if arguments.smallest => Size::Smallest,
        Place::Cuda(Gpu::Real(_)) => Size::Full,
        #[cfg(feature = "emulator")]
        Place::Cuda(Gpu::Emulated(_)) => Size::Small,
    };
    if let Some(only) = &arguments.only
        && !check::names().contains(&only.as_str())
    {
        return Err(unknown("op", only, check::names()));
    }
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_nanos() as u64)
    });
    put!("seed {seed}");
    put!(
        "{:<16} {:<40} {:>8} {:>8}  result; error: the largest, of what is allowed",
        "op",
        "shape",
        "seconds",
        "error"
    );
    let (mut cases, mut failed) = (0, 0);
    let mut observer = |outcome: &Outcome| {
        cases += 1;
        failed += outcome.failure.is_some() as usize;
        let verdict = outcome.failure.clone().unwrap_or_else(|| "ok".to_string());
        let Outcome { op, shape, worst, seconds, .. } = outcome;
        let error = if worst.is_finite() { format!("{:.0}%", 100.0 * worst) } else { worst.to_string() };
        put!("{op:<16} {shape:<40} {seconds:>8.2} {error:>8}  {verdict}");
    };
    let only = arguments.only.clone();
    if only.as_ref().is_none_or(|only| only == conformance::OP) {
        let skipped = check_instructions(&place, seed, &mut observer)?;
        if skipped > 0 {
            put!(
                "{:<16} {skipped} kernels for Hopper's instructions were left out: this GPU has none",
                conformance::OP
            );
        }
    }
    // What everything else is made of, by the instructions that every GPU has, before the same by Hopper's own.
    if let Place::Cuda(gpu) = &place
        && only.as_ref().is_none_or(|only| only == LinearCase::OP)
        && Family::chosen()?.is_none()
        && Identity::of(*gpu)?.target == Target::Sm90a
    {
        Family::choose(Some(Family::Mma));
        let mut by_mma = |outcome: &Outcome| observer(&Outcome { op: "linear by mma", ..outcome.clone() });
        let only = Some(LinearCase::OP.to_string());
        let mut checker = Checker::<Cuda> { place: *gpu, size, seed, only, observer: &mut by_mma };
        check::ops(&mut checker);
        Family::choose(None);
    }
    on_device!(&place, D, at => check_ops::<D>(at, size, seed, only, &mut observer));
    if failed > 0 {
        return Err(Error::run(format!("{failed} of {cases} cases failed (seed {seed})")));
    }
    put!("{cases} cases: all agree with the reference");
    Ok(())
}

/// What the ops' kernels are made of, first of all.
fn check_instructions(place: &Place, seed: u64, observer: &mut dyn FnMut(&Outcome)) -> Result<usize> {
    match place {
        Place::Cpu => Ok(0),
        Place::Cuda(gpu) => conformance::check(*gpu, seed, observer),
    }
}

fn check_ops<D: Backend>(
    place: &D::Place,
    size: Size,
    seed: u64,
    only: Option<String>,
    observer: &mut dyn FnMut(&Outcome),
) {
    let mut checker = Checker::<D> { place: place.clone(), size, seed, only, observer };
    check::ops(&mut checker);
    check::step::check(&mut checker);
}
