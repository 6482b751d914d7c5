//! `perennial report`: tables from run directories, and a page with plots.

use std::path::PathBuf;

use perennial::error::{Error, Result};
use perennial::files::write_atomically;
use perennial::report::{Run, Table, group, page, summary_table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Run directories; runs that differ in the seed alone share a row, and runs on one stream a table
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
    let tables: Vec<(String, Table)> =
        groups.iter().map(|cells| (cells[0].runs[0].title(), summary_table(cells))).collect();
    // Where there are several, each has its heading.
    let all = |heading: &str, print: fn(&Table) -> String| match tables.as_slice() {
        [(_, table)] => print(table),
        tables => {
            let parts = tables.iter().map(|(title, table)| format!("{heading}{title}\n\n{}", print(table)));
            parts.collect::<Vec<_>>().join("\n")
        }
    };
    print!("{}", all("", Table::to_text));
    if let Some(path) = &arguments.markdown {
        write_atomically(path, all("## ", Table::to_markdown).as_bytes())?;
    }
    if let Some(path) = &arguments.csv {
        let [(_, table)] = tables.as_slice() else {
            return Err(Error::input(format!(
                "the runs are of {} streams, and a CSV file holds one table: report each with its own --csv",
                tables.len()
            )));
        };
        write_atomically(path, table.to_csv().as_bytes())?;
    }
    if let Some(path) = &arguments.html {
        write_atomically(path, page(groups, &notes).as_bytes())?;
    }
    Ok(())
}
