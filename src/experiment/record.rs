//! What a run came to, as its files say it: `evaluation.json` and `predictions.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::EvaluationTask;
use super::evaluation::Findings;
use super::setup::Setup;
use crate::data::broken::Broken;
use crate::error::Result;
use crate::eval::metrics::{Summary, TaskMatrix, balanced_accuracy};

/// A run's result so far, as `evaluation.json` holds it. It depends on nothing but the run's settings and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Its name.
    pub method: String,
    /// Samples that it may keep; 0 for methods without a replay memory.
    pub memory: usize,
    /// The run's.
    pub seed: u64,
    /// What the numbers below measure: accuracy, or mean recall@1.
    pub task: EvaluationTask,
    /// All of the stream, also those to come.
    pub steps: Vec<StepRecord>,
    /// E: row i after step i, column j for the task of step j; null where a test set gave no number.
    pub matrix: Vec<Vec<Option<f64>>>,
    /// A_b: over all tests of the steps up to b.
    pub accuracy: Vec<f64>,
    /// The same with every class counting alike: the mean over the classes of the accuracy on each. Empty in retrieval; earlier versions did
    /// not write it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub balanced_accuracy: Vec<f64>,
    /// Metrics of the steps so far.
    pub summary: Summary,
    /// Samples trained on in all, each as often as it was.
    pub samples_spent: u64,
    /// Multiply-accumulates of their forward passes in all, teachers and earlier extractors included.
    pub macs_spent: u64,
    /// What was spent up to the end of each step.
    #[serde(default)]
    pub spent: Vec<Spent>,
    /// Other matrices of E's shape, by name: `classification`, `image_to_text_recall@5`.
    #[serde(default)]
    pub dynamic: BTreeMap<String, Vec<Vec<Option<f64>>>>,
    /// Test sets beside the stream, as `noto-v1 accuracy`: a number after each step.
    #[serde(default)]
    pub static_sets: BTreeMap<String, Vec<Option<f64>>>,
    /// Samples left out so far since they were broken, by reason.
    #[serde(default, skip_serializing_if = "Broken::is_empty")]
    pub broken: Broken,
}

/// A budget in samples trained on and in multiply-accumulates of forward passes, since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Samples, each as often as it was trained on.
    pub samples: u64,
    /// Multiply-accumulates, teachers and earlier extractors included.
    pub macs: u64,
}

/// A test image and what the model takes it for after the last step: `predictions.json`, a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Index in the data set.
    pub sample: u32,
    /// The step whose test image it is, from 0.
    pub task: usize,
    /// Names of classes, or captions in retrieval.
    pub truth: String,
    /// What the model takes it for, likewise.
    pub predicted: String,
}

/// A step as it stands in the tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// As [`Step::name`](crate::stream::Step::name).
    pub name: String,
    /// Training samples that it brings.
    pub train: usize,
    /// Test samples.
    pub test: usize,
    /// Classes among its samples; of a class-incremental stream, those that are new.
    pub classes: usize,
}

impl Evaluation {
    pub(crate) fn new(setup: &Setup) -> Evaluation {
        let step = |step: &crate::stream::Step| StepRecord {
            name: step.name.clone(),
            train: step.train.len(),
            test: step.test.len(),
            classes: step.classes.len(),
        };
        Evaluation {
            method: setup.row().name.to_string(),
            memory: if setup.row().uses_memory() { setup.config.memory.size } else { 0 },
            seed: setup.config.seed,
            task: setup.config.evaluation.task,
            steps: setup.stream.steps.iter().map(step).collect(),
            matrix: Vec::new(),
            accuracy: Vec::new(),
            balanced_accuracy: Vec::new(),
            summary: Summary::of(&TaskMatrix::new(setup.stream.steps.len()), &[], &[]),
            samples_spent: 0,
            macs_spent: 0,
            spent: Vec::new(),
            dynamic: BTreeMap::new(),
            static_sets: BTreeMap::new(),
            broken: Broken::default(),
        }
    }

    /// Whether every step has its row.
    pub fn is_complete(&self) -> bool {
        self.matrix.len() == self.steps.len()
    }

