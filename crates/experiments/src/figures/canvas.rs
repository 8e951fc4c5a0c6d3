//! A small SVG writer: absolute coordinates in points, three decimals, attributes in fixed order.
//!
//! Nothing here knows about axes or data. No `<style>` element is written, because a style sheet
//! of an inlined SVG applies to the whole page; ids carry the figure's name for the same reason.

use std::fmt::Write as _;

use super::palette::{Look, Marker};
use super::text;

/// Ink of text and axes.
pub(crate) const INK: &str = "#222222";
/// Ink of secondary text.
pub(crate) const MUTED: &str = "#595959";
/// Axis lines.
pub(crate) const AXIS: &str = "#555555";
/// Grid lines.
pub(crate) const GRID: &str = "#e4e4e4";

/// Where a text is anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Ink, width (points) and dashes of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stroke<'a> {
    pub(crate) colour: &'a str,
    pub(crate) width: f64,
    pub(crate) dash: &'a str,
}

impl<'a> Stroke<'a> {
    pub(crate) const fn full(colour: &'a str, width: f64) -> Self {
        Self { colour, width, dash: "" }
    }
}

/// A rectangle in points, y downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Area {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) w: f64,
    pub(crate) h: f64,
}

impl Area {
    pub(crate) fn right(&self) -> f64 {
        self.x + self.w
    }

    pub(crate) fn bottom(&self) -> f64 {
        self.y + self.h
    }
}

/// A piece of a label; `raised` pieces are exponents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) text: String,
    pub(crate) raised: bool,
}

impl Run {
    pub(crate) fn plain(text: impl Into<String>) -> Vec<Self> {
        vec![Self { text: text.into(), raised: false }]
    }

    /// `base` to the power `exponent`.
    pub(crate) fn power(base: &str, exponent: i32) -> Vec<Self> {
        vec![
            Self { text: base.to_owned(), raised: false },
            Self { text: text::fixed(f64::from(exponent), 0), raised: true },
        ]
    }
}

const RAISED: f64 = 0.72;

/// Width of a label in points.
pub(crate) fn runs_width(runs: &[Run], size: f64) -> f64 {
    runs.iter().map(|r| text::width(&r.text, if r.raised { size * RAISED } else { size })).sum()
}

/// Three decimals, no trailing zeros, no negative zero.
pub(crate) fn num(v: f64) -> String {
    let mut s = format!("{v:.3}");
    s.truncate(s.trim_end_matches('0').trim_end_matches('.').len());
    if s == "-0" { "0".to_owned() } else { s }
}

/// Text for XML: the five entities, and U+FFFD for what XML 1.0 forbids.
pub(crate) fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

/// Growing SVG body; the height is known only when the last row has been placed.
pub(crate) struct Canvas {
    slug: String,
    defs: String,
    body: String,
    clips: usize,
    hatched: bool,
}

impl Canvas {
    pub(crate) fn new(slug: &str) -> Self {
        Self {
            slug: slug.to_owned(),
            defs: String::new(),
            body: String::new(),
            clips: 0,
            hatched: false,
        }
    }

    fn stroke_attributes(s: &Stroke) -> String {
        let mut out = format!(r#" stroke="{}" stroke-width="{}""#, s.colour, num(s.width));
        if !s.dash.is_empty() {
            let _ = write!(out, r#" stroke-dasharray="{}""#, s.dash);
        }
        out
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &Stroke) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{}" y1="{}" x2="{}" y2="{}"{}/>"#,
            num(from.0),
            num(from.1),
            num(to.0),
            num(to.1),
            Self::stroke_attributes(stroke)
        );
    }

    pub(crate) fn rect(&mut self, area: &Area, fill: &str, stroke: Option<&Stroke>) {
        let stroke = stroke.map(Self::stroke_attributes).unwrap_or_default();
        let _ = writeln!(
            self.body,
            r#"<rect x="{}" y="{}" width="{}" height="{}" fill="{fill}"{stroke}/>"#,
            num(area.x),
            num(area.y),
            num(area.w.max(0.0)),
            num(area.h.max(0.0)),
        );
    }

    /// Open path through `points`.
    pub(crate) fn polyline(&mut self, points: &[(f64, f64)], stroke: &Stroke) {
        if points.len() < 2 {
            return;
        }
        let d = path_data(points);
        let _ = writeln!(
            self.body,
            r#"<path d="{d}" fill="none" stroke-linejoin="round"{}/>"#,
            Self::stroke_attributes(stroke)
        );
    }

