//! Which state an attempt ends in (specification, sections 6.1, 6.2 and 6.4).

use super::{MetricRule, events::Gathered};
use crate::{plan::Stage, store::record::Status};

/// Why the runner ended a trial.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Wall-clock limit.
    Wall,
    /// CPU limit.
    Cpu,
    /// Memory limit.
    Memory,
    /// The event file grew beyond its limit.
    Events,
    /// Ctrl-C twice, SIGTERM, SIGUSR1: the trial is given back.
    Stop,
    /// Another runner holds the trial now.
    LeaseLost,
}

/// How the main process ended, as far as it is known.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ending {
    /// Exit code.
    pub(super) exit_code: Option<i32>,
    /// Signal.
    pub(super) signal: Option<i32>,
}

/// What decides.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each measured on its own")]
pub(super) struct Evidence<'a> {
    pub(super) cause: Option<Cause>,
    pub(super) ending: Ending,
    /// The kernel ended the trial's memory group.
    pub(super) memory_killed: bool,
    /// Measured CPU time lies beyond the limit.
    pub(super) cpu_over: bool,
    /// Measured peak memory lies beyond the limit.
    pub(super) memory_over: bool,
    pub(super) has_cpu_limit: bool,
    pub(super) gathered: &'a Gathered,
    pub(super) metrics: &'a [MetricRule],
    pub(super) stage: Stage,
    /// No further attempt is allowed.
    pub(super) last_attempt: bool,
}

/// Signals that come from people, schedulers and the kernel's memory killer, not from a fault of
/// the program.
fn from_outside(signal: i32) -> bool {
    [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP].contains(&signal)
}

/// Splits that a stage may read (specification, section 6.6).
pub(super) fn splits(stage: Stage) -> &'static [&'static str] {
    match stage {
        Stage::Pilot | Stage::Tune => &["train", "validation"],
        _ => &["train", "validation", "test"],
    }
}

/// State and reason.
pub(super) fn classify(evidence: &Evidence<'_>) -> (Status, Option<String>) {
    let because = |status, reason: &str| (status, Some(reason.to_owned()));
    match evidence.cause {
        Some(Cause::Wall) => return because(Status::Timeout, "wall"),
        Some(Cause::Cpu) => return because(Status::Timeout, "cpu"),
        Some(Cause::Memory) => return because(Status::Memout, "memory"),
        Some(Cause::Events) => {
            return because(Status::Crash, "the event file grew beyond its limit");
        }
        Some(Cause::Stop | Cause::LeaseLost) | None => {}
    }
    if evidence.memory_killed || evidence.memory_over {
        return because(Status::Memout, "memory");
    }
    if evidence.cpu_over
        || (evidence.has_cpu_limit && evidence.ending.signal == Some(libc::SIGXCPU))
    {
        return because(Status::Timeout, "cpu");
    }
    match evidence.ending {
        Ending { signal: Some(signal), .. } if from_outside(signal) => {
            let name = signal_name(signal);
            if evidence.last_attempt {
                (Status::Crash, Some(format!("lost: {name} from outside")))
            } else {
                (Status::Lost, Some(format!("{name} from outside")))
            }
        }
        Ending { signal: Some(signal), .. } => (Status::Crash, Some(signal_name(signal))),
        Ending { exit_code: Some(0), .. } => finished(evidence),
        Ending { exit_code: Some(code), .. } => (Status::Crash, Some(format!("exit code {code}"))),
        // The supervisor was killed and could not say how the trial ended.
        Ending { exit_code: None, signal: None } => {
            if evidence.last_attempt {
                because(Status::Crash, "lost: its supervisor was killed")
            } else {
                because(Status::Lost, "its supervisor was killed")
            }
        }
    }
}

/// A trial that exited with 0.
fn finished(evidence: &Evidence<'_>) -> (Status, Option<String>) {
    let gathered = evidence.gathered;
    if !gathered.done {
        let reason = match gathered.defects.first() {
            Some(defect) => format!("no done line; {defect}"),
            None => "no done line".to_owned(),
        };
        return (Status::Crash, Some(reason));
    }
    let mut faults = gathered.defects.clone();
    let allowed = splits(evidence.stage);
    for metric in &gathered.metrics {
        if !allowed.contains(&metric.split.as_str()) {
            faults.push(format!(
                "metric `{}`: the split `{}` must not be read in this stage",
                metric.name, metric.split
            ));
        }
    }
    for rule in evidence.metrics.iter().filter(|rule| allowed.contains(&rule.split.as_str())) {
        // Test values stay out of the reason: it is not sealed.
        let of = gathered.metrics.iter().find(|m| m.name == rule.name && m.split == rule.split);
        let name = format!("metric `{}` ({})", rule.name, rule.split);
        match of {
            None if rule.required => faults.push(format!("{name} is missing")),
            None => {}
            Some(metric) if !metric.value.0.is_finite() && !rule.allow_nonfinite => {
                faults.push(format!("{name} is not finite"));
            }
            Some(metric) if !metric.value.0.is_finite() => {}
            Some(metric) => {
                if let Some((low, high)) = rule.range
                    && !(low..=high).contains(&metric.value.0)
                {
                    faults.push(format!("{name} lies outside [{low}, {high}]"));
                }
            }
        }
    }
    if faults.is_empty() {
        return (Status::Ok, None);
    }
    (Status::Invalid, Some(faults.join("; ")))
}

