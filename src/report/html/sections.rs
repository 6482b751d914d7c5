//! The sections of the page. Each is None where the runs have nothing for it.

use maud::{Markup, html};

use super::pictures::{Card, Gallery};
use super::plots::{Axis, Bar, LARGE, Line, Look, Plot, Point, SMALL, bars, heat_map, heat_scale, short_count};
use super::{Group, Section, Series, palette};
use crate::method;
use crate::report::cells::{Matrix, Spread};
use crate::report::reference::Comparison;
use crate::report::run::{LogLine, Run};
use crate::report::summary::{AVERAGE, BACKWARD, FORGETTING, IN_DOMAIN, METRICS, Metric};

/// Points of a training curve; more cannot be told apart.
const CURVE_POINTS: u64 = 200;

pub(crate) fn all(group: &Group) -> Vec<Section> {
    let sections = [
        Some(result(group)),
        against(group),
        accuracy(group),
        matrices(group),
        forgetting(group),
        memory(group),
        budget(group),
        other_measures(group),
        static_sets(group),
        class_weights(group),
        training(group),
        predictions(group),
        Some(runs(group)),
    ];
    sections.into_iter().flatten().collect()
}

fn figure(title: &str, caption: &str, drawing: Markup) -> Markup {
    html! {
        figure {
            h4 { (title) }
            @if !caption.is_empty() { p { (caption) } }
            (drawing)
        }
    }
}

/// A method's name and what it is.
fn method_figure(series: &[Series], drawing: Markup) -> Markup {
    let cell = &series[0].cell;
    figure(&cell.name(), method::find(&cell.method).map(|entry| entry.row.summary).unwrap_or_default(), drawing)
}

fn point(x: f64, spread: Spread) -> Point {
    Point { x, y: spread.mean, spread: spread.deviation.unwrap_or(0.0) }
}

/// The values of lines, spread included, for an axis that holds them all.
fn heights(lines: &[Line]) -> Vec<f64> {
    lines
        .iter()
        .flat_map(|line| &line.points)
        .flat_map(|point| [point.y - point.spread, point.y + point.spread])
        .collect()
}

fn result(group: &Group) -> Section {
    let best = |metric: &Metric| {
        let means = group.series.iter().filter_map(|series| Some(series.spread(metric)?.mean));
        let sign = if metric.less_is_better { -1.0 } else { 1.0 };
        means.map(|mean| sign * mean).max_by(f64::total_cmp).map(|mean| sign * mean)
    };
    let metrics: Vec<(&Metric, f64)> = METRICS.iter().filter_map(|metric| Some((metric, best(metric)?))).collect();
    let value = |series: &Series, metric: &Metric, best: f64| {
        let Some(spread) = series.spread(metric) else { return html! {} };
        let mean = format!("{:.1}", 100.0 * spread.mean);
        html! {
            @if group.series.len() > 1 && mean == format!("{:.1}", 100.0 * best) { b { (mean) } } @else { (mean) }
            @if let Some(deviation) = spread.deviation { small { " ± " (format!("{:.1}", 100.0 * deviation)) } }
        }
    };
    let most = |series: &Series, number: fn(&Run) -> u64| series.cell.runs.iter().map(number).max().unwrap_or(0) as f64;
    let body = html! {
        p { "Per cent, mean and, over several seeds, standard deviation. The best of a column is set off." }
        div.scroll tabindex="0" {
            table {
                thead { tr {
                    th.name { "method" } th { "memory" } th { "seeds" }
                    @for (metric, _) in &metrics { th title=(metric.meaning) { (metric.heading) } }
                    th title="trained on, in all" { "samples" }
                    th title="multiply-accumulates of the forward passes" { "MACs" }
                } }
                tbody {
                    @for series in &group.series {
                        @let color = series.color;
                        tr {
                            td.name {
                                svg class="dot" viewBox="0 0 2 2" aria-hidden="true" {
                                    circle cx="1" cy="1" r="1" fill=(format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)) {}
                                }
                                (series.cell.name())
                            }
                            td { @if series.cell.memory > 0 || !series.size.is_empty() { (series.cell.memory) } }
                            td { (series.cell.runs.len()) }
                            @for (metric, best) in &metrics { td { (value(series, metric, *best)) } }
                            td { (short_count(most(series, |run| run.evaluation.samples_spent))) }
                            td { (short_count(most(series, |run| run.evaluation.macs_spent))) }
                        }
                    }
                }
            }
        }
        div.words { @for (metric, _) in &metrics { div { b { (metric.heading) } ": " (metric.meaning) } } }
        @if group.steps() > 1 { (steps(group)) }
    };
    Section { id: "result", title: "Result", body }
}

