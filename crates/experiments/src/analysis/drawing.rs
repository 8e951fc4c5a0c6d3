//! Figures of a study from its analysis: what each kind of figure is fed with.

use super::{Analysis, AnalysisError, results::Table, summary};
use crate::{
    figures::{
        Cost, CostPanel, CriticalDifference, Curve, CurvePanel, CurvePoint, Curves, Draw, Estimate,
        Figure, Head, Importance, ImportanceBar, Improvement, ImprovementRow, IntervalPanel,
        Intervals, PairMatrix, Paired, PairedPanel, PairedRun, Palette, Profile, ProfileCurve,
        Provenance, RankMap, RankTest, RankedMethod,
    },
    spec::{FigureKind, Metric, Resolved},
    stats::{self, Interval, IntervalFlag},
};
use std::collections::BTreeMap;

/// Thresholds of a performance profile.
const TAUS: usize = 61;

/// Draws the figures that the spec asks for, as far as the data allow each; with the reasons for
/// those that they do not allow.
///
/// # Errors
/// When a statistic refuses its input.
pub fn figures(
    analysis: &Analysis,
    spec: &Resolved,
    kinds: &[FigureKind],
    command: &str,
) -> Result<(Vec<Figure>, Vec<String>), AnalysisError> {
    let sheet = Sheet::new(analysis, spec, command);
    let mut drawn = Vec::new();
    let mut left_out = Vec::new();
    for kind in kinds {
        let outcome = match kind {
            FigureKind::Intervals => sheet.intervals(),
            FigureKind::Profile => sheet.profile()?,
            FigureKind::Cd => sheet.critical_difference()?,
            FigureKind::Curves => sheet.curves(),
            FigureKind::Poi => sheet.improvement(),
            FigureKind::Importance => sheet.importance(),
            FigureKind::Paired => sheet.paired(),
            FigureKind::PMatrix => sheet.matrix(),
            FigureKind::RankHeatmap => sheet.ranks()?,
            FigureKind::Cost => sheet.cost(),
            FigureKind::Ecdf => sheet.run_lengths(),
            FigureKind::DolanMore => sheet.dolan_more()?,
            FigureKind::Ablation => sheet.ablation(),
            FigureKind::Overtuning => sheet.overtuning(),
        };
        match outcome {
            Ok(figure) => drawn.push(figure),
            Err(why) => left_out.push(format!("{}: {why}", kind_word(*kind))),
        }
    }
    Ok((drawn, left_out))
}

