//! The plots of the page, as SVG.
//!
//! Every plot is small enough for a phone; a wide page puts several side by side. Names stand at the ends of the lines, so
//! that neither a legend nor colours must be learnt.

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::palette::{self, AXIS, CONTEXT, Color, GRID, INK, MUTED};

/// Units of a drawing to a pixel of the page: its coordinates are whole numbers.
const FINE: f64 = 4.0;
/// Sizes in pixels of the page: of a plot among many, and of one with much to say.
pub(crate) const SMALL: f64 = 340.0;
pub(crate) const LARGE: f64 = 400.0;
const TEXT: f64 = 11.5;
/// From one name at the end of a line to the next.
const LABEL_GAP: f64 = 14.0;
/// A letter's width, about; fonts differ.
const LETTER: f64 = 6.8;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn units(pixels: f64) -> i32 {
    (pixels * FINE).round() as i32
}

/// An SVG of this size in pixels; `about` is read to those who do not see it.
fn svg(width: f64, height: f64, about: &str, paint: impl FnOnce(&Area) -> Drawn) -> Markup {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, (units(width) as u32, units(height) as u32)).into_drawing_area();
    paint(&area).and_then(|()| area.present()).expect("a string takes every mark");
    drop(area);
    let named = format!("<svg role=\"img\" aria-label=\"{}\" ", html! { (about) }.into_string());
    PreEscaped(text.replacen("<svg ", &named, 1).replace(" opacity=\"1\"", ""))
}

fn style(color: Color, horizontal: HPos) -> TextStyle<'static> {
    // The crate takes a size that is 1.24 times what it writes.
    let font = ("sans-serif", TEXT * FINE * 1.24).into_font();
    font.color(&color).pos(Pos::new(horizontal, VPos::Center))
}

fn text(area: &Area, text: &str, style: &TextStyle, x: f64, y: f64) -> Drawn {
    area.draw(&Text::new(text.to_string(), (units(x), units(y)), style.clone()))
}

fn rectangle(area: &Area, x: (f64, f64), y: (f64, f64), style: ShapeStyle) -> Drawn {
    area.draw(&Rectangle::new([(units(x.0), units(y.0)), (units(x.1), units(y.1))], style))
}

fn path(area: &Area, points: &[(f64, f64)], style: ShapeStyle) -> Drawn {
    area.draw(&PathElement::new(points.iter().map(|(x, y)| (units(*x), units(*y))).collect::<Vec<_>>(), style))
}

