//! Validation and test of the incumbent during tuning, and relative overtuning (section 7.12).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::chart::{Chart, Marks, Rule, Trace, draw_grid};
use super::curves::CurvePoint;
use super::palette::{Look, Palette};
use super::profile::unit_axis;
use super::sheet::{Key, LegendItem, Sheet};
use super::{
    Draw, Estimate, Figure, Head, Result, ScaleKind, Width, all_finite, finite, invalid, nonempty,
    text, unique,
};

/// Tuning traces of several methods beside the distribution of their relative overtuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overtuning {
    /// Name, title, origin.
    pub head: Head,
    /// Tuning budget with unit, e.g. `evaluations`.
    pub x_label: String,
    /// Error with unit.
    pub y_label: String,
    /// Tuned methods, spec order.
    pub methods: Vec<TunedMethod>,
}

/// One tuned method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunedMethod {
    /// Method.
    pub method: String,
    /// Validation error of the incumbent.
    pub validation: Vec<CurvePoint>,
    /// Test error of the same incumbent.
    pub test: Vec<CurvePoint>,
    /// Relative overtuning at the end, one value per tuning run.
    pub relative: Vec<f64>,
    /// Runs left out because the improvement was too small for the ratio.
    #[serde(default)]
    pub excluded: usize,
}

impl TunedMethod {
    fn trace(&self, at: &str, look: Look, name: &str, points: &[CurvePoint]) -> Result<Trace> {
        nonempty(at, points)?;
        let mut before = f64::NEG_INFINITY;
        for (j, p) in points.iter().enumerate() {
            finite(&format!("{at}[{j}].budget"), p.budget)?;
            p.value.check(&format!("{at}[{j}].value"))?;
            if p.budget <= before {
                return Err(invalid(
                    format!("{at}[{j}].budget"),
                    format!("more than {before} (strictly increasing)"),
                    p.budget,
                ));
            }
            before = p.budget;
        }
        let line = points.iter().map(|p| (p.budget, p.value.point)).collect();
        let mut trace = Trace::new(look, &format!("{}, {name}", self.method), line);
        trace.step = true;
        trace.band =
            points.iter().filter_map(|p| p.value.bar().map(|[l, h]| (p.budget, l, h))).collect();
        Ok(trace)
    }

    /// Shares of runs at 0, above 0.1 and from 1.0 on.
    fn shares(&self) -> [f64; 3] {
        let share = |f: &dyn Fn(f64) -> bool| {
            let hits = self.relative.iter().filter(|&&v| f(v)).count();
            hits as f64 / self.relative.len().max(1) as f64
        };
        [share(&|v| v <= 0.0), share(&|v| v > 0.1), share(&|v| v >= 1.0)]
    }
}

impl TunedMethod {
    fn shares_json(&self) -> serde_json::Value {
        let [none, some, worse] = self.shares();
        json!({ "method": self.method, "n": self.relative.len(), "excluded": self.excluded,
                "none": none, "above_0.1": some, "from_1.0": worse })
    }

    fn shares_words(&self) -> String {
        let (name, n, excluded) = (&self.method, self.relative.len(), self.excluded);
        if n == 0 {
            return format!("{name}: no ratio ({excluded} runs excluded)");
        }
        let percent = |v: f64| format!("{}%", text::fixed(v * 100.0, 0));
        let [none, some, worse] = self.shares().map(percent);
        format!(
            "{name}: none {none}, above 0.1 {some}, from 1.0 {worse} (n = {n}, {excluded} excluded)"
        )
    }
}

impl Draw for Overtuning {
    const KIND: &'static str = "overtuning";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("methods", &self.methods)?;
        let names: Vec<&str> = self.methods.iter().map(|m| m.method.as_str()).collect();
        unique("methods", &names)?;
        let (mut traces, mut steps, mut legend) = (Vec::new(), Vec::new(), Vec::new());
        for (i, m) in self.methods.iter().enumerate() {
            let at = format!("methods[{i}]");
            let look = palette.look(&format!("{at}.method"), &m.method)?;
            let plain = Look { dash: "", ..look };
            legend.push(LegendItem { key: Key::Line(plain), text: m.method.clone() });
            let mut validation =
                m.trace(&format!("{at}.validation"), look, "validation", &m.validation)?;
            validation.dash = Some("2.6 1.8");
            validation.marks = Marks::None;
            let mut test = m.trace(&format!("{at}.test"), look, "test", &m.test)?;
            test.dash = Some("");
            traces.extend([validation, test]);
            all_finite(&format!("{at}.relative"), &m.relative)?;
            if !m.relative.is_empty() {
                let mut sorted = m.relative.clone();
                sorted.sort_by(f64::total_cmp);
                let n = sorted.len() as f64;
                let mut points = vec![(sorted[0], 0.0)];
                points.extend(sorted.iter().enumerate().map(|(k, &v)| (v, (k as f64 + 1.0) / n)));
                let mut trace = Trace::new(plain, &m.method, points);
                trace.step = true;
                trace.extend = true;
                steps.push(trace);
            }
        }
        let grey = |dash| Key::Rule { colour: "#444444".to_owned(), width: 1.3, dash };
        legend.push(LegendItem { key: grey(""), text: "test".to_owned() });
        legend.push(LegendItem { key: grey("2.6 1.8"), text: "validation".to_owned() });
        let all = || self.methods.iter().flat_map(|m| m.validation.iter().chain(&m.test));
        let budgets = all().map(|p| p.budget);
        let values = all().flat_map(|p| p.value.extent().collect::<Vec<_>>());
        let lin = ScaleKind::Linear;
        let mut charts = vec![Chart {
            title: "Error of the incumbent".to_owned(),
            x: Axis::over("budget", &self.x_label, lin, budgets, [None; 2])?,
            y: Axis::over("value", &self.y_label, lin, values, [None; 2])?,
            traces,
            rules: Vec::new(),
        }];
        if !steps.is_empty() {
            let relative = self.methods.iter().flat_map(|m| m.relative.iter().copied());
            charts.push(Chart {
                title: "Relative overtuning at the end".to_owned(),
                x: Axis::over(
                    "relative",
                    "relative overtuning",
                    lin,
                    relative.chain([0.0, 1.1]),
                    [None; 2],
                )?,
                y: unit_axis("share of tuning runs")?,
                traces: steps,
                rules: vec![Rule::Vertical(0.1), Rule::Vertical(1.0)],
            });
        }
        let mut sheet = Sheet::new(&self.head, "")?;
        let (columns, height) = match self.head.width {
            Width::Column => (1, 110.0),
            Width::Page => (2, 140.0),
        };
        draw_grid(&mut sheet, charts, columns, height);
        sheet.legend(&legend);
        let shares: Vec<_> = self.methods.iter().map(TunedMethod::shares_json).collect();
        let words: Vec<String> = self.methods.iter().map(TunedMethod::shares_words).collect();
        let mut notes = vec![format!("Overtuned runs: {}.", words.join("; "))];
        notes.push(
            "Dashed: 0.1 and 1.0; from 1.0 on, the result is worse than the start.".to_owned(),
        );
        let banded = all().any(|p| p.value.bar().is_some());
        sheet.notes(&notes, banded);
        let last = |points: &[CurvePoint]| {
            points.last().map_or_else(String::new, |p: &CurvePoint| Estimate::words(&p.value))
        };
        let desc = self
            .methods
            .iter()
            .map(|m| {
                format!("{}: validation {}, test {}", m.method, last(&m.validation), last(&m.test))
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({ "shares": shares }), &desc)
    }
}
