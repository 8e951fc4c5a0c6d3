//! Axes: a scale, its ticks and their labels.

use super::canvas::{Run, runs_width};
use super::text::{self, BODY};
use super::{Result, ScaleKind, invalid};

/// How far a tick label may reach beyond its axis, in points.
pub(crate) const OVERHANG: f64 = 9.3;

/// One tick.
#[derive(Clone, Debug)]
pub(crate) struct Tick {
    pub(crate) value: f64,
    pub(crate) label: Vec<Run>,
}

/// A numeric axis with chosen ticks.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) kind: ScaleKind,
    pub(crate) lo: f64,
    pub(crate) hi: f64,
    pub(crate) label: String,
    pub(crate) ticks: Vec<Tick>,
    /// Unlabelled positions between the ticks of a logarithmic axis.
    pub(crate) minor: Vec<f64>,
    /// Labels are to be multiplied by ten to this power.
    pub(crate) factor: i32,
}

impl Axis {
    /// An axis that shows all `values`.
    ///
    /// * `bounds`: fixes an end instead of taking it from the values
    ///
    /// # Errors
    /// A value that is not positive on a logarithmic axis; `argument` names it.
    pub(crate) fn over(
        argument: &str,
        label: &str,
        kind: ScaleKind,
        values: impl IntoIterator<Item = f64>,
        bounds: [Option<f64>; 2],
    ) -> Result<Self> {
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.into_iter().chain(bounds.into_iter().flatten()) {
            if kind != ScaleKind::Linear && v <= 0.0 {
                return Err(invalid(argument, "values above 0 on a logarithmic axis", v));
            }
            lo = lo.min(v);
            hi = hi.max(v);
        }
        if lo > hi {
            (lo, hi) = (1.0, 1.0);
        }
        // Padding in the units that are drawn.
        let (a, b) = (forward(kind, lo), forward(kind, hi));
        let scale = a.abs().max(b.abs());
        let (a, b) = if b - a <= 1e-12 * scale.max(1e-290) {
            let half = match kind {
                ScaleKind::Linear if scale == 0.0 => 1.0,
                ScaleKind::Linear => scale * 0.1,
                _ => 0.5,
            };
            (
                if bounds[0].is_some() { a } else { a - half },
                if bounds[1].is_some() && bounds[0].is_none() { b } else { b + half },
            )
        } else {
            let pad = (b - a) * 0.04;
            (
                if bounds[0].is_some() { a } else { a - pad },
                if bounds[1].is_some() { b } else { b + pad },
            )
        };
        Ok(Self {
            kind,
            lo: inverse(kind, a),
            hi: inverse(kind, b),
            label: label.to_owned(),
            ticks: Vec::new(),
            minor: Vec::new(),
            factor: 0,
        })
    }

    /// Position of `v` between `from` (the low end) and `to`.
    pub(crate) fn place(&self, v: f64, from: f64, to: f64) -> f64 {
        let (a, b) = (forward(self.kind, self.lo), forward(self.kind, self.hi));
        let v = if self.kind == ScaleKind::Linear { v } else { v.max(f64::MIN_POSITIVE) };
        from + (forward(self.kind, v) - a) / (b - a) * (to - from)
    }

    /// Chooses as many ticks as fit `length` points horizontally without touching labels; no label
    /// reaches more than [`OVERHANG`] beyond an end.
    pub(crate) fn fit_horizontal(&mut self, length: f64) {
        for wanted in (2..=9).rev() {
            self.choose(wanted);
            let span = |axis: &Self, t: &Tick| {
                let (x, w) = (axis.place(t.value, 0.0, length), runs_width(&t.label, BODY));
                (x - w / 2.0, x + w / 2.0)
            };
            let inside = |t: &Tick| {
                let (a, b) = span(self, t);
                a >= -OVERHANG && b <= length + OVERHANG
            };
            let ticks: Vec<Tick> = self.ticks.iter().filter(|t| inside(t)).cloned().collect();
            let spans: Vec<(f64, f64)> = ticks.iter().map(|t| span(self, t)).collect();
            if spans.windows(2).all(|p| p[1].0 - p[0].1 >= 7.0) && !(ticks.is_empty() && wanted > 2)
            {
                self.ticks = ticks;
                return;
            }
        }
        // Even two labels touch: keep the first only.
        self.ticks.truncate(1);
    }

    /// Chooses ticks for a vertical axis of `length` points.
    pub(crate) fn fit_vertical(&mut self, length: f64) {
        for wanted in (2..=((length / 20.0) as usize).clamp(2, 9)).rev() {
            self.choose(wanted);
            let at: Vec<f64> =
                self.ticks.iter().map(|t| self.place(t.value, 0.0, length)).collect();
            if at.windows(2).all(|p| p[1] - p[0] >= BODY * 1.35) {
                return;
            }
        }
        self.ticks.truncate(1);
    }

