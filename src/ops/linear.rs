//! Matrix products with what follows them fused.

use super::{Cost, Op, Stats, Tensor};

/// Sizes of one linear map, and how its weight lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct LinearShape {
    /// Rows of x and y.
    pub rows: usize,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
    /// How W lies in memory.
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

/// Which index of a weight runs fastest.
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
    /// Nothing: y is the product with its bias.
    None,
    /// Keeps the product in `pre` `[rows, outputs]` for the backward pass and writes the activation of it.
    Activation {
        /// Which activation.
        kind: Activation,
        /// `[rows, outputs]`, written.
        pre: Tensor,
    },
    /// Adds `[rows, outputs]`.
    Residual(Tensor),
}

/// What follows dy W.
#[derive(Clone, Copy, Debug)]
pub enum BackwardEpilogue {
    /// Nothing: dx is the product.
    None,
    /// Times the activation's derivative at `pre` `[rows, inputs]`.
    Activation {
        /// Which activation.
        kind: Activation,
        /// `[rows, inputs]`, as the forward pass kept it.
        pre: Tensor,
    },
}

impl LinearShape {
    fn words(&self) -> String {
        format!("{} x {} x {}", self.rows, self.inputs, self.outputs)
    }

    fn operations(&self) -> usize {
        2 * self.rows * self.inputs * self.outputs
    }

    /// Values of both sides.
    fn values(&self) -> usize {
        self.rows * (self.inputs + self.outputs)
    }

    fn weights(&self) -> usize {
        self.inputs * self.outputs
    }
}

/// y = epilogue(x W^T + b).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Sizes and layout.
    pub shape: LinearShape,
    /// `[rows, inputs]`
    pub x: Tensor,
    /// W in the shape's layout.
    pub weight: Tensor,
    /// b `[outputs]`
    pub bias: Option<Tensor>,
    /// What is done with the product before it is written.
    pub epilogue: Epilogue,
    /// `[rows, outputs]`
    pub y: Tensor,
}

impl Op for Linear {
    const NAME: &'static str = "linear";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let shape = self.shape;
        let beside = if matches!(self.epilogue, Epilogue::None) { 0 } else { shape.rows * shape.outputs };
        Cost { operations: shape.operations(), bytes: storage_bytes * (shape.values() + shape.weights() + beside) }
    }
}

/// dx = epilogue(dy W).
#[derive(Clone, Copy, Debug)]
pub struct LinearBackwardData {
    /// As in the forward pass.
    pub shape: LinearShape,
    /// `[rows, outputs]`
    pub dy: Tensor,
    /// W in the shape's layout.
    pub weight: Tensor,
    /// What is done with the product before it is written.
    pub epilogue: BackwardEpilogue,
    /// `[rows, inputs]`
    pub dx: Tensor,
}

impl Op for LinearBackwardData {
    const NAME: &'static str = "linear backward data";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let shape = self.shape;
        let beside = if matches!(self.epilogue, BackwardEpilogue::None) { 0 } else { shape.rows * shape.inputs };
        Cost { operations: shape.operations(), bytes: storage_bytes * (shape.values() + shape.weights() + beside) }
    }
}

/// dW = dy^T x in the weight's layout, db = column sums of dy.
#[derive(Clone, Copy, Debug)]
pub struct LinearBackwardWeight {
    /// As in the forward pass.
    pub shape: LinearShape,
    /// `[rows, outputs]`
    pub dy: Tensor,
    /// `[rows, inputs]`
    pub x: Tensor,
    /// dW in the shape's layout.
    pub dweight: Stats,
    /// db `[outputs]`
    pub dbias: Option<Stats>,
}

impl Op for LinearBackwardWeight {
    const NAME: &'static str = "linear backward weight";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let shape = self.shape;
        Cost { operations: shape.operations(), bytes: storage_bytes * shape.values() + 4 * shape.weights() }
    }
}
