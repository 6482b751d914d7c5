//! What a run is judged by (docs/methods.md, section 5); retrieval has a file of its own. Fractions in [0, 1] throughout.
//!
//! A tie never counts in favour: a right answer must score higher than every wrong one, so that a model that gives
//! everything the same score, or NaN, is not taken for a good one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// E: T x T, E_ij the accuracy (or recall@1) of the model after step i on the task of step j.
///
/// Rows are added as steps finish, and a cell may be without a value: a method whose head does not know a later
/// task is not evaluated on it. A metric is None where it is not defined (T = 1 has no triangles) or a cell that it
/// needs has no value. During a run it covers the rows that are there, as if T were their number; only the upper
/// triangle keeps its later columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskMatrix {
    tasks: usize,
    rows: Vec<Vec<Option<f64>>>,
}

impl TaskMatrix {
    /// No rows yet, for T = `tasks`.
    pub(crate) fn new(tasks: usize) -> TaskMatrix {
        TaskMatrix { tasks, rows: Vec::new() }
    }

    /// The matrix of these rows.
    pub(crate) fn of(tasks: usize, rows: &[Vec<Option<f64>>]) -> Result<TaskMatrix> {
        let mut matrix = TaskMatrix::new(tasks);
        rows.iter().try_for_each(|row| matrix.push(row.clone()))?;
        Ok(matrix)
    }

    /// Adds the row of the next step: a value or None for each task. It is an error of the run if it does not fit
    /// T, holds a number outside [0, 1], or comes after row T.
    pub(crate) fn push(&mut self, row: Vec<Option<f64>>) -> Result<()> {
        if self.rows.len() == self.tasks || row.len() != self.tasks {
            return Err(Error::run(format!(
                "row {} of {} values does not fit a matrix of {} tasks",
                self.rows.len() + 1,
                row.len(),
                self.tasks
            )));
        }
        if let Some(value) = row.iter().flatten().find(|value| !(0.0..=1.0).contains(*value)) {
            return Err(Error::run(format!("an accuracy of {value} does not lie between 0 and 1")));
        }
        self.rows.push(row);
        Ok(())
    }

    /// E_ij, both counted from 0.
    pub(crate) fn get(&self, step: usize, task: usize) -> Option<f64> {
        *self.rows.get(step)?.get(task)?
    }

    /// Mean of the diagonal.
    pub(crate) fn in_domain(&self) -> Option<f64> {
        mean((0..self.rows.len()).map(|step| self.get(step, step)))
    }

    /// Mean of the strict lower triangle (TiC-CLIP).
    pub(crate) fn backward_transfer(&self) -> Option<f64> {
        mean((0..self.rows.len()).flat_map(|step| (0..step).map(move |task| self.get(step, task))))
    }

    /// Mean of the strict upper triangle (TiC-CLIP).
    pub(crate) fn forward_transfer(&self) -> Option<f64> {
        mean((0..self.rows.len()).flat_map(|step| (step + 1..self.tasks).map(move |task| self.get(step, task))))
    }

    /// Mean over the tasks j before the last of max_i E_ij - E_Tj. The maximum is over all steps that have a value,
    /// also those before the task was learnt, as docs/methods.md has it.
    pub(crate) fn forgetting(&self) -> Option<f64> {
        let last = self.rows.len().checked_sub(1)?;
        mean((0..last).map(|task| {
            let learnt = (task..=last).map(|step| self.get(step, task)).collect::<Option<Vec<f64>>>()?;
            let before = (0..task).filter_map(|step| self.get(step, task));
            Some(learnt.into_iter().chain(before).fold(0.0, f64::max) - self.get(last, task)?)
        }))
    }

    /// Mean over the tasks j before the last of E_Tj - E_jj.
    pub(crate) fn bwt(&self) -> Option<f64> {
        let last = self.rows.len().checked_sub(1)?;
        mean((0..last).map(|task| Some(self.get(last, task)? - self.get(task, task)?)))
    }
}

/// None without values, or where one is None.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values = values.collect::<Option<Vec<f64>>>()?;
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

/// Mean over b of A_b, the accuracy over all classes seen after task b. None without any.
pub(crate) fn average_incremental_accuracy(accuracies: &[f64]) -> Option<f64> {
    mean(accuracies.iter().copied().map(Some))
}

/// A_T. None without any.
pub(crate) fn last_accuracy(accuracies: &[f64]) -> Option<f64> {
    accuracies.last().copied()
}

