//! Performance profiles of costs after Dolan and Moré (section 7.10).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::chart::{Chart, Trace, draw_grid};
use super::palette::Palette;
use super::profile::{line_legend, plot_height, unit_axis};
use super::sheet::Sheet;
use super::{
    Draw, Figure, Head, Result, ScaleKind, fraction, increasing, invalid, nonempty, same_len, text,
    unique,
};

/// Share of problems solved within a factor of the best method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DolanMore {
    /// Name, title, origin.
    pub head: Head,
    /// Problems, those that nobody solved included.
    pub problems: usize,
    /// What is counted as cost, with unit, e.g. `wall time (s)`.
    pub cost: String,
    /// One profile per method, spec order.
    pub curves: Vec<CostProfile>,
}

/// The profile of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostProfile {
    /// Method.
    pub method: String,
    /// Factors at which the share jumps, strictly increasing, at least 1.
    pub tau: Vec<f64>,
    /// Share solved within each factor, not decreasing; the last is the share solved at all.
    pub share: Vec<f64>,
}

impl Draw for DolanMore {
    const KIND: &'static str = "dolan-more";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("curves", &self.curves)?;
        if self.problems == 0 {
            return Err(invalid("problems", "at least 1", 0));
        }
        let names: Vec<&str> = self.curves.iter().map(|c| c.method.as_str()).collect();
        unique("curves", &names)?;
        let mut traces = Vec::with_capacity(self.curves.len());
        for (i, curve) in self.curves.iter().enumerate() {
            let at = format!("curves[{i}]");
            increasing(&format!("{at}.tau"), &curve.tau)?;
            same_len(&format!("{at}.share"), curve.tau.len(), curve.share.len())?;
            if let Some(&first) = curve.tau.first()
                && first < 1.0
            {
                return Err(invalid(format!("{at}.tau[0]"), "a ratio of at least 1", first));
            }
            rising(&format!("{at}.share"), &curve.share)?;
            let solved = curve.share.last().copied().unwrap_or(0.0);
            let name =
                format!("{} (solved\u{a0}{}%)", curve.method, text::fixed(solved * 100.0, 1));
            let look = palette.look(&format!("{at}.method"), &curve.method)?;
            // From (1, 0) upwards, so that a method that is never best starts at the floor.
            let mut points = vec![(1.0, 0.0)];
            points.extend(curve.tau.iter().copied().zip(curve.share.iter().copied()));
            let mut trace = Trace::new(look, &name, points);
            trace.step = true;
            trace.extend = true;
            traces.push(trace);
        }
        let taus = self.curves.iter().flat_map(|c| c.tau.iter().copied()).chain([2.0]);
        let label = format!("τ: {} relative to the best method", self.cost);
        let x = Axis::over("curves.tau", &label, ScaleKind::Log2, taus, [Some(1.0), None])?;
        let y = unit_axis("share of problems solved within τ × best")?;
        let legend = line_legend(&traces);
        let desc = traces.iter().map(|t| t.name.clone()).collect::<Vec<_>>().join("; ");
        let chart = Chart { title: String::new(), x, y, traces, rules: Vec::new() };
        let plural = if self.problems == 1 { "" } else { "s" };
        let mut sheet = Sheet::new(&self.head, &format!("{} problem{plural}", self.problems))?;
        draw_grid(&mut sheet, vec![chart], 1, plot_height(self.head.width));
        sheet.legend(&legend);
        sheet.notes(&["Unsolved problems count in the denominator.".to_owned()], false);
        sheet.finish(self, &json!({}), &desc)
    }
}

/// Shares that never fall.
pub(crate) fn rising(argument: &str, share: &[f64]) -> Result<()> {
    for (j, &s) in share.iter().enumerate() {
        fraction(&format!("{argument}[{j}]"), s)?;
        if j > 0 && s < share[j - 1] - 1e-12 {
            return Err(invalid(
                format!("{argument}[{j}]"),
                format!("at least {} (a distribution rises)", share[j - 1]),
                s,
            ));
        }
    }
    Ok(())
}
