//! Rows to unit length: a warp a row.

use super::{Cuda, arguments};
use crate::ops::Run;
use crate::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};

/// Rows of a block, a warp each.
const ROWS: usize = 4;

impl Run<L2Normalize> for Cuda {
    fn run(&mut self, L2Normalize { rows, width, x, y, norm }: L2Normalize) {
        let arguments = arguments![self.at(x), self.at(y), self.at(norm), rows, width];
        self.launch("l2_normalize", [rows.div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }
}

impl Run<L2NormalizeBackward> for Cuda {
    fn run(&mut self, L2NormalizeBackward { rows, width, dy, y, norm, dx }: L2NormalizeBackward) {
        let arguments = arguments![self.at(dy), self.at(y), self.at(norm), self.at(dx), rows, width];
        self.launch("l2_normalize_backward", [rows.div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }
}
