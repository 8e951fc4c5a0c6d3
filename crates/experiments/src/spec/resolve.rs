//! From the document to the resolved spec: profile, defaults, levels, split hashes.

use super::{
    diagnostic::Severity,
    document::{BudgetChange, Exclude, InOrder, Levels, Profile, Program, Spec, Wanted},
    levels,
    resolved::{FULL, Factor, Launch, Resolved, ResolvedTask, Target},
    similar,
    source::{At, Source},
};
use crate::{
    identity::{self, Value},
    split::SplitFile,
};
use std::path::Path;

/// Applies a profile and fills in defaults. Findings go to the source; the result is only
/// meaningful when there was no error.
pub(super) fn resolve(spec: &Spec, profile: &str, folder: &Path, source: &mut Source) -> Resolved {
    let change = match spec.profiles.get(profile) {
        Some(change) => change.clone(),
        None if profile == FULL => Profile::default(),
        None => {
            let declared = spec.profiles.keys().map(String::as_str);
            let known: Vec<&str> = declared.chain([FULL]).collect();
            let message = format!("no [profiles.{profile}], found {}", known.join(", "));
            let help = similar::advice(profile, known.iter().copied());
            source.find("profiles", At::Key, Severity::Error, message, help);
            Profile::default()
        }
    };
    let mut repetitions = spec.repetitions.clone();
    repetitions.count = change.repetitions.unwrap_or(repetitions.count);
    let mut budget = spec.budget.clone();
    if let Some(change) = &change.budget {
        change.apply(&mut budget);
    }
    let mut tuning = spec.tuning.clone();
    if let (Some(tuning), Some(change)) = (&mut tuning, &change.tuning) {
        tuning.configurations = change.configurations.unwrap_or(tuning.configurations);
        tuning.repetitions = change.repetitions.unwrap_or(tuning.repetitions);
        tuning.amount = change.amount.or(tuning.amount);
    }
    let mut analysis = spec.analysis.clone();
    analysis.ci.resamples = change.resamples.unwrap_or(analysis.ci.resamples);
    let factors = factors(&spec.factors, &change.factors, profile, source);
    Resolved {
        id: spec.id.clone(),
        title: spec.title.clone(),
        question: spec.question.clone(),
        kind: spec.kind,
        meta: spec.meta,
        version: spec.version,
        crate_name: spec.crate_name.clone(),
        profile: profile.to_owned(),
        profiles: spec.profiles.keys().cloned().collect(),
        program: launch(&spec.program, source),
        order: spec.order,
        max_trials: spec.max_trials,
        hypotheses: spec.hypotheses.clone(),
        methods: spec.methods.clone(),
        tasks: tasks(spec, &change, folder, source),
        exclude: spec.exclude.iter().map(|rule| in_types(rule, &factors)).collect(),
        factors,
        repetitions,
        budget,
        metrics: spec.metrics.clone(),
        tuning,
        ablation: spec.ablation.clone(),
        analysis,
        attest: spec.attest.clone(),
        assets: spec.assets.clone(),
        datasets: spec.datasets.clone(),
        folder: folder.to_owned(),
        text: source.text().to_owned(),
        warnings: Vec::new(),
    }
}

impl BudgetChange {
    pub(super) fn apply(&self, budget: &mut super::document::Budget) {
        budget.amount = self.amount.unwrap_or(budget.amount);
        budget.wall_seconds = self.wall_seconds.unwrap_or(budget.wall_seconds);
        budget.cpu_seconds = self.cpu_seconds.or(budget.cpu_seconds);
        budget.memory_mib = self.memory_mib.or(budget.memory_mib);
        budget.grace_seconds = self.grace_seconds.unwrap_or(budget.grace_seconds);
        budget.threads = self.threads.unwrap_or(budget.threads);
        budget.gpu_share = self.gpu_share.unwrap_or(budget.gpu_share);
        if let Some(device) = &self.device {
            budget.device.clone_from(device);
        }
    }
}

