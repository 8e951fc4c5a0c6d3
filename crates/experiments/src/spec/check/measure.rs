//! Metrics, hypotheses, tuning, ablation, analysis, provenance.

use super::{known, parameter_name, plain_name, positive, unique};
use crate::{
    plan,
    spec::{
        document::Spec,
        levels,
        measure::{
            Analysis, Censoring, Direction, Distribution, Metric, NormaliseKind, Split, Tuning,
        },
        source::Source,
    },
    split::is_sha256,
};

pub(super) fn check(spec: &Spec, source: &mut Source) {
    metrics(spec, source);
    hypotheses(spec, source);
    if let Some(tuning) = &spec.tuning {
        search(spec, tuning, source);
    }
    ablation(spec, source);
    analysis(spec, &spec.analysis, source);
    provenance(spec, source);
}

fn metrics(spec: &Spec, source: &mut Source) {
    let names = spec.metrics.iter().map(|m| m.name.as_str());
    unique(names, "metric", |i| format!("metric[{i}].name"), source);
    let mut primary: Option<&Metric> = None;
    for (i, metric) in spec.metrics.iter().enumerate() {
        let path = format!("metric[{i}]");
        plain_name(&metric.name, "metric", &format!("{path}.name"), source);
        if metric.primary {
            if let Some(first) = primary {
                source.error(
                    &format!("{path}.primary"),
                    format!("metrics `{}` and `{}` are both primary", first.name, metric.name),
                );
            }
            primary = primary.or(Some(metric));
        }
        if let Some([lo, hi]) = metric.range
            && lo >= hi
        {
            let path = format!("{path}.range");
            source.error(&path, format!("`{path}`: expected lower < upper, found [{lo}, {hi}]"));
        }
        if metric.tolerance < 0.0 {
            let (path, found) = (format!("{path}.tolerance"), metric.tolerance);
            source.error(&path, format!("`{path}`: expected a number >= 0, found {found}"));
        }
    }
    if primary.is_none() && spec.metrics.len() > 1 {
        source.warn("metric", "no metric is primary; the first one leads the report");
    }
}

fn hypotheses(spec: &Spec, source: &mut Source) {
    let ids = spec.hypotheses.iter().map(|h| h.id.as_str());
    unique(ids, "hypothesis", |i| format!("hypothesis[{i}].id"), source);
    for (i, claim) in spec.hypotheses.iter().enumerate() {
        let at = |key: &str| format!("hypothesis[{i}].{key}");
        plain_name(&claim.id, "hypothesis", &at("id"), source);
        let metrics = spec.metrics.iter().map(|m| m.name.as_str());
        known(&claim.metric, metrics, "metric", &at("metric"), "metric", source);
        for (key, name) in [("better", &claim.better), ("worse", &claim.worse)] {
            let methods = spec.methods.iter().map(|m| m.name.as_str());
            known(name, methods, "method", &at(key), "method", source);
        }
        if claim.better == claim.worse {
            let message = format!("`better` and `worse` are both `{}`", claim.better);
            source.error(&at("worse"), message);
        }
        if let Some(effect) = claim.min_effect
            && effect < 0.0
        {
            let path = at("min_effect");
            source.error(&path, format!("`{path}`: expected a number >= 0, found {effect}"));
        }
        if let Some(alpha) = claim.alpha
            && !(alpha > 0.0 && alpha < 1.0)
        {
            let path = at("alpha");
            source.error(&path, format!("`{path}`: expected a number in (0, 1), found {alpha}"));
        }
        let metric = spec.metrics.iter().position(|m| m.name == claim.metric);
        if let (Some(direction), Some(m)) = (claim.direction, metric) {
            let higher = spec.metrics[m].higher_is_better;
            let readable = !source.is_poisoned(&format!("metric[{m}].higher_is_better"));
            if readable && (direction == Direction::Greater) != higher {
                let (path, right) = (at("direction"), if higher { "greater" } else { "less" });
                source.error_with(
                    &path,
                    format!(
                        "`{path}` contradicts metric `{}`, where {} is better",
                        claim.metric,
                        if higher { "higher" } else { "lower" }
                    ),
                    format!("direction = \"{right}\", or exchange `better` and `worse`"),
                );
            }
        }
    }
}

