//! One look per method, the same in every figure of an experiment.

use std::collections::BTreeMap;

use super::{FigureError, Result};

/// Okabe and Ito's eight colours, the ones that read best on white first.
const COLOURS: [&str; 8] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"];

/// Dash patterns in points; the first is a full line.
const DASHES: [&str; 7] =
    ["", "5 1.6", "1.4 1.6", "6 1.6 1.4 1.6", "3 1.6", "6 1.6 1.4 1.6 1.4 1.6", "9 2"];

/// Shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    Circle,
    Square,
    Up,
    Diamond,
    Down,
    Pentagon,
    Star,
    Hexagon,
    Plus,
    Cross,
}

const MARKERS: [Marker; 9] = [
    Marker::Circle,
    Marker::Square,
    Marker::Up,
    Marker::Diamond,
    Marker::Down,
    Marker::Star,
    Marker::Pentagon,
    Marker::Plus,
    Marker::Hexagon,
];

/// Colour, dashes and marker of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Hex colour.
    pub(crate) colour: &'static str,
    /// SVG `stroke-dasharray`, empty for a full line.
    pub(crate) dash: &'static str,
    /// Shape of its points.
    pub(crate) marker: Marker,
    /// Position in the spec; staggers the markers along lines.
    pub(crate) index: usize,
}

impl Look {
    /// The look at `index`. The three lists have lengths 8, 7 and 9 without a common divisor, so
    /// the first 504 looks are all different and neighbours differ in all three properties.
    pub(crate) fn nth(index: usize) -> Self {
        Self {
            colour: COLOURS[index % COLOURS.len()],
            dash: DASHES[index % DASHES.len()],
            marker: MARKERS[index % MARKERS.len()],
            index,
        }
    }

    /// Yellow needs a dark edge to be seen on white.
    pub(crate) fn needs_edge(&self) -> bool {
        self.colour == "#F0E442"
    }
}

/// Assigns looks to methods by their order in the spec, so that a method keeps its colour over all
/// figures, also in those that do not show every method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Palette {
    looks: BTreeMap<String, Look>,
}

impl Palette {
    /// A palette for the methods of an experiment, in spec order. A repeated name keeps its first
    /// place.
    pub fn for_methods<S: AsRef<str>>(names: &[S]) -> Self {
        let mut looks = BTreeMap::new();
        for name in names {
            let next = Look::nth(looks.len());
            looks.entry(name.as_ref().to_owned()).or_insert(next);
        }
        Self { looks }
    }

    /// The hex colour of `name`, for text beside a figure (tables, badges of a report).
    pub fn colour(&self, name: &str) -> Option<&'static str> {
        self.looks.get(name).map(|l| l.colour)
    }

    pub(crate) fn look(&self, argument: &str, name: &str) -> Result<Look> {
        self.looks.get(name).copied().ok_or_else(|| FigureError::UnknownMethod {
            argument: argument.to_owned(),
            name: name.to_owned(),
        })
    }
}

fn rgb(hex: &str) -> [f64; 3] {
    let at = |i: usize| f64::from(u8::from_str_radix(&hex[i..i + 2], 16).unwrap_or(0));
    [at(1), at(3), at(5)]
}

/// Colour between `a` (t = 0) and `b` (t = 1).
pub(crate) fn mix(a: &str, b: &str, t: f64) -> String {
    let (a, b, t) = (rgb(a), rgb(b), t.clamp(0.0, 1.0));
    let c: Vec<u8> = (0..3).map(|i| (a[i] + (b[i] - a[i]) * t).round() as u8).collect();
    format!("#{:02x}{:02x}{:02x}", c[0], c[1], c[2])
}

/// White to dark blue for t in 0..=1.
pub(crate) fn sequential(t: f64) -> String {
    if t < 0.6 {
        mix("#f7fbff", "#4292c6", t / 0.6)
    } else {
        mix("#4292c6", "#08306b", (t - 0.6) / 0.4)
    }
}

/// Vermillion (-1) through white (0) to blue (+1).
pub(crate) fn diverging(t: f64) -> String {
    if t < 0.0 { mix("#ffffff", "#c24f00", -t) } else { mix("#ffffff", "#00639b", t) }
}

/// Black or white, whichever reads better on `fill` (WCAG relative luminance).
pub(crate) fn ink_on(fill: &str) -> &'static str {
    let linear = |v: f64| {
        let v = v / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    };
    let [r, g, b] = rgb(fill).map(linear);
    if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 { "#1a1a1a" } else { "#ffffff" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_distinct_and_follow_spec_order() {
        let all: Vec<Look> = (0..504).map(Look::nth).collect();
        for (i, a) in all.iter().enumerate().take(60) {
            for b in &all[i + 1..] {
                assert!((a.colour, a.dash, a.marker) != (b.colour, b.dash, b.marker));
            }
        }
        let palette = Palette::for_methods(&["b", "a", "b", "c"]);
        assert_eq!(palette.colour("b"), Some(COLOURS[0]));
        assert_eq!(palette.colour("a"), Some(COLOURS[1]));
        assert_eq!(palette.colour("c"), Some(COLOURS[2]));
        assert!(palette.look("methods", "d").is_err());
    }

    #[test]
    fn ink_contrasts() {
        assert_eq!(ink_on("#ffffff"), "#1a1a1a");
        assert_eq!(ink_on(&sequential(1.0)), "#ffffff");
        assert_eq!(mix("#000000", "#ffffff", 0.5), "#808080");
    }
}
