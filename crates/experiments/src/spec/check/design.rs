//! Methods, tasks, factors, exclusions, repetitions, budget.

use super::{is_parameter, known, parameter_name, plain_name, positive, unique};
use crate::{
    identity::Value,
    plan,
    spec::{
        document::{Budget, Exclude, Spec},
        levels,
        measure::MetricKind,
        resolved::{FULL, Factor, Resolved},
        similar,
        source::Source,
    },
    split::SplitFile,
};

/// Ten years: beyond every experiment, far below where clocks overflow.
const MOST_SECONDS: f64 = 3.2e8;
/// A pebibyte.
const MOST_MIB: u64 = 1 << 30;

pub(super) fn check(spec: &Spec, source: &mut Source) {
    lists(spec, source);
    for (name, _) in spec.factors.iter() {
        parameter_name(name, "factor", &format!("factors.{name}"), source);
    }
    repetitions(spec, source);
    for (i, task) in spec.tasks.iter().enumerate() {
        let Some(split) = &task.split else { continue };
        // a file that cannot be read is reported where its hash is taken
        let folder = source.folder();
        if let Err(error) = SplitFile::read(folder.join(split)) {
            let findings = error.diagnostics().to_vec();
            if !findings.is_empty() {
                let (name, file) = (&task.name, split.display());
                source.error(
                    &format!("task[{i}].split"),
                    format!("task `{name}`: {file} is not a valid split file"),
                );
                source.adopt(findings);
            }
        }
    }
}

fn lists(spec: &Spec, source: &mut Source) {
    for (list, empty) in [
        ("method", spec.methods.is_empty()),
        ("task", spec.tasks.is_empty()),
        ("metric", spec.metrics.is_empty()),
    ] {
        if empty {
            source.error(list, format!("expected at least one [[{list}]], found none"));
        }
    }
    let methods: Vec<&str> = spec.methods.iter().map(|m| m.name.as_str()).collect();
    let tasks: Vec<&str> = spec.tasks.iter().map(|t| t.name.as_str()).collect();
    for (what, names) in [("method", methods), ("task", tasks)] {
        for (i, name) in names.iter().enumerate() {
            plain_name(name, what, &format!("{what}[{i}].name"), source);
        }
        unique(names, what, |i| format!("{what}[{i}].name"), source);
    }
}

fn repetitions(spec: &Spec, source: &mut Source) {
    let repetitions = &spec.repetitions;
    if repetitions.count == 0 {
        source.error("repetitions.count", "`repetitions.count`: expected at least 1, found 0");
    }
    let streams = repetitions.streams.iter().map(String::as_str);
    unique(streams, "stream", |i| format!("repetitions.streams[{i}]"), source);
    for (i, stream) in repetitions.streams.iter().enumerate() {
        if !is_parameter(stream) {
            source.error(
                &format!("repetitions.streams[{i}]"),
                format!("stream `{stream}`: expected a name like [a-z][a-z0-9_]*"),
            );
        }
    }
    let block = repetitions.block.iter().map(String::as_str);
    unique(block, "block factor", |i| format!("repetitions.block[{i}]"), source);
    for (i, name) in repetitions.block.iter().enumerate() {
        let path = format!("repetitions.block[{i}]");
        if name == "method" {
            source.error_with(
                &path,
                "`method` cannot enter the seed: methods would meet different noise",
                "leave it out; the comparison is paired because all methods share their seeds"
                    .into(),
            );
            continue;
        }
        let factors = spec.factors.iter().map(|(name, _)| name);
        known(name, factors.chain(["task"]), "factor", &path, "factors", source);
    }
}

/// Checks `[[exclude]]` against the levels of the whole file and against the resolved cells.
pub(super) fn exclusions(spec: &Spec, resolved: &Resolved, source: &mut Source) {
    let dimensions = resolved.dimensions();
    let searched: Vec<&str> =
        spec.tuning.iter().flat_map(|t| t.space.keys().map(String::as_str)).collect();
    let mut sound = true;
    for (i, rule) in resolved.exclude.iter().enumerate() {
        let path = format!("exclude[{i}]");
        let written = &spec.exclude[i];
        if written.reason.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
            source.error(&format!("{path}.reason"), "expected a reason, found an empty text");
        }
        if rule.condition.is_empty() {
            source
                .error(&format!("{path}.where"), "the rule has no condition: it matches all cells");
            sound = false;
            continue;
        }
        for (name, wanted) in &rule.condition {
            let path = format!("{path}.where.{name}");
            let names = dimensions.iter().map(|d| d.name.as_str()).chain(searched.clone());
            known(name, names, "factor", &path, "factors", source);
            let Some(levels) = all_levels(spec, &dimensions, name) else { continue };
            for value in wanted.values() {
                if !levels.contains(value) && !source.is_poisoned(name) {
                    let shown: Vec<String> = levels.iter().map(Value::to_string).collect();
                    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
                    let message = format!("`{path}`: `{name}` has no level `{value}`");
                    match similar::advice(&value.to_string(), shown) {
                        Some(help) => source.error_with(&path, message, help),
                        None => source.error(&path, message),
                    }
                    sound = false;
                }
            }
        }
        // a shorter profile may well have no cell for a rule of the full study
        let none = !rule_meets(rule, &dimensions);
        if sound && none && resolved.profile == FULL && !source.is_poisoned(&path) {
            source.warn(&format!("{path}.where"), format!("the rule {} matches no cell", i + 1));
        }
        if sound && rule_covers(rule, &dimensions) {
            source.error(&format!("{path}.where"), format!("the rule {} matches all cells", i + 1));
            sound = false;
        }
    }
    let count = plan::upper_count(resolved, 1, 1);
    if sound && !resolved.exclude.is_empty() && (1..=20_000).contains(&count) {
        let all =
            plan::factorial(&dimensions).iter().all(|cell| plan::excluded(&resolved.exclude, cell));
        if all {
            source.error("exclude", "the rules together match all cells");
        }
    }
}

