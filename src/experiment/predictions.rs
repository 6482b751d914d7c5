//! The few test images that a run shows: right ones and wrong ones, from all tasks.

use rand::RngExt;

use super::config::EvaluationTask;
use super::evaluation::Answer;
use super::record::Prediction;
use super::setup::Setup;
use crate::rng::{rng, shuffle};

/// Right answers that are shown at most, and wrong ones.
const SHOWN: usize = 12;

/// Right answers, then wrong ones, at random by the run's seed.
pub(crate) fn pick(setup: &Setup, answers: &[Vec<Answer>]) -> Vec<Prediction> {
    let text = |number: u32| match setup.config.evaluation.task {
        EvaluationTask::Classification => setup.dataset.classes[number as usize].clone(),
        EvaluationTask::Retrieval => {
            let sample = setup.caption_of_sample.iter().position(|caption| *caption == number);
            setup.dataset.samples[sample.expect("every caption is a sample's")].caption.clone()
        }
    };
    [true, false]
        .into_iter()
        .flat_map(|right| choose(setup.config.seed, answers, right))
        .map(|(task, answer)| Prediction {
            sample: answer.sample,
            task,
            truth: text(answer.truth),
            predicted: text(answer.chosen),
        })
        .collect()
}

/// Right or wrong answers with their tasks: one of each task in turn until there are enough, so that no task is left out that
/// has some.
fn choose(seed: u64, answers: &[Vec<Answer>], right: bool) -> Vec<(usize, Answer)> {
    let kind = u64::from(right);
    let mut tasks: Vec<(usize, Vec<Answer>)> = answers
        .iter()
        .enumerate()
        .map(|(task, answers)| {
            let mut answers: Vec<Answer> =
                answers.iter().filter(|answer| answer.is_right() == right).copied().collect();
            // By a number of each image's own: runs of a seed show the same images as far as they can.
            answers.sort_by_cached_key(|answer| rng(seed, "predictions", &[u64::from(answer.sample)]).random::<u64>());
            (task, answers)
        })
        .collect();
    // Where there are more tasks than are shown, not always the first.
    shuffle(&mut tasks, &mut rng(seed, "predictions", &[kind]));
    let rounds = tasks.iter().map(|(_, answers)| answers.len()).max().unwrap_or(0);
    let in_turn = (0..rounds)
        .flat_map(|round| tasks.iter().filter_map(move |(task, answers)| Some((*task, *answers.get(round)?))));
    let mut chosen: Vec<(usize, Answer)> = in_turn.take(SHOWN).collect();
    chosen.sort_by_key(|(task, answer)| (*task, answer.sample));
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// `counts` right answers and as many wrong ones in each task.
    fn answers(counts: &[u32]) -> Vec<Vec<Answer>> {
        let answer = |sample: u32| Answer { sample, truth: 1, chosen: sample % 2 };
        counts
            .iter()
            .enumerate()
            .map(|(task, count)| (0..2 * count).map(|i| answer(1000 * task as u32 + i)).collect())
            .collect()
    }

    #[test]
    fn every_task_has_its_part() {
        for right in [true, false] {
            let chosen = choose(3, &answers(&[100, 2, 0, 50]), right);
            let of_task = |task: usize| chosen.iter().filter(|(of, _)| *of == task).count();
            assert_eq!([0, 1, 2, 3].map(of_task), [5, 2, 0, 5]);
            assert!(
                chosen.iter().all(|(task, answer)| answer.is_right() == right && answer.sample / 1000 == *task as u32)
            );
            assert_eq!(chosen.iter().map(|(_, answer)| answer.sample).collect::<BTreeSet<_>>().len(), SHOWN);
        }
    }

    #[test]
    fn few_answers_are_all_shown_and_none_is_no_error() {
        assert_eq!(choose(0, &answers(&[1, 2]), true).len(), 3);
        assert!(choose(0, &answers(&[0, 0]), false).is_empty());
        assert!(choose(0, &[], true).is_empty());
    }

    #[test]
    fn the_seed_decides() {
        let (many, tasks) = (answers(&[50; 3]), answers(&[1; 40]));
        assert_eq!(choose(1, &many, true), choose(1, &many, true));
        assert_ne!(choose(1, &many, true), choose(2, &many, true));
        assert!(choose(1, &tasks, true).iter().any(|(task, _)| *task >= 12), "of many tasks, not always the first");
    }
}
