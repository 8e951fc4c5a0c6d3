//! Critical-difference diagrams (Demšar 2006; section 7.6), with honest bars.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::axis::{Axis, Tick};
use super::canvas::{AXIS, Anchor, Area, INK, MUTED, Run, Stroke};
use super::palette::{Look, Palette};
use super::sheet::Sheet;
use super::text::{self, BODY, CAP, LEADING};
use super::{Draw, Figure, Head, Result, ScaleKind, finite, fraction, invalid, nonempty, unique};

/// Mean ranks on an axis; bars join methods that the test does not tell apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticalDifference {
    /// Name, title, origin.
    pub head: Head,
    /// Methods with their mean ranks, spec order; at least two.
    pub methods: Vec<RankedMethod>,
    /// Tasks (blocks) behind the ranks.
    pub tasks: usize,
    /// The pairwise test.
    pub test: RankTest,
    /// p of the Friedman test.
    pub friedman_p: f64,
    /// Level of the tests.
    pub alpha: f64,
    /// Names joined by each bar, contiguous in rank order. Ignored when Friedman does not reject:
    /// then one bar joins all.
    pub groups: Vec<Vec<String>>,
    /// Pairs that were not told apart and lie under no bar; listed in the note.
    #[serde(default)]
    pub uncovered: Vec<[String; 2]>,
    /// Puts the worst method at the left instead of the best.
    #[serde(default)]
    pub best_right: bool,
}

/// One method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankedMethod {
    /// Method.
    pub name: String,
    /// Mean of its ranks over the tasks, 1 = best.
    pub mean_rank: f64,
}

/// The pairwise test behind the bars.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RankTest {
    /// Nemenyi: pairs closer than the critical difference are not told apart.
    Nemenyi {
        /// Critical difference in ranks.
        cd: f64,
    },
    /// Pairwise Wilcoxon signed-rank tests with Holm's correction.
    WilcoxonHolm,
}

impl CriticalDifference {
    fn check(&self) -> Result<()> {
        nonempty("methods", &self.methods)?;
        let k = self.methods.len();
        if k < 2 {
            return Err(invalid("methods", "at least 2 methods to compare", k));
        }
        if self.tasks == 0 {
            return Err(invalid("tasks", "at least 1", 0));
        }
        let names: Vec<&str> = self.methods.iter().map(|m| m.name.as_str()).collect();
        unique("methods", &names)?;
        fraction("friedman_p", self.friedman_p)?;
        fraction("alpha", self.alpha)?;
        let mut sum = 0.0;
        for (i, m) in self.methods.iter().enumerate() {
            let at = format!("methods[{i}].mean_rank");
            finite(&at, m.mean_rank)?;
            if m.mean_rank < 1.0 - 1e-9 || m.mean_rank > k as f64 + 1e-9 {
                return Err(invalid(at, format!("a mean rank in 1..={k}"), m.mean_rank));
            }
            sum += m.mean_rank;
        }
        let expected = (k * (k + 1)) as f64 / 2.0;
        if (sum - expected).abs() > 1e-6 * expected {
            return Err(invalid("methods", format!("mean ranks that sum to {expected}"), sum));
        }
        if let RankTest::Nemenyi { cd } = self.test {
            finite("test.cd", cd)?;
            if cd <= 0.0 {
                return Err(invalid("test.cd", "a critical difference above 0", cd));
            }
        }
        Ok(())
    }

    /// Indices of methods from rank 1 upwards; ties keep spec order.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.methods.len()).collect();
        order.sort_by(|&a, &b| self.methods[a].mean_rank.total_cmp(&self.methods[b].mean_rank));
        order
    }

    /// Bars as (first, last) positions in `order`.
    fn bars(&self, order: &[usize]) -> Result<Vec<(usize, usize)>> {
        if self.friedman_p > self.alpha {
            return Ok(vec![(0, order.len() - 1)]);
        }
        let mut bars = Vec::with_capacity(self.groups.len());
        for (g, group) in self.groups.iter().enumerate() {
            let at = format!("groups[{g}]");
            if group.len() < 2 {
                return Err(invalid(at, "at least 2 methods under a bar", group.len()));
            }
            let names: Vec<&str> = group.iter().map(String::as_str).collect();
            unique(&at, &names)?;
            let mut ranks = Vec::with_capacity(group.len());
            let mut places = Vec::with_capacity(group.len());
            for name in group {
                let place = order
                    .iter()
                    .position(|&i| &self.methods[i].name == name)
                    .ok_or_else(|| invalid(&at, "names of `methods`", format!("`{name}`")))?;
                places.push(place);
                ranks.push(self.methods[order[place]].mean_rank);
            }
            places.sort_unstable();
            let (first, last) = (places[0], places[places.len() - 1]);
            // Tied methods may stand in either order, so ranks decide what lies between.
            let low = ranks.iter().copied().fold(f64::INFINITY, f64::min);
            let high = ranks.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let between = order.iter().any(|&i| {
                let r = self.methods[i].mean_rank;
                r > low && r < high && !group.contains(&self.methods[i].name)
            });
            if between {
                return Err(invalid(
                    at,
                    "methods that are contiguous in rank order (a bar over a method between would \
                     assert what the test rejected)",
                    format!("{group:?}"),
                ));
            }
            if let RankTest::Nemenyi { cd } = self.test
                && high - low > cd * (1.0 + 1e-9)
            {
                return Err(invalid(at, format!("ranks at most {cd} apart"), high - low));
            }
            bars.push((first, last));
        }
        bars.sort_unstable();
        Ok(bars)
    }
}

