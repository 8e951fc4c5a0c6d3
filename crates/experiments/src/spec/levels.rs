//! From written levels to the levels of a factor, all of one type.

use super::document::{Levels, Scalar, Spaced, StepRange};
use crate::identity::Value;

/// More levels than this are a slip of the pen.
const MOST_LEVELS: f64 = 10_000.0;

/// The levels in order. Whole numbers beside floats become floats.
///
/// Errors say what was expected and found; the caller knows where.
pub(super) fn expand(levels: &Levels) -> Result<Vec<Value>, String> {
    match levels {
        Levels::List(values) => one_type(values),
        Levels::Rule(rule) => {
            let given = [rule.range.is_some(), rule.linspace.is_some(), rule.logspace.is_some()];
            match (given.iter().filter(|g| **g).count(), &rule.range, &rule.linspace) {
                (1, Some(range), _) => steps(range),
                (1, None, Some(spaced)) => linspace(spaced),
                (1, None, None) => logspace(rule.logspace.as_ref().expect("the one given")),
                (n, ..) => {
                    Err(format!("expected one of `range`, `linspace`, `logspace`, found {n}"))
                }
            }
        }
    }
}

/// The values in one type, or why they have none.
pub(super) fn one_type(values: &[Value]) -> Result<Vec<Value>, String> {
    let first = values.first().ok_or("expected at least one level, found none")?;
    let like = values.iter().find(|v| matches!(v, Value::Float(_))).unwrap_or(first);
    values
        .iter()
        .map(|value| {
            let value = value.clone().in_type_of(like);
            if std::mem::discriminant(&value) != std::mem::discriminant(like) {
                let (expected, found) = (like.type_word(), value.type_word());
                return Err(format!(
                    "expected levels of one type, found {expected} `{like}` and {found} `{value}`"
                ));
            }
            match value {
                Value::Float(x) if !x.is_finite() => {
                    Err(format!("expected finite levels, found {x}"))
                }
                value => Ok(value),
            }
        })
        .collect()
}

fn steps(range: &StepRange) -> Result<Vec<Value>, String> {
    if let (Scalar::Int(start), Scalar::Int(stop), Scalar::Int(step)) =
        (range.start, range.stop, range.step)
    {
        let distance = i128::from(stop) - i128::from(start);
        let step = i128::from(step);
        check_steps(distance as f64, step as f64)?;
        let count = (distance + step - step.signum()) / step;
        return Ok((0..count).map(|i| Value::Int((i128::from(start) + i * step) as i64)).collect());
    }
    let [start, stop, step] = [range.start, range.stop, range.step].map(number);
    check_steps(stop - start, step)?;
    // a last step that misses `stop` by rounding alone is not a level
    let count = ((stop - start) / step - 1e-9).ceil().max(1.0);
    // start + i * step rather than a running sum: the last level is as exact as the first
    Ok((0..count as u64).map(|i| Value::Float(start + i as f64 * step)).collect())
}

fn check_steps(distance: f64, step: f64) -> Result<(), String> {
    if !(distance.is_finite() && step.is_finite()) {
        return Err("expected finite `start`, `stop` and `step`".into());
    }
    if step == 0.0 || distance == 0.0 || distance.signum() != step.signum() {
        return Err(format!(
            "`step` = {step} never leads from `start` towards `stop`, {distance} away"
        ));
    }
    if distance / step > MOST_LEVELS {
        return Err(format!("expected at most {MOST_LEVELS} levels, found {:.0}", distance / step));
    }
    Ok(())
}

fn linspace(spaced: &Spaced) -> Result<Vec<Value>, String> {
    check_spaced(spaced)?;
    Ok(shares(spaced.count)
        .map(|share| Value::Float(spaced.start * (1.0 - share) + spaced.stop * share))
        .collect())
}

