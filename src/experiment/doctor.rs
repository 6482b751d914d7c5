//! A look at a run's data and machine before a long run: what is missing, what is broken, what it needs and how long it takes.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;

use super::config::{Config, EvaluationTask, ModelConfig};
use super::fitted::check_room;
use super::presets::Expected;
use super::run::largest_batch;
use super::setup::{Setup, open_model};
use crate::data::broken::{Broken, UNREADABLE};
use crate::data::{self, Dataset, Split};
use crate::error::{Result, nearest};
use crate::files::check_writable;
use crate::method::{self, Classifies};
use crate::model::clip::Capacity;
use crate::ops::Backend;
use crate::rng::{rng, unit};
use crate::stream::{StreamKind, class_list};
use crate::train::{TrainBatch, Trainer, TrainerSpec};

/// Findings of one kind that are told one by one.
const SHOWN: usize = 10;

/// A timed step that takes this many seconds says enough.
const LONG_ENOUGH: f64 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    /// Worth knowing, and no hindrance.
    Note,
    /// To be put right before the run.
    Wrong,
}

/// One line of what was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub verdict: Verdict,
    pub text: String,
}

/// Looks at everything that a run of `config` in the directory `out` would use, and tells `say` as it goes. `config` is of one
/// method; `expected` is what its preset expects. Of the pictures, `decode` are decoded, spread over all; `None` decodes every one.
pub(crate) fn examine<B: Backend>(
    place: &B::Place,
    config: &Config,
    expected: &Expected,
    out: &Path,
    decode: Option<usize>,
    say: &mut dyn FnMut(Finding),
) {
    let mut doctor = Doctor { say, told: HashSet::new() };
    // What is tested below needs no weights.
    let mut config = config.clone();
    doctor.weights(&config);
    config.model.pretrained.clear();
    let Some(dataset) = doctor.open(&config) else { return };
    dataset.notes.iter().for_each(|note| doctor.note(format!("{}: {note}", dataset.name)));
    doctor.counts(&dataset, &config.data.domains, expected);
    doctor.classes(&dataset, expected);
    doctor.domains(&dataset, &config);
    doctor.broken(&dataset.broken(), config.data.max_broken, "left out of the data set");
    let decoded = doctor.pictures(&dataset, decode, config.data.max_broken);
    drop(dataset);
    match Setup::open(&config) {
        Err(error) => doctor.wrong(format!("a run would refuse this: {error}")),
        Ok(setup) => {
            doctor.steps(&setup);
            doctor.disk(&setup, out);
            match check_room(&setup) {
                Ok(Some(needed)) => {
                    let name = setup.row().name;
                    doctor.good(format!(
                        "there is room for the classifier of {name}, up to {}",
                        gigabytes(needed as u64)
                    ));
                }
                Ok(None) => {}
                Err(error) => doctor.wrong(error.to_string()),
            }
            if doctor.memory::<B>(place, &setup) {
                doctor.time::<B>(place, &setup, decoded);
            }
        }
    }
}

struct Doctor<'a> {
    say: &'a mut dyn FnMut(Finding),
    /// The notes so far: what the data set and the run both have to tell is told once.
    told: HashSet<String>,
}

