//! "Did you mean": the nearest known word.

/// Advice that names the known word nearest to `found`, when one is near enough, and otherwise the
/// known words when they are few.
pub(crate) fn advice<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(word) = nearest(found, &known) {
        return Some(format!("did you mean `{word}`?"));
    }
    (!known.is_empty() && known.len() <= 24).then(|| format!("known: {}", known.join(", ")))
}

/// As [`advice`], for messages that list the known words themselves.
pub(crate) fn near<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    nearest(found, &known).map(|word| format!("did you mean `{word}`?"))
}

/// The known word at the smallest distance, if at most a third of its letters differ.
fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, word) =
        known.iter().map(|word| (distance(found, word), *word)).min_by_key(|(d, _)| *d)?;
    let longest = found.chars().count().max(word.chars().count());
    (distance <= (longest / 3).max(1)).then_some(word)
}

/// Edit distance in which swapping two neighbouring letters counts once.
fn distance(a: &str, b: &str) -> usize {
    let fold = |s: &str| s.replace('-', "_").to_lowercase().chars().collect::<Vec<_>>();
    let (a, b) = (fold(a), fold(b));
    // a key is short; a pasted paragraph is not worth a large table
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_near_and_lists_the_rest() {
        let known = ["repetitions", "budget", "metric"];
        assert_eq!(advice("repetitons", known).unwrap(), "did you mean `repetitions`?");
        assert_eq!(advice("bugdet", known).unwrap(), "did you mean `budget`?");
        assert_eq!(advice("colour", known).unwrap(), "known: repetitions, budget, metric");
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(advice("x", []), None);
    }
}
