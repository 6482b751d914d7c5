//! `perennial compare`: a grid of methods, memory sizes and seeds.

use std::path::PathBuf;

use perennial::error::{Error, Result};
use perennial::experiment;
use perennial::method::Method;
use perennial::report::{Cell, summary_table};

use super::compute::on_device;
use super::progress::Progress;
use super::run::Common;

#[derive(clap::Args)]
pub struct Arguments {
    /// A bundled preset (see 'perennial list presets') or a TOML file
    preset: String,
    /// The methods, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "NAMES")]
    methods: Vec<String>,
    /// Memory sizes for the methods that replay [default: the preset's]
    #[arg(long, value_delimiter = ',', value_name = "SIZES")]
    memory: Vec<usize>,
    /// Seeds 0 to N - 1
    #[arg(long, default_value_t = 1, value_name = "N")]
    seeds: u64,
    /// Where the runs' directories lie; finished ones are not run again
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let place = arguments.common.compute.prepare()?;
    let mut grid = Vec::new();
    for name in &arguments.methods {
        let method = Method::find(name)?;
        let base = arguments.common.config(&arguments.preset, Some(name))?;
        let sizes = match (method.uses_memory(), arguments.memory.is_empty()) {
            (false, _) => vec![0],
            (true, true) => vec![base.memory.size],
            (true, false) => arguments.memory.clone(),
        };
        for size in sizes {
            for seed in 0..arguments.seeds {
                let mut config = base.clone();
                config.memory.size = size;
                config.seed = seed;
                config.validate()?;
                grid.push(config);
            }
        }
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for config in &grid {
        let label = format!("{}-m{}-s{}", config.method, config.memory.size, config.seed);
        let mut progress = Progress::new(Some(label.clone()));
        let out = arguments.out.join(&label);
        match on_device!(&place, D, at => experiment::run::<D>(at, config, &out, &mut progress)) {
            Ok(evaluation) => done.push(evaluation),
            Err(error) => {
                eprintln!("{label}: error: {error}");
                failed.push((label, error));
            }
        }
    }
    println!("{}", summary_table(&Cell::group(done)).to_text());
    match failed.as_slice() {
        [] => Ok(()),
        [(label, error)] => Err(error.clone().at(label)),
        [(label, error), ..] => Err(Error::run(format!("{} runs failed; the first, {label}: {error}", failed.len()))),
    }
}