/// `SIGSEGV` and the like.
pub(super) fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("signal {signal}"), |known| known.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::record::Metric, trial::Number};

    fn rule(name: &str, split: &str) -> MetricRule {
        MetricRule {
            name: name.to_owned(),
            split: split.to_owned(),
            range: Some((0.0, 1.0)),
            required: true,
            allow_nonfinite: false,
            timed: false,
        }
    }

    fn gathered(values: &[(&str, &str, f64)]) -> Gathered {
        Gathered {
            metrics: values
                .iter()
                .map(|(name, split, value)| Metric {
                    name: (*name).to_owned(),
                    split: (*split).to_owned(),
                    value: Number(*value),
                })
                .collect(),
            done: true,
            ..Gathered::default()
        }
    }

    fn evidence<'a>(gathered: &'a Gathered, metrics: &'a [MetricRule]) -> Evidence<'a> {
        Evidence {
            cause: None,
            ending: Ending { exit_code: Some(0), signal: None },
            memory_killed: false,
            cpu_over: false,
            memory_over: false,
            has_cpu_limit: false,
            gathered,
            metrics,
            stage: Stage::Main,
            last_attempt: false,
        }
    }

    #[test]
    fn exit_zero_needs_done_and_every_metric_in_range() {
        let rules = [rule("e", "test"), rule("v", "validation")];
        let good = gathered(&[("e", "test", 0.5), ("v", "validation", 1.0)]);
        assert_eq!(classify(&evidence(&good, &rules)), (Status::Ok, None));
        let mut undone = good;
        undone.done = false;
        assert_eq!(classify(&evidence(&undone, &rules)).0, Status::Crash);
        for (values, word) in [
            (vec![("e", "test", 0.5)], "missing"),
            (vec![("e", "test", 98765.0), ("v", "validation", 1.0)], "outside"),
            (vec![("e", "test", f64::NAN), ("v", "validation", 1.0)], "not finite"),
        ] {
            let bad = gathered(&values);
            let (status, reason) = classify(&evidence(&bad, &rules));
            assert_eq!(status, Status::Invalid);
            let reason = reason.unwrap();
            assert!(reason.contains(word), "{reason}");
            assert!(!reason.contains("98765"), "a sealed value is in the reason: {reason}");
        }
    }

    #[test]
    fn pilot_and_tune_must_not_read_the_test_split() {
        let rules = [rule("e", "test"), rule("v", "validation")];
        let without = gathered(&[("v", "validation", 0.1)]);
        let with = gathered(&[("v", "validation", 0.1), ("e", "test", 0.1)]);
        for stage in [Stage::Pilot, Stage::Tune] {
            let fine = Evidence { stage, ..evidence(&without, &rules) };
            assert_eq!(classify(&fine).0, Status::Ok);
            let peeked = Evidence { stage, ..evidence(&with, &rules) };
            assert_eq!(classify(&peeked).0, Status::Invalid);
        }
    }

    #[test]
    fn limits_come_before_what_the_program_says() {
        let good = gathered(&[]);
        for (cause, status) in [
            (Cause::Wall, Status::Timeout),
            (Cause::Cpu, Status::Timeout),
            (Cause::Memory, Status::Memout),
            (Cause::Events, Status::Crash),
        ] {
            let ended = Evidence { cause: Some(cause), ..evidence(&good, &[]) };
            assert_eq!(classify(&ended).0, status);
        }
        let over = Evidence { memory_over: true, ..evidence(&good, &[]) };
        assert_eq!(classify(&over).0, Status::Memout);
        let by_signal = |signal| Ending { exit_code: None, signal: Some(signal) };
        let cpu = Evidence {
            has_cpu_limit: true,
            ending: by_signal(libc::SIGXCPU),
            ..evidence(&good, &[])
        };
        assert_eq!(classify(&cpu), (Status::Timeout, Some("cpu".to_owned())));
    }

    #[test]
    fn only_losses_are_tried_again() {
        let good = gathered(&[]);
        let by_signal = |signal| Ending { exit_code: None, signal: Some(signal) };
        for (ending, status) in [
            (by_signal(libc::SIGKILL), Status::Lost),
            (by_signal(libc::SIGTERM), Status::Lost),
            (by_signal(libc::SIGSEGV), Status::Crash),
            (by_signal(libc::SIGABRT), Status::Crash),
            (Ending { exit_code: Some(3), signal: None }, Status::Crash),
            (Ending::default(), Status::Lost),
        ] {
            let ended = Evidence { ending, ..evidence(&good, &[]) };
            assert_eq!(classify(&ended).0, status, "{ending:?}");
            let last = Evidence { last_attempt: true, ..ended };
            let (state, reason) = classify(&last);
            assert_eq!(state, Status::Crash);
            assert_eq!(status == Status::Lost, reason.unwrap().starts_with("lost"));
        }
    }
}
