//! Sets of indices as increasing ranges, and the text that their hash is taken of.

use std::fmt::Write as _;
use std::ops::Range;

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

/// Sorts half-open pairs and joins neighbours; what is wrong with them otherwise.
pub(crate) fn from_pairs(pairs: &[[u64; 2]]) -> Result<Vec<Range<u64>>, String> {
    let mut sorted: Vec<Range<u64>> = Vec::with_capacity(pairs.len());
    for &[start, end] in pairs {
        if start >= end {
            return Err(format!("[{start}, {end}]"));
        }
        sorted.push(start..end);
    }
    sorted.sort_by_key(|r| r.start);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match ranges.last_mut() {
            Some(last) if range.start < last.end => {
                return Err(format!("{} in two ranges", range.start));
            }
            Some(last) if range.start == last.end => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    Ok(ranges)
}

/// `0-4,7,9-11`: both ends included, neighbours joined, so that one set has one text.
pub(crate) fn canonical(ranges: &[Range<u64>]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_and_come_back() {
        let ranges = into_ranges(vec![9, 0, 2, 1, 7, 10]);
        assert_eq!(ranges, [0..3, 7..8, 9..11]);
        assert_eq!(canonical(&ranges), "0-2,7,9-10");
        assert_eq!(canonical(&[]), "");
        assert_eq!(from_pairs(&[[9, 11], [0, 2], [7, 8], [2, 3]]).unwrap(), ranges);
        assert_eq!(from_pairs(&[[3, 3]]).unwrap_err(), "[3, 3]");
        assert_eq!(from_pairs(&[[0, 3], [2, 4]]).unwrap_err(), "2 in two ranges");
    }
}