    /// Closed filled path.
    pub(crate) fn polygon(&mut self, points: &[(f64, f64)], fill: &str, opacity: f64) {
        if points.len() < 3 {
            return;
        }
        let d = path_data(points);
        let _ = writeln!(
            self.body,
            r#"<path d="{d}Z" fill="{fill}" fill-opacity="{}"/>"#,
            num(opacity)
        );
    }

    /// A point of radius about `r`; hollow ones are filled white.
    pub(crate) fn marker(&mut self, at: (f64, f64), r: f64, look: &Look, hollow: bool) {
        let fill = if hollow { "#ffffff" } else { look.colour };
        let edge = if look.needs_edge() { "#555555" } else { look.colour };
        self.shape(at, r, look.marker, fill, &Stroke::full(edge, 0.9));
    }

    /// A small × at the end of a failed or censored run.
    pub(crate) fn cross(&mut self, at: (f64, f64), r: f64, colour: &str) {
        self.shape(at, r, Marker::Cross, "none", &Stroke::full("#ffffff", 2.4));
        self.shape(at, r, Marker::Cross, "none", &Stroke::full(colour, 1.2));
    }

    fn shape(&mut self, (x, y): (f64, f64), r: f64, marker: Marker, fill: &str, stroke: &Stroke) {
        let ring = |n: usize, radius: f64, turn: f64| -> Vec<(f64, f64)> {
            (0..n)
                .map(|i| {
                    let a = turn + std::f64::consts::TAU * i as f64 / n as f64;
                    (x + radius * a.sin(), y - radius * a.cos())
                })
                .collect()
        };
        let half = std::f64::consts::PI;
        // Radii are tuned so that all shapes look equally heavy.
        let points = match marker {
            Marker::Circle => {
                let _ = writeln!(
                    self.body,
                    r#"<circle cx="{}" cy="{}" r="{}" fill="{fill}"{}/>"#,
                    num(x),
                    num(y),
                    num(r),
                    Self::stroke_attributes(stroke)
                );
                return;
            }
            Marker::Plus | Marker::Cross => {
                let a = if marker == Marker::Plus { r * 1.15 } else { r * 0.85 };
                let d = if marker == Marker::Plus {
                    format!(
                        "M{} {}H{}M{} {}V{}",
                        num(x - a),
                        num(y),
                        num(x + a),
                        num(x),
                        num(y - a),
                        num(y + a)
                    )
                } else {
                    format!(
                        "M{} {}L{} {}M{} {}L{} {}",
                        num(x - a),
                        num(y - a),
                        num(x + a),
                        num(y + a),
                        num(x - a),
                        num(y + a),
                        num(x + a),
                        num(y - a)
                    )
                };
                let width = if marker == Marker::Plus { stroke.width * 1.5 } else { stroke.width };
                let stroke = Stroke { width, ..*stroke };
                let _ = writeln!(
                    self.body,
                    r#"<path d="{d}" fill="none"{}/>"#,
                    Self::stroke_attributes(&stroke)
                );
                return;
            }
            Marker::Square => ring(4, r * 1.25, half / 4.0),
            Marker::Diamond => ring(4, r * 1.3, 0.0),
            Marker::Up => ring(3, r * 1.35, 0.0),
            Marker::Down => ring(3, r * 1.35, half),
            Marker::Pentagon => ring(5, r * 1.15, 0.0),
            Marker::Hexagon => ring(6, r * 1.1, half / 6.0),
            Marker::Star => {
                let (outer, inner) = (ring(5, r * 1.5, 0.0), ring(5, r * 0.62, half / 5.0));
                outer.into_iter().zip(inner).flat_map(|(a, b)| [a, b]).collect()
            }
        };
        let _ = writeln!(
            self.body,
            r#"<path d="{}Z" fill="{fill}"{}/>"#,
            path_data(&points),
            Self::stroke_attributes(stroke)
        );
    }

    /// One line of text with its base line at `at`.
    pub(crate) fn text(
        &mut self,
        at: (f64, f64),
        anchor: Anchor,
        size: f64,
        colour: &str,
        content: &str,
    ) {
        self.turned_text(at, anchor, size, colour, content, 0.0);
    }

