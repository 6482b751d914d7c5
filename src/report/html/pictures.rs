//! Test images that were taken for the right thing, and for another, by the last models.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Cursor;

use base64::Engine;
use image::{ImageFormat, RgbImage, imageops};

use super::Series;
use crate::data::{self, Dataset};
use crate::error::{Error, Result};
use crate::experiment::Prediction;
use crate::report::run::Run;

/// Images of each kind that are shown.
const SHOWN: usize = 6;
/// The longer edge of an embedded picture, at most.
const EDGE: u32 = 96;

/// A few test images with every method's answer.
pub(crate) struct Gallery {
    /// Those that most of the methods that have answered took for what they are.
    pub right: Vec<Card>,
    pub wrong: Vec<Card>,
    /// Why there are no pictures.
    pub note: Option<String>,
}

pub(crate) struct Card {
    /// A data URI.
    pub picture: Option<String>,
    pub truth: String,
    /// The step that the image is from, counted from 0.
    pub task: usize,
    pub answers: Vec<Answer>,
}

/// What an image was taken for, and by whom.
pub(crate) struct Answer {
    pub predicted: String,
    pub by: Vec<String>,
    pub right: bool,
}

impl Gallery {
    /// From the first run of each series that has predictions; None where there is none.
    pub(crate) fn of(series: &[Series]) -> Option<Gallery> {
        let runs: Vec<(&Series, &Run)> = series
            .iter()
            .filter_map(|series| Some((series, series.cell.runs.iter().find(|run| !run.predictions.is_empty())?)))
            .collect();
        let (_, first) = runs.first()?;
        let mut answers: BTreeMap<u32, Vec<(&Series, &Prediction)>> = BTreeMap::new();
        for (series, run) in &runs {
            for prediction in &run.predictions {
                answers.entry(prediction.sample).or_default().push((series, prediction));
            }
        }
        let (right, wrong): (Vec<_>, Vec<_>) = answers
            .into_iter()
            .partition(|(_, given)| 2 * given.iter().filter(|(_, given)| is_right(given)).count() >= given.len());
        let (dataset, note) = match open(first) {
            Ok(dataset) => (Some(dataset), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let cards = |samples| {
            choose(samples).into_iter().map(|(sample, given)| card(dataset.as_ref(), sample, given)).collect()
        };
        Some(Gallery { right: cards(right), wrong: cards(wrong), note })
    }
}

fn is_right(prediction: &Prediction) -> bool {
    prediction.predicted == prediction.truth
}

type Given<'a> = Vec<(&'a Series, &'a Prediction)>;

/// A few of the samples, from as many tasks as may be; those first that most runs have kept, and about which they differ.
fn choose(mut samples: Vec<(u32, Given)>) -> Vec<(u32, Given)> {
    let disagreement = |given: &Given| {
        let right = given.iter().filter(|(_, given)| is_right(given)).count();
        right.min(given.len() - right)
    };
    samples.sort_by_key(|(sample, given)| (Reverse(given.len()), Reverse(disagreement(given)), *sample));
    let mut of_task: BTreeMap<usize, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, (u32, Given))> = samples
        .into_iter()
        .map(|sample| {
            let count = of_task.entry(sample.1[0].1.task).or_insert(0);
            *count += 1;
            (*count, sample)
        })
        .collect();
    ranked.sort_by_key(|(rank, (_, given))| (*rank, given[0].1.task));
    ranked.into_iter().take(SHOWN).map(|(_, sample)| sample).collect()
}

fn card(dataset: Option<&Dataset>, sample: u32, given: Given) -> Card {
    let picture = dataset.and_then(|dataset| dataset.image(sample as usize).ok()).map(|image| data_uri(&image));
    let mut answers: Vec<Answer> = Vec::new();
    for (series, Prediction { predicted, truth, .. }) in &given {
        match answers.iter_mut().find(|answer| answer.predicted == *predicted) {
            Some(answer) => answer.by.push(series.label.clone()),
            None => {
                let (predicted, right) = (predicted.clone(), predicted == truth);
                answers.push(Answer { predicted, by: vec![series.label.clone()], right });
            }
        }
    }
    answers.sort_by_key(|answer| (!answer.right, Reverse(answer.by.len())));
    Card { picture, truth: given[0].1.truth.clone(), task: given[0].1.task, answers }
}

/// The run's data set; an error where it is gone, or no longer the one that the run has seen.
fn open(run: &Run) -> Result<Dataset> {
    let settings = &run.config.data;
    let dataset = data::open(&settings.source())?;
    let fingerprint = run.manifest["sha256"]["data"].as_str();
    if fingerprint.is_some_and(|known| known != dataset.fingerprint) {
        return Err(Error::input(format!("the data set {} has changed since the run", settings.name)));
    }
    Ok(dataset)
}

/// A picture as part of the page, made smaller if it is large.
fn data_uri(image: &RgbImage) -> String {
    let (width, height) = image.dimensions();
    let scale = EDGE as f64 / width.max(height).max(1) as f64;
    let edge = |edge: u32| ((edge as f64 * scale) as u32).max(1);
    let small = if scale < 1.0 { imageops::thumbnail(image, edge(width), edge(height)) } else { image.clone() };
    let mut bytes = Vec::new();
    small.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).expect("memory takes every picture");
    format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}
