//! The supervised contrastive loss (Khosla et al., arXiv 2004.11362), asymmetric where anchors are chosen (Co2L,
//! arXiv 2106.14413).

use super::{Ids, Stats};

pub trait SupCon {
    /// loss\[0\] = 1/A sum over anchors i of (log sum_{a != i} exp(s_ia / tau) - 1/|P_i| sum_{p in P_i} s_ip / tau) with
    /// P_i = {p != i: y_p = y_i}, and ds its gradient with respect to s.
    ///
    /// s, ds `[samples, samples]`, similarities of unit embeddings; class y `[samples]`; anchor `[samples]`, 1 for anchors and
    /// 0 for others, none for all. A counts the anchors that have positives; one without, or no anchor at all, adds 0 and
    /// never NaN. The sum over anchors is in two passes: the same bits every time.
    #[allow(clippy::too_many_arguments)]
    fn supcon(&mut self, samples: usize, tau: f64, s: Stats, class: Ids, anchor: Option<Ids>, loss: Stats, ds: Stats);
}
