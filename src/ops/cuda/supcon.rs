//! The supervised contrastive loss: rows by a warp each, then their mean, then the gradient.

use super::Cuda;
use super::kernels::supcon as kernel;
use super::launch::Pointer;
use crate::ops::Run;
use crate::ops::supcon::SupCon;

impl Run<SupCon> for Cuda {
    fn run(&mut self, SupCon { samples, tau, s, class, anchor, loss, ds }: SupCon) {
        let (s, class_of, anchors) = (self.at(s), self.at(class), self.workspace::<kernel::Anchor>());
        let inverse_count = Pointer::new(anchors.offset(samples).address());
        let is_anchor = anchor.map(|anchor| self.at(anchor));
        let scale = (std::f64::consts::LOG2_E / tau) as f32;
        let grid = [samples.div_ceil(kernel::SUPCON_ROWS.warps()), 1, 1];
        let parameters = kernel::SupconRows { s, class_of, is_anchor, anchors, samples, scale };
        self.launch(kernel::SUPCON_ROWS, grid, parameters);
        let parameters = kernel::SupconLoss { anchors, loss: self.at(loss), inverse_count, samples };
        self.launch(kernel::SUPCON_LOSS, [1, 1, 1], parameters);
        let (ds, inverse_tau) = (self.at(ds), (1.0 / tau) as f32);
        let parameters =
            kernel::SupconGradient { s, class_of, anchors, inverse_count, ds, samples, scale, inverse_tau };
        self.launch(kernel::SUPCON_GRADIENT, grid, parameters);
    }
}
