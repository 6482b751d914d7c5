//! What runs came to: one row a method and memory, mean and spread over seeds; and the matrix E of one run.

use super::table::Table;
use crate::eval::metrics::Summary;
use crate::experiment::Evaluation;
use crate::method::METHODS;

/// Runs that differ in nothing but the seed.
#[derive(Clone, Debug)]
pub struct Cell {
    pub method: String,
    pub memory: usize,
    pub runs: Vec<Evaluation>,
}

impl Cell {
    /// Groups runs by method and memory, in the order of the table of methods.
    pub fn group(runs: impl IntoIterator<Item = Evaluation>) -> Vec<Cell> {
        let mut cells: Vec<Cell> = Vec::new();
        for run in runs {
            match cells.iter_mut().find(|cell| cell.method == run.method && cell.memory == run.memory) {
                Some(cell) => cell.runs.push(run),
                None => cells.push(Cell { method: run.method.clone(), memory: run.memory, runs: vec![run] }),
            }
        }
        let rank = |method: &str| METHODS.iter().position(|known| known.name == method);
        cells.sort_by_key(|cell| (rank(&cell.method), cell.memory));
        cells
    }
}

/// A number of the summary: its heading, and where it stands.
type Metric = (&'static str, fn(&Summary) -> Option<f64>);

/// The metrics of methods.md section 5, in per cent.
const METRICS: [Metric; 7] = [
    ("average", |summary| summary.average_incremental_accuracy),
    ("last", |summary| summary.last_accuracy),
    ("forgetting", |summary| summary.forgetting),
    ("bwt", |summary| summary.bwt),
    ("in-domain", |summary| summary.in_domain),
    ("backward", |summary| summary.backward_transfer),
    ("forward", |summary| summary.forward_transfer),
];

/// One row a cell: every metric in per cent, mean and, over several seeds, standard deviation; and what a run spent, the
/// multiply-accumulates those of forward passes.
pub fn summary_table(cells: &[Cell]) -> Table {
    let header = ["method", "memory", "seeds"].into_iter().chain(METRICS.iter().map(|(name, _)| *name));
    let mut table = Table::new(header.chain(["samples", "GMACs"]));
    for cell in cells {
        let mut row = vec![cell.method.clone(), cell.memory.to_string(), cell.runs.len().to_string()];
        for (_, metric) in METRICS {
            let values: Option<Vec<f64>> = cell.runs.iter().map(|run| metric(&run.summary)).collect();
            let values = values.filter(|values| !values.is_empty());
            row.push(values.map(|values| mean_and_spread(&values)).unwrap_or_default());
        }
        row.push(cell.runs.iter().map(|run| run.samples_spent).max().unwrap_or(0).to_string());
        let macs = cell.runs.iter().map(|run| run.macs_spent).max().unwrap_or(0);
        row.push(format!("{:.1}", macs as f64 / 1e9));
        table.row(row);
    }
    table
}

/// `71.2`, or `71.2 ± 0.4` with the sample standard deviation, of fractions in per cent.
fn mean_and_spread(fractions: &[f64]) -> String {
    let count = fractions.len() as f64;
    let mean = fractions.iter().sum::<f64>() / count;
    if fractions.len() < 2 {
        return format!("{:.1}", 100.0 * mean);
    }
    let variance = fractions.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
    format!("{:.1} ± {:.1}", 100.0 * mean, 100.0 * variance.sqrt())
}

/// E in per cent: a row after each step, a column for each task.
pub fn matrix_table(evaluation: &Evaluation) -> Table {
    let mut table = Table::new(
        std::iter::once("after".to_string())
            .chain((1..=evaluation.steps.len()).map(|task| task.to_string()))
            .chain(["all seen".to_string()]),
    );
    for (step, (row, accuracy)) in evaluation.matrix.iter().zip(&evaluation.accuracy).enumerate() {
        let percent = |value: &Option<f64>| value.map(|value| format!("{:.1}", 100.0 * value)).unwrap_or_default();
        let cells = std::iter::once(format!("{} {}", step + 1, evaluation.steps[step].name));
        table.row(cells.chain(row.iter().map(percent)).chain([format!("{:.1}", 100.0 * accuracy)]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::mean_and_spread;

    #[test]
    fn spread_is_the_sample_standard_deviation() {
        assert_eq!(mean_and_spread(&[0.5]), "50.0");
        assert_eq!(mean_and_spread(&[0.5, 0.6, 0.7]), "60.0 ± 10.0");
    }
}