    /// Fails, with the field and what would be right, where no run can have come to this: lists that do not fit the steps, numbers out
    /// of their range, or a summary that does not follow from them.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (done, steps) = (self.matrix.len(), self.steps.len());
        if steps == 0 || done > steps {
            return Err(format!("matrix has {done} rows, and steps {steps}: a row for each step is the most"));
        }
        check_matrix("matrix", &self.matrix, done, steps)?;
        check_length("accuracy", self.accuracy.len(), done)?;
        check_fractions("accuracy", &self.accuracy)?;
        // Earlier versions wrote neither.
        if !self.balanced_accuracy.is_empty() {
            check_length("balanced_accuracy", self.balanced_accuracy.len(), done)?;
            check_fractions("balanced_accuracy", &self.balanced_accuracy)?;
        }
        if !self.spent.is_empty() {
            check_length("spent", self.spent.len(), done)?;
            let all = self.spent.last().copied().unwrap_or_default();
            if (self.samples_spent, self.macs_spent) != (all.samples, all.macs) {
                return Err(format!(
                    "samples_spent is {} and macs_spent {}; the last of spent says {} and {}",
                    self.samples_spent, self.macs_spent, all.samples, all.macs
                ));
            }
        }
        for (name, matrix) in &self.dynamic {
            check_matrix(&format!("dynamic.{name}"), matrix, done, steps)?;
        }
        for (name, series) in &self.static_sets {
            let name = format!("static_sets.{name}");
            check_length(&name, series.len(), done)?;
            check_fractions(&name, series.iter().flatten())?;
        }
        let matrix = TaskMatrix::of(steps, &self.matrix).map_err(|error| error.to_string())?;
        let expected = Summary::of(&matrix, &self.accuracy, &self.balanced_accuracy);
        match self.summary.differs(&expected) {
            None => Ok(()),
            Some((name, here, there)) => {
                let word = |value: Option<f64>| value.map_or("null".to_string(), |value| value.to_string());
                Err(format!("summary.{name} is {}; by matrix and accuracy it is {}", word(here), word(there)))
            }
        }
    }

    /// Forgets the rows from step `steps` on: a resumed run makes them again.
    pub(crate) fn truncate(&mut self, steps: usize) -> Result<()> {
        self.matrix.truncate(steps);
        self.accuracy.truncate(steps);
        self.balanced_accuracy.truncate(steps);
        self.spent.truncate(steps);
        let spent = self.spent.last().copied().unwrap_or_default();
        (self.samples_spent, self.macs_spent) = (spent.samples, spent.macs);
        self.dynamic.values_mut().for_each(|matrix| matrix.truncate(steps));
        self.static_sets.values_mut().for_each(|series| series.truncate(steps));
        self.summarise()
    }

    /// Adds what was found after the next step, and what had been spent by then.
    pub(crate) fn push(&mut self, found: Findings, spent: Spent) -> Result<()> {
        let Findings { row, dynamic, static_sets, answers } = found;
        for (name, row) in dynamic {
            self.dynamic.entry(name).or_default().push(row);
        }
        for (name, value) in static_sets {
            self.static_sets.entry(name).or_default().push(value);
        }
        (self.samples_spent, self.macs_spent) = (spent.samples, spent.macs);
        self.spent.push(spent);
        let last = self.matrix.len();
        // A task weighs by the tests that were answered: broken ones gave no answer.
        let seen = row.iter().zip(&answers).take(last + 1);
        let counted = seen.filter_map(|(value, answers)| value.map(|value| (value, answers.len() as f64)));
        let (sum, count) = counted.fold((0.0, 0.0), |(sum, count), (value, n)| (sum + value * n, count + n));
        self.accuracy.push(if count > 0.0 { sum / count } else { 0.0 });
        // A run that an earlier version began goes on without it.
        if self.task == EvaluationTask::Classification && self.balanced_accuracy.len() == last {
            let answers = answers.iter().take(last + 1).flatten();
            let balanced = balanced_accuracy(answers.map(|answer| (answer.truth, answer.is_right())));
            self.balanced_accuracy.push(balanced.unwrap_or(0.0));
        }
        self.matrix.push(row);
        self.summarise()
    }

    fn summarise(&mut self) -> Result<()> {
        let matrix = TaskMatrix::of(self.steps.len(), &self.matrix)?;
        self.summary = Summary::of(&matrix, &self.accuracy, &self.balanced_accuracy);
        Ok(())
    }
}

