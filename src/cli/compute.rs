//! Where a command computes.

use super::output::say;
use crate::check::self_test::self_test;
use crate::error::{Error, Result};
use crate::ops::cuda::family::Family;
#[cfg(feature = "emulator")]
use crate::ops::cuda::launch::Gpu;
pub(crate) use crate::place::Place;
pub(super) use crate::place::on_device;

#[derive(clap::Args)]
pub(crate) struct Compute {
    /// cpu, or cuda[:N]
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Threads that compute [default: all cores]; results do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    kernels: Kernels,
}

#[derive(clap::Args)]
pub(crate) struct Kernels {
    /// What multiplies matrices on a GPU of compute capability 9.0, mma or wgmma [default: wgmma, if it passes a self-test]
    #[arg(long, value_name = "FAMILY")]
    kernels: Option<String>,
}

impl Kernels {
    /// Has the process use what was asked for, and tests the GPU if nothing was.
    pub(crate) fn settle(&self, place: &Place) -> Result<()> {
        if let Some(name) = &self.kernels {
            Family::choose(Some(Family::parse(name)?));
        }
        let gpu = match place {
            Place::Cpu if self.kernels.is_some() => {
                return Err(Error::input("--kernels is for GPUs: give --device cuda[:N] with it, or leave it out"));
            }
            Place::Cpu => return Ok(()),
            Place::Cuda(gpu) => *gpu,
        };
        #[cfg(feature = "emulator")]
        if matches!(gpu, Gpu::Emulated(_)) && std::env::var_os("PERENNIAL_SELF_TEST").is_none() {
            return Ok(());
        }
        if let Some(wrong) = self_test(gpu)? {
            say!(
                "warning: this GPU's wgmma is not right: {wrong}. The slower kernels of mma are used instead; \
                 `perennial check` tries all kernels"
            );
        }
        Ok(())
    }
}

/// More than any machine of today has: a larger number of threads is a mistake.
const MOST_THREADS: usize = 1024;

impl Compute {
    /// Has the emulated GPUs of this process count what their kernels do. Fails where the device is none of them.
    pub(crate) fn count(&self) -> Result<()> {
        let kind = self.device.split(':').next();
        #[cfg(feature = "emulator")]
        if kind == Some("emulated") {
            return crate::ops::cuda::emulated::use_counting_kernels();
        }
        Err(Error::input(format!(
            "--counters are of the emulated GPU, and --device is {}: give --device emulated, to a program that was built \
             with `cargo build --features emulator`",
            kind.unwrap_or_default()
        )))
    }

    /// Starts the threads, and finds the device.
    pub(crate) fn prepare(&self) -> Result<Place> {
        let place = Place::parse(&self.device)?;
        self.kernels.settle(&place)?;
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        let threads = match self.threads {
            None => cores,
            Some(0) => return Err(Error::input("--threads is 0; at least one must compute")),
            Some(threads) if threads > MOST_THREADS.max(cores) => {
                return Err(Error::input(format!(
                    "--threads is {threads}; this machine has {cores} cores, and more threads than that compute no faster"
                )));
            }
            Some(threads) => threads,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        pool.map_err(|cause| {
            Error::run(format!(
                "cannot start {threads} threads: {cause}; ulimit -u and -v limit them, --threads asks for fewer"
            ))
        })?;
        Ok(place)
    }
}
