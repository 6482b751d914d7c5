//! What a step, or a stage of one, begins with: teachers, earlier extractors, fresh heads.
//!
//! [`begin`] changes the model, once, before a stage's first iteration; [`set`] says what the stage is, also where a run goes on in
//! the middle of it.

use std::ops::Range;

use super::alignment::alignment;
use super::{Method, Stage, Start};
use crate::model::parameters::ParameterList;
use crate::objective::{ClassLoss, HeadLoss, HeadStage, Objective, ObjectiveKind, TextLoss, block_name};
use crate::ops::Device;
use crate::rng::{rng, unit};
use crate::train::{Phase, Trainer};

/// A step as methods see it.
#[derive(Clone, Copy, Debug)]
pub struct StepView<'a> {
    /// From 0.
    pub step: usize,
    /// Classes seen before it, and with it.
    pub before: usize,
    pub seen: usize,
    /// How many samples of each class the stage draws from, in the order of the stream.
    pub counts: &'a [usize],
    /// pi: each class's fraction of them, in the data set's order.
    pub shares: &'a [f32],
    pub seed: u64,
}

/// Changes the model as a stage begins.
pub fn begin<D: Device>(trainer: &mut Trainer<D>, method: &Method, stage: Stage, view: StepView) {
    use ObjectiveKind::{Classes, Texts, Views};
    match (stage, method.minimises) {
        (Stage::Main, _) if view.step == 0 => {}
        (Stage::Main, Texts(TextLoss::Lwf) | Classes(ClassLoss::Icarl) | Views(_)) => trainer.freeze(0),
        (Stage::Main, Classes(ClassLoss::Ewc)) => trainer.keep_start(),
        (Stage::Main, Texts(_)) if method.starts == Start::LastPatched => trainer.keep_start(),
        // The model becomes the newest of the frozen extractors, and learns on with a fresh head.
        (Stage::Main, Classes(ClassLoss::Der)) => expand(trainer, view.step - 1, view),
        (Stage::Main, Classes(ClassLoss::Foster)) => {
            trainer.keep_start();
            expand(trainer, 0, view);
        }
        // The boosted model becomes the teacher, beside the old one, from which the student starts.
        (Stage::Compression, _) => {
            trainer.freeze(1);
            trainer.return_to_start();
        }
        _ => {}
    }
}

/// Says what a stage is.
pub fn set<D: Device>(trainer: &mut Trainer<D>, method: &Method, stage: Stage, view: StepView) {
    let phase = if stage == Stage::Probe { Phase::Head } else { Phase::Whole };
    trainer.set_phase(phase);
    let later = view.step > 0;
    let Trainer { device, clip, frozen, frozen_in_use, objective, optimizer, fisher, .. } = trainer;
    if let Some(fisher) = fisher {
        fisher.in_force = later;
    }
    let loss = match (stage, method.minimises) {
        (Stage::Compression, _) => HeadLoss::Compression,
        (Stage::Main, ObjectiveKind::Classes(loss)) if later => match loss {
            ClassLoss::CrossEntropy | ClassLoss::Ewc => HeadLoss::CrossEntropy,
            ClassLoss::Icarl => HeadLoss::Distillation,
            ClassLoss::Der => HeadLoss::Expansion,
            ClassLoss::Foster => HeadLoss::Boosting,
        },
        _ => HeadLoss::CrossEntropy,
    };
    let alone = phase == Phase::Head;
    let frozen_models = if alone { 0 } else { *frozen_in_use };
    let head_stage = HeadStage { loss, before: view.before, seen: view.seen, frozen: frozen_models, alone };
    if alone {
        // Rows of classes without a sample would only be pushed down, or decay: they stay as an earlier step left them.
        let head = clip.parameters.get("head.weight");
        let row = |class: usize| head.offset + class * head.shape[1]..head.offset + (class + 1) * head.shape[1];
        let absent = (0..view.seen).filter(|class| view.counts[*class] == 0);
        absent.for_each(|class| optimizer.spare(row(class)));
    }
    objective.set_shares(device, view.shares);
    match objective {
        Objective::Texts { distillation, .. } => {
            if let Some(distillation) = distillation {
                distillation.distils = later;
                if later {
                    let scale = frozen[0].weights.value(clip.parameters.get("logit_scale"));
                    distillation.tau = f64::from(-device.read_vec(scale)[0]).exp();
                }
            }
        }
        Objective::Classes(head) => head.begin(device, head_stage, view.counts),
        Objective::Views { contrast, head } => {
            contrast.distils = later;
            head.begin(device, head_stage, view.counts);
        }
    }
}

/// Freezes the model as extractor `place`, whose features its head reads from now on as a block of its own. The model's own block
/// starts at 0, so that the whole begins as the old model, and the auxiliary head anew.
fn expand<D: Device>(trainer: &mut Trainer<D>, place: usize, view: StepView) {
    trainer.freeze(place);
    edit(trainer, |list, values| {
        let (head, block) = (list.get("head.weight"), list.get(&format!("{}.weight", block_name(place))));
        values.copy_within(head.range(), block.offset);
        values[head.range()].fill(0.0);
        let bound = (head.shape[1] as f64).powf(-0.5);
        for name in ["auxiliary.weight", "auxiliary.bias"] {
            let mut generator = rng(view.seed, name, &[view.step as u64]);
            values[list.get(name).range()].fill_with(|| (bound * (2.0 * unit(&mut generator) - 1.0)) as f32);
        }
    });
}

/// der's weight alignment, over the head's rows on every extractor: those of the classes from `before` to `seen` are the new ones.
pub fn align<D: Device>(trainer: &mut Trainer<D>, before: usize, seen: usize) {
    let blocks = trainer.frozen_in_use;
    edit(trainer, |list, values| {
        let mut names = vec!["head.weight".to_string()];
        names.extend((0..blocks).map(|block| format!("{}.weight", block_name(block))));
        let ranges: Vec<Range<usize>> = names.iter().map(|name| list.get(name).range()).collect();
        let width = list.get("head.weight").shape[1];
        let rows: Vec<&[f32]> = ranges.iter().map(|range| &values[range.clone()]).collect();
        let factor = alignment(&rows, width, before, seen);
        for range in &ranges {
            let new = range.start + before * width..range.start + seen * width;
            values[new].iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
        }
    });
}

/// Changes the parameters on the host.
fn edit<D: Device>(trainer: &mut Trainer<D>, change: impl FnOnce(&ParameterList, &mut [f32])) {
    let mut values = trainer.parameters();
    change(&trainer.clip.parameters, &mut values);
    trainer.clip.load(&mut trainer.device, &values);
}