/// A label at one side of the diagram.
struct Label {
    lines: Vec<String>,
    rank: String,
    at: f64,
    look: Look,
}

impl Draw for CriticalDifference {
    const KIND: &'static str = "cd";

    fn draw(&self, palette: &Palette) -> Result<Figure> {
        self.check()?;
        let order = self.order();
        let bars = self.bars(&order)?;
        let rejected = self.friedman_p <= self.alpha;
        let k = self.methods.len();
        let p = text::p_value(self.friedman_p);
        let plural = if self.tasks == 1 { "" } else { "s" };
        let counts = format!("{} task{plural}, {k} methods, Friedman {p}", self.tasks);
        let mut sheet = Sheet::new(&self.head, &counts)?;
        let (left, right) = sheet.inner();

        let layout = self.layout(&order, (left, right), palette)?;
        let Layout { left_side, right_side, left_edge, right_edge, rank_w, .. } = &layout;
        let (axis_from, axis_to) = (left_edge + 8.0, right_edge - 8.0);
        let mut axis =
            Axis::over("methods", "", ScaleKind::Linear, [], [Some(1.0), Some(k as f64)])?;
        let ends = if self.best_right { (axis_to, axis_from) } else { (axis_from, axis_to) };
        axis.ticks = rank_ticks(k, axis_to - axis_from);
        let x = |v: f64| axis.place(v, ends.0, ends.1);

        self.bracket(&mut sheet, (axis_from, axis_to), (x(2.0) - x(1.0)).abs(), rejected);

        // Axis with labels above.
        sheet.y += BODY * LEADING;
        for tick in &axis.ticks {
            let at = (x(tick.value), sheet.y);
            sheet.canvas.runs(at, Anchor::Middle, BODY, INK, &tick.label);
        }
        sheet.y += 6.5;
        let axis_y = sheet.y;
        for tick in &axis.ticks {
            let at = x(tick.value);
            sheet.canvas.line((at, axis_y - 3.0), (at, axis_y), &Stroke::full(AXIS, 0.8));
        }
        sheet.canvas.line((axis_from, axis_y), (axis_to, axis_y), &Stroke::full(AXIS, 0.9));

        // Bars share a track where they do not overlap.
        let mut tracks: Vec<f64> = Vec::new();
        let mut spans: Vec<(f64, f64)> = bars
            .iter()
            .map(|&(a, b)| {
                let (p, q) =
                    (x(self.methods[order[a]].mean_rank), x(self.methods[order[b]].mean_rank));
                (p.min(q) - 2.5, p.max(q) + 2.5)
            })
            .collect();
        spans.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut placed = Vec::with_capacity(spans.len());
        for &(a, b) in &spans {
            let track = tracks.iter().position(|&end| a > end + 5.0).unwrap_or_else(|| {
                tracks.push(f64::NEG_INFINITY);
                tracks.len() - 1
            });
            tracks[track] = b;
            placed.push((a, b, axis_y + 7.0 + 4.5 * track as f64));
        }
        let labels_top = axis_y + 7.0 + 4.5 * tracks.len() as f64 + 2.0;
        let at = |edge: f64, at_left: bool| Side {
            top: labels_top,
            edge,
            axis_y,
            rank_w: *rank_w,
            at_left,
        };
        let left_end = at(*left_edge, true).draw(&mut sheet, left_side, &x);
        let right_end = at(*right_edge, false).draw(&mut sheet, right_side, &x);
        for (a, b, y) in placed {
            let bar = Area { x: a, y: y - 1.2, w: b - a, h: 2.4 };
            sheet.canvas.rect(&bar, "#333333", None);
        }
        for side in [left_side, right_side] {
            for l in side {
                sheet.canvas.marker((x(l.at), axis_y), 2.4, &l.look, false);
            }
        }
        sheet.y = left_end.max(right_end);

        sheet.notes(&self.note_lines(rejected), false);
        let desc = order
            .iter()
            .map(|&i| {
                format!(
                    "{}: mean rank {}",
                    self.methods[i].name,
                    text::fixed(self.methods[i].mean_rank, 2)
                )
            })
            .collect::<Vec<_>>()
            .join("; ");
        let joined: Vec<Vec<&str>> = bars
            .iter()
            .map(|&(a, b)| order[a..=b].iter().map(|&i| self.methods[i].name.as_str()).collect())
            .collect();
        sheet.finish(self, &json!({ "friedman_rejected": rejected, "bars": joined }), &desc)
    }
}

