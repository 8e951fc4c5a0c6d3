//! Experimental design: D1 to D12.

use super::{
    Evidence,
    Group::Design,
    Item,
    Level::{Must, Should},
    Verdict, item,
};
use crate::{
    plan::{Balance, PlannedTrial, Stage},
    spec::{MetaRole, Role, Split},
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ITEMS: &[Item] = &[
    item("D1", Must, Design, "A simple and a strong baseline", baselines),
    item("D2", Must, Design, "Random search among the baselines", random_search),
    item("D3", Must, Design, "Equal tuning effort", tuning_effort),
    item("D4", Must, Design, "Paired design", paired),
    item("D5", Must, Design, "Separate train, validation and test", splits),
    item("D6", Must, Design, "Meta-level separation", meta_level),
    item("D7", Must, Design, "Repetitions justified", repetitions),
    item("D8", Should, Design, "Benchmark choice motivated", benchmarks),
    item("D9", Must, Design, "Budget declared in one unit, with limits", budget),
    item("D10", Should, Design, "Ablation or factor study planned", ablation),
    item("D11", Must, Design, "Exclusions declared in advance", exclusions),
    item("D12", Should, Design, "Budget justified", budget_reason),
];

fn said(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.trim().is_empty())
}

fn baselines(e: &Evidence) -> Verdict {
    let of = |role| e.spec.with_role(role).map(|m| m.name.as_str()).collect::<Vec<_>>();
    let (simple, strong) = (of(Role::BaselineSimple), of(Role::BaselineStrong));
    let yes = format!("simple: {}; strong: {}", simple.join(", "), strong.join(", "));
    let no = format!("{} simple and {} strong baselines", simple.len(), strong.len());
    Verdict::when(!simple.is_empty() && !strong.is_empty(), yes, no)
}

fn random_search(e: &Evidence) -> Verdict {
    if !e.spec.meta {
        return Verdict::NotApplicable("meta = false".into());
    }
    let found = e.spec.methods.iter().find(|m| m.random_search && m.role.is_baseline());
    match found {
        Some(method) => Verdict::Satisfied(method.name.clone()),
        None => Verdict::Violated("no baseline has random_search = true".into()),
    }
}

fn tuning_effort(e: &Evidence) -> Verdict {
    let Some(tuning) = &e.spec.tuning else {
        return Verdict::NotApplicable("no [tuning]: no method is tuned here".into());
    };
    let results = e.results(Stage::Tune);
    if results.is_empty() {
        return if e.has_results() {
            Verdict::Violated("the main stage ran without the declared tuning".into())
        } else {
            Verdict::NotApplicable("stage tune has not run yet".into())
        };
    }
    // configurations tried times the budget that each of them got
    let asked = e.spec.budget_request(Stage::Tune).amount;
    let mut configurations: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut effort: BTreeMap<&str, f64> = BTreeMap::new();
    for method in &e.spec.methods {
        configurations.insert(&method.name, BTreeSet::new());
        effort.insert(&method.name, 0.0);
    }
    for (trial, attempt) in results {
        let values: Vec<String> =
            tuning.space.keys().map(|k| format!("{:?}", trial.cell.get(k))).collect();
        configurations.entry(&trial.method).or_default().insert(values.join(";"));
        *effort.entry(&trial.method).or_default() += attempt.budget_used.unwrap_or(asked);
    }
    let least = effort.values().copied().fold(f64::INFINITY, f64::min);
    let most = effort.values().copied().fold(0.0, f64::max);
    let counts: BTreeSet<usize> = configurations.values().map(BTreeSet::len).collect();
    let facts: Vec<String> = effort
        .iter()
        .map(|(m, used)| format!("{m}: {} configurations, {used} used", configurations[m].len()))
        .collect();
    let equal = counts.len() == 1 && most - least <= 0.01 * most;
    Verdict::when(equal, facts.join("; "), facts.join("; "))
}

fn paired(e: &Evidence) -> Verdict {
    let stored: Vec<PlannedTrial> = e
        .rows(e.stage())
        .map(|t| PlannedTrial {
            key: t.key.clone(),
            ord: t.ord,
            stage: t.stage,
            cell: t.cell.clone(),
            method: t.method.clone(),
            task: t.task.clone(),
            rep: t.rep,
            seeds: t.seeds.clone(),
        })
        .collect();
    let trials = if stored.is_empty() { &e.plan } else { &stored };
    if trials.is_empty() {
        return Verdict::NotApplicable("the main plan waits for stage tune".into());
    }
    let without: Vec<String> = e
        .spec
        .methods
        .iter()
        .filter(|m| !trials.iter().any(|t| t.method == m.name))
        .map(|m| m.name.clone())
        .collect();
    if !without.is_empty() {
        return Verdict::unless(&without, "", "methods without any trial");
    }
    // hyper-parameters tuned per method differ by intent; the pairing is by task and repetition
    let searched: Vec<&String> = e.spec.tuning.iter().flat_map(|t| t.space.keys()).collect();
    let mut conditions = trials.clone();
    for trial in &mut conditions {
        for name in &searched {
            trial.cell.remove(*name);
        }
    }
    let balance = Balance::of(&conditions);
    let mut faults: Vec<String> = balance
        .gaps
        .iter()
        .map(|g| format!("{} #{} lacks {}", g.task, g.rep, g.missing.join(" and ")))
        .collect();
    faults.extend(balance.seed_mismatches.iter().map(|(t, r)| format!("{t} #{r}: seeds differ")));
    let yes = format!("{} trials, equal tasks, repetitions and seeds", trials.len());
    Verdict::unless(&faults, yes, "unpaired")
}

