//! A line the size of a word, for index pages.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::canvas::{Anchor, Area, Canvas, INK, MUTED, Stroke};
use super::palette::{Look, Palette};
use super::sheet::{Sheet, side_file};
use super::text::{self, BODY, CAP, SMALL};
use super::{Draw, Estimate, Figure, Head, Result, ScaleKind, finite, invalid, nonempty};

/// A small curve with its last value, 1.9 in wide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sparkline {
    /// Name and origin; the title is the caption of the card.
    pub head: Head,
    /// Budget and estimate, budgets strictly increasing.
    pub points: Vec<(f64, Estimate)>,
    /// Unit behind the last value; may be empty.
    #[serde(default)]
    pub unit: String,
}

const WIDTH: f64 = 136.8;
const HEIGHT: f64 = 44.0;

impl Draw for Sparkline {
    const KIND: &'static str = "sparkline";

    fn draw(&self, _palette: &Palette) -> Result<Figure> {
        Sheet::check_name(&self.head.name)?;
        nonempty("points", &self.points)?;
        for (i, (x, e)) in self.points.iter().enumerate() {
            finite(&format!("points[{i}].0"), *x)?;
            e.check(&format!("points[{i}].1"))?;
            if i > 0 && *x <= self.points[i - 1].0 {
                let expected = format!("more than {}", self.points[i - 1].0);
                return Err(invalid(format!("points[{i}].0"), expected, x));
            }
        }
        let lin = ScaleKind::Linear;
        let budgets = self.points.iter().map(|p| p.0);
        let x = Axis::over("points.0", "", lin, budgets, [None; 2])?;
        let values = self.points.iter().flat_map(|p| p.1.extent().collect::<Vec<_>>());
        let y = Axis::over("points.1", "", lin, values, [None; 2])?;
        let mut canvas = Canvas::new(&self.head.name.replace('.', "-"));
        let title = text::shorten(&self.head.title, SMALL, WIDTH - 8.0);
        canvas.text((4.0, 4.0 + SMALL * CAP + 1.0), Anchor::Start, SMALL, MUTED, &title);
        let last = self.points[self.points.len() - 1].1;
        let mut words = text::short(last.point, 3);
        let unit = text::shorten(self.unit.trim(), BODY, 64.0 - text::width(&words, BODY));
        // The number stays whole; a unit without room is in the description and the side file.
        if !unit.is_empty() && unit != "…" {
            words = format!("{words} {unit}");
        }
        let room = text::width(&words, BODY) + 8.0;
        let area = Area { x: 4.0, y: 15.0, w: WIDTH - 8.0 - room, h: HEIGHT - 20.0 };
        let place = |px: f64, py: f64| {
            (x.place(px, area.x, area.right()), y.place(py, area.bottom(), area.y))
        };
        let look = Look::nth(0);
        let band: Vec<_> = self.points.iter().filter_map(|p| Some((p.0, p.1.bar()?))).collect();
        let mut shape: Vec<(f64, f64)> = band.iter().map(|b| place(b.0, b.1[1])).collect();
        shape.extend(band.iter().rev().map(|b| place(b.0, b.1[0])));
        canvas.polygon(&shape, look.colour, 0.18);
        let line: Vec<(f64, f64)> = self.points.iter().map(|p| place(p.0, p.1.point)).collect();
        canvas.polyline(&line, &Stroke::full(look.colour, 1.2));
        let end = line[line.len() - 1];
        canvas.marker(end, 2.0, &look, last.bar().is_none());
        let base = end.1.clamp(area.y + 3.0, area.bottom() - 2.0) + BODY * CAP / 2.0;
        canvas.text((WIDTH - 4.0, base), Anchor::End, BODY, INK, &words);
        let data = side_file(&self.head, Self::KIND, self, &json!({}))?;
        let title = if self.head.title.is_empty() { &self.head.name } else { &self.head.title };
        let svg = canvas.finish(WIDTH, HEIGHT, title, &format!("last value {}", last.words()));
        Ok(Figure { name: self.head.name.clone(), svg, data })
    }
}
