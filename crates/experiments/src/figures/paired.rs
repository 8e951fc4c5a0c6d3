//! Every run as a point, lines joining the runs of one seed.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ablation::CategoryLabels;
use super::axis::Axis;
use super::canvas::{AXIS, Anchor, Area, INK, MUTED, Stroke, runs_width};
use super::chart::draw_y_axis;
use super::palette::{Look, Palette};
use super::sheet::{Key, LegendItem, Sheet};
use super::text::{self, BODY, LEADING};
use super::{
    Draw, Figure, Head, Result, ScaleKind, Width, finite, invalid, nonempty, same_len, unique,
};

/// Raw results, one panel per task, one column per method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paired {
    /// Name, title, origin.
    pub head: Head,
    /// Methods, spec order; lines join neighbours.
    pub methods: Vec<String>,
    /// Metric with unit and direction.
    pub y_label: String,
    /// Kind of the metric axis.
    #[serde(default)]
    pub scale: ScaleKind,
    /// Join points of the same seed; off for designs without common seeds.
    pub join: bool,
    /// One panel per task.
    pub panels: Vec<PairedPanel>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairedPanel {
    /// Task.
    pub title: String,
    /// Its runs.
    pub runs: Vec<PairedRun>,
}

/// One repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairedRun {
    /// Repetition number; methods share its seeds.
    pub rep: u64,
    /// One value per method; `None` for a failed run, which is counted in the panel.
    pub values: Vec<Option<f64>>,
}

impl PairedPanel {
    fn column(&self, method: usize) -> impl Iterator<Item = f64> {
        self.runs.iter().filter_map(move |r| r.values[method])
    }

    fn failed(&self) -> usize {
        self.runs.iter().flat_map(|r| &r.values).filter(|v| v.is_none()).count()
    }

    fn median(&self, method: usize) -> Option<f64> {
        let mut v: Vec<f64> = self.column(method).collect();
        v.sort_by(f64::total_cmp);
        let n = v.len();
        (n > 0).then(|| f64::midpoint(v[(n - 1) / 2], v[n / 2]))
    }
}

impl Draw for Paired {
    const KIND: &'static str = "paired";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("methods", &self.methods)?;
        nonempty("panels", &self.panels)?;
        let names: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        unique("methods", &names)?;
        let looks: Vec<Look> =
            self.methods.iter().map(|m| palette.look("methods", m)).collect::<Result<_>>()?;
        let mut axes = Vec::with_capacity(self.panels.len());
        for (i, panel) in self.panels.iter().enumerate() {
            let at = format!("panels[{i}]");
            nonempty(&format!("{at}.runs"), &panel.runs)?;
            for (j, run) in panel.runs.iter().enumerate() {
                let at = format!("{at}.runs[{j}].values");
                same_len(&at, self.methods.len(), run.values.len())?;
                for (k, v) in run.values.iter().enumerate() {
                    v.map_or(Ok(()), |v| finite(&format!("{at}[{k}]"), v))?;
                }
            }
            let values: Vec<f64> =
                panel.runs.iter().flat_map(|r| r.values.iter().flatten().copied()).collect();
            if values.is_empty() {
                return Err(invalid(format!("{at}.runs"), "at least one finished run", "none"));
            }
            axes.push(Axis::over(&at, &self.y_label, self.scale, values, [None; 2])?);
        }
        let mut sheet = Sheet::new(&self.head, "")?;
        self.draw_panels(&mut sheet, axes, &looks);
        let mut notes = vec![if self.join {
            "Each point is a run; thin lines join runs of the same seeds; bars are medians."
                .to_owned()
        } else {
            "Each point is a run; bars are medians.".to_owned()
        }];
        let failed: Vec<String> = self
            .panels
            .iter()
            .filter(|p| p.failed() > 0)
            .map(|p| format!("{} {}", p.title, p.failed()))
            .collect();
        if !failed.is_empty() {
            notes.push(format!("Failed runs without a point: {}.", failed.join("; ")));
        }
        sheet.notes(&notes, false);
        let medians: Vec<_> = self
            .panels
            .iter()
            .map(|p| {
                let of = |m: usize| json!({ "method": self.methods[m], "median": p.median(m), "n": p.column(m).count() });
                json!({ "task": p.title, "medians": (0..self.methods.len()).map(of).collect::<Vec<_>>() })
            })
            .collect();
        let desc = self
            .panels
            .iter()
            .flat_map(|p| {
                self.methods.iter().enumerate().filter_map(move |(m, name)| {
                    let n = p.column(m).count();
                    let median = text::short(p.median(m)?, 4);
                    Some(format!("{}, {name}: median {median}, n = {n}", p.title))
                })
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({ "medians": medians }), &desc)
    }
}