/// Levels of a dimension over the base and all profiles; `None` when there is no such dimension.
fn all_levels(spec: &Spec, dimensions: &[Factor], name: &str) -> Option<Vec<Value>> {
    match name {
        "task" => Some(spec.tasks.iter().map(|t| Value::Text(t.name.clone())).collect()),
        _ => {
            let factor = dimensions.iter().find(|d| d.name == name)?;
            let written = spec.profiles.values().filter_map(|p| p.factors.get(name));
            let mut all = factor.levels.clone();
            for levels in written.chain(spec.factors.get(name)) {
                let like = all.first().cloned();
                let more = levels::expand(levels).unwrap_or_default();
                all.extend(more.into_iter().map(|v| match &like {
                    Some(like) => v.in_type_of(like),
                    None => v,
                }));
            }
            Some(all)
        }
    }
}

/// Whether some cell agrees with the rule.
fn rule_meets(rule: &Exclude, dimensions: &[Factor]) -> bool {
    rule.condition.iter().all(|(name, wanted)| {
        let factor = dimensions.iter().find(|d| d.name == *name);
        factor.is_none_or(|d| wanted.values().iter().any(|value| d.levels.contains(value)))
    })
}

/// Whether every cell agrees with the rule.
fn rule_covers(rule: &Exclude, dimensions: &[Factor]) -> bool {
    rule.condition.iter().all(|(name, wanted)| {
        let factor = dimensions.iter().find(|d| d.name == *name);
        factor.is_some_and(|d| {
            !d.levels.is_empty() && d.levels.iter().all(|level| wanted.values().contains(level))
        })
    })
}

pub(super) fn budget(path: &str, budget: &Budget, source: &mut Source) {
    let at = |key: &str| format!("{path}.{key}");
    positive(budget.amount, 1e30, &at("amount"), source);
    positive(budget.wall_seconds, MOST_SECONDS, &at("wall_seconds"), source);
    if let Some(cpu) = budget.cpu_seconds {
        positive(cpu, MOST_SECONDS, &at("cpu_seconds"), source);
    }
    if !(0.0..=MOST_SECONDS).contains(&budget.grace_seconds) {
        let found = budget.grace_seconds;
        source.error(&at("grace_seconds"), format!("expected a number >= 0, found {found}"));
    }
    let whole = [
        ("memory_mib", budget.memory_mib.unwrap_or(1), MOST_MIB),
        ("output_mib", budget.output_mib, MOST_MIB),
        ("threads", u64::from(budget.threads), 4096),
        ("gpu_share", u64::from(budget.gpu_share), 1024),
        ("max_attempts", u64::from(budget.max_attempts), 1000),
    ];
    for (key, found, most) in whole {
        if !(1..=most).contains(&found) {
            let path = at(key);
            source.error(&path, format!("`{path}`: expected 1..={most}, found {found}"));
        }
    }
    let device = budget.device.as_str();
    let numbered = device.strip_prefix("cuda:").is_some_and(|n| n.parse::<u8>().is_ok());
    if !numbered && !["cpu", "cuda", "auto"].contains(&device) {
        let path = at("device");
        let message = format!("`{path}`: expected cpu, cuda, cuda:N or auto, found {device:?}");
        match similar::near(device, ["cpu", "cuda", "auto"]) {
            Some(help) => source.error_with(&path, message, help),
            None => source.error(&path, message),
        }
    }
}

/// A whole-file remark that needs several tables: a timed metric on a shared GPU is no timing.
pub(super) fn timed(spec: &Spec, source: &mut Source) {
    let timed = spec.metrics.iter().position(|m| m.kind == MetricKind::Time);
    if let Some(i) = timed
        && spec.budget.gpu_share > 1
    {
        source.warn(
            &format!("metric[{i}]"),
            "timed trials share a GPU (budget.gpu_share > 1): times depend on the neighbours",
        );
    }
}
