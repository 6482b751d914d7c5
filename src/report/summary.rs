//! What runs came to: one row a method and memory, mean and spread over seeds; and the matrix E of one run.

use std::borrow::Borrow;
use std::fmt;

use serde::Serialize;
use serde_json::json;

use super::table::{Table, Value};
use crate::eval::metrics::Summary;
use crate::experiment::Evaluation;
use crate::method::METHODS;

/// Runs that differ in nothing but the seed: their evaluations, or more of them.
#[derive(Clone, Debug)]
pub struct Cell<R = Evaluation> {
    pub method: String,
    pub memory: usize,
    /// What else tells these runs from others beside them, such as the weights that they started from; often nothing.
    pub of: String,
    pub runs: Vec<R>,
}

impl<R: Borrow<Evaluation>> Cell<R> {
    /// Groups runs by method and memory, in the order of the table of methods.
    pub fn group(runs: impl IntoIterator<Item = R>) -> Vec<Cell<R>> {
        Cell::group_with(runs.into_iter().map(|run| (run, String::new())))
    }

    /// The same for runs of which each says what else it differs in, as [`Cell::of`].
    pub fn group_with(runs: impl IntoIterator<Item = (R, String)>) -> Vec<Cell<R>> {
        let mut cells: Vec<Cell<R>> = Vec::new();
        for (run, of) in runs {
            let Evaluation { method, memory, .. } = run.borrow();
            let same = |cell: &&mut Cell<R>| cell.method == *method && cell.memory == *memory && cell.of == of;
            match cells.iter_mut().find(same) {
                Some(cell) => cell.runs.push(run),
                None => cells.push(Cell { method: method.clone(), memory: *memory, of, runs: vec![run] }),
            }
        }
        // A method that this program does not know, from a newer one, comes last.
        let rank = |method: &str| METHODS.iter().position(|known| known.name == method).unwrap_or(METHODS.len());
        cells.sort_by_cached_key(|cell| (rank(&cell.method), cell.method.clone(), cell.of.clone(), cell.memory));
        cells
    }

    /// The method, and in brackets what else there is to say: `zero-shot (openai.safetensors)`.
    pub fn name(&self) -> String {
        if self.of.is_empty() { self.method.clone() } else { format!("{} ({})", self.method, self.of) }
    }

    pub fn evaluations(&self) -> impl Iterator<Item = &Evaluation> {
        self.runs.iter().map(Borrow::borrow)
    }

    /// A number over the seeds; None where a run does not have it.
    pub fn spread(&self, number: impl Fn(&Evaluation) -> Option<f64>) -> Option<Spread> {
        Spread::of(&self.evaluations().map(number).collect::<Option<Vec<f64>>>()?)
    }

    /// The mean over the seeds of a matrix of E's shape; a place where a run has no value stays empty.
    pub fn mean_matrix<'a>(&'a self, matrix: impl Fn(&'a Evaluation) -> Option<&'a Matrix>) -> Option<Matrix> {
        let matrices: Vec<&Matrix> = self.evaluations().map(matrix).collect::<Option<_>>()?;
        let mean = |row: usize, column: usize| {
            let value = |matrix: &&Matrix| *matrix.get(row)?.get(column)?;
            Spread::of(&matrices.iter().map(value).collect::<Option<Vec<f64>>>()?).map(|spread| spread.mean)
        };
        let first = matrices.first()?;
        Some((0..first.len()).map(|row| (0..first[row].len()).map(|column| mean(row, column)).collect()).collect())
    }
}

/// E, or a matrix of its shape.
pub type Matrix = Vec<Vec<Option<f64>>>;

/// Mean and, of several values, sample standard deviation. Shown in per cent: `71.2`, or `71.2 ± 0.4`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    pub deviation: Option<f64>,
}

impl Spread {
    /// None of no values.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
        (!values.is_empty()).then(|| Spread { mean, deviation: (values.len() > 1).then(|| variance.sqrt()) })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}", 100.0 * self.mean)?;
        self.deviation.map_or(Ok(()), |deviation| write!(f, " ± {:.1}", 100.0 * deviation))
    }
}

/// A number of the summary: its heading in tables, its name in files, what it says, where it stands, and whether less of it is better.
pub struct Metric {
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

pub const AVERAGE: Metric = metric(
    "average",
    "average_incremental_accuracy",
    "mean over the steps of the accuracy on everything seen so far",
    |summary| summary.average_incremental_accuracy,
);
pub const LAST: Metric =
    metric("last", "last_accuracy", "accuracy on everything seen, after the last step", |summary| {
        summary.last_accuracy
    });
pub const FORGETTING: Metric = Metric {
    less_is_better: true,
    ..metric(
        "forgetting",
        "forgetting",
        "mean over earlier tasks of what was lost of the best accuracy on them; less is better",
        |summary| summary.forgetting,
    )
};
pub const IN_DOMAIN: Metric =
    metric("in-domain", "in_domain", "mean accuracy on each task right after it was learnt", |summary| {
        summary.in_domain
    });
pub const BACKWARD: Metric =
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
pub const METRICS: [Metric; 7] = [AVERAGE, LAST, FORGETTING, BWT, IN_DOMAIN, BACKWARD, FORWARD];

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
pub fn summary_json<R: Borrow<Evaluation>>(cell: &Cell<R>) -> serde_json::Value {
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

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn spread_is_the_sample_standard_deviation() {
        let shown = |values: &[f64]| Spread::of(values).map(|spread| spread.to_string());
        assert_eq!(shown(&[0.5]).unwrap(), "50.0");
        assert_eq!(shown(&[0.5, 0.6, 0.7]).unwrap(), "60.0 ± 10.0");
        assert_eq!(shown(&[]), None);
    }
}
