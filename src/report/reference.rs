//! A run's figures beside published ones.

use std::path::Path;

use serde::Deserialize;

use super::run::Run;
use super::summary::{Cell, METRICS};
use super::table::Table;
use crate::error::{Error, Result, unknown};
use crate::experiment::Config;
use crate::method::Method;

/// Published figures, and what papers say without one: `presets/reference.toml`, or a file of the same form.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reference {
    #[serde(rename = "figure")]
    figures: Vec<Figure>,
    #[serde(rename = "claim")]
    claims: Vec<Claim>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    preset: String,
    method: String,
    /// Where the figure is of one memory size alone.
    memory: Option<usize>,
    /// The heading of a metric: `average`, `last`, ...
    metric: String,
    /// In per cent.
    value: f64,
    /// Model and weights.
    of: String,
    source: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    presets: Vec<String>,
    text: String,
    source: String,
}

/// What published figures have to say of the runs on one stream.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// A row for each figure, and one for each method and memory size that has none.
    pub table: Table,
    /// What papers say in words, and what to bear in mind.
    pub notes: Vec<String>,
}

impl Reference {
    /// The figures that come with the program, under the name `reference`, or those of a file whose name ends in `.toml`.
    pub fn find(name: &str) -> Result<Reference> {
        if name == "reference" {
            return Reference::parse(include_str!("../../presets/reference.toml")).map_err(|error| error.at(name));
        }
        if !name.ends_with(".toml") {
            return Err(unknown("list of published figures", name, ["reference"]));
        }
        let path = Path::new(name);
        let text = std::fs::read_to_string(path).map_err(|cause| Error::reading(path, cause))?;
        Reference::parse(&text).map_err(|error| error.at(name))
    }

    /// Reads TOML. A metric or a method that does not exist is an error of input.
    pub fn parse(text: &str) -> Result<Reference> {
        let reference: Reference = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Error::input(format!("line {line}: {}", error.message().trim_end()))
        })?;
        for Figure { metric, method, value, .. } in &reference.figures {
            let headings = METRICS.iter().map(|metric| metric.heading);
            if !headings.clone().any(|known| known == metric) {
                return Err(unknown("metric", metric, headings));
            }
            Method::find(method)?;
            if !(-100.0..=100.0).contains(value) {
                return Err(Error::input(format!("a figure of {method} is {value}; it must be per cent")));
            }
        }
        Ok(reference)
    }

    /// Holds the runs on one stream, as [`super::group`] makes them, against the figures of their presets.
    pub fn compare(&self, cells: &[Cell<Run>]) -> Comparison {
        let mut table =
            Table::new(["method", "memory", "metric", "here", "published", "difference", "published of", "source"]);
        for cell in cells {
            let preset = &cell.runs[0].config.preset;
            let known = self.figures.iter().filter(|figure| {
                figure.preset == *preset
                    && figure.method == cell.method
                    && figure.memory.is_none_or(|memory| memory == cell.memory)
            });
            let mut rows = 0;
            for figure in known {
                let metric = METRICS.iter().find(|metric| metric.heading == figure.metric).expect("parse has looked");
                let Some(here) = cell.spread(|run| (metric.of)(&run.summary)) else { continue };
                table.row([
                    cell.method.clone(),
                    cell.memory.to_string(),
                    figure.metric.clone(),
                    here.to_string(),
                    format!("{:.2}", figure.value),
                    format!("{:+.1}", 100.0 * here.mean - figure.value),
                    figure.of.clone(),
                    figure.source.clone(),
                ]);
                rows += 1;
            }
            if rows == 0 {
                let (method, memory) = (cell.method.clone(), cell.memory.to_string());
                let nothing = "no published figure".to_string();
                table.row([method, memory, String::new(), String::new(), String::new(), String::new(), nothing]);
            }
        }
        Comparison { table, notes: self.notes(cells) }
    }

    fn notes(&self, cells: &[Cell<Run>]) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        let mut add = |note: String| {
            if !notes.contains(&note) {
                notes.push(note);
            }
        };
        let runs = || cells.iter().flat_map(|cell| &cell.runs);
        for run in runs() {
            let preset = &run.config.preset;
            if preset.is_empty() {
                add(format!("{} is of no preset, so that no published figure is its", run.path.display()));
            }
            for Claim { text, source, .. } in self.claims.iter().filter(|claim| claim.presets.contains(preset)) {
                add(format!("the paper says: {text} ({source})"));
            }
        }
        for run in runs() {
            let departures = departures(&run.config);
            if !departures.is_empty() {
                let list = departures.join(", ");
                add(format!("{} has other settings than the preset: {list}", run.path.display()));
            }
        }
        notes
    }
}