impl CriticalDifference {
    /// CD bracket, or the name of the other test, above the axis.
    fn bracket(&self, sheet: &mut Sheet, (from, to): (f64, f64), rank: f64, rejected: bool) {
        let line = BODY * LEADING;
        sheet.y += line;
        let base = sheet.y - 2.0;
        let middle = f64::midpoint(from, to);
        match self.test {
            RankTest::Nemenyi { cd } => {
                let words = format!("CD = {}", text::short(cd, 3));
                let length = cd * rank;
                let fits = length <= to - from;
                let (a, b) = if self.best_right {
                    ((to - length).max(from), to)
                } else {
                    (from, (from + length).min(to))
                };
                let words = if fits { words } else { format!("{words} (longer than the axis)") };
                // Centred over the bracket, pushed inside when the bracket is short.
                let half = text::width(&words, BODY) / 2.0;
                let at =
                    f64::midpoint(a, b).max(sheet.inner().0 + half).min(sheet.inner().1 - half);
                sheet.canvas.text((at, base), Anchor::Middle, BODY, INK, &words);
                sheet.y += 5.0;
                let (ink, y) = (Stroke::full(INK, 0.9), sheet.y);
                sheet.canvas.line((a, y), (b, y), &ink);
                let closed_end = if self.best_right { (b, a) } else { (a, b) };
                sheet.canvas.line((closed_end.0, y - 2.5), (closed_end.0, y + 2.5), &ink);
                if fits {
                    sheet.canvas.line((closed_end.1, y - 2.5), (closed_end.1, y + 2.5), &ink);
                }
                sheet.y += 3.5;
            }
            RankTest::WilcoxonHolm => {
                let words =
                    if rejected { "Wilcoxon-Holm" } else { "Wilcoxon-Holm (not carried out)" };
                sheet.canvas.text((middle, base), Anchor::Middle, BODY, INK, words);
                sheet.y += 1.5;
            }
        }
    }

    fn note_lines(&self, rejected: bool) -> Vec<String> {
        let alpha = text::brief(self.alpha, 2);
        let ends = if self.best_right { "right" } else { "left" };
        let mut notes = vec![format!("Mean ranks over tasks; 1 is best, at the {ends}.")];
        if rejected {
            let test = match self.test {
                RankTest::Nemenyi { .. } => "Nemenyi's test",
                RankTest::WilcoxonHolm => "Wilcoxon's signed-rank test with Holm's correction",
            };
            notes
                .push(format!("Bars join methods that {test} at α = {alpha} does not tell apart."));
            if !self.uncovered.is_empty() {
                let pairs: Vec<String> =
                    self.uncovered.iter().map(|[a, b]| format!("{a} and {b}")).collect();
                notes.push(format!(
                    "Not told apart either, but under no bar: {}.",
                    pairs.join("; ")
                ));
            }
        } else {
            notes.push(format!(
                "The Friedman test does not reject equality at α = {alpha} ({}): one group, no \
                 pairwise claims.",
                text::p_value(self.friedman_p)
            ));
        }
        notes
    }
}

/// Which labels stand at which side, and where their lines end.
struct Layout {
    left_side: Vec<Label>,
    right_side: Vec<Label>,
    left_edge: f64,
    right_edge: f64,
    rank_w: f64,
}

