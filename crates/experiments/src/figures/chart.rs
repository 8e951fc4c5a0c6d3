//! Charts of lines over two numeric axes, alone or as a grid of small multiples.

use super::axis::Axis;
use super::canvas::{AXIS, Anchor, Area, Canvas, GRID, INK, MUTED, Stroke, runs_width};
use super::palette::Look;
use super::sheet::Sheet;
use super::text::{self, BODY, CAP, LEADING};

/// Markers along a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    None,
    Filled,
    /// A single run.
    Hollow,
}

/// One line with what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) look: Look,
    pub(crate) name: String,
    /// Increasing abscissae.
    pub(crate) points: Vec<(f64, f64)>,
    /// `(x, low, high)`; empty for none.
    pub(crate) band: Vec<(f64, f64, f64)>,
    /// The ordinate holds until the next point.
    pub(crate) step: bool,
    /// The last ordinate holds to the right end of the axis.
    pub(crate) extend: bool,
    /// Ends of failed or censored runs.
    pub(crate) crosses: Vec<(f64, f64)>,
    /// Singled-out points.
    pub(crate) dots: Vec<(f64, f64)>,
    /// Replaces the dashes of the look.
    pub(crate) dash: Option<&'static str>,
    /// Sparse markers along the line.
    pub(crate) marks: Marks,
}

impl Trace {
    pub(crate) fn new(look: Look, name: &str, points: Vec<(f64, f64)>) -> Self {
        Self {
            look,
            name: name.to_owned(),
            points,
            band: Vec::new(),
            step: false,
            extend: false,
            crosses: Vec::new(),
            dots: Vec::new(),
            dash: None,
            marks: Marks::Filled,
        }
    }
}

/// A thin reference line at a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    Horizontal(f64),
    Vertical(f64),
}

/// Axes and their lines.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) traces: Vec<Trace>,
    pub(crate) rules: Vec<Rule>,
}

/// Distance of neighbouring charts.
const GAP: f64 = 16.0;
const TICK: f64 = 2.5;

/// Horizontal grid, ticks and labels of the left axis.
pub(crate) fn draw_y_axis(canvas: &mut Canvas, area: &Area, y: &Axis) {
    for tick in &y.ticks {
        let at = y.place(tick.value, area.bottom(), area.y);
        canvas.line((area.x, at), (area.right(), at), &Stroke::full(GRID, 0.5));
        canvas.line((area.x - TICK, at), (area.x, at), &Stroke::full(AXIS, 0.6));
        let base = at + BODY * CAP / 2.0;
        canvas.runs((area.x - TICK - 2.0, base), Anchor::End, BODY, INK, &tick.label);
    }
    for &v in &y.minor {
        let at = y.place(v, area.bottom(), area.y);
        canvas.line((area.x - TICK * 0.6, at), (area.x, at), &Stroke::full(AXIS, 0.4));
    }
    canvas.line((area.x, area.y), (area.x, area.bottom()), &Stroke::full(AXIS, 0.6));
}

/// Ticks and labels below `area`, with vertical grid lines if `grid`.
pub(crate) fn draw_x_axis(canvas: &mut Canvas, area: &Area, x: &Axis, grid: bool) {
    let bottom = area.bottom();
    for tick in &x.ticks {
        let at = x.place(tick.value, area.x, area.right());
        if grid {
            canvas.line((at, area.y), (at, bottom), &Stroke::full(GRID, 0.5));
        }
        canvas.line((at, bottom), (at, bottom + TICK), &Stroke::full(AXIS, 0.6));
        let base = bottom + TICK + 2.0 + BODY * CAP + 0.5;
        canvas.runs((at, base), Anchor::Middle, BODY, INK, &tick.label);
    }
    for &v in &x.minor {
        let at = x.place(v, area.x, area.right());
        canvas.line((at, bottom), (at, bottom + TICK * 0.6), &Stroke::full(AXIS, 0.4));
    }
    canvas.line((area.x, bottom), (area.right(), bottom), &Stroke::full(AXIS, 0.6));
}

/// Height that [`draw_x_axis`] needs below the area.
pub(crate) const X_TICKS: f64 = TICK + 2.0 + BODY;

/// Label of a horizontal axis, centred on `middle` within `room`; `top` is the upper edge.
pub(crate) fn draw_x_label(canvas: &mut Canvas, middle: f64, top: f64, room: f64, x: &Axis) {
    let mut runs = x.label_runs();
    let tail: f64 = runs_width(&runs, BODY) - text::width(&runs[0].text, BODY);
    runs[0].text = text::shorten(&runs[0].text, BODY, (room - tail).max(BODY));
    canvas.runs((middle, top + BODY * CAP + 1.5), Anchor::Middle, BODY, INK, &runs);
}

