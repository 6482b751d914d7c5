//! Classifiers' losses: a block a row, then one block for the mean.

use half::bf16;

use super::Cuda;
use super::kernels::cross_entropy as kernel;
use super::launch::{Kernel, Parameters, Pointer};
use crate::error::Error;
use crate::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftCrossEntropy};
use crate::ops::{DeviceMemory, Run, Stats, Tensor, Write};

/// What both losses end in: their weighted mean over the rows, and its gradient.
struct Mean {
    shape: LogitsShape,
    weight: f64,
    write: Write,
    loss: Stats,
    dlogits: Tensor,
}

/// What both losses' kernels are told of a row's part in the mean.
struct Rows {
    scale: f32,
    add: bool,
    row_loss: Pointer<f32>,
    dlogits: Pointer<bf16>,
    columns: usize,
    stride: usize,
}

impl Run<CrossEntropy> for Cuda {
    fn run(&mut self, CrossEntropy { shape, logits, divisor, label, weight, write, loss, dlogits }: CrossEntropy) {
        let (logits, label, divisor) = (self.at(logits), self.at(label), divisor.map(|divisor| self.at(divisor)));
        let mean = Mean { shape, weight, write, loss, dlogits };
        self.mean_over_rows(kernel::CROSS_ENTROPY, mean, |rows| {
            let Rows { scale, add, row_loss, dlogits, columns, stride } = rows;
            kernel::CrossEntropy { logits, divisor, label, scale, add, row_loss, dlogits, columns, stride }
        });
    }
}

impl Run<SoftCrossEntropy> for Cuda {
    fn run(&mut self, op: SoftCrossEntropy) {
        let SoftCrossEntropy { shape, logits, teacher, targets, weight, write, loss, dlogits } = op;
        let (logits, teacher) = (self.at(logits), self.at(teacher));
        let balance = targets.balance.map(|balance| self.at(balance));
        let inverse_t = (1.0 / targets.temperature) as f32;
        let mean = Mean { shape, weight, write, loss, dlogits };
        self.mean_over_rows(kernel::CROSS_ENTROPY_SOFT, mean, |rows| {
            let Rows { scale, add, row_loss, dlogits, columns, stride } = rows;
            kernel::CrossEntropySoft {
                logits,
                teacher,
                balance,
                inverse_t,
                scale,
                add,
                row_loss,
                dlogits,
                columns,
                stride,
            }
        });
    }
}

impl Cuda {
    /// Launches `kernel` with the `parameters` for its rows, and adds up the rows' losses.
    fn mean_over_rows<P: Parameters>(&mut self, kernel: Kernel<P>, mean: Mean, parameters: impl FnOnce(Rows) -> P) {
        let Mean { shape: LogitsShape { rows, columns, stride }, weight, write, loss, dlogits } = mean;
        let most = Self::WORKSPACE_BYTES / 4;
        if rows > most {
            return self.fail(Error::input(format!("cross_entropy on CUDA takes up to {most} rows, not {rows}")));
        }
        let (row_loss, scale, add) = (self.workspace(), (weight / rows as f64) as f32, write == Write::Add);
        let dlogits = self.at(dlogits);
        // Two accesses of 16 bytes a thread.
        let threads = columns.div_ceil(16).next_multiple_of(32).min(kernel.most_threads());
        let parameters = parameters(Rows { scale, add, row_loss, dlogits, columns, stride });
        self.launch(kernel.threads(threads), [rows, 1, 1], parameters);
        let parameters = kernel::CrossEntropyMean { row_loss, loss: self.at(loss), scale, add, rows };
        self.launch(kernel::CROSS_ENTROPY_MEAN, [1, 1, 1], parameters);
    }
}
