//! The arenas in which parameters and gradients lie, and views of them.

use std::ops::Range;

use super::parameters::{Parameter, ParameterList};
use crate::ops::layer_norm::{LayerNorm, LayerNormBackward, LayerNormShape};
use crate::ops::linear::{BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape};
use crate::ops::{Plan, Stats, Tensor, Write};

/// Flat arenas of one layout: master weights, the storage copy that ops read, and gradients of what can be trained (empty without
/// training).
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// What AdamW updates, f32; empty in a copy that is only read.
    pub master: Stats,
    /// What ops read; the same memory as `master` where storage is f32.
    pub storage: Tensor,
    /// Of what can be trained alone, in the order of [`Trainable`](super::trainable::Trainable)'s stretches.
    pub gradients: Stats,
    /// Where the parameters' arenas begin in the layout: copies of a part begin later.
    first: usize,
}

impl Weights {
    /// Room for `list`; gradients only where they will be written.
    pub(crate) fn plan(plan: &mut Plan, list: &ParameterList, training: bool) -> Weights {
        let master = plan.section("parameters", |plan| plan.stats(list.arena_len()));
        let storage = plan.section("parameters", |plan| plan.weights(master));
        let gradients = plan.section("gradients", |plan| plan.stats(if training { list.trainable().len() } else { 0 }));
        Weights { master, storage, gradients, first: 0 }
    }

    /// Room for a copy of the stretch `range` of a layout, to be read alone.
    pub(crate) fn plan_copy(plan: &mut Plan, range: &Range<usize>) -> Weights {
        let storage = plan.tensor(range.len());
        Weights { master: Stats::new(0, 0), storage, gradients: Stats::new(0, 0), first: range.start }
    }

    /// The parameter's values in storage precision, which ops read.
    pub fn value(&self, parameter: &Parameter) -> Tensor {
        self.storage.slice(parameter.offset - self.first, parameter.len())
    }

    /// The gradient of a parameter of `list`; an empty span where none is kept.
    pub fn gradient(&self, list: &ParameterList, parameter: &Parameter) -> Stats {
        match list.trainable().place(parameter.offset) {
            Some(place) if !self.gradients.is_empty() => self.gradients.slice(place, parameter.len()),
            _ => Stats::new(0, 0),
        }
    }

    /// The linear map whose parameters have these names; it may be without a bias.
    pub fn linear(&self, list: &ParameterList, weight: &str, bias: &str) -> LinearWeights {
        let (weight, bias) = (list.get(weight), list.find(bias));
        LinearWeights {
            inputs: weight.shape[1],
            outputs: weight.shape[0],
            weight: self.value(weight),
            dweight: self.gradient(list, weight),
            bias: bias.map(|bias| (self.value(bias), self.gradient(list, bias))),
        }
    }

    /// The layer norm of that name.
    pub fn norm(&self, list: &ParameterList, name: &str) -> NormWeights {
        let (gamma, beta) = (list.get(&format!("{name}.weight")), list.get(&format!("{name}.bias")));
        NormWeights {
            gamma: self.value(gamma),
            beta: self.value(beta),
            dgamma: self.gradient(list, gamma),
            dbeta: self.gradient(list, beta),
        }
    }
}

/// A linear map's parameters and gradients; weight [outputs, inputs].
#[derive(Clone, Copy)]
pub struct LinearWeights {
    /// Columns of the weight.
    pub inputs: usize,
    /// Rows of the weight.
    pub outputs: usize,
    /// `[outputs, inputs]`
    pub weight: Tensor,
    /// Its gradient, of its shape; empty where it is not trained.
    pub dweight: Stats,
    /// Without one, none.
    pub bias: Option<(Tensor, Stats)>,
}

impl LinearWeights {
    /// y = epilogue(x W^T + b): x [rows, inputs], y [rows, outputs].
    pub fn forward(&self, rows: usize, x: Tensor, epilogue: Epilogue, y: Tensor) -> Linear {
        let bias = self.bias.map(|(bias, _)| bias);
        Linear { shape: self.shape(rows), x, weight: self.weight, bias, epilogue, y }
    }

    /// dx = epilogue(dy W).
    pub fn backward_data(&self, rows: usize, dy: Tensor, epilogue: BackwardEpilogue, dx: Tensor) -> LinearBackwardData {
        LinearBackwardData { shape: self.shape(rows), dy, weight: self.weight, epilogue, dx }
    }

    /// The gradients of weight and bias.
    pub fn backward_weight(&self, rows: usize, dy: Tensor, x: Tensor) -> LinearBackwardWeight {
        let dbias = self.bias.map(|(_, dbias)| dbias);
        LinearBackwardWeight { shape: self.shape(rows), dy, x, dweight: self.dweight, dbias }
    }

    fn shape(&self, rows: usize) -> LinearShape {
        LinearShape::new(rows, self.inputs, self.outputs)
    }
}

/// A layer norm's parameters and gradients.
pub struct NormWeights {
    gamma: Tensor,
    beta: Tensor,
    dgamma: Stats,
    dbeta: Stats,
}

impl NormWeights {
    /// Of x [rows, width], into `saved`.
    pub fn forward(&self, shape: LayerNormShape, x: Tensor, saved: SavedNorm) -> LayerNorm {
        let SavedNorm { y, mean, rstd } = saved;
        LayerNorm { shape, x, gamma: self.gamma, beta: self.beta, y, mean, rstd }
    }

    /// From dy to dx (=, +=) and the gradients of gain and bias.
    pub fn backward(
        &self,
        shape: LayerNormShape,
        dy: Tensor,
        x: Tensor,
        SavedNorm { mean, rstd, .. }: SavedNorm,
        write: Write,
        dx: Tensor,
    ) -> LayerNormBackward {
        let NormWeights { gamma, dgamma, dbeta, .. } = *self;
        LayerNormBackward { shape, dy, x, gamma, mean, rstd, write, dx, dgamma, dbeta }
    }
}

/// A layer norm's output `[rows, width]` and statistics `[rows]`.
#[derive(Clone, Copy)]
pub struct SavedNorm {
    /// `[rows, width]`
    pub y: Tensor,
    pub(crate) mean: Stats,
    pub(crate) rstd: Stats,
}

impl SavedNorm {
    /// Plans room for the layer norm of so many rows.
    pub fn plan(plan: &mut Plan, rows: usize, width: usize) -> SavedNorm {
        SavedNorm { y: plan.tensor(rows * width), mean: plan.stats(rows), rstd: plan.stats(rows) }
    }
}
