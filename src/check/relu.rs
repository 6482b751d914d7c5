use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::{Backend, Tensor};

/// Forward, and backward from what it wrote: nothing is rounded.
struct Relu {
    len: usize,
    /// Where in their spans the operands begin: 16-byte accesses or none.
    start: usize,
}

struct Spans {
    x: Tensor,
    y: Tensor,
    dy: Tensor,
    dx: Tensor,
}

impl Case for Relu {
    const OP: &'static str = "relu";
    type Spans = Spans;

    fn shape(&self) -> String {
        format!("{} from {}", self.len, self.start)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let len = self.len + self.start;
        let mut x = operands.normal(len, 1.0);
        x.iter_mut().step_by(13).for_each(|x| *x = 0.0);
        x.iter_mut().step_by(29).for_each(|x| *x = f32::NAN);
        Spans {
            x: operands.input_of(x),
            y: operands.output("y", len, Tolerance::EXACT),
            dy: operands.input(len, 1.0),
            dx: operands.output("dx", len, Tolerance::EXACT),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        let [x, y, dy, dx] = [s.x, s.y, s.dy, s.dx].map(|span| span.slice(self.start, self.len));
        device.run(crate::ops::relu::Relu { x, y });
        device.run(crate::ops::relu::ReluBackward { dy, y, dx });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let lengths: &[usize] = match checker.size {
        Size::Smallest => &[4103],
        Size::Small => &[1, 8, 20_003],
        Size::Full => &[1, 8, 20_003, 5_000_000],
    };
    for &len in lengths {
        for start in [0, 1] {
            checker.case(&Relu { len, start });
        }
    }
}
