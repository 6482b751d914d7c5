//! The colours of the plots, in pairs: one for a light page, one for a dark page.
//!
//! Plots are drawn in the light ones, and the style sheet gives each its dark partner: every light colour is therefore the
//! name of one role and of no other. The colours of lines stay apart for colour-blind eyes (after Okabe and Ito, darkened
//! or lightened to stand out from the page); labels at the lines say which is which all the same.

use std::fmt::Write;

use plotters::style::{RGBColor, WHITE};

/// A colour of a plot by its role.
pub(crate) type Color = RGBColor;

/// Texts in plots.
pub(crate) const INK: Color = RGBColor(0x1c, 0x20, 0x24);
/// Numbers and names at the axes.
pub(crate) const MUTED: Color = RGBColor(0x5b, 0x64, 0x70);
pub(crate) const AXIS: Color = RGBColor(0xae, 0xb6, 0xc0);
pub(crate) const GRID: Color = RGBColor(0xe6, 0xe9, 0xed);
/// What the others did, behind what is shown.
pub(crate) const CONTEXT: Color = RGBColor(0xd3, 0xd8, 0xde);

const ROLES: [(Color, Color); 5] = [
    (INK, RGBColor(0xe8, 0xea, 0xed)),
    (MUTED, RGBColor(0x9a, 0xa4, 0xb0)),
    (AXIS, RGBColor(0x4d, 0x57, 0x63)),
    (GRID, RGBColor(0x27, 0x2d, 0x35)),
    (CONTEXT, RGBColor(0x46, 0x50, 0x5c)),
];

const LINES: [(Color, Color); 8] = [
    (RGBColor(0x00, 0x72, 0xb2), RGBColor(0x5c, 0xb4, 0xf0)),
    (RGBColor(0xcf, 0x57, 0x00), RGBColor(0xf5, 0x93, 0x45)),
    (RGBColor(0x00, 0x8f, 0x68), RGBColor(0x3a, 0xcd, 0xa4)),
    (RGBColor(0xb0, 0x44, 0x8c), RGBColor(0xe4, 0x92, 0xc8)),
    (RGBColor(0x86, 0x6c, 0x00), RGBColor(0xe3, 0xc6, 0x4a)),
    (RGBColor(0x2b, 0x9d, 0xd6), RGBColor(0xa2, 0xdb, 0xfb)),
    (RGBColor(0x75, 0x4f, 0xb8), RGBColor(0xbd, 0xa4, 0xf4)),
    (RGBColor(0x6a, 0x71, 0x7b), RGBColor(0xb4, 0xbc, 0xc6)),
];

/// The colour of the `number`th method; they come again after eight.
pub(crate) fn line(number: usize) -> Color {
    LINES[number % LINES.len()].0
}

/// Shades of a heat map, from the page's own colour to the strongest.
const SHADES: usize = 24;
const LIGHT_SHADES: [Color; 5] = [
    RGBColor(0xf1, 0xf4, 0xf8),
    RGBColor(0xbf, 0xd8, 0xec),
    RGBColor(0x6a, 0xa8, 0xd6),
    RGBColor(0x1f, 0x71, 0xb4),
    RGBColor(0x08, 0x3a, 0x70),
];
const DARK_SHADES: [Color; 5] = [
    RGBColor(0x1b, 0x22, 0x2b),
    RGBColor(0x1e, 0x3b, 0x57),
    RGBColor(0x22, 0x62, 0x99),
    RGBColor(0x3f, 0x98, 0xda),
    RGBColor(0xb2, 0xe0, 0xff),
];
/// Numbers on shades: dark or white on the light page, each with white or dark on the dark page.
const SHADE_INKS: [(Color, Color); 4] = [
    (RGBColor(0x14, 0x18, 0x1c), WHITE),
    (RGBColor(0x14, 0x18, 0x1d), RGBColor(0x0c, 0x10, 0x14)),
    (WHITE, WHITE),
    (RGBColor(0xff, 0xff, 0xfe), RGBColor(0x0c, 0x10, 0x14)),
];

/// The colour of a part in [0, 1], and that of a number on it: in each theme the one that is read best.
pub(crate) fn shade(part: f64) -> (Color, Color) {
    let number = (part.clamp(0.0, 1.0) * (SHADES - 1) as f64).round() as usize;
    let (light, dark) = (blend(&LIGHT_SHADES, number), blend(&DARK_SHADES, number));
    let read = |inks: &&(Color, Color)| contrast(light, inks.0) + contrast(dark, inks.1);
    let inks = SHADE_INKS.iter().max_by(|one, other| read(one).total_cmp(&read(other)));
    (light, inks.expect("there are inks").0)
}

/// WCAG's contrast of two colours.
fn contrast(one: Color, other: Color) -> f64 {
    let linear = |value: u8| {
        let value = value as f64 / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = |c: Color| 0.2126 * linear(c.0) + 0.7152 * linear(c.1) + 0.0722 * linear(c.2) + 0.05;
    let (one, other) = (luminance(one), luminance(other));
    one.max(other) / one.min(other)
}

/// The `number`th of all shades, between those that are given.
fn blend(given: &[Color; 5], number: usize) -> Color {
    let place = number as f64 * 4.0 / (SHADES - 1) as f64;
    let (low, part) = ((place as usize).min(3), place - place.floor().min(3.0));
    let mix = |low: u8, high: u8| (low as f64 + part * (high as f64 - low as f64)).round() as u8;
    let (low, high) = (given[low], given[low + 1]);
    RGBColor(mix(low.0, high.0), mix(low.1, high.1), mix(low.2, high.2))
}

/// Every pair.
fn pairs() -> impl Iterator<Item = (Color, Color)> {
    let shades = (0..SHADES).map(|number| (blend(&LIGHT_SHADES, number), blend(&DARK_SHADES, number)));
    ROLES.into_iter().chain(LINES).chain(SHADE_INKS).chain(shades)
}

/// Rules that put the dark colours in the place of the light ones.
pub(crate) fn dark_rules() -> String {
    let mut rules = String::new();
    for (light, dark) in pairs() {
        let (light, dark) = (hex(light), hex(dark));
        for place in ["fill", "stroke"] {
            writeln!(rules, "svg [{place}=\"{light}\"] {{ {place}: {dark} }}").expect("a string takes any text");
        }
    }
    rules
}

/// As the plots write it.
fn hex(color: Color) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_light_colour_has_one_role() {
        let mut light: Vec<String> = pairs().map(|(light, _)| hex(light)).collect();
        let count = light.len();
        light.sort();
        light.dedup();
        assert_eq!(light.len(), count);
    }

    #[test]
    fn numbers_can_be_read_on_every_shade_in_both_themes() {
        for number in 0..SHADES {
            let (_, ink) = shade(number as f64 / (SHADES - 1) as f64);
            let dark_ink = SHADE_INKS.iter().find(|pair| pair.0 == ink).unwrap().1;
            let (light, dark) = (blend(&LIGHT_SHADES, number), blend(&DARK_SHADES, number));
            assert!(contrast(light, ink) > 4.0, "shade {number}: {}", contrast(light, ink));
            assert!(contrast(dark, dark_ink) > 4.0, "dark shade {number}: {}", contrast(dark, dark_ink));
        }
    }
}
