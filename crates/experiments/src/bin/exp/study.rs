//! Finding a study, its spec, its store and its trial program.

use crate::{
    args::Which,
    place::{Place, make_folder},
};
use anyhow::{Context, Result, bail};
use experiments::{
    plan::{self, Decisions, Outcome, PlannedTrial, Stage},
    runner::{Limits, MetricRule, Program, RunPlan},
    spec::{self, Launch, MetricKind, Resolved, Target},
    store::{Store, record::Status},
};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// A study under one profile.
pub(crate) struct Study {
    /// The spec with the profile applied.
    pub(crate) spec: Resolved,
    /// Its file.
    pub(crate) file: PathBuf,
    /// `results/`.
    pub(crate) results: PathBuf,
    /// Where the store is.
    pub(crate) place: Place,
}

impl Study {
    /// Finds and loads a study.
    pub(crate) fn find(which: &Which) -> Result<Self> {
        let file = file_of(&which.name)?;
        let mut spec = spec::load(&file, &which.profile)?;
        // That of a bare `experiment.toml`: the empty path names no folder.
        if spec.folder.as_os_str().is_empty() {
            spec.folder = PathBuf::from(".");
        }
        for warning in &spec.warnings {
            eprintln!("{warning}");
        }
        let results = results_folder();
        let place = which
            .store
            .clone()
            .unwrap_or_else(|| Place::File(results.join(spec.results_folder()).join("store.db")));
        Ok(Self { spec, file, results, place })
    }

    /// The folder of logs, artifacts and the report: that of the store's file, or the study's
    /// usual one when the store is on a server.
    pub(crate) fn folder(&self) -> PathBuf {
        match &self.place {
            Place::File(path) => path.parent().map_or_else(PathBuf::new, Path::to_path_buf),
            Place::Server(_) => self.results.join(self.spec.results_folder()),
        }
    }

    /// Name of the study's schema on a server, which takes small letters, digits and `_` only.
    fn schema(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        self.spec.results_folder().display().to_string().chars().map(plain).collect()
    }

    /// The id with the profile that is not the full one, as on a command line.
    pub(crate) fn words(&self) -> String {
        if self.spec.profile == spec::FULL {
            self.spec.id.clone()
        } else {
            format!("{} --profile {}", self.spec.id, self.spec.profile)
        }
    }

    /// Opens the store, made if it is not there.
    pub(crate) fn open(&self) -> Result<Box<dyn Store>> {
        make_folder(&self.folder())?;
        self.place.open(&self.schema())
    }

    /// Opens the store, which must be there.
    pub(crate) fn open_existing(&self) -> Result<Box<dyn Store>> {
        let found = self.find_store()?;
        found.with_context(|| {
            format!("{}: no results yet; run `exp run {}`", self.place, self.words())
        })
    }

    /// Opens the store where there is one.
    pub(crate) fn find_store(&self) -> Result<Option<Box<dyn Store>>> {
        self.place.open_existing(&self.schema())
    }

    /// What the tune stage has decided, from its stored results.
    pub(crate) fn decisions(&self, store: &dyn Store) -> Result<Decisions> {
        let Some(tuning) = &self.spec.tuning else { return Ok(Decisions::default()) };
        let mut values: BTreeMap<_, f64> = BTreeMap::new();
        for row in store.metrics()? {
            if row.metric.name == tuning.metric {
                values.insert(row.key, row.metric.value.0);
            }
        }
        let mut outcomes = Vec::new();
        let mut open = false;
        for trial in store.trials()?.into_iter().filter(|t| t.stage == Stage::Tune && !t.retired) {
            open |= !trial.status.finished();
            let value = values.get(&trial.key).copied().filter(|_| trial.status == Status::Ok);
            outcomes.push(Outcome { cell: trial.cell, value });
        }
        // A half-finished search would choose differently from the whole one.
        let tuned = if open { Vec::new() } else { plan::select(&self.spec, &outcomes) };
        Ok(Decisions { tuned, flipped: Vec::new() })
    }

    /// Trials of a stage, in running order.
    pub(crate) fn trials(&self, stage: Stage, decisions: &Decisions) -> Result<Vec<PlannedTrial>> {
        Ok(plan::expand(&self.spec, stage, decisions)?)
    }

