use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::pool::PoolShape;
use crate::ops::{Backend, Ids, Stats, Tensor};

/// Fills of parts of spans, at any element, and the storage copy of a master.
struct Memory {
    len: usize,
}

struct Spans {
    tensor: Tensor,
    stats: Stats,
    /// Tokens that a pool takes: so that what ids hold shows.
    ids: Ids,
    tokens: Tensor,
    chosen: Tensor,
    master: Stats,
    weights: Tensor,
}

impl Case for Memory {
    const OP: &'static str = "memory";
    type Spans = Spans;

    fn shape(&self) -> String {
        format!("{}", self.len)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let len = self.len;
        let [values, wide, master] = [(); 3].map(|()| operands.normal(len, 1.0));
        let master_at = operands.updated_stats("master", master.clone(), Tolerance::EXACT);
        Spans {
            tensor: operands.updated("tensor", values, Tolerance::EXACT),
            stats: operands.updated_stats("stats", wide, Tolerance::EXACT),
            ids: operands.ids(vec![0; len]),
            tokens: operands.input(2 * len, 1.0),
            chosen: operands.output("chosen", len, Tolerance::EXACT),
            master: master_at,
            weights: operands.weights("weights", master_at, &vec![0.0; len]),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        // The first half starts on 16 bytes, the second does not; between them and at the end an element stays.
        let half = self.len / 2;
        let rest = self.len.saturating_sub(half + 2);
        device.fill(s.tensor.first(half), 1.5);
        device.fill(s.tensor.slice(half + 1, rest), -0.75);
        device.fill(s.stats.first(half), 0.1);
        device.fill(s.stats.slice(half + 1, rest), 0.2);
        device.fill(s.ids, 0);
        device.fill(s.ids.first(half + 1), 1);
        let shape = PoolShape { samples: self.len, tokens: 2, width: 1 };
        device.run(crate::ops::pool::Pool { shape, position: Some(s.ids), x: s.tokens, y: s.chosen });
        device.refresh(s.master, s.weights);
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let lengths: &[usize] = match checker.size {
        Size::Smallest => &[100],
        Size::Small => &[1, 8, 1003],
        Size::Full => &[1, 8, 1003, 30_000_001],
    };
    for &len in lengths {
        checker.case(&Memory { len });
    }
}
