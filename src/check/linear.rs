//! Cases of matrix products.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::{ModelSpec, TransformerSpec};
use crate::ops::Backend;
use crate::ops::linear::{
    Activation, BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape, WeightLayout,
};

/// What follows the product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Follows {
    /// The product is the output.
    Nothing,
    /// An activation, which keeps the product for the backward pass.
    Activation(Activation),
    /// A residual is added.
    Residual,
}

/// Forward, and backward by data, weight and bias; the backward pass has operands of its own, so that it does not see how
/// the forward pass rounded.
pub struct LinearCase {
    /// Rows, inputs, outputs, and how the weight lies.
    pub shape: LinearShape,
    /// Whether there is a bias.
    pub bias: bool,
    /// What the forward pass does with the product.
    pub follows: Follows,
    /// What x came out of: the backward pass goes on through it.
    pub before: Option<Activation>,
}

/// 2^-8: one rounding to bf16.
const ROUNDING: f64 = 1.0 / 256.0;

/// What an f32 sum of `terms` loses, as a share of the largest sum: partial sums stay about as small as that, and tensor
/// cores cut off less than 2^-23 of one each time they add four products or more.
fn sum_loss(terms: usize) -> f64 {
    (4 + terms) as f64 / (1u64 << 24) as f64
}

/// With an activation on both sides or on none.
fn linear(shape: LinearShape, bias: bool, follows: Follows) -> LinearCase {
    let before = if let Follows::Activation(kind) = follows { Some(kind) } else { None };
    LinearCase { shape, bias, follows, before }
}

impl Case for LinearCase {
    const OP: &'static str = "linear";

    fn list(size: Size) -> Vec<LinearCase> {
        use Follows::{Nothing, Residual};
        let (gelu, quick_gelu) = (Follows::Activation(Activation::Gelu), Follows::Activation(Activation::QuickGelu));
        match size {
            Size::Tiny => vec![
                linear(LinearShape::new(7, 24, 13), true, Nothing),
                linear(LinearShape::projection(7, 24, 13), true, Residual),
                linear(LinearShape::new(1, 5, 3), true, Residual),
                linear(LinearShape::projection(3, 1, 7), true, Nothing),
            ],
            Size::Smallest => vec![
                // Several tiles for each block of the emulator's four, more rows of tiles than a group has, more of the depth than
                // a ring has stages, split sums.
                linear(LinearShape::new(2100, 72, 16), true, gelu),
                linear(LinearShape::new(7, 136, 1544), true, Residual),
                linear(LinearShape::projection(130, 40, 136), true, Nothing),
                // The other epilogues, over more rows than a thread takes at a time.
                linear(LinearShape::new(260, 24, 40), true, quick_gelu),
                linear(LinearShape::projection(260, 24, 40), true, Residual),
                // Widths that are no multiples of eight.
                linear(LinearShape::new(3, 33, 7), true, quick_gelu),
            ],
            Size::Small => vec![
                linear(LinearShape::new(394, 64, 192), true, Nothing),
                linear(LinearShape::new(2300, 16, 136), true, Nothing),
                linear(LinearShape::new(197, 96, 384), true, gelu),
                linear(LinearShape::new(197, 384, 96), true, Residual),
                linear(LinearShape::new(150, 768, 264), true, quick_gelu),
                linear(LinearShape::projection(8, 768, 512), false, Nothing),
                linear(LinearShape::projection(130, 72, 40), true, Residual),
                linear(LinearShape::new(257, 588, 136), false, Nothing),
                linear(LinearShape::new(7, 33, 50), true, gelu),
                linear(LinearShape::projection(129, 50, 33), true, quick_gelu),
                linear(LinearShape::projection(5, 1, 3), false, Residual),
                linear(LinearShape::new(1, 8, 8), true, Nothing),
            ],
            Size::Full => vec![
                linear(LinearShape::new(32 * 197, 768, 2304), true, Nothing),
                linear(LinearShape::new(32 * 197, 768, 768), true, Residual),
                linear(LinearShape::new(32 * 197, 768, 3072), true, gelu),
                linear(LinearShape::new(32 * 197, 3072, 768), true, Residual),
                linear(LinearShape::new(64 * 77, 512, 2048), true, quick_gelu),
                linear(LinearShape::projection(256, 768, 512), false, Nothing),
                linear(LinearShape::projection(1000, 520, 264), true, gelu),
                linear(LinearShape::new(4 * 256, 588, 1024), false, Nothing),
                linear(LinearShape::new(1001, 333, 77), true, quick_gelu),
                linear(LinearShape::projection(129, 50, 33), true, Residual),
                linear(LinearShape::new(1, 8, 8), true, Nothing),
            ],
        }
    }