    /// Widest tick label.
    pub(crate) fn label_width(&self) -> f64 {
        self.ticks.iter().map(|t| runs_width(&t.label, BODY)).fold(0.0, f64::max)
    }

    fn choose(&mut self, wanted: usize) {
        self.minor.clear();
        self.factor = 0;
        match self.kind {
            ScaleKind::Linear => self.choose_linear(wanted),
            ScaleKind::Log10 => self.choose_log10(wanted),
            ScaleKind::Log2 => self.choose_log2(wanted),
        }
    }

    fn choose_linear(&mut self, wanted: usize) {
        let step = nice_step((self.hi - self.lo) / wanted as f64);
        let largest = self.lo.abs().max(self.hi.abs());
        let factor = engineering(largest, step);
        let unit = 10f64.powi(factor);
        let decimals = decimals_of(step / unit);
        // Steps are counted as integers so that no rounding error adds up.
        let (first, last) = ((self.lo / step - 1e-9).ceil(), (self.hi / step + 1e-9).floor());
        let count = ((last - first).max(-1.0) + 1.0).min(64.0) as usize;
        self.factor = factor;
        self.ticks = (0..count)
            .map(|i| {
                let value = (first + i as f64) * step;
                Tick { value, label: Run::plain(text::fixed(value / unit, decimals)) }
            })
            .collect();
    }

    fn choose_log10(&mut self, wanted: usize) {
        let (a, b) = (self.lo.log10(), self.hi.log10());
        let (first, last) = ((a - 1e-9).ceil() as i32, (b + 1e-9).floor() as i32);
        let decades = last - first + 1;
        if decades >= 2 {
            let stride = (decades as usize).div_ceil(wanted).max(1) as i32;
            let shown: Vec<i32> = (first..=last).filter(|e| e.rem_euclid(stride) == 0).collect();
            let plain = first >= -3 && last <= 4;
            self.ticks = shown
                .iter()
                .map(|&e| Tick {
                    value: 10f64.powi(e),
                    label: if plain {
                        Run::plain(text::fixed(10f64.powi(e), (-e).max(0) as usize))
                    } else {
                        Run::power("10", e)
                    },
                })
                .collect();
            if decades <= 8 {
                let inside = |v: &f64| *v >= self.lo && *v <= self.hi;
                self.minor = (first - 1..=last)
                    .flat_map(|e| (2..10).map(move |m| f64::from(m) * 10f64.powi(e)))
                    .filter(inside)
                    .collect();
            }
            return;
        }
        // Less than two powers of ten in view: 1-2-5 steps, or the ticks of a linear axis.
        let candidates: Vec<(i32, i32)> = (a.floor() as i32..=last.max(a.ceil() as i32))
            .flat_map(|e| [1, 2, 5].map(|m| (m, e)))
            .filter(|&(m, e)| {
                let v = f64::from(m) * 10f64.powi(e);
                v >= self.lo * (1.0 - 1e-9) && v <= self.hi * (1.0 + 1e-9)
            })
            .collect();
        if candidates.len() < 3 {
            self.choose_linear(wanted);
            return;
        }
        let largest = self.hi;
        let factor = engineering(largest, self.lo);
        let unit = 10f64.powi(factor);
        self.factor = factor;
        let stride = candidates.len().div_ceil(wanted.max(1));
        self.ticks = candidates
            .into_iter()
            .step_by(stride)
            .map(|(m, e)| {
                let value = f64::from(m) * 10f64.powi(e);
                let decimals = (factor - e).max(0) as usize;
                Tick { value, label: Run::plain(text::fixed(value / unit, decimals)) }
            })
            .collect();
    }

    fn choose_log2(&mut self, wanted: usize) {
        let (first, last) =
            ((self.lo.log2() - 1e-9).ceil() as i32, (self.hi.log2() + 1e-9).floor() as i32);
        if last - first < 1 {
            self.choose_linear(wanted);
            return;
        }
        let stride = ((last - first + 1) as usize).div_ceil(wanted).max(1) as i32;
        let plain = first >= -3 && last <= 10;
        self.ticks = (first..=last)
            .filter(|e| e.rem_euclid(stride) == 0)
            .map(|e| Tick {
                value: 2f64.powi(e),
                label: if plain {
                    Run::plain(text::fixed(2f64.powi(e), (-e).max(0) as usize))
                } else {
                    Run::power("2", e)
                },
            })
            .collect();
    }

    /// The axis label with its factor, ready to draw.
    pub(crate) fn label_runs(&self) -> Vec<Run> {
        let mut runs = Run::plain(&self.label);
        if self.factor != 0 {
            runs[0].text.push_str(if self.label.is_empty() { "(in " } else { " (in " });
            runs.extend(Run::power("10", self.factor));
            runs.extend(Run::plain(")"));
        }
        runs
    }
}

