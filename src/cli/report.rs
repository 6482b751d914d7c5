//! `perennial report`: tables from run directories, and a page with plots.

use std::path::{Path, PathBuf};

use perennial::error::Result;
use perennial::experiment::RunDirectory;
use perennial::files::write_atomically;
use perennial::report::{Cell, Run, group, page, summary_table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Run directories; runs that differ in the seed alone share a row
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// Also write a page with plots, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Also write the table as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write the table as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let (mut evaluations, mut finished, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for run in &arguments.runs {
        let evaluation = RunDirectory::read_evaluation(run)?;
        if evaluation.is_complete() {
            evaluations.push(evaluation);
            finished.push(run);
        } else {
            let (done, steps) = (evaluation.matrix.len(), evaluation.steps.len());
            notes.push(format!("{} has finished {done} of {steps} steps and is left out", run.display()));
            eprintln!("note: {}", notes[notes.len() - 1]);
        }
    }
    if let (Some(path), false) = (&arguments.html, finished.is_empty()) {
        let runs = finished.into_iter().map(|run| Run::read(run)).collect::<Result<Vec<_>>>()?;
        write_atomically(path, page(group(runs)?, &notes).as_bytes())?;
    }
    let table = summary_table(&Cell::group(evaluations));
    print!("{}", table.to_text());
    let write = |path: &Option<PathBuf>, text: String| match path {
        Some(path) => write_atomically(Path::new(path), text.as_bytes()),
        None => Ok(()),
    };
    write(&arguments.markdown, table.to_markdown())?;
    write(&arguments.csv, table.to_csv())
}