impl Doctor<'_> {
    fn good(&mut self, text: impl Into<String>) {
        (self.say)(Finding { verdict: Verdict::Good, text: text.into() });
    }

    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.told.insert(text.clone()) {
            (self.say)(Finding { verdict: Verdict::Note, text });
        }
    }

    fn wrong(&mut self, text: impl Into<String>) {
        (self.say)(Finding { verdict: Verdict::Wrong, text: text.into() });
    }

    /// Tells the first of `texts` as wrong, and how many more there are.
    fn all_wrong(&mut self, texts: Vec<String>, what: &str) {
        let more = texts.len().saturating_sub(SHOWN);
        texts.into_iter().take(SHOWN).for_each(|text| self.wrong(text));
        if more > 0 {
            self.wrong(format!("{} more {what}", grouped(more)));
        }
    }

    fn weights(&mut self, config: &Config) {
        let ModelConfig { name, pretrained, .. } = &config.model;
        match open_model(config) {
            Err(error) => self.wrong(error.to_string()),
            Ok(_) if pretrained.is_empty() => self.note(format!("{name} starts from random values")),
            Ok((.., notes)) => {
                self.good(format!("{pretrained} holds weights of the model {name}"));
                notes.into_iter().for_each(|note| self.note(note));
            }
        }
    }

    /// The data set. Where the readable names do not fit its classes, it is opened without them, to be told what else there is.
    fn open(&mut self, config: &Config) -> Option<Dataset> {
        let mut source = config.data.source();
        let opened = data::open(&source).or_else(|error| {
            self.wrong(error.to_string());
            if source.class_names.is_empty() {
                return Err(error);
            }
            source.class_names.clear();
            data::open(&source)
        });
        opened.ok()
    }

    /// How many samples and classes there are, and of the samples how many in the domains `chosen`.
    fn counts(&mut self, dataset: &Dataset, chosen: &[String], expected: &Expected) {
        let of = |split| dataset.samples.iter().filter(|sample| sample.split == split).count();
        let within = |split| {
            let samples = dataset.samples.iter().filter(|sample| sample.split == split);
            let count = samples.filter(|sample| chosen.contains(&dataset.domains[sample.domain as usize])).count();
            if chosen.is_empty() { String::new() } else { format!(", {} of them in data.domains", grouped(count)) }
        };
        let classes = if dataset.has_classes() { dataset.classes.len() } else { 0 };
        let counts = [
            ("training samples", of(Split::Train), expected.train, within(Split::Train)),
            ("test samples", of(Split::Test), expected.test, within(Split::Test)),
            ("classes", classes, expected.classes, String::new()),
        ];
        for (what, found, expected, within) in counts {
            let text = format!("{} {what}{within}", grouped(found));
            match expected {
                0 => self.note(text),
                _ if found == expected => self.good(text),
                _ if found < expected => {
                    let missing = grouped(expected - found);
                    self.wrong(format!("{text}, expected {}: {missing} are missing", grouped(expected)));
                }
                _ => {
                    let more = grouped(found - expected);
                    self.wrong(format!("{text}, expected {}: there are {more} too many", grouped(expected)));
                }
            }
        }
    }

    /// Classes that should be there and are not, and the other way round.
    fn classes(&mut self, dataset: &Dataset, expected: &Expected) {
        if expected.class_list.is_empty() {
            return;
        }
        let list = match class_list(&expected.class_list) {
            Ok(list) => list,
            Err(error) => return self.wrong(error.at("expected.class_list").to_string()),
        };
        let listed: Vec<&str> = list.lines().map(str::trim).filter(|name| !name.is_empty()).collect();
        let known: HashSet<&str> = listed.iter().copied().collect();
        let there: HashSet<&str> = dataset.class_keys.iter().chain(&dataset.classes).map(String::as_str).collect();
        let missing: Vec<&str> = listed.into_iter().filter(|name| !there.contains(name)).collect();
        let classes = dataset.class_keys.iter().zip(&dataset.classes);
        let strange = classes.filter(|(key, name)| !known.contains(key.as_str()) && !known.contains(name.as_str()));
        let strange: Vec<&str> = strange.map(|(key, _)| key.as_str()).collect();
        if missing.is_empty() && strange.is_empty() {
            return self.good(format!("every class of the list '{}' is there, and no other", expected.class_list));
        }
        let told = strange.iter().map(|key| {
            let hint = nearest(key, missing.iter().copied()).map(|near| format!("; did you mean '{near}'?"));
            format!("the class '{key}' is not on the list '{}'{}", expected.class_list, hint.unwrap_or_default())
        });
        self.all_wrong(told.collect(), "classes are not on the list");
        let told = missing.iter().map(|name| format!("the class '{name}' is missing"));
        self.all_wrong(told.collect(), "classes are missing");
    }

    /// Domains that the settings name and the data do not have; in a stream of domains, classes that one of them has no samples of.
    fn domains(&mut self, dataset: &Dataset, config: &Config) {
        let names = config.stream.domain_order.iter().chain(&config.data.domains);
        let known = || dataset.domains.iter().map(String::as_str);
        let missing = names.filter(|name| !dataset.domains.contains(name)).map(|name| {
            let hint = nearest(name, known()).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            format!("the domain '{name}' is missing{hint}")
        });
        self.all_wrong(missing.collect(), "domains are missing");
        if config.stream.kind != StreamKind::DomainIncremental {
            return;
        }
        let splits = [(Split::Train, "training"), (Split::Test, "test")];
        let chosen = |name: &String| config.data.domains.is_empty() || config.data.domains.contains(name);
        for (domain, name) in dataset.domains.iter().enumerate().filter(|(_, name)| chosen(name)) {
            for (split, what) in splits {
                let mut there = vec![false; dataset.classes.len()];
                let samples = dataset.samples.iter();
                let mine = samples.filter(|sample| sample.domain as usize == domain && sample.split == split);
                mine.for_each(|sample| there[sample.class.index()] = true);
                let empty: Vec<&str> = (there.iter().zip(&dataset.classes))
                    .filter(|(there, _)| !**there)
                    .map(|(_, class)| class.as_str())
                    .collect();
                // A data set without a split has nothing to miss.
                if !empty.is_empty() && empty.len() < there.len() {
                    let shown = empty[..empty.len().min(SHOWN)].join(", ");
                    let more = if empty.len() > SHOWN { ", ..." } else { "" };
                    let count = empty.len();
                    self.note(format!("{name}: no {what} samples of {count} of the classes: {shown}{more}"));
                }
            }
        }
    }

    fn broken(&mut self, broken: &Broken, most: usize, what: &str) {
        let told = broken.iter().map(|(reason, kind)| {
            let more = if kind.count > kind.first.len() { "; ..." } else { "" };
            format!("{} {what}, {reason}: {}{more}", grouped(kind.count), kind.first.join("; "))
        });
        for text in told {
            if broken.count() > most {
                self.wrong(format!("{text} (data.max_broken allows {most})"));
            } else {
                self.note(text);
            }
        }
    }

    /// Decodes some pictures. Returns how many a second; none where none was asked for.
    fn pictures(&mut self, dataset: &Dataset, decode: Option<usize>, most: usize) -> Option<f64> {
        let samples = dataset.samples.len();
        let count = decode.unwrap_or(samples).min(samples);
        if count == 0 {
            return None;
        }
        let start = Instant::now();
        // The last of each of `count` equal parts: the end of the data is among them.
        let chosen: Vec<usize> = (1..=count).map(|part| part * samples / count - 1).collect();
        let failed: Vec<_> = chosen.par_iter().filter_map(|sample| dataset.image(*sample).err()).collect();
        let speed = count as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let threads = rayon::current_num_threads();
        let of = if count == samples { String::new() } else { format!(" of {}", grouped(samples)) };
        let text = format!("{}{of} pictures decoded, {speed:.0} a second with {threads} threads", grouped(count));
        if failed.is_empty() {
            self.good(text);
            return Some(speed);
        }
        self.note(text);
        let mut broken = Broken::default();
        failed.iter().for_each(|error| broken.add(error.reason().unwrap_or(UNREADABLE), error.to_string()));
        self.broken(&broken, most, "of these pictures cannot be used");
        Some(speed)
    }

    fn steps(&mut self, setup: &Setup) {
        let steps = &setup.stream.steps;
        if let [first, .., last] = steps.as_slice() {
            let named = |step: &crate::stream::Step| {
                format!("{} with {} training and {} test samples", step.name, step.train.len(), step.test.len())
            };
            self.good(format!("{} steps, from {} to {}", steps.len(), named(first), named(last)));
        }
        setup.notes.iter().for_each(|note| self.note(note.clone()));
    }

    fn disk(&mut self, setup: &Setup, out: &Path) {
        let parameters = setup.trainer_spec().parameters(&*setup.method).count() as u64;
        let steps = setup.stream.steps.len() as u64;
        // A checkpoint has the parameters in f32; the state has them with two moments, and is written beside the last.
        let needed = 4 * parameters * steps + 2 * 12 * parameters;
        let Some(folder) = out.ancestors().map(existing).find(|folder| folder.exists()) else { return };
        // By the name of a file that does not exist.
        if let Err(error) = check_writable(&folder.join("perennial-doctor")) {
            return self
                .wrong(format!("the run's directory cannot be {}: {error}; choose another --out", out.display()));
        }
        let what = format!("the run's directory needs about {}, {steps} checkpoints and the state", gigabytes(needed));
        match fs4::available_space(folder) {
            Ok(free) if free >= needed => {
                self.good(format!("{what}; {} are free in {}", gigabytes(free), folder.display()));
            }
            Ok(free) => self.wrong(format!(
                "{what}, and {} are free in {}: choose another --out",
                gigabytes(free),
                folder.display()
            )),
            Err(cause) => {
                self.note(format!("{what}; how much is free in {} cannot be told: {cause}", folder.display()))
            }
        }
    }

    /// Whether the run fits the device.
    fn memory<B: Backend>(&mut self, place: &B::Place, setup: &Setup) -> bool {
        let (plan, _) = setup.plan::<B>(&setup.trainer_spec());
        match B::with_plan(place, &plan) {
            Ok(device) => {
                let batch = setup.config.train.batch;
                let needed = gigabytes(plan.bytes() as u64);
                self.good(format!("{} has room for the run's {needed} with a batch of {batch}", device.name()));
                true
            }
            Err(error) => {
                let fitting = largest_batch::<B>(place, setup, plan.bytes());
                let hint = fitting.map(|batch| format!("; train.batch {batch} would fit")).unwrap_or_default();
                self.wrong(format!("{error}{hint}"));
                false
            }
        }
    }

    /// How long a run takes by a timed step, and by the pictures `decoded` a second.
    fn time<B: Backend>(&mut self, place: &B::Place, setup: &Setup, decoded: Option<f64>) {
        let steps = setup.stream.steps.len();
        let trained: usize = (0..steps).map(|step| setup.step_budget(step)).sum();
        let tests = setup.test_samples().count();
        let timed = match pace::<B>(place, setup) {
            Err(error) => return self.wrong(format!("a training step failed: {error}")),
            Ok(timed) => timed,
        };
        let computing = run_macs(setup, trained, timed.text_macs) / timed.macs_per_second;
        let decoding = decoded.map_or(0.0, |speed| (trained + steps * tests) as f64 / speed);
        let pictures = match decoded {
            Some(_) => format!("decoding, which goes on beside it, takes {}", duration(decoding)),
            None => "without the loading of pictures".to_string(),
        };
        self.note(format!(
            "about {} on {}: {} samples of training and {steps} x {} tests; an estimate by a step of the clip loss with {} samples, \
             {:.1} samples/s; {pictures}",
            duration(computing.max(decoding)),
            timed.device,
            grouped(trained),
            grouped(tests),
            timed.batch,
            timed.batch as f64 / timed.seconds,
        ));
    }
}