/// Draws `charts` in a grid of `columns`, each with a plotting area `height` points high.
///
/// Axis labels that all charts of a row or column share are written once.
pub(crate) fn draw_grid(sheet: &mut Sheet, mut charts: Vec<Chart>, columns: usize, height: f64) {
    let columns = columns.clamp(1, charts.len().max(1));
    let (left, right) = sheet.inner();
    let right = right - 4.0;
    for chart in &mut charts {
        chart.y.fit_vertical(height);
    }
    let ticks_w =
        charts.iter().map(|c| c.y.label_width()).fold(0.0, f64::max).max(6.0) + TICK + 3.0;
    let plot_w = (right - left - GAP * (columns as f64 - 1.0)) / columns as f64 - ticks_w;
    for chart in &mut charts {
        chart.x.fit_horizontal(plot_w);
    }
    let same =
        |f: fn(&Chart) -> Vec<super::canvas::Run>| charts.windows(2).all(|w| f(&w[0]) == f(&w[1]));
    let (x_shared, y_shared) = (same(|c| c.x.label_runs()), same(|c| c.y.label_runs()));
    let line = BODY * LEADING;
    let total = charts.len();
    for (row, chunk) in charts.chunks(columns).enumerate() {
        let titled = chunk.iter().any(|c| !c.title.is_empty());
        let named = chunk.iter().any(|c| !c.y.label.is_empty() || c.y.factor != 0)
            && (row == 0 || !y_shared);
        let titles: Vec<Vec<String>> =
            chunk.iter().map(|c| text::wrap(&c.title, BODY, plot_w + ticks_w, 2)).collect();
        let title_lines = titles.iter().map(Vec::len).max().unwrap_or(0);
        let top = sheet.y;
        let label_top = top + if titled { title_lines as f64 * line + 1.0 } else { 0.0 };
        let plot_top = label_top + if named { line + 5.0 } else { 4.0 };
        let last_row = (row + 1) * columns >= total;
        let mut x_named = false;
        for (column, (chart, title)) in chunk.iter().zip(&titles).enumerate() {
            let x0 = left + column as f64 * (plot_w + ticks_w + GAP);
            let area = Area { x: x0 + ticks_w, y: plot_top, w: plot_w, h: height };
            if titled {
                for (i, text_line) in title.iter().enumerate() {
                    let base = top + line * (i as f64 + 1.0) - 2.0;
                    sheet.canvas.text((x0, base), Anchor::Start, BODY, INK, text_line);
                }
            }
            if named && (column == 0 || !y_shared) {
                let runs = fit_runs(&chart.y, plot_w + ticks_w);
                sheet.canvas.runs((x0, label_top + line - 2.0), Anchor::Start, BODY, MUTED, &runs);
            }
            draw_chart(&mut sheet.canvas, &area, chart);
            // The last chart of each column carries the shared label.
            if !x_shared || last_row || row * columns + column + columns >= total {
                x_named = true;
                let at = area.x + plot_w / 2.0;
                let y = area.bottom() + X_TICKS;
                draw_x_label(&mut sheet.canvas, at, y, plot_w + ticks_w, &chart.x);
            }
        }
        sheet.y = plot_top + height + X_TICKS + if x_named { line + 2.0 } else { 0.0 };
        if !last_row {
            sheet.y += 8.0;
        }
    }
}

fn fit_runs(axis: &Axis, room: f64) -> Vec<super::canvas::Run> {
    let mut runs = axis.label_runs();
    let tail: f64 = runs_width(&runs, BODY) - text::width(&runs[0].text, BODY);
    runs[0].text = text::shorten(&runs[0].text, BODY, (room - tail).max(BODY));
    runs
}