/// The settings in which a run differs from its preset, apart from such as a paper does not decide.
fn departures(config: &Config) -> Vec<String> {
    let Ok(preset) = Config::find(&config.preset).and_then(|preset| preset.for_method(&config.method)) else {
        return Vec::new();
    };
    let lines = |config: &Config| -> Vec<String> {
        let mut config = config.clone();
        config.seed = 0;
        config.data.folder.clear();
        config.model.pretrained.clear();
        config.memory.size = 0;
        (config.data.loader_threads, config.data.max_broken) = (1, 0);
        (config.train.save_every, config.train.log_every, config.evaluation.batch) = (1, 1, 1);
        dotted(&config.to_toml())
    };
    let known = lines(&preset);
    lines(config).into_iter().filter(|line| !known.contains(line)).collect()
}

/// The lines of a TOML file, each with its section in front of its key.
fn dotted(toml: &str) -> Vec<String> {
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in toml.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = format!("{name}."),
            None => lines.push(format!("{section}{line}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::PRESETS;

    #[test]
    fn bundled_figures_are_of_presets_that_there_are() {
        let reference = Reference::find("reference").unwrap();
        let of_claims = reference.claims.iter().flat_map(|claim| &claim.presets);
        for preset in reference.figures.iter().map(|figure| &figure.preset).chain(of_claims) {
            assert!(PRESETS.iter().any(|known| known.name == preset), "{preset}");
        }
        for figure in &reference.figures {
            assert!(!figure.source.is_empty() && !figure.of.is_empty());
        }
        // Every preset of a paper has something to be held against.
        for preset in PRESETS.iter().filter(|preset| preset.group != "bundled") {
            let has_figure = reference.figures.iter().any(|figure| figure.preset == preset.name);
            let has_claim = reference.claims.iter().any(|claim| claim.presets.iter().any(|name| name == preset.name));
            assert!(has_figure || has_claim, "{}", preset.name);
        }
    }

    #[test]
    fn what_is_wrong_in_a_list_is_told() {
        let wrong = |text: &str| Reference::parse(text).unwrap_err().to_string();
        let figure = |method: &str, metric: &str| {
            format!(
                "[[figure]]\npreset = \"a\"\nmethod = \"{method}\"\nmetric = \"{metric}\"\nvalue = 1\nof = \"\"\nsource = \"\"\n"
            )
        };
        assert!(wrong(&figure("gdor", "last")).contains("did you mean 'gdro'?"));
        assert!(wrong(&figure("gdro", "lost")).contains("did you mean 'last'?"));
        assert!(wrong(&figure("gdro", "last").replace("= 1\n", "= 101\n")).contains("it must be per cent"));
        assert!(wrong("[[figure]]\npresets = 3\n").starts_with("line "));
        assert!(Reference::find("refrence").unwrap_err().to_string().contains("did you mean 'reference'?"));
    }

    #[test]
    fn departures_are_told_with_their_section() {
        let mut config = Config::find("cifar100-cil").unwrap().for_method("icarl").unwrap();
        config.set("seed=7").unwrap();
        config.set("model.pretrained=x.safetensors").unwrap();
        assert!(departures(&config).is_empty());
        config.set("train.batch=64").unwrap();
        assert_eq!(departures(&config), ["train.batch = 64"]);
        assert!(departures(&Config::default()).is_empty());
    }
}
