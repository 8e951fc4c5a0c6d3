//! `exp` from the outside: a study from `exp new` to the report, and what it says to bad input.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder with the study that `exp new demo` writes.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        bench.good(&["new", "demo"]);
        bench
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn exp(&self, args: &[&str]) -> Output {
        Command::new(assert_cmd::cargo::cargo_bin!("exp"))
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("EXP_RESULTS")
            .output()
            .unwrap()
    }

    /// Standard output of a call that must end with `code`.
    fn ends(&self, code: i32, args: &[&str]) -> String {
        let out = self.exp(args);
        let (text, errors) = (words(&out.stdout), words(&out.stderr));
        assert_eq!(out.status.code(), Some(code), "exp {args:?}\n{text}\n{errors}");
        if code == 2 { errors } else { text }
    }

    fn good(&self, args: &[&str]) -> String {
        self.ends(0, args)
    }

    /// The spec with one piece of text replaced.
    fn edit(&self, from: &str, to: &str) {
        let path = self.path("studies/demo/experiment.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Every file of the report, by name.
    fn report(&self, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let root = self.path(folder);
        let (mut files, mut open) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap().to_owned();
                    files.push((name, fs::read(&path).unwrap()));
                }
            }
        }
        files.sort();
        files
    }
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn a_study_goes_from_new_to_report() {
    let bench = Bench::new();
    bench.edit("condition = [10.0, 100.0]", "condition = [10.0]");
    bench.good(&["check", "demo"]);
    // momentum, plain, scaled x dimensions 2, 6 x 10 repetitions
    assert!(bench.good(&["plan", "demo"]).contains("stage main: 60 trials"));
    bench.good(&["pilot", "demo", "--jobs", "2", "--quiet"]);
    bench.good(&["freeze", "demo"]);

    // A run that is cut short goes on where it was.
    let run =
        |extra: &[&str]| bench.good(&[&["run", "demo", "--jobs", "2", "--json"], extra].concat());
    let started = |text: &str| text.lines().filter(|l| json(l)["t"] == "finished").count();
    let first = run(&["--max-trials", "25"]);
    assert_eq!(started(&first), 25, "{first}");
    let status = json(&bench.good(&["status", "demo", "--json"]));
    assert_eq!(status["open"], 35, "{status}");
    assert_eq!(started(&run(&[])), 35);
    assert_eq!(started(&run(&[])), 0, "nothing runs twice");

    // The test split is sealed until it is asked for.
    let page = "results/demo/report/index.html";
    bench.good(&["report", "demo"]);
    let text = fs::read_to_string(bench.path(page)).unwrap();
    assert!(text.contains("sealed"), "{text}");
    for (name, bytes) in bench.report("results/demo/report") {
        let text = words(&bytes);
        assert!(!text.contains("test_loss,test,"), "{} holds test values", name.display());
        assert!(!text.contains("refuted</"), "{} has a verdict on sealed values", name.display());
    }
    let sealed = bench.good(&["trials", "demo", "--columns", "stage,test_loss", "--csv"]);
    assert!(sealed.lines().skip(1).all(|line| line.ends_with(',')), "{sealed}");
    bench.good(&["unseal", "demo", "--reason", "all trials finished"]);

    // The same store gives the same bytes.
    bench.good(&["report", "demo", "--no-time"]);
    let once = bench.report("results/demo/report");
    bench.good(&["report", "demo", "--no-time"]);
    assert!(once == bench.report("results/demo/report"), "two reports of one store differ");
    let page = fs::read_to_string(bench.path(page)).unwrap();
    assert!(page.contains("H1"), "{page}");
    let place = |word: &str| page.find(word).unwrap_or_else(|| panic!("no `{word}` in the page"));
    assert!(
        place("id=\"unsatisfied\"") < place("id=\"results\""),
        "the checklist's complaints come first"
    );
    // One file: nothing is fetched from elsewhere.
    for outside in ["src=\"http", "href=\"http://", "url(http", "<link", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }

    let stats = json(&bench.good(&["stats", "demo", "--json"]));
    assert_eq!(stats["claims"][0]["id"], "H1", "{stats}");
    assert!(bench.good(&["list"]).contains("78 of 78 trials, 0 failed"), "18 are of the pilot");
    looks(&bench);
    moves(&bench);
}