    fn of_model(spec: &ModelSpec, batch: usize) -> Vec<LinearCase> {
        let of_block = |tower: TransformerSpec, rows: usize| {
            let TransformerSpec { width, hidden, activation, .. } = tower;
            let shape = |inputs, outputs| LinearShape::new(rows, inputs, outputs);
            [
                linear(shape(width, 3 * width), true, Follows::Nothing),
                linear(shape(width, width), true, Follows::Residual),
                LinearCase { before: None, ..linear(shape(width, hidden), true, Follows::Activation(activation)) },
                LinearCase { before: Some(activation), ..linear(shape(hidden, width), true, Follows::Residual) },
            ]
        };
        let patches =
            LinearShape::new(batch * spec.patches(), 3 * spec.vision_cfg.patch_size.pow(2), spec.vision().width);
        let mut cases = vec![linear(patches, false, Follows::Nothing)];
        cases.extend(of_block(spec.vision(), batch * (spec.patches() + 1)));
        cases.extend(of_block(spec.text(), batch * spec.text_cfg.context_length));
        cases
    }

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

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let shape = self.shape;
        let LinearShape { rows, inputs, outputs, .. } = shape;
        let x = operands.input("x", rows * inputs, 1.0);
        let weight = operands.input("weight", inputs * outputs, (inputs as f64).powf(-0.5));
        let bias = self.bias.then(|| operands.input("bias", outputs, 0.5));
        let product = Tolerance::bf16(sum_loss(inputs));
        let (epilogue, y) = match self.follows {
            Follows::Nothing => (Epilogue::None, product),
            Follows::Activation(kind) => {
                // The activation follows the rounded product p and is rounded itself. What the first rounding does to it,
                // |p f'(p)|, is below 1.3 f(p) for p > 0, and below 0.2 for p < 0, where the largest output is 1 or more.
                let of_largest = 0.2 * ROUNDING + sum_loss(inputs);
                let pre = operands.output("pre", rows * outputs, product);
                (Epilogue::Activation { kind, pre }, Tolerance { relative: 2.3 * ROUNDING, of_largest, at_least: 0.0 })
            }
            Follows::Residual => {
                // The rounded product, which is below the largest sum, and the rounded sum.
                let y = Tolerance { relative: ROUNDING, of_largest: ROUNDING + sum_loss(inputs), at_least: 0.0 };
                (Epilogue::Residual(operands.input("residual", rows * outputs, 2.0)), y)
            }
        };
        let (backward, dx) = match self.before {
            None => (BackwardEpilogue::None, Tolerance::bf16(sum_loss(outputs))),
            Some(kind) => {
                let pre = operands.input("pre of x", rows * inputs, 1.0);
                // The product and its multiple by the derivative are rounded; the derivative, which has a zero, is known to 1e-4.
                let of_largest = 1e-4 + sum_loss(outputs);
                (
                    BackwardEpilogue::Activation { kind, pre },
                    Tolerance { relative: 2.0 * ROUNDING, of_largest, at_least: 0.0 },
                )
            }
        };
        let y = operands.output("y", rows * outputs, y);
        let dy = operands.input("dy", rows * outputs, 1.0);
        let dx = operands.output("dx", rows * inputs, dx);
        let dweight = operands.output_stats("dweight", inputs * outputs, Tolerance::f32(rows));
        let dbias = self.bias.then(|| operands.output_stats("dbias", outputs, Tolerance::f32(rows)));
        in_order![
            Linear { shape, x, weight, bias, epilogue, y },
            LinearBackwardData { shape, dy, weight, epilogue: backward, dx },
            LinearBackwardWeight { shape, dy, x, dweight, dbias },
        ]
    }
}
