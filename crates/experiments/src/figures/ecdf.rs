//! Distribution of the budget needed to reach targets, with a table of expected running times
//! (section 7.13).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::canvas::{AXIS, Anchor, GRID, INK, MUTED, Stroke};
use super::chart::{Chart, Trace, draw_grid};
use super::dolan_more::rising;
use super::palette::Palette;
use super::profile::{check_band, line_legend, plot_height, unit_axis};
use super::sheet::{Key, LegendItem, Sheet};
use super::text::{self, BODY, CAP, LEADING};
use super::{
    Draw, Figure, Head, Result, ScaleKind, finite, increasing, invalid, nonempty, same_len, unique,
};

/// Fraction of (run, target) pairs reached within a budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ecdf {
    /// Name, title, origin.
    pub head: Head,
    /// Runs per method, over all tasks.
    pub runs: usize,
    /// Targets, fixed in the spec and equal for all methods.
    pub targets: usize,
    /// Budget axis with unit, e.g. `evaluations`.
    pub x_label: String,
    /// One curve per method, spec order.
    pub curves: Vec<EcdfCurve>,
    /// Expected running times, written below.
    #[serde(default)]
    pub ert: Option<ErtTable>,
}

/// The curve of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EcdfCurve {
    /// Method.
    pub method: String,
    /// Budgets at which the share jumps, positive, strictly increasing.
    pub budget: Vec<f64>,
    /// Share reached within each budget; unsolved pairs stay in the denominator.
    pub share: Vec<f64>,
    /// Pointwise band, one pair per budget; may be empty, a distribution is raw data.
    #[serde(default)]
    pub band: Vec<[f64; 2]>,
    /// Smallest budget at which an unsuccessful run ended; marked by a cross.
    #[serde(default)]
    pub censored_from: Option<f64>,
}

/// Expected running time of each method for some targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErtTable {
    /// Target names, e.g. `error ≤ 0.1`.
    pub targets: Vec<String>,
    /// Per curve, per target; `None` when no run succeeded (infinite).
    pub values: Vec<Vec<Option<f64>>>,
}

impl EcdfCurve {
    fn share_at(&self, budget: f64) -> f64 {
        let reached = self.budget.partition_point(|&b| b <= budget);
        if reached == 0 { 0.0 } else { self.share[reached - 1] }
    }
}

impl Draw for Ecdf {
    const KIND: &'static str = "ecdf";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("curves", &self.curves)?;
        let names: Vec<&str> = self.curves.iter().map(|c| c.method.as_str()).collect();
        unique("curves", &names)?;
        let all: Vec<f64> = self
            .curves
            .iter()
            .flat_map(|c| c.budget.iter().copied().chain(c.censored_from))
            .collect();
        nonempty("curves.budget", &all)?;
        let mut traces = Vec::with_capacity(self.curves.len());
        for (i, curve) in self.curves.iter().enumerate() {
            let at = format!("curves[{i}]");
            increasing(&format!("{at}.budget"), &curve.budget)?;
            same_len(&format!("{at}.share"), curve.budget.len(), curve.share.len())?;
            rising(&format!("{at}.share"), &curve.share)?;
            if !curve.band.is_empty() {
                check_band(&at, &curve.band, curve.budget.len(), self.runs)?;
            }
            let look = palette.look(&format!("{at}.method"), &curve.method)?;
            let mut points: Vec<(f64, f64)> =
                curve.budget.iter().copied().zip(curve.share.iter().copied()).collect();
            let mut crosses = Vec::new();
            if let Some(b) = curve.censored_from {
                finite(&format!("{at}.censored_from"), b)?;
                crosses.push((b, curve.share_at(b)));
            }
            // The floor before the first success is part of the curve.
            let start = all.iter().copied().fold(f64::INFINITY, f64::min);
            if points.first().is_none_or(|p| p.0 > start) {
                points.insert(0, (start, 0.0));
            }
            let mut trace = Trace::new(look, &curve.method, points);
            trace.step = true;
            trace.extend = true;
            trace.crosses = crosses;
            trace.band =
                curve.budget.iter().zip(&curve.band).map(|(&b, v)| (b, v[0], v[1])).collect();
            traces.push(trace);
        }
        let x = Axis::over("curves.budget", &self.x_label, ScaleKind::Log10, all, [None; 2])?;
        let y = unit_axis("share of (run, target) pairs reached")?;
        if let Some(table) = &self.ert {
            table.check(self.curves.len())?;
        }
        let mut legend = line_legend(&traces);
        if self.curves.iter().any(|c| c.censored_from.is_some()) {
            legend.push(LegendItem {
                key: Key::Cross,
                text: "first unsuccessful run ends".to_owned(),
            });
        }
        let plural = if self.targets == 1 { "" } else { "s" };
        let runs = format!("{} runs × {} target{plural}", self.runs, self.targets);
        let mut sheet = Sheet::new(&self.head, &runs)?;
        let chart = Chart { title: String::new(), x, y, traces, rules: Vec::new() };
        draw_grid(&mut sheet, vec![chart], 1, plot_height(self.head.width));
        sheet.legend(&legend);
        let mut notes = Vec::new();
        if let Some(table) = &self.ert {
            table.draw(&mut sheet, &names);
            notes.push(
                "ERT: budget used by all runs divided by the number of successes; ∞: no success."
                    .to_owned(),
            );
        }
        sheet.notes(&notes, self.curves.iter().any(|c| !c.band.is_empty()));
        let desc = self
            .curves
            .iter()
            .map(|c| {
                let end = c.share.last().copied().unwrap_or(0.0);
                format!("{}: {} of pairs reached", c.method, text::short(end, 3))
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({}), &desc)
    }
}