/// All metrics of a run, under the names that tables and files use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Mean of E_ii (TiC-CLIP, arXiv 2310.16226). As all of these none where a value that it needs is not there.
    pub in_domain: Option<f64>,
    /// Mean of E_ij below the diagonal, earlier tasks (TiC-CLIP).
    pub backward_transfer: Option<f64>,
    /// Mean of E_ij above the diagonal, tasks to come (TiC-CLIP).
    pub forward_transfer: Option<f64>,
    /// Mean over b of A_b (iCaRL, arXiv 1611.07725).
    pub average_incremental_accuracy: Option<f64>,
    /// A_b after the last step so far.
    pub last_accuracy: Option<f64>,
    /// After the last step so far, the mean over the classes of the accuracy on each; none in retrieval, and of earlier versions' runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_balanced_accuracy: Option<f64>,
    /// Mean over earlier tasks j of max_i E_ij - E_Tj: what was lost of the best.
    pub forgetting: Option<f64>,
    /// Mean over earlier tasks j of E_Tj - E_jj (GEM, arXiv 1706.08840): below 0 where they were forgotten.
    pub bwt: Option<f64>,
}

impl Summary {
    /// From E, from A_b after each task b, and from its like in which every class counts alike.
    pub(crate) fn of(matrix: &TaskMatrix, accuracies: &[f64], balanced: &[f64]) -> Summary {
        Summary {
            in_domain: matrix.in_domain(),
            backward_transfer: matrix.backward_transfer(),
            forward_transfer: matrix.forward_transfer(),
            average_incremental_accuracy: average_incremental_accuracy(accuracies),
            last_accuracy: last_accuracy(accuracies),
            last_balanced_accuracy: last_accuracy(balanced),
            forgetting: matrix.forgetting(),
            bwt: matrix.bwt(),
        }
    }
}

impl Summary {
    /// The first metric that is another in `other`, up to rounding: its name, here and there.
    pub(crate) fn differs(&self, other: &Summary) -> Option<(&'static str, Option<f64>, Option<f64>)> {
        let all = |summary: &Summary| {
            [
                ("in_domain", summary.in_domain),
                ("backward_transfer", summary.backward_transfer),
                ("forward_transfer", summary.forward_transfer),
                ("average_incremental_accuracy", summary.average_incremental_accuracy),
                ("last_accuracy", summary.last_accuracy),
                ("last_balanced_accuracy", summary.last_balanced_accuracy),
                ("forgetting", summary.forgetting),
                ("bwt", summary.bwt),
            ]
        };
        let is_same = |here: Option<f64>, there: Option<f64>| match (here, there) {
            (Some(here), Some(there)) => (here - there).abs() < 1e-9,
            (here, there) => here == there,
        };
        let mut pairs = all(self).into_iter().zip(all(other));
        pairs
            .find(|((_, here), (_, there))| !is_same(*here, *there))
            .map(|((name, here), (_, there))| (name, here, there))
    }
}

/// The mean over the classes of the fraction of each that is right, of answers as (class, is right); also called the mean of recalls. None
/// without any.
pub(crate) fn balanced_accuracy(answers: impl Iterator<Item = (u32, bool)>) -> Option<f64> {
    let mut of_class = BTreeMap::<u32, (f64, f64)>::new();
    for (class, is_right) in answers {
        let (right, count) = of_class.entry(class).or_default();
        *right += f64::from(u8::from(is_right));
        *count += 1.0;
    }
    mean(of_class.values().map(|(right, count)| Some(right / count)))
}

/// How many items come before the best of the `relevant` ones and are none themselves; None if there is none.
pub(crate) fn rank(scores: &[f32], relevant: &[u32]) -> Option<usize> {
    let own = || relevant.iter().map(|item| scores[*item as usize]);
    own().next()?;
    // NaN scores are no better than none at all.
    let Some(best) = own().filter(|score| !score.is_nan()).reduce(f32::max) else {
        return Some(usize::MAX);
    };
    let ahead = |score: &f32| *score >= best || score.is_nan();
    Some(scores.iter().copied().filter(ahead).count() - own().filter(ahead).count())
}

