//! What may change after trials exist, and what may not (specification, section 4.4).

use super::resolved::Resolved;
use crate::identity::{Cell, IdentityError, Value, flatten};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One difference between two resolved specs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What changed, such as `budget.amount` or `method old`.
    pub path: String,
    /// Earlier value; `None` when it is new.
    pub before: Option<String>,
    /// Later value; `None` when it is gone.
    pub after: Option<String>,
    /// What follows for trials that exist.
    pub effect: Effect,
}

/// What a change does to trials that exist.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing: analysis, words, or cells that are new.
    Free,
    /// Some of them leave the design: they stay in the store as retired.
    Retires,
    /// They would mean something else: refused without a new version.
    Refused,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
        write!(f, "{}: {} -> {}", self.path, shown(&self.before), shown(&self.after))
    }
}

/// Parts of a spec whose change alters the meaning of finished trials.
const MEANING: [&str; 11] = [
    "id",
    "profile",
    "program",
    "budget",
    "metrics",
    "tuning",
    "ablation",
    "meta",
    "repetitions.root_seed",
    "repetitions.block",
    "repetitions.streams",
];

/// Entries below [`MEANING`] that are words for people or rules of the runner.
const WORDS: [&str; 2] = ["budget.why", "budget.max_attempts"];

/// Entries of a metric that change no value.
const METRIC_WORDS: [&str; 3] = [".label", ".unit", ".tolerance"];

/// All differences between an earlier and a later spec, in the order of their paths. Lists of named
/// things (methods, tasks, metrics, levels, hypotheses) are compared by name, so that appending one
/// is one difference.
///
/// When the later spec has a higher version nothing is refused: its trials have keys of their own.
///
/// # Errors
/// When a spec holds a number that is not finite.
pub fn changes(before: &Resolved, after: &Resolved) -> Result<Vec<Change>, IdentityError> {
    let (old, new) = (leaves(before)?, leaves(after)?);
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let (was, is) = (old.get(path), new.get(path));
        if was == is {
            continue;
        }
        let effect = match effect(path, &old, &new) {
            Effect::Refused if after.version > before.version => Effect::Free,
            effect => effect,
        };
        let shown = |value: Option<&Value>| value.map(Value::to_string);
        found.push(Change { path: path.clone(), before: shown(was), after: shown(is), effect });
    }
    Ok(found)
}

fn effect(path: &str, old: &Cell, new: &Cell) -> Effect {
    let below = |root: &str| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let (was, is) = (old.get(path), new.get(path));
    let gone = was.is_some() && is.is_none();
    if below("factors") {
        return if gone { Effect::Retires } else { Effect::Free };
    }
    if below("methods") || below("tasks") {
        // the name leaves with the thing; a changed role or label moves no trial
        return if gone && owner(path, old) == Some(path) { Effect::Retires } else { Effect::Free };
    }
    if path == "repetitions.count" {
        let less = matches!((was, is), (Some(Value::Int(was)), Some(Value::Int(is))) if is < was);
        return if less { Effect::Retires } else { Effect::Free };
    }
    if below("exclude") {
        return if was.is_none() { Effect::Retires } else { Effect::Free };
    }
    if let Some(task) = path.strip_prefix("splits.") {
        let name = format!("tasks.{task}");
        let stays = old.contains_key(&name) && new.contains_key(&name);
        return if stays { Effect::Refused } else { Effect::Free };
    }
    if below("metrics") && owner(path, old).is_none() {
        // an optional new metric asks nothing of trials that are done; a required one does
        let metric = owner(path, new).unwrap_or(path);
        let required = new.get(&format!("{metric}.required")) == Some(&Value::Bool(true));
        return if required { Effect::Refused } else { Effect::Free };
    }
    let words = WORDS.contains(&path)
        || below("metrics") && METRIC_WORDS.iter().any(|word| path.ends_with(word));
    if !words && MEANING.iter().any(|root| below(root)) { Effect::Refused } else { Effect::Free }
}

/// Path of the named thing that a leaf belongs to: the prefix whose leaf holds its own name.
fn owner<'a>(path: &'a str, leaves: &Cell) -> Option<&'a str> {
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end]).find(|prefix| match leaves.get(*prefix) {
        Some(Value::Text(name)) => prefix.split_once('.').is_some_and(|(_, n)| n == name),
        _ => false,
    })
}