impl ErtTable {
    fn check(&self, curves: usize) -> Result<()> {
        nonempty("ert.targets", &self.targets)?;
        same_len("ert.values", curves, self.values.len())?;
        for (i, row) in self.values.iter().enumerate() {
            same_len(&format!("ert.values[{i}]"), self.targets.len(), row.len())?;
            for (j, v) in row.iter().enumerate() {
                if let Some(v) = v {
                    let at = format!("ert.values[{i}][{j}]");
                    finite(&at, *v)?;
                    if *v < 0.0 {
                        return Err(invalid(at, "a running time of at least 0", v));
                    }
                }
            }
        }
        Ok(())
    }

    /// Columns that do not fit beside each other continue in a further block.
    fn draw(&self, sheet: &mut Sheet, methods: &[&str]) {
        let (left, right) = sheet.inner();
        let line = BODY * LEADING + 1.6;
        let name_room = (right - left) * 0.34;
        let names: Vec<Vec<String>> =
            methods.iter().map(|m| text::wrap(m, BODY, name_room, 2)).collect();
        let name_w = names
            .iter()
            .flatten()
            .map(|l| text::width(l, BODY))
            .chain([text::width("ERT", BODY)])
            .fold(0.0, f64::max);
        let gap = 12.0;
        let cell = |v: &Option<f64>| v.map_or_else(|| "∞".to_owned(), |v| text::short(v, 3));
        let room = right - left - name_w - gap;
        let widths: Vec<f64> = self
            .targets
            .iter()
            .enumerate()
            .map(|(j, t)| {
                let body = self.values.iter().map(|r| text::width(&cell(&r[j]), BODY));
                body.fold(text::width(t, BODY), f64::max).min(room)
            })
            .collect();
        let mut from = 0;
        while from < widths.len() {
            let (mut to, mut used) = (from, 0.0);
            while to < widths.len() && (to == from || used + gap + widths[to] <= room) {
                used += widths[to] + if to > from { gap } else { 0.0 };
                to += 1;
            }
            sheet.y += 7.0;
            let end = left + name_w + gap + used;
            let base = sheet.y + BODY * CAP;
            let canvas = &mut sheet.canvas;
            canvas.text((left, base), Anchor::Start, BODY, MUTED, "ERT");
            let mut x = left + name_w + gap;
            for (target, w) in self.targets[from..to].iter().zip(&widths[from..to]) {
                let name = text::shorten(target, BODY, *w);
                canvas.text((x + w, base), Anchor::End, BODY, MUTED, &name);
                x += w + gap;
            }
            sheet.y += line;
            let rule = Stroke::full(AXIS, 0.6);
            sheet.canvas.line((left, sheet.y - 0.4), (end, sheet.y - 0.4), &rule);
            for (row, name) in self.values.iter().zip(&names) {
                sheet.y += 1.6;
                let top = sheet.y;
                for (l, part) in name.iter().enumerate() {
                    let base = top + BODY * CAP + l as f64 * BODY * LEADING;
                    sheet.canvas.text((left, base), Anchor::Start, BODY, INK, part);
                }
                let mut x = left + name_w + gap;
                for (v, w) in row[from..to].iter().zip(&widths[from..to]) {
                    let at = (x + w, top + BODY * CAP);
                    sheet.canvas.text(at, Anchor::End, BODY, INK, &cell(v));
                    x += w + gap;
                }
                sheet.y = top + name.len() as f64 * BODY * LEADING;
                let rule = Stroke::full(GRID, 0.5);
                sheet.canvas.line((left, sheet.y), (end, sheet.y), &rule);
            }
            from = to;
        }
    }
}
