//! Distillation of similarities, a row at a time.

use rayon::prelude::*;

use super::vector::{log_softmax, maximum, sum, vectorized};
use super::{Cpu, Floats, Real};
use crate::ops::distillation::Distillation;
use crate::ops::{Run, Stats, Write};

impl<T: Real> Run<Distillation> for Cpu<T> {
    fn run(&mut self, op: Distillation) {
        let Distillation { rows, columns, settings, multiplicity, s, teacher, write, loss, ds } = op;
        let first = |span: Stats, len: usize| span.first(len).into();
        let ([loss, ds], [s, teacher, row_count, column_count], side) = self.views(
            [first(loss, 1), first(ds, rows * columns)],
            [
                first(s, rows * columns),
                first(teacher, rows * columns),
                Floats::optional(multiplicity.row.map(|row| row.first(rows))),
                Floats::optional(multiplicity.column.map(|column| column.first(columns))),
            ],
        );
        let inverse_tau = T::of(1.0 / settings.tau);
        let teacher_inverse_tau = T::of(1.0 / settings.teacher_tau);
        side.with_partials(2 * rows + columns, |partials| {
            // Multiplicities, and each row's loss.
            let (count, rest) = partials.split_at_mut(columns);
            let (row_weight, losses) = rest.split_at_mut(rows);
            fill(count, column_count);
            fill(row_weight, row_count);
            let (count, row_weight) = (&*count, &*row_weight);
            let scale = T::of(settings.weight) / sum(row_weight, |weight| weight);
            let values = s.par_chunks(columns).zip(teacher.par_chunks(columns));
            let pieces = ds.par_chunks_mut(columns).zip(values).zip(losses.par_iter_mut());
            pieces.enumerate().for_each(|(i, ((ds, (s, teacher)), loss))| {
                let scale = scale * row_weight[i];
                side.with_scratch(2 * columns, |scratch| {
                    let (log_q, log_p) = scratch.split_at_mut(columns);
                    vectorized(
                        #[inline(always)]
                        || {
                            for (log, values) in [(&mut *log_q, s), (&mut *log_p, teacher)] {
                                for ((log, value), count) in log.iter_mut().zip(values).zip(count) {
                                    *log = if *count > T::ZERO { *value } else { T::NEG_INFINITY };
                                }
                                if settings.exclude_self && i < columns {
                                    log[i] = T::NEG_INFINITY;
                                }
                            }
                            if write == Write::Set {
                                ds.fill(T::ZERO);
                            }
                            if maximum(log_q) == T::NEG_INFINITY {
                                // Nothing to tell apart.
                                *loss = T::ZERO;
                                return;
                            }
                            log_softmax(log_q, count, inverse_tau);
                            log_softmax(log_p, count, teacher_inverse_tau);
                            for (((log_q, log_p), count), ds) in log_q.iter_mut().zip(&*log_p).zip(count).zip(ds) {
                                let (q, p) = (log_q.exp(), log_p.exp());
                                let surprise = if settings.divergence { *log_p - *log_q } else { -*log_q };
                                // 0 * infinity must not turn up where a column does not count.
                                *log_q = if *count > T::ZERO && p > T::ZERO { *count * p * surprise } else { T::ZERO };
                                *ds += scale * inverse_tau * *count * (q - p);
                            }
                            *loss = scale * sum(log_q, |term| term);
                        },
                    );
                });
            });
            let total = sum(losses, |loss| loss);
            loss[0] = if write == Write::Add { loss[0] + total } else { total };
        });
    }
}

/// Multiplicities, ones where there are none.
fn fill<T: Real>(to: &mut [T], counts: &[T]) {
    match counts {
        [] => to.fill(T::ONE),
        _ => to.copy_from_slice(counts),
    }
}
