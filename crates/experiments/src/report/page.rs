//! The content of a report as data, ready for the templates: every number is already words.
//!
//! Long because one function per section of the report, in the order of the page.

use super::number::{duration, p_value, plain, utc, with_interval};
use crate::{
    analysis::{Analysis, Results, Verdict, comparison::Pair, importance::Shares},
    figures::Figure,
    spec::{Kind, Resolved},
    store::record::Status,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// One checklist item as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Id, such as `D3`. The numbering is this program's own.
    pub id: String,
    /// `must` or `should`.
    pub level: String,
    /// What is asked.
    pub item: String,
    /// `satisfied`, `violated`, `not applicable` or `attested`.
    pub verdict: String,
    /// What the verdict rests on.
    pub evidence: String,
}

/// What the report is told besides analysis and spec.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Checklist, in its order.
    pub checklist: Vec<Item>,
    /// Differences between the frozen spec and the present one.
    pub deviations: Vec<String>,
    /// Validation-to-test gap and overtuning of tuned methods, as ready rows.
    pub tuning: Vec<TuningRow>,
    /// Why asked-for figures are missing.
    pub left_out: Vec<String>,
    /// Command that makes the report again.
    pub command: String,
    /// Commands that make the whole study again, in order.
    pub reproduce: Vec<String>,
    /// Time of generation; `None` leaves the line out.
    pub generated_at: Option<i64>,
}

/// Tuning effort and overtuning of one method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuningRow {
    /// Method.
    pub method: String,
    /// Configurations tried.
    pub configurations: usize,
    /// Budget spent, as words.
    pub budget: String,
    /// Best configuration, as words.
    pub chosen: String,
    /// Mean validation value of the main trials.
    pub validation: String,
    /// Mean test value of the main trials.
    pub test: String,
    /// Their difference.
    pub gap: String,
}

/// A table with a head and rows of cells.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Grid {
    /// Column heads.
    pub head: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
    /// Rows to set in bold: what is not told apart from the best.
    pub bold: Vec<bool>,
    /// Line below.
    pub note: String,
}

/// A hypothesis as shown.
#[derive(Clone, Debug, Serialize)]
pub struct ClaimCard {
    /// Id.
    pub id: String,
    /// The claim.
    pub sentence: String,
    /// Verdict word.
    pub verdict: String,
    /// Effect with interval, oriented so that positive agrees with the claim.
    pub effect: String,
    /// Smallest effect of interest.
    pub min_effect: String,
    /// p, adjusted.
    pub p: String,
    /// Probability of improvement with interval.
    pub improvement: String,
    /// Test and n.
    pub test: String,
    /// What would refute it.
    pub refuted_if: String,
    /// Further evidence.
    pub notes: Vec<String>,
}

/// A figure as shown.
#[derive(Clone, Debug, Serialize)]
pub struct FigureCard {
    /// File stem.
    pub name: String,
    /// The SVG text.
    pub svg: String,
}

/// Everything on the page.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// Study id.
    pub id: String,
    /// Title.
    pub title: String,
    /// Question.
    pub question: String,
    /// `confirmatory` or `exploratory`.
    pub kind: String,
    /// Profile.
    pub profile: String,
    /// Whether the test split is still sealed.
    pub sealed: bool,
    /// Metric of the tables.
    pub metric: String,
    /// Hypotheses.
    pub claims: Vec<ClaimCard>,
    /// Violated items, musts first.
    pub unsatisfied: Vec<Item>,
    /// Counts by verdict, as a sentence.
    pub checklist_sentence: String,
    /// All items.
    pub checklist: Vec<Item>,
    /// Methods, tasks, factors, seeds, budgets.
    pub design: Vec<(String, String)>,
    /// Methods with roles and tuning effort.
    pub methods: Grid,
    /// Deviations from the frozen plan.
    pub deviations: Vec<String>,
    /// Trials by method and outcome.
    pub execution: Grid,
    /// Hours and hardware.
    pub cost: Vec<(String, String)>,
    /// Aggregates with intervals.
    pub primary: Grid,
    /// Per-task table.
    pub per_task: Grid,
    /// Pairs.
    pub pairs: Grid,
    /// Final values of every other open metric.
    pub other_metrics: Grid,
    /// Notes on the tests.
    pub notes: Vec<String>,
    /// Figures.
    pub figures: Vec<FigureCard>,
    /// Why figures are missing.
    pub left_out: Vec<String>,
    /// Steps of the ablation path.
    pub ablation: Grid,
    /// Variance shares.
    pub importance: Grid,
    /// Whether the seed moves the metric more than the method.
    pub hangs_on_seeds: bool,
    /// Tuning effort and overtuning.
    pub tuning: Grid,
    /// Verdicts under other choices.
    pub sensitivity: Grid,
    /// Whether any verdict flips there.
    pub flips: bool,
    /// Limits, impact, as attested.
    pub attested: Vec<(String, String)>,
    /// Commands.
    pub reproduce: Vec<String>,
    /// Environment.
    pub environment: Vec<(String, String)>,
    /// Spec hash.
    pub spec_hash: String,
    /// Generation time.
    pub generated: Option<String>,
}

