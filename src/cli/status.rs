//! `perennial status`: where runs are.

use std::path::PathBuf;

use serde_json::json;

use super::output::{document, put};
use crate::error::Result;
use crate::experiment::{RunPhase, Seen};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Directories of runs, at work or not
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// Print one JSON document, with an object for each run
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let seen = arguments.runs.iter().map(|run| Seen::at(run)).collect::<Result<Vec<Seen>>>()?;
    if arguments.json {
        document("status", json!({ "runs": seen }));
    } else {
        seen.iter().for_each(|seen| put!("{}", line(seen)));
    }
    Ok(())
}

fn line(seen: &Seen) -> String {
    let run = seen.run.display();
    let finished = seen.status.as_ref().is_some_and(|status| status.phase == RunPhase::Finished);
    let alive = match seen.alive {
        Some(true) => "at work",
        _ if finished => "finished",
        Some(false) => "stopped",
        None => "not known whether at work",
    };
    let Some(status) = &seen.status else { return format!("{run}: {alive}; nothing is trained yet") };
    let mut parts =
        vec![format!("{run}: {alive}"), format!("step {} of {} ({})", status.step, status.steps, status.step_name)];
    match status.phase {
        RunPhase::Training => parts.push(format!("iteration {} of {}", status.iteration, status.iterations)),
        RunPhase::Closing => parts.push("closing its training".to_string()),
        RunPhase::Testing => parts.push(format!("tests {} of {}", status.tested, status.tests)),
        RunPhase::Finished => {}
    }
    let number = |what: &str, value: Option<f64>| value.map(|value| format!("{what}{value:.4}"));
    parts.extend(number("loss ", status.loss));
    parts.extend(status.samples_per_second.map(|speed| format!("{speed:.0} samples/s")));
    parts.extend(status.accuracy.map(|accuracy| format!("accuracy {:.1} %", 100.0 * accuracy)));
    if !finished {
        parts.extend(status.seconds_left.map(|left| format!("{left:.0} s of training left")));
        parts.push(format!("last saved {}", status.saved.as_deref().unwrap_or("never")));
        parts.push(format!("seen {}", status.time));
    }
    parts.join(", ")
}
