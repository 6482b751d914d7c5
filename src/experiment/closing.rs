//! What closes a step after its training: what its method does then, and the memory.
//!
//! None of it is saved on the way: a run that is killed here goes on from the last saved state and does it again.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::evaluation::{Embedded, accuracies};
use super::run::Run;
use crate::data::Label;
use crate::error::Result;
use crate::method::herding::herd;
use crate::method::{Closing, Keeps, Sees};
use crate::stream::ClassId;
use crate::train::{Stage, TrainBatch, Trainer};

impl Run {
    pub(super) fn close(&mut self) -> Result<()> {
        let since = Instant::now();
        let method = Arc::clone(&self.setup.method);
        method.close(self)?;
        for (key, value) in self.fit()? {
            self.note(key, json!(value))?;
        }
        self.count_fitted();
        self.remember()?;
        self.note("seconds", json!(since.elapsed().as_secs_f64()))
    }

    /// Fits the method's classifier, where it has one, to the steps so far. Returns numbers for the log.
    pub(super) fn fit(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let Run { setup, trainer, fitted, position, pulse, .. } = self;
        let Some(fitted) = fitted else { return Ok(Vec::new()) };
        fitted.fit_to(trainer, setup, position.step, &mut |_| {
            let _ = pulse.beat(false, |_| ());
        })
    }

    /// Counts what a classifier that is fitted has spent on the step: a pass of its samples through the tower.
    fn count_fitted(&mut self) {
        if self.setup.row().is_fitted() {
            let samples = self.setup.own_samples(self.position.step).len() as u64;
            self.position.samples += samples;
            self.position.macs += samples * self.setup.model.image_macs();
        }
    }

    /// Takes the step's samples into the memory; those that nobody keeps give up their moving averages.
    fn remember(&mut self) -> Result<()> {
        let Sees::StepAndMemory(keeps) = self.setup.row().sees else { return Ok(()) };
        let class = |sample: u32| self.setup.dataset.samples[sample as usize].class;
        let new: Vec<(u32, Label)> =
            self.setup.stream.steps[self.position.step].train.iter().map(|sample| (*sample, class(*sample))).collect();
        let released = match keeps {
            Keeps::Random => self.memory.update(&new),
            Keeps::Herded => {
                // Of the memory, what is ranked anew: other classes' samples keep their order.
                let returning: BTreeSet<Label> = new.iter().map(|(_, class)| *class).collect();
                let kept = returning.iter().flat_map(|class| self.memory.of_class(*class));
                let mut samples: Vec<u32> = kept.copied().chain(new.iter().map(|(sample, _)| *sample)).collect();
                samples.sort_unstable();
                samples.dedup();
                let trainer = &mut self.trainer;
                let embedded =
                    Embedded::of(&mut *trainer.device, &trainer.evaluation, &self.setup, &samples, &mut |_| ())?;
                self.position.macs += samples.len() as u64 * self.setup.model.image_macs();
                self.memory.update_by(&new, |samples, share| herded(&embedded, samples, share))
            }
        };
        self.trainer.objective.release(&mut *self.trainer.device, &released);
        Ok(())
    }
}

impl Closing for Run {
    fn trainer(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    fn step(&self) -> usize {
        self.position.step
    }

    fn classes(&self) -> (usize, usize) {
        self.setup.class_counts(self.position.step)
    }

    fn gather(&mut self) -> Result<()> {
        let order = self.order(Stage::Closing);
        let loader = self.open_loader(Stage::Closing, 0, order)?;
        let mut batches = 0;
        for batch in loader {
            let batch = batch?;
            let classes: Vec<ClassId> = batch.samples.iter().map(|sample| self.setup.class_id(*sample)).collect();
            self.trainer.gather(TrainBatch {
                pixels: &batch.pixels,
                slot: &batch.samples,
                classes: &classes,
                ..Default::default()
            });
            self.trainer.device.health()?;
            self.position.macs += batch.samples.len() as u64 * self.setup.model.image_macs();
            batches += 1;
        }
        self.trainer.gathered(batches);
        Ok(())
    }

    fn measure(&mut self, steps: usize) -> Result<Vec<Option<f64>>> {
        let sets: Vec<Vec<u32>> = (0..steps).map(|step| self.setup.held_back(step)).collect();
        let found = accuracies(&mut self.trainer, &self.setup, &sets, self.position.step)?;
        let images: usize = sets.iter().map(Vec::len).sum();
        self.position.macs += images as u64 * self.setup.model.image_macs();
        Ok(found)
    }

    fn note(&mut self, key: &str, value: f64) -> Result<()> {
        Run::note(self, key, json!(value))
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
