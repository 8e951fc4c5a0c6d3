//! `[profiles.*]`: every profile of the file, not only the one that is asked for.

use super::{design, known, measure::resamples, positive};
use crate::spec::{
    document::{Budget, Spec},
    levels,
    resolved::FULL,
    source::Source,
};

/// Words that stand for other things in trial keys.
const TAKEN: [&str; 5] = [FULL, "main", "tune", "ablation", "replay"];

pub(super) fn check(spec: &Spec, source: &mut Source) {
    for (name, profile) in &spec.profiles {
        let path = format!("profiles.{name}");
        let at = |key: &str| format!("{path}.{key}");
        let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !fits {
            source.error(&path, format!("profile `{name}`: expected a name like [a-z][a-z0-9-]*"));
        }
        if TAKEN.contains(&name.as_str()) {
            source.error(&path, format!("profile `{name}`: the name is reserved"));
        }
        if profile.repetitions == Some(0) {
            source.error(
                &at("repetitions"),
                format!("`{path}.repetitions`: expected at least 1, found 0"),
            );
        }
        if let Some(found) = profile.resamples {
            resamples(found, &at("resamples"), source);
        }
        if let Some(change) = &profile.budget {
            // only what the profile says is judged here; the rest is judged at [budget]
            let mut alone = Budget {
                amount: 1.0,
                wall_seconds: 1.0,
                cpu_seconds: None,
                memory_mib: None,
                output_mib: 1,
                grace_seconds: 0.0,
                threads: 1,
                gpu_share: 1,
                max_attempts: 1,
                device: "cpu".into(),
                ..spec.budget.clone()
            };
            change.apply(&mut alone);
            design::budget(&at("budget"), &alone, source);
        }
        if let Some(tasks) = &profile.tasks {
            if tasks.is_empty() {
                source.error(&at("tasks"), format!("`{path}.tasks`: expected at least one task"));
            }
            for (i, task) in tasks.iter().enumerate() {
                let names = spec.tasks.iter().map(|t| t.name.as_str());
                known(task, names, "task", &at(&format!("tasks[{i}]")), "task", source);
            }
        }
        for (factor, written) in profile.factors.iter() {
            let path = at(&format!("factors.{factor}"));
            let names = spec.factors.iter().map(|(name, _)| name);
            known(factor, names, "factor", &path, "factors", source);
            if let Err(message) = levels::expand(written)
                && !source.is_poisoned(&path)
            {
                source.error(&path, format!("factor `{factor}`: {message}"));
            }
        }
        if let Some(tuning) = &profile.tuning {
            if spec.tuning.is_none() {
                source.error(&at("tuning"), "the file has no [tuning] to change");
            }
            for (key, found) in
                [("configurations", tuning.configurations), ("repetitions", tuning.repetitions)]
            {
                if found == Some(0) {
                    let path = at(&format!("tuning.{key}"));
                    source.error(&path, format!("`{path}`: expected at least 1, found 0"));
                }
            }
            if let Some(amount) = tuning.amount {
                positive(amount, 1e30, &at("tuning.amount"), source);
            }
        }
    }
}
