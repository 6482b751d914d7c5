//! The supervised contrastive loss: rows by a warp each, then their mean, then the gradient.

use super::{Cuda, arguments};
use crate::ops::Run;
use crate::ops::supcon::SupCon;

/// Rows of a block.
const ROWS: usize = 8;
/// Bytes of `Anchor` of `kernels/supcon.cu`.
const ANCHOR: usize = 16;

impl Run<SupCon> for Cuda {
    fn run(&mut self, SupCon { samples, tau, s, class, anchor, loss, ds }: SupCon) {
        let (s, class, anchors) = (self.at(s), self.at(class), self.workspace());
        let inverse_count = anchors.offset(ANCHOR * samples);
        let is_anchor = anchor.map(|anchor| self.at(anchor));
        let scale = (std::f64::consts::LOG2_E / tau) as f32;
        let grid = [samples.div_ceil(ROWS), 1, 1];
        let arguments = arguments![s, class, is_anchor, anchors, samples, scale];
        self.launch("supcon_rows", grid, 32 * ROWS, 0, arguments);
        let arguments = arguments![anchors, self.at(loss), inverse_count, samples];
        self.launch("supcon_loss", [1, 1, 1], 1024, 0, arguments);
        let arguments = arguments![s, class, anchors, inverse_count, self.at(ds), samples, scale, (1.0 / tau) as f32];
        self.launch("supcon_gradient", grid, 32 * ROWS, 0, arguments);
    }
}
