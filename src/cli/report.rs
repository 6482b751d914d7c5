//! `perennial report`: tables from run directories, and a page with plots.

use std::path::PathBuf;

use perennial::error::{Error, Result};
use perennial::experiment::EvaluationTask;
use perennial::files::{check_writable, write_atomically};
use perennial::report::{Comparison, Reference, Run, Table, group, page, summary_table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Run directories; runs that differ in the seed alone share a row, and runs on one stream a table
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// Published figures beside the runs' own: reference, for those that come with the program, or a .toml file of its form
    #[arg(long, value_name = "NAME|FILE")]
    against: Option<String>,
    /// Also write a page with plots, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Also write the table as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write the table as CSV; with --against, the one that holds the runs against published figures
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    [&arguments.html, &arguments.markdown, &arguments.csv]
        .into_iter()
        .flatten()
        .try_for_each(|path| check_writable(path))?;
    let reference = arguments.against.as_deref().map(Reference::find).transpose()?;
    let (mut finished, mut notes) = (Vec::new(), Vec::new());
    for path in &arguments.runs {
        let run = Run::read(path)?;
        if run.evaluation.is_complete() {
            finished.push(run);
        } else {
            let (done, steps) = (run.evaluation.matrix.len(), run.evaluation.steps.len());
            notes.push(format!("{} has finished {done} of {steps} steps and is left out", path.display()));
            eprintln!("note: {}", notes[notes.len() - 1]);
        }
    }
    if finished.is_empty() {
        return Err(Error::input("none of the runs is finished: there is nothing to report"));
    }
    let groups = group(finished)?;
    if arguments.csv.is_some() && groups.len() > 1 {
        return Err(Error::input(format!(
            "the runs are of {} streams, and a CSV file holds one table: report each with its own --csv",
            groups.len()
        )));
    }
    let parts: Vec<Part> = groups
        .iter()
        .map(|cells| Part {
            title: cells[0].runs[0].title(),
            measure: match cells[0].runs[0].evaluation.task {
                EvaluationTask::Classification => "accuracy",
                EvaluationTask::Retrieval => "mean recall@1 of captions, both ways",
            },
            summary: summary_table(cells),
            against: reference.as_ref().map(|reference| reference.compare(cells)),
        })
        .collect();
    // Where there are several, each has its heading.
    let all = |heading: &str, list: &str, print: fn(&Table) -> String| {
        let body = |part: &Part| part.print(list, print);
        match parts.as_slice() {
            [part] => body(part),
            parts => {
                let parts = parts.iter().map(|part| format!("{heading}{}\n\n{}", part.title, body(part)));
                parts.collect::<Vec<_>>().join("\n")
            }
        }
    };
    print!("{}", all("", "", Table::to_text));
    if let Some(path) = &arguments.markdown {
        write_atomically(path, all("## ", "- ", Table::to_markdown).as_bytes())?;
    }
    if let (Some(path), [Part { summary, against, .. }]) = (&arguments.csv, parts.as_slice()) {
        let table = against.as_ref().map_or(summary, |against| &against.table);
        write_atomically(path, table.to_csv().as_bytes())?;
    }
    if let Some(path) = &arguments.html {
        write_atomically(path, page(groups, &notes, reference.as_ref()).as_bytes())?;
    }
    Ok(())
}

/// The runs on one stream.
struct Part {
    title: String,
    /// What the table's figures are of.
    measure: &'static str,
    summary: Table,
    against: Option<Comparison>,
}

impl Part {
    /// The table, and that of published figures with its notes, `list` before each.
    fn print(&self, list: &str, print: fn(&Table) -> String) -> String {
        let mut text = print(&self.summary);
        text +=
            &format!("\n{list}Per cent of {}; GMACs are the multiply-accumulates of forward passes.\n", self.measure);
        if let Some(Comparison { table, notes }) = &self.against {
            text += &format!("\nBeside published figures, per cent:\n\n{}", print(table));
            if !notes.is_empty() {
                text += &format!("\n{list}{}\n", notes.join(&format!("\n{list}")));
            }
        }
        text
    }
}
