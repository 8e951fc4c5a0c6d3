//! Heat map of adjusted p-values and effect sizes of all pairs.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::canvas::{Anchor, Area, INK, MUTED, Stroke};
use super::palette::{Palette, diverging, ink_on};
use super::sheet::{Key, LegendItem, Sheet};
use super::text::{self, BODY, CAP, LEADING};
use super::{Draw, Figure, Head, Result, fraction, invalid, nonempty, same_len, unique};

/// Upper triangle: adjusted p. Lower triangle: A12 of the row method against the column method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairMatrix {
    /// Name, title, origin.
    pub head: Head,
    /// Methods, spec order; at least two.
    pub methods: Vec<String>,
    /// Correction, e.g. `Holm`.
    pub correction: String,
    /// Tasks or runs behind each pair.
    pub n: usize,
    /// Adjusted p-values, symmetric, `[i][j]`; the diagonal is not read.
    pub p: Vec<Vec<f64>>,
    /// A12: above one half means that the row method is better; `a[i][j] + a[j][i] = 1`.
    pub a12: Vec<Vec<f64>>,
}

/// Classes of p and their fills.
const CLASSES: [(f64, &str, &str); 4] = [
    (0.001, "#08519c", "p < 0.001"),
    (0.01, "#4a90c8", "p < 0.01"),
    (0.05, "#aed0e6", "p < 0.05"),
    (f64::INFINITY, "#f2f2f2", "p ≥ 0.05"),
];

impl PairMatrix {
    fn check(&self) -> Result<()> {
        nonempty("methods", &self.methods)?;
        let k = self.methods.len();
        if k < 2 {
            return Err(invalid("methods", "at least 2 methods to compare", k));
        }
        let names: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        unique("methods", &names)?;
        for (name, table) in [("p", &self.p), ("a12", &self.a12)] {
            same_len(name, k, table.len())?;
            for (i, row) in table.iter().enumerate() {
                same_len(&format!("{name}[{i}]"), k, row.len())?;
                for (j, &v) in row.iter().enumerate() {
                    if i != j {
                        fraction(&format!("{name}[{i}][{j}]"), v)?;
                    }
                }
            }
        }
        for i in 0..k {
            for j in i + 1..k {
                if (self.p[i][j] - self.p[j][i]).abs() > 1e-9 {
                    let at = format!("p[{i}][{j}]");
                    return Err(invalid(
                        at,
                        format!("{} as in p[{j}][{i}]", self.p[j][i]),
                        self.p[i][j],
                    ));
                }
                let sum = self.a12[i][j] + self.a12[j][i];
                if (sum - 1.0).abs() > 1e-9 {
                    let at = format!("a12[{i}][{j}] + a12[{j}][{i}]");
                    return Err(invalid(at, "1", sum));
                }
            }
        }
        Ok(())
    }
}

impl Draw for PairMatrix {
    const KIND: &'static str = "matrix";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        self.check()?;
        for m in &self.methods {
            palette.look("methods", m)?;
        }
        let k = self.methods.len();
        let counts = format!("n = {} per pair, p adjusted after {}", self.n, self.correction);
        let mut sheet = Sheet::new(&self.head, &counts)?;
        let grid = HeatGrid::new(&sheet, &self.methods, &self.methods, 40.0);
        grid.draw(&mut sheet, &|i, j| match i.cmp(&j) {
            std::cmp::Ordering::Equal => Cell::blank(),
            std::cmp::Ordering::Less => {
                let p = self.p[i][j];
                let class = CLASSES.iter().find(|c| p < c.0).unwrap_or(&CLASSES[3]);
                let words = if p < 0.001 {
                    "<.001".to_owned()
                } else {
                    text::fixed(p, 3).trim_start_matches('0').to_owned()
                };
                let tip =
                    format!("{} and {}: {}", self.methods[i], self.methods[j], text::p_value(p));
                Cell { fill: class.1.to_owned(), words, tip }
            }
            std::cmp::Ordering::Greater => {
                let a = self.a12[i][j];
                Cell {
                    fill: diverging((a - 0.5) * 1.6),
                    words: text::fixed(a, 2).trim_start_matches('0').to_owned(),
                    tip: format!(
                        "{} better than {}: A12 = {}",
                        self.methods[i],
                        self.methods[j],
                        text::fixed(a, 3)
                    ),
                }
            }
        });
        let mut legend: Vec<LegendItem> = CLASSES
            .iter()
            .map(|c| LegendItem { key: Key::Box(c.1.to_owned()), text: c.2.to_owned() })
            .collect();
        for (a, words) in [(0.1, "A12 = 0.1"), (0.5, "A12 = 0.5"), (0.9, "A12 = 0.9")] {
            let fill = diverging((a - 0.5) * 1.6);
            legend.push(LegendItem { key: Key::Box(fill), text: words.to_owned() });
        }
        sheet.legend(&legend);
        let note = "Above the diagonal: adjusted p. Below: A12, the probability that the row method is \
                    better than the column method.";
        sheet.notes(&[note.to_owned()], false);
        let pairs = (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j)));
        let desc = pairs
            .map(|(i, j)| {
                format!(
                    "{} and {}: {}, A12 = {}",
                    self.methods[i],
                    self.methods[j],
                    text::p_value(self.p[i][j]),
                    text::fixed(self.a12[i][j], 2)
                )
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({}), &desc)
    }
}

