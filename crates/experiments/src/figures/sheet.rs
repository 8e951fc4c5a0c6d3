//! The page of a figure: title, subtitle, content, legend and notes, stacked from the top.

use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::canvas::{Anchor, Area, Canvas, INK, MUTED, Stroke};
use super::palette::Look;
use super::text::{self, BODY, CAP, LEADING, SMALL, TITLE};
use super::{Draw, Figure, FigureError, Head, Result, invalid};

/// White space around the content.
pub(crate) const MARGIN: f64 = 6.0;
const SWATCH: f64 = 24.0;

/// One entry of a legend.
pub(crate) struct LegendItem {
    pub(crate) key: Key,
    pub(crate) text: String,
}

/// Drawing in front of a legend entry.
pub(crate) enum Key {
    /// Line with marker.
    Line(Look),
    /// Point only.
    Point(Look),
    /// Filled box.
    Box(String),
    /// Line of given ink without marker.
    Rule { colour: String, width: f64, dash: &'static str },
    /// Failed or censored run.
    Cross,
}

/// A page that grows downwards.
pub(crate) struct Sheet<'a> {
    pub(crate) canvas: Canvas,
    /// Width of the page in points.
    pub(crate) width: f64,
    /// Next free ordinate.
    pub(crate) y: f64,
    head: &'a Head,
}

impl<'a> Sheet<'a> {
    /// Starts a page with its title; `counts` ("10 runs × 4 tasks") ends the subtitle.
    pub(crate) fn new(head: &'a Head, counts: &str) -> Result<Self> {
        Self::check_name(&head.name)?;
        let mut sheet = Self {
            canvas: Canvas::new(&head.name.replace('.', "-")),
            width: head.width.points(),
            y: MARGIN,
            head,
        };
        let room = sheet.width - 2.0 * MARGIN;
        if !head.title.trim().is_empty() {
            sheet.block(&text::wrap(&head.title, TITLE, room, 3), TITLE, INK);
        }
        let subtitle = [head.subtitle.trim(), counts]
            .iter()
            .filter(|s| !s.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(" · ");
        if !subtitle.is_empty() {
            sheet.block(&text::wrap(&subtitle, BODY, room, 4), BODY, MUTED);
        }
        sheet.y += 4.0;
        Ok(sheet)
    }

    pub(crate) fn check_name(name: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() {
            return Err(FigureError::Empty { argument: "head.name".to_owned() });
        }
        if name.len() > 120 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(invalid(
                "head.name",
                "a file stem of at most 120 letters, digits, `.`, `_`, `-`",
                format!("{name:?}"),
            ));
        }
        Ok(())
    }

    fn block(&mut self, lines: &[String], size: f64, colour: &str) {
        for line in lines {
            self.y += size * LEADING;
            let base = self.y - size * (LEADING - CAP) / 2.0;
            self.canvas.text((MARGIN, base), Anchor::Start, size, colour, line);
        }
    }

    /// Left and right ends of the content.
    pub(crate) fn inner(&self) -> (f64, f64) {
        (MARGIN, self.width - MARGIN)
    }

    /// Legend below what has been drawn; entries flow into lines and wrap when too long.
    pub(crate) fn legend(&mut self, items: &[LegendItem]) {
        if items.is_empty() {
            return;
        }
        self.y += 5.0;
        let (left, right) = self.inner();
        let room = right - left - SWATCH - 3.0;
        let pitch = BODY * LEADING;
        let wrapped: Vec<Vec<String>> =
            items.iter().map(|i| text::balanced(&i.text, BODY, room, 2)).collect();
        let widths: Vec<f64> = wrapped
            .iter()
            .map(|l| SWATCH + 3.0 + text::widest(l.iter().map(String::as_str), BODY))
            .collect();
        // Aligned columns when that costs no further line; a ragged flow otherwise.
        let gap = 12.0;
        let widest = widths.iter().copied().fold(0.0, f64::max);
        let columns = (((right - left + gap) / (widest + gap)).floor().max(1.0)) as usize;
        let flow_rows = {
            let (mut rows, mut x) = (1usize, 0.0);
            for w in &widths {
                if x > 0.0 && x + w > right - left {
                    rows += 1;
                    x = 0.0;
                }
                x += w + gap;
            }
            rows
        };
        let aligned = items.len().div_ceil(columns) <= flow_rows;
        let (mut x, mut row_lines, mut in_row) = (left, 1usize, 0usize);
        for ((item, lines), w) in items.iter().zip(&wrapped).zip(&widths) {
            let full = if aligned { in_row == columns } else { x + w > right + 1e-6 };
            if in_row > 0 && full {
                self.y += row_lines as f64 * pitch + 2.0;
                (x, row_lines, in_row) = (left, 1, 0);
            }
            let mid = self.y + pitch / 2.0;
            self.key(&item.key, x, mid);
            for (i, line) in lines.iter().enumerate() {
                let base = mid + i as f64 * pitch + BODY * CAP / 2.0;
                self.canvas.text((x + SWATCH + 3.0, base), Anchor::Start, BODY, INK, line);
            }
            row_lines = row_lines.max(lines.len());
            in_row += 1;
            x += if aligned { widest } else { *w } + gap;
        }
        self.y += row_lines as f64 * pitch;
    }

