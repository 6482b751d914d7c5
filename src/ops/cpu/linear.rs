//! Matrix products, a piece of rows at a time, with the epilogue applied while the piece is in cache.

use rayon::prelude::*;

use super::matmul::{Factor, MatrixView, matmul};
use super::vector::{add, vectorized};
use super::{Cpu, Floats, Real};
use crate::ops::Run;
use crate::ops::linear::{
    Activation, BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape, WeightLayout,
};

/// Rows of one piece of work, at most `limit`: at least sixteen pieces unless they become too small for their overhead.
pub(super) fn piece(rows: usize, limit: usize) -> usize {
    let limit = rows.div_ceil(16).clamp(limit / 2, limit);
    rows.div_ceil(rows.div_ceil(limit)).max(1)
}

/// Pieces of [`piece`]'s size hold at most so many rows: what the tiles of `tile.rs` pack together.
pub(super) const PIECE: usize = 112;

/// The weight as the [inputs, outputs] factor of x W^T.
fn weight_matrix<T>(shape: LinearShape, weight: &[T]) -> MatrixView<'_, T> {
    match shape.layout {
        WeightLayout::OutIn => MatrixView::rows(weight, shape.inputs).transposed(),
        WeightLayout::InOut => MatrixView::rows(weight, shape.outputs),
    }
}

/// x Phi(x): for negative x the tail is computed as such, so that no digits cancel.
#[inline(always)]
fn gelu<T: Real>(x: T) -> T {
    let (upper, _) = normal_cdf(x);
    x * upper
}

/// Phi(x) + x phi(x).
#[inline(always)]
fn gelu_derivative<T: Real>(x: T) -> T {
    let (upper, gaussian) = normal_cdf(x);
    upper + x * gaussian * T::of(0.398_942_280_401_432_7)
}