/// The runs beside published figures.
fn against(group: &Group) -> Option<Section> {
    let Comparison { table, notes } = group.against.as_ref()?;
    let body = html! {
        p { "Per cent; the difference in points. Figures of other experiments are in the notes, with what differs." }
        div.scroll tabindex="0" {
            table {
                thead { tr {
                    @for (column, name) in table.header().iter().enumerate() { th.name[!table.is_numeric(column)] { (name) } }
                } }
                tbody { @for row in table.rows() { tr {
                    @for (column, cell) in row.iter().enumerate() { td.name[!table.is_numeric(column)] { (cell.shown()) } }
                } } }
            }
        }
        @if !notes.is_empty() { ul { @for note in notes { li { (note) } } } }
    };
    Some(Section { id: "published", title: "Beside published figures", body })
}

/// What the steps are.
fn steps(group: &Group) -> Markup {
    html! {
        details {
            summary { "The " (group.steps()) " steps" }
            div.scroll tabindex="0" { table {
                thead { tr { th { "step" } th.name { "name" } th { "classes" } th { "training images" } th { "test images" } } }
                tbody { @for (place, step) in group.first().evaluation.steps.iter().enumerate() { tr {
                    td { (place + 1) } td.name { (step.name) } td { (step.classes) } td { (step.train) } td { (step.test) }
                } } }
            } }
        }
    }
}

/// The steps along an axis: by name where there is room, by number elsewhere.
fn step_axis(group: &Group) -> Axis {
    let steps = &group.first().evaluation.steps;
    let letters: usize = steps.iter().map(|step| step.name.chars().count() + 2).sum();
    let name = |(place, step): (usize, &crate::experiment::StepRecord)| match letters {
        0..48 => step.name.clone(),
        _ => (place + 1).to_string(),
    };
    Axis::names("after step", &steps.iter().enumerate().map(name).collect::<Vec<_>>())
}

fn accuracy(group: &Group) -> Option<Section> {
    if group.steps() < 2 {
        return None;
    }
    let line = |series: &Series| {
        let points = (0..group.steps())
            .filter_map(|step| Some(point(step as f64, series.cell.spread(|run| run.accuracy.get(step).copied())?)));
        let points: Vec<Point> = points.collect();
        let last = points.last().map(|point| format!("{:.1} %", 100.0 * point.y)).unwrap_or_default();
        let label = if series.size.is_empty() { last } else { format!("{}: {last}", series.size) };
        Line { label, color: series.color, points, look: Look::Marked }
    };
    let lines: Vec<Line> = group.series.iter().map(line).collect();
    let y = Axis::percent("", &heights(&lines));
    let panels = group.by_method().into_iter().map(|own| {
        let is_own = |series: &Series| own.iter().any(|own| std::ptr::eq(own, series));
        let lines = group.series.iter().zip(&lines).map(|(series, line)| match is_own(series) {
            true => line.clone(),
            false => Line { label: String::new(), look: Look::Context, ..line.clone() },
        });
        let about = format!("{} after each step: {}", own[0].cell.name(), group.measure());
        let plot =
            Plot { about, width: SMALL, x: step_axis(group), y: y.clone(), lines: lines.collect(), marks: Vec::new() };
        method_figure(own, plot.draw())
    });
    let sizes = group.series.iter().any(|series| !series.size.is_empty());
    let body = html! {
        p {
            "After each step, the " (group.measure()) " in per cent on the tests of all steps so far. One method is in colour, the others are grey behind it. "
            @if group.series.iter().any(|series| series.cell.runs.len() > 1) { "The band is one standard deviation of the seeds to either side. " }
            @if sizes { "At the lines' ends: the memory size, and the last value." } @else { "At the line's end: the last value." }
        }
        div.panels { @for panel in panels { (panel) } }
    };
    Some(Section { id: "accuracy", title: "Step by step", body })
}