fn search(spec: &Spec, tuning: &Tuning, source: &mut Source) {
    for (key, found) in
        [("configurations", tuning.configurations), ("repetitions", tuning.repetitions)]
    {
        if found == 0 {
            let path = format!("tuning.{key}");
            source.error(&path, format!("`{path}`: expected at least 1, found 0"));
        }
    }
    if let Some(amount) = tuning.amount {
        positive(amount, 1e30, "tuning.amount", source);
    }
    let metrics = spec.metrics.iter().map(|m| m.name.as_str());
    known(&tuning.metric, metrics, "metric", "tuning.metric", "metric", source);
    if let Some(i) = spec.metrics.iter().position(|m| m.name == tuning.metric)
        && !source.is_poisoned(&format!("metric[{i}].split"))
    {
        let split = spec.metrics[i].split;
        if split == Split::Test {
            source.error_with(
                "tuning.metric",
                format!("metric `{}` is measured on the test split", tuning.metric),
                "tune on a validation metric; the test split is read once, at the end".into(),
            );
        } else if split == Split::Train {
            source.warn("tuning.metric", "tuning on the training split rewards overfitting");
        }
    }
    if tuning.space.is_empty() {
        source.error("tuning.space", "`tuning.space`: expected at least one parameter");
    }
    let mut sound = !tuning.space.is_empty();
    for (name, distribution) in &tuning.space {
        let path = format!("tuning.space.{name}");
        parameter_name(name, "parameter", &path, source);
        if let Err(message) = drawable(distribution) {
            source.error(&path, format!("`{path}`: {message}"));
            sound = false;
        }
        if spec.factors.get(name).is_some() {
            source.warn(
                &path,
                format!(
                    "`{name}` is searched and also a factor: the main stage runs the factor's \
                     levels, and the tuned value is not used there"
                ),
            );
        }
    }
    if sound {
        let size = plan::space_size(&tuning.space);
        if size < u64::from(tuning.configurations) {
            source.error(
                "tuning.configurations",
                format!(
                    "`tuning.configurations`: expected at most {size}, the size of the space, \
                     found {}",
                    tuning.configurations
                ),
            );
        }
    }
}

/// Whether exactly one rule is given and can be drawn from.
fn drawable(d: &Distribution) -> Result<(), String> {
    let given =
        [d.uniform.is_some(), d.log_uniform.is_some(), d.int_uniform.is_some(), d.choice.is_some()];
    let count = given.iter().filter(|g| **g).count();
    if count != 1 {
        return Err(format!(
            "expected one of `uniform`, `log_uniform`, `int_uniform`, `choice`, found {count}"
        ));
    }
    let ordered = |lo: f64, hi: f64| {
        if lo < hi { Ok(()) } else { Err(format!("expected lower < upper, found [{lo}, {hi}]")) }
    };
    if let Some([lo, hi]) = d.uniform {
        ordered(lo, hi)?;
    }
    if let Some([lo, hi]) = d.log_uniform {
        ordered(lo, hi)?;
        if lo <= 0.0 {
            return Err(format!("expected positive bounds, found [{lo}, {hi}]"));
        }
    }
    if let Some([lo, hi]) = d.int_uniform
        && lo > hi
    {
        return Err(format!("expected lower <= upper, found [{lo}, {hi}]"));
    }
    if let Some(values) = &d.choice {
        let values = levels::one_type(values)?;
        if let Some((_, twice)) = values.iter().enumerate().find(|(i, v)| values[..*i].contains(v))
        {
            return Err(format!("`{twice}` appears more than once"));
        }
    }
    Ok(())
}

