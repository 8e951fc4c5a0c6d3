//! What each method cost: time, CPU, energy, memory, each with its interval.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::intervals::row_notes;
use super::palette::{Look, Palette};
use super::rows::{RowPanel, draw_rows};
use super::sheet::Sheet;
use super::{Draw, Estimate, Figure, Head, Result, ScaleKind, invalid, nonempty, same_len, unique};

/// Cost per trial of each method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Name, title, origin.
    pub head: Head,
    /// Methods in spec order.
    pub methods: Vec<String>,
    /// One panel per resource.
    pub panels: Vec<CostPanel>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostPanel {
    /// Resource, e.g. `wall time`.
    pub label: String,
    /// Unit, e.g. `s`, `J`, `MiB`.
    pub unit: String,
    /// Logarithmic axis; for methods of very unequal cost.
    #[serde(default)]
    pub log: bool,
    /// One estimate per method, not negative; `None` when not measured.
    pub rows: Vec<Option<Estimate>>,
}

impl Draw for Cost {
    const KIND: &'static str = "cost";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("methods", &self.methods)?;
        nonempty("panels", &self.panels)?;
        let names: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        unique("methods", &names)?;
        let looks: Vec<Look> =
            self.methods.iter().map(|m| palette.look("methods", m)).collect::<Result<_>>()?;
        let mut panels = Vec::with_capacity(self.panels.len());
        for (i, panel) in self.panels.iter().enumerate() {
            let argument = format!("panels[{i}]");
            same_len(&format!("{argument}.rows"), self.methods.len(), panel.rows.len())?;
            for (j, e) in panel.rows.iter().enumerate() {
                let Some(e) = e else { continue };
                let at = format!("{argument}.rows[{j}]");
                e.check(&at)?;
                if e.point < 0.0 {
                    return Err(invalid(format!("{at}.point"), "a cost of at least 0", e.point));
                }
            }
            let values = panel.rows.iter().flatten().flat_map(Estimate::extent);
            let (kind, bounds) = if panel.log {
                (ScaleKind::Log10, [None, None])
            } else {
                // Costs are read as ratios: a linear axis starts at zero.
                (ScaleKind::Linear, [Some(0.0), None])
            };
            let unit = panel.unit.trim();
            let label = if unit.is_empty() { String::new() } else { format!("{unit} per trial") };
            panels.push(RowPanel {
                title: panel.label.clone(),
                axis: Axis::over(&argument, &label, kind, values, bounds)?,
                estimates: panel.rows.clone(),
                rules: Vec::new(),
            });
        }
        let mut sheet = Sheet::new(&self.head, "")?;
        draw_rows(&mut sheet, &self.methods, &looks, panels);
        let all = || self.panels.iter().flat_map(|p| p.rows.iter().flatten());
        sheet.notes(&row_notes(all()), all().any(|e| e.bar().is_some()));
        let desc = self
            .panels
            .iter()
            .flat_map(|p| {
                self.methods.iter().zip(&p.rows).filter_map(move |(m, e)| {
                    e.map(|e| format!("{} ({}), {m}: {}", p.label, p.unit, e.words()))
                })
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({}), &desc)
    }
}
