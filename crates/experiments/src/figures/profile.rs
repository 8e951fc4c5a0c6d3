//! Performance profiles: the share of scores above a threshold (section 7.10).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::chart::{Chart, Marks, Rule, Trace, draw_grid};
use super::intervals::counts;
use super::palette::Palette;
use super::sheet::{Key, LegendItem, Sheet};
use super::{
    Draw, Figure, Head, Result, ScaleKind, Width, fraction, increasing, invalid, nonempty,
    same_len, text, unique,
};

/// Run-score or mean-score profiles of several methods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name, title, origin.
    pub head: Head,
    /// Runs per method and task.
    pub runs: usize,
    /// Tasks.
    pub tasks: usize,
    /// Label of the threshold axis, with unit, e.g. `accuracy threshold`.
    pub x_label: String,
    /// Label of the other axis, e.g. `share of runs above`.
    pub y_label: String,
    /// One curve per method, spec order.
    pub curves: Vec<ProfileCurve>,
}

/// The profile of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileCurve {
    /// Method.
    pub method: String,
    /// Thresholds, strictly increasing.
    pub tau: Vec<f64>,
    /// Share above each threshold, not increasing.
    pub share: Vec<f64>,
    /// Pointwise band, one `[low, high]` per threshold; empty for a single run.
    #[serde(default)]
    pub band: Vec<[f64; 2]>,
}

impl ProfileCurve {
    /// The first threshold at which the share has fallen to one half.
    fn half(&self) -> Option<f64> {
        let at = self.share.iter().position(|&s| s <= 0.5)?;
        (at > 0).then(|| self.tau[at])
    }
}

impl Draw for Profile {
    const KIND: &'static str = "profile";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("curves", &self.curves)?;
        let names: Vec<&str> = self.curves.iter().map(|c| c.method.as_str()).collect();
        unique("curves", &names)?;
        let mut traces = Vec::with_capacity(self.curves.len());
        for (i, curve) in self.curves.iter().enumerate() {
            let at = format!("curves[{i}]");
            nonempty(&format!("{at}.tau"), &curve.tau)?;
            increasing(&format!("{at}.tau"), &curve.tau)?;
            same_len(&format!("{at}.share"), curve.tau.len(), curve.share.len())?;
            for (j, &s) in curve.share.iter().enumerate() {
                fraction(&format!("{at}.share[{j}]"), s)?;
                if j > 0 && s > curve.share[j - 1] + 1e-12 {
                    return Err(invalid(
                        format!("{at}.share[{j}]"),
                        format!("at most {} (a profile falls)", curve.share[j - 1]),
                        s,
                    ));
                }
            }
            check_band(&at, &curve.band, curve.tau.len(), self.runs * self.tasks)?;
            let look = palette.look(&format!("{at}.method"), &curve.method)?;
            let points = curve.tau.iter().copied().zip(curve.share.iter().copied()).collect();
            let mut trace = Trace::new(look, &curve.method, points);
            trace.step = true;
            trace.marks = Marks::None;
            trace.band = curve.tau.iter().zip(&curve.band).map(|(&t, b)| (t, b[0], b[1])).collect();
            trace.dots.extend(curve.half().map(|t| (t, 0.5)));
            traces.push(trace);
        }
        let taus = self.curves.iter().flat_map(|c| c.tau.iter().copied());
        let x = Axis::over("curves.tau", &self.x_label, ScaleKind::Linear, taus, [None; 2])?;
        let y = unit_axis(&self.y_label)?;
        let legend = line_legend(&traces);
        let chart =
            Chart { title: String::new(), x, y, traces, rules: vec![Rule::Horizontal(0.5)] };
        let mut sheet = Sheet::new(&self.head, &counts(self.runs, self.tasks))?;
        draw_grid(&mut sheet, vec![chart], 1, plot_height(self.head.width));
        sheet.legend(&legend);
        let banded = self.curves.iter().any(|c| !c.band.is_empty());
        let note = "Points mark where a share falls to one half.".to_owned();
        sheet.notes(&[note], banded);
        let halves: Vec<(String, Option<f64>)> =
            self.curves.iter().map(|c| (c.method.clone(), c.half())).collect();
        let desc = halves
            .iter()
            .map(|(m, h)| match h {
                Some(t) => format!("{m}: half of the scores exceed {}", text::short(*t, 4)),
                None => format!("{m}: does not cross one half"),
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({ "half": halves }), &desc)
    }
}

/// Bands hold one pair per point; they may be missing only for a single run.
pub(crate) fn check_band(at: &str, band: &[[f64; 2]], points: usize, n: usize) -> Result<()> {
    if band.is_empty() {
        return if n <= 1 {
            Ok(())
        } else {
            Err(super::FigureError::NoInterval { argument: format!("{at}.band"), n })
        };
    }
    same_len(&format!("{at}.band"), points, band.len())?;
    for (j, b) in band.iter().enumerate() {
        fraction(&format!("{at}.band[{j}][0]"), b[0])?;
        fraction(&format!("{at}.band[{j}][1]"), b[1])?;
        if b[0] > b[1] {
            return Err(invalid(format!("{at}.band[{j}]"), "low <= high", format!("{b:?}")));
        }
    }
    Ok(())
}

/// An axis from 0 to 1.
pub(crate) fn unit_axis(label: &str) -> Result<Axis> {
    Axis::over("share", label, ScaleKind::Linear, [], [Some(0.0), Some(1.0)])
}

/// Height of a lone chart.
pub(crate) fn plot_height(width: Width) -> f64 {
    match width {
        Width::Column => 130.0,
        Width::Page => 190.0,
    }
}

/// One legend entry per trace.
pub(crate) fn line_legend(traces: &[Trace]) -> Vec<LegendItem> {
    traces.iter().map(|t| LegendItem { key: Key::Line(t.look), text: t.name.clone() }).collect()
}
