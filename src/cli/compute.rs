//! Where a command computes.

use crate::error::{Error, Result};
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
}

/// More than any machine of today has: a larger number of threads is a mistake.
const MOST_THREADS: usize = 1024;

impl Compute {
    /// Starts the threads, and finds the device.
    pub(crate) fn prepare(&self) -> Result<Place> {
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
