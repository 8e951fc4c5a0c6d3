//! Anytime curves over the budget, with bands and failed ends (section 7.17).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::chart::{Chart, Marks, Trace, draw_grid};
use super::palette::Palette;
use super::sheet::{Key, LegendItem, Sheet};
use super::{
    Draw, Estimate, Figure, Head, Result, ScaleKind, Width, finite, invalid, nonempty, text, unique,
};

/// Curves of several methods, one panel per task or metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curves {
    /// Name, title, origin.
    pub head: Head,
    /// Budget axis in the declared unit, e.g. `training FLOPs`.
    pub x_label: String,
    /// Kind of the budget axis.
    #[serde(default)]
    pub x_scale: ScaleKind,
    /// Metric axis with unit and direction; a smoothing window belongs here.
    pub y_label: String,
    /// Kind of the metric axis.
    #[serde(default)]
    pub y_scale: ScaleKind,
    /// What the line is, e.g. `IQM over runs`; printed below.
    pub centre: String,
    /// One panel per task.
    pub panels: Vec<CurvePanel>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePanel {
    /// Heading; may be empty for a lone panel.
    #[serde(default)]
    pub title: String,
    /// One curve per method, spec order.
    pub curves: Vec<Curve>,
}

/// One method on one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// Method.
    pub method: String,
    /// Points with strictly increasing budget.
    pub points: Vec<CurvePoint>,
    /// Where runs failed or were cut off, `[budget, value]`; drawn as crosses.
    #[serde(default)]
    pub failed: Vec<[f64; 2]>,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// Budget spent.
    pub budget: f64,
    /// Centre, band and number of runs still counted here.
    pub value: Estimate,
}

impl Curve {
    fn check(&self, at: &str) -> Result<()> {
        nonempty(&format!("{at}.points"), &self.points)?;
        let mut before = f64::NEG_INFINITY;
        for (j, p) in self.points.iter().enumerate() {
            finite(&format!("{at}.points[{j}].budget"), p.budget)?;
            p.value.check(&format!("{at}.points[{j}].value"))?;
            if p.budget <= before {
                return Err(invalid(
                    format!("{at}.points[{j}].budget"),
                    format!("more than {before} (strictly increasing)"),
                    p.budget,
                ));
            }
            before = p.budget;
        }
        for (j, f) in self.failed.iter().enumerate() {
            finite(&format!("{at}.failed[{j}][0]"), f[0])?;
            finite(&format!("{at}.failed[{j}][1]"), f[1])?;
        }
        Ok(())
    }
}

