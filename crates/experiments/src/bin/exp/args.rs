//! The command line.

use crate::place::Place;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Declare, run, record, analyse and report experiments.
///
/// NAME is the id of a study below `crates/*/studies/` or `studies/`, or a path to its
/// `experiment.toml`. Results go to `results/NAME`, or below $`EXP_RESULTS`.
///
/// Exit codes: 0 in order, 1 something was found, 2 wrong usage or an invalid file, 3 the run
/// finished but some trials failed, 4 the store is locked or refused, 130 interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "exp",
    version,
    after_help = "Example: exp check my-study && exp pilot my-study && exp freeze my-study && exp run my-study && exp report my-study"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// All studies with their state
    #[command(after_help = "Example: exp list --json")]
    List(Listing),
    /// Start a study: experiment.toml and a trial program to fill in
    #[command(after_help = "Example: exp new my-study --crate tensor-core")]
    New(New),
    /// Validate the file and go through the checklist; exit 1 if a MUST is violated
    #[command(after_help = "Example: exp check my-study")]
    Check(Reading),
    /// Number of trials, balance and cost bound; runs nothing
    #[command(after_help = "Example: exp plan my-study --profile laptop")]
    Plan(Planning),
    /// Short trials to see that everything works and what the full run will cost
    #[command(after_help = "Example: exp pilot my-study --jobs 2")]
    Pilot(Running),
    /// Fix the plan before any test result exists
    #[command(after_help = "Example: exp freeze my-study --profile laptop")]
    Freeze(Reading),
    /// Run what is not finished; running again resumes
    #[command(after_help = "Example: exp run my-study --profile laptop --jobs 2")]
    Run(Running),
    /// Counts by method and status, running trials, remaining time
    #[command(after_help = "Example: exp status my-study --watch")]
    Status(Watching),
    /// Table of trials
    #[command(after_help = "Example: exp trials my-study --status crash")]
    Trials(Trials),
    /// What a trial printed
    #[command(after_help = "Example: exp logs my-study 41cc01 --follow")]
    Logs(Logs),
    /// Run a finished trial again under the same seeds and compare
    #[command(after_help = "Example: exp replay my-study 41cc01")]
    Replay(OneTrial),
    /// Print the exact command and request of a trial, for a debugger
    #[command(after_help = "Example: exp shell my-study 41cc01")]
    Shell(OneTrial),
    /// Run failed trials again; the reason is recorded
    #[command(after_help = "Example: exp retry my-study --status crash --reason \"disk was full\"")]
    Retry(Retry),
    /// Allow test values to be shown; the reason is recorded for ever
    #[command(after_help = "Example: exp unseal my-study --reason \"all trials finished\"")]
    Unseal(Unseal),
    /// Tests of a study, or one test on a CSV file
    #[command(after_help = "Example: exp stats my-study\nExample: exp stats wilcoxon scores.csv")]
    Stats(Stats),
    /// Draw the figures again
    #[command(after_help = "Example: exp figures my-study --only cd,profile --format svg,png")]
    Figures(Figures),
    /// One self-contained HTML page with verdicts, intervals, figures and raw data
    #[command(after_help = "Example: exp report my-study --profile laptop")]
    Report(Reporting),
    /// Two stores of one study, cell by cell; exit 1 if the second is worse beyond its interval
    #[command(after_help = "Example: exp compare my-study --store old.db --store new.db")]
    Compare(Compare),
    /// Results and curves as CSV (and Parquet where built in)
    #[command(after_help = "Example: exp export my-study --to exported/")]
    Export(Export),
    /// Read foreign results in long form: columns method, task, rep, metric, value
    #[command(after_help = "Example: exp import my-study results.csv")]
    Import(Import),
    /// Copy the store while it is in use
    #[command(after_help = "Example: exp backup my-study")]
    Backup(Backup),
    /// Join shard stores into the study's store
    #[command(
        after_help = "Example: exp merge my-study\nExample: exp merge my-study --store all.db elsewhere/*/store.db"
    )]
    Merge(Merge),
    /// Remove trial folders that no stored attempt refers to
    #[command(after_help = "Example: exp gc my-study --dry-run")]
    Gc(Gc),
    /// Write (and submit) a Slurm job array for the study
    #[command(
        after_help = "Example: exp slurm my-study --array 8 --time 2h --submit\nExample: exp slurm my-study --array 8 --only 3 --submit   # task 3 again"
    )]
    Slurm(Slurm),
    /// Run and report all studies of the workspace, then write results/index.html
    #[command(after_help = "Example: exp reproduce --only tensor-core --profile laptop")]
    Reproduce(Reproduce),
    /// JSON Schema of experiment.toml
    #[command(after_help = "Example: exp schema > experiment.schema.json")]
    Schema,
    /// What this machine offers for experiments
    #[command(after_help = "Example: exp doctor")]
    Doctor,
    /// Shell completions
    #[command(
        after_help = "Example: exp completions bash > ~/.local/share/bash-completion/completions/exp"
    )]
    Completions(Completions),
    /// Manual page
    #[command(after_help = "Example: exp man > exp.1")]
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// Id of the study
    pub(crate) name: String,
    /// Crate below `crates/` that gets the study; without it `studies/NAME` is made
    #[arg(long = "crate")]
    pub(crate) crate_name: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// Study id, or path to its experiment.toml
    pub(crate) name: String,
    /// Profile of the spec: full, smoke, pilot, laptop, paper, or one of its own
    #[arg(long, default_value = "full")]
    pub(crate) profile: String,
    /// Store to use instead of the one below results/: a file, or `postgresql://..`
    #[arg(long)]
    pub(crate) store: Option<Place>,
}

