//! Heat map of ranks: methods by tasks.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::matrix::{Cell, HeatGrid};
use super::palette::{Palette, sequential};
use super::sheet::{Key, LegendItem, Sheet};
use super::{Draw, Figure, Head, Result, finite, invalid, nonempty, same_len, text, unique};

/// Rank of each method on each task, 1 = best, with the mean in the last column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankMap {
    /// Name, title, origin.
    pub head: Head,
    /// Methods, spec order.
    pub methods: Vec<String>,
    /// Tasks, spec order.
    pub tasks: Vec<String>,
    /// Runs behind each cell.
    pub runs: usize,
    /// `ranks[method][task]`; `None` where a method has no result.
    pub ranks: Vec<Vec<Option<f64>>>,
}

impl RankMap {
    /// Mean over all tasks; none when one is missing, because ranks of fewer tasks do not compare.
    fn mean(&self, method: usize) -> Option<f64> {
        let known: Vec<f64> = self.ranks[method].iter().copied().flatten().collect();
        (known.len() == self.tasks.len()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}

impl Draw for RankMap {
    const KIND: &'static str = "ranks";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        nonempty("methods", &self.methods)?;
        nonempty("tasks", &self.tasks)?;
        let names: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        unique("methods", &names)?;
        let k = self.methods.len() as f64;
        same_len("ranks", self.methods.len(), self.ranks.len())?;
        for (i, row) in self.ranks.iter().enumerate() {
            palette.look(&format!("methods[{i}]"), &self.methods[i])?;
            same_len(&format!("ranks[{i}]"), self.tasks.len(), row.len())?;
            for (j, r) in row.iter().enumerate() {
                let Some(r) = *r else { continue };
                let at = format!("ranks[{i}][{j}]");
                finite(&at, r)?;
                if !(1.0..=k).contains(&r) {
                    return Err(invalid(at, format!("a rank in 1..={k}"), r));
                }
            }
        }
        let plural = if self.runs == 1 { "" } else { "s" };
        let mut sheet = Sheet::new(&self.head, &format!("{} run{plural} per cell", self.runs))?;
        let mut columns = self.tasks.clone();
        columns.push("mean".to_owned());
        let shade = |r: f64| {
            // Rank 1 is darkest: the eye goes to the best.
            sequential(if k > 1.0 { 0.92 * (k - r) / (k - 1.0) } else { 0.92 })
        };
        let grid = HeatGrid::new(&sheet, &self.methods, &columns, 44.0);
        grid.draw(&mut sheet, &|i, j| {
            let (value, what) = if j < self.tasks.len() {
                (self.ranks[i][j], self.tasks[j].as_str())
            } else {
                (self.mean(i), "mean")
            };
            match value {
                Some(r) => {
                    let whole = (r - r.round()).abs() < 1e-9 && j < self.tasks.len();
                    Cell {
                        fill: if j < self.tasks.len() { shade(r) } else { "#ffffff".to_owned() },
                        words: text::fixed(
                            r,
                            if whole { 0 } else { 1 + usize::from(j == self.tasks.len()) },
                        ),
                        tip: format!("{}, {what}: rank {}", self.methods[i], text::short(r, 4)),
                    }
                }
                None => Cell {
                    fill: "#ffffff".to_owned(),
                    words: "–".to_owned(),
                    tip: format!("{}, {what}: no result", self.methods[i]),
                },
            }
        });
        let legend: Vec<LegendItem> = [1.0, f64::midpoint(1.0, k), k]
            .into_iter()
            .take(if k > 1.0 { 3 } else { 1 })
            .map(|r| LegendItem {
                key: Key::Box(shade(r)),
                text: match r {
                    r if r <= 1.0 => "rank 1 (best)".to_owned(),
                    r => format!("rank {}", text::brief(r, 3)),
                },
            })
            .collect();
        sheet.legend(&legend);
        sheet.notes(&["Ranks within each task; ties share their mean rank.".to_owned()], false);
        let means: Vec<_> = (0..self.methods.len())
            .map(|i| json!({ "method": self.methods[i], "mean_rank": self.mean(i) }))
            .collect();
        let desc = (0..self.methods.len())
            .map(|i| match self.mean(i) {
                Some(r) => format!("{}: mean rank {}", self.methods[i], text::fixed(r, 2)),
                None => format!("{}: incomplete", self.methods[i]),
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({ "means": means }), &desc)
    }
}