fn factors(
    declared: &InOrder<Levels>,
    changed: &InOrder<Levels>,
    profile: &str,
    source: &mut Source,
) -> Vec<Factor> {
    let mut factors = Vec::with_capacity(declared.len());
    for (name, written) in declared.iter() {
        let (path, written) = match changed.get(name) {
            Some(other) => (format!("profiles.{profile}.factors.{name}"), other),
            None => (format!("factors.{name}"), written),
        };
        let levels = match levels::expand(written) {
            Ok(levels) => levels,
            Err(message) => {
                if !source.is_poisoned(&path) {
                    source.error(&path, format!("factor `{name}`: {message}"));
                }
                Vec::new()
            }
        };
        // a level that could not be read stands there as a placeholder
        let readable = !source.is_poisoned(&path);
        for (i, level) in levels.iter().enumerate() {
            if readable && levels[..i].contains(level) {
                source.error(
                    &format!("{path}[{i}]"),
                    format!("factor `{name}`: level `{level}` appears more than once"),
                );
            }
        }
        factors.push(Factor { name: name.to_owned(), levels });
    }
    factors
}

fn tasks(spec: &Spec, change: &Profile, folder: &Path, source: &mut Source) -> Vec<ResolvedTask> {
    let stays =
        |name: &str| change.tasks.as_ref().is_none_or(|kept| kept.iter().any(|k| k == name));
    let mut tasks = Vec::new();
    for (i, task) in spec.tasks.iter().enumerate() {
        let split_sha256 = task.split.as_ref().and_then(|relative| {
            let path = folder.join(relative);
            match std::fs::read(&path) {
                Ok(bytes) => Some(identity::sha256_hex(&bytes)),
                Err(error) => {
                    source.error(
                        &format!("task[{i}].split"),
                        format!("task `{}`: cannot read {}: {error}", task.name, path.display()),
                    );
                    None
                }
            }
        });
        if stays(&task.name) {
            let file = task.split.as_ref().and_then(|p| SplitFile::read(folder.join(p)).ok());
            let split_parts = file.as_ref().map(SplitFile::parts).unwrap_or_default();
            let named = file.iter().flat_map(|file| &file.datasets).filter(|d| !d.generated);
            let split_datasets = named.map(|d| d.name.clone()).collect();
            let task = task.clone();
            tasks.push(ResolvedTask { task, split_sha256, split_parts, split_datasets });
        }
    }
    tasks
}

fn launch(program: &Program, source: &mut Source) -> Launch {
    let cargo = [
        ("package", program.package.is_some()),
        ("example", program.example.is_some()),
        ("bin", program.bin.is_some()),
        ("features", !program.features.is_empty()),
        ("profile", program.profile.is_some()),
    ];
    if let Some(command) = &program.command {
        for (key, _) in cargo.iter().filter(|(_, given)| *given) {
            source.error(
                &format!("program.{key}"),
                format!("`program` has `command`, so `{key}` means nothing: give one or the other"),
            );
        }
        if command.first().is_none_or(String::is_empty) {
            source.error("program.command", "expected a program and its arguments, found none");
        }
        return Launch::Command(command.clone());
    }
    let target = match (&program.example, &program.bin) {
        (Some(example), None) => Some(Target::Example(example.clone())),
        (None, Some(bin)) => Some(Target::Bin(bin.clone())),
        _ => None,
    };
    if let (Some(package), Some(target)) = (&program.package, target) {
        let profile = program.profile.clone().unwrap_or_else(|| "release".into());
        let features = program.features.clone();
        return Launch::Cargo { package: package.clone(), target, features, profile };
    }
    source.error_with(
        "program",
        "expected `package` with one of `example` and `bin`, or `command`",
        "program = { package = \"my-crate\", example = \"trial\" } \
         or program = { command = [\"python3\", \"trial.py\"] }"
            .into(),
    );
    Launch::Command(Vec::new())
}

/// A rule with its values in the types of the factors, so that 1 excludes the level 1.0.
fn in_types(rule: &Exclude, factors: &[Factor]) -> Exclude {
    let mut rule = rule.clone();
    for (name, wanted) in &mut rule.condition {
        let like = factors.iter().find(|f| f.name == *name).and_then(|f| f.levels.first());
        let Some(like) = like else { continue };
        let typed = |value: &mut Value| *value = value.clone().in_type_of(like);
        match wanted {
            Wanted::One(value) => typed(value),
            Wanted::Any(values) => values.iter_mut().for_each(typed),
        }
    }
    rule
}