/// The kind as in the spec.
pub fn kind_word(kind: FigureKind) -> String {
    serde_json::to_value(kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

type Outcome = Result<Figure, String>;

/// What all figures of one study share.
struct Sheet<'a> {
    analysis: &'a Analysis,
    table: &'a Table,
    spec: &'a Resolved,
    palette: Palette,
    /// Display name by index.
    labels: Vec<String>,
    tasks: Vec<usize>,
    provenance: Provenance,
    metric: String,
}

impl<'a> Sheet<'a> {
    fn new(analysis: &'a Analysis, spec: &'a Resolved, command: &str) -> Self {
        let names = spec.method_labels();
        let table = &analysis.table;
        let labels: Vec<String> = table
            .methods
            .iter()
            .map(|m| names.get(m.as_str()).map_or_else(|| m.clone(), |l| (*l).to_owned()))
            .collect();
        let ci = &spec.analysis.ci;
        let method = match ci.method {
            crate::spec::IntervalMethod::Percentile => "percentile",
            crate::spec::IntervalMethod::Basic => "basic",
            crate::spec::IntervalMethod::Bca => "BCa",
            crate::spec::IntervalMethod::Expanded => "expanded percentile",
        };
        Self {
            analysis,
            table,
            spec,
            palette: Palette::for_methods(&labels),
            labels,
            tasks: table.complete_tasks(),
            provenance: Provenance {
                command: command.to_owned(),
                seed: Some(ci.seed),
                interval_method: format!(
                    "{:.0}% {method} bootstrap, {} resamples",
                    ci.level * 100.0,
                    ci.resamples
                ),
                input_hash: None,
            },
            metric: axis_label(&table.metric),
        }
    }

    fn head(&self, name: &str, title: &str) -> Head {
        Head::new(name, title).with_provenance(self.provenance.clone())
    }

    fn draw(&self, figure: &impl Draw) -> Outcome {
        figure.draw(&self.palette).map_err(|e| e.to_string())
    }

    /// Fewest runs of a method on a complete task.
    fn runs(&self) -> usize {
        let counts = self.table.cells.iter().flat_map(|c| self.tasks.iter().map(|t| c[*t].len()));
        counts.min().unwrap_or(0)
    }

    fn intervals(&self) -> Outcome {
        let summaries = &self.analysis.summaries;
        let panels = (0..summaries.first().map_or(0, |s| s.overall.len()))
            .map(|a| {
                let rows =
                    summaries.iter().map(|s| s.overall.get(a).map(|(_, i)| estimate(i))).collect();
                let mut panel = IntervalPanel::new(summaries[0].overall[a].0.to_uppercase(), rows);
                panel.axis.clone_from(&self.metric);
                panel
            })
            .collect();
        self.draw(&Intervals {
            head: self.head("intervals", &self.spec.title),
            methods: self.labels.clone(),
            runs: self.runs(),
            tasks: self.tasks.len(),
            panels,
        })
    }

    fn profile(&self) -> Result<Outcome, AnalysisError> {
        if self.tasks.is_empty() {
            return Ok(Err("no task on which every method has a value".to_owned()));
        }
        let sign = if self.table.metric.higher_is_better { 1.0 } else { -1.0 };
        let mut all = Vec::new();
        for m in 0..self.labels.len() {
            let scores = summary::scores(self.table, self.spec, m, &self.tasks)?;
            all.push(if sign > 0.0 { scores } else { scores.negated() });
        }
        let values = all.iter().flat_map(|s| s.values().iter().copied());
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        if high <= low {
            return Ok(Err("all values are equal".to_owned()));
        }
        let taus: Vec<f64> =
            (0..TAUS).map(|i| low + (high - low) * i as f64 / (TAUS - 1) as f64).collect();
        let options = summary::bootstrap_options(self.spec);
        let mut curves = Vec::new();
        for (scores, method) in all.iter().zip(&self.labels) {
            let profile = stats::performance_profile(scores, &taus, &options)?;
            let band = profile.lo.iter().zip(&profile.hi).map(|(l, h)| [*l, *h]).collect();
            curves.push(ProfileCurve {
                method: method.clone(),
                tau: profile.taus,
                share: profile.run_share,
                band,
            });
        }
        let name = &self.table.metric.name;
        let x_label =
            if sign > 0.0 { format!("{name} threshold") } else { format!("threshold on -{name}") };
        Ok(self.draw(&Profile {
            head: self.head("profile", "Performance profile"),
            runs: self.runs(),
            tasks: self.tasks.len(),
            x_label,
            y_label: "share of runs above".to_owned(),
            curves,
        }))
    }

    fn critical_difference(&self) -> Result<Outcome, AnalysisError> {
        let Some(friedman) = &self.analysis.comparisons.friedman else {
            return Ok(Err("needs at least 3 methods on at least 2 tasks".to_owned()));
        };
        let alpha = 0.05;
        let (k, n) = (friedman.k, friedman.n);
        let order = stats::rank_order(&friedman.mean_ranks);
        let names = |positions: &[usize]| -> Vec<String> {
            positions.iter().map(|p| self.labels[order[*p]].clone()).collect()
        };
        let declared_nemenyi =
            self.spec.hypotheses.iter().any(|h| h.test == Some(crate::spec::Test::FriedmanNemenyi));
        let (test, bars, uncovered) = if declared_nemenyi {
            let cd = stats::critical_difference(k, n, alpha)?;
            let bars = stats::nemenyi_bars(&friedman.mean_ranks, cd)?;
            (RankTest::Nemenyi { cd }, bars, Vec::new())
        } else {
            let matrix = super::comparison::task_matrix(self.table, self.spec, &self.tasks)?;
            let (correction, _) = super::comparison::correction(self.spec);
            let options = super::comparison::wilcoxon_options(self.spec);
            let pairs = stats::pairwise_wilcoxon(&matrix, &options, correction)?;
            let honest = stats::honest_bars(&pairs.adjusted, &order, alpha)?;
            (RankTest::WilcoxonHolm, honest.bars, honest.uncovered)
        };
        let groups =
            bars.iter().map(|bar| names(&(bar.first..=bar.last).collect::<Vec<usize>>())).collect();
        let uncovered = uncovered
            .iter()
            .map(|(a, b)| [self.labels[order[*a]].clone(), self.labels[order[*b]].clone()])
            .collect();
        let methods = self
            .labels
            .iter()
            .zip(&friedman.mean_ranks)
            .map(|(name, rank)| RankedMethod { name: name.clone(), mean_rank: *rank })
            .collect();
        Ok(self.draw(&CriticalDifference {
            head: self.head("cd", "Mean ranks over tasks"),
            methods,
            tasks: n,
            test,
            friedman_p: friedman.p_f,
            alpha,
            groups,
            uncovered,
            best_right: false,
        }))
    }

    fn curves(&self) -> Outcome {
        let Some((metric, tasks)) = self.analysis.curves.first() else {
            return Err("no metric with `curve = true` has logged points".to_owned());
        };
        let panels = tasks
            .iter()
            .map(|task| CurvePanel {
                title: if tasks.len() > 1 { task.task.clone() } else { String::new() },
                curves: task
                    .curves
                    .iter()
                    .filter(|c| !c.points.is_empty())
                    .map(|curve| Curve {
                        method: self.label(&curve.method),
                        points: curve
                            .points
                            .iter()
                            .map(|(budget, i)| CurvePoint { budget: *budget, value: estimate(i) })
                            .collect(),
                        failed: curve.failed.iter().map(|(b, v)| [*b, *v]).collect(),
                    })
                    .collect(),
            })
            .collect();
        let spec_metric = self.spec.metric(metric);
        let label =
            spec_metric.and_then(|m| m.label.clone()).unwrap_or_else(|| metric.replace('_', " "));
        let mut head = self.head("curves", &format!("{label} over the budget"));
        let declared = self.spec.analysis.ci.resamples;
        let fewer = declared.min(super::anytime::RESAMPLES);
        head.provenance.interval_method = head
            .provenance
            .interval_method
            .replace(&format!("{declared} resamples"), &format!("{fewer} resamples"));
        self.draw(&Curves {
            head,
            x_label: self.spec.budget.unit.word().replace('_', " "),
            x_scale: crate::figures::ScaleKind::Linear,
            y_label: label,
            y_scale: crate::figures::ScaleKind::Linear,
            centre: "IQM over runs".to_owned(),
            panels,
        })
    }

    fn improvement(&self) -> Outcome {
        let rows: Vec<ImprovementRow> = self
            .analysis
            .comparisons
            .pairs
            .iter()
            .map(|p| ImprovementRow {
                first: self.labels[p.first].clone(),
                second: self.labels[p.second].clone(),
                probability: estimate(&p.improvement),
            })
            .collect();
        if rows.is_empty() {
            return Err("fewer than two methods share a repetition".to_owned());
        }
        self.draw(&Improvement {
            head: self.head("poi", "Probability of improvement"),
            runs: self.runs(),
            tasks: self.tasks.len(),
            rows,
        })
    }

    fn importance(&self) -> Outcome {
        let Some(shares) = &self.analysis.shares else {
            return Err("needs a full, balanced grid with two repetitions or more".to_owned());
        };
        let effects = shares.main_effects();
        self.draw(&Importance {
            head: self.head("importance", "Where the variance comes from"),
            components: effects.iter().map(|(name, _)| name.clone()).collect(),
            bars: vec![ImportanceBar {
                label: self.table.metric.name.clone(),
                shares: effects.iter().map(|(_, share)| *share).collect(),
                seed_noise: shares.seed_noise(),
                n: shares.n,
            }],
        })
    }

    fn paired(&self) -> Outcome {
        let panels = self
            .tasks
            .iter()
            .map(|t| {
                let mut by_rep: BTreeMap<u32, Vec<Option<f64>>> = BTreeMap::new();
                for (m, by_task) in self.table.cells.iter().enumerate() {
                    for o in &by_task[*t] {
                        let row =
                            by_rep.entry(o.rep).or_insert_with(|| vec![None; self.labels.len()]);
                        row[m] = (o.censored == 0).then_some(o.value);
                    }
                }
                let runs = by_rep
                    .into_iter()
                    .map(|(rep, values)| PairedRun { rep: u64::from(rep), values })
                    .collect();
                PairedPanel { title: self.table.tasks[*t].clone(), runs }
            })
            .collect();
        self.draw(&Paired {
            head: self.head("paired", "Every run; lines join the same seeds"),
            methods: self.labels.clone(),
            y_label: self.metric.clone(),
            scale: crate::figures::ScaleKind::Linear,
            join: true,
            panels,
        })
    }

    fn matrix(&self) -> Outcome {
        let k = self.labels.len();
        let comparisons = &self.analysis.comparisons;
        if comparisons.pairs.len() != k * (k - 1) / 2 || k < 2 {
            return Err("not every pair of methods shares a repetition".to_owned());
        }
        let (mut p, mut a12) = (vec![vec![1.0; k]; k], vec![vec![0.5; k]; k]);
        for pair in &comparisons.pairs {
            let (i, j) = (pair.first, pair.second);
            (p[i][j], p[j][i]) = (pair.adjusted, pair.adjusted);
            (a12[i][j], a12[j][i]) = (pair.a12, 1.0 - pair.a12);
        }
        self.draw(&PairMatrix {
            head: self.head("p-matrix", "Adjusted p-values and effect sizes"),
            methods: self.labels.clone(),
            correction: comparisons.correction.to_owned(),
            n: comparisons.pairs.iter().map(|p| p.n).min().unwrap_or(0),
            p,
            a12,
        })
    }

    fn ranks(&self) -> Result<Outcome, AnalysisError> {
        let mut ranks = vec![vec![None; self.table.tasks.len()]; self.labels.len()];
        for t in &self.tasks {
            let row = super::comparison::task_matrix(self.table, self.spec, &[*t])?;
            let ranked = stats::rank_best_first(
                row.row(0),
                summary::larger_is_better(self.table, self.spec),
                self.spec.analysis.round_digits,
            )?;
            for (m, rank) in ranked.ranks.iter().enumerate() {
                ranks[m][*t] = Some(*rank);
            }
        }
        Ok(self.draw(&RankMap {
            head: self.head("rank-heatmap", "Rank of each method on each task"),
            methods: self.labels.clone(),
            tasks: self.table.tasks.clone(),
            runs: self.runs(),
            ranks,
        }))
    }

    fn cost(&self) -> Outcome {
        type Pick = fn(&super::cost::MethodCost) -> &Option<Interval>;
        let methods = &self.analysis.cost.methods;
        let kinds: [(&str, &str, Pick); 3] = [
            ("wall time per trial", "s", |c| &c.wall_s),
            ("CPU time per trial", "s", |c| &c.cpu_s),
            ("peak memory", "MiB", |c| &c.peak_mib),
        ];
        let panels = kinds
            .iter()
            .map(|(label, unit, pick)| CostPanel {
                label: (*label).to_owned(),
                unit: (*unit).to_owned(),
                log: false,
                rows: methods.iter().map(|m| pick(m).as_ref().map(estimate)).collect(),
            })
            .collect();
        self.draw(&Cost {
            head: self.head("cost", "Cost per trial"),
            methods: self.labels.clone(),
            panels,
        })
    }

    fn dolan_more(&self) -> Result<Outcome, AnalysisError> {
        if self.table.metric.kind != crate::spec::MetricKind::Time || self.tasks.is_empty() {
            return Ok(Err("needs a primary metric of kind `time`".to_owned()));
        }
        let costs = super::comparison::task_matrix(self.table, self.spec, &self.tasks)?;
        if costs.values().iter().any(|c| *c <= 0.0) {
            return Ok(Err("needs costs above zero".to_owned()));
        }
        let taus: Vec<f64> = (0..=60).map(|i| 2_f64.powf(f64::from(i) / 10.0)).collect();
        let profile = stats::dolan_more(&costs, &taus)?;
        let curves = self
            .labels
            .iter()
            .zip(&profile.rho)
            .map(|(method, share)| crate::figures::CostProfile {
                method: method.clone(),
                tau: taus.clone(),
                share: share.clone(),
            })
            .collect();
        Ok(self.draw(&crate::figures::DolanMore {
            head: self.head("dolan-more", "Share of tasks within a factor of the best"),
            problems: self.tasks.len(),
            cost: self.metric.clone(),
            curves,
        }))
    }

    fn run_lengths(&self) -> Outcome {
        let lengths = self.analysis.run_lengths.as_ref().map_err(Clone::clone)?;
        let title = format!("Runs that reach targets of {}", lengths.metric.replace('_', " "));
        let unit = self.spec.budget.unit.word().replace('_', " ");
        self.draw(&lengths.figure(self.head("ecdf", &title), &unit, |m| self.label(m)))
    }

    fn ablation(&self) -> Outcome {
        let path = self.analysis.ablation.as_ref().map_err(Clone::clone)?;
        let Some(declared) = &self.spec.ablation else {
            return Err("the spec has no [ablation]".to_owned());
        };
        let title = format!(
            "From {} to {}, one parameter at a time",
            self.label(&declared.source),
            self.label(&declared.target)
        );
        let axis = format!("mean {}", self.axis_of(&path.metric));
        self.draw(&path.figure(self.head("ablation", &title), declared, axis))
    }

    fn overtuning(&self) -> Outcome {
        let searches = self.analysis.overtuning.as_ref().map_err(Clone::clone)?;
        let axis = self.axis_of(&searches.validation);
        let head = self.head("overtuning", "Validation and test of the incumbent of the search");
        self.draw(&searches.figure(head, axis, |m| self.label(m)))
    }

    /// A metric with its direction, as on an axis.
    fn axis_of(&self, metric: &str) -> String {
        match self.spec.metric(metric) {
            Some(metric) => axis_label(metric),
            None => metric.replace('_', " "),
        }
    }

    fn label(&self, method: &str) -> String {
        self.table.method(method).map_or_else(|| method.to_owned(), |m| self.labels[m].clone())
    }
}

/// A metric with unit and direction.
fn axis_label(metric: &Metric) -> String {
    let mut axis = metric.label.clone().unwrap_or_else(|| metric.name.replace('_', " "));
    if let Some(unit) = &metric.unit {
        axis = format!("{axis} [{unit}]");
    }
    let direction = if metric.higher_is_better { "higher is better" } else { "lower is better" };
    format!("{axis} ({direction})")
}

/// A number for a figure; a single run keeps its hollow point.
pub fn estimate(interval: &Interval) -> Estimate {
    if interval.has(IntervalFlag::Uninformative) || interval.n_values < 2 {
        Estimate::single(interval.point)
    } else {
        // A skewed bootstrap law can leave the point outside of its own interval; the figure shows
        // both ends and the point as they are.
        Estimate::new(interval.point, [interval.lo, interval.hi], interval.n_values)
    }
}