impl CriticalDifference {
    /// Half of the labels at each side; all at the side of the best when the axis between two
    /// columns would become too short to read.
    fn layout(
        &self,
        order: &[usize],
        (left, right): (f64, f64),
        palette: &Palette,
    ) -> Result<Layout> {
        let rank_w = text::width(&text::fixed(order.len() as f64, 2), BODY) + 4.0;
        let labels = |room: f64| -> Result<Vec<Label>> {
            order
                .iter()
                .map(|&i| {
                    let m = &self.methods[i];
                    Ok(Label {
                        lines: text::balanced(&m.name, BODY, room, 3),
                        rank: text::fixed(m.mean_rank, 2),
                        at: m.mean_rank,
                        look: palette.look(&format!("methods[{i}].name"), &m.name)?,
                    })
                })
                .collect()
        };
        let column = |side: &[Label]| {
            let names = side.iter().flat_map(|l| l.lines.iter().map(String::as_str));
            if side.is_empty() { 0.0 } else { text::widest(names, BODY) + 6.0 + rank_w }
        };
        let width = right - left;
        let mut low = labels(width * 0.27)?;
        // The outermost method gets the top row at its side, so that no elbow crosses another.
        let mut high: Vec<Label> = low.split_off(order.len().div_ceil(2));
        high.reverse();
        if width - column(&low) - column(&high) < 0.42 * width {
            low = labels(width * 0.36)?;
            high.clear();
        }
        let (left_side, right_side) = if self.best_right { (high, low) } else { (low, high) };
        let (left_edge, right_edge) = (left + column(&left_side), right - column(&right_side));
        Ok(Layout { left_side, right_side, left_edge, right_edge, rank_w })
    }
}

/// Whole ranks from 1 in the smallest step whose labels stay apart on `length` points.
fn rank_ticks(k: usize, length: f64) -> Vec<Tick> {
    let pitch = length / (k as f64 - 1.0);
    let label = text::width(&text::fixed(k as f64, 0), BODY) + 5.0;
    let step = [1, 2, 5, 10, 20, 50, 100, 200, 500]
        .into_iter()
        .find(|&s| pitch * s as f64 >= label)
        .unwrap_or(k);
    (1..=k)
        .step_by(step)
        .map(|r| Tick { value: r as f64, label: Run::plain(text::fixed(r as f64, 0)) })
        .collect()
}

/// Where the labels of one side go.
struct Side {
    top: f64,
    edge: f64,
    axis_y: f64,
    rank_w: f64,
    at_left: bool,
}

impl Side {
    /// Draws the labels with their elbows; returns the lower end.
    fn draw(&self, sheet: &mut Sheet, labels: &[Label], x: &dyn Fn(f64) -> f64) -> f64 {
        let mut y = self.top;
        for label in labels {
            let h = label.lines.len() as f64 * BODY * LEADING + 3.0;
            let mid = y + h / 2.0;
            y += h;
            let at = x(label.at);
            let colour = if label.look.needs_edge() { "#b8a800" } else { label.look.colour };
            let elbow = [(at, self.axis_y), (at, mid), (self.edge, mid)];
            sheet.canvas.polyline(&elbow, &Stroke::full(colour, 0.9));
            let base = mid + BODY * CAP / 2.0;
            let (anchor, away) =
                if self.at_left { (Anchor::End, -1.0) } else { (Anchor::Start, 1.0) };
            let rank = (self.edge + 3.0 * away, base);
            sheet.canvas.text(rank, anchor, BODY, MUTED, &label.rank);
            let names = (self.edge + (self.rank_w + 3.0) * away, mid);
            sheet.canvas.lines(names, anchor, BODY, INK, &label.lines);
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagram() -> CriticalDifference {
        let methods = [("a", 1.2), ("b", 2.0), ("c", 2.8), ("d", 4.0)]
            .map(|(name, mean_rank)| RankedMethod { name: name.to_owned(), mean_rank });
        CriticalDifference {
            head: Head::new("cd", ""),
            methods: methods.to_vec(),
            tasks: 10,
            test: RankTest::Nemenyi { cd: 1.48 },
            friedman_p: 0.001,
            alpha: 0.05,
            groups: vec![vec!["a".into(), "b".into()], vec!["b".into(), "c".into()]],
            uncovered: Vec::new(),
            best_right: false,
        }
    }

    #[test]
    fn bars_follow_the_groups_or_join_all() {
        let mut d = diagram();
        assert_eq!(d.bars(&d.order()).unwrap(), [(0, 1), (1, 2)]);
        d.friedman_p = 0.3;
        assert_eq!(d.bars(&d.order()).unwrap(), [(0, 3)]);
    }

    #[test]
    fn dishonest_bars_are_refused() {
        let mut d = diagram();
        d.test = RankTest::WilcoxonHolm;
        d.groups = vec![vec!["a".into(), "c".into()]];
        assert!(d.bars(&d.order()).unwrap_err().to_string().contains("contiguous"));
        let mut d = diagram();
        d.groups = vec![vec!["a".into(), "b".into(), "c".into()]];
        assert!(d.bars(&d.order()).unwrap_err().to_string().contains("apart"));
    }

    #[test]
    fn ranks_must_be_ranks() {
        let mut d = diagram();
        d.methods[0].mean_rank = 1.0;
        assert!(d.check().unwrap_err().to_string().contains("sum"));
        d.methods[0].mean_rank = f64::NAN;
        assert!(d.check().is_err());
    }
}
