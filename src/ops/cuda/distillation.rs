//! Distillation of similarities: rows by a warp each, then the sum of their losses.

use super::Cuda;
use super::kernels::distillation as kernel;
use crate::ops::distillation::Distillation;
use crate::ops::{Run, Write};

impl Run<Distillation> for Cuda {
    fn run(&mut self, op: Distillation) {
        let Distillation { rows, columns, settings, multiplicity, s, teacher, write, loss, ds } = op;
        let row_loss = self.workspace();
        let adds = write == Write::Add;
        let scale = |tau: f64| (std::f64::consts::LOG2_E / tau) as f32;
        let parameters = kernel::DistillationRows {
            s: self.at(s),
            teacher: self.at(teacher),
            row_count: multiplicity.row.map(|row| self.at(row)),
            column_count: multiplicity.column.map(|column| self.at(column)),
            row_loss,
            ds: self.at(ds),
            rows,
            columns,
            scale: scale(settings.tau),
            teacher_scale: scale(settings.teacher_tau),
            inverse_tau: (1.0 / settings.tau) as f32,
            weight: settings.weight as f32,
            exclude_self: settings.exclude_self,
            divergence: settings.divergence,
            adds,
        };
        self.launch(kernel::DISTILLATION_ROWS, [rows.div_ceil(kernel::DISTILLATION_ROWS.warps()), 1, 1], parameters);
        let parameters = kernel::DistillationLoss { row_loss, loss: self.at(loss), rows, adds };
        self.launch(kernel::DISTILLATION_LOSS, [1, 1, 1], parameters);
    }
}
