//! Layer normalisation: a warp a row, or a block a row where the row is too wide for a warp's registers.

use super::{Cuda, arguments};
use crate::error::Error;
use crate::ops::layer_norm::{LayerNorm, LayerNormBackward, LayerNormShape};
use crate::ops::{Memory, Run, Write};

/// Rows of a block of the forward pass, a warp each.
const ROWS: usize = 4;

/// The kernels of the backward pass that hold a row in registers: widths up to this, in multiples of 8, and their threads.
const HELD: [(usize, &str, usize); 4] = [
    (256, "layer_norm_backward_256", 512),
    (512, "layer_norm_backward_512", 512),
    (768, "layer_norm_backward_768", 512),
    (1024, "layer_norm_backward_1024", 384),
];

/// The widest row whose column sums fit any GPU's shared memory.
pub(super) const WIDEST: usize = 12_288;

/// Column sums of a row of any width.
pub(super) const fn shared_bytes(width: usize) -> usize {
    8 * width
}

impl Run<LayerNorm> for Cuda {
    fn run(&mut self, LayerNorm { shape, x, gamma, beta, y, mean, rstd }: LayerNorm) {
        let LayerNormShape { rows, width, eps } = shape;
        let arguments = arguments![
            self.at(x),
            self.at(gamma),
            self.at(beta),
            self.at(y),
            self.at(mean),
            self.at(rstd),
            rows,
            width,
            eps as f32
        ];
        self.launch("layer_norm", [rows.div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }
}

impl Run<LayerNormBackward> for Cuda {
    fn run(&mut self, op: LayerNormBackward) {
        let LayerNormBackward { shape, dy, x, gamma, mean, rstd, write, dx, dgamma, dbeta } = op;
        let LayerNormShape { rows, width, .. } = shape;
        if width > WIDEST {
            return self
                .fail(Error::input(format!("layer_norm on CUDA takes rows of up to {WIDEST} values, not {width}")));
        }
        let held = HELD.iter().find(|(widest, ..)| width <= *widest && width.is_multiple_of(8));
        let (kernel, threads, blocks, shared) = match held {
            Some((_, kernel, threads)) => {
                (*kernel, *threads, rows.div_ceil(threads / 32).min(self.multiprocessors()), 0)
            }
            None => {
                let room = Self::WORKSPACE_BYTES / (8 * width);
                let blocks = rows.min(4 * self.multiprocessors()).min(room);
                ("layer_norm_backward_wide", 256, blocks, shared_bytes(width))
            }
        };
        let partials = self.workspace();
        let arguments = arguments![
            self.at(dy),
            self.at(x),
            self.at(gamma),
            self.at(mean),
            self.at(rstd),
            write == Write::Add,
            self.at(dx),
            partials,
            rows,
            width
        ];
        self.launch(kernel, [blocks, 1, 1], threads, shared, arguments);
        let arguments = arguments![partials, self.at(dgamma), self.at(dbeta), blocks, width];
        self.launch("layer_norm_backward_sum", [(2 * width).div_ceil(32), 1, 1], 1024, 0, arguments);
    }
}
