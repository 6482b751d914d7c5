//! Matrix products with what follows them fused.

use super::{Stats, Tensor};

/// Sizes of one linear map, and how its weight lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct LinearShape {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub layout: WeightLayout,
}

impl LinearShape {
    /// The usual map, weight `[outputs, inputs]`.
    pub fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        LinearShape { rows, inputs, outputs, layout: WeightLayout::OutIn }
    }

    /// CLIP's projections, weight `[inputs, outputs]`.
    pub fn projection(rows: usize, inputs: usize, outputs: usize) -> Self {
        LinearShape { rows, inputs, outputs, layout: WeightLayout::InOut }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[outputs, inputs]`: PyTorch's `nn.Linear`.
    OutIn,
    /// `[inputs, outputs]`: `visual.proj` and `text_projection`.
    InOut,
}

/// The two activations that CLIP models use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x Phi(x), the exact form with erf (laion, datacomp weights).
    Gelu,
    /// x sigmoid(1.702 x) (openai, metaclip, dfn weights).
    QuickGelu,
}

/// What follows x W^T + b.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue {
    None,
    /// Keeps the product in `pre` `[rows, outputs]` for the backward pass and writes the activation of it.
    Activation {
        kind: Activation,
        pre: Tensor,
    },
    /// Adds `[rows, outputs]`.
    Residual(Tensor),
}

/// What follows dy W.
#[derive(Clone, Copy, Debug)]
pub enum BackwardEpilogue {
    None,
    /// Times the activation's derivative at `pre` `[rows, inputs]`.
    Activation {
        kind: Activation,
        pre: Tensor,
    },
}

pub trait Linear {
    /// y = epilogue(x W^T + b): x `[rows, inputs]`, b `[outputs]`, y `[rows, outputs]`.
    fn linear(
        &mut self,
        shape: LinearShape,
        x: Tensor,
        weight: Tensor,
        bias: Option<Tensor>,
        epilogue: Epilogue,
        y: Tensor,
    );

    /// dx = epilogue(dy W): dy `[rows, outputs]`, dx `[rows, inputs]`.
    fn linear_backward_data(
        &mut self,
        shape: LinearShape,
        dy: Tensor,
        weight: Tensor,
        epilogue: BackwardEpilogue,
        dx: Tensor,
    );

    /// dW = dy^T x in the weight's layout, db = column sums of dy.
    fn linear_backward_weight(
        &mut self,
        shape: LinearShape,
        dy: Tensor,
        x: Tensor,
        dweight: Stats,
        dbias: Option<Stats>,
    );
}
