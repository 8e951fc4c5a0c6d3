//! Sets of indices as increasing ranges, and their text form in split files.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// Sorts indices and joins neighbours.
pub(crate) fn into_ranges(mut indices: Vec<u64>) -> Vec<Range<u64>> {
    indices.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for i in indices {
        match ranges.last_mut() {
            Some(last) if last.end == i => last.end += 1,
            _ => ranges.push(i..i + 1),
        }
    }
    ranges
}

/// `0-4,7,9-11`: both ends included, in increasing order.
pub(crate) fn write_ranges(ranges: &[Range<u64>]) -> String {
    let mut out = String::new();
    for range in ranges {
        let comma = if out.is_empty() { "" } else { "," };
        let last = range.end - 1;
        // Writing to a string cannot fail.
        let _ = if last == range.start {
            write!(out, "{comma}{last}")
        } else {
            write!(out, "{comma}{}-{last}", range.start)
        };
    }
    out
}

/// Reads what [`write_ranges`] writes; `part` names the place in errors.
pub(crate) fn read_ranges(path: &Path, part: &str, text: &str) -> Result<Vec<Range<u64>>> {
    let wrong = |found: &str| {
        Error::format(
            path,
            format!("{part}.ranges"),
            "increasing ranges such as 0-4,7,9-11",
            format!("`{found:.40}`"),
        )
    };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for item in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else {
            return Err(wrong(item));
        };
        let end = last.checked_add(1).ok_or_else(|| wrong(item))?;
        if first > last || ranges.last().is_some_and(|r| first < r.end) {
            return Err(wrong(item));
        }
        ranges.push(first..end);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_and_come_back() {
        let ranges = into_ranges(vec![9, 0, 2, 1, 7, 10]);
        assert_eq!(ranges, [0..3, 7..8, 9..11]);
        let text = write_ranges(&ranges);
        assert_eq!(text, "0-2,7,9-10");
        assert_eq!(read_ranges(Path::new("s"), "train", &text).unwrap(), ranges);
        assert_eq!(read_ranges(Path::new("s"), "train", "").unwrap(), []);
        assert_eq!(write_ranges(&[]), "");
    }
}