/// Leaves of a spec with named things under their names instead of their places.
fn leaves(spec: &Resolved) -> Result<Cell, IdentityError> {
    let mut json = serde_json::to_value(spec).map_err(|e| IdentityError::Form(e.to_string()))?;
    let mut named = BTreeMap::new();
    for (list, key) in [
        ("methods", "name"),
        ("tasks", "name"),
        ("metrics", "name"),
        ("hypotheses", "id"),
        ("assets", "name"),
        ("datasets", "name"),
    ] {
        let entries = json[list].take();
        for entry in entries.as_array().into_iter().flatten() {
            let name = entry[key].as_str().unwrap_or_default();
            named.insert(format!("{list}.{name}"), entry.clone());
        }
    }
    // one line per level and per rule, so that appending either is one difference
    let factors = json["factors"].take();
    let rules = json["exclude"].take();
    let mut leaves = flatten(&json)?;
    for (path, mut entry) in named {
        if path.starts_with("tasks.") {
            for key in ["split_sha256", "split"] {
                let value = entry[key].take();
                if let (Some(text), "split_sha256") = (value.as_str(), key) {
                    let task = path.trim_start_matches("tasks.");
                    leaves.insert(format!("splits.{task}"), Value::Text(text.to_owned()));
                }
            }
            // both follow from the split file
            entry["split_parts"].take();
            entry["split_datasets"].take();
        }
        for (inner, value) in flatten(&entry)? {
            let bare = inner == "name" || inner == "id";
            leaves.insert(if bare { path.clone() } else { format!("{path}.{inner}") }, value);
        }
    }
    for factor in factors.as_array().into_iter().flatten() {
        let name = factor["name"].as_str().unwrap_or_default();
        for level in factor["levels"].as_array().into_iter().flatten() {
            let path = format!("factors.{name}.{level}");
            leaves.insert(path, Value::Text(level.to_string()));
        }
    }
    for rule in rules.as_array().into_iter().flatten() {
        let reason = rule["reason"].as_str().unwrap_or_default().to_owned();
        leaves.insert(format!("exclude.{}", rule["where"]), Value::Text(reason));
    }
    // follows from the declared profiles, which are no part of this one
    leaves.retain(|path, _| !path.starts_with("profiles."));
    Ok(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{FULL, read};
    use std::path::Path;

    fn resolved(edit: impl Fn(String) -> String) -> Resolved {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spec");
        let text = std::fs::read_to_string(folder.join("complete.toml")).unwrap();
        read(&edit(text), Path::new("experiment.toml"), &folder, FULL, false).unwrap()
    }

    /// Differences after replacing a text that must be there.
    fn edited(from: &str, to: &str) -> Vec<Change> {
        let after = resolved(|text| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        changes(&resolved(|text| text), &after).unwrap()
    }

    fn worst(from: &str, to: &str) -> Effect {
        let found = edited(from, to);
        assert!(!found.is_empty(), "{from} -> {to}");
        found.iter().map(|c| c.effect).max().unwrap()
    }

    #[test]
    fn equal_specs_do_not_differ() {
        assert_eq!(changes(&resolved(|t| t), &resolved(|t| t)).unwrap(), []);
    }

    #[test]
    fn growth_and_words_are_free() {
        let new_method = "[[method]]\nname = \"another\"\nrole = \"baseline\"\n\n[[task]]";
        let new_task = "[[task]]\nname = \"moons\"\nsplit = \"data/spiral.split.toml\"\n[factors]";
        for (from, to) in [
            ("count = 10", "count = 20"),
            ("lr = [0.001, 0.003]", "lr = [0.001, 0.003, 0.01]"),
            ("[[task]]", new_method),
            ("limits = \"...\"", "limits = \"small networks\""),
            ("correction = \"holm\"", "correction = \"bh\""),
            ("figures = [\"intervals\", ", "figures = ["),
            ("why = \"loss flat after 15k in pilot\"", "why = \"measured\""),
            ("max_attempts = 2", "max_attempts = 3"),
        ] {
            assert_eq!(worst(from, to), Effect::Free, "{from} -> {to}");
        }
        let with_bounds = |text: String| {
            text.replacen("[factors]", new_task, 1).replacen(
                "spiral = [0.0, 0.5]",
                "spiral = [0.0, 0.5], moons = [0.0, 0.5]",
                1,
            )
        };
        let found = changes(&resolved(|t| t), &resolved(with_bounds)).unwrap();
        assert!(found.iter().all(|c| c.effect == Effect::Free), "{found:#?}");
    }

    #[test]
    fn removal_retires() {
        for (from, to) in [
            ("count = 10", "count = 5"),
            ("lr = [0.001, 0.003]", "lr = [0.001]"),
            ("where = { method = \"fixed-final-size\", width = 16 }", "where = { width = 32 }"),
        ] {
            assert_eq!(worst(from, to), Effect::Retires, "{from} -> {to}");
        }
    }

    #[test]
    fn another_meaning_is_refused_without_a_new_version() {
        for (from, to) in [
            ("amount = 20000", "amount = 10000"),
            ("unit = \"steps\"", "unit = \"epochs\""),
            ("memory_mib = 4096", "memory_mib = 2048"),
            ("root_seed = 42", "root_seed = 43"),
            ("block = [\"task\"]", "block = [\"task\", \"width\"]"),
            ("example = \"trial\"", "example = \"other\""),
            ("range = [0, 1]", "range = [0, 2]"),
            ("split = \"validation\"", "split = \"train\""),
            ("id = \"growth-spiral\"", "id = \"growth\""),
            (
                "curve = true",
                "curve = true\n[[metric]]\nname = \"x\"\nsplit = \"none\"\nhigher_is_better = true",
            ),
        ] {
            assert_eq!(worst(from, to), Effect::Refused, "{from} -> {to}");
        }
        let optional = "curve = true\n[[metric]]\nname = \"x\"\nsplit = \"none\"\n\
                        higher_is_better = true\nrequired = false";
        assert_eq!(worst("curve = true", optional), Effect::Free);
        let newer = resolved(|text| {
            text.replacen("version = 1", "version = 2", 1).replacen(
                "amount = 20000",
                "amount = 1",
                1,
            )
        });
        let found = changes(&resolved(|t| t), &newer).unwrap();
        assert!(found.iter().any(|c| c.path == "budget.amount"));
        assert!(found.iter().all(|c| c.effect != Effect::Refused), "{found:#?}");
    }
}
