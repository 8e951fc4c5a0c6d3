//! Measured text: advance widths from the embedded font, wrapping, shortening and number formats.
//!
//! The font is Liberation Sans (SIL Open Font Licence 1.1, `assets/fonts/`), which has the advance
//! widths of Arial and Helvetica. A layout measured with it therefore holds in print and in nearly
//! every browser; the canvas also writes the measured width into `textLength`, so that a wider
//! substitute font is squeezed instead of running into its neighbour.

use std::sync::OnceLock;

use ttf_parser::Face;

/// The embedded font, also handed to the rasteriser.
pub(crate) static FONT: &[u8] = include_bytes!("../../assets/fonts/LiberationSans-Regular.ttf");

/// Body text: axis labels, tick labels, legends (points).
pub(crate) const BODY: f64 = 8.0;
/// Title of a figure (points).
pub(crate) const TITLE: f64 = 9.0;
/// Notes under a figure (points).
pub(crate) const SMALL: f64 = 7.0;
/// Distance of base lines as a multiple of the font size.
pub(crate) const LEADING: f64 = 1.2;
/// Height of a capital letter as a multiple of the font size.
pub(crate) const CAP: f64 = 0.716;

fn face() -> &'static Face<'static> {
    static FACE: OnceLock<Face<'static>> = OnceLock::new();
    FACE.get_or_init(|| Face::parse(FONT, 0).expect("the embedded font is a valid TrueType file"))
}

fn advance(c: char) -> f64 {
    let face = face();
    // A character that the font lacks is counted as a full square: the widest a substitute gets.
    face.glyph_index(c)
        .and_then(|g| face.glyph_hor_advance(g))
        .map_or(1.0, |a| f64::from(a) / f64::from(face.units_per_em()))
}

/// Width of `text` at `size` points.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(advance).sum::<f64>() * size
}

/// The longest of several widths, 0 for none.
pub(crate) fn widest<'a>(texts: impl IntoIterator<Item = &'a str>, size: f64) -> f64 {
    texts.into_iter().map(|t| width(t, size)).fold(0.0, f64::max)
}

/// Cuts `text` at its start so that `…` and the rest fit: names of one family differ at their end.
fn keep_tail(text: &str, size: f64, max_width: f64) -> String {
    if width(text, size) <= max_width {
        return text.to_owned();
    }
    let room = max_width - width("…", size);
    let (mut used, mut start) = (0.0, text.len());
    for (i, c) in text.char_indices().rev() {
        used += advance(c) * size;
        if used > room {
            break;
        }
        start = i;
    }
    format!("…{}", text[start..].trim_start())
}

/// Cuts `text` to one line of at most `max_width`, with `…` in the middle, keeping both ends.
pub(crate) fn shorten(text: &str, size: f64, max_width: f64) -> String {
    if width(text, size) <= max_width {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    for keep in (1..chars.len()).rev() {
        let (head, tail) = (keep.div_ceil(2), keep / 2);
        let cut: String = chars[..head]
            .iter()
            .chain(std::iter::once(&'…'))
            .chain(&chars[chars.len() - tail..])
            .collect();
        if width(&cut, size) <= max_width {
            return cut;
        }
    }
    "…".to_owned()
}

/// Breaks `text` into at most `max_lines` lines of at most `max_width` points.
///
/// Lines break after a space or one of `-_/.,:+=`, and inside a word only when the word alone is
/// too wide. What does not fit into the last line loses its start (see `keep_tail`).
pub(crate) fn wrap(text: &str, size: f64, max_width: f64, max_lines: usize) -> Vec<String> {
    let text = text.trim();
    let mut lines: Vec<String> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if lines.len() + 1 >= max_lines || width(rest, size) <= max_width {
            lines.push(keep_tail(rest, size, max_width));
            break;
        }
        let (mut used, mut soft, mut hard) = (0.0, None, 0);
        for (i, c) in rest.char_indices() {
            used += advance(c) * size;
            if used > max_width {
                // A space that does not fit may still end the line.
                if c == ' ' {
                    soft = Some(i);
                }
                break;
            }
            hard = i + c.len_utf8();
            // A no-break space also holds what stands before it.
            if " -_/.,:+=".contains(c) && !rest[hard..].starts_with('\u{a0}') {
                soft = Some(hard);
            }
        }
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let cut = soft.filter(|&s| s > 0).unwrap_or(hard).max(first);
        lines.push(rest[..cut].trim_end().to_owned());
        rest = rest[cut..].trim_start();
    }
    if lines.is_empty() {
        lines.push(String::new());
    }
    lines
}