fn splits(e: &Evidence) -> Verdict {
    let mut needed: BTreeSet<Split> =
        e.spec.metrics.iter().map(|m| m.split).filter(|s| *s != Split::None).collect();
    if needed.is_empty() {
        return Verdict::NotApplicable("no metric is measured on data".into());
    }
    needed.insert(Split::Train);
    if e.spec.tuning.is_some() {
        needed.insert(Split::Validation);
    }
    let mut missing = Vec::new();
    for task in &e.spec.tasks {
        let name = &task.task.name;
        if task.split_sha256.is_none() {
            missing.push(format!("{name} has no split file"));
            continue;
        }
        let absent = needed.iter().filter(|s| !task.split_parts.contains(s));
        missing.extend(absent.map(|s| format!("{name} has no {} part", s.word())));
    }
    let yes = format!("{} split files, hashed and disjoint", e.spec.tasks.len());
    Verdict::unless(&missing, yes, "not separated")
}

fn meta_level(e: &Evidence) -> Verdict {
    if !e.spec.meta {
        return Verdict::NotApplicable("meta = false".into());
    }
    let of = |role: Option<MetaRole>| {
        let tasks = e.spec.tasks.iter().filter(move |t| t.task.meta_role == role);
        tasks.map(|t| t.task.name.clone()).collect::<Vec<_>>()
    };
    let unsaid = of(None);
    if !unsaid.is_empty() {
        return Verdict::unless(&unsaid, "", "tasks without `meta_role`");
    }
    let (train, test) = (of(Some(MetaRole::MetaTrain)), of(Some(MetaRole::MetaTest)));
    if test.is_empty() {
        return Verdict::Violated("no task is meta-test".into());
    }
    let mixed: Vec<String> = e
        .rows(Stage::Tune)
        .filter(|t| test.contains(&t.task))
        .map(|t| t.task.clone())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let yes = format!("meta-train: {}; meta-test: {}", train.join(", "), test.join(", "));
    Verdict::unless(&mixed, yes, "meta-test tasks were tuned on")
}

fn repetitions(e: &Evidence) -> Verdict {
    let count = e.spec.repetitions.count;
    if let Some(reason) = e.spec.repetitions.reason.as_ref().filter(|r| !r.trim().is_empty()) {
        return Verdict::Satisfied(format!("{count}: {reason}"));
    }
    let suggested = e.events_of("pilot").filter_map(|event| {
        event.detail_json.get("suggested_repetitions").and_then(serde_json::Value::as_u64)
    });
    match suggested.last() {
        Some(n) => Verdict::when(
            count >= 5 && u64::from(count) >= n,
            format!("{count}; the pilot suggests {n}"),
            format!("{count}; the pilot suggests {n}, and no reason is given"),
        ),
        None => {
            Verdict::Violated(format!("{count}, without a reason or a power estimate of a pilot"))
        }
    }
}

fn benchmarks(e: &Evidence) -> Verdict {
    let silent = e.spec.tasks.iter().filter(|t| !said(t.task.why.as_ref()));
    let mut missing: Vec<String> =
        silent.map(|t| format!("{} has no `why`", t.task.name)).collect();
    if baselines(e).is_violated() {
        missing.push("difficulty is not shown by a weak and a strong baseline".into());
    }
    Verdict::unless(&missing, "every task has a reason", "not motivated")
}

fn budget(e: &Evidence) -> Verdict {
    let budget = &e.spec.budget;
    let (amount, unit, wall) = (budget.amount, budget.unit.word(), budget.wall_seconds);
    match budget.memory_mib {
        Some(mib) => Verdict::Satisfied(format!("{amount} {unit}, {wall} s, {mib} MiB")),
        None => Verdict::Violated(format!("{amount} {unit}, {wall} s, no memory limit")),
    }
}

fn ablation(e: &Evidence) -> Verdict {
    let varied = e.spec.factors.iter().filter(|f| f.levels.len() >= 2);
    let varied: Vec<&str> = varied.map(|f| f.name.as_str()).collect();
    if let Some(ablation) = &e.spec.ablation {
        return Verdict::Satisfied(format!("ablation of {}", ablation.parameters.join(", ")));
    }
    let no = format!("no [ablation], and {} varied factors", varied.len());
    Verdict::when(varied.len() >= 2, format!("factors {}", varied.join(", ")), no)
}

fn exclusions(e: &Evidence) -> Verdict {
    let rules = &e.spec.exclude;
    let silent = rules.iter().enumerate().filter(|(_, r)| !said(r.reason.as_ref()));
    let silent: Vec<String> = silent.map(|(i, _)| format!("rule {}", i + 1)).collect();
    if !silent.is_empty() {
        return Verdict::unless(&silent, "", "without a reason");
    }
    let late = match &e.frozen {
        Some(frozen) => rules
            .iter()
            .filter(|r| !frozen.exclude.iter().any(|old| old.condition == r.condition))
            .count(),
        None => 0,
    };
    let listed = e.report.as_ref().and_then(|r| r.deviations.as_ref());
    let listed = listed.map(|d| d.iter().filter(|path| path.starts_with("exclude")).count());
    match (late, listed) {
        (0, _) => Verdict::Satisfied(format!("{} rules, none after a freeze", rules.len())),
        (late, None) => {
            Verdict::Violated(format!("{late} rules added after the freeze, not yet in a report"))
        }
        (late, Some(listed)) => Verdict::when(
            listed >= late,
            format!("{late} rules added after the freeze, listed in the report"),
            format!("{late} rules added after the freeze, {listed} listed in the report"),
        ),
    }
}

fn budget_reason(e: &Evidence) -> Verdict {
    match e.spec.budget.why.as_ref().filter(|why| !why.trim().is_empty()) {
        Some(why) => Verdict::Satisfied(why.clone()),
        None => Verdict::Violated("no `budget.why`".into()),
    }
}
