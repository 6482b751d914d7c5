//! Cases of the rectifier.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::relu::{Relu, ReluBackward};

/// Forward, and backward from what it wrote: nothing is rounded.
pub(crate) struct ReluCase {
    pub len: usize,
    /// Where in their spans the operands begin: 16-byte accesses or none.
    pub start: usize,
}

impl Case for ReluCase {
    const OP: &'static str = "relu";

    fn list(size: Size) -> Vec<ReluCase> {
        let lengths: &[usize] = match size {
            Size::Tiny => &[40],
            Size::Smallest => &[4103],
            Size::Small => &[1, 8, 20_003],
            Size::Full => &[1, 8, 20_003, 5_000_000],
        };
        lengths.iter().flat_map(|len| [0, 1].map(|start| ReluCase { len: *len, start })).collect()
    }

    /// The hidden layer of a projector.
    fn of_model(_: &ModelSpec, batch: usize) -> Vec<ReluCase> {
        vec![ReluCase { len: 1000 * batch, start: 0 }]
    }

    fn shape(&self) -> String {
        format!("{} from {}", self.len, self.start)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let len = self.len + self.start;
        let mut x = operands.normal(len, 1.0);
        x.iter_mut().step_by(13).for_each(|x| *x = 0.0);
        x.iter_mut().step_by(29).for_each(|x| *x = f32::NAN);
        let [x, y, dy, dx] = [
            operands.input_of("x", x),
            operands.output("y", len, Tolerance::EXACT),
            operands.input("dy", len, 1.0),
            operands.output("dx", len, Tolerance::EXACT),
        ]
        .map(|span| span.slice(self.start, self.len));
        in_order![Relu { x, y }, ReluBackward { dy, y, dx }]
    }
}
