//! The report as one page: no scripts, no network, no other files.
//!
//! | file | job |
//! |---|---|
//! | `mod.rs` | the page: what was run, what came out in a sentence, and the sections in their order |
//! | `sections.rs` | one function for each section |
//! | `step.rs` | another page: one training step, op by op |
//! | `plots.rs` | lines, bars, heat maps and timelines as SVG |
//! | `pictures.rs` | test images with every method's answer |
//! | `palette.rs` | the plots' colours, light and dark |
//! | `style.css` | everything else that meets the eye |

mod palette;
mod pictures;
mod plots;
mod sections;
pub(crate) mod step;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::cells::{Cell, Spread};
use super::reference::{Comparison, Reference};
use super::run::Run;
use super::summary::{self, Metric};
use crate::experiment::EvaluationTask;
use crate::method::{Classifies, Spends};
use crate::stream::StreamKind;

/// A line of the result table, and of every plot: a method with a memory size (and its weights, where there are several), over
/// its seeds.
pub(crate) struct Series {
    /// `gcl`, or `gcl · 200` where the memory size matters.
    pub label: String,
    /// The memory size alone, where a method has several.
    pub size: String,
    pub color: palette::Color,
    pub cell: Cell<Run>,
}

impl Series {
    fn spread(&self, metric: &Metric) -> Option<Spread> {
        self.cell.spread(|run| (metric.of)(&run.summary))
    }
}

/// What can be compared: runs on one stream of one data set.
struct Group {
    series: Vec<Series>,
    /// Beside published figures, where those are wanted.
    against: Option<Comparison>,
    /// Stands before the sections' anchors, so that they differ from another group's.
    prefix: String,
}

impl Group {
    fn new(cells: Vec<Cell<Run>>, prefix: String, reference: Option<&Reference>) -> Group {
        let against = reference.map(|reference| reference.compare(&cells));
        let sizes = |name: &str| cells.iter().filter(|cell| cell.name() == name).count();
        let mut methods: Vec<String> = cells.iter().map(Cell::name).collect();
        methods.dedup();
        let labels = |cell: &Cell<Run>| match (cell.name(), cell.memory) {
            (name, 0) if sizes(&name) == 1 => (name, String::new()),
            (name, memory) if sizes(&name) == 1 => (format!("{name}\u{a0}·\u{a0}{memory}"), String::new()),
            (name, memory) => (format!("{name}\u{a0}·\u{a0}{memory}"), memory.to_string()),
        };
        let described: Vec<(String, String)> = cells.iter().map(labels).collect();
        let number = |cell: &Cell<Run>| methods.iter().position(|method| *method == cell.name()).unwrap_or(0);
        let series = cells.into_iter().zip(described).map(|(cell, (label, size))| {
            let color = palette::line(number(&cell));
            Series { label, size, color, cell }
        });
        Group { series: series.collect(), against, prefix }
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.series.iter().flat_map(|series| &series.cell.runs)
    }

    /// What all runs of the group share is told by the first.
    fn first(&self) -> &Run {
        &self.series[0].cell.runs[0]
    }

    fn kind(&self) -> StreamKind {
        self.first().config.stream.kind
    }

    fn steps(&self) -> usize {
        self.first().evaluation.steps.len()
    }