/// The names of rows: numbers, and names where they say more.
fn row_names(group: &Group) -> Vec<String> {
    let steps = &group.first().evaluation.steps;
    let name = |(place, step): (usize, &crate::experiment::StepRecord)| match step.name.strip_prefix("task ") {
        Some(_) => (place + 1).to_string(),
        None => format!("{} {}", place + 1, step.name.chars().take(10).collect::<String>()),
    };
    steps.iter().enumerate().map(name).collect()
}

/// The largest value of matrices, up to the next ten per cent.
fn most<'a>(matrices: impl Iterator<Item = &'a Matrix>) -> f64 {
    let most = matrices.flatten().flatten().flatten().copied().fold(0.0, f64::max);
    ((most * 10.0 - 1e-9).ceil() / 10.0).clamp(0.1, 1.0)
}

fn heat_maps(group: &Group, what: &str, named: &[(&Series, Matrix)]) -> Markup {
    let (rows, most) = (row_names(group), most(named.iter().map(|(_, matrix)| matrix)));
    html! {
        div.scale { (heat_scale(most)) }
        div.panels { @for (series, matrix) in named {
            (figure(&series.label, "", heat_map(&format!("{what} of {}", series.label), matrix, &rows, most)))
        } }
    }
}

fn matrices(group: &Group) -> Option<Section> {
    if group.steps() < 2 {
        return None;
    }
    let named: Vec<(&Series, Matrix)> = group
        .series
        .iter()
        .filter_map(|series| Some((series, series.cell.mean_matrix(|run| Some(&run.matrix))?)))
        .collect();
    let body = html! {
        p {
            "The matrix E: a row after each step, a column for the tests of each step, " (group.measure())
            " in per cent, mean over the seeds. Framed: right after learning. Below the frame lies what is kept of earlier steps, above it what is known of those to come."
        }
        (heat_maps(group, "Matrix E", &named))
    };
    Some(Section { id: "matrix", title: "Every step on every task", body })
}

