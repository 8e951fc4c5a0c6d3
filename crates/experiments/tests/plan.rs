//! Properties of the expansion of a spec into trials.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use experiments::{
    identity::{Cell, Value, trial_key},
    plan::{self, Balance, Decisions, Outcome, PlanError, PlannedTrial, Selection, Stage},
    spec::{self, FULL, Resolved},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// A spec with the given numbers of methods, tasks, levels and repetitions.
fn spec(methods: usize, tasks: usize, levels: &[usize], reps: u32, rest: &str) -> Resolved {
    use std::fmt::Write as _;
    let mut text = String::from(
        "schema = 1\nid = \"demo\"\ntitle = \"Demo\"\nquestion = \"q\"\nkind = \"exploratory\"\n\
         program = { command = [\"true\"] }\n",
    );
    text.push_str(rest.split("---").next().unwrap_or_default());
    for m in 0..methods {
        write!(text, "[[method]]\nname = \"m{m}\"\nrole = \"baseline\"\n").unwrap();
    }
    for t in 0..tasks {
        write!(text, "[[task]]\nname = \"t{t}\"\n").unwrap();
    }
    text.push_str("[factors]\n");
    for (f, count) in levels.iter().enumerate() {
        writeln!(text, "f{f} = {{ range = {{ start = 0, stop = {count} }} }}").unwrap();
    }
    write!(text, "[repetitions]\ncount = {reps}\nroot_seed = 7\n").unwrap();
    text.push_str(
        "[budget]\nunit = \"steps\"\namount = 1\nwall_seconds = 1\n\
         [[metric]]\nname = \"loss\"\nsplit = \"validation\"\nhigher_is_better = false\n",
    );
    text.push_str(rest.split("---").nth(1).unwrap_or_default());
    spec::read(&text, Path::new("x.toml"), Path::new(""), FULL, false)
        .unwrap_or_else(|e| panic!("{e}"))
}

fn main_plan(spec: &Resolved) -> Vec<PlannedTrial> {
    plan::expand(spec, Stage::Main, &Decisions::default()).unwrap()
}

fn place(trial: &PlannedTrial) -> (String, u32) {
    (format!("{:?}", trial.cell), trial.rep)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_plan_is_complete_unique_and_balanced(
        methods in 1_usize..5,
        tasks in 1_usize..4,
        levels in prop::collection::vec(1_usize..4, 0..3),
        reps in 1_u32..5,
        random: bool,
    ) {
        let order = if random { "order = \"random\"\n" } else { "order = \"spec\"\n" };
        let spec = spec(methods, tasks, &levels, reps, order);
        let trials = main_plan(&spec);
        let cells = methods * tasks * levels.iter().product::<usize>();
        prop_assert_eq!(trials.len(), cells * reps as usize);
        let keys: BTreeSet<_> = trials.iter().map(|t| &t.key).collect();
        prop_assert_eq!(keys.len(), trials.len(), "keys are unique");
        prop_assert!(trials.iter().enumerate().all(|(i, t)| t.ord == i as u64));
        // repetition is the outermost loop, also when shuffled
        prop_assert!(trials.windows(2).all(|pair| pair[0].rep <= pair[1].rep));
        let balance = Balance::of(&trials);
        prop_assert!(balance.is_paired());
        let counts: BTreeSet<u64> = balance.rows.iter().map(|row| row.trials).collect();
        prop_assert_eq!(counts.len(), 1, "every method has the same number on every task");
        for trial in &trials {
            prop_assert!(trial.seeds.values().all(|seed| *seed >= 0));
            prop_assert_eq!(
                &trial.key, &trial_key("demo", &trial.cell, trial.rep).unwrap()
            );
        }
    }

    #[test]
    fn growing_a_study_keeps_its_trials(
        methods in 1_usize..4,
        tasks in 1_usize..3,
        level in 1_usize..4,
        reps in 1_u32..4,
    ) {
        let before = main_plan(&spec(methods, tasks, &[level], reps, ""));
        let after = main_plan(&spec(methods + 1, tasks + 1, &[level + 1], reps + 1, ""));
        let seeds: BTreeMap<_, _> = after.iter().map(|t| (&t.key, &t.seeds)).collect();
        for trial in &before {
            prop_assert_eq!(seeds.get(&trial.key), Some(&&trial.seeds), "{:?}", place(trial));
        }
        // the same study again is the same plan, to the last byte
        prop_assert_eq!(&before, &main_plan(&spec(methods, tasks, &[level], reps, "")));
    }

    #[test]
    fn methods_share_seeds_and_repetitions_do_not(tasks in 1_usize..4, reps in 2_u32..6) {
        let trials = main_plan(&spec(3, tasks, &[2], reps, ""));
        let mut by_block: BTreeMap<(&str, u32), BTreeSet<_>> = BTreeMap::new();
        for trial in &trials {
            by_block.entry((&trial.task, trial.rep)).or_default().insert(&trial.seeds);
        }
        prop_assert!(by_block.values().all(|seeds| seeds.len() == 1));
        let all: BTreeSet<i64> =
            by_block.values().flatten().flat_map(|seeds| seeds.values().copied()).collect();
        prop_assert_eq!(all.len(), tasks * reps as usize * 4, "four streams, all distinct");
    }
}

