//! Classifiers' losses, a piece of rows at a time.

use rayon::prelude::*;

use super::vector::{maximum, sum, sum2, vectorized};
use super::{Cpu, Floats, Real, Side};
use crate::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftCrossEntropy};
use crate::ops::{Run, Write};

/// Rows of one piece of work.
const ROWS: usize = 16;

impl<T: Real> Run<CrossEntropy> for Cpu<T> {
    fn run(&mut self, CrossEntropy { shape, logits, divisor, label, weight, write, loss, dlogits }: CrossEntropy) {
        let LogitsShape { rows, columns, stride } = shape;
        let divisor = divisor.map(|divisor| divisor.first(columns));
        let ([loss, dlogits], [logits, divisor], side) = self.views(
            [loss.first(1).into(), dlogits.first(rows * stride).into()],
            [logits.first(rows * stride).into(), Floats::optional(divisor)],
        );
        let label = side.ids(label.first(rows));
        each_row(
            shape,
            &side,
            (weight, write),
            &mut loss[0],
            dlogits,
            #[inline(always)]
            |row, gradient, _| {
                gradient.copy_from_slice(&logits[row * stride..][..columns]);
                divide(gradient, divisor);
                let label = label[row] as usize;
                let own = gradient[label];
                let loss = softmax(gradient) - own;
                gradient[label] -= T::ONE;
                divide(gradient, divisor);
                loss
            },
        );
    }
}

impl<T: Real> Run<SoftCrossEntropy> for Cpu<T> {
    fn run(&mut self, op: SoftCrossEntropy) {
        let SoftCrossEntropy { shape, logits, teacher, targets, weight, write, loss, dlogits } = op;
        let LogitsShape { rows, columns, stride } = shape;
        let balance = targets.balance.map(|balance| balance.first(columns));
        let ([loss, dlogits], [logits, teacher, balance], side) = self.views(
            [loss.first(1).into(), dlogits.first(rows * stride).into()],
            [logits.first(rows * stride).into(), teacher.first(rows * stride).into(), Floats::optional(balance)],
        );
        let inverse = T::of(1.0 / targets.temperature);
        each_row(
            shape,
            &side,
            (weight, write),
            &mut loss[0],
            dlogits,
            #[inline(always)]
            |row, gradient, target| {
                let row = row * stride;
                scaled(target, &teacher[row..][..columns], inverse);
                softmax(target);
                if !balance.is_empty() {
                    let inverse = T::ONE / sum2(target, balance, |q, w| q * w);
                    target.iter_mut().zip(balance).for_each(|(q, w)| *q *= *w * inverse);
                }
                scaled(gradient, &logits[row..][..columns], inverse);
                let along = sum2(target, gradient, |q, z| q * z);
                let loss = softmax(gradient) - along;
                gradient.iter_mut().zip(target).for_each(|(p, q)| *p = (*p - *q) * inverse);
                loss
            },
        );
    }
}

/// Means over rows: `one` leaves a row's gradient in its second argument, returns its loss, and may use its third.
#[inline(always)]
fn each_row<T: Real>(
    shape: LogitsShape,
    side: &Side<T>,
    (weight, write): (f64, Write),
    loss: &mut T,
    dlogits: &mut [T],
    one: impl Fn(usize, &mut [T], &mut [T]) -> T + Sync,
) {
    let LogitsShape { rows, columns, stride } = shape;
    let scale = T::of(weight / rows as f64);
    side.with_partials(rows, |losses| {
        let pieces = dlogits.par_chunks_mut(ROWS * stride).zip(losses.par_chunks_mut(ROWS));
        pieces.enumerate().for_each(|(piece, (dlogits, losses))| {
            side.with_scratch(2 * columns, |scratch| {
                vectorized(
                    #[inline(always)]
                    || {
                        let (gradient, room) = scratch.split_at_mut(columns);
                        for (i, (dlogits, loss)) in dlogits.chunks_exact_mut(stride).zip(losses).enumerate() {
                            *loss = one(piece * ROWS + i, gradient, room);
                            let (part, rest) = dlogits.split_at_mut(columns);
                            match write {
                                Write::Set => {
                                    scaled(part, gradient, scale);
                                    rest.fill(T::ZERO);
                                }
                                Write::Add => part.iter_mut().zip(&*gradient).for_each(|(d, g)| *d += *g * scale),
                            }
                        }
                    },
                );
            });
        });
        let mean = sum(losses, |x| x) * scale;
        match write {
            Write::Set => *loss = mean,
            Write::Add => *loss += mean,
        }
    });
}

/// Leaves the softmax of `x` in its place and returns log sum exp(x).
#[inline(always)]
fn softmax<T: Real>(x: &mut [T]) -> T {
    let largest = maximum(x);
    x.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let total = sum(x, |x| x);
    let inverse = T::ONE / total;
    x.iter_mut().for_each(|x| *x *= inverse);
    largest + total.ln()
}

/// to = from * factor.
#[inline(always)]
fn scaled<T: Real>(to: &mut [T], from: &[T], factor: T) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from * factor);
}

/// x /= divisor, where there is one.
#[inline(always)]
fn divide<T: Real>(x: &mut [T], divisor: &[T]) {
    x.iter_mut().zip(divisor).for_each(|(x, w)| *x /= *w);
}
