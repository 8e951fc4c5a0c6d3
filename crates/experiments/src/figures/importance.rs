//! Shares of variance by factor, seed noise included (section 7.15 c).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::Axis;
use super::canvas::{Anchor, Area, Canvas, INK, Stroke};
use super::chart::{X_TICKS, draw_x_axis, draw_x_label};
use super::palette::{Look, Palette, ink_on};
use super::sheet::{Key, LegendItem, Sheet};
use super::text::{self, BODY, CAP, LEADING};
use super::{Draw, Figure, Head, Result, ScaleKind, fraction, invalid, nonempty, same_len, unique};

/// Stacked bars of variance shares, one bar per metric or task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Importance {
    /// Name, title, origin.
    pub head: Head,
    /// Factors and interactions, e.g. `method`, `method × task`, in spec order.
    pub components: Vec<String>,
    /// The bars.
    pub bars: Vec<ImportanceBar>,
}

/// One bar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportanceBar {
    /// Metric or task.
    pub label: String,
    /// Share of the variance per component, each in 0..=1.
    pub shares: Vec<f64>,
    /// Share of the seed (residual). With the shares it sums to at most 1.
    pub seed_noise: f64,
    /// Observations in the factorial.
    pub n: usize,
}

impl Draw for Importance {
    const KIND: &'static str = "importance";

    fn draw(&self, _palette: &Palette) -> Result<Figure> {
        nonempty("components", &self.components)?;
        nonempty("bars", &self.bars)?;
        let names: Vec<&str> = self.components.iter().map(String::as_str).collect();
        unique("components", &names)?;
        for (i, bar) in self.bars.iter().enumerate() {
            let at = format!("bars[{i}]");
            same_len(&format!("{at}.shares"), self.components.len(), bar.shares.len())?;
            for (j, &s) in bar.shares.iter().enumerate() {
                fraction(&format!("{at}.shares[{j}]"), s)?;
            }
            fraction(&format!("{at}.seed_noise"), bar.seed_noise)?;
            let sum = bar.shares.iter().sum::<f64>() + bar.seed_noise;
            if sum > 1.0 + 1e-6 {
                return Err(invalid(at, "shares that sum to at most 1", sum));
            }
        }
        let mut sheet = Sheet::new(&self.head, "")?;
        let (left, right) = sheet.inner();
        let right = right - 6.0;
        let room = (right - left) * 0.32;
        let labels: Vec<Vec<String>> = self
            .bars
            .iter()
            .map(|b| text::balanced(&format!("{} (n = {})", b.label, b.n), BODY, room, 3))
            .collect();
        let label_w = text::widest(labels.iter().flatten().map(String::as_str), BODY) + 6.0;
        let hatch = sheet.canvas.hatch();
        let fills: Vec<String> = (0..self.components.len()).map(fill).collect();
        let mut axis =
            Axis::over("bars", "share of variance", ScaleKind::Linear, [], [Some(0.0), Some(1.0)])?;
        let width = right - left - label_w;
        axis.fit_horizontal(width);
        let heights: Vec<f64> =
            labels.iter().map(|l| (l.len() as f64 * BODY * LEADING + 5.0).max(19.0)).collect();
        let area = Area { x: left + label_w, y: sheet.y, w: width, h: heights.iter().sum() };
        draw_x_axis(&mut sheet.canvas, &area, &axis, true);
        let mut y = area.y;
        for ((bar, lines), h) in self.bars.iter().zip(&labels).zip(&heights) {
            let mid = y + h / 2.0;
            y += h;
            sheet.canvas.lines((area.x - 5.0, mid), Anchor::End, BODY, INK, lines);
            self.draw_bar(&mut sheet.canvas, &area, mid, bar, (&fills, &hatch));
        }
        sheet.y = area.bottom() + X_TICKS;
        let mid = area.x + area.w / 2.0;
        draw_x_label(&mut sheet.canvas, mid, sheet.y, area.w, &axis);
        sheet.y += BODY * LEADING + 1.0;
        let mut legend: Vec<LegendItem> = self
            .components
            .iter()
            .zip(&fills)
            .map(|(n, f)| LegendItem { key: Key::Box(f.clone()), text: n.clone() })
            .collect();
        legend.push(LegendItem { key: Key::Box(hatch), text: "seed noise".to_owned() });
        sheet.legend(&legend);
        // The first component is the one a study asks about; noise above it decides the reading.
        let loud: Vec<&str> = self
            .bars
            .iter()
            .filter(|b| b.seed_noise > b.shares[0])
            .map(|b| b.label.as_str())
            .collect();
        let mut notes = Vec::new();
        if !loud.is_empty() {
            notes.push(format!(
                "Seed noise exceeds `{}` for: {}. Conclusions there hang on seeds.",
                self.components[0],
                loud.join("; ")
            ));
        }
        sheet.notes(&notes, false);
        let desc = self
            .bars
            .iter()
            .map(|b| {
                let parts: Vec<String> = self
                    .components
                    .iter()
                    .zip(&b.shares)
                    .map(|(n, s)| format!("{n} {}", text::short(*s, 3)))
                    .collect();
                format!(
                    "{}: {}, seed noise {}",
                    b.label,
                    parts.join(", "),
                    text::short(b.seed_noise, 3)
                )
            })
            .collect::<Vec<_>>()
            .join("; ");
        sheet.finish(self, &json!({ "noise_exceeds_first": loud }), &desc)
    }
}

impl Importance {
    /// One stacked bar, centred on `mid`.
    fn draw_bar(
        &self,
        canvas: &mut Canvas,
        area: &Area,
        mid: f64,
        bar: &ImportanceBar,
        (fills, hatch): (&[String], &str),
    ) {
        let mut from = area.x;
        let parts = self
            .components
            .iter()
            .zip(&bar.shares)
            .zip(fills)
            .map(|((n, s), f)| (n.as_str(), *s, f.as_str()))
            .chain([("seed noise", bar.seed_noise, hatch)]);
        for (name, share, fill) in parts {
            let w = share * area.w;
            let part = Area { x: from, y: mid - 6.5, w, h: 13.0 };
            from += w;
            if w < 0.05 {
                continue;
            }
            let percent = format!("{}%", text::fixed(share * 100.0, usize::from(share < 0.0995)));
            canvas.open(&format!("{}, {name}: {percent}", bar.label));
            canvas.rect(&part, fill, Some(&Stroke::full("#ffffff", 0.5)));
            let words = text::width(&percent, BODY);
            if words + 5.0 <= w {
                let at = (part.x + w / 2.0, mid + BODY * CAP / 2.0);
                let ink = if fill.starts_with('#') { ink_on(fill) } else { INK };
                if !fill.starts_with('#') {
                    // Text on hatching needs a calm ground.
                    let ground =
                        Area { x: at.0 - words / 2.0 - 1.5, y: mid - 4.2, w: words + 3.0, h: 8.4 };
                    canvas.rect(&ground, "#f4f4f4", None);
                }
                canvas.text(at, Anchor::Middle, BODY, ink, &percent);
            }
            canvas.close();
        }
    }
}

/// Fills follow Okabe-Ito; from the ninth on they are lightened, so that neighbours still differ.
fn fill(i: usize) -> String {
    let colour = Look::nth(i).colour;
    match i / 8 {
        0 => super::palette::mix(colour, "#ffffff", 0.12),
        n => super::palette::mix(colour, "#ffffff", 1.0 - 0.6f64.powi(n as i32)),
    }
}