impl Page {
    /// Builds the page.
    pub fn new(results: &Results, analysis: &Analysis, figures: &[Figure], extras: Extras) -> Self {
        let spec = &results.spec;
        let metric = &analysis.table.metric;
        let direction =
            if metric.higher_is_better { "higher is better" } else { "lower is better" };
        let mut unsatisfied: Vec<Item> =
            extras.checklist.iter().filter(|i| i.verdict == "violated").cloned().collect();
        unsatisfied.sort_by_key(|i| i.level != "must");
        Self {
            id: spec.id.clone(),
            title: spec.title.clone(),
            question: spec.question.clone(),
            kind: if spec.kind == Kind::Confirmatory { "confirmatory" } else { "exploratory" }
                .to_owned(),
            profile: spec.profile.clone(),
            sealed: analysis.sealed,
            metric: format!("{} on {} ({direction})", metric.name, metric.split.word()),
            claims: claims(analysis, spec),
            checklist_sentence: sentence(&extras.checklist),
            unsatisfied,
            checklist: extras.checklist,
            design: design(spec),
            methods: methods(spec, &extras.tuning),
            deviations: extras.deviations,
            execution: execution(results, analysis),
            cost: cost(results, analysis),
            primary: primary(analysis),
            per_task: per_task(analysis),
            pairs: pairs(analysis, spec),
            other_metrics: other_metrics(results),
            notes: notes(analysis),
            figures: figures
                .iter()
                .map(|f| FigureCard { name: f.name.clone(), svg: f.svg.clone() })
                .collect(),
            left_out: extras.left_out,
            ablation: ablation(analysis, spec),
            importance: importance(analysis),
            hangs_on_seeds: analysis.shares.as_ref().is_some_and(Shares::hangs_on_seeds),
            tuning: tuning(&extras.tuning, analysis),
            sensitivity: sensitivity(analysis),
            flips: analysis.sensitivity.iter().any(|a| a.flips),
            attested: attested(spec),
            reproduce: extras.reproduce,
            environment: environment(results),
            spec_hash: spec.spec_hash().unwrap_or_default(),
            generated: extras.generated_at.map(utc),
        }
    }
}

fn sentence(items: &[Item]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for item in items {
        *counts.entry(&item.verdict).or_default() += 1;
    }
    let words: Vec<String> = ["satisfied", "violated", "attested", "not applicable"]
        .iter()
        .filter_map(|v| counts.get(v).map(|n| format!("{n} {v}")))
        .collect();
    words.join(", ")
}

fn claims(analysis: &Analysis, spec: &Resolved) -> Vec<ClaimCard> {
    let exploratory = spec.kind == Kind::Exploratory;
    analysis
        .claims
        .iter()
        .zip(&spec.hypotheses)
        .map(|(claim, h)| ClaimCard {
            id: claim.id.clone(),
            sentence: claim.sentence.clone(),
            verdict: claim.verdict.word().to_owned(),
            effect: claim.effect.as_ref().map(with_interval).unwrap_or_default(),
            min_effect: plain(claim.min_effect),
            p: claim.adjusted.map_or_else(String::new, |p| {
                let correction = analysis.comparisons.correction;
                if exploratory {
                    format!("{}, exploratory", p_value(p, correction))
                } else {
                    p_value(p, correction)
                }
            }),
            improvement: claim.improvement.as_ref().map(with_interval).unwrap_or_default(),
            test: claim.test.clone(),
            refuted_if: h.refuted_if.clone().unwrap_or_default(),
            notes: std::iter::once(&claim.grounds)
                .chain(&claim.notes)
                .filter(|note| !note.is_empty())
                .map(|note| note.trim_end_matches('.').to_owned())
                .collect(),
        })
        .collect()
}