#[test]
fn the_order_of_the_file_is_tasks_then_factors_then_methods() {
    let spec = spec(2, 2, &[2, 2], 2, "order = \"spec\"\n");
    let shown: Vec<String> = main_plan(&spec)
        .iter()
        .map(|t| format!("{}{}{}{}{}", t.rep, t.task, t.cell["f0"], t.cell["f1"], t.method))
        .collect();
    assert_eq!(shown[..5], ["0t000m0", "0t000m1", "0t001m0", "0t001m1", "0t010m0"]);
    assert_eq!(shown[8], "0t100m0");
    assert_eq!(shown[16], "1t000m0");
}

#[test]
fn random_order_mixes_each_repetition_by_itself() {
    let random = main_plan(&spec(4, 3, &[3], 3, ""));
    let sorted = main_plan(&spec(4, 3, &[3], 3, "order = \"spec\"\n"));
    let places = |trials: &[PlannedTrial], rep| {
        trials.iter().filter(|t| t.rep == rep).map(|t| place(t).0).collect::<Vec<_>>()
    };
    for rep in 0..3 {
        let (mixed, plain) = (places(&random, rep), places(&sorted, rep));
        assert_ne!(mixed, plain);
        assert_eq!(mixed.iter().collect::<BTreeSet<_>>(), plain.iter().collect::<BTreeSet<_>>());
    }
    assert_ne!(places(&random, 0), places(&random, 1));
}

#[test]
fn excluded_cells_are_left_out() {
    let rule = "---[[exclude]]\nwhere = { method = \"m0\", f0 = [1, 2] }\nreason = \"r\"\n";
    let trials = main_plan(&spec(2, 1, &[3], 2, rule));
    assert_eq!(trials.len(), (6 - 2) * 2);
    let left = |t: &PlannedTrial| t.method == "m0" && t.cell["f0"] != Value::Int(0);
    assert!(!trials.iter().any(left));
    // both methods still meet on every task and repetition
    assert!(Balance::of(&trials).is_paired());
    let all = "---[[exclude]]\nwhere = { method = \"m0\", task = \"t0\" }\nreason = \"r\"\n";
    let balance = Balance::of(&main_plan(&spec(2, 2, &[2], 2, all)));
    assert_eq!(balance.gaps.len(), 2);
    assert_eq!(balance.gaps[0].missing, ["m0"]);
}

#[test]
fn stages_and_versions_have_keys_of_their_own() {
    let first = spec(2, 1, &[2], 2, "");
    let keys = |spec: &Resolved, stage| {
        let trials = plan::expand(spec, stage, &Decisions::default()).unwrap();
        trials.into_iter().map(|t| t.key).collect::<BTreeSet<_>>()
    };
    let mut second = first.clone();
    second.version = 2;
    let mut laptop = first.clone();
    laptop.profile = "laptop".into();
    let all = [
        keys(&first, Stage::Main),
        keys(&first, Stage::Smoke),
        keys(&first, Stage::Pilot),
        keys(&second, Stage::Main),
        keys(&laptop, Stage::Main),
    ];
    let total: usize = all.iter().map(BTreeSet::len).sum();
    assert_eq!(all.iter().flatten().collect::<BTreeSet<_>>().len(), total);
}

