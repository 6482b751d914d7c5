//! `perennial compare`: a grid of methods, memory sizes and seeds.

use std::path::PathBuf;

use serde_json::json;

use super::output::{self, put, say};
use super::progress::Progress;
use super::run::Common;
use crate::error::{Error, Fault, Result};
use crate::experiment::{Access, Config, Evaluation, Lines, Pace, RunDirectory};
use crate::interrupt;
use crate::method::entries;
use crate::report::{Cell, Value, summary_json, summary_table};
use crate::run_on;

#[derive(clap::Args)]
pub(crate) struct Arguments {
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

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let place = arguments.common.compute.prepare()?;
    interrupt::listen()?;
    let access = Access { lock: !arguments.common.no_lock, start_over: false };
    let grid = grid(arguments)?;
    let (mut done, mut failed, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for config in &grid {
        let cell = (&config.method, config.memory.size);
        if left_out.contains(&cell) {
            continue;
        }
        let label = label(config);
        let out = arguments.out.join(&label);
        let finished = match RunDirectory::finished(&out, config) {
            Ok(None) => {
                let mut progress = Progress::new(Some(label.clone()));
                run_on(&place, config, &out, access, &mut progress)
            }
            Ok(Some(evaluation)) => {
                say!("{label}: finished earlier");
                Ok(evaluation)
            }
            Err(error) => Err(error),
        };
        match finished.and_then(|evaluation| Ok((evaluation, Pace::of(&Lines::read(&out)?)))) {
            Ok(run) => done.push(run),
            Err(error) if error.reason() == Some(Error::NO_MEANING) => {
                say!("note: {} is left out with memory {}: {error}", config.method, config.memory.size);
                left_out.push(cell);
            }
            Err(error) if matches!(error.fault(), Fault::Stopped(_)) => return Err(error.at(label)),
            Err(error) => {
                say!("{label}: error: {error}");
                failed.push((config, error));
            }
        }
    }
    if done.is_empty() && failed.is_empty() {
        return Err(Error::input("there is nothing to run: every method is left out"));
    }
    match arguments.common.json {
        true => output::document("compare", document(arguments, &done, &failed)),
        false => print(&done, &failed),
    }
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

/// The settings of every run, each once. Methods that have no meaning with the preset's settings are told and left out.
fn grid(arguments: &Arguments) -> Result<Vec<Config>> {
    if arguments.seeds == 0 {
        return Err(Error::input("there is nothing to run: --seeds is 0; it must be at least 1"));
    }
    let mut grid: Vec<Config> = Vec::new();
    for name in &arguments.methods {
        let base = arguments.common.config(&arguments.preset, Some(name))?;
        let method = match base.validate() {
            Err(error) if error.reason() == Some(Error::NO_MEANING) => {
                say!("note: {name} is left out: {error}");
                continue;
            }
            method => method?,
        };
        for size in sizes(method.row().uses_memory(), base.memory.size, &arguments.memory) {
            for seed in 0..arguments.seeds {
                let mut config = base.clone();
                config.memory.size = size;
                config.seed = seed;
                if !grid.iter().any(|known| label(known) == label(&config)) {
                    grid.push(config);
                }
            }
        }
    }
    Ok(grid)
}

/// The memory sizes that a method runs with: those asked for, or the preset's. A method that does not replay runs once.
fn sizes(replays: bool, preset: usize, asked: &[usize]) -> Vec<usize> {
    match (replays, asked) {
        (false, _) => vec![0],
        (true, []) => vec![preset],
        (true, asked) => asked.to_vec(),
    }
}

/// Every run with its directory, summary and speed; the cells of the table; and the failures.
fn document(arguments: &Arguments, done: &[(Evaluation, Pace)], failed: &[(&Config, Error)]) -> serde_json::Value {
    let run = |(run, pace): &(Evaluation, Pace)| {
        json!({
            "directory": arguments.out.join(format!("{}-m{}-s{}", run.method, run.memory, run.seed)).display().to_string(),
            "method": run.method,
            "memory": run.memory,
            "seed": run.seed,
            "summary": run.summary,
            "samples_spent": run.samples_spent,
            "macs_spent": run.macs_spent,
            "samples_per_second": pace.samples_per_second(),
        })
    };
    let failure = |(config, error): &(&Config, Error)| json!({ "run": label(config), "error": error.to_string() });
    json!({
        "runs": done.iter().map(run).collect::<Vec<_>>(),
        "cells": cells(done, failed).iter().map(summary_json).collect::<Vec<_>>(),
        "failed": failed.iter().map(failure).collect::<Vec<_>>(),
    })
}

/// The runs by method and memory, in the order of the table of methods; a cell of which every run failed is empty.
fn cells(done: &[(Evaluation, Pace)], failed: &[(&Config, Error)]) -> Vec<Cell> {
    let mut cells = Cell::group(done.iter().map(|(evaluation, _)| evaluation.clone()));
    for (config, _) in failed {
        if !cells.iter().any(|cell| cell.method == config.method && cell.memory == config.memory.size) {
            let (method, memory) = (config.method.clone(), config.memory.size);
            cells.push(Cell { method, memory, of: String::new(), runs: Vec::new() });
        }
    }
    let rank = |name: &str| entries().iter().position(|entry| entry.name() == name);
    cells.sort_by_key(|cell| (rank(&cell.method), cell.memory));
    cells
}

/// The table; each failure is told below.
fn print(done: &[(Evaluation, Pace)], failed: &[(&Config, Error)]) {
    let cells = cells(done, failed);
    let mut table = summary_table(&cells);
    let cost = |cell: &Cell| {
        let spent = |number: fn(&Evaluation) -> u64| cell.runs.iter().map(number).sum::<u64>();
        let (macs, samples) = (spent(|run| run.macs_spent), spent(|run| run.samples_spent));
        let each = (samples > 0).then(|| format!("{:.1}", macs as f64 / 1e6 / samples as f64));
        each.map(Value::Number).into()
    };
    let speed = |cell: &Cell| {
        let runs = done.iter().filter(|(run, _)| run.method == cell.method && run.memory == cell.memory);
        let pace: Pace = runs.map(|(_, pace)| *pace).sum();
        pace.samples_per_second().map(|speed| Value::Number(format!("{speed:.0}"))).into()
    };
    table.column("MMACs/sample", cells.iter().map(cost));
    table.column("samples/s", cells.iter().map(speed));
    put!("{}", table.to_text().trim_end());
    for (config, error) in failed {
        put!("failed: {}: {error}", label(config));
    }
}

#[cfg(test)]
mod tests {
    use super::sizes;

    #[test]
    fn memory_sizes_suit_the_method() {
        assert_eq!(sizes(false, 500, &[0, 200]), [0]);
        assert_eq!(sizes(true, 500, &[0, 200]), [0, 200]);
        assert_eq!(sizes(true, 500, &[]), [500]);
    }
}
