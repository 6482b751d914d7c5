//! Where a command computes.

use perennial::error::{Error, Result, unknown};

#[derive(clap::Args)]
pub struct Compute {
    /// cpu, or cuda[:N]
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Threads that compute [default: all cores]; results do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl Compute {
    /// Starts the threads. Fails on a device that is not known or that this program was not built for: nothing falls back
    /// to another in silence.
    pub fn prepare(&self) -> Result<()> {
        match self.device.split(':').next().unwrap_or_default() {
            "cpu" if self.device == "cpu" => {}
            "cuda" => return Err(Error::input("this program holds no CUDA kernels yet; use --device cpu")),
            _ => return Err(unknown("device", &self.device, ["cpu", "cuda"])),
        }
        match self.threads {
            None => Ok(()),
            Some(0) => Err(Error::input("--threads is 0; at least one must compute")),
            Some(threads) => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
                pool.map_err(|cause| Error::run(format!("cannot start {threads} threads: {cause}")))
            }
        }
    }
}