#[test]
fn a_large_plan_is_refused_before_it_is_made() {
    let mut spec = spec(2, 1, &[2], 1, "");
    spec.repetitions.count = u32::MAX;
    spec.max_trials = 100_000;
    let error = plan::expand(&spec, Stage::Main, &Decisions::default()).unwrap_err();
    let found = 4 * u64::from(u32::MAX);
    assert_eq!(error, PlanError::TooMany { stage: Stage::Main, found, limit: 100_000 });
}

const TUNED: &str = "---[tuning]\nstrategy = \"random\"\nconfigurations = 6\nmetric = \"loss\"\n\
    [tuning.space]\nlr = { log_uniform = [1e-4, 1e-1] }\nwidth = { int_uniform = [4, 9] }\n\
    act = { choice = [\"relu\", \"tanh\"] }\nmix = { uniform = [0.0, 1.0] }\n";

#[test]
fn tuning_tries_the_same_configurations_with_every_method() {
    let spec = spec(3, 2, &[2], 4, TUNED);
    let trials = plan::expand(&spec, Stage::Tune, &Decisions::default()).unwrap();
    assert_eq!(trials.len(), 3 * 2 * 2 * 6);
    let mut by_method: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for trial in &trials {
        let Value::Float(lr) = trial.cell["lr"] else { panic!("lr is a float") };
        let Value::Int(width) = trial.cell["width"] else { panic!("width is whole") };
        assert!((1e-4..=1e-1).contains(&lr) && (4..=9).contains(&width));
        let searched = ["lr", "width", "act", "mix"].map(|n| trial.cell[n].to_string());
        by_method.entry(&trial.method).or_default().insert(searched.join(","));
    }
    let sets: BTreeSet<_> = by_method.values().collect();
    assert_eq!(sets.len(), 1);
    assert_eq!(by_method["m0"].len(), 6);
    // no tuning run shares a seed with a reported one
    let mut fixed = spec.clone();
    fixed.tuning = None;
    let reported: BTreeSet<i64> =
        main_plan(&fixed).iter().flat_map(|t| t.seeds.values().copied()).collect();
    assert!(trials.iter().flat_map(|t| t.seeds.values()).all(|seed| !reported.contains(seed)));
}

#[test]
fn more_configurations_extend_the_search() {
    let mut spec = spec(1, 1, &[], 1, TUNED);
    let few = plan::configurations(7, spec.tuning.as_ref().unwrap());
    spec.tuning.as_mut().unwrap().configurations = 9;
    let more = plan::configurations(7, spec.tuning.as_ref().unwrap());
    assert_eq!(more[..6], few);
    let mut other = spec.tuning.clone().unwrap();
    other.space.remove("act");
    let without = plan::configurations(7, &other);
    assert_eq!(without[3]["lr"], more[3]["lr"], "a parameter draws from its own generator");
}

#[test]
fn a_small_space_is_searched_whole() {
    let small = "---[tuning]\nstrategy = \"random\"\nconfigurations = 4\nmetric = \"loss\"\n\
        space = { a = { choice = [1, 2] }, b = { int_uniform = [0, 1] } }\n";
    let spec = spec(1, 1, &[], 1, small);
    let drawn = plan::configurations(7, spec.tuning.as_ref().unwrap());
    let distinct: BTreeSet<String> = drawn.iter().map(|c| format!("{c:?}")).collect();
    assert_eq!((drawn.len(), distinct.len()), (4, 4));
}

