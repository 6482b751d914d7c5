//! `perennial compare`: a grid of methods, memory sizes and seeds.

use std::path::PathBuf;

use perennial::error::{Error, Result};
use perennial::experiment::{self, Config, Evaluation, Pace, RunDirectory};
use perennial::method::{METHODS, Method};
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
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let grid = grid(arguments)?;
    for config in &grid {
        let label = label(config);
        let out = arguments.out.join(&label);
        let finished = match RunDirectory::finished(&out, config) {
            Ok(None) => {
                let mut progress = Progress::new(Some(label.clone()));
                on_device!(&place, D, at => experiment::run::<D>(at, config, &out, &mut progress))
            }
            Ok(Some(evaluation)) => {
                eprintln!("{label}: finished earlier");
                Ok(evaluation)
            }
            Err(error) => Err(error),
        };
        match finished.and_then(|evaluation| Ok((evaluation, RunDirectory::read_pace(&out)?))) {
            Ok(run) => done.push(run),
            Err(error) => {
                eprintln!("{label}: error: {error}");
                failed.push((config, error));
            }
        }
    }
    print(&done, &failed);
    match failed.as_slice() {
        [] => Ok(()),
        [(config, error)] => Err(error.clone().at(label(config))),
        [(config, error), ..] => {
            Err(Error::run(format!("{} runs failed; the first, {}: {error}", failed.len(), label(config))))
        }
    }
}

/// `gdro-m500-s0`.
fn label(config: &Config) -> String {
    format!("{}-m{}-s{}", config.method, config.memory.size, config.seed)
}

/// The settings of every run, each once.
fn grid(arguments: &Arguments) -> Result<Vec<Config>> {
    let mut grid: Vec<Config> = Vec::new();
    for name in &arguments.methods {
        let method = Method::find(name)?;
        let base = arguments.common.config(&arguments.preset, Some(name))?;
        let asked = if arguments.memory.is_empty() { vec![base.memory.size] } else { arguments.memory.clone() };
        let (sizes, left_out) = sizes(method.uses_memory(), method.needs_memory(), asked);
        if left_out {
            eprintln!("note: {name} needs a memory, and is left out at memory 0");
        }
        for size in sizes {
            for seed in 0..arguments.seeds {
                let mut config = base.clone();
                config.memory.size = size;
                config.seed = seed;
                config.validate()?;
                if !grid.iter().any(|known| label(known) == label(&config)) {
                    grid.push(config);
                }
            }
        }
    }
    match grid.is_empty() {
        true => Err(Error::input(
            "there is nothing to run: give --seeds 1 or more, and a --memory above 0 where it is needed",
        )),
        false => Ok(grid),
    }
}

/// The memory sizes that a method runs with, and whether 0 was left out because it cannot do without a memory. A method that
/// does not replay runs once.
fn sizes(replays: bool, needs_memory: bool, asked: Vec<usize>) -> (Vec<usize>, bool) {
    if !replays {
        return (vec![0], false);
    }
    let all = asked.len();
    let kept: Vec<usize> = asked.into_iter().filter(|size| *size > 0 || !needs_memory).collect();
    let left_out = kept.len() < all;
    (kept, left_out)
}

/// The table; a cell of which every run failed has an empty row, and each failure is told below.
fn print(done: &[(Evaluation, Pace)], failed: &[(&Config, Error)]) {
    let mut cells = Cell::group(done.iter().map(|(evaluation, _)| evaluation.clone()));
    for (config, _) in failed {
        if !cells.iter().any(|cell| cell.method == config.method && cell.memory == config.memory.size) {
            let (method, memory) = (config.method.clone(), config.memory.size);
            cells.push(Cell { method, memory, of: String::new(), runs: Vec::new() });
        }
    }
    let rank = |name: &str| METHODS.iter().position(|method| method.name == name);
    cells.sort_by_key(|cell| (rank(&cell.method), cell.memory));
    let mut table = summary_table(&cells);
    let speed = |cell: &Cell| {
        let runs = done.iter().filter(|(run, _)| run.method == cell.method && run.memory == cell.memory);
        let pace: Pace = runs.map(|(_, pace)| *pace).sum();
        pace.samples_per_second().map(|speed| format!("{speed:.0}")).unwrap_or_default()
    };
    table.column("samples/s", cells.iter().map(speed));
    print!("{}", table.to_text());
    for (config, error) in failed {
        println!("failed: {}: {error}", label(config));
    }
}

#[cfg(test)]
mod tests {
    use super::sizes;

    #[test]
    fn memory_sizes_suit_the_method() {
        let asked = || vec![0, 500];
        assert_eq!(sizes(false, false, asked()), (vec![0], false));
        assert_eq!(sizes(true, false, asked()), (vec![0, 500], false));
        assert_eq!(sizes(true, true, asked()), (vec![500], true));
        assert_eq!(sizes(true, true, vec![0]), (vec![], true));
        assert_eq!(sizes(true, true, vec![200]), (vec![200], false));
    }
}