fn logspace(spaced: &Spaced) -> Result<Vec<Value>, String> {
    check_spaced(spaced)?;
    let (start, stop) = (spaced.start, spaced.stop);
    if start <= 0.0 || stop <= 0.0 {
        return Err(format!("expected positive ends, found {start} and {stop}"));
    }
    let between = |share: f64| match share {
        0.0 => start,
        1.0 => stop,
        share => (start.ln() * (1.0 - share) + stop.ln() * share).exp(),
    };
    Ok(shares(spaced.count).map(|share| Value::Float(between(share))).collect())
}

fn check_spaced(spaced: &Spaced) -> Result<(), String> {
    if !(spaced.start.is_finite() && spaced.stop.is_finite()) {
        return Err("expected finite `start` and `stop`".into());
    }
    if f64::from(spaced.count) > MOST_LEVELS || spaced.count < 2 {
        return Err(format!("expected `count` in 2..={MOST_LEVELS}, found {}", spaced.count));
    }
    Ok(())
}

fn shares(count: u32) -> impl Iterator<Item = f64> {
    (0..count).map(move |i| f64::from(i) / f64::from(count - 1))
}

fn number(scalar: Scalar) -> f64 {
    match scalar {
        Scalar::Int(i) => i as f64,
        Scalar::Float(x) => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(toml: &str) -> Result<Vec<Value>, String> {
        #[derive(serde::Deserialize)]
        struct Doc {
            x: Levels,
        }
        expand(&toml::from_str::<Doc>(&format!("x = {toml}")).unwrap().x)
    }

    fn ints(values: &[i64]) -> Vec<Value> {
        values.iter().map(|i| Value::Int(*i)).collect()
    }

    fn floats(values: &[f64]) -> Vec<Value> {
        values.iter().map(|x| Value::Float(*x)).collect()
    }

    #[test]
    fn lists_take_one_type() {
        assert_eq!(levels("[1, 2]").unwrap(), ints(&[1, 2]));
        assert_eq!(levels("[1, 0.5]").unwrap(), floats(&[1.0, 0.5]));
        assert!(levels("[1, \"a\"]").unwrap_err().contains("one type"));
        assert!(levels("[true, 1]").unwrap_err().contains("one type"));
        assert!(levels("[]").unwrap_err().contains("at least one"));
        assert!(levels("[nan]").unwrap_err().contains("finite"));
    }

    #[test]
    fn ranges_stop_before_their_end() {
        let range = |text: &str| levels(&format!("{{ range = {{ {text} }} }}"));
        assert_eq!(range("start = 16, stop = 65, step = 16").unwrap(), ints(&[16, 32, 48, 64]));
        assert_eq!(range("start = 0, stop = 3").unwrap(), ints(&[0, 1, 2]));
        assert_eq!(range("start = 3, stop = 0, step = -2").unwrap(), ints(&[3, 1]));
        let tenths = range("start = 0.0, stop = 0.3, step = 0.1").unwrap();
        assert_eq!(tenths, floats(&[0.0, 0.1, 0.2]));
        assert!(range("start = 0, stop = 3, step = 0").is_err());
        assert!(range("start = 0, stop = 3, step = -1").is_err());
        assert!(range("start = 0, stop = 9000000000000000000").is_err());
        assert!(range("start = 0.0, stop = inf, step = 1").is_err());
        assert!(range("start = 0.0, stop = nan").is_err());
    }

    #[test]
    fn spaced_levels_include_both_ends() {
        let lin = levels("{ linspace = { start = 0, stop = 1, count = 5 } }").unwrap();
        assert_eq!(lin, floats(&[0.0, 0.25, 0.5, 0.75, 1.0]));
        let log = levels("{ logspace = { start = 1e-4, stop = 1e-2, count = 3 } }").unwrap();
        assert_eq!(log[0], Value::Float(1e-4));
        assert_eq!(log[2], Value::Float(1e-2));
        assert!(levels("{ logspace = { start = 0, stop = 1, count = 3 } }").is_err());
        assert!(levels("{ linspace = { start = 0, stop = 1, count = 1 } }").is_err());
        assert!(levels("{ }").unwrap_err().contains("found 0"));
    }
}
