//! Which published figures are of the runs' own experiment, and in what the others differ from it.

use super::super::cells::Cell;
use super::super::run::{RANDOM, Run};
use super::super::summary::METRICS;
use super::super::table::{Table, Value};
use super::{Claim, Figure, Origin, Reference, Weights};
use crate::data::text::prompts::Templates;
use crate::error::Result;
use crate::experiment::Config;
use crate::method::Classifies;
use crate::model::spec::ModelSpec;
use crate::stream::{StreamKind, class_list};

/// What published figures have to say of the runs on one stream.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// A row for each figure that is of the runs' own experiment, and one for each method and memory size that has none.
    pub table: Table,
    /// Which figures are of another experiment, and in what; what papers say in words; and what to bear in mind.
    pub(crate) notes: Vec<String>,
}

impl Reference {
    /// Holds the runs on one stream, as [`crate::report::group`] makes them, against the figures of their presets.
    pub fn compare(&self, cells: &[Cell<Run>]) -> Comparison {
        let header = [
            "method",
            "memory",
            "weights",
            "metric",
            "here",
            "published",
            "difference",
            "published of",
            "origin",
            "source",
        ];
        let mut table = Table::new(header);
        let mut notes = Vec::new();
        for cell in cells {
            let first = &cell.runs[0];
            let row_of = |rest: Vec<Value>| {
                let start: [Value; 3] = [cell.name().into(), Value::number(cell.memory), first.weights().into()];
                start.into_iter().chain(rest)
            };
            let of_method: Vec<&Figure> = (self.figures.iter())
                .filter(|one| one.preset == first.config.preset && one.method == cell.method)
                .collect();
            let (mut comparable, mut others) = (0, Others::default());
            for figure in &of_method {
                let mismatches = self.mismatches(figure, cell);
                if !mismatches.is_empty() {
                    others.add(figure, mismatches.join("; "));
                    continue;
                }
                comparable += 1;
                let metric = METRICS.iter().find(|metric| metric.heading == figure.metric).expect("parse has looked");
                // A figure of what the run has not measured stands there alone.
                let here = cell.spread(|run| (metric.of)(&run.summary));
                let origin = match figure.origin {
                    Origin::Reported => "reported",
                    Origin::Reproduced => "reproduced",
                };
                table.row(row_of(vec![
                    figure.metric.as_str().into(),
                    Value::Spread(here),
                    Value::Number(format!("{:.2}", figure.value)),
                    here.map(|here| Value::Number(format!("{:+.1}", 100.0 * here.mean - figure.value))).into(),
                    figure.described().into(),
                    origin.into(),
                    figure.source.as_str().into(),
                ]));
            }
            if comparable == 0 {
                let nothing = if of_method.is_empty() { "no published figure" } else { "no comparable figure" };
                let empty = [Value::Empty, Value::Spread(None), Value::Empty, Value::Empty];
                table.row(row_of(empty.into_iter().chain([nothing.into()]).collect()));
            }
            notes.extend(others.0.into_iter().map(|(what, values, why)| {
                format!(
                    "not comparable with {}, memory {}: {} of {what}: {why}",
                    cell.name(),
                    cell.memory,
                    values.join(", ")
                )
            }));
            let by_name = |run: &&Run| of_method.iter().any(|figure| self.goes_by_name(figure, run));
            if comparable > 0
                && let Some(run) = cell.runs.iter().find(by_name)
            {
                notes.push(format!(
                    "{}: which weights they are is taken from the name {}",
                    run.path.display(),
                    run.config.model.pretrained
                ));
            }
        }
        notes.extend(self.notes(cells));
        Comparison { table, notes }
    }

