//! Rows to unit length: a warp a row.

use super::Cuda;
use super::kernels::l2_normalize as kernel;
use crate::ops::Run;
use crate::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};

impl Run<L2Normalize> for Cuda {
    fn run(&mut self, L2Normalize { rows, width, x, y, norm }: L2Normalize) {
        let parameters = kernel::L2Normalize { x: self.at(x), y: self.at(y), norm: self.at(norm), rows, width };
        self.launch(kernel::L2_NORMALIZE, [rows.div_ceil(kernel::L2_NORMALIZE.warps()), 1, 1], parameters);
    }
}

impl Run<L2NormalizeBackward> for Cuda {
    fn run(&mut self, L2NormalizeBackward { rows, width, dy, y, norm, dx }: L2NormalizeBackward) {
        let (dy, y, norm, dx) = (self.at(dy), self.at(y), self.at(norm), self.at(dx));
        let blocks = rows.div_ceil(kernel::L2_NORMALIZE_BACKWARD.warps());
        let parameters = kernel::L2NormalizeBackward { dy, y, norm, dx, rows, width };
        self.launch(kernel::L2_NORMALIZE_BACKWARD, [blocks, 1, 1], parameters);
    }
}
