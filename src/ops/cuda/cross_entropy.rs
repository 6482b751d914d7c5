//! Classifiers' losses: a block a row, then one block for the mean.

use super::launch::Argument;
use super::{Cuda, arguments};
use crate::error::Error;
use crate::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftCrossEntropy};
use crate::ops::{Memory, Run, Stats, Tensor, Write};

/// What both losses end in: their weighted mean over the rows, and its gradient.
struct Mean {
    shape: LogitsShape,
    weight: f64,
    write: Write,
    loss: Stats,
    dlogits: Tensor,
}

impl Run<CrossEntropy> for Cuda {
    fn run(&mut self, CrossEntropy { shape, logits, divisor, label, weight, write, loss, dlogits }: CrossEntropy) {
        let divisor = divisor.map(|divisor| self.at(divisor));
        let target = arguments![self.at(logits), divisor, self.at(label)];
        self.mean_over_rows("cross_entropy", target, Mean { shape, weight, write, loss, dlogits });
    }
}

impl Run<SoftCrossEntropy> for Cuda {
    fn run(&mut self, op: SoftCrossEntropy) {
        let SoftCrossEntropy { shape, logits, teacher, targets, weight, write, loss, dlogits } = op;
        let balance = targets.balance.map(|balance| self.at(balance));
        let target = arguments![self.at(logits), self.at(teacher), balance, (1.0 / targets.temperature) as f32];
        self.mean_over_rows("cross_entropy_soft", target, Mean { shape, weight, write, loss, dlogits });
    }
}

impl Cuda {
    /// Launches `kernel`, whose arguments begin with `target`, and adds up the rows' losses.
    fn mean_over_rows(&mut self, kernel: &'static str, target: &[Argument], mean: Mean) {
        let Mean { shape: LogitsShape { rows, columns, stride }, weight, write, loss, dlogits } = mean;
        let most = Self::WORKSPACE_BYTES / 4;
        if rows > most {
            return self.fail(Error::input(format!("cross_entropy on CUDA takes up to {most} rows, not {rows}")));
        }
        let (losses, scale, add) = (self.workspace(), (weight / rows as f64) as f32, write == Write::Add);
        let rest = arguments![scale, add, losses, self.at(dlogits), columns, stride];
        // Two accesses of 16 bytes a thread.
        let threads = columns.div_ceil(16).next_multiple_of(32).min(512);
        self.launch(kernel, [rows, 1, 1], threads, 0, &[target, rest].concat());
        let arguments = arguments![losses, self.at(loss), scale, add, rows];
        self.launch("cross_entropy_mean", [1, 1, 1], 1024, 0, arguments);
    }
}