fn design(spec: &Resolved) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| {
        if !text.is_empty() {
            rows.push((name.to_owned(), text));
        }
    };
    let tasks: Vec<String> = spec
        .tasks
        .iter()
        .map(|t| {
            t.task
                .why
                .as_ref()
                .map_or_else(|| t.task.name.clone(), |why| format!("{} ({why})", t.task.name))
        })
        .collect();
    row("Tasks", tasks.join("; "));
    let factors: Vec<String> = spec
        .factors
        .iter()
        .map(|f| {
            let levels: Vec<String> =
                f.levels.iter().map(crate::analysis::results::value_words).collect();
            format!("{} in {{{}}}", f.name, levels.join(", "))
        })
        .collect();
    row("Further factors", factors.join("; "));
    let r = &spec.repetitions;
    let reason = r.reason.as_ref().map(|w| format!(" ({w})")).unwrap_or_default();
    row("Repetitions", format!("{}{reason}", r.count));
    row(
        "Seeds",
        format!(
            "derived from root seed {}; streams {}; equal for all methods within a repetition",
            r.root_seed,
            r.streams.join(", ")
        ),
    );
    let b = &spec.budget;
    let why = b.why.as_ref().map(|w| format!(" ({w})")).unwrap_or_default();
    row(
        "Budget of a trial",
        format!("{} {}{why}", plain(b.amount), b.unit.word().replace('_', " ")),
    );
    let mut limits = vec![format!("wall {}", duration(b.wall_seconds))];
    limits.extend(b.cpu_seconds.map(|s| format!("CPU {}", duration(s))));
    limits.extend(b.memory_mib.map(|m| format!("memory {m} MiB")));
    limits.push(format!("{} thread(s) on {}", b.threads, b.device));
    row("Limits of a trial", limits.join(", "));
    if let Some(t) = &spec.tuning {
        row(
            "Tuning",
            format!(
                "random search, {} configurations x {} repetition(s) per method, chosen by {} on validation data",
                t.configurations, t.repetitions, t.metric
            ),
        );
    }
    let exclusions: Vec<String> = spec.exclude.iter().filter_map(|e| e.reason.clone()).collect();
    row("Left-out cells", exclusions.join("; "));
    rows
}

fn methods(spec: &Resolved, tuning: &[TuningRow]) -> Grid {
    let role = |r| {
        serde_json::to_value(r).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let rows = spec
        .methods
        .iter()
        .map(|m| {
            let effort = tuning.iter().find(|t| t.method == m.name);
            vec![
                m.label.clone().unwrap_or_else(|| m.name.clone()),
                role(m.role),
                effort.map_or_else(
                    || "none".to_owned(),
                    |t| format!("{} configurations, {}", t.configurations, t.budget),
                ),
            ]
        })
        .collect();
    Grid { head: words(&["Method", "Role", "Tuning effort"]), rows, ..Grid::default() }
}

fn execution(results: &Results, analysis: &Analysis) -> Grid {
    const OUTCOMES: [Status; 7] = [
        Status::Ok,
        Status::Timeout,
        Status::Memout,
        Status::Crash,
        Status::Invalid,
        Status::Running,
        Status::Pending,
    ];
    let mut head = words(&["Method", "planned"]);
    head.extend(OUTCOMES.iter().map(|s| s.word().to_owned()));
    head.extend(words(&["wall per trial", "CPU per trial", "peak memory"]));
    let rows = analysis
        .cost
        .methods
        .iter()
        .map(|m| {
            let mut row = vec![m.method.clone(), m.outcomes.values().sum::<usize>().to_string()];
            row.extend(
                OUTCOMES.iter().map(|s| m.outcomes.get(s).copied().unwrap_or(0).to_string()),
            );
            let cell = |i: &Option<crate::stats::Interval>, unit: &str| {
                i.as_ref().map_or_else(String::new, |i| format!("{} {unit}", with_interval(i)))
            };
            row.extend([cell(&m.wall_s, "s"), cell(&m.cpu_s, "s"), cell(&m.peak_mib, "MiB")]);
            row
        })
        .collect();
    let note = if results.retired > 0 {
        format!(
            "{} trials of cells that the spec no longer has are kept but not counted.",
            results.retired
        )
    } else {
        String::new()
    };
    Grid { head, rows, note, ..Grid::default() }
}

fn cost(results: &Results, analysis: &Analysis) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = analysis
        .cost
        .stages
        .iter()
        .map(|(stage, c)| {
            let text = format!(
                "{} attempts, {} CPU, {} wall",
                c.attempts,
                duration(c.cpu_hours * 3600.0),
                duration(c.wall_hours * 3600.0)
            );
            (format!("Stage {}", stage.word()), text)
        })
        .collect();
    let t = &analysis.cost.total;
    rows.push((
        "In all, failures included".to_owned(),
        format!("{:.3} CPU hours, {:.3} GPU hours", t.cpu_hours, t.gpu_hours),
    ));
    let cpus: BTreeSet<String> = results
        .sessions
        .iter()
        .filter_map(|s| s.env_json["cpu_model"].as_str().map(str::to_owned))
        .collect();
    if !cpus.is_empty() {
        rows.push(("Hardware".to_owned(), cpus.into_iter().collect::<Vec<_>>().join("; ")));
    }
    rows
}