fn forgetting(group: &Group) -> Option<Section> {
    let bar = |series: &Series| {
        let spread = series.spread(&FORGETTING)?;
        let Point { y, spread: deviation, .. } = point(0.0, spread);
        Some(Bar {
            label: series.label.clone(),
            color: series.color,
            value: y,
            spread: deviation,
            text: spread.to_string(),
        })
    };
    let all: Vec<Bar> = group.series.iter().filter_map(bar).collect();
    if all.is_empty() {
        return None;
    }
    // What a task has lost at the end of the best that it ever had, as the metric has it.
    let lost = |series: &Series| {
        let per_task = |task: usize| {
            series.cell.spread(|run| {
                let column = run.matrix.iter().filter_map(|row| *row.get(task)?);
                Some(column.fold(0.0, f64::max) - (*run.matrix.last()?.get(task)?)?)
            })
        };
        let points = (0..group.steps() - 1).filter_map(|task| Some(point(task as f64, per_task(task)?))).collect();
        let label = if series.size.is_empty() { String::new() } else { series.size.clone() };
        Line { label, color: series.color, points, look: Look::Marked }
    };
    let lines: Vec<Line> = group.series.iter().map(lost).collect();
    let y = Axis::percent("", &heights(&lines));
    let names: Vec<String> = (1..group.steps()).map(|task| task.to_string()).collect();
    let panels = group.by_method().into_iter().map(|own| {
        let is_own = |series: &Series| own.iter().any(|own| std::ptr::eq(own, series));
        let own_lines = group.series.iter().zip(&lines).filter(|(series, _)| is_own(series));
        let lines = own_lines.map(|(_, line)| line.clone()).collect();
        let about = format!("{}: forgetting of each task", own[0].cell.name());
        let x = Axis::names("task", &names);
        figure(&own[0].cell.name(), "", Plot { about, width: SMALL, x, y: y.clone(), lines, marks: Vec::new() }.draw())
    });
    let body = html! {
        p { "What the last model has lost of the best that was ever reached on each earlier task: mean over the tasks, in points of per cent. Shorter is better." }
        div.panels.wide { (figure("Forgetting", "", bars("Forgetting of each method", &all))) }
        details {
            summary { "Task by task" }
            div.panels { @for panel in panels { (panel) } }
        }
    };
    Some(Section { id: "forgetting", title: "Forgetting", body })
}