fn ablation(spec: &Spec, source: &mut Source) {
    let Some(ablation) = &spec.ablation else { return };
    for (key, name) in [("source", &ablation.source), ("target", &ablation.target)] {
        let methods = spec.methods.iter().map(|m| m.name.as_str());
        known(name, methods, "method", &format!("ablation.{key}"), "method", source);
    }
    if ablation.source == ablation.target {
        let message = format!("`source` and `target` are both `{}`", ablation.source);
        source.error("ablation.target", message);
    }
    let count = ablation.parameters.len();
    if !(1..=64).contains(&count) {
        let message = format!("`ablation.parameters`: expected 1 to 64 names, found {count}");
        source.error("ablation.parameters", message);
    }
    let names = ablation.parameters.iter().map(String::as_str);
    unique(names, "parameter", |i| format!("ablation.parameters[{i}]"), source);
    for (i, name) in ablation.parameters.iter().enumerate() {
        let path = format!("ablation.parameters[{i}]");
        parameter_name(name, "parameter", &path, source);
        let searched = spec.tuning.as_ref().is_some_and(|t| t.space.contains_key(name));
        if spec.factors.get(name).is_some() || searched {
            let other = if searched { "searched" } else { "a factor" };
            source.error(&path, format!("`{name}` is ablated and also {other}: choose one"));
        }
    }
}

fn analysis(spec: &Spec, analysis: &Analysis, source: &mut Source) {
    let ci = &analysis.ci;
    if !(ci.level > 0.0 && ci.level < 1.0) {
        let message = format!("`analysis.ci.level`: expected (0, 1), found {}", ci.level);
        source.error("analysis.ci.level", message);
    }
    resamples(ci.resamples, "analysis.ci.resamples", source);
    if let Some(digits) = analysis.round_digits
        && !(1..=15).contains(&digits)
    {
        let message = format!("`analysis.round_digits`: expected 1..=15, found {digits}");
        source.error("analysis.round_digits", message);
    }
    if let Some(control) = &analysis.control {
        let methods = spec.methods.iter().map(|m| m.name.as_str());
        known(control, methods, "method", "analysis.control", "method", source);
    }
    if let Some(normalise) = &analysis.normalise {
        for (task, [lo, hi]) in &normalise.bounds {
            let path = format!("analysis.normalise.bounds.{task}");
            let tasks = spec.tasks.iter().map(|t| t.name.as_str());
            known(task, tasks, "task", &path, "task", source);
            if lo >= hi {
                source
                    .error(&path, format!("`{path}`: expected lower < upper, found [{lo}, {hi}]"));
            }
        }
        if normalise.kind == NormaliseKind::Fixed && !source.is_poisoned("task") {
            let without = spec.tasks.iter().filter(|t| !normalise.bounds.contains_key(&t.name));
            let without: Vec<&str> = without.map(|t| t.name.as_str()).collect();
            if !without.is_empty() {
                let message = format!("no bounds for task {}", without.join(", "));
                source.error("analysis.normalise.bounds", message);
            }
        }
    }
    if analysis.censoring == Some(Censoring::Worst) {
        for (i, metric) in spec.metrics.iter().enumerate() {
            if metric.primary && metric.range.is_none() {
                source.warn(
                    &format!("metric[{i}]"),
                    format!("censoring = \"worst\" needs the `range` of metric `{}`", metric.name),
                );
            }
        }
    }
    let words: Vec<String> = analysis.figures.iter().map(|f| format!("{f:?}")).collect();
    let words = words.iter().map(String::as_str);
    unique(words, "figure", |i| format!("analysis.figures[{i}]"), source);
}

/// Fewer resamples do not carry a reported interval (7.9).
pub(super) fn resamples(found: u32, path: &str, source: &mut Source) {
    if !(1000..=10_000_000).contains(&found) {
        source.error(path, format!("`{path}`: expected 1000..=10000000, found {found}"));
    }
}

fn provenance(spec: &Spec, source: &mut Source) {
    let names = spec.datasets.iter().map(|d| d.name.as_str());
    unique(names, "data set", |i| format!("dataset[{i}].name"), source);
    let names = spec.assets.iter().map(|a| a.name.as_str());
    unique(names, "asset", |i| format!("asset[{i}].name"), source);
    for (i, dataset) in spec.datasets.iter().enumerate() {
        if let Some(hash) = &dataset.sha256
            && !is_sha256(hash)
        {
            let path = format!("dataset[{i}].sha256");
            let message = format!("`{path}`: expected 64 hexadecimal digits, found {hash:?}");
            source.error(&path, message);
        }
    }
}
