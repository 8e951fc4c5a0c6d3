//! Verbs that make something from results: report, figures, stats, compare; and new, schema.

use crate::{
    FINDING, OK,
    args::{Compare, Figures, New, Reporting, Stats, Which},
    place::Place,
    study::{Study, now, root},
};
use anyhow::{Context, Result, bail};
use experiments::{
    analysis::{self, Analysis, Results, drawing},
    checklist::{
        self, Evidence, Finding, Level, ReportFacts,
        venue::{self, Venue},
    },
    figures::{Figure, Format},
    identity::Cell,
    plan::Stage,
    report::{
        self, RawData,
        index::Card,
        number::{duration, plain, with_interval},
        page::{Extras, Item, TuningRow},
    },
    spec::{self, FigureKind, Resolved},
    stats::{self, table},
    store::{Store, export, record::Status},
};
use std::{fs, path::Path};

/// `exp new`.
pub(crate) fn new(args: &New) -> Result<u8> {
    let root = root();
    if let Some(name) = &args.crate_name {
        let folder = root.join("crates").join(name);
        if !folder.join("Cargo.toml").is_file() {
            bail!("--crate {name}: expected a crate in {}", folder.display());
        }
    }
    for file in spec::scaffold(&args.name, args.crate_name.as_deref())? {
        let (path, text) = (root.join(file.path), file.text);
        if path.exists() {
            eprintln!("{} exists and is left as it is", path.display());
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(OK)
}

/// `exp schema`.
pub(crate) fn schema() -> Result<u8> {
    println!("{}", serde_json::to_string_pretty(&schemars::schema_for!(spec::Spec))?);
    Ok(OK)
}

/// `exp stats`: of a study, or one test on a file.
pub(crate) fn stats(args: &Stats) -> Result<u8> {
    if args.name == "list" {
        for test in table::tests() {
            println!("{:<24} {}", test.name, test.help);
        }
        return Ok(OK);
    }
    if let Some(path) = &args.csv {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let outcome = table::run_test(&args.name, &text, &table::TableOptions::default())
            .with_context(|| path.display().to_string())?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            println!("{}", outcome.text);
        }
        return Ok(OK);
    }
    let which = Which { name: args.name.clone(), profile: args.profile.clone(), store: None };
    let study = Study::find(&which)?;
    let (_, analysis) = analysed(&study)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&analysis)?);
        return Ok(OK);
    }
    for claim in &analysis.claims {
        println!("{} {}: {}", claim.id, claim.verdict.word(), claim.sentence);
        if let Some(effect) = &claim.effect {
            println!(
                "   effect {} (smallest of interest {})",
                with_interval(effect),
                claim.min_effect
            );
        }
        if let Some(p) = claim.adjusted {
            println!(
                "   {}; {}",
                report::number::p_value(p, analysis.comparisons.correction),
                claim.test
            );
        }
        for note in &claim.notes {
            println!("   {note}");
        }
    }
    println!("{} on {}", analysis.table.metric.name, analysis.table.metric.split.word());
    for s in &analysis.summaries {
        if let Some((name, interval)) = s.overall.first() {
            println!(
                "   {:<24} {name} {}, {} runs, {} failed",
                s.method,
                with_interval(interval),
                s.runs,
                s.failed
            );
        }
    }
    Ok(OK)
}

/// Results and analysis of a study.
pub(crate) fn analysed(study: &Study) -> Result<(Results, Analysis)> {
    let store = study.open_existing()?;
    let results = Results::load(&*store, study.spec.clone())?;
    let analysis = analysis::analyse(&results)?;
    Ok((results, analysis))
}

/// The checklist as rows; without results only what the spec shows.
pub(crate) fn checklist(study: &Study, facts: Option<ReportFacts>) -> Result<Vec<Item>> {
    Ok(findings(study, facts)?
        .into_iter()
        .map(|f| Item {
            id: f.id.to_owned(),
            level: if f.level == Level::Must { "must" } else { "should" }.to_owned(),
            item: f.item.to_owned(),
            verdict: f.verdict.word().replace('-', " "),
            evidence: f.verdict.evidence().to_owned(),
        })
        .collect())
}

