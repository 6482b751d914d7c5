//! One training step as a page: where its time goes, and every op beside what the device could do.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::document;
use super::palette;
use super::plots::{self, Axis, Bar, LARGE, Lane, Line, Look, Plot, Point, short_count};
use crate::ops::Cost;
use crate::ops::trace::{Activity, Event, Trace};

/// What a device can do at best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roof {
    /// Operations a second, of products.
    pub operations: f64,
    /// Bytes a second, of copies.
    pub bytes: f64,
}

impl Roof {
    /// The shortest time, in seconds, that an op of this cost can take.
    pub(crate) fn floor(&self, cost: Cost) -> f64 {
        (cost.operations as f64 / self.operations).max(cost.bytes as f64 / self.bytes)
    }
}

/// Ops that are told as one: all of a name, or all of a name at one shape.
#[derive(Clone, Debug, Default)]
struct Sum {
    name: &'static str,
    shape: String,
    count: usize,
    seconds: f64,
    floor: f64,
    operations: f64,
    bytes: f64,
}

impl Sum {
    fn add(&mut self, event: &Event, roof: &Roof) {
        self.count += 1;
        self.seconds += event.seconds;
        self.floor += roof.floor(event.cost);
        self.operations += event.cost.operations as f64;
        self.bytes += event.cost.bytes as f64;
    }

    /// Seconds that a device at its ceilings would not need.
    fn above_floor(&self) -> f64 {
        (self.seconds - self.floor).max(0.0)
    }
}

/// Sums over events of one name to which `shape` gives the same text, the longest first.
fn sums<'a>(events: impl Iterator<Item = &'a Event>, roof: &Roof, shape: impl Fn(&'a Event) -> &'a str) -> Vec<Sum> {
    let mut all: BTreeMap<(&str, &str), Sum> = BTreeMap::new();
    for event in events {
        let shape = shape(event);
        let sum = all.entry((event.name, shape)).or_insert_with(|| Sum {
            name: event.name,
            shape: shape.to_string(),
            ..Sum::default()
        });
        sum.add(event, roof);
    }
    let mut all: Vec<Sum> = all.into_values().collect();
    all.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    all
}

/// The page of a step. `facts` are names and values of what was run.
pub(crate) fn page(trace: &Trace, roof: &Roof, facts: &[(&str, String)]) -> String {
    let work = || trace.events.iter().filter(|event| event.activity != Activity::Phase);
    let by_name = sums(work(), roof, |_| "");
    let busy: f64 = by_name.iter().map(|sum| sum.seconds).sum();
    let floor: f64 = by_name.iter().map(|sum| sum.floor).sum();
    let lead = html! {
        "A step takes " strong { (milliseconds(trace.seconds)) } ", of which its ops " (milliseconds(busy))
        ". At the device's ceilings they would take " (milliseconds(floor)) ": "
        strong { (percent(floor / trace.seconds)) } " of the step."
    };
    let body = html! {
        dl.facts { @for (name, text) in facts { div { dt { (name) } dd { (text) } } } }
        section id="timeline" {
            h3 { "Timeline" }
            p { "Phases, and below them what the device was at, kind by kind, the longest first." }
            div.scroll tabindex="0" { (timeline(trace, &by_name)) }
        }
        section id="roofline" {
            h3 { "Roofline" }
            p {
                "Each kind of op by its operations a byte and its operations a second. The lines are what the device's copies and products "
                "reached in the same run; what stays in a cache can pass the first."
            }
            div.panels.wide { figure { (roofline(&by_name, roof)) } figure { (time_bars(&by_name)) } }
        }
        section id="ops" {
            h3 { "Ops" }
            p { "Every op and shape of the step. What stands above the floor is what there is to win." }
            div.scroll tabindex="0" { (table(&sums(work(), roof, |event| &event.shape), trace.seconds)) }
        }
    };
    let links = [("timeline", "Timeline"), ("roofline", "Roofline"), ("ops", "Ops")];
    document("Perennial bench", "A training step", lead, &links, body, "from one traced step.")
}

/// Whole kinds, the rest as one.
const LANES: usize = 12;

fn timeline(trace: &Trace, by_name: &[Sum]) -> Markup {
    let named = &by_name[..by_name.len().min(LANES)];
    let span = |event: &Event| (event.start, event.start + event.seconds);
    let phases = trace.events.iter().filter(|event| event.activity == Activity::Phase);
    let mut lanes = vec![Lane {
        label: "phase".to_string(),
        color: palette::line(7),
        spans: phases.map(|event| (span(event), event.name)).collect(),
    }];
    let work = || trace.events.iter().filter(|event| event.activity != Activity::Phase);
    for (number, sum) in named.iter().enumerate() {
        let own = work().filter(|event| event.name == sum.name);
        let spans = own.map(|event| (span(event), "")).collect();
        lanes.push(Lane { label: sum.name.to_string(), color: palette::line(number), spans });
    }
    if by_name.len() > LANES {
        let rest = work().filter(|event| named.iter().all(|sum| sum.name != event.name));
        let spans = rest.map(|event| (span(event), "")).collect();
        lanes.push(Lane { label: format!("{} others", by_name.len() - LANES), color: palette::line(7), spans });
    }
    let about = format!("What the device was at in a step of {}", milliseconds(trace.seconds));
    plots::timeline(&about, &lanes, trace.seconds)
}

