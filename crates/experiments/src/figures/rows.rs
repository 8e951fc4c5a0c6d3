//! Rows of points with intervals in one or more panels: the body of several figures.

use super::Estimate;
use super::axis::Axis;
use super::canvas::{Anchor, Area, GRID, INK, MUTED, Stroke};
use super::chart::{X_TICKS, draw_x_axis, draw_x_label};
use super::palette::Look;
use super::sheet::Sheet;
use super::text::{self, BODY, LEADING};

/// One panel; `estimates` has one entry per row.
pub(crate) struct RowPanel {
    pub(crate) title: String,
    pub(crate) axis: Axis,
    pub(crate) estimates: Vec<Option<Estimate>>,
    /// Vertical reference lines and their dashes.
    pub(crate) rules: Vec<f64>,
}

const GAP: f64 = 20.0;

/// Draws the rows; panels that do not fit beside each other go below, with the labels repeated.
pub(crate) fn draw_rows(
    sheet: &mut Sheet,
    labels: &[String],
    looks: &[Look],
    mut panels: Vec<RowPanel>,
) {
    let (left, right) = sheet.inner();
    let right = right - 4.0;
    let label_room = (right - left) * 0.36;
    let wrapped: Vec<Vec<String>> =
        labels.iter().map(|l| text::balanced(l, BODY, label_room, 3)).collect();
    let label_w = wrapped
        .iter()
        .map(|l| text::widest(l.iter().map(String::as_str), BODY))
        .fold(0.0, f64::max)
        + 8.0;
    let room = right - left - label_w;
    let columns = (((room + GAP) / (88.0 + GAP)).floor() as usize).clamp(1, panels.len().max(1));
    // 3 panels over 2 columns would be 2 + 1; an even split looks calmer.
    let columns = panels.len().div_ceil(panels.len().div_ceil(columns).max(1)).max(1);
    let panel_w = (room - GAP * (columns as f64 - 1.0)) / columns as f64;
    let heights: Vec<f64> =
        wrapped.iter().map(|l| (l.len() as f64 * BODY * LEADING + 3.5).max(14.0)).collect();
    let body: f64 = heights.iter().sum();
    for panel in &mut panels {
        panel.axis.fit_horizontal(panel_w);
    }
    let line = BODY * LEADING;
    let bands = panels.len().div_ceil(columns);
    for (band, chunk) in panels.chunks(columns).enumerate() {
        let titles: Vec<Vec<String>> =
            chunk.iter().map(|p| text::wrap(&p.title, BODY, panel_w + 4.0, 3)).collect();
        let titled = chunk.iter().any(|p| !p.title.is_empty());
        let title_h = if titled {
            titles.iter().map(Vec::len).max().unwrap_or(0) as f64 * line + 2.0
        } else {
            0.0
        };
        let top = sheet.y + title_h;
        let mut y = top;
        for (lines, h) in wrapped.iter().zip(&heights) {
            let at = (left + label_w - 8.0, y + h / 2.0);
            sheet.canvas.lines(at, Anchor::End, BODY, INK, lines);
            y += h;
        }
        let mut labelled = false;
        for (i, (panel, title)) in chunk.iter().zip(&titles).enumerate() {
            let x0 = left + label_w + i as f64 * (panel_w + GAP);
            let area = Area { x: x0, y: top, w: panel_w, h: body };
            for (l, text_line) in title.iter().enumerate() {
                // Titles end just above the panel, however many lines they have.
                let up = (title.len() - 1 - l) as f64 * line + 4.0;
                sheet.canvas.text((x0, top - up), Anchor::Start, BODY, INK, text_line);
            }
            draw_panel(sheet, &area, panel, labels, looks, &heights);
            if !panel.axis.label.is_empty() || panel.axis.factor != 0 {
                labelled = true;
                let at = area.bottom() + X_TICKS;
                let mid = x0 + panel_w / 2.0;
                draw_x_label(&mut sheet.canvas, mid, at, panel_w + GAP - 4.0, &panel.axis);
            }
        }
        sheet.y = top + body + X_TICKS + if labelled { line + 1.0 } else { 0.0 };
        if band + 1 < bands {
            sheet.y += 8.0;
        }
    }
}

fn draw_panel(
    sheet: &mut Sheet,
    area: &Area,
    panel: &RowPanel,
    labels: &[String],
    looks: &[Look],
    heights: &[f64],
) {
    let canvas = &mut sheet.canvas;
    draw_x_axis(canvas, area, &panel.axis, true);
    for &v in &panel.rules {
        let at = panel.axis.place(v, area.x, area.right());
        let rule = Stroke { colour: "#666666", width: 0.8, dash: "2.5 2" };
        canvas.line((at, area.y), (at, area.bottom()), &rule);
    }
    let mut y = area.y;
    for (((estimate, label), look), h) in panel.estimates.iter().zip(labels).zip(looks).zip(heights)
    {
        let mid = y + h / 2.0;
        y += h;
        let place = |v: f64| panel.axis.place(v, area.x, area.right());
        canvas.line((area.x, mid), (area.right(), mid), &Stroke::full(GRID, 0.4));
        let Some(e) = estimate else {
            let at = (area.x + area.w / 2.0, mid + BODY * 0.36);
            let w = text::width("no data", BODY);
            let back = Area { x: at.0 - w / 2.0 - 2.0, y: mid - 4.0, w: w + 4.0, h: 8.0 };
            canvas.rect(&back, "#ffffff", None);
            canvas.text(at, Anchor::Middle, BODY, MUTED, "no data");
            continue;
        };
        canvas.open(&format!("{label}: {}", e.words()));
        if let Some([low, high]) = e.bar() {
            let (a, b) = (place(low), place(high));
            if look.needs_edge() {
                canvas.line((a - 0.5, mid), (b + 0.5, mid), &Stroke::full("#555555", 2.6));
            }
            let ink = Stroke::full(look.colour, 1.6);
            canvas.line((a, mid), (b, mid), &ink);
            for end in [a, b] {
                canvas.line((end, mid - 2.2), (end, mid + 2.2), &Stroke { width: 1.0, ..ink });
            }
        }
        canvas.marker((place(e.point), mid), 2.7, look, e.bar().is_none());
        canvas.close();
    }
}