    fn key(&mut self, key: &Key, x: f64, y: f64) {
        let (a, b) = ((x, y), (x + SWATCH, y));
        match key {
            Key::Line(look) => {
                if look.needs_edge() {
                    let edge = Stroke { colour: "#555555", width: 2.4, dash: look.dash };
                    self.canvas.line(a, b, &edge);
                }
                let stroke = Stroke { colour: look.colour, width: 1.4, dash: look.dash };
                self.canvas.line(a, b, &stroke);
                self.canvas.marker((x + SWATCH / 2.0, y), 2.3, look, false);
            }
            Key::Point(look) => self.canvas.marker((x + SWATCH - 6.0, y), 2.4, look, false),
            Key::Box(fill) => {
                let area = Area { x: x + SWATCH - 13.0, y: y - 3.5, w: 11.0, h: 7.0 };
                self.canvas.rect(&area, fill, Some(&Stroke::full("#888888", 0.4)));
            }
            Key::Rule { colour, width, dash } => {
                self.canvas.line(a, b, &Stroke { colour, width: *width, dash });
            }
            Key::Cross => self.canvas.cross((x + SWATCH - 6.0, y), 2.8, INK),
        }
    }

    /// Small print below everything; the interval method comes last.
    pub(crate) fn notes(&mut self, notes: &[String], with_interval: bool) {
        let mut all = notes.to_vec();
        let method = self.head.provenance.interval_method.trim();
        if with_interval && !method.is_empty() {
            all.push(format!("Intervals: {method}."));
        }
        if all.is_empty() {
            return;
        }
        self.y += 4.0;
        let room = self.width - 2.0 * MARGIN;
        for note in all {
            self.block(&text::wrap(&note, SMALL, room, 12), SMALL, MUTED);
        }
    }

    /// Closes the page. `derived` are numbers that were drawn but are not part of the input.
    pub(crate) fn finish<D: Draw>(
        self,
        input: &D,
        derived: &serde_json::Value,
        desc: &str,
    ) -> Result<Figure> {
        let head = self.head;
        let title = if head.title.trim().is_empty() { &head.name } else { &head.title };
        let data = side_file(head, D::KIND, input, derived)?;
        let height = self.y + MARGIN;
        let svg = self.canvas.finish(self.width, height, title, &shorten_desc(desc));
        Ok(Figure { name: head.name.clone(), svg, data })
    }
}

/// The side file of a figure.
pub(crate) fn side_file<T: Serialize>(
    head: &Head,
    kind: &str,
    input: &T,
    derived: &serde_json::Value,
) -> Result<serde_json::Value> {
    let mut plotted = serde_json::to_value(input)
        .map_err(|e| invalid("input", "a value that JSON can hold", e))?;
    if let Some(map) = plotted.as_object_mut() {
        map.remove("head");
    }
    let provenance = &head.provenance;
    let hash = provenance.input_hash.clone().unwrap_or_else(|| {
        let mut hex = String::with_capacity(64);
        for byte in Sha256::digest(plotted.to_string().as_bytes()) {
            // Writing into a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    });
    Ok(serde_json::json!({
        "name": head.name,
        "kind": kind,
        "title": head.title,
        "subtitle": head.subtitle,
        "command": provenance.command,
        "seed": provenance.seed,
        "interval_method": provenance.interval_method,
        "input_hash": hash,
        "plotted": plotted,
        "derived": derived,
    }))
}

/// Screen readers read the description aloud: it ends after some 1000 characters.
fn shorten_desc(desc: &str) -> String {
    const MOST: usize = 1000;
    if desc.chars().count() <= MOST {
        return desc.to_owned();
    }
    let cut: String = desc.chars().take(MOST).collect();
    let end = cut.rfind("; ").unwrap_or(cut.len());
    format!("{}; and more, see the side file.", &cut[..end])
}
