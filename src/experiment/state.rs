//! What a run must remember to go on exactly where it stopped: `checkpoints/state.safetensors`.

use std::path::Path;

use super::directory::{FORMAT, RunDirectory};
use crate::data::Label;
use crate::error::{Error, Result};
use crate::memory::{Memory, MemoryState};
use crate::model::checkpoint::TensorFile;
use crate::ops::Stats;
use crate::train::{OptimizerState, Trainer};

/// Where a run stands. All randomness follows from the seed and these two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The step in training, from 0; the number of steps once all are done.
    pub step: usize,
    /// The stage of it in training, from 0, of [`crate::method::Method::stages`], and iterations of that that are done.
    pub stage: usize,
    pub iteration: usize,
    /// Samples trained on, and multiply-accumulates, since the run began.
    pub samples: u64,
    pub macs: u64,
}

/// Writes everything at once, and keeps the state before. `broken`: the samples found broken so far, ascending.
pub(crate) fn save(
    directory: &RunDirectory,
    position: Position,
    trainer: &Trainer,
    memory: &Memory,
    broken: Vec<u32>,
) -> Result<()> {
    let mut file = TensorFile::new();
    let mut floats = |name: &str, values: Vec<f32>| file.insert_f32(name, &[values.len()], values);
    let optimizer = trainer.optimizer.state(&*trainer.device);
    floats("parameters", trainer.parameters());
    floats("first_moment", optimizer.first_moment);
    floats("second_moment", optimizer.second_moment);
    for (name, span) in kept(trainer) {
        floats(name, trainer.device.read_vec(span));
    }
    for (number, frozen) in trainer.frozen[..trainer.frozen_in_use].iter().enumerate() {
        floats(&frozen_name(number), trainer.device.read_vec(frozen.weights.storage));
    }
    trainer.device.health()?;
    let MemoryState { classes, counts, indices } = memory.state();
    let mut whole = |name: &str, values: Vec<u32>| file.insert_u32(name, &[values.len()], values);
    whole("memory.classes", Label::numbers(&classes).to_vec());
    whole("memory.counts", counts);
    whole("memory.indices", indices);
    whole("broken", broken);
    let Position { step, stage, iteration, samples, macs } = position;
    let position = vec![step as u64, iteration as u64, samples, macs, optimizer.updates, stage as u64];
    file.insert_u64("position", &[6], position);
    file.insert_metadata("format", FORMAT.to_string());
    file.insert_metadata("perennial", env!("CARGO_PKG_VERSION"));
    file.insert_metadata("device", trainer.device.name());
    directory.replace_state(|beside| file.save(beside))
}

/// What the method keeps beside parameters and moments.
fn kept(trainer: &Trainer) -> Vec<(&'static str, Stats)> {
    let start = (!trainer.start.is_empty()).then_some(("start", trainer.start));
    start.into_iter().chain(trainer.objective.persistent()).collect()
}

fn frozen_name(number: usize) -> String {
    format!("frozen.{number}")
}

/// What a saved state held beside what went back into the trainer.
pub(crate) struct Restored {
    pub position: Position,
    pub memory: Memory,
    /// The samples that were found broken.
    pub broken: Vec<u32>,
    /// Warnings.
    pub notes: Vec<String>,
}

/// Puts a saved state back into a trainer planned alike, of a run on `samples` samples.
pub(crate) fn restore(
    path: &Path,
    trainer: &mut Trainer,
    samples: usize,
    memory_size: usize,
    seed: u64,
) -> Result<Restored> {
    let file = TensorFile::load(path)?;
    let notes = check_origin(&file, path, &trainer.device.name())?;
    let kept = kept(trainer);
    let Trainer { device, clip, optimizer, frozen, frozen_in_use, .. } = trainer;
    let arena = clip.weights.master.len();
    let trainable = clip.parameters.trainable();
    // Earlier versions kept moments and the Fisher information of the whole arena.
    let floats = |name: &str, len: usize| match file.f32(name, &[arena]) {
        Ok(values) if len == trainable.len() => Ok(trainable.select(values)),
        _ => file.f32(name, &[len]).map(<[f32]>::to_vec),
    };
    let position = file.u64("position", &[6])?;
    clip.load(&mut **device, file.f32("parameters", &[arena])?);
    let moments = OptimizerState {
        first_moment: floats("first_moment", trainable.len())?,
        second_moment: floats("second_moment", trainable.len())?,
        updates: position[4],
    };
    optimizer.restore(&mut **device, &moments);
    for (name, span) in kept {
        device.write(span, &floats(name, span.len())?);
    }
    *frozen_in_use = 0;
    for (number, model) in frozen.iter().enumerate() {
        let name = frozen_name(number);
        if file.shape(&name).is_err() {
            break;
        }
        device.write(model.weights.storage, &floats(&name, model.weights.storage.len())?);
        *frozen_in_use = number + 1;
    }
    let whole = |name: &str| file.u32(name, file.shape(name)?).map(<[u32]>::to_vec);
    let memory = MemoryState {
        classes: whole("memory.classes")?.into_iter().map(Label).collect(),
        counts: whole("memory.counts")?,
        indices: whole("memory.indices")?,
    };
    let position = Position {
        step: position[0] as usize,
        stage: position[5] as usize,
        iteration: position[1] as usize,
        samples: position[2],
        macs: position[3],
    };
    // States of earlier versions have none.
    let broken = whole("broken").unwrap_or_default();
    if let Some(sample) = memory.indices.iter().chain(&broken).find(|sample| **sample as usize >= samples) {
        return Err(Error::input(format!(
            "{}: it is damaged: it names sample {sample}, and there are {samples}; remove it to begin again",
            path.display()
        )));
    }
    Ok(Restored { position, memory: Memory::restore(memory_size, seed, &memory)?, broken, notes })
}

/// Fails where the state is of a newer form; tells where another version of the program, or another device, goes on with it.
fn check_origin(file: &TensorFile, path: &Path, device: &str) -> Result<Vec<String>> {
    let has = |key: &str| file.metadata(key).ok();
    // A state of earlier versions says nothing of itself.
    if let Some(format) = has("format").filter(|format| format.parse().map_or(true, |format: u64| format > FORMAT)) {
        return Err(Error::input(format!(
            "{}: it is of format {format}, of a newer program; this one knows {FORMAT}",
            path.display()
        )));
    }
    let origin = [("perennial", "version", env!("CARGO_PKG_VERSION")), ("device", "device", device)];
    let other = |(key, what, now): (&str, &str, &str)| {
        let before = file.metadata(key).ok().filter(|before| *before != now)?;
        Some(format!("saved by {what} {before}, gone on with by {now}: results may differ in their last digits"))
    };
    Ok(origin.into_iter().filter_map(other).collect())
}
