//! Runs that differ in nothing but the seed, and numbers over them.

use std::borrow::Borrow;
use std::fmt;

use serde::Serialize;

use crate::experiment::Evaluation;
use crate::method::entries;

/// Runs that differ in nothing but the seed: their evaluations, or more of them.
#[derive(Clone, Debug)]
pub struct Cell<R = Evaluation> {
    pub(crate) method: String,
    pub(crate) memory: usize,
    /// What else tells these runs from others beside them, such as the weights that they started from; often nothing.
    pub(crate) of: String,
    pub(crate) runs: Vec<R>,
}

impl<R: Borrow<Evaluation>> Cell<R> {
    /// Groups runs by method and memory, in the order of the table of methods.
    pub fn group(runs: impl IntoIterator<Item = R>) -> Vec<Cell<R>> {
        Cell::group_with(runs.into_iter().map(|run| (run, String::new())))
    }

    /// The same for runs of which each says what else it differs in, as [`Cell::of`].
    pub(crate) fn group_with(runs: impl IntoIterator<Item = (R, String)>) -> Vec<Cell<R>> {
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
        let known = entries();
        let rank = |method: &str| known.iter().position(|entry| entry.name() == method).unwrap_or(known.len());
        cells.sort_by_cached_key(|cell| (rank(&cell.method), cell.method.clone(), cell.of.clone(), cell.memory));
        cells
    }

    /// The method, and in brackets what else there is to say: `zero-shot (openai.safetensors)`.
    pub(crate) fn name(&self) -> String {
        if self.of.is_empty() { self.method.clone() } else { format!("{} ({})", self.method, self.of) }
    }

    pub(crate) fn evaluations(&self) -> impl Iterator<Item = &Evaluation> {
        self.runs.iter().map(Borrow::borrow)
    }

    /// A number over the seeds; None where a run does not have it.
    pub(crate) fn spread(&self, number: impl Fn(&Evaluation) -> Option<f64>) -> Option<Spread> {
        Spread::of(&self.evaluations().map(number).collect::<Option<Vec<f64>>>()?)
    }

    /// The mean over the seeds of a matrix of E's shape; a place where a run has no value stays empty.
    pub(crate) fn mean_matrix<'a>(&'a self, matrix: impl Fn(&'a Evaluation) -> Option<&'a Matrix>) -> Option<Matrix> {
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
pub(crate) type Matrix = Vec<Vec<Option<f64>>>;

/// Mean and, of several values, sample standard deviation. Shown in per cent: `71.2`, or `71.2 ± 0.4`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub mean: f64,
    pub deviation: Option<f64>,
}

impl Spread {
    /// None of no values.
    pub(crate) fn of(values: &[f64]) -> Option<Spread> {
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