fn findings(study: &Study, facts: Option<ReportFacts>) -> Result<Vec<Finding>> {
    let evidence = match study.find_store()? {
        Some(store) => Evidence::gather(&*store, study.spec.clone(), facts)?,
        None => Evidence::of_spec(study.spec.clone())?,
    };
    Ok(checklist::assess(&evidence))
}

/// Answers for a venue's form.
pub(crate) fn venue_form(study: &Study, venue: &str) -> Result<String> {
    let venue = Venue::from_word(venue)
        .with_context(|| format!("--venue: expected automl or neurips, found `{venue}`"))?;
    Ok(venue::fill(venue, &findings(study, None)?, &study.spec.attest))
}

/// `exp figures`.
pub(crate) fn figures(args: &Figures) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let (_, analysis) = analysed(&study)?;
    let kinds = if args.only.is_empty() {
        study.spec.analysis.figures.clone()
    } else {
        args.only
            .iter()
            .map(|word| {
                serde_json::from_value::<FigureKind>(word.clone().into())
                    .with_context(|| format!("--only: no figure `{word}`"))
            })
            .collect::<Result<_>>()?
    };
    let mut formats = Vec::new();
    for word in &args.format {
        formats.push(match word.as_str() {
            "svg" => Format::Svg,
            "png" => Format::Png { scale: 3.0 },
            other => bail!("--format: expected svg or png, found `{other}`"),
        });
    }
    let command = format!("exp figures {}", study.words());
    let (drawn, left_out) = drawing::figures(&analysis, &study.spec, &kinds, &command)?;
    let folder = args.to.clone().unwrap_or_else(|| study.folder().join("report/figures"));
    for figure in &drawn {
        for path in figure.save(&folder, &formats)? {
            println!("{}", path.display());
        }
    }
    for why in left_out {
        eprintln!("not drawn: {why}");
    }
    Ok(OK)
}

/// `exp report`.
pub(crate) fn report(args: &Reporting) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let store = study.open_existing()?;
    let results = Results::load(&*store, study.spec.clone())?;
    let analysis = analysis::analyse(&results)?;
    let command = format!("exp report {}", study.words());
    let (figures, left_out) =
        drawing::figures(&analysis, &study.spec, &study.spec.analysis.figures, &command)?;
    let mut extras = Extras {
        deviations: deviations(&study, &results),
        tuning: tuning_rows(&study.spec, &study, &*store, &results)?,
        left_out,
        command,
        reproduce: vec![
            format!("exp check {}", study.words()),
            format!("exp pilot {}", study.spec.id),
            format!("exp freeze {}", study.words()),
            format!("exp run {}", study.words()),
            format!("exp unseal {} --reason \"...\"", study.words()),
            format!("exp report {}", study.words()),
        ],
        generated_at: (!args.no_time).then(now),
        ..Extras::default()
    };
    let raw = raw_data(&*store)?;
    let facts = report::facts::facts(&analysis, &study.spec, &figures, &raw, &extras);
    extras.checklist = checklist(&study, Some(facts))?;
    let folder = study.folder().join("report");
    let built = report::build(&results, &analysis, &figures, raw, extras, args.latex)?;
    built.write(&folder, &figures, (args.png || args.latex).then_some(3.0))?;
    if let Some(venue) = &args.venue {
        fs::write(folder.join(format!("{venue}.md")), venue_form(&study, venue)?)?;
    }
    save_card(&study, &built, &analysis, &results, &figures)?;
    for claim in &analysis.claims {
        let effect = claim.effect.as_ref().map(with_interval).unwrap_or_default();
        eprintln!("{} {}: {} {effect}", claim.id, claim.verdict.word(), claim.sentence);
    }
    println!("{}", folder.join("index.html").display());
    Ok(OK)
}

/// The data files of a report.
fn raw_data(store: &dyn Store) -> Result<RawData> {
    let mut raw = RawData::new();
    let folder = tempdir()?;
    for file in export::write(store, &folder)? {
        let bytes = fs::read(folder.join(&file))?;
        raw.insert(file, bytes);
    }
    fs::remove_dir_all(&folder)?;
    Ok(raw)
}

