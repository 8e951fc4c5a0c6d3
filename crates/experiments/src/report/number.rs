//! Numbers as a report prints them: never more digits than the interval supports.

use crate::stats::{Interval, IntervalFlag};

/// Decimals that show two significant digits of `half_width`, 0 to 8.
pub fn decimals(half_width: f64) -> usize {
    if !half_width.is_finite() || half_width <= 0.0 {
        return 4;
    }
    (1.0 - half_width.log10().floor()).clamp(0.0, 8.0) as usize
}

/// `0.1123 [0.104, 0.121]`, to two significant digits of the half-width.
pub fn with_interval(interval: &Interval) -> String {
    if interval.has(IntervalFlag::Uninformative) {
        return format!("{} (one run, no interval)", plain(interval.point));
    }
    let d = decimals(interval.half_width());
    let few = if interval.has(IntervalFlag::FewRuns) { " (few runs)" } else { "" };
    let [point, lo, hi] = [interval.point, interval.lo, interval.hi].map(|x| fixed(x, d));
    format!("{point} [{lo}, {hi}]{few}")
}

/// `x` with `decimals` digits; what rounds to zero has no sign.
fn fixed(x: f64, decimals: usize) -> String {
    let text = format!("{x:.decimals$}");
    match text.strip_prefix('-') {
        Some(zero) if zero.bytes().all(|b| matches!(b, b'0' | b'.')) => zero.to_owned(),
        _ => text,
    }
}

/// `p = 0.013 (Holm)` or `p < 0.001 (Holm)`.
pub fn p_value(p: f64, correction: &str) -> String {
    let suffix = if correction.is_empty() { String::new() } else { format!(" ({correction})") };
    if p < 0.001 { format!("p < 0.001{suffix}") } else { format!("p = {p:.3}{suffix}") }
}

/// Four significant digits without an exponent where that is readable.
pub fn plain(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let magnitude = x.abs().log10().floor();
    if (-4.0..7.0).contains(&magnitude) {
        let d = (3.0 - magnitude).clamp(0.0, 8.0) as usize;
        let text = format!("{x:.d$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    } else {
        format!("{x:.3e}")
    }
}

/// Seconds as `42 s`, `3.1 min` or `2.4 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Unix milliseconds as UTC, to the second.
pub fn utc(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| millis.to_string(), |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_the_half_width() {
        assert_eq!(decimals(0.012), 3);
        assert_eq!(decimals(0.5), 2);
        assert_eq!(decimals(12.0), 0);
        assert_eq!(decimals(0.0), 4);
    }

    #[test]
    fn zero_has_no_sign() {
        assert_eq!(fixed(-0.00001, 4), "0.0000");
        assert_eq!(fixed(-0.0, 0), "0");
        assert_eq!(fixed(-0.26, 1), "-0.3");
    }

    #[test]
    fn p_values_are_never_zero() {
        assert_eq!(p_value(0.0131, "Holm"), "p = 0.013 (Holm)");
        assert_eq!(p_value(1e-9, ""), "p < 0.001");
    }

    #[test]
    fn plain_numbers_are_readable() {
        assert_eq!(plain(0.0), "0");
        assert_eq!(plain(0.05), "0.05");
        assert_eq!(plain(1234.5), "1234");
        assert_eq!(plain(-3.0), "-3");
        assert_eq!(plain(4.2e9), "4.200e9");
        assert_eq!(duration(90.0), "90.0 s");
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
    }
}