/// Where an axis begins and ends, and what stands at it.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub title: String,
    range: (f64, f64),
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Numbers at round places, from 0 or, where `from_zero` is false, from about the least value.
    fn round(title: &str, values: &[f64], from_zero: bool, show: impl Fn(f64, f64) -> String) -> Axis {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (least, most) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        let (least, most) = if least > most { (0.0, 1.0) } else { (least, most) };
        let least = if from_zero { least.min(0.0) } else { least };
        let span = if most > least { most - least } else { most.abs().max(1e-9) };
        let magnitude = 10f64.powf((span / 4.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
        let step = step.into_iter().find(|step| span / step <= 6.0).unwrap_or(10.0 * magnitude);
        let (first, last) = ((least / step).floor() as i64, (most / step).ceil() as i64);
        let last = last.max(first + 1);
        let ticks = (first..=last).map(|number| number as f64 * step).map(|value| (value, show(value, step)));
        Axis { title: title.to_string(), range: (first as f64 * step, last as f64 * step), ticks: ticks.collect() }
    }

    /// Fractions, shown in per cent, from 0.
    pub(crate) fn percent(title: &str, values: &[f64]) -> Axis {
        Axis::round(title, values, true, show_percent)
    }

    /// The same near the values alone, for plots that compare what lies close together.
    pub(crate) fn percent_near(title: &str, values: &[f64]) -> Axis {
        Axis::round(title, values, false, show_percent)
    }

    /// Counts from 0: 20k, 1.5M. It ends with the largest, not with a round number, so that no width is lost.
    pub(crate) fn count(title: &str, values: &[f64]) -> Axis {
        let mut axis = Axis::round(title, values, true, |value, _| short_count(value));
        let most = values.iter().copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
        if most > 0.0 {
            axis.range.1 = 1.02 * most;
            axis.ticks.retain(|(value, _)| *value <= 1.02 * most);
        }
        axis
    }

    /// Any numbers.
    pub(crate) fn number(title: &str, values: &[f64]) -> Axis {
        Axis::round(title, values, false, |value, step| {
            if value == 0.0 {
                "0".to_string()
            } else if step < 1e-3 {
                format!("{value:.0e}")
            } else {
                format!("{value:.*}", (-step.log10().floor()).clamp(0.0, 6.0) as usize)
            }
        })
    }

    /// Powers of ten, by their exponents.
    pub(crate) fn powers_of_ten(title: &str, exponents: &[f64]) -> Axis {
        Axis::round(title, exponents, false, |exponent, _| match exponent.fract() {
            0.0 => short_power(exponent as i32),
            _ => String::new(),
        })
    }

    /// Where it begins and ends.
    pub(crate) fn ends(&self) -> (f64, f64) {
        self.range
    }

    /// Names at 0, 1, 2, ...
    pub(crate) fn names(title: &str, names: &[String]) -> Axis {
        let last = names.len() as f64 - 1.0;
        let ticks = names.iter().enumerate().map(|(place, name)| (place as f64, name.clone()));
        let margin = if names.len() < 2 { 0.5 } else { 0.04 * last };
        Axis { title: title.to_string(), range: (-margin, last + margin), ticks: ticks.collect() }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.0) / (self.range.1 - self.range.0);
        limit.0 + (part * (limit.1 - limit.0) as f64).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.ticks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let here = self.ticks.iter().find(|(place, _)| place == value);
        here.map(|(_, name)| name.clone()).unwrap_or_default()
    }
}

fn show_percent(value: f64, step: f64) -> String {
    format!("{:.*}", if step < 0.01 - 1e-9 { 1 } else { 0 }, 100.0 * value)
}

/// `1500000` as `1.5M`.
pub(crate) fn short_count(value: f64) -> String {
    let (size, letter) = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
        .into_iter()
        .find(|(size, _)| value.abs() >= *size)
        .unwrap_or((1.0, ""));
    let number = value / size;
    let decimals = if number.abs() < 10.0 { 2 } else { 1 };
    let shown = format!("{number:.decimals$}");
    format!("{}{letter}", shown.trim_end_matches('0').trim_end_matches('.'))
}

/// `-2` as `0.01`, `7` as `10M`.
fn short_power(exponent: i32) -> String {
    if exponent < 0 {
        format!("{:.*}", -exponent as usize, 10f64.powi(exponent))
    } else {
        short_count(10f64.powi(exponent))
    }
}

/// A place on a line, and how far the seeds spread to either side of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub x: f64,
    pub y: f64,
    pub spread: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Points joined by a line, a band for the seeds' spread.
    Marked,
    /// A thin line without marks.
    Thin,
    /// Behind everything, without colour.
    Context,
    /// Something to compare with.
    Dashed,
}

/// A line of a plot.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Stands at its right end; empty for none.
    pub label: String,
    pub color: Color,
    pub points: Vec<Point>,
    pub look: Look,
}

/// Lines over an axis.
pub(crate) struct Plot {
    pub about: String,
    /// [`SMALL`] or [`LARGE`].
    pub width: f64,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    /// Places on the x axis that are marked from top to bottom.
    pub marks: Vec<f64>,
}

/// More bands than these would hide one another.
const BANDS: usize = 6;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