/// The fraction of queries whose [`rank`] is among the first so many. NaN without any.
pub(crate) fn part_within(ranks: &[usize], first: usize) -> f64 {
    ranks.iter().filter(|rank| **rank < first).count() as f64 / ranks.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(tasks: usize, rows: &[&[f64]]) -> TaskMatrix {
        let mut matrix = TaskMatrix::new(tasks);
        for row in rows {
            let missing = |value: &f64| if value.is_nan() { None } else { Some(*value) };
            matrix.push(row.iter().map(missing).collect()).unwrap();
        }
        matrix
    }

    #[test]
    fn every_class_counts_alike() {
        // Of class 7 three in four are right, of class 2 none of one.
        let answers = [(7, true), (2, false), (7, true), (7, false), (7, true)];
        close(balanced_accuracy(answers.into_iter()), 0.375);
        assert_eq!(balanced_accuracy([].into_iter()), None);
    }

    #[track_caller]
    fn close(value: Option<f64>, expected: f64) {
        assert!(value.is_some_and(|value| (value - expected).abs() < 1e-12), "{value:?} is not {expected}");
    }

    #[test]
    fn a_matrix_of_three_tasks() {
        let e = matrix(3, &[&[0.9, 0.3, 0.2], &[0.7, 0.8, 0.4], &[0.5, 0.85, 0.6]]);
        close(e.in_domain(), (0.9 + 0.8 + 0.6) / 3.0);
        close(e.backward_transfer(), (0.7 + 0.5 + 0.85) / 3.0);
        close(e.forward_transfer(), (0.3 + 0.2 + 0.4) / 3.0);
        // Task 1 fell from 0.9 to 0.5; task 2 is best at the end.
        close(e.forgetting(), (0.4 + 0.0) / 2.0);
        close(e.bwt(), (-0.4 + 0.05) / 2.0);
    }

    #[test]
    fn the_best_of_a_task_may_lie_before_it_was_learnt() {
        let e = matrix(3, &[&[0.9, 0.95, 0.2], &[0.9, 0.8, 0.4], &[0.9, 0.7, 0.6]]);
        close(e.forgetting(), (0.0 + 0.25) / 2.0);
    }

    #[test]
    fn one_task_has_no_transfer() {
        let summary = Summary::of(&matrix(1, &[&[0.75]]), &[0.75], &[0.5]);
        let expected = Summary {
            in_domain: Some(0.75),
            backward_transfer: None,
            forward_transfer: None,
            average_incremental_accuracy: Some(0.75),
            last_accuracy: Some(0.75),
            last_balanced_accuracy: Some(0.5),
            forgetting: None,
            bwt: None,
        };
        assert_eq!(summary, expected);
    }

    #[test]
    fn nothing_is_defined_before_the_first_step() {
        let summary = Summary::of(&TaskMatrix::new(4), &[], &[]);
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 7);
        assert!(json.as_object().unwrap().values().all(|value| value.is_null()), "{json}");
        assert_eq!(serde_json::from_value::<Summary>(json).unwrap(), summary);
    }

    #[test]
    fn a_run_in_progress_has_metrics_of_its_rows() {
        let e = matrix(4, &[&[0.9, 0.3, 0.2, 0.1], &[0.7, 0.8, 0.4, 0.3]]);
        close(e.in_domain(), (0.9 + 0.8) / 2.0);
        close(e.backward_transfer(), 0.7);
        close(e.forward_transfer(), (0.3 + 0.2 + 0.1 + 0.4 + 0.3) / 5.0);
        close(e.forgetting(), 0.2);
        close(e.bwt(), -0.2);
    }

    #[test]
    fn no_mean_is_taken_over_a_hole() {
        let no = f64::NAN;
        let e = matrix(3, &[&[0.9, no, no], &[0.7, 0.8, no], &[0.5, 0.75, 0.6]]);
        assert_eq!(e.forward_transfer(), None);
        close(e.backward_transfer(), (0.7 + 0.5 + 0.75) / 3.0);
        close(e.forgetting(), (0.4 + 0.05) / 2.0);
        let e = matrix(2, &[&[no, 0.1], &[0.7, 0.8]]);
        assert_eq!((e.in_domain(), e.bwt(), e.forgetting()), (None, None, None));
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let mut e = TaskMatrix::new(2);
        let wrong = e.push(vec![Some(0.5)]).unwrap_err();
        assert_eq!(wrong.to_string(), "row 1 of 1 values does not fit a matrix of 2 tasks");
        for value in [1.5, -0.1, f64::NAN] {
            let wrong = e.push(vec![Some(value), None]).unwrap_err().to_string();
            assert!(wrong.contains("does not lie between 0 and 1"), "{wrong}");
        }
        e.push(vec![Some(0.0), None]).unwrap();
        e.push(vec![Some(1.0), Some(1.0)]).unwrap();
        assert!(e.push(vec![None, None]).is_err());
        let json = serde_json::to_string(&e).unwrap();
        assert_eq!(json, r#"{"tasks":2,"rows":[[0.0,null],[1.0,1.0]]}"#);
        assert_eq!(serde_json::from_str::<TaskMatrix>(&json).unwrap(), e);
    }

    #[test]
    fn incremental_accuracies() {
        close(average_incremental_accuracy(&[0.9, 0.7, 0.65]), 0.75);
        assert_eq!(last_accuracy(&[0.9, 0.7, 0.65]), Some(0.65));
        assert_eq!((average_incremental_accuracy(&[]), last_accuracy(&[])), (None, None));
    }

    #[test]
    fn ranks_count_ties_and_nan_against_the_relevant() {
        let nan = f32::NAN;
        assert_eq!(rank(&[0.1, 0.9, 0.3], &[1]), Some(0));
        assert_eq!(rank(&[0.1, 0.9, 0.3], &[0]), Some(2));
        assert_eq!(rank(&[0.5, 0.5, 0.1], &[0]), Some(1));
        assert_eq!(rank(&[0.5, 0.5, 0.1], &[1, 0]), Some(0), "its own may tie");
        assert_eq!(rank(&[nan, 0.9], &[1]), Some(1));
        assert_eq!(rank(&[nan, 0.9], &[0]), Some(usize::MAX));
        assert_eq!(rank(&[nan], &[0]), Some(usize::MAX));
        assert_eq!(rank(&[0.7], &[]), None);
    }
}