fn primary(analysis: &Analysis) -> Grid {
    let mut head = words(&["Method"]);
    if let Some(first) = analysis.summaries.first() {
        head.extend(first.overall.iter().map(|(name, _)| name.to_uppercase()));
    }
    head.extend(words(&["runs", "failed"]));
    let rows = analysis
        .summaries
        .iter()
        .map(|s| {
            let mut row = vec![s.method.clone()];
            row.extend(s.overall.iter().map(|(_, i)| with_interval(i)));
            row.extend([s.runs.to_string(), s.failed.to_string()]);
            row
        })
        .collect();
    let bold = analysis.summaries.iter().map(|s| s.among_best).collect();
    let mut note =
        "Bold: not told apart from the best (interval of the paired difference includes 0)."
            .to_owned();
    if !analysis.table.censoring.is_empty() {
        note = format!("{note} Failures: {}.", analysis.table.censoring);
    }
    Grid { head, rows, bold, note }
}

fn per_task(analysis: &Analysis) -> Grid {
    let mut head = words(&["Task"]);
    head.extend(analysis.summaries.iter().map(|s| s.method.clone()));
    let rows = analysis
        .table
        .tasks
        .iter()
        .enumerate()
        .map(|(t, task)| {
            let mut row = vec![task.clone()];
            row.extend(analysis.summaries.iter().map(|s| {
                s.per_task[t].as_ref().map_or_else(
                    || "no data".to_owned(),
                    |i| format!("{}, n = {}", with_interval(i), i.n_values),
                )
            }));
            row
        })
        .collect();
    Grid { head, rows, ..Grid::default() }
}

fn pairs(analysis: &Analysis, spec: &Resolved) -> Grid {
    let exploratory = spec.kind == Kind::Exploratory;
    let p_head = if exploratory { "p (exploratory)" } else { "p" };
    let head =
        words(&["First", "Second", "First better by", "A12", "P(first better)", p_head, "n"]);
    let name = |m: usize| analysis.table.methods[m].clone();
    let rows = analysis
        .comparisons
        .pairs
        .iter()
        .map(|p: &Pair| {
            vec![
                name(p.first),
                name(p.second),
                with_interval(&p.effect),
                format!("{:.3}", p.a12),
                with_interval(&p.improvement),
                p_value(p.adjusted, analysis.comparisons.correction),
                p.n.to_string(),
            ]
        })
        .collect();
    Grid { head, rows, note: analysis.comparisons.test.to_owned(), ..Grid::default() }
}

/// Means of every open metric, so that no declared metric is left unseen.
fn other_metrics(results: &Results) -> Grid {
    let open: Vec<_> = results.spec.metrics.iter().filter(|m| results.open(m)).collect();
    let mut head = words(&["Method"]);
    head.extend(open.iter().map(|m| format!("{} ({})", m.name, m.split.word())));
    let options = crate::analysis::summary::bootstrap_options(&results.spec);
    let rows = results
        .spec
        .methods
        .iter()
        .map(|method| {
            let mut row = vec![method.name.clone()];
            for metric in &open {
                let values: Vec<f64> = results
                    .main()
                    .filter(|t| t.method == method.name && t.status == Status::Ok)
                    .filter_map(|t| {
                        results.values.get(&t.key).and_then(|v| v.get(&metric.name)).copied()
                    })
                    .filter(|v| v.is_finite())
                    .collect();
                let interval = crate::stats::Scores::from_runs(&values).and_then(|s| {
                    crate::stats::bootstrap(&s, &crate::stats::Aggregate::Mean, &options)
                });
                row.push(interval.map_or_else(|_| "no data".to_owned(), |i| with_interval(&i)));
            }
            row
        })
        .collect();
    Grid {
        head,
        rows,
        note: "Means over finished trials with bootstrap intervals.".to_owned(),
        ..Grid::default()
    }
}

fn notes(analysis: &Analysis) -> Vec<String> {
    let mut notes = analysis.comparisons.notes.clone();
    if let Some(f) = &analysis.comparisons.friedman {
        notes.push(format!(
            "Friedman over {} tasks and {} methods: F = {}, {}, Kendall's W = {:.3}.",
            f.n,
            f.k,
            plain(f.f),
            p_value(f.p_f, ""),
            f.kendall_w
        ));
    }
    if !analysis.table.left_out.is_empty() {
        notes.push(format!("Left out: {}.", analysis.table.left_out.join("; ")));
    }
    if analysis.table.pending > 0 {
        notes.push(format!("{} trials are not finished yet.", analysis.table.pending));
    }
    notes
}

