//! Published figures: the list of them. `reference/comparison.rs` holds runs against it.

mod comparison;

pub use comparison::Comparison;

use std::path::Path;

use serde::Deserialize;

use super::summary::METRICS;
use crate::error::{Error, Result, unknown};
use crate::files::read_text;
use crate::method;

/// Published figures, and what papers say without one: `presets/reference.toml`, or a file of the same form.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reference {
    #[serde(rename = "weights")]
    weights: Vec<Weights>,
    #[serde(rename = "figure")]
    figures: Vec<Figure>,
    #[serde(rename = "claim")]
    claims: Vec<Claim>,
}

/// Files that hold the weights of a name, by their SHA-256 in hexadecimal.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weights {
    model: String,
    name: String,
    sha256: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    preset: String,
    method: String,
    /// The size of its memory, where the method has one.
    memory: Option<usize>,
    /// The heading of a metric: `average`, `last`, ...
    metric: String,
    /// In per cent.
    value: f64,
    model: String,
    /// The name of the weights that it started from, as open_clip has them; [`super::run::RANDOM`] for none.
    weights: String,
    /// Where classes arrive in tasks: a list as `stream.class_order` names it, or words for what is none.
    #[serde(default)]
    order: String,
    /// Where texts classify: a list as `evaluation.templates` names it, or one template.
    #[serde(default)]
    prompt: String,
    origin: Origin,
    /// What else there is to know.
    #[serde(default)]
    of: String,
    source: String,
}

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Origin {
    /// Of those whose method it is, or whose weights.
    Reported,
    /// Of others.
    Reproduced,
}

impl Figure {
    /// Model and weights, and what else there is to know.
    fn described(&self) -> String {
        let of = if self.of.is_empty() { String::new() } else { format!(" ({})", self.of) };
        format!("{}, {}{of}", self.model, self.weights)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    presets: Vec<String>,
    text: String,
    source: String,
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
        Reference::parse(&read_text(Path::new(name))?).map_err(|error| error.at(name))
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
            method::find(method)?;
            if !(-100.0..=100.0).contains(value) {
                return Err(Error::input(format!("a figure of {method} is {value}; it must be per cent")));
            }
        }
        Ok(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Config, EvaluationTask, PRESETS};
    use crate::method::Classifies;
    use crate::stream::StreamKind;

    #[test]
    fn bundled_figures_are_of_presets_that_there_are() {
        let reference = Reference::find("reference").unwrap();
        let of_claims = reference.claims.iter().flat_map(|claim| &claim.presets);
        for preset in reference.figures.iter().map(|figure| &figure.preset).chain(of_claims) {
            assert!(PRESETS.iter().any(|known| known.name == preset), "{preset}");
        }
        for figure in &reference.figures {
            assert!(!figure.source.is_empty() && !figure.model.is_empty() && !figure.weights.is_empty());
            // What decides whether it is comparable is there.
            let (preset, method) = (Config::find(&figure.preset).unwrap(), method::find(&figure.method).unwrap());
            let in_tasks = preset.stream.kind == StreamKind::ClassIncremental;
            assert_eq!(!figure.order.is_empty(), in_tasks, "{figure:?}");
            let by_prompt = preset.evaluation.task == EvaluationTask::Classification;
            assert_eq!(
                !figure.prompt.is_empty(),
                by_prompt && method.row.classifies == Classifies::ByText,
                "{figure:?}"
            );
            assert_eq!(figure.memory.is_some(), method.row.uses_memory(), "{figure:?}");
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
                "[[figure]]\npreset = \"a\"\nmethod = \"{method}\"\nmetric = \"{metric}\"\nvalue = 1\nmodel = \"\"\nweights = \"\"\n\
                 origin = \"reported\"\nsource = \"\"\n"
            )
        };
        assert!(wrong(&figure("gdor", "last")).contains("did you mean 'gdro'?"));
        assert!(wrong(&figure("gdro", "lost")).contains("did you mean 'last'?"));
        assert!(wrong(&figure("gdro", "last").replace("= 1\n", "= 101\n")).contains("it must be per cent"));
        assert!(wrong(&figure("gdro", "last").replace("reported", "read")).contains("line 8: unknown variant `read`"));
        assert!(wrong("[[figure]]\npresets = 3\n").starts_with("line "));
        assert!(Reference::find("refrence").unwrap_err().to_string().contains("did you mean 'reference'?"));
    }
}
