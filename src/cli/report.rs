//! `perennial report`: tables from run directories, and a page with plots.

use std::path::PathBuf;

use serde_json::json;

use super::output::{self, put, say};
use crate::error::{Error, Result};
use crate::experiment::EvaluationTask;
use crate::files::{check_no_input, check_writable, is_same, write_atomically};
use crate::report::{
    Cell, Comparison, Reference, Run, Table, group, markdown, page, summary_json, summary_table, visible,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
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
    /// Print one JSON document in place of tables (docs/output.md)
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    check_outputs(arguments)?;
    let reference = arguments.against.as_deref().map(Reference::find).transpose()?;
    let Runs { finished, notes, failed } = read(&arguments.runs)?;
    let groups = group(finished)?;
    if arguments.csv.is_some() && groups.len() > 1 {
        return Err(Error::input(format!(
            "the runs are of {} streams, and a CSV file holds one table: report each with its own --csv",
            groups.len()
        )));
    }
    let parts: Vec<Part> = groups.iter().map(|cells| Part::of(cells, reference.as_ref())).collect();
    // Where there are several, each has its heading.
    let all = |form: &Form| {
        let body = |part: &Part| part.print(form);
        match parts.as_slice() {
            [part] => body(part),
            parts => {
                let parts =
                    parts.iter().map(|part| format!("{}{}\n\n{}", form.heading, (form.text)(&part.title), body(part)));
                parts.collect::<Vec<_>>().join("\n")
            }
        }
    };
    let mut files: Vec<(&PathBuf, String)> = Vec::new();
    files.extend(arguments.markdown.iter().map(|path| (path, all(&MARKDOWN))));
    if let (Some(path), [Part { summary, against, .. }]) = (&arguments.csv, parts.as_slice()) {
        files.push((path, against.as_ref().map_or(summary, |against| &against.table).to_csv()));
    }
    let printed = match arguments.json {
        true => None,
        false => Some(all(&TEXT)),
    };
    let document = json!({
        "groups": parts.iter().map(|part| &part.document).collect::<Vec<_>>(),
        "notes": notes,
        "unreadable": failed.len(),
    });
    if let Some(path) = &arguments.html {
        files.push((path, page(groups, &notes, reference.as_ref())));
    }
    // All that can be written is, and the table is printed, whatever fails.
    let written: Vec<Result<()>> = files.iter().map(|(path, text)| write_atomically(path, text.as_bytes())).collect();
    match printed {
        Some(text) => put!("{}", text.trim_end()),
        None => output::document("report", document),
    }
    written.into_iter().collect::<Result<()>>()?;
    match failed.len() {
        0 => Ok(()),
        count => Err(Error::run(format!("{count} of {} runs cannot be read: see above", arguments.runs.len()))),
    }
}

/// The runs of a report, and what there is to say of the others.
#[derive(Default)]
struct Runs {
    finished: Vec<Run>,
    notes: Vec<String>,
    failed: Vec<Error>,
}

/// Reads the runs, and says which are left out. Fails where none is left.
fn read(paths: &[PathBuf]) -> Result<Runs> {
    let mut runs = Runs::default();
    for path in paths {
        match Run::read(path) {
            Ok(run) if run.evaluation.is_complete() => runs.finished.push(run),
            Ok(run) => {
                let (done, steps) = (run.evaluation.matrix.len(), run.evaluation.steps.len());
                runs.notes.push(format!("{} has finished {done} of {steps} steps and is left out", path.display()));
            }
            Err(error) => runs.failed.push(error),
        }
    }
    match runs.failed.as_slice() {
        [error] if paths.len() == 1 => return Err(error.clone()),
        [error, ..] if runs.finished.is_empty() => {
            return Err(error.clone().at(format!("none of {} runs can be reported; the first error", paths.len())));
        }
        _ => {}
    }
    runs.notes.extend(runs.failed.iter().map(|error| format!("a run is left out: {error}")));
    runs.notes.iter().for_each(|note| say!("note: {note}"));
    if runs.finished.is_empty() {
        return Err(Error::input("none of the runs is finished: there is nothing to report"));
    }
    for run in &runs.finished {
        run.notes.iter().for_each(|note| say!("note: {}: {note}", run.path.display()));
    }
    Ok(runs)
}

/// Fails unless every output can be written, is no file of a run or of the figures, and no other output.
fn check_outputs(arguments: &Arguments) -> Result<()> {
    let outputs: Vec<&PathBuf> = [&arguments.html, &arguments.markdown, &arguments.csv].into_iter().flatten().collect();
    let mut inputs: Vec<PathBuf> = arguments.against.iter().map(PathBuf::from).collect();
    if !outputs.is_empty() {
        inputs.extend(arguments.runs.iter().flat_map(|run| Run::files(run)));
    }
    for (place, output) in outputs.iter().enumerate() {
        check_writable(output)?;
        check_no_input(output, &inputs)?;
        let keeps = std::fs::metadata(output).map_or(true, |meta| meta.is_file());
        if keeps && outputs[..place].iter().any(|other| other == output || is_same(other, output)) {
            return Err(Error::input(format!("{} is two outputs at once: name another file", output.display())));
        }
    }
    Ok(())
}

/// How a report is written: tables, the texts between them, and what stands before headings and notes.
struct Form {
    heading: &'static str,
    list: &'static str,
    table: fn(&Table) -> String,
    text: fn(&str) -> String,
}

const TEXT: Form = Form { heading: "", list: "", table: Table::to_text, text: visible };
const MARKDOWN: Form = Form { heading: "## ", list: "- ", table: Table::to_markdown, text: markdown };

/// The runs on one stream.
struct Part {
    title: String,
    /// What the table's figures are of.
    measure: &'static str,
    summary: Table,
    against: Option<Comparison>,
    /// All of it for `--json`.
    document: serde_json::Value,
}

impl Part {
    fn of(cells: &[Cell<Run>], reference: Option<&Reference>) -> Part {
        let first = &cells[0].runs[0];
        let (title, measure) = match first.evaluation.task {
            EvaluationTask::Classification => (first.title(), "accuracy"),
            EvaluationTask::Retrieval => (first.title(), "mean recall@1 of captions, both ways"),
        };
        let against = reference.map(|reference| reference.compare(cells));
        let cell = |cell: &Cell<Run>| {
            let mut document = summary_json(cell);
            document["runs"] = cell.runs.iter().map(|run| run.path.display().to_string()).collect();
            document
        };
        let mut document =
            json!({ "title": title, "measure": measure, "cells": cells.iter().map(cell).collect::<Vec<_>>() });
        if let Some(Comparison { table, notes }) = &against {
            document["against"] = json!({ "figures": table.to_json(), "notes": notes });
        }
        Part { title, measure, summary: summary_table(cells), against, document }
    }

    /// The table, and that of published figures with its notes.
    fn print(&self, form: &Form) -> String {
        let Form { list, table: print, text: escape, .. } = form;
        let mut text = print(&self.summary);
        text +=
            &format!("\n{list}Per cent of {}; GMACs are the multiply-accumulates of forward passes.\n", self.measure);
        if let Some(Comparison { table, notes }) = &self.against {
            text += &format!("\nBeside published figures, per cent:\n\n{}", print(table));
            if !notes.is_empty() {
                let notes = notes.iter().map(|note| escape(note)).collect::<Vec<_>>();
                text += &format!("\n{list}{}\n", notes.join(&format!("\n{list}")));
            }
        }
        text
    }
}
