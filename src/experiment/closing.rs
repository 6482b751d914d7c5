//! What closes a step after its training: the Fisher information, alignment, a patch, the memory.
//!
//! None of it is saved on the way: a run that is killed here goes on from the last saved state and does it again.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use serde_json::json;

use super::evaluation::{Embedded, accuracies};
use super::run::Run;
use crate::error::Result;
use crate::method::herding::herd;
use crate::method::patching::{alphas, choose_alpha};
use crate::method::{Keeps, Sees, Stage, Start, stages};
use crate::objective::{ClassLoss, ObjectiveKind};
use crate::ops::Device;
use crate::train::TrainBatch;

impl<D: Device> Run<D> {
    pub(super) fn close(&mut self) -> Result<()> {
        let since = Instant::now();
        match self.setup.method.minimises {
            ObjectiveKind::Classes(ClassLoss::Ewc) => self.measure_fisher()?,
            ObjectiveKind::Classes(ClassLoss::Der) if self.setup.config.objective.der.align => {
                let (before, seen) = self.setup.class_counts(self.position.step);
                stages::align(&mut self.trainer, before, seen);
            }
            _ => {}
        }
        if self.setup.method.starts == Start::LastPatched && self.position.step > 0 {
            self.patch()?;
        }
        self.remember()?;
        self.note("seconds", json!(since.elapsed().as_secs_f64()))
    }

    /// ewc: the mean of squared gradients over one pass over the step's samples.
    fn measure_fisher(&mut self) -> Result<()> {
        let order = self.order(Stage::Closing);
        let loader = self.open_loader(Stage::Closing, 0, order)?;
        let mut batches = 0;
        for batch in loader {
            let batch = batch?;
            let labels: Vec<u32> = batch.samples.iter().map(|sample| self.setup.column(*sample)).collect();
            self.trainer.add_to_fisher(TrainBatch {
                pixels: &batch.pixels,
                slot: &batch.samples,
                labels: &labels,
                ..Default::default()
            });
            self.trainer.device.health()?;
            self.position.macs += batch.samples.len() as u64 * self.setup.model.image_macs();
            batches += 1;
        }
        self.trainer.finish_fisher(batches);
        Ok(())
    }

    /// patching: the weights between those before the step and those after it that do best on earlier steps' validation samples.
    fn patch(&mut self) -> Result<()> {
        let step = self.position.step;
        let until = if self.setup.config.patching.own { step + 1 } else { step };
        let sets: Vec<Vec<u32>> = (0..until).map(|earlier| self.setup.validation(earlier)).collect();
        let trained = self.trainer.parameters();
        let mut scores = Vec::new();
        for alpha in alphas() {
            self.trainer.interpolate(&trained, alpha);
            let found = accuracies(&mut self.trainer, &self.setup, &sets, step)?;
            let images: usize = sets.iter().map(Vec::len).sum();
            self.position.macs += images as u64 * self.setup.model.image_macs();
            scores.push((alpha, found));
        }
        let alpha = choose_alpha(&scores);
        self.trainer.interpolate(&trained, alpha);
        self.trainer.device.health()?;
        self.note("alpha", json!(alpha))
    }

    /// Takes the step's samples into the memory; those that nobody keeps give up their moving averages.
    fn remember(&mut self) -> Result<()> {
        let Sees::StepAndMemory(keeps) = self.setup.method.sees else { return Ok(()) };
        let class = |sample: u32| self.setup.dataset.samples[sample as usize].class;
        let new: Vec<(u32, u32)> =
            self.setup.stream.steps[self.position.step].train.iter().map(|sample| (*sample, class(*sample))).collect();
        let released = match keeps {
            Keeps::Random => self.memory.update(&new),
            Keeps::Herded => {
                // Of the memory, what is ranked anew: other classes' samples keep their order.
                let returning: BTreeSet<u32> = new.iter().map(|(_, class)| *class).collect();
                let kept = returning.iter().flat_map(|class| self.memory.of_class(*class));
                let mut samples: Vec<u32> = kept.copied().chain(new.iter().map(|(sample, _)| *sample)).collect();
                samples.sort_unstable();
                samples.dedup();
                let trainer = &mut self.trainer;
                let embedded =
                    Embedded::of(&mut trainer.device, &trainer.evaluation, &self.setup, &samples, &mut |_| ())?;
                self.position.macs += samples.len() as u64 * self.setup.model.image_macs();
                self.memory.update_by(&new, |samples, share| herded(&embedded, samples, share))
            }
        };
        self.trainer.objective.release(&mut self.trainer.device, &released);
        Ok(())
    }
}

/// A class's samples, the first `count` in the order of herding. Broken ones come last.
fn herded(embedded: &Embedded, samples: Vec<u32>, count: usize) -> Vec<u32> {
    let known: Vec<u32> = samples.iter().copied().filter(|sample| embedded.rows.contains_key(sample)).collect();
    let features: Vec<f32> = known.iter().flat_map(|sample| embedded.row(*sample)).copied().collect();
    let mut order: Vec<u32> = herd(&features, embedded.width, count).into_iter().map(|row| known[row]).collect();
    // The rest follows, to be released.
    let chosen: HashSet<u32> = order.iter().copied().collect();
    order.extend(samples.into_iter().filter(|sample| !chosen.contains(sample)));
    order
}
