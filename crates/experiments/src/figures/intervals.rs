//! Point estimates with intervals: one row per method, one panel per aggregate.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::palette::{Look, Palette};
use super::rows::{RowPanel, draw_rows};
use super::sheet::{Key, LegendItem, Sheet};
use super::{
    Draw, Estimate, Figure, Head, Result, ScaleKind, finite, nonempty, same_len, text, unique,
};

/// Intervals of several aggregates, in spec order (never sorted by result).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervals {
    /// Name, title, origin.
    pub head: Head,
    /// Methods in spec order.
    pub methods: Vec<String>,
    /// Runs per method and task.
    pub runs: usize,
    /// Tasks.
    pub tasks: usize,
    /// One panel per aggregate (IQM, median, mean, optimality gap).
    pub panels: Vec<IntervalPanel>,
}

/// One aggregate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntervalPanel {
    /// Heading, e.g. `IQM`.
    pub label: String,
    /// Axis label with unit, e.g. `test error (lower is better)`.
    #[serde(default)]
    pub axis: String,
    /// Kind of axis.
    #[serde(default)]
    pub scale: ScaleKind,
    /// One estimate per method; `None` is shown as `no data`.
    pub rows: Vec<Option<Estimate>>,
    /// Values to compare with, e.g. the figure that a paper reports.
    #[serde(default)]
    pub references: Vec<Reference>,
}

/// A named value drawn as a dashed line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// What it is, e.g. `paper`.
    pub label: String,
    /// Value on the axis.
    pub value: f64,
}

impl IntervalPanel {
    /// A linear panel without axis label and references.
    pub fn new(label: impl Into<String>, rows: Vec<Option<Estimate>>) -> Self {
        Self {
            label: label.into(),
            axis: String::new(),
            scale: ScaleKind::Linear,
            rows,
            references: Vec::new(),
        }
    }

    fn build(&self, argument: &str, methods: usize) -> Result<RowPanel> {
        same_len(&format!("{argument}.rows"), methods, self.rows.len())?;
        for (i, row) in self.rows.iter().enumerate() {
            if let Some(e) = row {
                e.check(&format!("{argument}.rows[{i}]"))?;
            }
        }
        for (i, r) in self.references.iter().enumerate() {
            finite(&format!("{argument}.references[{i}].value"), r.value)?;
        }
        let values = self
            .rows
            .iter()
            .flatten()
            .flat_map(Estimate::extent)
            .chain(self.references.iter().map(|r| r.value));
        Ok(RowPanel {
            title: self.label.clone(),
            axis: Axis::over(argument, &self.axis, self.scale, values, [None; 2])?,
            estimates: self.rows.clone(),
            rules: self.references.iter().map(|r| r.value).collect(),
        })
    }
}

impl Draw for Intervals {
    const KIND: &'static str = "intervals";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("methods", &self.methods)?;
        nonempty("panels", &self.panels)?;
        let names: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        unique("methods", &names)?;
        let looks: Vec<Look> =
            self.methods.iter().map(|m| palette.look("methods", m)).collect::<Result<_>>()?;
        let panels = self
            .panels
            .iter()
            .enumerate()
            .map(|(i, p)| p.build(&format!("panels[{i}]"), self.methods.len()))
            .collect::<Result<Vec<_>>>()?;
        let mut sheet = Sheet::new(&self.head, &counts(self.runs, self.tasks))?;
        draw_rows(&mut sheet, &self.methods, &looks, panels);
        let mut legend: Vec<LegendItem> = Vec::new();
        for panel in &self.panels {
            for r in &panel.references {
                let of = if self.panels.len() > 1 {
                    format!(" ({})", panel.label)
                } else {
                    String::new()
                };
                legend.push(LegendItem {
                    key: Key::Rule { colour: "#666666".to_owned(), width: 0.8, dash: "2.5 2" },
                    text: format!("{}{of}: {}", r.label, text::brief(r.value, 4)),
                });
            }
        }
        sheet.legend(&legend);
        let all = || self.panels.iter().flat_map(|p| p.rows.iter().flatten());
        sheet.notes(&row_notes(all()), all().any(|e| e.bar().is_some()));
        let desc =
            self.panels
                .iter()
                .flat_map(|p| {
                    self.methods.iter().zip(&p.rows).filter_map(move |(m, e)| {
                        e.map(|e| format!("{}, {m}: {}", p.label, e.words()))
                    })
                })
                .collect::<Vec<_>>()
                .join("; ");
        sheet.finish(self, &json!({}), &desc)
    }
}

/// `10 runs × 4 tasks`.
pub(crate) fn counts(runs: usize, tasks: usize) -> String {
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    format!("{} × {}", plural(runs, "run"), plural(tasks, "task"))
}

/// What a reader must know about hollow points and short samples.
pub(crate) fn row_notes<'a>(estimates: impl Iterator<Item = &'a Estimate>) -> Vec<String> {
    let (mut single, mut few) = (false, false);
    for e in estimates {
        single |= e.n == 1;
        few |= (2..5).contains(&e.n);
    }
    let mut notes = Vec::new();
    if single {
        notes.push("Hollow point: a single run, no interval.".to_owned());
    }
    if few {
        notes.push("Some intervals rest on fewer than 5 runs and are too short.".to_owned());
    }
    notes
}
