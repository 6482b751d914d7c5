//! Where a command computes.

use perennial::error::{Error, Result, unknown};
use perennial::ops::cuda::driver::Gpu;

#[derive(clap::Args)]
pub struct Compute {
    /// cpu, or cuda[:N]
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Threads that compute [default: all cores]; results do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// More than any machine of today has: a number of threads beyond it is a slip of the hand.
const MOST_THREADS: usize = 1024;

/// A device by name.
#[derive(Clone, Debug)]
pub enum Place {
    Cpu,
    Cuda(Gpu),
}

impl Place {
    /// The device that `name` names. Nothing falls back to another in silence.
    pub fn parse(name: &str) -> Result<Place> {
        let known: &[&str] = if cfg!(feature = "emulator") { &["cpu", "cuda", "emulated"] } else { &["cpu", "cuda"] };
        let (kind, number) = name.split_once(':').unwrap_or((name, ""));
        let number = || match number {
            "" => Ok(0),
            _ => number
                .parse()
                .map_err(|_| Error::input(format!("'{number}' in --device {name} is not the number of a GPU"))),
        };
        match kind {
            "cpu" if kind == name => Ok(Place::Cpu),
            "cuda" => Ok(Place::Cuda(Gpu::Real(number()?))),
            #[cfg(feature = "emulator")]
            "emulated" => Ok(Place::Cuda(perennial::ops::cuda::emulated::gpu(number()?)?)),
            #[cfg(not(feature = "emulator"))]
            "emulated" => Err(Error::input(
                "this program was built without the emulated GPU: build it with `cargo build --features emulator`",
            )),
            _ => Err(unknown("device", name, known.iter().copied())),
        }
    }
}

impl Compute {
    /// Starts the threads, and finds the device.
    pub fn prepare(&self) -> Result<Place> {
        let place = Place::parse(&self.device)?;
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

/// Evaluates an expression with `$device` the type of the device that a [`Place`] names, and `$at` which of them.
macro_rules! on_device {
    ($place:expr, $device:ident, $at:ident => $work:expr) => {
        match $place {
            $crate::cli::compute::Place::Cpu => {
                type $device = perennial::ops::cpu::Cpu<f32>;
                let $at = &();
                $work
            }
            $crate::cli::compute::Place::Cuda(gpu) => {
                type $device = perennial::ops::cuda::Cuda<perennial::ops::cuda::nvidia::Nvidia>;
                let $at = gpu;
                $work
            }
        }
    };
}
pub(super) use on_device;
