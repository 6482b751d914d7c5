//! Layer normalisation: a warp a row, or a block a row where the row is too wide for a warp's registers.

use super::Cuda;
use super::kernels::layer_norm as kernel;
use super::launch::Kernel;
use crate::error::Error;
use crate::ops::layer_norm::{LayerNorm, LayerNormBackward, LayerNormShape};
use crate::ops::{DeviceMemory, Run, Write};

/// The kernels of the backward pass that hold a row in registers: widths up to this, in multiples of 8.
const HELD: [(usize, Kernel<kernel::LayerNormBackward>); 4] = [
    (256, kernel::LAYER_NORM_BACKWARD_256),
    (512, kernel::LAYER_NORM_BACKWARD_512),
    (768, kernel::LAYER_NORM_BACKWARD_768),
    (1024, kernel::LAYER_NORM_BACKWARD_1024),
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
        let parameters = kernel::LayerNorm {
            x: self.at(x),
            gamma: self.at(gamma),
            beta: self.at(beta),
            y: self.at(y),
            mean: self.at(mean),
            rstd: self.at(rstd),
            rows,
            width,
            eps: eps as f32,
        };
        self.launch(kernel::LAYER_NORM, [rows.div_ceil(kernel::LAYER_NORM.warps()), 1, 1], parameters);
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
        let held = HELD.iter().find(|(widest, _)| width <= *widest && width.is_multiple_of(8));
        let (kernel, blocks) = match held {
            Some((_, kernel)) => (*kernel, rows.div_ceil(kernel.warps()).min(self.multiprocessors())),
            None => {
                let room = Self::WORKSPACE_BYTES / (8 * width);
                let blocks = rows.min(4 * self.multiprocessors()).min(room);
                (kernel::LAYER_NORM_BACKWARD_WIDE.shared(shared_bytes(width)), blocks)
            }
        };
        let partials = self.workspace();
        let parameters = kernel::LayerNormBackward {
            dy: self.at(dy),
            x: self.at(x),
            gamma: self.at(gamma),
            mean: self.at(mean),
            rstd: self.at(rstd),
            add: write == Write::Add,
            dx: self.at(dx),
            partials,
            rows,
            width,
        };
        self.launch(kernel, [blocks, 1, 1], parameters);
        let (dgamma, dbeta) = (self.at(dgamma), self.at(dbeta));
        let parameters = kernel::LayerNormBackwardSum { partials, dgamma, dbeta, count: blocks, width };
        self.launch(kernel::LAYER_NORM_BACKWARD_SUM, [(2 * width).div_ceil(32), 1, 1], parameters);
    }
}
