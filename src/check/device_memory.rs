//! Cases of what every device does with its memory.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::ops::pool::{Pool, PoolShape};
use crate::ops::{AnyOp, Backend, Cost, DeviceMemory, Ids, Stats, Tensor};

/// Fills of parts of spans, at any element, and the storage copy of a master.
pub(crate) struct DeviceMemoryCase {
    pub len: usize,
}

#[derive(Clone, Copy)]
struct Fills {
    tensor: Tensor,
    stats: Stats,
    ids: Ids,
    master: Stats,
    weights: Tensor,
}

impl<D: DeviceMemory> AnyOp<D> for Fills {
    fn run(&self, device: &mut D) {
        // The first half starts on 16 bytes, the second does not; between them and at the end an element stays.
        let half = self.tensor.len() / 2;
        let rest = self.tensor.len().saturating_sub(half + 2);
        device.fill(self.tensor.first(half), 1.5);
        device.fill(self.tensor.slice(half + 1, rest), -0.75);
        device.fill(self.stats.first(half), 0.1);
        device.fill(self.stats.slice(half + 1, rest), 0.2);
        device.fill(self.ids, 0);
        device.fill(self.ids.first(half + 1), 1);
        device.refresh(self.master, self.weights);
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn shape(&self) -> String {
        self.tensor.len().to_string()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        Cost { operations: 0, bytes: (2 * storage_bytes + 12) * self.tensor.len() }
    }
}

impl Case for DeviceMemoryCase {
    const OP: &'static str = "memory";

    fn list(size: Size) -> Vec<DeviceMemoryCase> {
        let lengths: &[usize] = match size {
            Size::Tiny | Size::Smallest => &[100],
            Size::Small => &[1, 8, 1003],
            Size::Full => &[1, 8, 1003, 30_000_001],
        };
        lengths.iter().map(|len| DeviceMemoryCase { len: *len }).collect()
    }

    fn shape(&self) -> String {
        self.len.to_string()
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let len = self.len;
        let [values, wide, master] = [(); 3].map(|()| operands.normal(len, 1.0));
        let master = operands.updated_stats("master", master, Tolerance::EXACT);
        let fills = Fills {
            tensor: operands.updated("tensor", values, Tolerance::EXACT),
            stats: operands.updated_stats("stats", wide, Tolerance::EXACT),
            ids: operands.ids(vec![0; len]),
            master,
            weights: operands.weights("weights", master, &vec![0.0; len]),
        };
        // Takes one of two tokens by each id: so that what the ids hold shows.
        let shown = Pool {
            shape: PoolShape { samples: len, tokens: 2, width: 1 },
            position: Some(fills.ids),
            x: operands.input("tokens", 2 * len, 1.0),
            y: operands.output("chosen", len, Tolerance::EXACT),
        };
        in_order![fills, shown]
    }
}
