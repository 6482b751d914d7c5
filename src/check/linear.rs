use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::linear::{Activation, BackwardEpilogue, Epilogue, LinearShape, WeightLayout};
use crate::ops::{Backend, Stats, Tensor};

/// What follows the product.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Follows {
    Nothing,
    Activation(Activation),
    Residual,
}

/// Forward, and backward by data, weight and bias; the backward pass has operands of its own, so that it does not see how
/// the forward pass rounded.
struct Linear {
    shape: LinearShape,
    bias: bool,
    follows: Follows,
}

struct Spans {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    epilogue: Epilogue,
    y: Tensor,
    dy: Tensor,
    backward: BackwardEpilogue,
    dx: Tensor,
    dweight: Stats,
    dbias: Option<Stats>,
}

/// 2^-8: one rounding to bf16.
const ROUNDING: f64 = 1.0 / 256.0;

/// What an f32 sum of `terms` loses, as a share of the largest sum: partial sums stay about as small as that, and tensor
/// cores cut off less than 2^-23 of one each time they add four products or more.
fn sum_loss(terms: usize) -> f64 {
    (4 + terms) as f64 / (1u64 << 24) as f64
}

impl Case for Linear {
    const OP: &'static str = "linear";
    type Spans = Spans;

    fn shape(&self) -> String {
        let LinearShape { rows, inputs, outputs, layout } = self.shape;
        let arrow = if layout == WeightLayout::OutIn { "->" } else { "=>" };
        let bias = if self.bias { " + bias" } else { "" };
        let follows = match self.follows {
            Follows::Nothing => String::new(),
            Follows::Activation(kind) => format!(", {kind:?}"),
            Follows::Residual => ", residual".to_string(),
        };
        format!("{rows} x {inputs} {arrow} {outputs}{bias}{follows}")
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let LinearShape { rows, inputs, outputs, .. } = self.shape;
        let x = operands.input(rows * inputs, 1.0);
        let weight = operands.input(inputs * outputs, (inputs as f64).powf(-0.5));
        let bias = self.bias.then(|| operands.input(outputs, 0.5));
        let product = Tolerance::bf16(sum_loss(inputs));
        let (epilogue, y, backward) = match self.follows {
            Follows::Nothing => (Epilogue::None, product, BackwardEpilogue::None),
            Follows::Activation(kind) => {
                // The activation follows the rounded product p and is rounded itself. What the first rounding does to it,
                // |p f'(p)|, is below 1.3 f(p) for p > 0, and below 0.2 for p < 0, where the largest output is 1 or more.
                let y = Tolerance {
                    relative: 2.3 * ROUNDING,
                    of_largest: 0.2 * ROUNDING + sum_loss(inputs),
                    at_least: 0.0,
                };
                let pre = operands.output("pre", rows * outputs, product);
                let backward = BackwardEpilogue::Activation { kind, pre: operands.input(rows * inputs, 1.0) };
                (Epilogue::Activation { kind, pre }, y, backward)
            }
            Follows::Residual => {
                // The rounded product, which is below the largest sum, and the rounded sum.
                let y = Tolerance { relative: ROUNDING, of_largest: ROUNDING + sum_loss(inputs), at_least: 0.0 };
                (Epilogue::Residual(operands.input(rows * outputs, 2.0)), y, BackwardEpilogue::None)
            }
        };
        let dx = match backward {
            BackwardEpilogue::None => Tolerance::bf16(sum_loss(outputs)),
            // The product and its multiple by the derivative are rounded; the derivative, which has a zero, is known to 1e-4.
            BackwardEpilogue::Activation { .. } => {
                Tolerance { relative: 2.0 * ROUNDING, of_largest: 1e-4 + sum_loss(outputs), at_least: 0.0 }
            }
        };
        Spans {
            x,
            weight,
            bias,
            epilogue,
            y: operands.output("y", rows * outputs, y),
            dy: operands.input(rows * outputs, 1.0),
            backward,
            dx: operands.output("dx", rows * inputs, dx),
            dweight: operands.output_stats("dweight", inputs * outputs, Tolerance::f32(rows)),
            dbias: self.bias.then(|| operands.output_stats("dbias", outputs, Tolerance::f32(rows))),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::linear::Linear {
            shape: self.shape,
            x: s.x,
            weight: s.weight,
            bias: s.bias,
            epilogue: s.epilogue,
            y: s.y,
        });
        device.run(crate::ops::linear::LinearBackwardData {
            shape: self.shape,
            dy: s.dy,
            weight: s.weight,
            epilogue: s.backward,
            dx: s.dx,
        });
        device.run(crate::ops::linear::LinearBackwardWeight {
            shape: self.shape,
            dy: s.dy,
            x: s.x,
            dweight: s.dweight,
            dbias: s.dbias,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    use Activation::{Gelu, QuickGelu};
    use Follows::{Nothing, Residual};
    let size = checker.size;
    let mut case = |shape: LinearShape, bias: bool, follows: Follows| checker.case(&Linear { shape, bias, follows });
    let (gelu, quick_gelu) = (Follows::Activation(Gelu), Follows::Activation(QuickGelu));
    match size {
        Size::Smallest => {
            // Several tiles for each block of the emulator's four, more rows of tiles than a group has, more of the depth than
            // a ring has stages, split sums.
            case(LinearShape::new(2100, 72, 16), true, gelu);
            case(LinearShape::new(7, 136, 1544), true, Residual);
            case(LinearShape::projection(130, 40, 136), true, Nothing);
            // Widths that are no multiples of eight.
            case(LinearShape::new(3, 33, 7), true, quick_gelu);
        }
        Size::Small => {
            case(LinearShape::new(394, 64, 192), true, Nothing);
            case(LinearShape::new(2300, 16, 136), true, Nothing);
            case(LinearShape::new(197, 96, 384), true, gelu);
            case(LinearShape::new(197, 384, 96), true, Residual);
            case(LinearShape::new(150, 768, 264), true, quick_gelu);
            case(LinearShape::projection(8, 768, 512), false, Nothing);
            case(LinearShape::projection(130, 72, 40), true, Residual);
            case(LinearShape::new(257, 588, 136), false, Nothing);
            case(LinearShape::new(7, 33, 50), true, gelu);
            case(LinearShape::projection(129, 50, 33), true, quick_gelu);
            case(LinearShape::projection(5, 1, 3), false, Residual);
            case(LinearShape::new(1, 8, 8), true, Nothing);
        }
        Size::Full => {
            case(LinearShape::new(32 * 197, 768, 2304), true, Nothing);
            case(LinearShape::new(32 * 197, 768, 768), true, Residual);
            case(LinearShape::new(32 * 197, 768, 3072), true, gelu);
            case(LinearShape::new(32 * 197, 3072, 768), true, Residual);
            case(LinearShape::new(64 * 77, 512, 2048), true, quick_gelu);
            case(LinearShape::projection(256, 768, 512), false, Nothing);
            case(LinearShape::projection(1000, 520, 264), true, gelu);
            case(LinearShape::new(4 * 256, 588, 1024), false, Nothing);
            case(LinearShape::new(1001, 333, 77), true, quick_gelu);
            case(LinearShape::projection(129, 50, 33), true, Residual);
            case(LinearShape::new(1, 8, 8), true, Nothing);
        }
    }
}