#[test]
fn the_best_configuration_enters_the_main_stage() {
    let spec = spec(2, 2, &[], 2, TUNED);
    let main = || plan::expand(&spec, Stage::Main, &Decisions::default());
    assert!(matches!(main(), Err(PlanError::NotTuned { .. })));
    let trials = plan::expand(&spec, Stage::Tune, &Decisions::default()).unwrap();
    let configurations = plan::configurations(7, spec.tuning.as_ref().unwrap());
    let which = |cell: &Cell| {
        configurations.iter().position(|c| c.iter().all(|(k, v)| cell.get(k) == Some(v))).unwrap()
    };
    // m0 is best with configuration 2; with m1, configuration 4 is best but crashes once
    let outcomes: Vec<Outcome> = trials
        .iter()
        .map(|t| {
            let value = match (t.method.as_str(), which(&t.cell)) {
                ("m0", 2) => Some(0.1),
                ("m1", 4) if t.task == "t1" => None,
                ("m1", 4) => Some(0.0),
                ("m1", 3) => Some(0.2),
                ("m1", 1) => Some(f64::NAN),
                _ => Some(0.5),
            };
            Outcome { cell: t.cell.clone(), value }
        })
        .collect();
    let tuned = plan::select(&spec, &outcomes);
    let chosen: Vec<usize> = tuned.iter().map(|s| which(&s.values)).collect();
    assert_eq!(chosen, [2, 3]);
    assert!(tuned.iter().all(|s: &Selection| s.tried == 6));
    let decisions = Decisions { tuned, flipped: Vec::new() };
    let trials = plan::expand(&spec, Stage::Main, &decisions).unwrap();
    assert_eq!(trials.len(), 2 * 2 * 2);
    for trial in &trials {
        let expected = if trial.method == "m0" { 2 } else { 3 };
        assert_eq!(which(&trial.cell), expected);
    }
    // smoke and pilot need no search: they take the middle of the space
    let pilot = plan::expand(&spec, Stage::Pilot, &Decisions::default()).unwrap();
    assert!(pilot.iter().all(|t| t.cell["mix"] == Value::Float(0.5)));
}

fn ablated(parameters: usize) -> Resolved {
    let names: Vec<String> = (0..parameters).map(|i| format!("\"p{i}\"")).collect();
    let table = format!(
        "---[ablation]\nsource = \"m0\"\ntarget = \"m1\"\nparameters = [{}]\n",
        names.join(", ")
    );
    spec(2, 1, &[], 2, &table)
}

#[test]
fn few_parameters_are_ablated_in_all_combinations() {
    let trials = plan::expand(&ablated(3), Stage::Ablation, &Decisions::default()).unwrap();
    assert_eq!(trials.len(), 8 * 2);
    assert!(trials.iter().all(|t| t.method == "m1"));
    let keys: BTreeSet<_> = trials.iter().map(|t| &t.key).collect();
    assert_eq!(keys.len(), trials.len());
}

#[test]
fn many_parameters_are_ablated_step_by_step() {
    let spec = ablated(6);
    let cells = |flipped: &[&str]| {
        let flipped = flipped.iter().map(|s| (*s).to_owned()).collect();
        plan::expand(&spec, Stage::Ablation, &Decisions { tuned: Vec::new(), flipped })
    };
    // start and six candidates, then five more, then four more; earlier cells stay
    assert_eq!(cells(&[]).unwrap().len(), 7 * 2);
    assert_eq!(cells(&["p3"]).unwrap().len(), 12 * 2);
    assert_eq!(cells(&["p3", "p0"]).unwrap().len(), 16 * 2);
    assert!(matches!(cells(&["p9"]), Err(PlanError::Path(_))));
    assert!(matches!(cells(&["p1", "p1"]), Err(PlanError::Path(_))));
    let all: Vec<String> = (0..6).map(|i| format!("p{i}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(cells(&all).unwrap().len(), (1 + 6 * 7 / 2) * 2);
}

#[test]
fn what_is_not_declared_has_no_plan() {
    let spec = spec(2, 1, &[], 1, "");
    let none = Decisions::default();
    for stage in [Stage::Tune, Stage::Ablation] {
        assert_eq!(plan::expand(&spec, stage, &none), Err(PlanError::NotDeclared { stage }));
    }
    assert_eq!(plan::expand(&spec, Stage::Replay, &none), Err(PlanError::Replay));
}

#[test]
fn limits_bound_the_cost() {
    let mut spec = spec(2, 1, &[], 5, "");
    spec.budget.wall_seconds = 50.0;
    spec.budget.grace_seconds = 10.0;
    spec.budget.memory_mib = Some(100);
    let cost = plan::Cost::bound(&spec, 10, 4);
    assert!((cost.wall_s - 180.0).abs() < 1e-9, "three rounds of 60 s");
    assert!((cost.cpu_s - 600.0).abs() < 1e-9);
    assert_eq!(cost.memory_mib, Some(400));
}