impl Plot {
    pub(crate) fn draw(&self) -> Markup {
        let named = self.named();
        let longest = named.iter().map(|line| line.label.chars().count()).max().unwrap_or(0);
        let margin = if longest > 0 { 22.0 + LETTER * longest as f64 } else { 14.0 };
        let height = (0.62 * self.width).max(named.len() as f64 * LABEL_GAP + 50.0);
        svg(self.width, height, &self.about, |area| {
            let mut chart = self.draw_axes(area, margin)?;
            for place in &self.marks {
                let ends = vec![(*place, self.y.range.0), (*place, self.y.range.1)];
                chart.draw_series([PathElement::new(ends, GRID.stroke_width(units(1.0) as u32))])?;
            }
            let with_spread = |line: &&Line| line.look == Look::Marked && line.points.len() > 1;
            let bands = self.lines.iter().filter(with_spread).count() <= BANDS;
            let (behind, before): (Vec<&Line>, Vec<&Line>) =
                self.lines.iter().partition(|line| line.look == Look::Context);
            for line in behind.into_iter().chain(before) {
                self.draw_line(&mut chart, line, bands)?;
            }
            self.draw_names(area, &chart, height, self.width - margin)
        })
    }

    /// The lines that have names at their ends.
    fn named(&self) -> Vec<&Line> {
        self.lines.iter().filter(|line| !line.label.is_empty() && !line.points.is_empty()).collect()
    }