#[derive(Debug, Args)]
pub(crate) struct Reading {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Answers for the forms of a venue: automl or neurips
    #[arg(long)]
    pub(crate) venue: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Planning {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Trials at a time, for the cost bound
    #[arg(long)]
    pub(crate) jobs: Option<u32>,
    /// Allow more trials than `max_trials`
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Running {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Trials at a time; default: physical cores divided by the trial's threads
    #[arg(long)]
    pub(crate) jobs: Option<u32>,
    /// Only these trials, e.g. 'method=scored,task=spiral'
    #[arg(long)]
    pub(crate) filter: Option<String>,
    /// Start at most so many trials
    #[arg(long)]
    pub(crate) max_trials: Option<u64>,
    /// Start nothing after this time: 90s, 30m, 2h
    #[arg(long)]
    pub(crate) time_limit: Option<String>,
    /// Running order: random within each repetition (default of the spec) or as in the spec
    #[arg(long, value_enum)]
    pub(crate) order: Option<OrderWord>,
    /// Pin each trial to its own cores
    #[arg(long)]
    pub(crate) pin: bool,
    /// Go on although finished trials come from another revision or binary
    #[arg(long)]
    pub(crate) allow_mixed: bool,
    /// Go on although the working tree has changes
    #[arg(long)]
    pub(crate) dirty: bool,
    /// Allow more trials than `max_trials`
    #[arg(long)]
    pub(crate) yes: bool,
    /// Accept changes of the spec that make earlier trials incomparable
    #[arg(long)]
    pub(crate) new_version: bool,
    /// One JSON object per event on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Say what would run and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// One of several runners: wait for trials that others hold
    #[arg(long)]
    pub(crate) worker: bool,
    /// Only part I of N, as I/N; with --store each part has a store of its own
    #[arg(long)]
    pub(crate) shard: Option<String>,
    /// With --shard: all methods of one task and repetition in one part
    #[arg(long)]
    pub(crate) group_by_rep: bool,
    /// No progress bars
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Copy, Clone, Debug, ValueEnum)]
pub(crate) enum OrderWord {
    Spec,
    Random,
}

#[derive(Debug, Args)]
pub(crate) struct Watching {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Show again every two seconds until all is done
    #[arg(long)]
    pub(crate) watch: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Trials {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only this status
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only these trials, e.g. 'method=scored'
    #[arg(long)]
    pub(crate) filter: Option<String>,
    /// Columns: key, stage, method, task, rep, factors, status, attempt, wall, reason, or a metric
    #[arg(long, value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Print CSV
    #[arg(long)]
    pub(crate) csv: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) one: OneTrial,
    /// Attempt; default: the last
    #[arg(long)]
    pub(crate) attempt: Option<u32>,
    /// Go on printing what is added
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OneTrial {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Key of the trial, or its first 6 characters or more
    pub(crate) key: String,
    /// Relative tolerance of `replay`
    #[arg(long, default_value_t = 1e-6)]
    pub(crate) tolerance: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Status of the trials to run again: crash, timeout, memout or invalid
    #[arg(long)]
    pub(crate) status: String,
    /// Why; kept as an event
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct Unseal {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Why; kept as an event
    #[arg(long)]
    pub(crate) reason: String,
    /// Unseal a confirmatory study that was never frozen: violates Q4 for ever
    #[arg(long)]
    pub(crate) without_freeze: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Study id; or the name of a test, `list` for all
    pub(crate) name: String,
    /// CSV file with columns method, task, rep, value
    pub(crate) csv: Option<PathBuf>,
    /// Profile of the study
    #[arg(long, default_value = "full")]
    pub(crate) profile: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Figures {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Kinds of figures; default: those of the spec
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// svg, png
    #[arg(long, value_delimiter = ',', default_value = "svg")]
    pub(crate) format: Vec<String>,
    /// Folder; default: the report's
    #[arg(long)]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Reporting {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Also LaTeX tables and figure includes
    #[arg(long)]
    pub(crate) latex: bool,
    /// Also answers for the forms of a venue: automl or neurips
    #[arg(long)]
    pub(crate) venue: Option<String>,
    /// Leave the line with the generation time out
    #[arg(long)]
    pub(crate) no_time: bool,
    /// Also PNG copies of the figures
    #[arg(long)]
    pub(crate) png: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Study id, or path to its experiment.toml
    pub(crate) name: String,
    /// Profile of the spec
    #[arg(long, default_value = "full")]
    pub(crate) profile: String,
    /// The two stores: first the base, then the one to judge
    #[arg(long = "store", required = true, num_args = 1)]
    pub(crate) stores: Vec<Place>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Folder
    #[arg(long)]
    pub(crate) to: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) which: Which,
    /// CSV file in long form
    pub(crate) csv: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) which: Which,
    /// File; default: results/NAME/backups/TIME.db
    #[arg(long)]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Merge {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Stores to take results from; default: all parts in shards/ beside the study's store
    pub(crate) sources: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Slurm {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Number of array tasks
    #[arg(long)]
    pub(crate) array: u32,
    /// Send the script with sbatch
    #[arg(long)]
    pub(crate) submit: bool,
    /// Only these tasks, e.g. those that were cancelled: 1,3
    #[arg(long, value_delimiter = ',', requires = "submit")]
    pub(crate) only: Vec<u32>,
    /// Trials of one task at a time
    #[arg(long, default_value_t = 1)]
    pub(crate) jobs: u32,
    /// Time limit of each task: 30m, 12h
    #[arg(long)]
    pub(crate) time: Option<String>,
    /// Folder on each node's own disk, e.g. '$TMPDIR': for results/ on a network file system
    #[arg(long)]
    pub(crate) scratch: Option<String>,
    /// Only nodes with this feature
    #[arg(long)]
    pub(crate) constraint: Option<String>,
    /// Partition
    #[arg(long)]
    pub(crate) partition: Option<String>,
    /// Keep all methods of one task and repetition on one node
    #[arg(long)]
    pub(crate) group_by_rep: bool,
    /// One more option for sbatch, e.g. --sbatch=--account=x; may be given again
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) sbatch: Vec<String>,
    /// After `--`: options for the `exp run` of each task
    #[arg(last = true)]
    pub(crate) run: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Reproduce {
    /// Only studies of this crate
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// smoke, laptop or paper
    #[arg(long, default_value = "smoke")]
    pub(crate) profile: String,
    /// Trials at a time
    #[arg(long)]
    pub(crate) jobs: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Shell
    pub(crate) shell: clap_complete::Shell,
}
