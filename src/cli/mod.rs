//! Commands: arguments, progress, exit codes.

mod bench;
mod check;
mod compare;
mod compute;
mod doctor;
mod embed;
mod eval;
mod export;
mod list;
mod output;
mod pack;
mod progress;
mod report;
mod run;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use output::say;

use crate::error::{Error, Fault, Result};

/// CLIP models that keep learning: new classes, new domains, new years, without forgetting.
#[derive(Parser)]
#[command(name = "perennial", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train and evaluate one method through a stream of steps
    Run(run::Arguments),
    /// Run a grid of methods, memory sizes and seeds, and print one table
    Compare(compare::Arguments),
    /// Measure zero-shot accuracy or retrieval of any checkpoint
    Eval(eval::Arguments),
    /// Write embeddings of images or texts by any checkpoint
    Embed(embed::Arguments),
    /// Write a checkpoint in the layout of another program
    Export(export::Arguments),
    /// Write a data set's pictures as pixels of one size to one file, for fast training
    Pack(pack::Arguments),
    /// Make tables, and a page with plots, from run directories
    Report(report::Arguments),
    /// Tell where runs are: step, speed, time left, last saved state, at work or not
    Status(status::Arguments),
    /// List methods, presets, models or kernels
    List(list::Arguments),
    /// Look at data and machine before a long run: what is wrong, and how long it takes
    Doctor(doctor::Arguments),
    /// Hold every kernel of a GPU against the CPU reference
    Check(check::Arguments),
    /// Measure a training step, each op, or the loading of data on this machine
    Bench(bench::Arguments),
}

/// Runs the command line. Exit status: 0 done, 1 the run failed, 2 the command or its input was wrong, 75 another run is at work in the
/// same place, 128 and a signal's number where that stopped the run and the same command goes on.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(help_or_mistake) => return explain(&help_or_mistake),
    };
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Embed(arguments) => embed::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Pack(arguments) => pack::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    // A command's own failure says more than that of its output.
    exit_code(result.and_then(|()| output::finish()))
}

/// The status of what a command came to; an error is said first.
fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let kind = if matches!(error.fault(), Fault::Stopped(_)) { "" } else { "error: " };
            say!("{kind}{error}");
            ExitCode::from(match error.fault() {
                Fault::Run => 1,
                Fault::Input => 2,
                Fault::Locked => 75,
                Fault::Stopped(status) => status as u8,
            })
        }
    }
}

/// Help that was asked for, or what is wrong with the arguments.
fn explain(message: &clap::Error) -> ExitCode {
    match message.print().and_then(|()| std::io::stdout().flush()) {
        _ if message.use_stderr() => ExitCode::from(2),
        Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
            exit_code(Err(Error::run(format!("cannot print to standard output: {cause}"))))
        }
        _ => ExitCode::SUCCESS,
    }
}