fn memory(group: &Group) -> Option<Section> {
    let mut sizes: Vec<usize> =
        group.series.iter().filter(|series| !series.size.is_empty()).map(|series| series.cell.memory).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.len() < 2 {
        return None;
    }
    let place = |memory: usize| sizes.iter().position(|size| *size == memory).unwrap_or(0) as f64;
    let plot = |metric: &Metric| {
        let line = |own: &[Series]| {
            let points: Vec<Point> = own
                .iter()
                .filter_map(|series| Some(point(place(series.cell.memory), series.spread(metric)?)))
                .collect();
            let (label, color) = (own[0].cell.name(), own[0].color);
            match own {
                // A method without a choice is a level to compare with.
                [one] if one.size.is_empty() => {
                    let level = points.first()?;
                    let end = |x: f64| Point { x, spread: 0.0, ..*level };
                    let points = vec![end(0.0), end(sizes.len() as f64 - 1.0)];
                    Some(Line { label, color, points, look: Look::Dashed })
                }
                _ => Some(Line { label, color, points, look: Look::Marked }),
            }
        };
        let lines: Vec<Line> = group.by_method().into_iter().filter_map(line).collect();
        let x = Axis::names("memory size, samples", &sizes.iter().map(usize::to_string).collect::<Vec<_>>());
        let about = format!("{} by memory size", metric.heading);
        let y = Axis::percent_near("", &heights(&lines));
        figure(
            &capital(metric.heading),
            metric.meaning,
            Plot { about, width: LARGE, x, y, lines, marks: Vec::new() }.draw(),
        )
    };
    let body = html! {
        p { "What more samples kept from earlier steps are worth. The sizes stand at equal distances; dashed lines are methods that keep none, or were run with one size." }
        div.panels.wide { (plot(&AVERAGE)) (plot(&FORGETTING)) }
    };
    Some(Section { id: "memory", title: "Memory", body })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn budget(group: &Group) -> Option<Section> {
    let spent = |series: &Series, number: fn(&Run) -> u64| {
        series.cell.runs.iter().map(number).sum::<u64>() as f64 / series.cell.runs.len() as f64
    };
    let (number, unit): (fn(&Run) -> u64, _) = match group.runs().any(|run| run.evaluation.macs_spent > 0) {
        true => (|run| run.evaluation.macs_spent, "multiply-accumulates of forward passes"),
        false => (|run| run.evaluation.samples_spent, "samples trained on"),
    };
    let costs: Vec<f64> = group.series.iter().map(|series| spent(series, number)).collect();
    if group.series.len() < 2 || costs.iter().all(|cost| *cost == 0.0) {
        return None;
    }
    let plot = |metric: &Metric| {
        let line = |(series, cost): (&Series, &f64)| {
            let points = vec![point(*cost, series.spread(metric)?)];
            Some(Line { label: series.label.clone(), color: series.color, points, look: Look::Marked })
        };
        let lines: Vec<Line> = group.series.iter().zip(&costs).filter_map(line).collect();
        if lines.is_empty() {
            return None;
        }
        let (x, y) = (Axis::count(unit, &costs), Axis::percent_near("", &heights(&lines)));
        let about = format!("{} against the budget", metric.heading);
        Some(figure(
            &capital(metric.heading),
            metric.meaning,
            Plot { about, width: LARGE, x, y, lines, marks: Vec::new() }.draw(),
        ))
    };
    let body = html! {
        p { "What was spent on training in all, and what it bought, in per cent. Up and to the left is better: more for less." }
        div.panels.wide {
            @for metric in [AVERAGE, IN_DOMAIN, BACKWARD] { @if let Some(drawn) = plot(&metric) { (drawn) } }
            @if let Some(drawn) = budget_by_step(group, unit) { (drawn) }
        }
    };
    Some(Section { id: "budget", title: "Budget", body })
}

/// The accuracy after each step against what had been spent by its end, where runs wrote that down.
fn budget_by_step(group: &Group, unit: &str) -> Option<Markup> {
    let by_macs = group.runs().any(|run| run.evaluation.macs_spent > 0);
    let line = |series: &Series| {
        let after = |step: usize| {
            let spent = series.cell.evaluations().map(|run| run.spent.get(step).copied());
            let spent = spent.map(|spent| spent.map(|spent| if by_macs { spent.macs } else { spent.samples } as f64));
            let costs: Vec<f64> = spent.collect::<Option<_>>()?;
            Some(point(Spread::of(&costs)?.mean, series.cell.spread(|run| run.accuracy.get(step).copied())?))
        };
        let points: Vec<Point> = (0..group.steps()).filter_map(after).collect();
        // What never trains stands still: it is a point of the plots beside this one.
        let moves = points.last().is_some_and(|last| last.x > 0.0);
        moves.then(|| Line { label: series.label.clone(), color: series.color, points, look: Look::Marked })
    };
    let lines: Vec<Line> = group.series.iter().filter_map(line).collect();
    if lines.is_empty() {
        return None;
    }
    let costs: Vec<f64> = lines.iter().flat_map(|line| line.points.iter().map(|point| point.x)).collect();
    let (x, y) = (Axis::count(unit, &costs), Axis::percent_near("", &heights(&lines)));
    let about = "accuracy after each step against the budget spent by then".to_string();
    Some(figure(
        "Step by step",
        "accuracy on all seen so far, a mark for each step, over what had been spent by its end",
        Plot { about, width: LARGE, x, y, lines, marks: Vec::new() }.draw(),
    ))
}

/// `image_to_text_recall@5` as `image to text recall@5`.
fn readable(name: &str) -> String {
    name.replace('_', " ")
}

/// The other matrices of time-continual runs: a table of their means, and the matrices.
fn other_measures(group: &Group) -> Option<Section> {
    let mut names: Vec<&String> = group.runs().flat_map(|run| run.evaluation.dynamic.keys()).collect();
    // recall@5 before recall@10.
    names.sort_by_cached_key(|name| {
        let (what, at) = name.split_once('@').unwrap_or((name, ""));
        (what, at.parse::<u32>().unwrap_or(0), *name)
    });
    names.dedup();
    if names.is_empty() {
        return None;
    }
    let part = |matrix: &Matrix, wanted: fn(usize, usize) -> bool| {
        let places = matrix
            .iter()
            .enumerate()
            .flat_map(|(row, values)| values.iter().enumerate().map(move |(column, value)| (row, column, value)));
        let values: Vec<f64> =
            places.filter(|(row, column, _)| wanted(*row, *column)).filter_map(|(_, _, value)| *value).collect();
        Spread::of(&values).map(|spread| format!("{:.1}", 100.0 * spread.mean)).unwrap_or_default()
    };
    let of_name = |name: &String| -> Vec<(&Series, Matrix)> {
        let matrix = |series: &Series| series.cell.mean_matrix(|run| run.dynamic.get(name));
        group.series.iter().filter_map(|series| Some((series, matrix(series)?))).collect()
    };
    let body = html! {
        p { "Other tests on the stream, as E: in-domain is the mean of the diagonal, backward of what lies below it, forward of what lies above it. Per cent, mean over the seeds." }
        div.scroll tabindex="0" { table {
            thead { tr { th.name { "test" } th.name { "method" } th { "in-domain" } th { "backward" } th { "forward" } } }
            tbody { @for name in &names { @for (place, (series, matrix)) in of_name(name).iter().enumerate() { tr {
                td.name { @if place == 0 { (readable(name)) } } td.name { (series.label) }
                td { (part(matrix, |row, column| row == column)) }
                td { (part(matrix, |row, column| row > column)) }
                td { (part(matrix, |row, column| row < column)) }
            } } } }
        } }
        @for name in &names {
            details { summary { "Every step on every task: " (readable(name)) } div { (heat_maps(group, &readable(name), &of_name(name))) } }
        }
    };
    Some(Section { id: "measures", title: "Other tests on the stream", body })
}

/// Test sets beside the stream, after each step.
fn static_sets(group: &Group) -> Option<Section> {
    let mut names: Vec<&String> = group.runs().flat_map(|run| run.evaluation.static_sets.keys()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return None;
    }
    let plot = |name: &String| {
        let line = |series: &Series| {
            let value = |step: usize| series.cell.spread(|run| *run.static_sets.get(name)?.get(step)?);
            let points = (0..group.steps()).filter_map(|step| Some(point(step as f64, value(step)?))).collect();
            Line { label: series.label.clone(), color: series.color, points, look: Look::Marked }
        };
        let lines: Vec<Line> = group.series.iter().map(line).collect();
        let y = Axis::percent_near("", &heights(&lines));
        let about = format!("{} after each step", readable(name));
        figure(
            &readable(name),
            "",
            Plot { about, width: LARGE, x: step_axis(group), y, lines, marks: Vec::new() }.draw(),
        )
    };
    let body = html! {
        p { "Tests that have no part in the stream, after each step, in per cent: whether what the model knew before is kept." }
        div.panels.wide { @for name in names { (plot(name)) } }
    };
    Some(Section { id: "static", title: "Beside the stream", body })
}

/// At most [`CURVE_POINTS`] points of a log: the means of what lies near each other.
fn curve(log: &[LogLine], value: fn(&LogLine) -> Option<f64>) -> Vec<Point> {
    let all = log.iter().filter_map(|line| Some((line.samples?, value(line).filter(|value| value.is_finite())?)));
    let all: Vec<(u64, f64)> = all.collect();
    let most = all.iter().map(|(samples, _)| *samples).max().unwrap_or(0);
    let bucket = |samples: u64| (samples as u128 * CURVE_POINTS as u128 / (most as u128 + 1)) as u64;
    let mean = |near: &[(u64, f64)]| {
        let count = near.len() as f64;
        let x = near.iter().map(|(samples, _)| *samples as f64).sum::<f64>() / count;
        Point { x, y: near.iter().map(|(_, value)| value).sum::<f64>() / count, spread: 0.0 }
    };
    all.chunk_by(|one, other| bucket(one.0) == bucket(other.0)).map(mean).collect()
}

/// Where the steps of a run end, in samples.
fn step_ends(run: &Run) -> Vec<f64> {
    let ends = run.log.chunk_by(|one, other| one.step == other.step);
    let mut ends: Vec<f64> = ends.filter_map(|lines| Some(lines.last()?.samples? as f64)).collect();
    ends.pop();
    ends
}

fn training(group: &Group) -> Option<Section> {
    let plots = |what: &str, value: fn(&LogLine) -> Option<f64>, from_zero: bool| -> Vec<Markup> {
        let draw = |own: &[Series]| {
            let lines: Vec<Line> = own
                .iter()
                .flat_map(|series| series.cell.runs.iter().enumerate().map(move |(seed, run)| (series, seed, run)))
                .map(|(series, seed, run)| {
                    let label = if seed == 0 { series.size.clone() } else { String::new() };
                    Line { label, color: series.color, points: curve(&run.log, value), look: Look::Thin }
                })
                .filter(|line| !line.points.is_empty())
                .collect();
            let first = own.iter().flat_map(|series| &series.cell.runs).find(|run| !run.log.is_empty())?;
            if lines.is_empty() {
                return None;
            }
            let x: Vec<f64> = lines.iter().flat_map(|line| &line.points).map(|point| point.x).collect();
            let mut y = heights(&lines);
            y.extend(from_zero.then_some(0.0));
            let about = format!("{}: {what} over samples", own[0].cell.name());
            let (x, y) = (Axis::count("samples trained on", &x), Axis::number("", &y));
            let plot = Plot { about, width: SMALL, x, y, lines, marks: step_ends(first) };
            Some(figure(&own[0].cell.name(), "", plot.draw()))
        };
        group.by_method().into_iter().filter_map(draw).collect()
    };
    let losses = plots("loss", |line| line.loss, true);
    if losses.is_empty() {
        return None;
    }
    let body = html! {
        p {
            "The loss over the samples trained on, a line for each seed; upright lines part the steps. "
            @if group.by_method().len() > 1 {
                "The methods minimise different things, so that their losses cannot be compared with one another."
            }
        }
        div.panels { @for plot in losses { (plot) } }
        details {
            summary { "Learning rate" }
            div.panels { @for plot in plots("learning rate", |line| line.learning_rate, true) { (plot) } }
        }
        details {
            summary { "Gradient norm" }
            div.panels { @for plot in plots("gradient norm", |line| line.gradient_norm, true) { (plot) } }
        }
    };
    Some(Section { id: "training", title: "Training", body })
}

fn class_weights(group: &Group) -> Option<Section> {
    /// Classes that are named.
    const NAMED: usize = 5;
    let plot = |series: &Series| {
        let run = series.cell.runs.iter().find(|run| run.log.iter().any(|line| line.class_weights.is_some()))?;
        let records: Vec<(f64, &std::collections::BTreeMap<String, f64>)> =
            run.log.iter().filter_map(|line| Some((line.samples? as f64, line.class_weights.as_ref()?))).collect();
        let (_, last) = records.last()?;
        let mut heaviest: Vec<(&String, f64)> = last.iter().map(|(class, weight)| (class, *weight)).collect();
        heaviest.sort_by(|one, other| other.1.total_cmp(&one.1));
        let line = |(rank, (class, _)): (usize, &(&String, f64))| {
            let weight = |(x, weights): &(f64, &std::collections::BTreeMap<String, f64>)| {
                Some(Point { x: *x, y: weights.get(*class)? * weights.len() as f64, spread: 0.0 })
            };
            let points = records.iter().filter_map(weight).collect();
            match rank < NAMED {
                true => Line { label: class.to_string(), color: palette::line(rank), points, look: Look::Thin },
                false => Line { label: String::new(), color: palette::CONTEXT, points, look: Look::Context },
            }
        };
        let mut lines: Vec<Line> = heaviest.iter().enumerate().map(line).collect();
        let even = records.iter().map(|(x, _)| Point { x: *x, y: 1.0, spread: 0.0 }).collect();
        lines.push(Line { label: "even".to_string(), color: palette::MUTED, points: even, look: Look::Dashed });
        let x: Vec<f64> = records.iter().map(|(x, _)| *x).collect();
        let (x, y) = (Axis::count("samples trained on", &x), Axis::number("", &[heights(&lines), vec![0.0]].concat()));
        let about = format!("Class weights of {}", series.label);
        let caption = format!("seed {}", run.config.seed);
        Some(figure(&series.label, &caption, Plot { about, width: LARGE, x, y, lines, marks: Vec::new() }.draw()))
    };
    let plots: Vec<Markup> = group.series.iter().filter_map(plot).collect();
    if plots.is_empty() {
        return None;
    }
    let body = html! {
        p {
            "How much each class counts in the loss at the end of each step, in multiples of an even share among the classes "
            "seen (dashed). Every line is a class; the five that weigh most in the end have names."
        }
        div.panels.wide { @for plot in plots { (plot) } }
    };
    Some(Section { id: "weights", title: "Class weights", body })
}

fn predictions(group: &Group) -> Option<Section> {
    let gallery = Gallery::of(&group.series)?;
    let names: Vec<&str> = group.first().evaluation.steps.iter().map(|step| step.name.as_str()).collect();
    let one = group.series.len() == 1;
    let card = |card: &Card| {
        html! {
            div.card {
                @if let Some(picture) = &card.picture { img src=(picture) alt=(card.truth) width="72" height="72"; }
                p.over { (names.get(card.task).copied().unwrap_or_default()) }
                p { strong { (card.truth) } }
                ul { @for answer in &card.answers { li class=(if answer.right { "yes" } else { "no" }) {
                    (answer.predicted) @if !one { span title=(answer.by.join(", ")) { (some(&answer.by)) } }
                } } }
            }
        }
    };
    let kinds = [
        (if one { "Right" } else { "Right by most" }, &gallery.right),
        (if one { "Wrong" } else { "Wrong by most" }, &gallery.wrong),
    ];
    let body = html! {
        p {
            "Test images after the last step: the step that they are from, what they are, and what they were taken for. "
            @if !one { "Every run keeps a few images; the answers are of those that kept this one." }
        }
        @if let Some(note) = &gallery.note { p.note { "There are no pictures: " (note) } }
        @for (title, cards) in kinds {
            @if !cards.is_empty() { h4 { (title) } div.cards { @for shown in cards { (card(shown)) } } }
        }
    };
    Some(Section { id: "predictions", title: "Right and wrong", body })
}

/// The first few names, and how many more there are.
fn some(names: &[String]) -> String {
    const FEW: usize = 6;
    match names.len() {
        0..=FEW => names.join(", "),
        all => format!("{} and {} more", names[..FEW - 1].join(", "), all - FEW + 1),
    }
}

/// The runs and their settings, to run them again.
fn runs(group: &Group) -> Section {
    let first = group.first().config.to_toml();
    let changed = |run: &Run| -> Vec<String> {
        let text = run.config.to_toml();
        let skipped = |line: &&str| !line.starts_with("seed =") && !line.starts_with("method =");
        text.lines()
            .zip(first.lines())
            .filter(|(own, first)| own != first)
            .map(|(own, _)| own)
            .filter(skipped)
            .map(str::to_string)
            .collect()
    };
    let body = html! {
        p { "Where the runs are, and what " code { "--set" } " would have to change in the first's settings to make them again." }
        div.scroll tabindex="0" { table {
            thead { tr { th.name { "method" } th { "seed" } th.name { "directory" } th.name { "differs from the first in" } } }
            tbody { @for series in &group.series { @for run in &series.cell.runs { tr {
                td.name { (series.label) } td { (run.config.seed) } td.name { code { (run.path.display()) } }
                td.name { @for line in changed(run) { code { (line) } " " } }
            } } } }
        } }
        details {
            summary { "Settings of the first" }
            div.scroll tabindex="0" { pre { (first) } }
        }
    };
    Section { id: "runs", title: "Runs and settings", body }
}