fn check_length(name: &str, found: usize, expected: usize) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{name} has {found} values; {expected} steps are finished, by the rows of matrix")),
    }
}

fn check_fractions<'a>(name: &str, values: impl IntoIterator<Item = &'a f64>) -> Result<(), String> {
    match values.into_iter().find(|value| !(0.0..=1.0).contains(*value)) {
        None => Ok(()),
        Some(value) => Err(format!("{name} has a value of {value}; all lie between 0 and 1")),
    }
}

fn check_matrix(name: &str, matrix: &[Vec<Option<f64>>], done: usize, steps: usize) -> Result<(), String> {
    check_length(name, matrix.len(), done)?;
    for (place, row) in matrix.iter().enumerate() {
        let name = format!("row {} of {name}", place + 1);
        if row.len() != steps {
            return Err(format!("{name} has {} values; there are {steps} steps", row.len()));
        }
        check_fractions(&name, row.iter().flatten())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::evaluation::Answer;
    use super::*;

    fn empty() -> Evaluation {
        let step = |name: &str| StepRecord { name: name.to_string(), train: 10, test: 5, classes: 2 };
        Evaluation {
            method: "sequential".to_string(),
            memory: 0,
            seed: 0,
            task: EvaluationTask::Retrieval,
            steps: vec![step("one"), step("two")],
            matrix: Vec::new(),
            accuracy: Vec::new(),
            balanced_accuracy: Vec::new(),
            summary: Summary::of(&TaskMatrix::new(2), &[], &[]),
            samples_spent: 0,
            macs_spent: 0,
            spent: Vec::new(),
            dynamic: BTreeMap::new(),
            static_sets: BTreeMap::new(),
            broken: Broken::default(),
        }
    }

    #[test]
    fn a_step_that_is_forgotten_and_found_again_leaves_no_trace() {
        let found = |value: f64| Findings {
            row: vec![Some(value), None],
            dynamic: BTreeMap::from([("classification".to_string(), vec![Some(value / 2.0), Some(value)])]),
            static_sets: BTreeMap::from([("older accuracy".to_string(), Some(1.0 - value))]),
            answers: vec![answered(4), Vec::new()],
        };
        let spent = |samples| Spent { samples, macs: 1000 * samples };
        let mut evaluation = empty();
        evaluation.push(found(0.5), spent(96)).unwrap();
        let first = evaluation.clone();
        evaluation.push(found(0.25), spent(192)).unwrap();
        assert!(evaluation.is_complete() && !first.is_complete());
        assert_eq!(evaluation.spent, [spent(96), spent(192)]);
        assert_eq!((evaluation.samples_spent, evaluation.macs_spent), (192, 192_000));
        assert_eq!(evaluation.dynamic["classification"], [[Some(0.25), Some(0.5)], [Some(0.125), Some(0.25)]]);
        assert_eq!(evaluation.static_sets["older accuracy"], [Some(0.5), Some(0.75)]);
        let whole = evaluation.clone();
        evaluation.truncate(1).unwrap();
        assert_eq!(evaluation, first);
        evaluation.push(found(0.25), spent(192)).unwrap();
        assert_eq!(evaluation, whole);
    }

    #[test]
    fn what_no_run_can_have_come_to_is_told_with_its_field() {
        let found = |values: [f64; 2]| Findings {
            row: values.map(Some).to_vec(),
            dynamic: BTreeMap::from([("classification".to_string(), values.map(Some).to_vec())]),
            static_sets: BTreeMap::from([("older accuracy".to_string(), Some(0.5))]),
            answers: vec![answered(4), answered(4)],
        };
        let mut whole = empty();
        whole.check().unwrap();
        whole.push(found([0.5, 0.25]), Spent { samples: 96, macs: 9600 }).unwrap();
        whole.check().unwrap();
        whole.push(found([0.25, 0.75]), Spent { samples: 192, macs: 19200 }).unwrap();
        whole.check().unwrap();
        type Change = fn(&mut Evaluation);
        let changes: [(Change, &str); 16] = [
            (|one| one.accuracy.truncate(1), "accuracy has 1 values; 2 steps are finished"),
            (|one| one.accuracy[1] = f64::NAN, "accuracy has a value of NaN"),
            (|one| one.accuracy[1] = 1.5, "accuracy has a value of 1.5; all lie between 0 and 1"),
            (|one| one.balanced_accuracy = vec![0.5], "balanced_accuracy has 1 values; 2 steps are finished"),
            (
                |one| one.balanced_accuracy = vec![0.5; 2],
                "summary.last_balanced_accuracy is null; by matrix and accuracy it is 0.5",
            ),
            (|one| one.steps.truncate(1), "matrix has 2 rows, and steps 1"),
            (|one| one.steps.clear(), "matrix has 2 rows, and steps 0"),
            (|one| one.matrix.truncate(1), "accuracy has 2 values; 1 steps are finished"),
            (|one| one.matrix[1].truncate(1), "row 2 of matrix has 1 values; there are 2 steps"),
            (|one| one.matrix[0][1] = Some(-0.5), "row 1 of matrix has a value of -0.5"),
            (|one| one.spent.truncate(1), "spent has 1 values"),
            (|one| one.macs_spent = 7, "samples_spent is 192 and macs_spent 7; the last of spent says 192 and 19200"),
            (
                |one| one.dynamic.values_mut().for_each(|matrix| matrix.truncate(1)),
                "dynamic.classification has 1 values",
            ),
            (
                |one| one.static_sets.values_mut().for_each(|series| series.push(None)),
                "static_sets.older accuracy has 3",
            ),
            (|one| one.summary.forgetting = Some(0.5), "summary.forgetting is 0.5; by matrix and accuracy it is 0.25"),
            (|one| one.summary.bwt = None, "summary.bwt is null; by matrix and accuracy it is -0.25"),
        ];
        for (change, message) in changes {
            let mut evaluation = whole.clone();
            change(&mut evaluation);
            let told = evaluation.check().unwrap_err();
            assert!(told.starts_with(message), "{told}\n{message}");
        }
    }

    #[test]
    fn classes_count_alike_beside_images() {
        // Of class 0 all three tests of both tasks are right, of class 1 none of one.
        let answer = |truth, chosen| Answer { sample: 0, truth, chosen };
        let found = || Findings {
            row: vec![Some(0.5), Some(1.0)],
            answers: vec![vec![answer(0, 0), answer(1, 0)], vec![answer(0, 0), answer(0, 0)]],
            ..Findings::default()
        };
        let mut evaluation = Evaluation { task: EvaluationTask::Classification, ..empty() };
        evaluation.push(found(), Spent::default()).unwrap();
        let first = evaluation.clone();
        evaluation.push(found(), Spent::default()).unwrap();
        assert_eq!(evaluation.balanced_accuracy, [0.5, 0.5]);
        assert_eq!((evaluation.accuracy[1], evaluation.summary.last_balanced_accuracy), (0.75, Some(0.5)));
        evaluation.check().unwrap();
        evaluation.truncate(1).unwrap();
        assert_eq!(evaluation, first);
        // A run of a version that did not write it.
        evaluation.balanced_accuracy.clear();
        evaluation.push(found(), Spent::default()).unwrap();
        assert_eq!((evaluation.balanced_accuracy.len(), evaluation.summary.last_balanced_accuracy), (0, None));
    }

    /// So many answers to tests.
    fn answered(count: u32) -> Vec<Answer> {
        (0..count).map(|sample| Answer { sample, truth: 0, chosen: 0 }).collect()
    }

    #[test]
    fn a_task_weighs_by_the_tests_that_were_answered() {
        // Both steps have five tests; of the second's all but one are broken.
        let found = |row: [f64; 2], answers: [u32; 2]| Findings {
            row: row.map(Some).to_vec(),
            answers: answers.map(answered).to_vec(),
            ..Findings::default()
        };
        let mut evaluation = empty();
        evaluation.push(found([0.5, 0.0], [4, 1]), Spent::default()).unwrap();
        evaluation.push(found([0.25, 1.0], [4, 1]), Spent::default()).unwrap();
        assert_eq!(evaluation.accuracy, [0.5, (0.25 * 4.0 + 1.0) / 5.0]);
    }
}