/// Verbs that look at single trials.
fn looks(bench: &Bench) {
    let table = json(&bench.good(&["trials", "demo", "--filter", "method=plain", "--json"]));
    let rows = table.as_array().unwrap();
    let keys: Vec<&str> = rows.iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert!(keys.len() >= 20, "{table}");
    let key = keys[keys.len() - 1];
    bench.good(&["logs", "demo", key]);
    assert!(bench.good(&["replay", "demo", key]).contains("identical"));
    assert!(bench.good(&["shell", "demo", key]).contains("trial.py"));
    let error = bench.ends(2, &["logs", "demo", &key[..3]]);
    assert!(error.contains("at least 6 characters"), "{error}");
    assert!(
        bench.good(&["retry", "demo", "--status", "crash", "--reason", "none"]).starts_with('0')
    );
    let folder = bench.path("drawn").display().to_string();
    let drawn = bench.good(&[
        "figures",
        "demo",
        "--only",
        "intervals",
        "--format",
        "svg,png",
        "--to",
        &folder,
    ]);
    for path in drawn.lines() {
        assert!(fs::metadata(path).unwrap().len() > 500, "{path}");
    }
    assert!(drawn.lines().count() >= 2, "{drawn}");
}

/// Verbs that move results.
fn moves(bench: &Bench) {
    bench.good(&["backup", "demo", "--to", "copy.db"]);
    let same =
        bench.good(&["compare", "demo", "--store", "results/demo/store.db", "--store", "copy.db"]);
    assert!(same.contains("over 20 cells") && !same.contains("WORSE"), "{same}");
    bench.good(&["export", "demo", "--to", "exported"]);
    let results = fs::read_to_string(bench.path("exported/results.csv")).unwrap();
    assert_eq!(results.matches(",test_loss,").count(), 60, "{results}");
    // Long form of a foreign program.
    let mut long = "method,task,rep,metric,value\n".to_owned();
    for rep in 0..10 {
        for (method, base) in [("momentum", 0.1), ("plain", 0.5), ("scaled", 0.2)] {
            let value = base + f64::from(rep) / 1000.0;
            long += &[method, "bowl", &rep.to_string(), "test_loss", &value.to_string()].join(",");
            long.push('\n');
        }
    }
    fs::write(bench.path("foreign.csv"), &long).unwrap();
    bench.good(&["import", "demo", "foreign.csv", "--store", "foreign.db"]);
    let test = "method,task,rep,value\n".to_owned() + &long.replace(",test_loss,", ",")[29..];
    fs::write(bench.path("test.csv"), test).unwrap();
    assert!(!bench.good(&["stats", "list"]).is_empty());
    bench.good(&["gc", "demo", "--dry-run"]);
    bench.good(&["doctor"]);
    let schema = json(&bench.good(&["schema"]));
    assert!(schema["properties"]["hypothesis"].is_object(), "{schema}");
}

#[test]
fn every_verb_shows_an_example() {
    let bench = Bench { folder: tempfile::tempdir().unwrap() };
    let help = bench.good(&["--help"]);
    assert!(help.contains("Example: exp check"), "{help}");
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|l| !l.starts_with("Commands:"))
        .skip(1)
        .take_while(|l| l.starts_with("  "))
        .filter(|l| !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() >= 25, "{verbs:?}");
    for verb in verbs {
        let text = bench.good(&[verb, "--help"]);
        assert!(text.contains(&format!("exp {verb}")), "{text}");
        assert!(text.contains("Example: ") || verb == "man", "{text}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(bench.good(&["completions", shell]).contains("unseal"), "{shell}");
    }
    assert!(bench.good(&["man"]).contains(".TH exp"));
}