/// (Phi(x), e^(-x^2/2)), Phi the distribution function of the standard normal.
#[inline(always)]
fn normal_cdf<T: Real>(x: T) -> (T, T) {
    let gaussian = (-(x * x) * T::of(0.5)).exp();
    let tail = T::of(0.5) * gaussian * (x.abs() * T::of(std::f64::consts::FRAC_1_SQRT_2)).erfcx();
    (if x < T::ZERO { tail } else { T::ONE - tail }, gaussian)
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

impl Activation {
    #[inline(always)]
    fn apply<T: Real>(self, pre: &[T], y: &mut [T]) {
        match self {
            Activation::Gelu => {
                for (y, x) in y.iter_mut().zip(pre) {
                    *y = gelu(*x);
                }
            }
            Activation::QuickGelu => {
                for (y, x) in y.iter_mut().zip(pre) {
                    *y = *x * sigmoid(T::of(1.702) * *x);
                }
            }
        }
    }

    /// dx *= derivative at pre.
    #[inline(always)]
    fn apply_backward<T: Real>(self, pre: &[T], dx: &mut [T]) {
        match self {
            Activation::Gelu => {
                for (dx, x) in dx.iter_mut().zip(pre) {
                    *dx *= gelu_derivative(*x);
                }
            }
            Activation::QuickGelu => {
                for (dx, x) in dx.iter_mut().zip(pre) {
                    let s = sigmoid(T::of(1.702) * *x);
                    *dx *= s * (T::ONE + T::of(1.702) * *x * (T::ONE - s));
                }
            }
        }
    }
}

impl<T: Real> Run<Linear> for Cpu<T> {
    fn run(&mut self, Linear { shape, x, weight, bias, epilogue, y }: Linear) {
        let LinearShape { rows, inputs, outputs, .. } = shape;
        let (pre, residual) = match epilogue {
            Epilogue::None => (None, None),
            Epilogue::Activation { pre, .. } => (Some(pre.first(rows * outputs)), None),
            Epilogue::Residual(residual) => (None, Some(residual.first(rows * outputs))),
        };
        let ([y, pre], [x, weight, bias, residual], side) = self.views(
            [y.first(rows * outputs).into(), Floats::optional(pre)],
            [x.first(rows * inputs).into(), weight.into(), Floats::optional(bias), Floats::optional(residual)],
        );
        let piece = piece(rows, PIECE);
        let size = [inputs, outputs];
        side.with_partials(Factor::<T>::room(size), |room| {
            let weight = Factor::packed(weight_matrix(shape, weight), size, room);
            let product = |i: usize, to: &mut [T]| {
                let count = to.len() / outputs;
                let x = MatrixView::rows(&x[i * piece * inputs..][..count * inputs], inputs);
                matmul([count, outputs, inputs], T::ONE, x, weight, to, outputs, false);
            };
            if let Epilogue::Activation { kind, .. } = epilogue {
                let pieces = pre.par_chunks_mut(piece * outputs).zip(y.par_chunks_mut(piece * outputs));
                pieces.enumerate().for_each(|(i, (pre, y))| {
                    product(i, pre);
                    vectorized(
                        #[inline(always)]
                        || {
                            for (pre, y) in pre.chunks_exact_mut(outputs).zip(y.chunks_exact_mut(outputs)) {
                                add(pre, bias);
                                kind.apply(pre, y);
                            }
                        },
                    );
                });
            } else {
                y.par_chunks_mut(piece * outputs).enumerate().for_each(|(i, y)| {
                    product(i, y);
                    vectorized(
                        #[inline(always)]
                        || {
                            for (row, y) in y.chunks_exact_mut(outputs).enumerate() {
                                add(y, bias);
                                if !residual.is_empty() {
                                    add(y, &residual[(i * piece + row) * outputs..][..outputs]);
                                }
                            }
                        },
                    );
                });
            }
        });
    }
}

impl<T: Real> Run<LinearBackwardData> for Cpu<T> {
    fn run(&mut self, LinearBackwardData { shape, dy, weight, epilogue, dx }: LinearBackwardData) {
        let LinearShape { rows, inputs, outputs, .. } = shape;
        let pre = match epilogue {
            BackwardEpilogue::None => None,
            BackwardEpilogue::Activation { pre, .. } => Some(pre.first(rows * inputs)),
        };
        let ([dx], [dy, weight, pre], side) = self.views(
            [dx.first(rows * inputs).into()],
            [dy.first(rows * outputs).into(), weight.into(), Floats::optional(pre)],
        );
        let piece = piece(rows, PIECE);
        let size = [outputs, inputs];
        side.with_partials(Factor::<T>::room(size), |room| {
            let weight = Factor::packed(weight_matrix(shape, weight).transposed(), size, room);
            dx.par_chunks_mut(piece * inputs).enumerate().for_each(|(i, dx)| {
                let count = dx.len() / inputs;
                let dy = MatrixView::rows(&dy[i * piece * outputs..][..count * outputs], outputs);
                matmul([count, inputs, outputs], T::ONE, dy, weight, dx, inputs, false);
                if let BackwardEpilogue::Activation { kind, .. } = epilogue {
                    vectorized(
                        #[inline(always)]
                        || kind.apply_backward(&pre[i * piece * inputs..][..dx.len()], dx),
                    );
                }
            });
        });
    }
}

impl<T: Real> Run<LinearBackwardWeight> for Cpu<T> {
    fn run(&mut self, LinearBackwardWeight { shape, dy, x, dweight, dbias }: LinearBackwardWeight) {
        let LinearShape { rows, inputs, outputs, .. } = shape;
        let ([dweight, dbias], [dy, x], side) = self.views(
            [dweight.into(), Floats::optional(dbias)],
            [dy.first(rows * outputs).into(), x.first(rows * inputs).into()],
        );
        // dW = a^T b with the operands in the order of the weight's layout; a piece of its rows at a time.
        let (a, height, b, width) = match shape.layout {
            WeightLayout::OutIn => (dy, outputs, x, inputs),
            WeightLayout::InOut => (x, inputs, dy, outputs),
        };
        // Parts of the rows of dy and x, each with a whole gradient of its own, as many as it takes for twelve pieces of work:
        // with few outputs the sums are too long to be left to the outputs' pieces.
        let piece = piece(height, GRADIENT_PIECE);
        let parts = 12usize.div_ceil(height.div_ceil(piece)).min(rows.div_ceil(SUM_ROWS));
        let part_rows = rows.div_ceil(parts);
        let (weights, biases) = (dweight.len(), dbias.len());
        side.with_partials((weights + biases) * rows.div_ceil(part_rows), |partials| {
            partials.par_chunks_mut(weights + biases).enumerate().for_each(|(part, partial)| {
                let (dweight, dbias) = partial.split_at_mut(weights);
                let first = part * part_rows;
                let end = rows.min(first + part_rows);
                dbias.fill(T::ZERO);
                for start in (first..end).step_by(SUM_ROWS) {
                    let count = SUM_ROWS.min(end - start);
                    let (a, b) = (&a[start * height..][..count * height], &b[start * width..][..count * width]);
                    dweight.par_chunks_mut(piece * width).enumerate().for_each(|(i, dweight)| {
                        let a = MatrixView::rows(&a[i * piece..], height).transposed();
                        let size = [dweight.len() / width, width, count];
                        matmul(size, T::ONE, a, MatrixView::rows(b, width), dweight, width, start > first);
                    });
                    if biases > 0 {
                        vectorized(
                            #[inline(always)]
                            || {
                                for dy in dy[start * outputs..][..count * outputs].chunks_exact(outputs) {
                                    add(dbias, dy);
                                }
                            },
                        );
                    }
                }
            });
            let totals = dweight.par_chunks_mut(1 << 12).enumerate().map(|(i, total)| (i << 12, total));
            let totals =
                totals.chain(dbias.par_chunks_mut(1 << 12).enumerate().map(|(i, total)| (weights + (i << 12), total)));
            totals.for_each(|(place, total)| {
                total.copy_from_slice(&partials[place..][..total.len()]);
                for partial in partials.chunks_exact(weights + biases).skip(1) {
                    vectorized(
                        #[inline(always)]
                        || add(total, &partial[place..][..total.len()]),
                    );
                }
            });
        });
    }
}

/// Rows that a weight's gradient takes in at a time: they stay in cache for the bias.
const SUM_ROWS: usize = 256;

/// Rows of a weight's gradient in one piece of work, at most: what the tiles of `tile.rs` pack together.
const GRADIENT_PIECE: usize = 336;