fn tempdir() -> Result<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(format!("exp-export-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// What differs between the frozen spec and the present one, and what was decided after the freeze.
fn deviations(study: &Study, results: &Results) -> Vec<String> {
    let mut all = Vec::new();
    let frozen = results.events.iter().rev().find(|e| e.kind == "freeze");
    if let Some(freeze) = frozen {
        let text = freeze.detail_json["spec_toml"].as_str().unwrap_or_default();
        match spec::read(text, &study.file, &study.spec.folder, &study.spec.profile, true) {
            Ok(old) => match spec::changes(&old, &study.spec) {
                Ok(changes) => all.extend(changes.iter().map(ToString::to_string)),
                Err(error) => all.push(error.to_string()),
            },
            Err(error) => all.push(format!("the frozen spec can no longer be read: {error}")),
        }
        for event in results.events.iter().filter(|e| e.at > freeze.at) {
            if matches!(event.kind.as_str(), "spec-change" | "exclusion" | "retry") {
                all.push(format!("{} after the freeze: {}", event.kind, event.detail_json));
            }
        }
    }
    all
}

/// Tuning effort, choice and the gap from validation to test, by method.
fn tuning_rows(
    spec: &Resolved,
    study: &Study,
    store: &dyn Store,
    results: &Results,
) -> Result<Vec<TuningRow>> {
    let Some(tuning) = &spec.tuning else { return Ok(Vec::new()) };
    let decisions = study.decisions(store)?;
    let Some(validation) = spec.metric(&tuning.metric) else { return Ok(Vec::new()) };
    let test = spec.metrics.iter().find(|m| {
        m.split == spec::Split::Test && m.higher_is_better == validation.higher_is_better
    });
    let mean = |method: &str, metric: &spec::Metric| -> Option<stats::Interval> {
        if !results.open(metric) {
            return None;
        }
        let values: Vec<f64> = results
            .main()
            .filter(|t| t.method == method && t.status == Status::Ok)
            .filter_map(|t| results.values.get(&t.key)?.get(&metric.name).copied())
            .filter(|v| v.is_finite())
            .collect();
        let scores = stats::Scores::from_runs(&values).ok()?;
        let options = analysis::summary::bootstrap_options(spec);
        stats::bootstrap(&scores, &stats::Aggregate::Mean, &options).ok()
    };
    let mut rows = Vec::new();
    for chosen in &decisions.tuned {
        let spent: f64 = results
            .trials
            .iter()
            .filter(|t| t.stage == Stage::Tune && t.method == chosen.method)
            .filter_map(|t| results.last_attempt(t))
            .filter_map(|a| a.budget_used)
            .sum();
        let (v, t) = (mean(&chosen.method, validation), test.and_then(|m| mean(&chosen.method, m)));
        let sign = if validation.higher_is_better { -1.0 } else { 1.0 };
        let gap = v.as_ref().zip(t.as_ref()).map(|(v, t)| plain(sign * (t.point - v.point)));
        rows.push(TuningRow {
            method: chosen.method.clone(),
            configurations: chosen.tried,
            budget: format!("{} {}", plain(spent), spec.budget.unit.word().replace('_', " ")),
            chosen: cell_words(&chosen.values),
            validation: v.map(|i| with_interval(&i)).unwrap_or_default(),
            test: t.map_or_else(|| "sealed".to_owned(), |i| with_interval(&i)),
            gap: gap.unwrap_or_default(),
        });
    }
    Ok(rows)
}

fn cell_words(cell: &Cell) -> String {
    let words: Vec<String> = cell
        .iter()
        .map(|(name, value)| match value {
            experiments::identity::Value::Float(x) => format!("{name} = {}", plain(*x)),
            other => format!("{name} = {}", analysis::results::value_words(other)),
        })
        .collect();
    words.join(", ")
}

/// Keeps the card of the index page beside the report.
fn save_card(
    study: &Study,
    built: &report::Report,
    analysis: &Analysis,
    results: &Results,
    _figures: &[Figure],
) -> Result<()> {
    let folder = study.folder();
    let link = folder
        .strip_prefix(&study.results)
        .map_or_else(|_| folder.display().to_string(), |p| p.display().to_string());
    let card = Card::new(
        &built.page,
        study.spec.crate_name.as_deref().unwrap_or_default(),
        &format!("{link}/report/index.html"),
        results.main().filter(|t| t.status.finished()).count(),
        &format!("{} CPU", duration(analysis.cost.total.cpu_hours * 3600.0)),
        &format!(
            "cargo xtask reproduce --only {} --profile {}",
            study.spec.crate_name.as_deref().unwrap_or(&study.spec.id),
            study.spec.profile
        ),
    );
    let path = folder.join("card.json");
    fs::write(&path, serde_json::to_vec_pretty(&card)?)
        .with_context(|| format!("write {}", path.display()))
}

/// Cards of all reports below `results`; of several profiles of a study the largest one that ran.
pub(crate) fn cards(results: &Path) -> Result<Vec<Card>> {
    let mut cards: Vec<Card> = Vec::new();
    let mut folders = vec![results.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() && folder.components().count() < results.components().count() + 2 {
                folders.push(path);
            } else if path.file_name().is_some_and(|n| n == "card.json") {
                let text = fs::read_to_string(&path)?;
                cards
                    .push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
            }
        }
    }
    let size = |card: &Card| match card.profile.as_str() {
        "smoke" | "pilot" => 0,
        "laptop" => 2,
        "paper" | "full" => 3,
        _ => 1,
    };
    cards.sort_by(|a, b| {
        (&a.crate_name, &a.id, std::cmp::Reverse(size(a))).cmp(&(
            &b.crate_name,
            &b.id,
            std::cmp::Reverse(size(b)),
        ))
    });
    cards.dedup_by(|b, a| a.id == b.id);
    Ok(cards)
}

/// `exp compare`: the primary metric of two stores of one study, paired cell by cell.
pub(crate) fn compare(args: &Compare) -> Result<u8> {
    let [base, other] = args.stores.as_slice() else {
        bail!("--store: expected exactly two, found {}", args.stores.len());
    };
    let load = |place: &Place| -> Result<Results> {
        let which = Which {
            name: args.name.clone(),
            profile: args.profile.clone(),
            store: Some(place.clone()),
        };
        let study = Study::find(&which)?;
        let store = study.open_existing()?;
        Ok(Results::load(&*store, study.spec)?)
    };
    let (base, other) = (load(base)?, load(other)?);
    let shown = base.spec.metrics.iter().filter(|m| base.open(m) && other.open(m));
    let mut regressions = 0;
    let mut rows = Vec::new();
    for metric in shown {
        for method in &base.spec.methods {
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for t in base.main().filter(|t| t.method == method.name) {
                let value =
                    |r: &Results| r.values.get(&t.key).and_then(|v| v.get(&metric.name)).copied();
                if let (Some(x), Some(y)) = (value(&base), value(&other))
                    && x.is_finite()
                    && y.is_finite()
                {
                    before.push(x);
                    after.push(y);
                }
            }
            if before.is_empty() {
                continue;
            }
            let difference = stats::paired_difference(
                &stats::Scores::from_runs(&after)?,
                &stats::Scores::from_runs(&before)?,
                &stats::Aggregate::Mean,
                &analysis::summary::bootstrap_options(&base.spec),
            )?;
            let worse =
                if metric.higher_is_better { difference.hi < 0.0 } else { difference.lo > 0.0 };
            regressions += usize::from(worse);
            rows.push((metric.name.clone(), method.name.clone(), difference, before.len(), worse));
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for (metric, method, difference, n, worse) in &rows {
            let word = if *worse { "  WORSE" } else { "" };
            println!(
                "{metric:<20} {method:<24} second - first {} over {n} cells{word}",
                with_interval(difference)
            );
        }
    }
    Ok(if regressions > 0 { FINDING } else { OK })
}