    /// Everything that the runner has to know about one stage.
    pub(crate) fn run_plan(
        &self,
        stage: Stage,
        trials: Vec<PlannedTrial>,
        program: Program,
    ) -> Result<RunPlan> {
        let spec = &self.spec;
        let b = &spec.budget;
        let metrics = spec
            .metrics
            .iter()
            .map(|m| MetricRule {
                name: m.name.clone(),
                split: m.split.word().to_owned(),
                range: m.range.map(|[low, high]| (low, high)),
                required: m.required,
                allow_nonfinite: m.allow_nonfinite,
                timed: m.kind == MetricKind::Time,
            })
            .collect();
        let mut split_files = BTreeMap::new();
        for task in &spec.tasks {
            if let Some(path) = spec.split_path(&task.task.name) {
                split_files.insert(task.task.name.clone(), std::path::absolute(path)?);
            }
        }
        let dataset_hashes = spec
            .datasets
            .iter()
            .filter_map(|d| d.sha256.as_ref().map(|h| (d.name.clone(), h.clone())))
            .collect();
        Ok(RunPlan {
            experiment: spec.id.clone(),
            spec_toml: spec.text.clone(),
            schema: 1,
            spec_hash: spec.spec_hash()?,
            stage,
            program,
            trials,
            limits: Limits {
                wall: Some(Duration::from_secs_f64(b.wall_seconds)),
                cpu: b.cpu_seconds.map(Duration::from_secs_f64),
                memory_bytes: b.memory_mib.map(|mib| mib << 20),
                grace: Duration::from_secs_f64(b.grace_seconds),
                max_attempts: b.max_attempts,
                output_bytes: b.output_mib << 20,
                event_bytes: b.output_mib << 20,
                ..Limits::default()
            },
            budget: spec.budget_request(stage),
            threads: b.threads,
            device: b.device.clone(),
            metrics,
            split_files,
            dataset_hashes,
            root: self.folder(),
            source_dir: Some(spec.folder.clone()).filter(|f| f.exists()),
        })
    }

    /// Builds the trial program and says where it is. Short stages use the development profile:
    /// another profile would compile the binding of libtorch a second time.
    pub(crate) fn program(&self, stage: Stage) -> Result<Program> {
        match &self.spec.program {
            Launch::Command(words) => {
                let Some((first, rest)) = words.split_first() else {
                    bail!("program.command is empty")
                };
                let beside = self.spec.folder.join(first);
                let path = if beside.is_file() {
                    std::path::absolute(beside)?
                } else {
                    PathBuf::from(first)
                };
                Ok(Program {
                    path,
                    args: rest.to_vec(),
                    working_dir: Some(std::path::absolute(&self.spec.folder)?),
                    ..Program::default()
                })
            }
            Launch::Cargo { package, target, features, profile } => {
                let profile = if stage == Stage::Smoke { "dev" } else { profile };
                let path = self.build(package, target, features, profile)?;
                Ok(Program { path, ..Program::default() })
            }
        }
    }

    fn build(
        &self,
        package: &str,
        target: &Target,
        features: &[String],
        profile: &str,
    ) -> Result<PathBuf> {
        let (kind, name) = match target {
            Target::Example(name) => ("--example", name),
            Target::Bin(name) => ("--bin", name),
        };
        let mut args = vec!["build", "--package", package, kind, name, "--profile", profile];
        let list = features.join(",");
        if !list.is_empty() {
            args.extend(["--features", &list]);
        }
        args.push("--message-format=json-render-diagnostics");
        eprintln!("building {package} {kind} {name} (profile {profile}) ...");
        let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        let out = Command::new(cargo)
            .args(&args)
            .current_dir(
                workspace_root(&self.spec.folder).unwrap_or_else(|| self.spec.folder.clone()),
            )
            .stderr(Stdio::inherit())
            .output()
            .context("start cargo")?;
        if !out.status.success() {
            bail!("the trial program does not build: `cargo {}`", args.join(" "));
        }
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let ours = message["reason"] == "compiler-artifact"
                && message["target"]["name"] == name.as_str();
            if let Some(path) = message["executable"].as_str().filter(|_| ours) {
                return Ok(PathBuf::from(path));
            }
        }
        bail!("cargo built {package} {name} but named no program")
    }
}

/// `$EXP_RESULTS`, or `results/` of the workspace, or of the current folder.
pub(crate) fn results_folder() -> PathBuf {
    if let Some(folder) = env::var_os("EXP_RESULTS") {
        return PathBuf::from(folder);
    }
    root().join("results")
}

/// The workspace that the current folder lies in, or the current folder.
pub(crate) fn root() -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    workspace_root(&here).unwrap_or(here)
}

/// The nearest folder upwards whose `Cargo.toml` has a `[workspace]`.
fn workspace_root(from: &Path) -> Option<PathBuf> {
    let from = std::path::absolute(from).ok()?;
    from.ancestors()
        .find(|folder| {
            fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|t| t.contains("[workspace]"))
        })
        .map(Path::to_path_buf)
}

/// Every `experiment.toml` below `crates/*/studies/` and `studies/`, sorted.
pub(crate) fn all_files() -> Vec<PathBuf> {
    let root = root();
    let mut folders = vec![root.join("studies")];
    if let Ok(crates) = fs::read_dir(root.join("crates")) {
        folders.extend(crates.flatten().map(|e| e.path().join("studies")));
    }
    let mut files: Vec<PathBuf> = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().map(|e| e.path().join("experiment.toml")))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    files
}

/// The file of a study by id or path.
fn file_of(name: &str) -> Result<PathBuf> {
    let given = Path::new(name);
    for path in [given.to_path_buf(), given.join("experiment.toml")] {
        if path.is_file() {
            return Ok(path);
        }
    }
    let files = all_files();
    let folder_name = |file: &Path| {
        file.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned())
    };
    if let Some(file) = files.iter().find(|f| folder_name(f).as_deref() == Some(name)) {
        return Ok(file.clone());
    }
    let known: Vec<String> = files.iter().filter_map(|f| folder_name(f)).collect();
    bail!(
        "no study `{name}`: expected an id below crates/*/studies or studies, or a path; found {}",
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    )
}

/// Unix milliseconds.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
