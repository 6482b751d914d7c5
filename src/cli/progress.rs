//! What a person sees of a run: a bar on a terminal, plain lines elsewhere. Both go to standard error; results go to
//! standard output.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::say;
use crate::error::Result;
use crate::experiment::{Evaluation, Iteration, Observer, Setup, Status};
use crate::files::{check_writable, write_quickly};
use crate::method::Spends;
use crate::ops::Plan;

/// Seconds between plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(15);

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Of the step in training: which, its first iteration here, when that ended, and samples since then.
    step: Option<usize>,
    first: usize,
    since: Instant,
    samples: usize,
    last_line: Instant,
    /// Where the run's numbers go for a collector of metrics.
    metrics_file: Option<PathBuf>,
    /// Whether to name the run in front of every line: where several run one after the other.
    label: Option<String>,
}

impl Progress {
    pub(crate) fn new(label: Option<String>) -> Progress {
        let now = Instant::now();
        Progress { bar: None, step: None, first: 0, since: now, samples: 0, last_line: now, metrics_file: None, label }
    }

    /// Has the run's numbers written to `file`, in Prometheus' text format. Fails where nothing can be written there.
    pub(crate) fn with_metrics_file(self, file: Option<&Path>) -> Result<Progress> {
        file.map_or(Ok(()), check_writable)?;
        Ok(Progress { metrics_file: file.map(Path::to_path_buf), ..self })
    }

    fn say(&self, line: &str) {
        let line = match &self.label {
            Some(label) => format!("{label}: {line}"),
            None => line.to_string(),
        };
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{line}")),
            None => say!("{line}"),
        }
    }

    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.step = None;
    }
}

impl Observer for Progress {
    fn started(&mut self, setup: &Setup, plan: &Plan, resumed: Option<&str>) {
        for note in &setup.notes {
            self.say(&format!("note: {note}"));
        }
        if self.label.is_some() {
            if let Some(place) = resumed {
                self.say(&format!("going on: {place}"));
            }
            return;
        }
        let steps = setup.stream.steps.len();
        let (method, model) = (setup.row().name, &setup.config.model.name);
        let kind = if steps == 1 { "step" } else { "steps" };
        self.say(&match resumed {
            Some(place) => format!("going on with {method}: {place}; model {model}"),
            None => format!("starting {method}: {steps} {kind}, model {model}"),
        });
        let sections: Vec<String> = (plan.sections().iter())
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(name, bytes)| format!("{name} {}", megabytes(*bytes)))
            .collect();
        self.say(&format!("memory: {}; {} in all", sections.join(", "), megabytes(plan.bytes())));
    }

    fn iteration(&mut self, setup: &Setup, now: Iteration) {
        if self.step != Some(now.step) {
            self.close();
            self.step = Some(now.step);
            self.first = now.iteration;
            self.since = Instant::now();
            self.samples = 0;
            if std::io::stderr().is_terminal() {
                let bar = ProgressBar::with_draw_target(Some(now.iterations as u64), ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left");
                bar.set_style(style.expect("the template is well formed"));
                bar.set_prefix(setup.stream.steps[now.step].name.clone());
                self.bar = Some(bar);
            }
            // There is no speed before the second.
            return;
        }
        self.samples += now.samples;
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let rate = self.samples as f64 / seconds;
        let message = format!("loss {:.4}  {rate:.0} samples/s", now.report.loss);
        match &self.bar {
            Some(bar) => {
                bar.set_position(now.iteration as u64);
                bar.set_message(message);
            }
            None if self.last_line.elapsed() >= PLAIN_INTERVAL => {
                self.last_line = Instant::now();
                let left =
                    (now.iterations - now.iteration) as f64 * seconds / (now.iteration - self.first).max(1) as f64;
                let name = &setup.stream.steps[now.step].name;
                let (iteration, iterations) = (now.iteration, now.iterations);
                self.say(&format!("{name}  {iteration}/{iterations}  {message}  {left:.0} s left"));
            }
            None => {}
        }
    }

    fn beat(&mut self, status: &Status) {
        // What cannot be written for a collector ends no training.
        if let Some(file) = &self.metrics_file {
            let _ = write_quickly(file, status.to_prometheus().as_bytes());
        }
    }

    fn note(&mut self, note: &str) {
        self.say(&format!("note: {note}"));
    }

    fn evaluated(&mut self, setup: &Setup, evaluation: &Evaluation) {
        self.close();
        let step = evaluation.matrix.len() - 1;
        let own = evaluation.matrix[step][step].map(|value| format!("{:.1} %", 100.0 * value)).unwrap_or_default();
        let trained = match setup.row().spends {
            Spends::Nothing if setup.row().is_fitted() => "fitted",
            Spends::Nothing => "evaluated",
            _ => "trained",
        };
        self.say(&format!(
            "{} {trained}: {own} on its own tests, {:.1} % on all so far",
            evaluation.steps[step].name,
            100.0 * evaluation.accuracy[step]
        ));
    }
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}
