//! The path from one configuration to another, one parameter at a time (section 7.15).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::canvas::{AXIS, Anchor, Area, INK, MUTED, Stroke};
use super::chart::draw_y_axis;
use super::intervals::row_notes;
use super::palette::{Look, Palette};
use super::sheet::Sheet;
use super::text::{self, BODY, CAP, LEADING};
use super::{Draw, Estimate, Figure, Head, Result, ScaleKind, Width, nonempty};

/// A greedy ablation path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AblationPath {
    /// Name, title, origin.
    pub head: Head,
    /// Metric with unit and direction.
    pub y_label: String,
    /// Source first, then one step per flipped parameter, target last.
    pub steps: Vec<AblationStep>,
}

/// One configuration on the path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AblationStep {
    /// Parameter flipped to its target value here, e.g. `carry = on`; `source` for the first.
    pub label: String,
    /// Metric of the configuration.
    pub value: Estimate,
}

impl Draw for AblationPath {
    const KIND: &'static str = "ablation";

    fn draw(&self, _palette: &Palette) -> Result<Figure> {
        nonempty("steps", &self.steps)?;
        for (i, step) in self.steps.iter().enumerate() {
            step.value.check(&format!("steps[{i}].value"))?;
        }
        let values = self.steps.iter().flat_map(|s| s.value.extent().collect::<Vec<_>>());
        let mut y = Axis::over("steps", &self.y_label, ScaleKind::Linear, values, [None; 2])?;
        let mut sheet = Sheet::new(&self.head, "")?;
        let (left, right) = sheet.inner();
        let height = match self.head.width {
            Width::Column => 110.0,
            Width::Page => 150.0,
        };
        y.fit_vertical(height);
        let line = BODY * LEADING;
        let y_label = y.label_runs();
        sheet.canvas.runs((left, sheet.y + line - 2.0), Anchor::Start, BODY, MUTED, &y_label);
        sheet.y += line + 4.0;

        let n = self.steps.len();
        let mut x0 = left + y.label_width() + 6.0;
        let names: Vec<String> = self.steps.iter().map(|s| s.label.clone()).collect();
        let pitch = |x0: f64| (right - 4.0 - x0) / n as f64;
        let turned = CategoryLabels::must_turn(&names, pitch(x0));
        if turned {
            // The first label hangs out to the left of its tick.
            let reach = CategoryLabels::reach(&names[0]) - pitch(x0) / 2.0;
            x0 = x0.max(left + reach);
        }
        let pitch = pitch(x0);
        let area = Area { x: x0, y: sheet.y, w: right - 4.0 - x0, h: height };
        draw_y_axis(&mut sheet.canvas, &area, &y);
        let axis = Stroke::full(AXIS, 0.6);
        sheet.canvas.line((area.x, area.bottom()), (area.right(), area.bottom()), &axis);

        let x = |i: usize| area.x + pitch * (i as f64 + 0.5);
        let place = |v: f64| y.place(v, area.bottom(), area.y);
        let look = Look::nth(0);
        let path: Vec<(f64, f64)> =
            self.steps.iter().enumerate().map(|(i, s)| (x(i), place(s.value.point))).collect();
        let thread = Stroke { colour: "#9a9a9a", width: 0.9, dash: "2.5 2" };
        sheet.canvas.polyline(&path, &thread);
        for (i, step) in self.steps.iter().enumerate() {
            sheet.canvas.open(&format!("{}: {}", step.label, step.value.words()));
            if let Some([low, high]) = step.value.bar() {
                let ink = Stroke::full(look.colour, 1.6);
                let (a, b) = ((x(i), place(low)), (x(i), place(high)));
                sheet.canvas.line(a, b, &ink);
                for end in [a, b] {
                    let cap = Stroke { width: 1.0, ..ink };
                    sheet.canvas.line((end.0 - 2.2, end.1), (end.0 + 2.2, end.1), &cap);
                }
            }
            sheet.canvas.marker(path[i], 2.8, &look, step.value.bar().is_none());
            sheet.canvas.close();
            let foot = area.bottom();
            sheet.canvas.line((x(i), foot), (x(i), foot + 2.5), &axis);
        }
        let places: Vec<f64> = (0..n).map(x).collect();
        sheet.y = CategoryLabels { names: &names, places: &places, pitch, turned }
            .draw(&mut sheet, area.bottom() + 4.0);
        let notes = row_notes(self.steps.iter().map(|s| &s.value));
        sheet.notes(&notes, self.steps.iter().any(|s| s.value.bar().is_some()));
        let changes: Vec<_> = self
            .steps
            .windows(2)
            .map(|w| json!({ "label": w[1].label, "change": w[1].value.point - w[0].value.point }))
            .collect();
        let desc = self
            .steps
            .iter()
            .map(|s| format!("{}: {}", s.label, s.value.words()))
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({ "changes": changes }), &desc)
    }
}

/// Names below a categorical axis: wrapped when they fit under their tick, slanted otherwise.
pub(crate) struct CategoryLabels<'a> {
    pub(crate) names: &'a [String],
    pub(crate) places: &'a [f64],
    pub(crate) pitch: f64,
    pub(crate) turned: bool,
}

/// Longest slanted label in points; longer names are shortened in the middle.
const SLANT_ROOM: f64 = 110.0;
/// Sine and cosine of the slant of 40 degrees.
const SLANT: (f64, f64) = (0.642_787_609_686_539_3, 0.766_044_443_118_978);

impl CategoryLabels<'_> {
    pub(crate) fn must_turn(names: &[String], pitch: f64) -> bool {
        names.iter().any(|n| !text::wraps_cleanly(n, BODY, pitch - 5.0, 3))
    }

    /// How far a slanted label reaches to the left of its tick.
    pub(crate) fn reach(name: &str) -> f64 {
        text::width(&text::shorten(name, BODY, SLANT_ROOM), BODY) * SLANT.1 + 4.0
    }

    /// Draws below `top`; returns the lower end.
    pub(crate) fn draw(&self, sheet: &mut Sheet, top: f64) -> f64 {
        let mut bottom = top;
        for (name, &x) in self.names.iter().zip(self.places) {
            if self.turned {
                let short = text::shorten(name, BODY, SLANT_ROOM);
                let at = (x + 2.0, top + BODY * CAP);
                sheet.canvas.turned_text(at, Anchor::End, BODY, INK, &short, -40.0);
                let drop = text::width(&short, BODY) * SLANT.0 + BODY;
                bottom = bottom.max(top + drop + 2.0);
            } else {
                let lines = text::wrap(name, BODY, self.pitch - 5.0, 3);
                for (i, line) in lines.iter().enumerate() {
                    let base = top + BODY * CAP + 1.5 + i as f64 * BODY * LEADING;
                    sheet.canvas.text((x, base), Anchor::Middle, BODY, INK, line);
                }
                bottom = bottom.max(top + lines.len() as f64 * BODY * LEADING + 1.0);
            }
        }
        bottom
    }
}