/// Multiply-accumulates of a run that trains on `trained` samples, a backward pass counted as two forward passes. `text` is what the
/// texts of a sample cost in a forward pass: samples share prompts.
fn run_macs(setup: &Setup, trained: usize, text: f64) -> f64 {
    let (model, method) = (&setup.model, setup.row());
    let (steps, views) = (setup.stream.steps.len() as f64, method.views as f64);
    let (image, text) = (model.image_macs() as f64, if method.reads_texts() { text } else { 0.0 });
    let frozen = match setup.method.frozen(&setup.trainer_spec()).0 as f64 {
        // One more at every step.
        last if method.needs_new_classes => last / 2.0,
        all => all,
    };
    let sample = (views * image + text) * (3.0 + frozen);
    let tokens_macs = |tokens: &Vec<u32>| model.text_macs(tokens.len()) as f64;
    let prompts: f64 = setup.class_prompts.iter().map(tokens_macs).sum();
    let captions = || setup.test_samples().map(|test| &setup.captions[setup.caption_of_sample[test as usize] as usize]);
    let evaluation = &setup.config.evaluation;
    let texts = match (evaluation.task, method.classifies) {
        (EvaluationTask::Retrieval, _) if !evaluation.also_classify => captions().map(tokens_macs).sum(),
        (EvaluationTask::Retrieval, _) => captions().map(tokens_macs).sum::<f64>() + prompts,
        (EvaluationTask::Classification, Classifies::ByText) => prompts,
        (EvaluationTask::Classification, _) => 0.0,
    };
    if method.is_fitted() {
        // Every picture once.
        let training: usize = setup.stream.steps.iter().map(|step| step.train.len()).sum();
        return (training + setup.test_samples().count()) as f64 * image + prompts;
    }
    let extractors = if method.needs_new_classes { 1.0 + frozen } else { 1.0 };
    trained as f64 * sample + steps * (setup.test_samples().count() as f64 * image * extractors + texts)
}

