//! What runs came to: the metrics, one row a method and memory, and the matrix E of one run.

use std::borrow::Borrow;

use serde_json::json;

use super::cells::Cell;
use super::table::{Table, Value};
use crate::eval::metrics::Summary;
use crate::experiment::Evaluation;

/// A number of the summary: its heading in tables, its name in files, what it says, where it stands, and whether less of it is better.
pub(crate) struct Metric {
    pub heading: &'static str,
    pub name: &'static str,
    pub meaning: &'static str,
    pub of: fn(&Summary) -> Option<f64>,
    pub less_is_better: bool,
}

const fn metric(
    heading: &'static str,
    name: &'static str,
    meaning: &'static str,
    of: fn(&Summary) -> Option<f64>,
) -> Metric {
    Metric { heading, name, meaning, of, less_is_better: false }
}

pub(crate) const AVERAGE: Metric = metric(
    "average",
    "average_incremental_accuracy",
    "mean over the steps of the accuracy on everything seen so far",
    |summary| summary.average_incremental_accuracy,
);
pub(crate) const LAST: Metric =
    metric("last", "last_accuracy", "accuracy on everything seen, after the last step", |summary| {
        summary.last_accuracy
    });
const BALANCED: Metric = metric(
    "by class",
    "last_balanced_accuracy",
    "mean over the classes of the accuracy on each, after the last step",
    |summary| summary.last_balanced_accuracy,
);
pub(crate) const FORGETTING: Metric = Metric {
    less_is_better: true,
    ..metric(
        "forgetting",
        "forgetting",
        "mean over earlier tasks of what was lost of the best accuracy on them; less is better",
        |summary| summary.forgetting,
    )
};
pub(crate) const IN_DOMAIN: Metric =
    metric("in-domain", "in_domain", "mean accuracy on each task right after it was learnt", |summary| {
        summary.in_domain
    });
pub(crate) const BACKWARD: Metric =
    metric("backward", "backward_transfer", "mean accuracy on tasks already learnt, over all later steps", |summary| {
        summary.backward_transfer
    });
const BWT: Metric =
    metric("bwt", "bwt", "mean over earlier tasks of the last accuracy less that right after learning", |summary| {
        summary.bwt
    });
const FORWARD: Metric =
    metric("forward", "forward_transfer", "mean accuracy on tasks still to come", |summary| summary.forward_transfer);

/// The metrics of docs/methods.md, section 5, in per cent.
pub(crate) const METRICS: [Metric; 8] = [AVERAGE, LAST, BALANCED, FORGETTING, BWT, IN_DOMAIN, BACKWARD, FORWARD];

/// One row a cell: every metric in per cent, mean and, over several seeds, standard deviation; and what a run spent, the
/// multiply-accumulates those of forward passes.
pub fn summary_table<R: Borrow<Evaluation>>(cells: &[Cell<R>]) -> Table {
    let header = ["method", "memory", "seeds"].into_iter().chain(METRICS.iter().map(|metric| metric.heading));
    let mut table = Table::new(header.chain(["samples", "GMACs"]));
    for cell in cells {
        let mut row = vec![cell.name().into(), Value::number(cell.memory), Value::number(cell.runs.len())];
        row.extend(METRICS.iter().map(|metric| Value::Spread(cell.spread(|run| (metric.of)(&run.summary)))));
        row.push(Value::number(cell.evaluations().map(|run| run.samples_spent).max().unwrap_or(0)));
        let macs = cell.evaluations().map(|run| run.macs_spent).max().unwrap_or(0);
        row.push(Value::Number(format!("{:.1}", macs as f64 / 1e9)));
        table.row(row);
    }
    table
}

/// A cell as a document has it: every metric as a fraction, its mean and, over several seeds, standard deviation; null where there is
/// none.
pub(crate) fn summary_json<R: Borrow<Evaluation>>(cell: &Cell<R>) -> serde_json::Value {
    let mut document = json!({
        "method": cell.method,
        "memory": cell.memory,
        "of": cell.of,
        "seeds": cell.evaluations().map(|run| run.seed).collect::<Vec<_>>(),
    });
    for metric in &METRICS {
        document[metric.name] = json!(cell.spread(|run| (metric.of)(&run.summary)));
    }
    document["samples_spent"] = json!(cell.evaluations().map(|run| run.samples_spent).max());
    document["macs_spent"] = json!(cell.evaluations().map(|run| run.macs_spent).max());
    document
}

/// E in per cent: a row after each step, a column for each task.
pub fn matrix_table(evaluation: &Evaluation) -> Table {
    let mut table = Table::new(
        std::iter::once("after".to_string())
            .chain((1..=evaluation.steps.len()).map(|task| task.to_string()))
            .chain(["all seen".to_string()]),
    );
    for (step, (row, accuracy)) in evaluation.matrix.iter().zip(&evaluation.accuracy).enumerate() {
        let percent = |value: &Option<f64>| value.map(Value::percent).into();
        let cells = std::iter::once(format!("{} {}", step + 1, evaluation.steps[step].name).into());
        table.row(cells.chain(row.iter().map(percent)).chain([Value::percent(*accuracy)]));
    }
    table
}
