//! The supervised contrastive loss (Khosla et al., arXiv 2004.11362), asymmetric where anchors are chosen (Co2L,
//! arXiv 2106.14413).

use super::{Cost, Ids, Op, Stats};

/// loss\[0\] = 1/A sum over anchors i of (log sum_{a != i} exp(s_ia / tau) - 1/|P_i| sum_{p in P_i} s_ip / tau) with
/// P_i = {p != i: y_p = y_i}, and ds its gradient with respect to s.
///
/// A counts the anchors that have positives; one without, or no anchor at all, adds 0 and never NaN. The sum over anchors is
/// in two passes: the same bits every time.
#[derive(Clone, Copy, Debug)]
pub struct SupCon {
    /// Embeddings of the batch, every view counted.
    pub samples: usize,
    /// The temperature, above 0.
    pub tau: f64,
    /// Similarities of unit embeddings `[samples, samples]`.
    pub s: Stats,
    /// y `[samples]`
    pub class: Ids,
    /// 1 for anchors and 0 for others `[samples]`; none for all.
    pub anchor: Option<Ids>,
    /// `[1]`
    pub loss: Stats,
    /// `[samples, samples]`
    pub ds: Stats,
}

impl Op for SupCon {
    const NAME: &'static str = "supcon";

    fn shape(&self) -> String {
        format!("{} x {}", self.samples, self.samples)
    }

    fn cost(&self, _: usize) -> Cost {
        let pairs = self.samples * self.samples;
        Cost { operations: 5 * pairs, bytes: 4 * 2 * pairs }
    }
}
