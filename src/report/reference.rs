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
    /// A row for each figure beside the weights that the run started from, and one for each method and memory size that has none.
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
        let text = crate::files::read_text(path)?;
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
        let header =
            ["method", "memory", "weights", "metric", "here", "published", "difference", "published of", "source"];
        let mut table = Table::new(header);
        for cell in cells {
            let preset = &cell.runs[0].config.preset;
            let row_of = |rest: &[String]| {
                let start = [cell.name(), cell.memory.to_string(), cell.runs[0].weights()];
                start.into_iter().chain(rest.iter().cloned()).collect::<Vec<_>>()
            };
            let of_method: Vec<&Figure> =
                self.figures.iter().filter(|one| one.preset == *preset && one.method == cell.method).collect();
            let fits = |figure: &&&Figure| figure.memory.is_none_or(|memory| memory == cell.memory);
            for figure in of_method.iter().filter(fits) {
                let metric = METRICS.iter().find(|metric| metric.heading == figure.metric).expect("parse has looked");
                // A figure of what the run has not measured stands there alone.
                let here = cell.spread(|run| (metric.of)(&run.summary));
                table.row(row_of(&[
                    figure.metric.clone(),
                    here.map(|here| here.to_string()).unwrap_or_default(),
                    format!("{:.2}", figure.value),
                    here.map(|here| format!("{:+.1}", 100.0 * here.mean - figure.value)).unwrap_or_default(),
                    figure.of.clone(),
                    figure.source.clone(),
                ]));
            }
            if !of_method.iter().any(|figure| fits(&figure)) {
                let mut sizes: Vec<usize> = of_method.iter().filter_map(|figure| figure.memory).collect();
                sizes.sort_unstable();
                sizes.dedup();
                let nothing = match sizes.as_slice() {
                    [] => "no published figure".to_string(),
                    sizes => {
                        let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
                        format!("published with memory {} alone", sizes.join(", "))
                    }
                };
                let mut row = vec![String::new(); 4];
                row.push(nothing);
                table.row(row_of(&row));
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
        for run in runs().filter(|run| !run.config.preset.is_empty()) {
            let path = run.path.display();
            match departures(&run.config) {
                Ok(departures) if departures.is_empty() => {}
                Ok(departures) => add(format!("{path} has other settings than the preset: {}", departures.join(", "))),
                Err(error) => add(format!("{path}: its settings cannot be held against its preset: {error}")),
            }
        }
        notes
    }
}

/// The settings in which a run differs from its preset, apart from those of which no figure is made. That it started from
/// random values in place of weights is one, and which weights it started from is not: they stand beside the figures.
fn departures(config: &Config) -> Result<Vec<String>> {
    let preset = Config::find(&config.preset)?.for_method(&config.method)?;
    let weights = [&preset, config].iter().all(|config| !config.model.pretrained.is_empty());
    let lines = |config: &Config| -> Vec<String> {
        let mut config = config.clone();
        (config.seed, config.memory.size) = (0, 0);
        if weights {
            config.model.pretrained.clear();
        }
        config.data.folder.clear();
        (config.data.loader_threads, config.evaluation.batch) = (1, 1);
        (config.train.save_every, config.train.log_every) = (1, 1);
        dotted(&config.to_toml())
    };
    let known = lines(&preset);
    Ok(lines(config).into_iter().filter(|line| !known.contains(line)).collect())
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
    use crate::report::run::group;
    use crate::report::run::tests::run;

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
        for setting in ["seed=7", "memory.size=99", "model.pretrained=x.safetensors", "evaluation.batch=7"] {
            config.set(setting).unwrap();
        }
        assert!(departures(&config).unwrap().is_empty());
        config.set("train.batch=64").unwrap();
        assert_eq!(departures(&config).unwrap(), ["train.batch = 64"]);
        config.set("model.pretrained=").unwrap();
        config.set("data.max_broken=3").unwrap();
        let expected = ["data.max_broken = 3", "model.pretrained = \"\"", "train.batch = 64"];
        let mut found = departures(&config).unwrap();
        found.sort_unstable();
        assert_eq!(found, expected);
        config.preset = "cifar100-lic".to_string();
        assert!(departures(&config).unwrap_err().to_string().contains("unknown preset 'cifar100-lic'"));
    }

    #[test]
    fn every_figure_stands_beside_the_weights_of_the_run() {
        let figure = |method: &str, metric: &str, more: &str| {
            format!(
                "[[figure]]\npreset = \"cifar100-cil\"\nmethod = \"{method}\"\nmetric = \"{metric}\"\nvalue = 75.0\n\
                 of = \"its model\"\nsource = \"paper\"\n{more}"
            )
        };
        let figures = [
            figure("zero-shot", "average", ""),
            figure("zero-shot", "last", ""),
            figure("gcl", "average", "memory = 2000\n"),
        ];
        let reference = Reference::parse(&figures.concat()).unwrap();
        let run = |method: &str, pretrained: &str| {
            let mut run = run(method, 0, 2);
            run.config = Config::find("cifar100-cil").unwrap().for_method(method).unwrap();
            run.config.model.pretrained = pretrained.to_string();
            run.evaluation.summary.average_incremental_accuracy = Some(0.1);
            run.evaluation.summary.last_accuracy = None;
            run
        };
        let runs = vec![run("zero-shot", "w/openai.safetensors"), run("zero-shot", ""), run("gcl", ""), run("ewc", "")];
        let groups = group(runs).unwrap();
        let Comparison { table, notes } = reference.compare(&groups[0]);
        let rows: Vec<String> = table.rows().iter().map(|row| row.join("|")).collect();
        assert_eq!(
            rows,
            [
                "zero-shot (openai.safetensors)|0|openai.safetensors|average|10.0|75.00|-65.0|its model|paper",
                "zero-shot (openai.safetensors)|0|openai.safetensors|last||75.00||its model|paper",
                "zero-shot (random values)|0|random values|average|10.0|75.00|-65.0|its model|paper",
                "zero-shot (random values)|0|random values|last||75.00||its model|paper",
                "gcl (random values)|0|random values|||||published with memory 2000 alone|",
                "ewc (random values)|0|random values|||||no published figure|",
            ]
        );
        let random =
            notes.iter().filter(|note| note.contains("other settings than the preset: model.pretrained = \"\""));
        assert_eq!(random.count(), 3, "{notes:?}");
    }
}
