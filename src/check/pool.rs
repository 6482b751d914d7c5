use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::pool::PoolShape;
use crate::ops::{Backend, Ids, Tensor};
use crate::rng::below;

/// Forward and backward: copies, so bit for bit.
struct Pool {
    shape: PoolShape,
    /// Whether samples have a position, rather than token 0.
    positions: bool,
}

struct Spans {
    position: Option<Ids>,
    x: Tensor,
    y: Tensor,
    dy: Tensor,
    dx: Tensor,
}

impl Case for Pool {
    const OP: &'static str = "pool";
    type Spans = Spans;

    fn shape(&self) -> String {
        let PoolShape { samples, tokens, width } = self.shape;
        format!("{samples} x {tokens} x {width}, {}", if self.positions { "end of text" } else { "class token" })
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let PoolShape { samples, tokens, width } = self.shape;
        let generator = operands.generator();
        let position = (0..samples).map(|_| below(generator, tokens as u64) as u32).collect();
        Spans {
            position: self.positions.then(|| operands.ids(position)),
            x: operands.input(samples * tokens * width, 1.0),
            y: operands.output("y", samples * width, Tolerance::EXACT),
            dy: operands.input(samples * width, 1.0),
            dx: operands.output("dx", samples * tokens * width, Tolerance::EXACT),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::pool::Pool { shape: self.shape, position: s.position, x: s.x, y: s.y });
        device.run(crate::ops::pool::PoolBackward { shape: self.shape, position: s.position, dy: s.dy, dx: s.dx });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let shapes: &[(usize, usize, usize)] = match checker.size {
        Size::Smallest => &[(3, 5, 264), (9, 3, 45)],
        Size::Small => &[(1, 1, 1), (9, 7, 33), (17, 5, 64), (3, 11, 520)],
        Size::Full => &[(1, 1, 1), (9, 7, 33), (256, 197, 768), (512, 77, 512)],
    };
    for &(samples, tokens, width) in shapes {
        for positions in [false, true] {
            checker.case(&Pool { shape: PoolShape { samples, tokens, width }, positions });
        }
    }
}
