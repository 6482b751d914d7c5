//! Distillation of similarities: rows by a warp each, then the sum of their losses.

use super::{Cuda, arguments};
use crate::ops::distillation::Distillation;
use crate::ops::{Run, Write};

/// Rows of a block.
const ROWS: usize = 8;

impl Run<Distillation> for Cuda {
    fn run(&mut self, op: Distillation) {
        let Distillation { rows, columns, settings, multiplicity, s, teacher, write, loss, ds } = op;
        let row_loss = self.workspace();
        let adds = write == Write::Add;
        let scale = |tau: f64| (std::f64::consts::LOG2_E / tau) as f32;
        let arguments = arguments![
            self.at(s),
            self.at(teacher),
            multiplicity.row.map(|row| self.at(row)),
            multiplicity.column.map(|column| self.at(column)),
            row_loss,
            self.at(ds),
            rows,
            columns,
            scale(settings.tau),
            scale(settings.teacher_tau),
            (1.0 / settings.tau) as f32,
            settings.weight as f32,
            settings.exclude_self,
            settings.divergence,
            adds,
        ];
        self.launch("distillation_rows", [rows.div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
        self.launch("distillation_loss", [1, 1, 1], 1024, 0, arguments![row_loss, self.at(loss), rows, adds]);
    }
}