    /// What stands in E.
    fn measure(&self) -> &'static str {
        match self.first().evaluation.task {
            EvaluationTask::Classification => "accuracy",
            EvaluationTask::Retrieval => "recall@1",
        }
    }

    /// The series of each method.
    fn by_method(&self) -> Vec<&[Series]> {
        self.series.chunk_by(|one, other| one.cell.name() == other.cell.name()).collect()
    }

    /// The one number that the methods are ranked by.
    fn headline(&self) -> Metric {
        match self.kind() {
            _ if self.steps() == 1 => summary::LAST,
            StreamKind::TimeIncremental => summary::BACKWARD,
            _ => summary::AVERAGE,
        }
    }

    fn title(&self) -> String {
        self.first().title()
    }

    /// What came out, in a sentence or two.
    fn summary(&self) -> Markup {
        let metric = self.headline();
        let mut ranked: Vec<(&Series, Spread)> =
            self.series.iter().filter_map(|series| Some((series, series.spread(&metric)?))).collect();
        ranked.sort_by(|one, other| other.1.mean.total_cmp(&one.1.mean));
        let name = match metric.heading {
            "average" => format!("average incremental {}", self.measure()),
            "backward" => "backward transfer".to_string(),
            _ => self.measure().to_string(),
        };
        let trained = self.series.iter().filter(|series| series.cell.evaluations().all(|run| run.samples_spent > 0));
        let forgetful = trained.filter_map(|series| Some((series, series.spread(&summary::FORGETTING)?)));
        let least = forgetful.min_by(|one, other| one.1.mean.total_cmp(&other.1.mean));
        html! {
            @match ranked.as_slice() {
                [] => {},
                [(only, value)] => { strong { (only.label) } " reaches " (value) "\u{a0}% " (name) ". " },
                [(best, value), (next, second), ..] => {
                    strong { (best.label) } " has the highest " (name) ": " (value) "\u{a0}%, before "
                    (next.label) " with " (second) "\u{a0}%. "
                },
            }
            @if let (Some((series, value)), 2..) = (least, self.series.len()) {
                @if ranked.first().is_some_and(|(best, _)| best.label == series.label) {
                    "It also forgets least of those that learn: " (value) " points."
                } @else {
                    strong { (series.label) } " forgets least of those that learn: " (value) " points."
                }
            }
        }
    }

    /// What the runs are tested by; where methods classify by different things, which of them by which.
    fn tests(&self) -> String {
        if self.first().evaluation.task == EvaluationTask::Retrieval {
            return "retrieval: mean of image-to-text and text-to-image recall@1".to_string();
        }
        let mut ways: Vec<(&str, Vec<&str>)> = Vec::new();
        for own in self.by_method() {
            let Ok(method) = own[0].cell.runs[0].config.method() else { continue };
            let way = match method.row().classifies {
                Classifies::ByText => "the nearest class prompt",
                Classifies::ByHead => "a linear head",
                Classifies::ByNearestMean => "the nearest mean of kept images",
                Classifies::ByLinearProbe => "a linear head trained after the step",
                Classifies::ByFit => "a classifier fitted to frozen features",
            };
            match ways.iter_mut().find(|(known, _)| *known == way) {
                Some((_, methods)) => methods.push(method.row().name),
                None => ways.push((way, vec![method.row().name])),
            }
        }
        match ways.as_slice() {
            [] => "classification".to_string(),
            [(way, _)] => format!("classification by {way}"),
            ways => {
                let told = ways.iter().map(|(way, methods)| format!("{way} ({})", methods.join(", ")));
                format!("classification by {}", told.collect::<Vec<_>>().join("; by "))
            }
        }
    }

    /// What was run.
    fn facts(&self) -> Markup {
        let Run { config, evaluation, .. } = self.first();
        let count =
            |of: fn(&crate::experiment::StepRecord) -> usize| -> usize { evaluation.steps.iter().map(of).sum() };
        let domains = match config.data.domains.as_slice() {
            [] => String::new(),
            domains => format!(" ({})", domains.join(", ")),
        };
        let start = |run: &Run| match run.config.model.pretrained.as_str() {
            "" => format!("{}, from random values", run.config.model.name),
            path => format!("{}, from {path}", run.config.model.name),
        };
        let training = |run: &Run| {
            let train = &run.config.train;
            let budget = match train.samples {
                0 if train.epochs == 1.0 => "1 epoch a step".to_string(),
                0 => format!("{} epochs a step", train.epochs),
                samples => format!("{samples} samples a step"),
            };
            let times = match run.config.method().map(|method| method.row().spends) {
                Ok(Spends::OncePerStepSeen) => " for every step seen",
                _ => "",
            };
            format!("batch {}, {budget}{times}, learning rate {}", train.batch, train.learning_rate)
        };
        let is_trained = |run: &&Run| {
            run.config
                .method()
                .map_or(run.evaluation.samples_spent > 0, |method| method.row().spends != Spends::Nothing)
        };
        let trained = self.runs().filter(is_trained);
        let device = self.runs().filter_map(|run| run.manifest["device"].as_str().map(str::to_string));
        let facts = [
            (
                "Data",
                format!(
                    "{}{domains}: {} training and {} test images",
                    config.data.name,
                    count(|s| s.train),
                    count(|s| s.test)
                ),
            ),
            ("Model", distinct(self.runs().map(start), "; ")),
            ("Training", distinct(trained.map(training), "; ")),
            ("Tested by", self.tests()),
            ("Seeds", distinct(self.runs().map(|run| run.config.seed.to_string()), ", ")),
            ("Device", distinct(device, "; ")),
        ];
        html! {
            dl.facts {
                @for (name, text) in facts.iter().filter(|(_, text)| !text.is_empty()) {
                    div { dt { (name) } dd { (text) } }
                }
            }
        }
    }
}