impl Draw for Curves {
    const KIND: &'static str = "curves";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("panels", &self.panels)?;
        self.check_centre()?;
        let mut charts = Vec::with_capacity(self.panels.len());
        // Runs at the first and the last point of each method, over all panels.
        let mut ends: Vec<(String, super::palette::Look, usize, usize)> = Vec::new();
        let (mut failed, mut banded, mut single) = (false, false, false);
        for (i, panel) in self.panels.iter().enumerate() {
            nonempty(&format!("panels[{i}].curves"), &panel.curves)?;
            let names: Vec<&str> = panel.curves.iter().map(|c| c.method.as_str()).collect();
            unique(&format!("panels[{i}].curves"), &names)?;
            let mut traces = Vec::with_capacity(panel.curves.len());
            for (j, curve) in panel.curves.iter().enumerate() {
                let at = format!("panels[{i}].curves[{j}]");
                curve.check(&at)?;
                let look = palette.look(&format!("{at}.method"), &curve.method)?;
                let points = curve.points.iter().map(|p| (p.budget, p.value.point)).collect();
                let mut trace = Trace::new(look, &curve.method, points);
                trace.band = curve
                    .points
                    .iter()
                    .filter_map(|p| p.value.bar().map(|[l, h]| (p.budget, l, h)))
                    .collect();
                trace.crosses = curve.failed.iter().map(|f| (f[0], f[1])).collect();
                if curve.points.iter().all(|p| p.value.n == 1) {
                    trace.marks = Marks::Hollow;
                }
                banded |= !trace.band.is_empty();
                single |= curve.points.iter().any(|p| p.value.n == 1);
                failed |= !trace.crosses.is_empty();
                let first = curve.points.first().map_or(0, |p| p.value.n);
                let last = curve.points.last().map_or(0, |p| p.value.n);
                match ends.iter_mut().find(|e| e.0 == curve.method) {
                    Some(end) => {
                        end.2 = end.2.min(first);
                        end.3 = end.3.min(last);
                    }
                    None => ends.push((curve.method.clone(), look, first, last)),
                }
                traces.push(trace);
            }
            charts.push(self.chart(i, panel, traces)?);
        }
        let mut sheet = Sheet::new(&self.head, "")?;
        let (columns, height) = grid(self.head.width, charts.len());
        // 4 panels over 3 columns would be 3 + 1; an even split looks calmer.
        let columns = charts.len().div_ceil(charts.len().div_ceil(columns));
        draw_grid(&mut sheet, charts, columns, height);
        let mut legend: Vec<LegendItem> = ends
            .iter()
            .map(|(name, look, first, last)| LegendItem {
                key: Key::Line(*look),
                text: if first == last {
                    format!("{name} (n\u{a0}=\u{a0}{first})")
                } else {
                    format!("{name} (n\u{a0}=\u{a0}{first}\u{a0}to\u{a0}{last})")
                },
            })
            .collect();
        if failed {
            legend.push(LegendItem { key: Key::Cross, text: "a run failed here".to_owned() });
        }
        sheet.legend(&legend);
        let mut notes = Vec::new();
        if !self.centre.trim().is_empty() {
            let which =
                if self.panels.len() > 1 { "; n: the smallest over the panels" } else { "" };
            notes.push(format!("Lines: {}{which}.", self.centre.trim()));
        }
        if single {
            notes.push("Parts without a band are a single run.".to_owned());
        }
        sheet.notes(&notes, banded);
        let desc = self
            .panels
            .iter()
            .flat_map(|p| {
                p.curves.iter().filter_map(move |c| {
                    let last = c.points.last()?;
                    let budget = text::short(last.budget, 4);
                    let task =
                        if p.title.is_empty() { String::new() } else { format!("{}, ", p.title) };
                    Some(format!("{task}{} at {budget}: {}", c.method, last.value.words()))
                })
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({}), &desc)
    }
}

impl Curves {
    fn chart(&self, i: usize, panel: &CurvePanel, traces: Vec<Trace>) -> Result<Chart> {
        let at = format!("panels[{i}]");
        let budgets = panel
            .curves
            .iter()
            .flat_map(|c| c.points.iter().map(|p| p.budget).chain(c.failed.iter().map(|f| f[0])));
        let values = panel.curves.iter().flat_map(|c| {
            let points = c.points.iter().flat_map(|p| p.value.extent().collect::<Vec<_>>());
            points.chain(c.failed.iter().map(|f| f[1]))
        });
        Ok(Chart {
            title: panel.title.clone(),
            x: Axis::over(
                &format!("{at} budget"),
                &self.x_label,
                self.x_scale,
                budgets,
                [None; 2],
            )?,
            y: Axis::over(&format!("{at} value"), &self.y_label, self.y_scale, values, [None; 2])?,
            traces,
            rules: Vec::new(),
        })
    }

    /// Refuses a curve of the best of several runs, which hides all others.
    fn check_centre(&self) -> Result<()> {
        let centre = self.centre.to_lowercase();
        let forbidden = ["best of", "best run", "max over", "maximum over"];
        match forbidden.iter().find(|f| centre.contains(*f)) {
            Some(f) => Err(invalid("centre", "a centre of all runs (IQM, median, mean)", f)),
            None => Ok(()),
        }
    }
}

/// Columns and plot height for a number of panels.
pub(crate) fn grid(width: Width, panels: usize) -> (usize, f64) {
    match (width, panels) {
        (Width::Column, 1) => (1, 130.0),
        (Width::Column, _) => (2, 82.0),
        (Width::Page, 1) => (1, 190.0),
        (Width::Page, 2 | 4) => (2, 135.0),
        (Width::Page, _) => (3, 100.0),
    }
}
