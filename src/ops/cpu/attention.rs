//! Attention: a piece of work is one head of one sample, its matrices read in place from the packed qkv.

use rayon::prelude::*;

use super::matmul::{MatrixView, matmul};
use super::vector::{dot, maximum, sum, vectorized};
use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::attention::{Attention, AttentionBackward, AttentionShape};

impl<T: Real> Run<Attention> for Cpu<T> {
    fn run(&mut self, Attention { shape, qkv, out, log_sum_exp }: Attention) {
        let AttentionShape { samples, tokens, heads, head_dim, causal } = shape;
        let width = shape.width();
        let rows = samples * tokens;
        let ([out, log_sum_exp], [qkv], side) = self.views(
            [out.first(rows * width).into(), log_sum_exp.first(rows * heads).into()],
            [qkv.first(rows * 3 * width).into()],
        );
        let scale = T::of(1.0 / (head_dim as f64).sqrt());
        let pieces = out.par_chunks_mut(tokens * width).zip(log_sum_exp.par_chunks_mut(tokens * heads));
        pieces.zip(qkv.par_chunks(tokens * 3 * width)).for_each(|((out, log_sum_exp), qkv)| {
            side.with_scratch(tokens * tokens, |weights| {
                for head in 0..heads {
                    let [q, k, v] = qkv_of_head(qkv, width, head, head_dim);
                    matmul([tokens, tokens, head_dim], scale, q, k.transposed(), weights, tokens, false);
                    let log_sum_exp = &mut log_sum_exp[head * tokens..][..tokens];
                    vectorized(
                        #[inline(always)]
                        || softmax_rows(weights, tokens, causal, log_sum_exp),
                    );
                    let weights = MatrixView::rows(&*weights, tokens);
                    matmul([tokens, head_dim, tokens], T::ONE, weights, v, &mut out[head * head_dim..], width, false);
                }
            });
        });
    }
}

impl<T: Real> Run<AttentionBackward> for Cpu<T> {
    fn run(&mut self, AttentionBackward { shape, qkv, out, log_sum_exp, dout, dqkv }: AttentionBackward) {
        let AttentionShape { samples, tokens, heads, head_dim, causal } = shape;
        let width = shape.width();
        let rows = samples * tokens;
        let ([dqkv], [qkv, out, log_sum_exp, dout], side) = self.views(
            [dqkv.first(rows * 3 * width).into()],
            [
                qkv.first(rows * 3 * width).into(),
                out.first(rows * width).into(),
                log_sum_exp.first(rows * heads).into(),
                dout.first(rows * width).into(),
            ],
        );
        let scale = T::of(1.0 / (head_dim as f64).sqrt());
        dqkv.par_chunks_mut(tokens * 3 * width).enumerate().for_each(|(sample, dqkv)| {
            let qkv = &qkv[sample * tokens * 3 * width..][..tokens * 3 * width];
            let out = &out[sample * tokens * width..][..tokens * width];
            let dout = &dout[sample * tokens * width..][..tokens * width];
            side.with_scratch(2 * tokens * tokens, |scratch| {
                let (weights, dscores) = scratch.split_at_mut(tokens * tokens);
                for head in 0..heads {
                    let [q, k, v] = qkv_of_head(qkv, width, head, head_dim);
                    let column = head * head_dim;
                    let dout_matrix = MatrixView::rows(&dout[column..], width);
                    matmul([tokens, tokens, head_dim], scale, q, k.transposed(), weights, tokens, false);
                    matmul([tokens, tokens, head_dim], T::ONE, dout_matrix, v.transposed(), dscores, tokens, false);
                    let log_sum_exp = &log_sum_exp[(sample * heads + head) * tokens..][..tokens];
                    vectorized(
                        #[inline(always)]
                        || {
                            for row in 0..tokens {
                                let seen = if causal { row + 1 } else { tokens };
                                let (weights, unseen) = weights[row * tokens..][..tokens].split_at_mut(seen);
                                unseen.fill(T::ZERO);
                                let (dscores, unseen) = dscores[row * tokens..][..tokens].split_at_mut(seen);
                                unseen.fill(T::ZERO);
                                let place = row * width + column;
                                let delta = dot(&dout[place..][..head_dim], &out[place..][..head_dim]);
                                for (weight, dscore) in weights.iter_mut().zip(dscores) {
                                    *weight = (*weight - log_sum_exp[row]).exp();
                                    *dscore = *weight * (*dscore - delta);
                                }
                            }
                        },
                    );
                    let weights = MatrixView::rows(&*weights, tokens);
                    let dscores = MatrixView::rows(&*dscores, tokens);
                    let (dq, dk, dv) = (column, width + column, 2 * width + column);
                    let to = [tokens, head_dim, tokens];
                    matmul(to, scale, dscores, k, &mut dqkv[dq..], 3 * width, false);
                    matmul(to, scale, dscores.transposed(), q, &mut dqkv[dk..], 3 * width, false);
                    matmul(to, T::ONE, weights.transposed(), dout_matrix, &mut dqkv[dv..], 3 * width, false);
                }
            });
        });
    }
}

/// Q, K and V `[tokens, head_dim]` of one head inside a sample's packed qkv.
fn qkv_of_head<T: Real>(qkv: &[T], width: usize, head: usize, head_dim: usize) -> [MatrixView<'_, T>; 3] {
    [0, 1, 2].map(|part| MatrixView::rows(&qkv[part * width + head * head_dim..], 3 * width))
}

/// Scores to weights, row by row, and the log-sum-exp of each row.
#[inline(always)]
fn softmax_rows<T: Real>(scores: &mut [T], tokens: usize, causal: bool, log_sum_exp: &mut [T]) {
    for (row, (scores, log_sum_exp)) in scores.chunks_exact_mut(tokens).zip(log_sum_exp).enumerate() {
        let (seen, unseen) = scores.split_at_mut(if causal { row + 1 } else { tokens });
        unseen.fill(T::ZERO);
        let largest = maximum(seen);
        for score in seen.iter_mut() {
            *score = (*score - largest).exp();
        }
        let total = sum(seen, |x| x);
        let inverse = T::ONE / total;
        for score in seen {
            *score *= inverse;
        }
        *log_sum_exp = largest + total.ln();
    }
}