    /// In what a figure is of another experiment than these runs; empty where it is of theirs.
    fn mismatches(&self, figure: &Figure, cell: &Cell<Run>) -> Vec<String> {
        let mut mismatches: Vec<String> = Vec::new();
        for run in &cell.runs {
            let Run { config, .. } = run;
            let mut differs = |what: &str, here: String, there: &str| {
                let mismatch = format!("{what} {there}, here {here}");
                if !mismatches.contains(&mismatch) {
                    mismatches.push(mismatch);
                }
            };
            if !is_model(&figure.model, run) {
                differs("model", config.model.name.clone(), &figure.model);
            }
            if !self.is_weights(figure, run) {
                differs("weights", run.weights(), &figure.weights);
            }
            let in_tasks = config.stream.kind == StreamKind::ClassIncremental;
            if in_tasks && !figure.order.is_empty() && !is_order(&figure.order, run) {
                let here = match config.stream.class_order.as_str() {
                    "" => format!("of seed {}", config.stream.class_order_seed),
                    name => name.to_string(),
                };
                differs("class order", here, &figure.order);
            }
            let by_text = config.method().is_ok_and(|method| method.row().classifies == Classifies::ByText);
            if by_text && !figure.prompt.is_empty() && !is_prompt(&figure.prompt, run) {
                differs("prompt", config.evaluation.templates.clone(), &figure.prompt);
            }
            if figure.memory.is_some_and(|memory| memory != cell.memory) {
                differs("memory", cell.memory.to_string(), &figure.memory.unwrap_or_default().to_string());
            }
            if let Ok(mut preset) = Config::find(&config.preset) {
                // Packed tests are those of the data.
                if config.data.name == "packed" {
                    preset.data.name = config.data.name.clone();
                }
                let (here, there) = (tests_of(config), tests_of(&preset));
                for (here, there) in here.lines().zip(there.lines()).filter(|(here, there)| here != there) {
                    differs("setting", here.to_string(), there);
                }
            }
        }
        mismatches
    }

    /// Whether a run started from a figure's weights: by their hash where the list knows it, or else by their file's path.
    fn is_weights(&self, figure: &Figure, run: &Run) -> bool {
        let named = |name: &str| name == figure.weights;
        match (run.config.model.pretrained.as_str(), self.known_weights(run)) {
            ("", _) => named(RANDOM),
            (_, Some(known)) => named(&known.name) && known.model == figure.model,
            (path, None) => !named(RANDOM) && letters(path).contains(&letters(&figure.weights)),
        }
    }

    /// Whether it is a path alone that says that a run started from a figure's weights.
    fn goes_by_name(&self, figure: &Figure, run: &Run) -> bool {
        !run.config.model.pretrained.is_empty() && self.known_weights(run).is_none() && self.is_weights(figure, run)
    }

