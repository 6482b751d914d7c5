//! Loading: pictures a second, from files or a packed file to a model's pixels, and the memory that it takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::output::put;
use crate::data::loader::{Augment, BatchRequest, Loader, LoaderOptions};
use crate::data::{self, Source, Split};
use crate::error::{Error, Result};
use crate::rng::{below, rng};

#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Arguments {
    /// Loader: a format of data
    #[arg(long, default_value = "folder", value_name = "NAME")]
    data: String,
    /// Loader: where its files are
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Loader: pixels of a model's image edge
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u16).range(1..))]
    image_size: u16,
    /// Loader: passes over the data
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Loader: threads that decode and crop
    #[arg(long, default_value_t = 2)]
    loader_threads: usize,
}

pub(crate) fn bench(arguments: &Arguments, batch: usize) -> Result<Value> {
    let dataset = Arc::new(data::open(&Source::new(&arguments.data, arguments.folder.as_deref()))?);
    let size = usize::from(arguments.image_size);
    put!("{dataset:?}; {} threads, {size} x {size} pixels, batch {batch}", arguments.loader_threads);
    put!("{:<12} {:>6} {:>12} {:>14}", "transform", "epoch", "samples/s", "own memory, MB");
    let mut report = json!({"data": arguments.data, "loader_threads": arguments.loader_threads});
    for (name, split) in [("evaluation", Split::Test), ("training", Split::Train)] {
        let samples: Vec<u32> =
            (0..).zip(&dataset.samples).filter(|(_, sample)| sample.split == split).map(|(place, _)| place).collect();
        if samples.is_empty() {
            continue;
        }
        let (mut rates, mut memory) = (Vec::new(), Vec::new());
        for epoch in 0..u64::from(arguments.epochs) {
            let augment = Augment { seed: 0, place: [0, epoch], scale: (0.9, 1.0), views: 1 };
            let requests: Vec<BatchRequest> = shuffled(&samples, epoch)
                .chunks(batch)
                .map(|samples| BatchRequest {
                    samples: samples.to_vec(),
                    augment: (split == Split::Train).then_some(augment),
                })
                .collect();
            let options = LoaderOptions { threads: arguments.loader_threads, prefetch: 4, max_broken: 0 };
            let start = Instant::now();
            let mut loader = Loader::new(Arc::clone(&dataset), requests.into_iter(), size, options)?;
            let mut loaded = 0;
            while let Some(batch) = loader.next() {
                let batch = batch?;
                loaded += batch.samples.len();
                loader.recycle(batch);
            }
            if loaded != samples.len() {
                return Err(Error::run(format!("the loader gave {loaded} samples of {}", samples.len())));
            }
            let rate = loaded as f64 / start.elapsed().as_secs_f64();
            let megabytes = own_memory().map(|bytes| bytes as f64 / 1e6);
            let shown = megabytes.map_or("?".to_string(), |megabytes| format!("{megabytes:.1}"));
            put!("{name:<12} {:>6} {rate:>12.1} {shown:>14}", epoch + 1);
            rates.push(rate);
            memory.push(megabytes);
        }
        report[name] = json!({"samples_per_second": rates, "own_memory_mb": memory});
    }
    Ok(report)
}

/// The samples in the order of an epoch.
fn shuffled(samples: &[u32], epoch: u64) -> Vec<u32> {
    let mut samples = samples.to_vec();
    let mut rng = rng(0, "bench", &[epoch]);
    for last in (1..samples.len()).rev() {
        samples.swap(last, below(&mut rng, last as u64 + 1) as usize);
    }
    samples
}

/// Bytes of memory that belong to this process alone; pages of mapped files are the system's to take back. `None` where the system
/// does not say.
fn own_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?)
}