    /// One line of text turned by `degrees` (clockwise) about its anchor.
    pub(crate) fn turned_text(
        &mut self,
        (x, y): (f64, f64),
        anchor: Anchor,
        size: f64,
        colour: &str,
        content: &str,
        degrees: f64,
    ) {
        // XML readers join white space; so must the measure.
        let content = content.split_whitespace().collect::<Vec<_>>().join(" ");
        if content.is_empty() {
            return;
        }
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let turn = if degrees == 0.0 {
            String::new()
        } else {
            format!(r#" transform="rotate({} {} {})""#, num(degrees), num(x), num(y))
        };
        let _ = writeln!(
            self.body,
            r#"<text x="{}" y="{}" font-size="{}" fill="{colour}"{anchor}{turn} textLength="{}" lengthAdjust="spacingAndGlyphs">{}</text>"#,
            num(x),
            num(y),
            num(size),
            num(text::width(&content, size)),
            escape(&content)
        );
    }

    /// A label with exponents.
    pub(crate) fn runs(
        &mut self,
        (x, y): (f64, f64),
        anchor: Anchor,
        size: f64,
        colour: &str,
        runs: &[Run],
    ) {
        let total = runs_width(runs, size);
        let mut left = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x - total / 2.0,
            Anchor::End => x - total,
        };
        for run in runs {
            let (s, dy) = if run.raised { (size * RAISED, -0.38 * size) } else { (size, 0.0) };
            self.text((left, y + dy), Anchor::Start, s, colour, &run.text);
            left += text::width(&run.text, s);
        }
    }

    /// Several lines, the block centred vertically on `at.1`.
    pub(crate) fn lines(
        &mut self,
        at: (f64, f64),
        anchor: Anchor,
        size: f64,
        colour: &str,
        lines: &[String],
    ) {
        let pitch = size * text::LEADING;
        let first = at.1 + size * text::CAP / 2.0 - pitch * (lines.len() as f64 - 1.0) / 2.0;
        for (i, line) in lines.iter().enumerate() {
            self.text((at.0, first + pitch * i as f64), anchor, size, colour, line);
        }
    }

    /// Opens a group with a tooltip (the full name, the exact numbers).
    pub(crate) fn open(&mut self, tooltip: &str) {
        let _ = writeln!(self.body, "<g><title>{}</title>", escape(tooltip));
    }

    /// Opens a group in which nothing outside `area` is visible.
    pub(crate) fn open_clip(&mut self, area: &Area) {
        self.clips += 1;
        let id = format!("{}-clip{}", self.slug, self.clips);
        let _ = writeln!(
            self.defs,
            r#"<clipPath id="{id}"><rect x="{}" y="{}" width="{}" height="{}"/></clipPath>"#,
            num(area.x),
            num(area.y),
            num(area.w),
            num(area.h)
        );
        let _ = writeln!(self.body, r#"<g clip-path="url(#{id})">"#);
    }

    /// Closes the last group.
    pub(crate) fn close(&mut self) {
        self.body.push_str("</g>\n");
    }

    /// A fill of diagonal grey lines, used for noise.
    pub(crate) fn hatch(&mut self) -> String {
        let id = format!("{}-hatch", self.slug);
        if !self.hatched {
            self.hatched = true;
            let _ = writeln!(
                self.defs,
                r##"<pattern id="{id}" width="4" height="4" patternUnits="userSpaceOnUse"><rect width="4" height="4" fill="#ececec"/><path d="M-1 1L1 -1M0 4L4 0M3 5L5 3" stroke="#8a8a8a" stroke-width="0.7"/></pattern>"##
            );
        }
        format!("url(#{id})")
    }

    /// The finished document. `width` and `height` are points; 72 points are one inch.
    pub(crate) fn finish(self, width: f64, height: f64, title: &str, desc: &str) -> String {
        let Self { slug, defs, body, .. } = self;
        let defs = if defs.is_empty() { defs } else { format!("<defs>\n{defs}</defs>\n") };
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{iw}in" height="{ih}in" viewBox="0 0 {w} {h}" style="max-width:100%;height:auto" role="img" aria-labelledby="{slug}-title {slug}-desc" font-family="'Liberation Sans', Arimo, Arial, Helvetica, sans-serif">
<title id="{slug}-title">{title}</title>
<desc id="{slug}-desc">{desc}</desc>
{defs}<rect width="{w}" height="{h}" fill="#ffffff"/>
{body}</svg>
"##,
            iw = num(width / 72.0),
            ih = num(height / 72.0),
            w = num(width),
            h = num(height),
            title = escape(title),
            desc = escape(desc),
        )
    }
}

fn path_data(points: &[(f64, f64)]) -> String {
    let mut d = String::with_capacity(points.len() * 14);
    for (i, (x, y)) in points.iter().enumerate() {
        let _ = write!(d, "{}{} {}", if i == 0 { 'M' } else { 'L' }, num(*x), num(*y));
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_stable() {
        assert_eq!(num(1.0), "1");
        assert_eq!(num(-0.0001), "0");
        assert_eq!(num(10.0), "10");
        assert_eq!(num(2.340_56), "2.341");
    }

    #[test]
    fn forbidden_characters_do_not_reach_the_file() {
        assert_eq!(escape("a<b&\"c\"\u{1}"), "a&lt;b&amp;&quot;c&quot;\u{fffd}");
    }
}