fn importance(analysis: &Analysis) -> Grid {
    let Some(shares) = &analysis.shares else { return Grid::default() };
    let mut rows: Vec<Vec<String>> = shares
        .main_effects()
        .into_iter()
        .map(|(name, share)| vec![name, format!("{:.1}%", 100.0 * share)])
        .collect();
    rows.push(vec!["seed".to_owned(), format!("{:.1}%", 100.0 * shares.seed_noise())]);
    Grid {
        head: words(&["Source", "Share of variance"]),
        rows,
        note: format!("n = {} runs.", shares.n),
        ..Grid::default()
    }
}

fn ablation(analysis: &Analysis, spec: &Resolved) -> Grid {
    let (Ok(path), Some(declared)) = (&analysis.ablation, &spec.ablation) else {
        return Grid::default();
    };
    let alone = |name: &str| {
        let worth = path.leave_one_out.iter().find(|(parameter, _)| parameter == name);
        worth.map_or_else(String::new, |(_, i)| with_interval(i))
    };
    let rows = path
        .steps
        .iter()
        .map(|step| {
            let name = step.parameter.as_deref();
            vec![
                name.map_or_else(|| format!("{} (source)", declared.source), str::to_owned),
                with_interval(&step.value),
                step.contribution.as_ref().map(with_interval).unwrap_or_default(),
                name.map(alone).unwrap_or_default(),
            ]
        })
        .collect();
    let head = ["Flipped", "Mean", "Better by this step", "Target better by it alone"];
    Grid {
        head: words(&head),
        rows,
        note: format!(
            "{} from {} to {}, the best mean first; n = {} runs of each configuration.",
            path.metric, declared.source, declared.target, path.runs
        ),
        ..Grid::default()
    }
}

fn tuning(rows: &[TuningRow], analysis: &Analysis) -> Grid {
    if rows.is_empty() {
        return Grid::default();
    }
    Grid {
        head: words(&["Method", "Configurations", "Budget", "Chosen", "Validation", "Test", "Gap"]),
        rows: rows
            .iter()
            .map(|r| {
                vec![
                    r.method.clone(),
                    r.configurations.to_string(),
                    r.budget.clone(),
                    r.chosen.clone(),
                    r.validation.clone(),
                    r.test.clone(),
                    r.gap.clone(),
                ]
            })
            .collect(),
        note: match &analysis.overtuning {
            Ok(searches) => format!("Overtuning. {}.", searches.words().join("; ")),
            Err(why) => format!("Overtuning is not shown: {why}."),
        },
        ..Grid::default()
    }
}

fn sensitivity(analysis: &Analysis) -> Grid {
    let rows = analysis
        .sensitivity
        .iter()
        .filter(|a| a.verdict != Verdict::Sealed && a.verdict != Verdict::Missing)
        .map(|a| {
            vec![
                a.id.clone(),
                a.choice.clone(),
                a.effect.as_ref().map(with_interval).unwrap_or_default(),
                a.verdict.word().to_owned(),
                if a.flips { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    Grid {
        head: words(&["Hypothesis", "Other choice", "Effect", "Verdict", "Flips"]),
        rows,
        ..Grid::default()
    }
}

fn attested(spec: &Resolved) -> Vec<(String, String)> {
    let a = &spec.attest;
    [("Limits", &a.limits), ("Impact", &a.impact), ("Ethics", &a.ethics), ("Theory", &a.theory)]
        .into_iter()
        .filter_map(|(name, text)| text.as_ref().map(|t| (name.to_owned(), t.clone())))
        .collect()
}

fn environment(results: &Results) -> Vec<(String, String)> {
    let Some(session) = results.sessions.last() else { return Vec::new() };
    let mut rows = vec![("Host".to_owned(), session.host.clone())];
    if let Some(rev) = &session.git_rev {
        let dirty = if session.git_dirty { " with local changes" } else { "" };
        rows.push(("Revision".to_owned(), format!("{rev}{dirty}")));
    }
    if let Some(map) = session.env_json.as_object() {
        for (name, value) in map {
            let text = match value {
                serde_json::Value::String(s) => s.clone(),
                serde_json::Value::Null => continue,
                other => other.to_string(),
            };
            if text.len() <= 300 {
                rows.push((name.replace('_', " "), text.replace('\n', " ")));
            }
        }
    }
    rows
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}
