//! Probability of improvement of one method over another (section 7.11).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::intervals::{counts, row_notes};
use super::palette::{Look, Palette};
use super::rows::{RowPanel, draw_rows};
use super::sheet::Sheet;
use super::{Draw, Estimate, Figure, Head, Result, ScaleKind, fraction, nonempty};

/// Rows `A > B` with the line of no difference at one half.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Improvement {
    /// Name, title, origin.
    pub head: Head,
    /// Runs per method and task.
    pub runs: usize,
    /// Tasks.
    pub tasks: usize,
    /// The pairs, in the order to show.
    pub rows: Vec<ImprovementRow>,
}

/// One pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImprovementRow {
    /// Method that may be better; gives the row its colour.
    pub first: String,
    /// Method compared with.
    pub second: String,
    /// Probability that a run of `first` beats a run of `second`, in 0..=1.
    pub probability: Estimate,
}

impl Draw for Improvement {
    const KIND: &'static str = "poi";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("rows", &self.rows)?;
        let mut looks: Vec<Look> = Vec::with_capacity(self.rows.len());
        for (i, row) in self.rows.iter().enumerate() {
            let at = format!("rows[{i}]");
            row.probability.check(&format!("{at}.probability"))?;
            row.probability.extent().try_for_each(|v| fraction(&format!("{at}.probability"), v))?;
            palette.look(&format!("{at}.second"), &row.second)?;
            looks.push(palette.look(&format!("{at}.first"), &row.first)?);
        }
        let labels: Vec<String> =
            self.rows.iter().map(|r| format!("{} > {}", r.first, r.second)).collect();
        let axis = Axis::over(
            "rows",
            "probability that a run of the first is better",
            ScaleKind::Linear,
            [],
            [Some(0.0), Some(1.0)],
        )?;
        let panel = RowPanel {
            title: String::new(),
            axis,
            estimates: self.rows.iter().map(|r| Some(r.probability)).collect(),
            rules: vec![0.5],
        };
        let mut sheet = Sheet::new(&self.head, &counts(self.runs, self.tasks))?;
        draw_rows(&mut sheet, &labels, &looks, vec![panel]);
        let mut notes = row_notes(self.rows.iter().map(|r| &r.probability));
        notes.push(
            "Dashed line: no difference. The relation is not transitive and gives no ranking."
                .to_owned(),
        );
        sheet.notes(&notes, self.rows.iter().any(|r| r.probability.bar().is_some()));
        let desc = self
            .rows
            .iter()
            .map(|r| format!("{} better than {}: {}", r.first, r.second, r.probability.words()))
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({}), &desc)
    }
}