/// A timed training step of the clip loss.
struct Timed {
    device: String,
    batch: usize,
    seconds: f64,
    /// A backward pass counted as two forward passes.
    macs_per_second: f64,
    /// Of the texts of a sample, in a forward pass.
    text_macs: f64,
}

/// Times a training step of the preset's model. The batch doubles until a step takes long enough to say something, or the run's own is
/// reached.
fn pace<B: Backend>(place: &B::Place, setup: &Setup) -> Result<Timed> {
    let samples: Vec<u32> = (0..setup.dataset.samples.len().min(setup.config.train.batch) as u32).collect();
    let values = samples.len() * setup.model.vision_cfg.image_size.pow(2) * 3;
    let mut generator = rng(0, "pixels", &[]);
    let pixels: Vec<u8> = (0..values).map(|_| (unit(&mut generator) * 256.0) as u8).collect();
    let mut batch = samples.len().min(2);
    loop {
        let numbers: Vec<u32> = samples[..batch].iter().map(|sample| setup.text_of(*sample, 0)).collect();
        let texts = setup.texts.batch(&numbers);
        let spec =
            TrainerSpec { capacity: Capacity { images: batch, texts: texts.tokens.len() }, ..setup.trainer_spec() };
        let clip_loss = method::find("sequential")?.open_default();
        let (plan, build) = Trainer::plan::<B>(&spec, &*clip_loss, Capacity { images: 1, texts: 1 });
        let mut trainer = build(B::with_plan(place, &plan)?);
        trainer.clip.load(&mut *trainer.device, &setup.initial);
        let batch_of = TrainBatch {
            pixels: &pixels[..values / samples.len() * batch],
            texts: Some(&texts),
            slot: &samples[..batch],
            ..Default::default()
        };
        // The first warms up.
        trainer.iterate(batch_of, 0.0)?;
        let start = Instant::now();
        trainer.iterate(batch_of, 0.0)?;
        let seconds = start.elapsed().as_secs_f64().max(1e-9);
        if seconds >= LONG_ENOUGH || batch == samples.len() {
            let text_macs = texts.tokens.iter().map(|text| setup.model.text_macs(text.len())).sum::<u64>() as f64;
            let forward = batch as f64 * setup.model.image_macs() as f64 + text_macs;
            return Ok(Timed {
                device: trainer.device.name(),
                batch,
                seconds,
                macs_per_second: 3.0 * forward / seconds,
                text_macs: text_macs / batch as f64,
            });
        }
        batch = (2 * batch).min(samples.len());
    }
}

/// The folder itself, or where a path without one lies.
fn existing(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// `1,281,167`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

fn gigabytes(bytes: u64) -> String {
    match bytes as f64 / 1e9 {
        small if small < 0.1 => format!("{:.1} MB", bytes as f64 / 1e6),
        large => format!("{large:.1} GB"),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        short if short < 120.0 => format!("{short:.0} s"),
        middle if middle < 7200.0 => format!("{:.0} min", middle / 60.0),
        long if long < 48.0 * 3600.0 => format!("{:.1} h", long / 3600.0),
        days => format!("{:.1} days", days / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1000, 1_281_167].map(grouped), ["0", "999", "1,000", "1,281,167"]);
        assert_eq!([2_400_000, 599_000_000, 1 << 40].map(gigabytes), ["2.4 MB", "0.6 GB", "1099.5 GB"]);
        assert_eq!([5.2, 600.0, 9000.0, 1e6].map(duration), ["5 s", "10 min", "2.5 h", "11.6 days"].map(String::from));
    }
}