fn forward(kind: ScaleKind, v: f64) -> f64 {
    match kind {
        ScaleKind::Linear => v,
        ScaleKind::Log10 => v.log10(),
        ScaleKind::Log2 => v.log2(),
    }
}

fn inverse(kind: ScaleKind, v: f64) -> f64 {
    match kind {
        ScaleKind::Linear => v,
        ScaleKind::Log10 => 10f64.powf(v),
        ScaleKind::Log2 => v.exp2(),
    }
}

/// The power of ten, a multiple of three, taken out of tick labels; 0 for handy numbers.
fn engineering(largest: f64, smallest: f64) -> i32 {
    if largest == 0.0 || !largest.is_finite() {
        return 0;
    }
    let e = largest.log10().floor() as i32;
    if e >= 4 && largest >= 20_000.0 || e <= -3 {
        // Rounding towards minus infinity keeps the leading digits before the point.
        e.div_euclid(3) * 3
    } else if smallest.abs() < 1e-5 && e < 0 {
        e.div_euclid(3) * 3
    } else {
        0
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `raw`.
fn nice_step(raw: f64) -> f64 {
    let raw = raw.max(1e-300);
    let power = 10f64.powf(raw.log10().floor());
    let m = raw / power;
    let nice = if m <= 1.0 + 1e-9 {
        1.0
    } else if m <= 2.0 + 1e-9 {
        2.0
    } else if m <= 5.0 + 1e-9 {
        5.0
    } else {
        10.0
    };
    nice * power
}

fn decimals_of(step: f64) -> usize {
    (-(step.log10() + 1e-9).floor()).clamp(0.0, 15.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks
            .iter()
            .map(|t| {
                t.label
                    .iter()
                    .map(|r| if r.raised { format!("^{}", r.text) } else { r.text.clone() })
                    .collect()
            })
            .collect()
    }

    fn axis(kind: ScaleKind, lo: f64, hi: f64) -> Axis {
        Axis::over("v", "v", kind, [lo, hi], [Some(lo), Some(hi)]).unwrap()
    }

    #[test]
    fn linear_ticks_are_round_and_inside() {
        let mut a = axis(ScaleKind::Linear, 0.0, 1.0);
        a.fit_horizontal(150.0);
        assert_eq!(labels(&a), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let mut a = axis(ScaleKind::Linear, 0.0, 3e6);
        a.fit_horizontal(100.0);
        assert_eq!(a.factor, 6);
        assert_eq!(labels(&a), ["0", "1", "2", "3"]);
    }

    #[test]
    fn log_ticks() {
        let mut a = axis(ScaleKind::Log10, 1.0, 1000.0);
        a.fit_horizontal(200.0);
        assert_eq!(labels(&a), ["1", "10", "100", "1000"]);
        let mut a = axis(ScaleKind::Log10, 1e-9, 1e9);
        a.fit_horizontal(200.0);
        assert!(labels(&a).contains(&"10^0".to_owned()));
        let mut a = axis(ScaleKind::Log2, 1.0, 64.0);
        a.fit_horizontal(200.0);
        assert_eq!(labels(&a).first().map(String::as_str), Some("1"));
        assert!(Axis::over("x", "", ScaleKind::Log10, [0.0], [None; 2]).is_err());
    }

    #[test]
    fn labels_never_touch_and_stay_distinct() {
        let ranges = [
            (0.0, 1.0),
            (-1e9, 1e9),
            (1e9, 1e9 + 1.0),
            (0.999_991, 0.999_992),
            (-3e-7, 2e-8),
            (5.0, 5.0),
            (0.0, 0.0),
            (1e140, 2e140),
            (1e-140, 2e-140),
        ];
        for (lo, hi) in ranges {
            for length in [20.0, 60.0, 200.0, 400.0] {
                let mut a = Axis::over("v", "", ScaleKind::Linear, [lo, hi], [None; 2]).unwrap();
                assert!(a.lo < a.hi, "{lo} {hi}");
                a.fit_horizontal(length);
                let l = labels(&a);
                assert!(!l.is_empty() || length < 61.0, "{lo}..{hi} at {length}");
                let mut unique = l.clone();
                unique.dedup();
                assert_eq!(l, unique, "{lo}..{hi} at {length}");
                for pair in a.ticks.windows(2) {
                    let gap =
                        a.place(pair[1].value, 0.0, length) - a.place(pair[0].value, 0.0, length);
                    let half = |t: &Tick| runs_width(&t.label, BODY) / 2.0;
                    assert!(gap > half(&pair[0]) + half(&pair[1]), "{lo}..{hi} at {length}");
                }
            }
        }
    }
}