    fn known_weights(&self, run: &Run) -> Option<&Weights> {
        let hash = run.manifest["sha256"]["pretrained"].as_str()?;
        self.weights.iter().find(|weights| weights.sha256.iter().any(|known| known.eq_ignore_ascii_case(hash)))
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

/// Figures of other experiments: what they are of, their metrics and values, and in what they differ.
#[derive(Default)]
struct Others(Vec<(String, Vec<String>, String)>);

impl Others {
    fn add(&mut self, figure: &Figure, why: String) {
        let what = format!("{}, {}", figure.described(), figure.source);
        let value = format!("{} {:.2}", figure.metric, figure.value);
        match self.0.iter_mut().find(|(known, _, reason)| *known == what && *reason == why) {
            Some((_, values, _)) => values.push(value),
            None => self.0.push((what, vec![value], why)),
        }
    }
}

/// Whether a run's model is that of a name: by its sizes where the manifest has them, apart from its activation, which weights decide.
fn is_model(name: &str, run: &Run) -> bool {
    let here = serde_json::from_value::<ModelSpec>(run.manifest["model"].clone());
    match (here, ModelSpec::find(name)) {
        (Ok(here), Ok(there)) => ModelSpec { quick_gelu: there.quick_gelu, ..here } == there,
        _ => run.config.model.name == name,
    }
}

/// Whether a run's classes arrived in the order of a list, by the classes of its steps where the manifest has them: within a step
/// there is none.
fn is_order(name: &str, run: &Run) -> bool {
    let (Ok(list), Some(steps)) = (class_list(name), run.manifest["steps"].as_array()) else {
        return run.config.stream.class_order == name;
    };
    let plain = |name: &str| letters(name);
    let mut list = list.lines().map(str::trim).filter(|line| !line.is_empty()).map(plain);
    let same = steps.iter().all(|step| {
        let mut here: Vec<String> =
            step["classes"].as_array().into_iter().flatten().filter_map(|class| class.as_str().map(plain)).collect();
        let mut there: Vec<String> = list.by_ref().take(here.len()).collect();
        here.sort_unstable();
        there.sort_unstable();
        !here.is_empty() && here == there
    });
    same && list.next().is_none()
}

/// Whether a run was tested with these prompts, a list's name or one template: by their hash where the manifest has it.
fn is_prompt(prompt: &str, run: &Run) -> bool {
    let find = |name: &str| if name.contains("{}") { Templates::parse(name, name) } else { Templates::find(name) };
    let Ok(there) = find(prompt) else { return run.config.evaluation.templates == prompt };
    match run.manifest["sha256"]["templates"].as_str() {
        Some(here) => here == there.hash(),
        None => find(&run.config.evaluation.templates).is_ok_and(|here| here == there),
    }
}

/// The settings that decide what a run is tested on, a line each: those in which no figure's experiment may differ from the run's.
fn tests_of(config: &Config) -> String {
    let Config { data, stream, evaluation, .. } = config;
    format!(
        "data.name {}\ndata.domains {:?}\nstream.kind {:?}\nstream.tasks {}\nstream.first_task {}\nstream.domain_order {:?}\n\
         stream.periods {:?}\nevaluation.task {:?}\nevaluation.held_out {}",
        data.name,
        data.domains,
        stream.kind,
        stream.tasks,
        stream.first_task,
        stream.domain_order,
        stream.periods,
        evaluation.task,
        evaluation.held_out
    )
}

/// Letters and digits alone, small: names are written with all kinds of marks between them.
fn letters(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
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
        (config.train.save_every, config.train.save_minutes, config.train.log_every) = (1, 1.0, 1);
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
    use crate::report::groups::group;
    use crate::report::run::tests::run;

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

    /// One figure of cifar100-cil, of a file with these weights.
    fn figure(method: &str, metric: &str, more: &str) -> String {
        format!(
            "[[figure]]\npreset = \"cifar100-cil\"\nmethod = \"{method}\"\nmetric = \"{metric}\"\nvalue = 75.0\n\
             model = \"ViT-B-16\"\nweights = \"openai\"\norigin = \"reported\"\nsource = \"paper\"\n{more}"
        )
    }

    /// A run of cifar100-cil, of which nothing is known but its settings.
    fn run_of(method: &str, pretrained: &str) -> Run {
        let mut run = run(method, 0, 2);
        run.config = Config::find("cifar100-cil").unwrap().for_method(method).unwrap();
        run.config.model.pretrained = pretrained.to_string();
        run.evaluation.summary.average_incremental_accuracy = Some(0.1);
        run.evaluation.summary.last_accuracy = None;
        run
    }

    fn compared(figures: &str, runs: Vec<Run>) -> (Vec<String>, Vec<String>) {
        let groups = group(runs).unwrap();
        let Comparison { table, notes } = Reference::parse(figures).unwrap().compare(&groups[0]);
        let shown = |row: &Vec<Value>| row.iter().map(Value::shown).collect::<Vec<_>>().join("|");
        (table.rows().iter().map(shown).collect(), notes)
    }

    #[test]
    fn figures_stand_beside_comparable_runs_alone() {
        let figures = [
            figure("zero-shot", "average", "of = \"its words\"\n"),
            figure("zero-shot", "last", ""),
            figure("gcl", "average", "memory = 2000\n"),
        ];
        let runs = vec![
            run_of("zero-shot", "w/OpenAI.safetensors"),
            run_of("zero-shot", ""),
            run_of("gcl", ""),
            run_of("ewc", ""),
        ];
        let (rows, notes) = compared(&figures.concat(), runs);
        assert_eq!(
            rows,
            [
                "zero-shot (OpenAI.safetensors)|0|OpenAI.safetensors|average|10.0|75.00|-65.0|ViT-B-16, openai (its words)|reported|paper",
                "zero-shot (OpenAI.safetensors)|0|OpenAI.safetensors|last||75.00||ViT-B-16, openai|reported|paper",
                "zero-shot (random values)|0|random values|||||no comparable figure||",
                "gcl (random values)|0|random values|||||no comparable figure||",
                "ewc (random values)|0|random values|||||no published figure||",
            ]
        );
        for note in [
            "not comparable with zero-shot (random values), memory 0: average 75.00 of ViT-B-16, openai (its words), paper: \
             weights openai, here random values",
            "not comparable with gcl (random values), memory 0: average 75.00 of ViT-B-16, openai, paper: \
             weights openai, here random values; memory 2000, here 0",
            "runs/zero-shot-0-2: which weights they are is taken from the name w/OpenAI.safetensors",
        ] {
            assert!(notes.iter().any(|known| known == note), "{note}\n{notes:?}");
        }
        let random =
            notes.iter().filter(|note| note.contains("other settings than the preset: model.pretrained = \"\""));
        assert_eq!(random.count(), 3, "{notes:?}");
    }

    #[test]
    fn a_figure_of_another_experiment_says_in_what() {
        let figures = figure("zero-shot", "last", "order = \"cifar100-dytox\"\nprompt = \"a bad photo of a {}.\"\n");
        let why = |change: &dyn Fn(&mut Run)| {
            let mut run = run_of("zero-shot", "openai.safetensors");
            run.config.set("stream.class_order=cifar100-dytox").unwrap();
            run.config.set("evaluation.templates=bad-photo").unwrap();
            change(&mut run);
            let (_, notes) = compared(&figures, vec![run]);
            let mark = "last 75.00 of ViT-B-16, openai, paper: ";
            notes.iter().find_map(|note| Some(note.split_once(mark)?.1.to_string())).unwrap_or_default()
        };
        let set = |setting: &'static str| move |run: &mut Run| run.config.set(setting).unwrap();
        assert_eq!(why(&|_| ()), "");
        assert_eq!(why(&set("stream.class_order=cifar100")), "class order cifar100-dytox, here cifar100");
        assert_eq!(why(&set("stream.class_order=")), "class order cifar100-dytox, here of seed 1993");
        assert_eq!(why(&set("evaluation.templates=cifar")), "prompt a bad photo of a {}., here cifar");
        assert_eq!(why(&set("model.name=ViT-B-32")), "model ViT-B-16, here ViT-B-32");
        assert_eq!(why(&set("stream.tasks=20")), "setting stream.tasks 10, here stream.tasks 20");
        assert_eq!(why(&set("evaluation.held_out=0.5")), "setting evaluation.held_out 0, here evaluation.held_out 0.5");
        assert_eq!(why(&set("model.pretrained=laion.safetensors")), "weights openai, here laion.safetensors");
        assert_eq!(why(&set("data.name=packed")), "");
        // What the manifest knows goes before what things are called.
        let hash = |hash: &'static str| move |run: &mut Run| run.manifest["sha256"]["pretrained"] = hash.into();
        let listed = "[[weights]]\nmodel = \"ViT-B-16\"\nname = \"laion\"\nsha256 = [\"AA\"]\n\
                      [[weights]]\nmodel = \"ViT-B-16\"\nname = \"openai\"\nsha256 = [\"bb\"]\n";
        let with_hash = |pretrained: &str, change: &dyn Fn(&mut Run)| {
            let mut run = run_of("zero-shot", pretrained);
            run.manifest = serde_json::json!({});
            change(&mut run);
            compared(&(listed.to_string() + &figure("zero-shot", "average", "")), vec![run]).0[0].contains("|75.00|")
        };
        assert!(with_hash("weights.safetensors", &hash("bb")));
        assert!(!with_hash("openai.safetensors", &hash("aa")));
        assert!(!with_hash("weights.safetensors", &hash("cc")));
        let names: Vec<&str> = include_str!("../../../presets/class_orders/cifar100-dytox.txt").lines().collect();
        let steps = |names: &[&str]| -> serde_json::Value {
            names
                .chunks(10)
                .map(|names| serde_json::json!({ "classes": names.iter().rev().collect::<Vec<_>>() }))
                .collect()
        };
        let of_file = |names: &[&str]| {
            let steps = steps(names);
            why(&move |run: &mut Run| {
                run.config.set("stream.class_order=mine.txt").unwrap();
                run.manifest = serde_json::json!({ "steps": steps });
            })
        };
        assert_eq!(of_file(&names), "");
        let mut swapped = names.clone();
        swapped.swap(9, 10);
        assert_eq!(of_file(&swapped), "class order cifar100-dytox, here mine.txt");
        assert_eq!(of_file(&names[..90]), "class order cifar100-dytox, here mine.txt");
    }
}
