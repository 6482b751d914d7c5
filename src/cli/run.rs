//! `perennial run`: one method through one stream.

use std::path::{Path, PathBuf};

use super::compute::Compute;
use super::output::{self, put};
use super::progress::Progress;
use crate::data::broken::Broken;
use crate::error::Result;
use crate::experiment::{Access, Config, Evaluation, EvaluationTask, Observer};
use crate::interrupt;
#[cfg(feature = "tensorboard")]
use crate::report::TensorBoard;
use crate::report::{Cell, matrix_table, static_table, summary_table, transfer_table};
use crate::run_on;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A bundled preset (see 'perennial list presets') or a TOML file
    pub preset: String,
    /// The method (see 'perennial list methods')
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// Samples kept from earlier steps in all
    #[arg(long, value_name = "N")]
    pub memory: Option<usize>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The run's directory [default: runs/PRESET-METHOD-mMEMORY-sSEED]; the same command goes on where it stopped
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Throw away what an earlier run left in the run's directory, and begin anew
    #[arg(long)]
    pub start_over: bool,
    /// Write where the run is to this file as it goes, in Prometheus' text format, for a collector of text files
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
    /// Also write events for TensorBoard, to RUN_DIR/tensorboard
    #[cfg(feature = "tensorboard")]
    #[arg(long)]
    pub tensorboard: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What every command that trains takes.
#[derive(clap::Args)]
pub(crate) struct Common {
    /// Folder of the data set [default: the one inside the program]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub compute: Compute,
    /// Do without a lock on the run's directory, where its file system has none: it is then yours to see that no second run is at work
    #[arg(long)]
    pub no_lock: bool,
    /// Change a setting, as --set train.epochs=3; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Print one JSON document in place of tables (docs/output.md)
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// The preset's settings for a method, or for the preset's own, with what the command line changes.
    pub(crate) fn config(&self, preset: &str, method: Option<&str>) -> Result<Config> {
        let mut preset = Config::find(preset)?;
        if let Some(method) = method {
            preset.method = method.to_string();
        }
        let mut config = preset.for_method(preset.method()?.row().name)?;
        if let Some(data) = &self.data {
            config.data.folder = data.display().to_string();
        }
        for setting in &self.settings {
            config.set(setting)?;
        }
        Ok(config)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let place = arguments.common.compute.prepare()?;
    interrupt::listen()?;
    let mut config = arguments.common.config(&arguments.preset, arguments.method.as_deref())?;
    if let Some(memory) = arguments.memory {
        config.memory.size = memory;
    }
    if let Some(seed) = arguments.seed {
        config.seed = seed;
    }
    if !config.validate()?.row().uses_memory() {
        config.memory.size = 0;
    }
    let out = arguments.out.clone().unwrap_or_else(|| default_out(&arguments.preset, &config));
    let access = Access { lock: !arguments.common.no_lock, start_over: arguments.start_over };
    let mut progress = Progress::new(None).with_metrics_file(arguments.metrics_file.as_deref())?;
    let go = |observer: &mut dyn Observer| run_on(&place, &config, &out, access, observer);
    #[cfg(feature = "tensorboard")]
    let evaluation = if arguments.tensorboard {
        let mut events = TensorBoard::new(&out, &mut progress);
        let evaluation = go(&mut events)?;
        events.finish(&evaluation)?;
        evaluation
    } else {
        go(&mut progress)?
    };
    #[cfg(not(feature = "tensorboard"))]
    let evaluation = go(&mut progress)?;
    if arguments.common.json {
        let mut found = serde_json::to_value(&evaluation).expect("an evaluation is plain values");
        found["directory"] = out.display().to_string().into();
        output::document("run", found);
        return Ok(());
    }
    print(&evaluation, &out)
}

/// `runs/emoji-cil-gdro-m500-s0`.
pub(crate) fn default_out(preset: &str, config: &Config) -> PathBuf {
    let preset = Path::new(preset).file_stem().unwrap_or_default().to_string_lossy();
    PathBuf::from(format!("runs/{preset}-{}-m{}-s{}", config.method, config.memory.size, config.seed))
}

fn print(evaluation: &Evaluation, out: &Path) -> Result<()> {
    if evaluation.steps.len() > 1 {
        let measure = match evaluation.task {
            EvaluationTask::Classification => "accuracy",
            EvaluationTask::Retrieval => "mean recall@1",
        };
        put!("{measure} on each task after each step, per cent:\n\n{}", matrix_table(evaluation).to_text());
    }
    if let Some(table) = transfer_table(evaluation)? {
        put!("other measures on the same tests, per cent:\n\n{}", table.to_text());
    }
    if let Some(table) = static_table(evaluation) {
        put!("tests beside the stream, per cent:\n\n{}", table.to_text());
    }
    put!("{}", summary_table(&Cell::group([evaluation.clone()])).to_text());
    print_broken(&evaluation.broken);
    put!("run directory: {}", out.display());
    Ok(())
}

/// Says which samples were left out, and why; nothing where none was.
pub(crate) fn print_broken(broken: &Broken) {
    if broken.is_empty() {
        return;
    }
    put!("broken samples left out: {}", broken.summary());
    for (reason, kind) in broken.iter() {
        kind.first.iter().for_each(|what| put!("  {reason}: {what}"));
        let more = kind.count - kind.first.len();
        if more > 0 {
            put!("  {reason}: and {more} more");
        }
    }
    put!("");
}
