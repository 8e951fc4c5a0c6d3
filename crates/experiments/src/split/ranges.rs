//! Sets of row numbers as sorted half-open ranges: a million rows cost a few bytes.

/// A non-empty set of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// From half-open ranges in any order.
    ///
    /// # Errors
    /// Says what is wrong: no range, an empty or reversed range, a number in two ranges.
    pub fn new(ranges: &[[u64; 2]]) -> Result<Self, String> {
        if ranges.is_empty() {
            return Err("expected at least one range, found none".into());
        }
        if let Some([start, stop]) = ranges.iter().find(|[start, stop]| start >= stop) {
            return Err(format!("expected start < stop, found [{start}, {stop}]"));
        }
        let mut sorted: Vec<(u64, u64)> = ranges.iter().map(|[a, b]| (*a, *b)).collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            return Err(format!("{} lies in two ranges", pair[1].0));
        }
        Ok(Self::merged(sorted))
    }

    /// From text with one number per line; blank lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// Names the line that is no number, or a number that appears twice.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rows = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let row = line.parse::<u64>().ok().filter(|row| *row < u64::MAX);
            rows.push(row.ok_or_else(|| format!("line {}: expected a row number", i + 1))?);
        }
        if rows.is_empty() {
            return Err("expected at least one row number, found none".into());
        }
        rows.sort_unstable();
        if let Some([twice, _]) = rows.array_windows().find(|[a, b]| a == b) {
            return Err(format!("row {twice} appears twice"));
        }
        Ok(Self::merged(rows.into_iter().map(|row| (row, row + 1)).collect()))
    }

    /// Joins neighbours; the input is sorted and disjoint.
    fn merged(sorted: Vec<(u64, u64)>) -> Self {
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, stop) in sorted {
            match merged.last_mut() {
                Some(last) if last.1 == start => last.1 = stop,
                _ => merged.push((start, stop)),
            }
        }
        Self(merged)
    }

    /// `0-4,7,9-11`: both ends included, neighbours joined. The same set always gives the same text,
    /// so the SHA-256 of it names the set.
    pub fn canonical(&self) -> String {
        let words = self.0.iter().map(|(start, stop)| match stop - 1 {
            last if last == *start => last.to_string(),
            last => format!("{start}-{last}"),
        });
        words.collect::<Vec<_>>().join(",")
    }

    /// The largest member.
    pub fn last(&self) -> u64 {
        self.0[self.0.len() - 1].1 - 1
    }

    /// Number of members.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(start, stop)| stop - start).sum()
    }

    /// Members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(start, stop)| *start..*stop)
    }

    /// Whether a number is a member.
    pub fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= number);
        after > 0 && number < self.0[after - 1].1
    }

    /// The smallest number that both sets have.
    pub fn first_shared(&self, other: &Self) -> Option<u64> {
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            let start = a.0.max(b.0);
            if start < a.1.min(b.1) {
                return Some(start);
            }
            if a.1 <= b.1 { i += 1 } else { j += 1 }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn refuses_what_is_no_set() {
        assert!(Ranges::new(&[]).unwrap_err().contains("at least one"));
        assert!(Ranges::new(&[[3, 3]]).unwrap_err().contains("start < stop"));
        assert!(Ranges::new(&[[0, 5], [4, 9]]).unwrap_err().contains("4 lies in two"));
        assert!(Ranges::parse("1\nx\n").unwrap_err().contains("line 2"));
        assert!(Ranges::parse("1\n1\n").unwrap_err().contains("twice"));
        assert!(Ranges::parse("# none\n").is_err());
        assert!(Ranges::parse(&u64::MAX.to_string()).is_err());
    }

    #[test]
    fn neighbours_join() {
        let joined = Ranges::new(&[[5, 9], [0, 5]]).unwrap();
        assert_eq!(joined, Ranges::new(&[[0, 9]]).unwrap());
        assert_eq!((joined.count(), joined.last()), (9, 8));
        assert_eq!(Ranges::parse("9\n0\n2\n1\n7\n10\n").unwrap().canonical(), "0-2,7,9-10");
        assert_eq!(Ranges::parse("2\n0\n1\n").unwrap(), Ranges::new(&[[0, 3]]).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_sets(
            a in prop::collection::btree_set(0_u64..40, 1..20),
            b in prop::collection::btree_set(0_u64..40, 1..20),
        ) {
            let lines = |s: &BTreeSet<u64>| s.iter().map(|x| format!("{x}\n")).collect::<String>();
            let (ra, rb) = (Ranges::parse(&lines(&a)).unwrap(), Ranges::parse(&lines(&b)).unwrap());
            prop_assert_eq!(ra.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(ra.count() as usize, a.len());
            prop_assert_eq!(ra.first_shared(&rb), a.intersection(&b).next().copied());
            for x in 0..40 {
                prop_assert_eq!(ra.contains(x), a.contains(&x));
            }
        }
    }
}
