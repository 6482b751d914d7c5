//! `perennial pack`: a data set's pictures as pixels of one size in one file, for training faster than pictures can be decoded.

use std::path::PathBuf;

use super::embed::Counter;
use super::output::{put, say};
use crate::data;
use crate::data::formats::packed::{Edges, Packing, in_words};
use crate::error::{Error, Result};
use crate::experiment::Config;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A bundled preset or a TOML file, whose data is packed
    preset: Option<String>,
    /// A format of data: emoji, folder, cifar10, cifar100, domainnet, csv, webdataset [default: the preset's]
    #[arg(long, value_name = "NAME")]
    data: Option<String>,
    /// Where its files are [default: the preset's, or the data set inside the program]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// A setting of the data as a run has it, such as --set data.max_broken=10; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The image size of the models to train, in pixels
    #[arg(long, default_value_t = 224, value_name = "N")]
    size: usize,
    /// The edge of stored training pictures [default: 8/7 of the size, so that random crops need not grow]
    #[arg(long, value_name = "N")]
    train_size: Option<usize>,
    /// The file to write; a run takes it as --set data.name=packed --set data.folder=FILE
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.preset.is_none() && arguments.data.is_none() {
        return Err(Error::input("what is to be packed? Give a preset, or --data FORMAT"));
    }
    let mut config = arguments.preset.as_deref().map_or_else(|| Ok(Config::default()), Config::find)?;
    if let Some(name) = &arguments.data {
        config.data.name = name.clone();
    }
    if let Some(folder) = &arguments.folder {
        config.data.folder = folder.display().to_string();
    }
    for setting in &arguments.settings {
        if !setting.trim_start().starts_with("data.") {
            return Err(Error::input(format!("--set {setting}: pack has the settings data.* alone")));
        }
        config.set(setting)?;
    }
    let dataset = data::open(&config.data.source())?;
    dataset.notes.iter().for_each(|note| say!("note: {}: {note}", dataset.name));
    dataset.broken().check(&dataset.name, config.data.max_broken)?;
    let edges = Edges::for_models_of(arguments.size);
    let edges = Edges { train: arguments.train_size.unwrap_or(edges.train), ..edges };
    let plan = Packing::of(&dataset, edges)?;
    let out = arguments.out.display();
    say!(
        "{out}: {} pictures, {1} x {1} for training, {2} x {2} for tests, {3} in all",
        plan.pictures(),
        edges.train,
        edges.test,
        in_words(plan.bytes)
    );
    let mut counter = Counter::new("pictures", plan.pictures());
    let samples = plan.write(&arguments.out, config.data.max_broken, &mut |done| counter.set(done))?;
    let broken = dataset.broken();
    for (reason, kind) in broken.iter() {
        say!("left out: {} {reason}, first {}", kind.count, kind.first.join("; "));
    }
    put!("{out}: {samples} samples");
    Ok(())
}