impl Paired {
    fn draw_panels(&self, sheet: &mut Sheet, mut axes: Vec<Axis>, looks: &[Look]) {
        let (left, right) = sheet.inner();
        let right = right - 4.0;
        let (most, height) = match self.head.width {
            Width::Column => (2, 92.0),
            Width::Page => (4, 120.0),
        };
        let gap = 14.0;
        for axis in &mut axes {
            axis.fit_vertical(height);
        }
        let ticks_w = axes.iter().map(Axis::label_width).fold(0.0, f64::max) + 6.0;
        // At least 26 points a method, so that points of neighbours stay apart.
        let needed = ticks_w + 26.0 * self.methods.len() as f64;
        let fit = ((right - left + gap) / (needed + gap)).floor().max(1.0) as usize;
        let columns = fit.min(most).min(self.panels.len());
        let columns = self.panels.len().div_ceil(self.panels.len().div_ceil(columns));
        let plot_w = (right - left - gap * (columns as f64 - 1.0)) / columns as f64 - ticks_w;
        // A lone panel need not fill the page.
        let plot_w = plot_w.min(70.0 * self.methods.len() as f64 + 40.0);
        let pitch = plot_w / self.methods.len() as f64;
        // Names that do not fit below their column go to a legend.
        let named = !CategoryLabels::must_turn(&self.methods, pitch);
        let line = BODY * LEADING;
        let shared = axes.windows(2).all(|w| w[0].label_runs() == w[1].label_runs());
        let indices: Vec<usize> = (0..self.panels.len()).collect();
        for (row, chunk) in indices.chunks(columns).enumerate() {
            if row > 0 {
                sheet.y += 8.0;
            }
            if row == 0 && shared {
                let runs = axes[0].label_runs();
                let at = (left, sheet.y + line - 2.0);
                sheet.canvas.runs(at, Anchor::Start, BODY, MUTED, &runs);
                sheet.y += line + 2.0;
            }
            let titles: Vec<Vec<String>> = chunk
                .iter()
                .map(|&i| text::wrap(&self.panels[i].title, BODY, plot_w + 4.0, 2))
                .collect();
            let title_h = titles.iter().map(Vec::len).max().unwrap_or(0) as f64 * line;
            let own = if shared { 0.0 } else { line };
            let top = sheet.y + title_h + own + 3.0;
            let mut bottom = top;
            for (column, (&i, title)) in chunk.iter().zip(&titles).enumerate() {
                let x0 = left + column as f64 * (plot_w + ticks_w + gap) + ticks_w;
                let area = Area { x: x0, y: top, w: plot_w, h: height };
                for (l, words) in title.iter().enumerate() {
                    let base = sheet.y + line * (l as f64 + 1.0) - 2.0;
                    sheet.canvas.text((x0, base), Anchor::Start, BODY, INK, words);
                }
                if !shared {
                    let mut runs = axes[i].label_runs();
                    let tail = runs_width(&runs, BODY) - text::width(&runs[0].text, BODY);
                    runs[0].text =
                        text::shorten(&runs[0].text, BODY, (plot_w + ticks_w - tail).max(BODY));
                    let at = (x0 - ticks_w, top - 5.0);
                    sheet.canvas.runs(at, Anchor::Start, BODY, MUTED, &runs);
                }
                self.draw_runs(sheet, &area, &self.panels[i], &axes[i], looks);
                if !named {
                    bottom = bottom.max(area.bottom() + 4.0);
                    continue;
                }
                let places: Vec<f64> =
                    (0..self.methods.len()).map(|m| area.x + pitch * (m as f64 + 0.5)).collect();
                let names = &self.methods;
                let labels = CategoryLabels { names, places: &places, pitch, turned: false };
                bottom = bottom.max(labels.draw(sheet, area.bottom() + 4.0));
            }
            sheet.y = bottom;
        }
        if !named {
            let item = |(name, look): (&String, &Look)| LegendItem {
                key: Key::Point(*look),
                text: name.clone(),
            };
            let items: Vec<LegendItem> = self.methods.iter().zip(looks).map(item).collect();
            sheet.legend(&items);
        }
    }

    fn draw_runs(
        &self,
        sheet: &mut Sheet,
        area: &Area,
        panel: &PairedPanel,
        y: &Axis,
        looks: &[Look],
    ) {
        let canvas = &mut sheet.canvas;
        draw_y_axis(canvas, area, y);
        let (foot, axis) = (area.bottom(), Stroke::full(AXIS, 0.6));
        canvas.line((area.x, foot), (area.right(), foot), &axis);
        let pitch = area.w / self.methods.len() as f64;
        let x = |m: usize| area.x + pitch * (m as f64 + 0.5);
        let place = |v: f64| y.place(v, foot, area.y);
        if self.join {
            for run in &panel.runs {
                for m in 1..self.methods.len() {
                    if let (Some(a), Some(b)) = (run.values[m - 1], run.values[m]) {
                        let thread = Stroke::full("#b0b0b0", 0.6);
                        canvas.line((x(m - 1), place(a)), (x(m), place(b)), &thread);
                    }
                }
            }
        }
        for (m, look) in looks.iter().enumerate() {
            canvas.line((x(m), foot), (x(m), foot + 2.5), &axis);
            if let Some(median) = panel.median(m) {
                let half = (pitch * 0.3).min(12.0);
                let at = place(median);
                canvas.line((x(m) - half, at), (x(m) + half, at), &Stroke::full(INK, 1.5));
            }
            let mut placed: Vec<(f64, f64)> = Vec::new();
            for run in &panel.runs {
                let Some(v) = run.values[m] else { continue };
                let at = place(v);
                // Joined points stay on their line; free ones step aside when they would touch.
                let dx = if self.join { 0.0 } else { aside(&placed, at, pitch * 0.38) };
                placed.push((dx, at));
                canvas.open(&format!(
                    "{}, repetition {}: {}",
                    self.methods[m],
                    run.rep,
                    text::short(v, 5)
                ));
                canvas.marker((x(m) + dx, at), 1.9, look, false);
                canvas.close();
            }
        }
    }
}

/// The smallest step to a side at which a point at height `y` touches none of `placed`.
fn aside(placed: &[(f64, f64)], y: f64, most: f64) -> f64 {
    const DISTANCE: f64 = 4.4;
    let free = |dx: f64| placed.iter().all(|p| (p.0 - dx).hypot(p.1 - y) >= DISTANCE);
    let steps = (most / 2.2).floor().max(0.0) as usize;
    (0..=steps)
        .flat_map(|s| [s as f64 * 2.2, s as f64 * -2.2])
        .find(|&dx| free(dx))
        // A crowd wider than its column overlaps rather than reaching into the next method.
        .unwrap_or_else(|| if placed.len().is_multiple_of(2) { most } else { -most })
}