/// Values on both axes are logarithms to the base of ten.
fn roofline(by_name: &[Sum], roof: &Roof) -> Markup {
    let ops: Vec<&Sum> = by_name.iter().filter(|sum| sum.operations > 0.0 && sum.bytes > 0.0).collect();
    let intensity = |sum: &Sum| (sum.operations / sum.bytes).log10();
    let rate = |sum: &Sum| (sum.operations / sum.seconds).log10();
    let (top, ridge) = (roof.operations.log10(), (roof.operations / roof.bytes).log10());
    let intensities: Vec<f64> = ops.iter().map(|sum| intensity(sum)).chain([ridge, ridge + 1.0]).collect();
    let rates: Vec<f64> = ops.iter().map(|sum| rate(sum)).chain([top]).collect();
    let (x, y) = (Axis::powers_of_ten("operations a byte", &intensities), Axis::powers_of_ten("", &rates));
    let (left, right) = x.ends();
    let corner = [left, ridge, right].map(|x| Point { x, y: top.min(roof.bytes.log10() + x), spread: 0.0 });
    let roof = Line { label: String::new(), color: palette::INK, points: corner.to_vec(), look: Look::Thin };
    let point = |(number, sum): (usize, &&Sum)| Line {
        label: sum.name.to_string(),
        color: palette::line(number),
        points: vec![Point { x: intensity(sum), y: rate(sum), spread: 0.0 }],
        look: Look::Marked,
    };
    let lines = std::iter::once(roof).chain(ops.iter().enumerate().map(point)).collect();
    let about = "Operations a second over operations a byte, and the device's ceilings".to_string();
    let plot = Plot { about, width: LARGE + 120.0, x, y, lines, marks: Vec::new() };
    html! { h4 { "Operations a second" } (plot.draw()) }
}

fn time_bars(by_name: &[Sum]) -> Markup {
    let bar = |(number, sum): (usize, &Sum)| Bar {
        label: sum.name.to_string(),
        color: palette::line(number),
        value: sum.seconds,
        spread: 0.0,
        text: format!("{} · {:.0}\u{a0}%", milliseconds(sum.seconds), 100.0 * sum.floor / sum.seconds),
    };
    let bars: Vec<Bar> = by_name.iter().take(LANES).enumerate().map(bar).collect();
    html! { h4 { "Time by kind of op, and the share of it that is floor" } (plots::bars("Milliseconds of each kind of op", &bars)) }
}

fn table(all: &[Sum], step: f64) -> Markup {
    let rate = |amount: f64, seconds: f64| if seconds > 0.0 { short_count(amount / seconds) } else { "-".to_string() };
    let microseconds = |seconds: f64| format!("{:.1}", seconds * 1e6);
    html! {
        table {
            thead { tr {
                th.name { "op" } th.name { "shape" } th { "times" } th { "µs" } th { "of the step" } th { "FLOP/s" } th { "B/s" }
                th { "floor" } th { "µs above it" }
            } }
            tbody { @for sum in all { tr {
                td.name { (sum.name) } td.name { (sum.shape) } td { (sum.count) } td { (microseconds(sum.seconds)) }
                td { (percent(sum.seconds / step)) } td { (rate(sum.operations, sum.seconds)) } td { (rate(sum.bytes, sum.seconds)) }
                td { (percent(sum.floor / sum.seconds)) } td { (microseconds(sum.above_floor())) }
            } } }
        }
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.2}\u{a0}ms", seconds * 1e3)
}

fn percent(part: f64) -> String {
    format!("{:.1}\u{a0}%", 100.0 * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(activity: Activity, name: &'static str, shape: &str, start: f64, seconds: f64) -> Event {
        let cost = if activity == Activity::Op {
            Cost { operations: 4000, bytes: 1000 }
        } else {
            Cost { operations: 0, bytes: 0 }
        };
        Event { activity, name, shape: shape.to_string(), cost, start, seconds }
    }

    #[test]
    fn a_step_is_summed_by_op_and_shape() {
        let roof = Roof { operations: 4e6, bytes: 1e9 };
        let events = vec![
            event(Activity::Phase, "forward", "", 0.0, 0.008),
            event(Activity::Op, "linear", "2 x 3", 0.0, 0.002),
            event(Activity::Op, "linear", "2 x 3", 0.002, 0.002),
            event(Activity::Op, "linear", "<5>", 0.004, 0.003),
            event(Activity::Traffic, "copy", "7", 0.007, 0.001),
        ];
        let trace = Trace { events, seconds: 0.01 };
        let work = trace.events[1..].iter();
        let found = sums(work, &roof, |event| &event.shape);
        let told: Vec<(&str, &str, usize)> =
            found.iter().map(|sum| (sum.name, sum.shape.as_str(), sum.count)).collect();
        assert_eq!(told, [("linear", "2 x 3", 2), ("linear", "<5>", 1), ("copy", "7", 1)]);
        // 4,000 operations at 4 million a second are a millisecond.
        approx::assert_relative_eq!(found[0].floor, 0.002, epsilon = 1e-12);
        approx::assert_relative_eq!(found[0].above_floor(), 0.002, epsilon = 1e-12);
        let page = page(&trace, &roof, &[("Model", "a & b".to_string())]);
        for part in ["10.00\u{a0}ms", "30.0\u{a0}%", "a &amp; b", "&lt;5&gt;", "forward", "<svg role=\"img\""] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("<5>") && !page.contains("<script"));
    }

    #[test]
    fn a_step_of_nothing_is_a_page_too() {
        let page = page(&Trace { events: Vec::new(), seconds: 0.0 }, &Roof { operations: 1.0, bytes: 1.0 }, &[]);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    }
}
