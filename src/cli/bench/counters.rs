//! What each op at a model's shapes asks of the hardware, beside the least that it could ask for: counted, on the emulated GPU.

use serde_json::{Map, Value, json};

use super::super::output::put;
use super::kernels::{Arguments, Cases, ForCase};
use crate::check::counters::{CountedOp, count};
use crate::check::{self, Case};
use crate::error::Result;
use crate::model::spec::ModelSpec;
use crate::ops::cuda::counters::{Counts, KernelCounters, ROLES};
use crate::ops::cuda::driver::Identity;
use crate::ops::cuda::launch::{Gpu, Target};

/// Bytes of a sector.
const SECTOR: u64 = 32;

/// Multiply-adds of bf16 with sums in f32 that the tensor cores of one multiprocessor do in a cycle: A100's and H100's
/// (NVIDIA's white papers of both architectures: 4 tensor cores of 256 and of 512).
fn multiply_adds_a_cycle(target: Target) -> u64 {
    match target {
        Target::Sm80 | Target::Compute80 => 1024,
        Target::Sm90a => 2048,
    }
}

pub(crate) fn bench(gpu: Gpu, spec: &ModelSpec, batch: usize, arguments: &Arguments) -> Result<Value> {
    let Identity { name, target, .. } = Identity::of(gpu)?;
    let rate = multiply_adds_a_cycle(target);
    put!("{name}; sectors of 32 bytes; cycles of one multiprocessor at {rate} multiply-adds a cycle");
    put!(
        "{:<24} {:<26} {:>4} {:>9} {:>9} {:>10} {:>6} {:>10} {:>6} {:>10} {:>6} {:>9} {:>9}",
        "op",
        "shape",
        "runs",
        "sectors r",
        "sectors w",
        "bytes",
        "/floor",
        "wavefronts",
        "/ideal",
        "mma cycles",
        "/floor",
        "special",
        "barriers",
    );
    let mut cases = Cases { spec, batch, arguments, table: Table { gpu, rate, rows: Vec::new() } };
    check::visit(&mut cases)?;
    Ok(json!({ "device": name, "multiply_adds_a_cycle": rate, "ops": cases.table.rows }))
}

/// The table as it grows.
struct Table {
    gpu: Gpu,
    rate: u64,
    rows: Vec<Value>,
}

impl ForCase for Table {
    fn case<C: Case>(&mut self, case: &C) -> Result<()> {
        let ops = count(self.gpu, case)?;
        for (i, op) in ops.iter().enumerate() {
            if ops[..i].iter().all(|before| before.name != op.name) {
                self.add(op);
            }
        }
        Ok(())
    }
}

impl Table {
    fn add(&mut self, op: &CountedOp) {
        let CountedOp { name, shape, cost, kernels } = op;
        let total = op.total();
        let (read, written) = (total.sectors_read(), total.global_store_sectors);
        let (wavefronts, ideal) = (total.wavefronts(), total.ideal_wavefronts());
        let barriers = total.barrier_waits + total.mbarrier_waits;
        let of_bytes = ratio(SECTOR * (read + written), cost.bytes as u64);
        let of_operations = ratio(2 * total.multiply_adds, cost.operations as u64);
        // Arithmetic that is no product is not for tensor cores.
        let of_operations = of_operations.filter(|_| total.multiply_adds > 0);
        let text = |ratio: Option<f64>| ratio.map_or("-".to_string(), |ratio| format!("{ratio:.2}"));
        put!(
            "{name:<24} {shape:<26} {:>4} {read:>9} {written:>9} {:>10} {:>6} {wavefronts:>10} {:>6} {:>10} {:>6} {:>9} \
             {barriers:>9}",
            op.launches(),
            total.global_bytes(),
            text(of_bytes),
            text(ratio(wavefronts, ideal)),
            total.multiply_adds / self.rate,
            text(of_operations),
            total.special,
        );
        self.rows.push(json!({
            "op": name, "shape": shape, "launches": op.launches(),
            "floor": { "bytes": cost.bytes, "operations": cost.operations },
            "sectors_read": read, "sectors_written": written, "global_bytes": total.global_bytes(), "bytes_of_floor": of_bytes,
            "wavefronts": wavefronts, "ideal_wavefronts": ideal,
            "tensor_cycles": total.multiply_adds as f64 / self.rate as f64, "operations_of_floor": of_operations,
            "kernels": kernels.iter().map(kernel).collect::<Vec<_>>(),
        }));
    }
}

fn ratio(of: u64, least: u64) -> Option<f64> {
    (least > 0).then(|| of as f64 / least as f64)
}

/// All counters of a kernel, by role of its warps.
fn kernel(of: &KernelCounters) -> Value {
    let KernelCounters { kernel, counters } = of;
    let roles = ROLES.iter().zip(counters.warps).zip(&counters.of).filter(|((_, warps), _)| *warps > 0);
    let roles = roles.map(|((role, warps), counts)| {
        let mut all = Map::from_iter([("warps".to_string(), json!(warps))]);
        let counted = Counts::NAMES.iter().zip(counts.values()).filter(|(_, count)| *count > 0);
        all.extend(counted.map(|(name, count)| (name.to_string(), json!(count))));
        (role.to_string(), Value::Object(all))
    });
    json!({
        "kernel": kernel, "launches": counters.launches, "blocks": counters.blocks, "roles": roles.collect::<Map<_, _>>(),
    })
}
