//! Matrix products by the `gemm` crate, a piece of rows at a time, with the epilogue applied while the piece is in cache.

use rayon::prelude::*;

use super::vector::{add, vectorized};
use super::{Cpu, Floats, Real};
use crate::ops::linear::{Activation, BackwardEpilogue, Epilogue, Linear, LinearShape, WeightLayout};
use crate::ops::{Stats, Tensor};

/// A matrix where it lies: `values[row * row_stride + column * column_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    pub values: &'a [T],
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows of `width` consecutive values.
    pub fn rows(values: &'a [T], width: usize) -> Self {
        Matrix { values, row_stride: width, column_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        Matrix { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    fn check(&self, rows: usize, columns: usize) {
        let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
        assert!(last < self.values.len(), "a {rows} x {columns} matrix leaves its {} values", self.values.len());
    }
}

/// c = alpha a b, or c += alpha a b, on one thread: a [m, k], b [k, n], c [m, n] with rows `c_stride` apart.
#[allow(clippy::too_many_arguments)]
pub fn matmul<T: Real>(
    [m, n, k]: [usize; 3],
    alpha: T,
    a: Matrix<T>,
    b: Matrix<T>,
    c: &mut [T],
    c_stride: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(k > 0 && c_stride >= n && (m - 1) * c_stride + n <= c.len(), "the product does not fit its place");
    a.check(m, k);
    b.check(k, n);
    let beta = if accumulate { T::ONE } else { T::ZERO };
    // SAFETY: `check` and the assertion above bound every access of the three matrices, and `c` is borrowed mutably, so it
    // aliases neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows of one piece of work: about eight pieces a product, none so small that packing the weights for it would show.
fn piece(rows: usize) -> usize {
    rows.div_ceil(8).next_multiple_of(32).clamp(32, 512)
}

/// The weight as the [inputs, outputs] factor of x W^T.
fn weight_matrix<T>(shape: LinearShape, weight: &[T]) -> Matrix<'_, T> {
    match shape.layout {
        WeightLayout::OutIn => Matrix::rows(weight, shape.inputs).transposed(),
        WeightLayout::InOut => Matrix::rows(weight, shape.outputs),
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

impl<T: Real> Linear for Cpu<T> {
    fn linear(
        &mut self,
        shape: LinearShape,
        x: Tensor,
        weight: Tensor,
        bias: Option<Tensor>,
        epilogue: Epilogue,
        y: Tensor,
    ) {
        let LinearShape { rows, inputs, outputs, .. } = shape;
        let (pre, residual) = match epilogue {
            Epilogue::None => (None, None),
            Epilogue::Activation { pre, .. } => (Some(pre.first(rows * outputs)), None),
            Epilogue::Residual(residual) => (None, Some(residual.first(rows * outputs))),
        };
        let ([y, pre], [x, weight, bias, residual], _) = self.views(
            [y.first(rows * outputs).into(), Floats::optional(pre)],
            [x.first(rows * inputs).into(), weight.into(), Floats::optional(bias), Floats::optional(residual)],
        );
        let weight = weight_matrix(shape, weight);
        let piece = piece(rows);
        let product = |i: usize, to: &mut [T]| {
            let count = to.len() / outputs;
            let x = Matrix::rows(&x[i * piece * inputs..][..count * inputs], inputs);
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
    }

    fn linear_backward_data(
        &mut self,
        shape: LinearShape,
        dy: Tensor,
        weight: Tensor,
        epilogue: BackwardEpilogue,
        dx: Tensor,
    ) {
        let LinearShape { rows, inputs, outputs, .. } = shape;
        let pre = match epilogue {
            BackwardEpilogue::None => None,
            BackwardEpilogue::Activation { pre, .. } => Some(pre.first(rows * inputs)),
        };
        let ([dx], [dy, weight, pre], _) = self.views(
            [dx.first(rows * inputs).into()],
            [dy.first(rows * outputs).into(), weight.into(), Floats::optional(pre)],
        );
        let weight = weight_matrix(shape, weight).transposed();
        let piece = piece(rows);
        dx.par_chunks_mut(piece * inputs).enumerate().for_each(|(i, dx)| {
            let count = dx.len() / inputs;
            let dy = Matrix::rows(&dy[i * piece * outputs..][..count * outputs], outputs);
            matmul([count, inputs, outputs], T::ONE, dy, weight, dx, inputs, false);
            if let BackwardEpilogue::Activation { kind, .. } = epilogue {
                vectorized(
                    #[inline(always)]
                    || kind.apply_backward(&pre[i * piece * inputs..][..dx.len()], dx),
                );
            }
        });
    }

    fn linear_backward_weight(
        &mut self,
        shape: LinearShape,
        dy: Tensor,
        x: Tensor,
        dweight: Stats,
        dbias: Option<Stats>,
    ) {
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
        let piece = height.div_ceil(4).next_multiple_of(16).min(192);
        dweight.par_chunks_mut(piece * width).enumerate().for_each(|(i, dweight)| {
            let a = Matrix { values: &a[i * piece..], row_stride: 1, column_stride: height };
            matmul([dweight.len() / width, width, rows], T::ONE, a, Matrix::rows(b, width), dweight, width, false);
        });
        if !dbias.is_empty() {
            column_sums(&side, rows, outputs, [dbias], |row, [sum]| add(sum, &dy[row * outputs..][..outputs]));
        }
    }
}

/// Rows whose column sums are gathered by one piece of work.
const SUM_ROWS: usize = 256;

/// Sums over rows into `N` vectors of `width`: `add_row` adds one row to partial sums, fixed pieces of rows run in
/// parallel, and their partial sums are added in order.
pub fn column_sums<T: Real, const N: usize>(
    side: &super::Side<'_, T>,
    rows: usize,
    width: usize,
    totals: [&mut [T]; N],
    add_row: impl Fn(usize, [&mut [T]; N]) + Sync,
) {
    let pieces = rows.div_ceil(SUM_ROWS);
    side.with_partials(pieces * N * width, |partials| {
        partials.par_chunks_mut(N * width).enumerate().for_each(|(piece, partial)| {
            vectorized(
                #[inline(always)]
                || {
                    partial.fill(T::ZERO);
                    for row in piece * SUM_ROWS..rows.min((piece + 1) * SUM_ROWS) {
                        let mut rest = &mut *partial;
                        let sums = std::array::from_fn(|_| {
                            let (head, tail) = std::mem::take(&mut rest).split_at_mut(width);
                            rest = tail;
                            head
                        });
                        add_row(row, sums);
                    }
                },
            );
        });
        for (n, total) in totals.into_iter().enumerate() {
            total.fill(T::ZERO);
            for partial in partials.chunks_exact(N * width) {
                vectorized(
                    #[inline(always)]
                    || add(total, &partial[n * width..(n + 1) * width]),
                );
            }
        }
    });
}