/// Like [`wrap`], with the lines made about equally long: the narrowest block of as many lines.
pub(crate) fn balanced(text: &str, size: f64, max_width: f64, max_lines: usize) -> Vec<String> {
    let lines = wrap(text, size, max_width, max_lines);
    if lines.len() < 2 || lines.iter().any(|l| l.starts_with('…')) {
        return lines;
    }
    let clean = wraps_cleanly(text, size, max_width, max_lines);
    // 12 halvings of a width below 200 points find it to a twentieth of a point.
    let (mut narrow, mut wide, mut best) = (0.0, max_width, lines);
    for _ in 0..12 {
        let middle = f64::midpoint(narrow, wide);
        let tried = wrap(text, size, middle, max_lines);
        let whole = !clean || wraps_cleanly(text, size, middle, max_lines);
        if tried.len() == best.len() && whole && !tried.iter().any(|l| l.starts_with('…')) {
            wide = middle;
            best = tried;
        } else {
            narrow = middle;
        }
    }
    best
}

/// Whether `wrap` would break `text` only at the places meant for it.
pub(crate) fn wraps_cleanly(text: &str, size: f64, max_width: f64, max_lines: usize) -> bool {
    let lines = wrap(text, size, max_width, max_lines);
    let kept: String = lines.concat().chars().filter(|c| !c.is_whitespace()).collect();
    let all: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let words_fit = text
        .split_inclusive([' ', '-', '_', '/', '.', ',', ':', '+', '='])
        .all(|word| width(word.trim_end(), size) <= max_width);
    kept == all && words_fit
}

/// `v` with `decimals` places and a true minus sign.
pub(crate) fn fixed(v: f64, decimals: usize) -> String {
    let text = format!("{v:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|b| b == b'0' || b == b'.') => digits.to_owned(),
        Some(digits) => format!("\u{2212}{digits}"),
        None => text,
    }
}

/// `v` to `digits` significant digits for people: `0.123`, `12.3`, `1234`, `1.23e7`.
pub(crate) fn short(v: f64, digits: usize) -> String {
    if v == 0.0 {
        return "0".to_owned();
    }
    let exponent = v.abs().log10().floor() as i32;
    if !(-4..=5).contains(&exponent) {
        let text = format!("{:.*e}", digits.saturating_sub(1), v);
        return text.replace('-', "\u{2212}");
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    fixed(v, decimals)
}

/// As [`short`], without zeros at the end: `0.05`, `1`.
pub(crate) fn brief(v: f64, digits: usize) -> String {
    let text = short(v, digits);
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// `p = 0.013`, or `p < 0.001` below that.
pub(crate) fn p_value(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {}", brief(p, 2)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_arial() {
        // Arial: digit 1139, 'i' 455, 'W' 1933 of 2048 units.
        assert!((width("0", 2048.0) - 1139.0).abs() < 1e-9);
        assert!((width("iW", 2048.0) - 2388.0).abs() < 1e-9);
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        for text in
            ["a", "alpha-beta-gamma delta", "Donaudampfschifffahrtsgesellschaft", "漢字漢字漢字"]
        {
            for max in [12.0, 30.0, 61.0] {
                for lines in 1..4 {
                    let got = wrap(text, 8.0, max, lines);
                    assert!(got.len() <= lines && !got.is_empty());
                    assert!(got.iter().all(|l| width(l, 8.0) <= max), "{text} {max} {got:?}");
                    assert!(width(&shorten(text, 8.0, max), 8.0) <= max);
                }
            }
        }
    }

    #[test]
    fn breaks_at_separators_and_keeps_the_end() {
        assert_eq!(wrap("random search", 8.0, 40.0, 2), ["random", "search"]);
        assert!(wrap("a_very_long_name_of_a_method_v2", 8.0, 50.0, 2)[1].ends_with("v2"));
        assert!(wraps_cleanly("random search", 8.0, 40.0, 2));
        assert!(!wraps_cleanly("randomsearchingly", 8.0, 40.0, 3));
    }

    #[test]
    fn balanced_lines_hold_everything() {
        let name = "baseline_random_growth_without_any_scoring_1";
        let lines = balanced(name, 8.0, 170.0, 3);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines.concat(), name);
        assert!(lines[1].len() > 10, "{lines:?}");
        assert_eq!(balanced("short", 8.0, 170.0, 3), ["short"]);
    }

    #[test]
    fn numbers() {
        assert_eq!(brief(0.05, 2), "0.05");
        assert_eq!(brief(1.0, 2), "1");
        assert_eq!(brief(100.0, 2), "100");
        assert_eq!(short(0.01234, 3), "0.0123");
        assert_eq!(short(-1234.5, 3), "\u{2212}1234");
        assert_eq!(short(1.5e9, 3), "1.50e9");
        assert_eq!(fixed(-0.0001, 2), "0.00");
        assert_eq!(p_value(0.0001), "p < 0.001");
    }
}
