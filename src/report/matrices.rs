//! What one run measured beside E: other matrices on the same tests, and test sets beside the stream.

use super::table::{Table, Value};
use crate::error::Result;
use crate::eval::metrics::TaskMatrix;
use crate::experiment::Evaluation;

/// The transfers of every other matrix, in per cent: a row each. None where there is no other.
pub fn transfer_table(evaluation: &Evaluation) -> Result<Option<Table>> {
    let mut table = Table::new(["matrix", "in-domain", "backward", "forward"]);
    let mut matrices: Vec<_> = evaluation.dynamic.iter().collect();
    // recall@5 before recall@10.
    matrices.sort_by_key(|(name, _)| {
        let (what, at) = name.split_once('@').unwrap_or((name, ""));
        (what, at.parse::<u32>().unwrap_or(0))
    });
    for (name, rows) in &matrices {
        let matrix = TaskMatrix::of(evaluation.steps.len(), rows)?;
        let transfers = [matrix.in_domain(), matrix.backward_transfer(), matrix.forward_transfer()];
        table.row(std::iter::once(name.as_str().into()).chain(transfers.map(percent)));
    }
    Ok((!matrices.is_empty()).then_some(table))
}

/// The test sets beside the stream, in per cent: a row each, a column after each step. None where there are none.
pub fn static_table(evaluation: &Evaluation) -> Option<Table> {
    let steps = 1..=evaluation.matrix.len();
    let mut table = Table::new(std::iter::once("set".to_string()).chain(steps.map(|step| format!("after {step}"))));
    for (name, series) in &evaluation.static_sets {
        table.row(std::iter::once(name.as_str().into()).chain(series.iter().map(|value| percent(*value))));
    }
    (!evaluation.static_sets.is_empty()).then_some(table)
}

/// A fraction in per cent; nothing where there is none.
fn percent(value: Option<f64>) -> Value {
    value.map(Value::percent).into()
}