/// Every text once, in the order of their first appearance; after the tenth, how many more.
fn distinct(texts: impl Iterator<Item = String>, separator: &str) -> String {
    let mut known: Vec<String> = Vec::new();
    for text in texts {
        if !known.contains(&text) {
            known.push(text);
        }
    }
    let more = known.len().saturating_sub(10);
    known.truncate(10);
    if more > 0 {
        known.push(format!("{more} more"));
    }
    known.join(separator)
}

/// A part of the page that one can jump to.
struct Section {
    id: &'static str,
    title: &'static str,
    body: Markup,
}

/// The whole page, for groups as [`super::group`] makes them. `notes` are what the reader should know of runs that
/// are not there; `reference` has published figures to hold the runs against.
pub fn page(groups: Vec<Vec<Cell<Run>>>, notes: &[String], reference: Option<&Reference>) -> String {
    let several = groups.len() > 1;
    let prefix = |place: usize| if several { format!("{}-", place + 1) } else { String::new() };
    let group = |(place, cells)| Group::new(cells, prefix(place), reference);
    let groups: Vec<Group> = groups.into_iter().enumerate().map(group).collect();
    let title = match groups.as_slice() {
        [group] => group.title(),
        groups => format!("{} experiments", groups.len()),
    };
    let parts: Vec<(&Group, Vec<Section>)> = groups.iter().map(|group| (group, sections::all(group))).collect();
    let anchor = |group: &Group, section: &Section| format!("{}{}", group.prefix, section.id);
    let mut notes = notes.to_vec();
    // The same of many runs is told once.
    let mut told: Vec<(&str, Vec<&Run>)> = Vec::new();
    for run in groups.iter().flat_map(Group::runs) {
        for note in &run.notes {
            match told.iter_mut().find(|(known, _)| known == note) {
                Some((_, runs)) => runs.push(run),
                None => told.push((note, vec![run])),
            }
        }
    }
    notes.extend(told.iter().map(|(note, runs)| match runs.as_slice() {
        [run] => format!("{}: {note}", run.path.display()),
        [first, rest @ ..] => format!("{} and {} more runs: {note}", first.path.display(), rest.len()),
        [] => unreachable!("a note is a run's"),
    }));
    let (lead, links): (Markup, Vec<(String, String)>) = match parts.as_slice() {
        [(group, sections)] => {
            let links = sections.iter().map(|section| (anchor(group, section), section.title.to_string()));
            (group.summary(), links.collect())
        }
        _ => {
            let lead =
                html! { "They differ in data, stream or test, so that their numbers say nothing about one another." };
            (lead, groups.iter().map(|group| (format!("{}experiment", group.prefix), group.title())).collect())
        }
    };
    let body = html! {
        @if !notes.is_empty() {
            section.note { ul { @for note in &notes { li { (note) } } } }
        }
        @for (group, sections) in &parts {
            article {
                @if several {
                    h2 id={ (group.prefix) "experiment" } { (group.title()) }
                    p.lead { (group.summary()) }
                    nav { @for section in sections { a href={ "#" (anchor(group, section)) } { (section.title) } } }
                }
                (group.facts())
                @for section in sections {
                    section id=(anchor(group, section)) { h3 { (section.title) } (section.body) }
                }
            }
        }
    };
    document("Perennial report", &title, lead, &links, body, "from the files of the runs.")
}

/// A page: no scripts, no network, no other files. `over` stands above the title, `links` are anchors in `body` and their names, `from`
/// says what it was made of.
fn document(
    over: &str,
    title: &str,
    lead: Markup,
    links: &[(impl AsRef<str>, impl AsRef<str>)],
    body: Markup,
    from: &str,
) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Perennial" }
                style {
                    (PreEscaped(include_str!("style.css")))
                    "@media (prefers-color-scheme: dark) {\n" (PreEscaped(palette::dark_rules())) "}\n"
                }
            }
            body {
                header { div {
                    p.over { (over) }
                    h1 { (title) }
                    p.lead { (lead) }
                    nav { @for (anchor, name) in links { a href={ "#" (anchor.as_ref()) } { (name.as_ref()) } } }
                } }
                main { (body) }
                footer { "Made by Perennial " (env!("CARGO_PKG_VERSION")) " " (from) }
            }
        }
    };
    page.into_string()
}