/// Draws one chart into `area`; its ticks must have been chosen.
pub(crate) fn draw_chart(canvas: &mut Canvas, area: &Area, chart: &Chart) {
    draw_y_axis(canvas, area, &chart.y);
    draw_x_axis(canvas, area, &chart.x, false);
    let rule = Stroke { colour: "#8a8a8a", width: 0.7, dash: "2.5 2" };
    for r in &chart.rules {
        match *r {
            Rule::Horizontal(v) => {
                let at = chart.y.place(v, area.bottom(), area.y);
                canvas.line((area.x, at), (area.right(), at), &rule);
            }
            Rule::Vertical(v) => {
                let at = chart.x.place(v, area.x, area.right());
                canvas.line((at, area.y), (at, area.bottom()), &rule);
            }
        }
    }
    // Lines on the frame keep their full width.
    let room = Area { x: area.x - 1.5, y: area.y - 3.0, w: area.w + 3.0, h: area.h + 4.5 };
    canvas.open_clip(&room);
    let place = |(x, y): (f64, f64)| {
        // Far-off ordinates stay in a range that every renderer can hold.
        let y = chart.y.place(y, area.bottom(), area.y).clamp(-1e4, 1e4);
        (chart.x.place(x, area.x, area.right()), y)
    };
    let outline = |points: &[(f64, f64)], trace: &Trace| {
        let mut out: Vec<(f64, f64)> = Vec::with_capacity(points.len() * 2);
        for &p in points {
            let p = place(p);
            if let (true, Some(&(_, y))) = (trace.step, out.last()) {
                out.push((p.0, y));
            }
            out.push(p);
        }
        if let (true, Some(&(_, y))) = (trace.extend, out.last()) {
            out.push((area.right(), y));
        }
        thin(&out)
    };
    for trace in &chart.traces {
        if !trace.band.is_empty() {
            let low: Vec<_> = trace.band.iter().map(|b| (b.0, b.1)).collect();
            let high: Vec<_> = trace.band.iter().map(|b| (b.0, b.2)).collect();
            let mut shape = outline(&high, trace);
            shape.extend(outline(&low, trace).into_iter().rev());
            canvas.polygon(&shape, trace.look.colour, 0.16);
        }
    }
    for trace in &chart.traces {
        canvas.open(&trace.name);
        let line = outline(&trace.points, trace);
        let dash = trace.dash.unwrap_or(trace.look.dash);
        if trace.look.needs_edge() {
            canvas.polyline(&line, &Stroke { colour: "#555555", width: 2.3, dash });
        }
        canvas.polyline(&line, &Stroke { colour: trace.look.colour, width: 1.3, dash });
        if trace.marks != Marks::None || line.len() == 1 {
            for at in marker_places(&line, area, trace.look.index) {
                canvas.marker(at, 2.1, &trace.look, trace.marks == Marks::Hollow);
            }
        }
        canvas.close();
    }
    canvas.close();
    // Single points are drawn last and may overlap the frame.
    for trace in &chart.traces {
        for &dot in &trace.dots {
            canvas.marker(place(dot), 2.6, &trace.look, true);
        }
        let colour = if trace.look.needs_edge() { "#8a7d00" } else { trace.look.colour };
        for &cross in &trace.crosses {
            canvas.cross(place(cross), 2.8, colour);
        }
    }
}

/// Leaves out points that cannot be seen: per quarter point of width only the first, the lowest,
/// the highest and the last are kept.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    const CELL: f64 = 0.25;
    if points.len() < 64 {
        return points.to_vec();
    }
    let mut out: Vec<(f64, f64)> = Vec::new();
    let mut start = 0;
    while start < points.len() {
        let cell = |p: &(f64, f64)| (p.0 / CELL).floor() as i64;
        let end = points[start..]
            .iter()
            .position(|p| cell(p) != cell(&points[start]))
            .map_or(points.len(), |n| start + n);
        let group = &points[start..end];
        let by = |a: &usize, b: &usize| group[*a].1.total_cmp(&group[*b].1);
        let low = (0..group.len()).min_by(by).unwrap_or(0);
        let high = (0..group.len()).max_by(by).unwrap_or(0);
        let mut keep = [0, low, high, group.len() - 1];
        keep.sort_unstable();
        for (i, k) in keep.iter().enumerate() {
            if i == 0 || keep[i - 1] != *k {
                out.push(group[*k]);
            }
        }
        start = end;
    }
    out
}

/// Five places along a line, shifted by the method's index so that markers of overlapping lines
/// stand side by side.
fn marker_places(line: &[(f64, f64)], area: &Area, index: usize) -> Vec<(f64, f64)> {
    if line.len() == 1 {
        return line.to_vec();
    }
    let spacing = area.w / 5.0;
    let shift = spacing * (0.18 + 0.64 * ((index as f64 * 0.382) % 1.0));
    let mut out = Vec::new();
    let mut segment = 0;
    for i in 0..5 {
        let x = area.x + shift + spacing * f64::from(i);
        while segment + 1 < line.len() && line[segment + 1].0 < x {
            segment += 1;
        }
        let (Some(a), Some(b)) = (line.get(segment), line.get(segment + 1)) else { break };
        if x < a.0 || b.0 <= a.0 {
            continue;
        }
        out.push((x, a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0)));
    }
    if out.is_empty() {
        // Short lines between two places still show their marker.
        out.extend(line.last());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_ends_and_extremes() {
        let points: Vec<(f64, f64)> =
            (0..10_000).map(|i| (f64::from(i) * 0.01, (f64::from(i) * 0.7).sin())).collect();
        let thinned = thin(&points);
        assert!(thinned.len() < 1700, "{}", thinned.len());
        assert_eq!(thinned.first(), points.first());
        assert_eq!(thinned.last(), points.last());
        let top = |p: &[(f64, f64)]| p.iter().map(|q| q.1).fold(f64::MIN, f64::max);
        assert!((top(&thinned) - top(&points)).abs() < 1e-15);
        assert!(thinned.windows(2).all(|w| w[0].0 <= w[1].0));
    }
}