/// One cell of a heat map.
pub(crate) struct Cell {
    pub(crate) fill: String,
    pub(crate) words: String,
    pub(crate) tip: String,
}

impl Cell {
    pub(crate) fn blank() -> Self {
        Self { fill: "#ffffff".to_owned(), words: String::new(), tip: String::new() }
    }
}

/// Layout of a labelled grid of cells.
pub(crate) struct HeatGrid {
    rows: Vec<Vec<String>>,
    columns: Vec<Vec<String>>,
    turned: bool,
    label_w: f64,
    cell_w: f64,
    cell_h: f64,
}

/// Longest turned column label.
const TURNED_ROOM: f64 = 100.0;

impl HeatGrid {
    /// `most` bounds the width of a cell.
    pub(crate) fn new(sheet: &Sheet, rows: &[String], columns: &[String], most: f64) -> Self {
        let (left, right) = sheet.inner();
        let label_room = (right - left) * 0.3;
        let rows: Vec<Vec<String>> =
            rows.iter().map(|r| text::balanced(r, BODY, label_room, 2)).collect();
        let label_w = text::widest(rows.iter().flatten().map(String::as_str), BODY) + 5.0;
        let cell_w = ((right - left - label_w) / columns.len() as f64).min(most);
        let tall = rows.iter().map(Vec::len).max().unwrap_or(1) as f64 * BODY * LEADING + 2.0;
        let cell_h = tall.max(cell_w.clamp(13.0, 18.0));
        let turned = columns.iter().any(|c| !text::wraps_cleanly(c, BODY, cell_w - 3.0, 2));
        let columns = columns
            .iter()
            .map(|c| {
                if turned {
                    vec![text::shorten(c, BODY, TURNED_ROOM)]
                } else {
                    text::wrap(c, BODY, cell_w - 3.0, 2)
                }
            })
            .collect();
        Self { rows, columns, turned, label_w, cell_w, cell_h }
    }

    pub(crate) fn draw(&self, sheet: &mut Sheet, cell: &dyn Fn(usize, usize) -> Cell) {
        let left = sheet.inner().0;
        let head = if self.turned {
            text::widest(self.columns.iter().flatten().map(String::as_str), BODY)
        } else {
            self.columns.iter().map(Vec::len).max().unwrap_or(1) as f64 * BODY * LEADING
        } + 3.0;
        let top = sheet.y + head;
        let x0 = left + self.label_w;
        for (j, lines) in self.columns.iter().enumerate() {
            let x = x0 + self.cell_w * (j as f64 + 0.5);
            if self.turned {
                let at = (x + BODY * CAP / 2.0, top - 3.0);
                sheet.canvas.turned_text(at, Anchor::Start, BODY, INK, &lines[0], -90.0);
            } else {
                for (l, line) in lines.iter().enumerate() {
                    let up = (lines.len() - 1 - l) as f64 * BODY * LEADING + 4.0;
                    sheet.canvas.text((x, top - up), Anchor::Middle, BODY, INK, line);
                }
            }
        }
        for (i, lines) in self.rows.iter().enumerate() {
            let mid = top + self.cell_h * (i as f64 + 0.5);
            sheet.canvas.lines((x0 - 4.0, mid), Anchor::End, BODY, INK, lines);
            for j in 0..self.columns.len() {
                let c = cell(i, j);
                let area = Area {
                    x: x0 + self.cell_w * j as f64,
                    y: top + self.cell_h * i as f64,
                    w: self.cell_w,
                    h: self.cell_h,
                };
                if c.tip.is_empty() && c.words.is_empty() {
                    continue;
                }
                sheet.canvas.open(&c.tip);
                sheet.canvas.rect(&area, &c.fill, Some(&Stroke::full("#ffffff", 0.8)));
                // Numbers shrink to 5 points; below that the tooltip and the side file have them.
                let size = [BODY, 7.0, 6.0, 5.0]
                    .into_iter()
                    .find(|&s| text::width(&c.words, s) + 2.5 <= self.cell_w);
                if let Some(size) = size {
                    let at = (area.x + area.w / 2.0, area.y + area.h / 2.0 + size * CAP / 2.0);
                    let ink = if c.fill == "#ffffff" { MUTED } else { ink_on(&c.fill) };
                    sheet.canvas.text(at, Anchor::Middle, size, ink, &c.words);
                }
                sheet.canvas.close();
            }
        }
        sheet.y = top + self.cell_h * self.rows.len() as f64;
    }
}