    /// Axes and grid, with `margin` pixels at the right.
    fn draw_axes<'a, 'b>(
        &self,
        area: &'a Area<'b>,
        margin: f64,
    ) -> Result<Chart<'a, 'b>, DrawingAreaErrorKind<std::io::Error>> {
        let widest = self.y.ticks.iter().map(|(_, name)| name.chars().count()).max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .margin_top(units(10.0))
            .margin_right(units(margin))
            .x_label_area_size(units(if self.x.title.is_empty() { 22.0 } else { 38.0 }))
            .y_label_area_size(units(12.0 + LETTER * widest as f64))
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let label = style(MUTED, HPos::Left);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID.stroke_width(units(1.0) as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(AXIS.stroke_width(units(1.0) as u32))
            .set_all_tick_mark_size(units(3.0))
            .label_style(label.clone())
            .axis_desc_style(label)
            .x_desc(self.x.title.as_str())
            .draw()?;
        Ok(chart)
    }

    /// What leaves the plot stays at its edge.
    fn clip(&self, value: f64) -> f64 {
        value.clamp(self.y.range.0, self.y.range.1)
    }

    fn draw_line(&self, chart: &mut Chart, line: &Line, bands: bool) -> Drawn {
        let color = if line.look == Look::Context { CONTEXT } else { line.color };
        let width = match line.look {
            Look::Marked => 2.2,
            Look::Thin | Look::Dashed => 1.3,
            Look::Context => 1.1,
        };
        let stroke = |width: f64| color.stroke_width(units(width) as u32);
        let moved = |by: f64| move |point: &Point| (point.x, self.clip(point.y + by * point.spread));
        if line.look == Look::Marked && line.points.iter().any(|point| point.spread > 0.0) {
            if let [point] = &line.points[..] {
                chart.draw_series([PathElement::new(vec![moved(1.0)(point), moved(-1.0)(point)], stroke(1.3))])?;
            } else if bands {
                let around = line.points.iter().map(moved(1.0)).chain(line.points.iter().rev().map(moved(-1.0)));
                chart.draw_series([Polygon::new(around.collect::<Vec<_>>(), color.mix(0.18).filled())])?;
            }
        }
        let places: Vec<(f64, f64)> = line.points.iter().map(moved(0.0)).collect();
        if line.look == Look::Dashed {
            chart.draw_series(DashedLineSeries::new(places, units(5.0), units(4.0), stroke(width)))?;
            return Ok(());
        }
        if places.len() > 1 {
            chart.draw_series([PathElement::new(places.clone(), stroke(width))])?;
        }
        let radius = match (line.look, places.len()) {
            (Look::Marked, 1) => 4.5,
            (Look::Marked, _) => 2.6,
            (_, 1) => 1.5,
            _ => return Ok(()),
        };
        chart.draw_series(places.into_iter().map(|place| Circle::new(place, units(radius), color.filled())))?;
        Ok(())
    }

    /// Names at the lines' ends; the plot itself ends at `edge`.
    fn draw_names(&self, area: &Area, chart: &Chart, height: f64, edge: f64) -> Drawn {
        /// Points nearer to one another are a heap, with one column of names.
        const HEAP: f64 = 20.0;
        let named = self.named();
        let end = |line: &Line| {
            let last = line.points.last().expect("a line with a name has points");
            let (x, y) = chart.backend_coord(&(last.x, self.clip(last.y)));
            (x as f64 / FINE, y as f64 / FINE)
        };
        // Single points far from the edge have their names beside their heap if nothing stands there; all other names
        // stand in a column at the right.
        let is_beside = |line: &&Line| {
            let (x, _) = end(line);
            let reach = x + HEAP + LETTER * line.label.chars().count() as f64;
            let is_free = |other: f64| other < x + HEAP || other > reach;
            line.points.len() == 1 && x < 0.6 * edge && named.iter().all(|other| is_free(end(other).0))
        };
        let (mut beside, at_the_right): (Vec<&Line>, Vec<&Line>) = named.iter().partition(|line| is_beside(line));
        beside.sort_by(|one, other| end(one).0.total_cmp(&end(other).0));
        let heaps = beside.chunk_by(|one, other| end(other).0 - end(one).0 < HEAP);
        let heaps = heaps.map(|lines| (end(lines[lines.len() - 1]).0, lines));
        for (x, lines) in heaps.chain([(edge, &at_the_right[..])]) {
            let left = x + 16.0;
            let wanted: Vec<f64> = lines.iter().map(|line| end(line).1).collect();
            for (line, place) in lines.iter().zip(apart(&wanted, LABEL_GAP, 8.0, height - 46.0)) {
                let (x, y) = end(line);
                let leads = [(x + 5.0, y), (left - 8.0, place), (left - 3.0, place)];
                path(area, &leads, line.color.mix(0.55).stroke_width(units(0.8) as u32))?;
                text(area, &line.label, &style(line.color, HPos::Left), left, place)?;
            }
        }
        Ok(())
    }
}

/// Places as near as may be to those wanted, at least `gap` from one another, between `low` and `high` if they fit.
fn apart(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut places = vec![0.0; wanted.len()];
    let mut least = low;
    for place in &order {
        places[*place] = wanted[*place].max(least);
        least = places[*place] + gap;
    }
    let mut most = high;
    for place in order.iter().rev() {
        places[*place] = places[*place].min(most);
        most = places[*place] - gap;
    }
    places
}

/// One bar of [`bars`]: a part of the longest, and what stands behind it.
pub(crate) struct Bar {
    pub label: String,
    pub color: Color,
    pub value: f64,
    pub spread: f64,
    pub text: String,
}

/// Bars from the left, one under the other.
pub(crate) fn bars(about: &str, bars: &[Bar]) -> Markup {
    const ROW: f64 = 23.0;
    let width_of = |text: &dyn Fn(&Bar) -> usize| LETTER * bars.iter().map(text).max().unwrap_or(0) as f64;
    let (left, right) =
        (10.0 + width_of(&|bar| bar.label.chars().count()), 8.0 + width_of(&|bar| bar.text.chars().count()));
    let most = bars.iter().map(|bar| bar.value + bar.spread).fold(1e-9, f64::max);
    let x = |value: f64| left + (LARGE - left - right) * (value / most).clamp(0.0, 1.0);
    svg(LARGE, ROW * bars.len() as f64 + 4.0, about, |area| {
        for (place, bar) in bars.iter().enumerate() {
            let middle = ROW * (place as f64 + 0.5) + 2.0;
            text(area, &bar.label, &style(INK, HPos::Right), left - 8.0, middle)?;
            // A bar of nothing is a hairline, so that one sees that it was drawn.
            let end = x(bar.value).max(left + 1.0);
            rectangle(area, (left, end), (middle - 7.0, middle + 7.0), bar.color.mix(0.85).filled())?;
            let (low, high) = (x(bar.value - bar.spread), x(bar.value + bar.spread));
            if bar.spread > 0.0 {
                let line = INK.stroke_width(units(1.2) as u32);
                path(area, &[(low, middle), (high, middle)], line)?;
                for end in [low, high] {
                    path(area, &[(end, middle - 3.0), (end, middle + 3.0)], line)?;
                }
            }
            text(area, &bar.text, &style(MUTED, HPos::Left), high.max(end) + 6.0, middle)?;
        }
        Ok(())
    })
}

/// A row of [`timeline`]: from when to when something was done, and what stands there if there is room.
pub(crate) struct Lane<'a> {
    pub label: String,
    pub color: Color,
    pub spans: Vec<((f64, f64), &'a str)>,
}

/// Lanes one under the other, over `seconds`.
pub(crate) fn timeline(about: &str, lanes: &[Lane], seconds: f64) -> Markup {
    const WIDTH: f64 = 1080.0;
    const ROW: f64 = 22.0;
    let left = 10.0 + LETTER * lanes.iter().map(|lane| lane.label.chars().count()).max().unwrap_or(0) as f64;
    let axis = Axis::round("", &[0.0, seconds * 1e3], true, |value, step| {
        format!("{value:.*} ms", (-step.log10().floor()).clamp(0.0, 6.0) as usize)
    });
    let x = |seconds_in: f64| left + (WIDTH - left - 14.0) * (seconds_in * 1e3 / axis.range.1).clamp(0.0, 1.0);
    let bottom = ROW * lanes.len() as f64 + 4.0;
    svg(WIDTH, bottom + 22.0, about, |area| {
        for (value, name) in &axis.ticks {
            let place = x(value / 1e3);
            path(area, &[(place, 2.0), (place, bottom)], GRID.stroke_width(units(1.0) as u32))?;
            text(area, name, &style(MUTED, HPos::Center), place.clamp(left, WIDTH - 24.0), bottom + 12.0)?;
        }
        for (row, lane) in lanes.iter().enumerate() {
            let middle = ROW * (row as f64 + 0.5) + 2.0;
            text(area, &lane.label, &style(INK, HPos::Right), left - 8.0, middle)?;
            for ((from, to), name) in &lane.spans {
                // What is too short to be seen is a hairline.
                let (from, to) = (x(*from), x(*to).max(x(*from) + 0.5));
                rectangle(area, (from, to), (middle - 7.0, middle + 7.0), lane.color.mix(0.85).filled())?;
                if to - from > LETTER * (name.chars().count() + 1) as f64 {
                    text(area, name, &style(WHITE, HPos::Center), (from + to) / 2.0, middle)?;
                }
            }
        }
        Ok(())
    })
}

/// Fractions as shades from 0 to `most`, in per cent where there is room; the diagonal has a frame. `rows` are names.
pub(crate) fn heat_map(about: &str, matrix: &[Vec<Option<f64>>], rows: &[String], most: f64) -> Markup {
    let columns = matrix.first().map(Vec::len).unwrap_or(0).max(1);
    let left = 8.0 + LETTER * rows.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64;
    let top = 18.0;
    let side = ((SMALL - left) / columns as f64).min(56.0);
    let height = side.min(34.0);
    let mean = |column: usize| left + side * (column as f64 + 0.5);
    svg(left + side * columns as f64 + 1.0, top + height * matrix.len() as f64 + 1.0, about, |area| {
        let every = columns.div_ceil(20);
        for column in (0..columns).step_by(every) {
            text(area, &(column + 1).to_string(), &style(MUTED, HPos::Center), mean(column), top - 9.0)?;
        }
        for (row, values) in matrix.iter().enumerate() {
            let (upper, lower) = (top + height * row as f64, top + height * (row as f64 + 1.0));
            if row % every == 0 {
                let name = rows.get(row).map(String::as_str).unwrap_or_default();
                text(area, name, &style(MUTED, HPos::Right), left - 5.0, (upper + lower) / 2.0)?;
            }
            for (column, value) in values.iter().enumerate() {
                let (x, y) = ((left + side * column as f64, left + side * (column as f64 + 1.0)), (upper, lower));
                let Some(value) = value else { continue };
                let (color, ink) = palette::shade(value / most.max(1e-9));
                rectangle(area, (x.0 + 0.5, x.1 - 0.5), (y.0 + 0.5, y.1 - 0.5), color.filled())?;
                if columns <= 12 {
                    let shown = format!("{:.0}", 100.0 * value);
                    text(area, &shown, &style(ink, HPos::Center), mean(column), (upper + lower) / 2.0)?;
                }
            }
        }
        for place in 0..matrix.len().min(columns) {
            let (x, y) = (left + side * place as f64, top + height * place as f64);
            let corners = [(x, y), (x + side, y), (x + side, y + height), (x, y + height), (x, y)];
            path(area, &corners, INK.stroke_width(units(1.2) as u32))?;
        }
        Ok(())
    })
}

/// What the shades of [`heat_map`] stand for.
pub(crate) fn heat_scale(most: f64) -> Markup {
    const STEPS: usize = 24;
    let width = 240.0;
    let x = |part: f64| 14.0 + part * (width - 28.0);
    svg(width, 30.0, &format!("Shades from 0 to {:.0} per cent", 100.0 * most), |area| {
        for step in 0..STEPS {
            let (low, high) = (step as f64 / STEPS as f64, (step + 1) as f64 / STEPS as f64);
            let (color, _) = palette::shade(step as f64 / (STEPS - 1) as f64);
            rectangle(area, (x(low), x(high)), (2.0, 12.0), color.filled())?;
        }
        for part in [0.0, 0.5, 1.0] {
            text(area, &format!("{:.0} %", 100.0 * part * most), &style(MUTED, HPos::Center), x(part), 21.0)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_distance_and_their_order() {
        let places = apart(&[50.0, 10.0, 52.0, 51.0, 99.0], 10.0, 0.0, 100.0);
        let mut sorted = places.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 10.0 - 1e-9), "{places:?}");
        assert!(places[1] < places[0] && places[0] < places[3] && places[3] < places[2] && places[2] < places[4]);
        assert!(sorted[0] >= 0.0 && sorted[4] <= 100.0);
    }

    #[test]
    fn axes_end_at_round_numbers_whatever_the_values() {
        let axis = Axis::percent("", &[0.123, 0.417]);
        let names: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["0", "10", "20", "30", "40", "50"]);
        for values in [vec![], vec![f64::NAN], vec![0.0], vec![3.0, 3.0], vec![f64::INFINITY, 1.0], vec![-2.0]] {
            for axis in [Axis::percent("", &values), Axis::count("", &values), Axis::number("", &values)] {
                assert!(axis.range.0 < axis.range.1 && axis.ticks.len() < 20, "{values:?}: {axis:?}");
            }
        }
        assert_eq!([0.0, 950.0, 20_000.0, 1_500_000.0].map(short_count), ["0", "950", "20k", "1.5M"]);
    }

    #[test]
    fn texts_are_escaped() {
        let line = |label: &str| Line {
            label: label.to_string(),
            color: palette::line(0),
            points: vec![Point { x: 0.0, y: 0.5, spread: 0.1 }],
            look: Look::Marked,
        };
        let names = ["<script>".to_string()];
        let (x, y) = (Axis::names("a & b", &names), Axis::percent("", &[0.5]));
        let plot = Plot {
            about: "\"<b>\"".to_string(),
            width: SMALL,
            x,
            y,
            lines: vec![line("</svg><i>")],
            marks: Vec::new(),
        };
        let drawn = plot.draw().into_string();
        for wrong in ["<script>", "</svg><i>", "\"<b>", "a & b"] {
            assert!(!drawn.contains(wrong), "{wrong}: {drawn}");
        }
    }
}