#[test]
fn wrong_files_and_words_end_with_code_2() {
    let bench = Bench::new();
    let error = bench.ends(2, &["check", "dem"]);
    assert!(error.contains("no study `dem`") && error.contains("found demo"), "{error}");
    let error = bench.ends(2, &["plan", "demo", "--profile", "smok"]);
    assert!(error.contains("smoke"), "{error}");
    bench.edit("min_effect", "min_efect");
    bench.edit("count = 10", "count = -1");
    let error = bench.ends(2, &["check", "demo"]);
    for part in ["min_efect", "min_effect", "repetitions.count", "experiment.toml:"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    bench.edit("min_efect", "min_effect");
    bench.edit("count = -1", "count = 10");
    bench.good(&["check", "demo"]);
    for verb in [&["report", "demo"][..], &["stats", "demo"], &["status", "demo"]] {
        let error = bench.ends(2, verb);
        assert!(error.contains("no results yet; run `exp run demo`"), "{error}");
    }
    assert!(!Path::new(&bench.path("results/demo/store.db")).exists(), "looking makes no store");
    // A confirmatory study must be frozen before anyone looks.
    bench.good(&["run", "demo", "--jobs", "2", "--quiet", "--max-trials", "2"]);
    let out = bench.exp(&["unseal", "demo", "--reason", "curious"]);
    assert_ne!(out.status.code(), Some(0), "{}", words(&out.stdout));
    assert!(words(&out.stderr).contains("freeze"), "{}", words(&out.stderr));
}

/// Of a server the address is said, and its password never.
#[test]
#[cfg(not(feature = "postgres"))]
fn a_server_needs_the_feature_for_it() {
    let bench = Bench::new();
    let address = "postgresql://me:secret@host/studies";
    for verb in ["run", "status"] {
        let error = bench.ends(2, &[verb, "demo", "--store", address]);
        assert!(error.contains("postgresql://me:***@host/studies"), "{error}");
        assert!(error.contains("--features postgres") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn changed_plans_and_failed_trials_are_told() {
    let bench = Bench::new();
    bench.good(&["run", "demo", "--jobs", "2", "--quiet", "--max-trials", "2"]);
    // What changes the meaning of earlier trials is refused until the version is raised.
    bench.edit("amount = 200", "amount = 300");
    let error = bench.ends(2, &["run", "demo", "--quiet"]);
    assert!(error.contains("incomparable") && error.contains("budget"), "{error}");
    bench.edit("amount = 300", "amount = 200");
    // A trial program that fails: the run goes on, ends with 3, and `logs` shows why.
    let trial = bench.path("studies/demo/trial.py");
    let text = fs::read_to_string(&trial).unwrap();
    fs::write(&trial, text.replace("rng = ", "assert cell[\"method\"] != \"scaled\"\nrng = "))
        .unwrap();
    bench.ends(3, &["run", "demo", "--profile", "smoke", "--jobs", "2", "--quiet"]);
    let table =
        bench.good(&["trials", "demo", "--profile", "smoke", "--status", "crash", "--json"]);
    let rows = json(&table);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 8, "{table}");
    let key = rows[0]["key"].as_str().unwrap();
    let log = bench.good(&["logs", "demo", "--profile", "smoke", key]);
    assert!(log.contains("AssertionError"), "{log}");
    // What is a result of a study is an error of the run that only asks whether everything works.
    let error = bench.ends(2, &["reproduce", "--profile", "smoke"]);
    assert!(error.contains("scaled (crash)") && error.contains("demo"), "{error}");
    fs::write(&trial, &text).unwrap();
    let smoke = ["--profile", "smoke"];
    let retry = ["retry", "demo", "--status", "crash", "--reason", "mended"];
    bench.good(&[&retry[..], &smoke].concat());
    bench.good(&["reproduce", "--profile", "smoke"]);
}

/// A program whose five parameters are worth 0.05, 0.3, 0.01, 0.2 and 0.1, and nothing together.
const FIVE_PARAMETERS: &str = r#"
import json, os, random, sys
if "--describe" in sys.argv:
    print("{}")
    sys.exit()
request = json.load(sys.stdin)
cell = request["cell"]
worth = {"a": 0.05, "b": 0.3, "c": 0.01, "d": 0.2, "e": 0.1}
sides = {p: cell.get(p, "target" if cell["method"] == "new" else "source") for p in worth}
noise = random.Random(request["seeds"]["init"]).uniform(0, 1)
error = 1 + noise - sum(w for p, w in worth.items() if sides[p] == "target")
with open(os.environ["EXP_EVENTS"], "a", buffering=1) as events:
    log = lambda **event: print(json.dumps(event), file=events)
    log(t="metric", name="val_error", split="validation", value=error)
    if "test" in request["splits"]:
        log(t="metric", name="test_error", split="test", value=error)
    log(t="done", budget_used=1.0)
"#;

const ABLATED: &str = r#"
schema = 1
id = "demo"
title = "Which of five parameters helps?"
question = "What is each parameter worth on the way from the old to the new method?"
kind = "exploratory"
program = { command = ["python3", "trial.py"] }
[[method]]
name = "new"
role = "proposed"
[[method]]
name = "old"
role = "baseline-simple"
[[method]]
name = "older"
role = "baseline-strong"
[[task]]
name = "t"
[repetitions]
count = 3
root_seed = 1
streams = ["init"]
[budget]
unit = "steps"
amount = 1
wall_seconds = 60
[[metric]]
name = "test_error"
split = "test"
primary = true
higher_is_better = false
[[metric]]
name = "val_error"
split = "validation"
higher_is_better = false
[ablation]
source = "old"
target = "new"
parameters = ["a", "b", "c", "d", "e"]
[analysis]
figures = ["ablation"]
"#;

#[test]
fn an_ablation_path_is_followed_to_its_end() {
    let bench = Bench::new();
    fs::write(bench.path("studies/demo/experiment.toml"), ABLATED).unwrap();
    fs::write(bench.path("studies/demo/trial.py"), FIVE_PARAMETERS).unwrap();
    let run = |extra: &[&str]| {
        bench.good(&[&["run", "demo", "--jobs", "2", "--json", "--dirty"], extra].concat())
    };
    let finished = |text: &str| text.lines().filter(|l| json(l)["t"] == "finished").count();
    // Three methods x 3 repetitions; then the source, and 5 + 4 + 3 + 2 + 1 steps x 3. A run that
    // is cut short in the middle of the path goes on with it.
    let first = finished(&run(&["--max-trials", "12"]));
    let rest = finished(&run(&[]));
    assert_eq!(first + rest, 9 + 3 * 16, "{first} + {rest}");
    assert_eq!(finished(&run(&[])), 0, "nothing runs twice");

    let path = json(&bench.good(&["stats", "demo", "--json"]))["ablation"].clone();
    // The test split is sealed, so the path was chosen and is shown by validation error.
    assert_eq!(path["metric"], "val_error", "{path}");
    let steps = path["steps"].as_array().unwrap();
    let order: Vec<&str> = steps.iter().filter_map(|s| s["parameter"].as_str()).collect();
    assert_eq!(order, ["b", "d", "e", "a", "c"]);
    for (step, worth) in steps[1..].iter().zip([0.3, 0.2, 0.1, 0.05, 0.01]) {
        let found = step["contribution"]["point"].as_f64().unwrap();
        assert!((found - worth).abs() < 1e-9, "{step}");
    }
    bench.good(&["report", "demo"]);
    let page = fs::read_to_string(bench.path("results/demo/report/index.html")).unwrap();
    assert!(page.contains("one parameter at a time"), "the page shows the path");
}

/// The page forbids every request by its own policy, so a browser that wants one says so on its
/// console, as it does for script errors.
#[test]
#[ignore = "needs Chromium: cargo test -p experiments --test cli -- --ignored"]
fn the_page_opens_in_a_browser_without_a_word_on_the_console() {
    let bench = Bench::new();
    bench.good(&["run", "demo", "--profile", "smoke", "--jobs", "2", "--quiet"]);
    bench.good(&["report", "demo", "--profile", "smoke"]);
    let page = bench.path("results/demo/report/index.html");
    assert!(fs::read_to_string(&page).unwrap().contains("default-src 'none'"));
    let out = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--dump-dom"])
        .arg("--enable-logging=stderr")
        .arg(format!("--user-data-dir={}", bench.path("browser").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let (dom, log) = (words(&out.stdout), words(&out.stderr));
    assert!(dom.contains("What is not satisfied") && dom.contains("<svg"), "{dom}");
    let console: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
}
