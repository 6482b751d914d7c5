//! What ops ask of the hardware, counted on the emulated GPU.

use super::{Case, Operands, Purpose};
use crate::error::Result;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::counters::{Counts, KernelCounters};
use crate::ops::cuda::emulated;
use crate::ops::cuda::launch::Gpu;
use crate::ops::measure::Measure;
use crate::ops::{Cost, DeviceMemory};

/// One op at a shape, and what it asked for.
pub struct CountedOp {
    /// The op's name.
    pub name: &'static str,
    /// Its shape in words.
    pub shape: String,
    /// The least that it could ask for.
    pub cost: Cost,
    /// Of each kernel that it launches, by name.
    pub kernels: Vec<KernelCounters>,
}

impl CountedOp {
    /// Of all its kernels.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.kernels.iter().for_each(|kernel| total.add(&kernel.counters.total()));
        total
    }

    /// Of all its kernels.
    pub fn launches(&self) -> u64 {
        self.kernels.iter().map(|kernel| kernel.counters.launches).sum()
    }
}

/// Runs a case's ops once, each on what the ones before it wrote, and counts. Fails where the GPU does not count.
pub fn count<C: Case>(gpu: Gpu, case: &C) -> Result<Vec<CountedOp>> {
    let mut operands = Operands::new::<Cuda>(Purpose::Bench, 0, C::OP);
    let ops = case.ops::<Cuda>(&mut operands);
    let mut device = Cuda::with_plan(&gpu, operands.plan())?;
    operands.send(&mut device);
    let mut counted = Vec::new();
    for op in &ops {
        // What came before, copies of the operands among it.
        emulated::counters(gpu)?;
        device.time(|device| op.run(device))?;
        let kernels = emulated::counters(gpu)?;
        counted.push(CountedOp { name: op.name(), shape: op.shape(), cost: op.cost(Cuda::STORAGE_BYTES), kernels });
    }
    Ok(counted)
}
