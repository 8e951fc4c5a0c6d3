//! Synthetic tasks (section 10): the MAD suite, MQAR, words of random automata, parity; and linear
//! dynamical systems (section 14).
//!
//! A task draws one sequence from a generator; nothing is remembered between draws, so a data set is
//! a range of seeds.
//!
//! Long because eight short generators stand beside each other with the tests that hold each to its rules.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;
use tensor_core::{
    Error, Result, SeedTree, Validate,
    config::{finite_in, in_range},
    interop,
};

/// Target of positions that do not count.
pub const IGNORE: i64 = -100;

/// A sequence of token ids and what is to be predicted at each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<i64>,
    /// Target of each position, [`IGNORE`] where none counts.
    pub targets: Vec<i64>,
}

/// A task over tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Task {
    /// MAD's recall: pairs of a key and the value that it has in this sequence; with noise, runs of
    /// meaningless tokens between the pairs. Ids: keys, values, noise.
    Recall {
        /// Token ids, noise included.
        vocab_size: i64,
        /// Length of a sequence, even.
        seq_len: i64,
        /// Noise ids.
        noise_vocab: i64,
        /// Share of the pairs that are noise.
        noise_frac: f64,
    },
    /// MAD's fuzzy recall: keys and values are motifs of one to three distinct tokens, sequences are
    /// padded on the left. Ids: keys, values, padding.
    FuzzyRecall {
        /// Token ids, the padding included.
        vocab_size: i64,
        /// Length of a sequence.
        seq_len: i64,
    },
    /// MAD's memorisation: a map from keys to values, fixed for the task; a sequence alternates keys
    /// and the insert token (the last id), where the value is to be predicted.
    Memorization {
        /// Token ids.
        vocab_size: i64,
        /// Length of a sequence, even.
        seq_len: i64,
        /// Seed of the map.
        map_seed: u64,
    },
    /// MAD's selective copying: tokens among blanks, then the copy token, then blanks, where the
    /// tokens are to be predicted in order. Ids: tokens, blank, copy.
    SelectiveCopy {
        /// Token ids.
        vocab_size: i64,
        /// Length of a sequence.
        seq_len: i64,
        /// Tokens to copy.
        n_copy: i64,
    },
    /// Multi-query associative recall: all pairs first, then each key once more, nearer ones oftener.
    Mqar {
        /// Token ids: keys below one half, values above.
        vocab_size: i64,
        /// Length of a sequence, even.
        seq_len: i64,
        /// Pairs.
        n_pairs: i64,
    },
    /// Words of a random automaton, separated by the last id; the next symbol is to be predicted.
    RegularLanguage {
        /// Symbols of the alphabet at most.
        max_symbols: i64,
    },
    /// Parity of the ones so far, at every position.
    Parity {
        /// Length of a sequence.
        seq_len: i64,
    },
}

impl Validate for Task {
    type Error = Error;

    fn check(&self) -> Result<()> {
        const LONGEST: i64 = 1 << 20;
        let even = |field, n: i64| {
            in_range(field, n, 4..=LONGEST)?;
            if n % 2 == 0 {
                return Ok(());
            }
            Err(Error::Config { field, why: format!("must be even, got {n}") })
        };
        match *self {
            Self::Recall { vocab_size, seq_len, noise_vocab, noise_frac } => {
                even("seq_len", seq_len)?;
                in_range("noise_vocab", noise_vocab, 0..=vocab_size - 4)?;
                in_range("vocab_size", vocab_size, 4..=LONGEST)?;
                finite_in("noise_frac", noise_frac, 0.0..=1.0)?;
                if noise_frac > 0.0 && noise_vocab == 0 {
                    let why = "must be at least 1 where there is noise".to_owned();
                    return Err(Error::Config { field: "noise_vocab", why });
                }
                Ok(())
            }
            Self::FuzzyRecall { vocab_size, seq_len } => {
                in_range("vocab_size", vocab_size, 7..=LONGEST)?;
                in_range("seq_len", seq_len, 12..=LONGEST)
            }
            Self::Memorization { vocab_size, seq_len, .. } => {
                in_range("vocab_size", vocab_size, 3..=LONGEST)?;
                even("seq_len", seq_len)
            }
            Self::SelectiveCopy { vocab_size, seq_len, n_copy } => {
                in_range("vocab_size", vocab_size, 3..=LONGEST)?;
                in_range("seq_len", seq_len, 3..=LONGEST)?;
                in_range("n_copy", n_copy, 1..=(seq_len - 1) / 2)
            }
            Self::Mqar { vocab_size, seq_len, n_pairs } => {
                even("seq_len", seq_len)?;
                in_range("n_pairs", n_pairs, 1..=seq_len / 4)?;
                in_range("vocab_size", vocab_size, 2 * n_pairs + 2..=LONGEST)
            }
            Self::RegularLanguage { max_symbols } => in_range("max_symbols", max_symbols, 4..=256),
            Self::Parity { seq_len } => in_range("seq_len", seq_len, 1..=LONGEST),
        }
    }
}

impl Task {
    /// Token ids that occur.
    pub fn vocab_size(&self) -> i64 {
        match *self {
            Self::Recall { vocab_size, .. }
            | Self::FuzzyRecall { vocab_size, .. }
            | Self::Memorization { vocab_size, .. }
            | Self::SelectiveCopy { vocab_size, .. }
            | Self::Mqar { vocab_size, .. } => vocab_size,
            Self::RegularLanguage { max_symbols } => max_symbols + 1,
            Self::Parity { .. } => 2,
        }
    }

    /// One sequence; the config must have been checked.
    pub fn draw(&self, rng: &mut impl Rng) -> Sequence {
        match *self {
            Self::Recall { vocab_size, seq_len, noise_vocab, noise_frac } => {
                recall(vocab_size, seq_len, noise_vocab, noise_frac, rng)
            }
            Self::FuzzyRecall { vocab_size, seq_len } => fuzzy(vocab_size, seq_len, rng),
            Self::Memorization { vocab_size, seq_len, map_seed } => {
                memorization(vocab_size, seq_len, map_seed, rng)
            }
            Self::SelectiveCopy { vocab_size, seq_len, n_copy } => {
                selective_copy(vocab_size, seq_len, n_copy, rng)
            }
            Self::Mqar { vocab_size, seq_len, n_pairs } => mqar(vocab_size, seq_len, n_pairs, rng),
            Self::RegularLanguage { max_symbols } => regular_language(max_symbols, rng),
            Self::Parity { seq_len } => parity(seq_len, rng),
        }
    }

    /// The sequences of some seeds as `ids` and `targets`, `[batch, seq_len]` of `Int64`; shorter ones are
    /// filled up at the end with id 0, which does not count.
    ///
    /// # Errors
    /// [`Error::Torch`] when memory runs out.
    pub fn batch(&self, seeds: &[u64]) -> Result<(Tensor, Tensor)> {
        let batch = seeds.len();
        let drawn: Vec<Sequence> =
            seeds.iter().map(|seed| self.draw(&mut SeedTree::new(*seed).rng())).collect();
        let longest = drawn.iter().map(|s| s.ids.len()).max().unwrap_or(0);
        let fill = |f: fn(&Sequence) -> &Vec<i64>, with: i64| {
            let rows = drawn.iter().flat_map(|s| {
                let row = f(s);
                row.iter().copied().chain(std::iter::repeat_n(with, longest - row.len()))
            });
            interop::from_slice(&rows.collect::<Vec<_>>(), &[batch as i64, longest as i64])
        };
        Ok((fill(|s| &s.ids, 0)?, fill(|s| &s.targets, IGNORE)?))
    }
}

fn shuffle(items: &mut [i64], rng: &mut impl Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.random_range(0..=i));
    }
}

/// `n` distinct numbers of a range.
fn distinct(range: std::ops::Range<i64>, n: usize, rng: &mut impl Rng) -> Vec<i64> {
    let mut all: Vec<i64> = range.collect();
    shuffle(&mut all, rng);
    all.truncate(n);
    all
}

fn recall(vocab: i64, seq_len: i64, noise: i64, frac: f64, rng: &mut impl Rng) -> Sequence {
    let (n_pairs, half) = (seq_len / 2, (vocab - noise) / 2);
    let mut ids = Vec::new();
    let mut targets = Vec::new();
    let mut values = BTreeMap::new();
    for pair in 0..n_pairs {
        let last = pair + 1 == n_pairs;
        // At least one pair stands before the last, which asks for a key that was there.
        if !last && pair > 0 && rng.random::<f64>() < frac {
            for _ in 0..2 {
                ids.push(vocab - noise + rng.random_range(0..noise));
                targets.push(IGNORE);
            }
            continue;
        }
        let key = if last {
            let seen: Vec<i64> = values.keys().copied().collect();
            seen[rng.random_range(0..seen.len())]
        } else {
            rng.random_range(0..half)
        };
        let known = values.contains_key(&key);
        let value = *values.entry(key).or_insert_with(|| half + rng.random_range(0..half));
        ids.extend([key, value]);
        targets.extend([if known { value } else { IGNORE }, IGNORE]);
    }
    Sequence { ids, targets }
}

fn fuzzy(vocab: i64, seq_len: i64, rng: &mut impl Rng) -> Sequence {
    let (pad, half) = (vocab - 1, (vocab - 1) / 2);
    let mut known: BTreeMap<Vec<i64>, Vec<i64>> = BTreeMap::new();
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    let mut emit = |key: &[i64], value: &[i64], counts: bool| {
        ids.extend(key.iter().chain(value));
        targets.extend(std::iter::repeat_n(IGNORE, key.len() - 1));
        // The value's tokens are predicted from the key's last and from one another.
        targets.extend(value.iter().map(|v| if counts { *v } else { IGNORE }));
        targets.push(IGNORE);
        ids.len()
    };
    // The probe has a key of three tokens; it is put in first, so that it was there.
    let probe = distinct(0..half, 3, rng);
    let probe_value = distinct(half..2 * half, rng.random_range(1..=3), rng);
    let room = seq_len as usize - probe.len() - probe_value.len();
    let mut len = emit(&probe, &probe_value, false);
    known.insert(probe.clone(), probe_value.clone());
    loop {
        let n = rng.random_range(1..=3);
        let key = distinct(0..half, n, rng);
        let n = rng.random_range(1..=3);
        let fresh = distinct(half..2 * half, n, rng);
        let old = known.get(&key).cloned();
        let value = old.clone().unwrap_or(fresh);
        if len + key.len() + value.len() > room {
            break;
        }
        len = emit(&key, &value, old.is_some());
        known.insert(key, value);
    }
    emit(&probe, &probe_value, true);
    let missing = seq_len as usize - ids.len();
    let front = |with: i64, row: Vec<i64>| {
        std::iter::repeat_n(with, missing).chain(row).collect::<Vec<_>>()
    };
    Sequence { ids: front(pad, ids), targets: front(IGNORE, targets) }
}

fn memorization(vocab: i64, seq_len: i64, map_seed: u64, rng: &mut impl Rng) -> Sequence {
    let half = (vocab - 1) / 2;
    let mut map = SeedTree::new(map_seed).child("memorization").rng();
    let values: Vec<i64> = (0..half).map(|_| half + map.random_range(0..half)).collect();
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..seq_len / 2 {
        let key = rng.random_range(0..half);
        ids.extend([key, vocab - 1]);
        targets.extend([IGNORE, values[key as usize]]);
    }
    Sequence { ids, targets }
}

fn selective_copy(vocab: i64, seq_len: i64, n_copy: i64, rng: &mut impl Rng) -> Sequence {
    let (copy, blank) = (vocab - 1, vocab - 2);
    let tokens: Vec<i64> = (0..n_copy).map(|_| rng.random_range(0..vocab - 2)).collect();
    // The last token to copy stands before the copy token; blanks never come between.
    let before = seq_len - n_copy - 1;
    let mut places = distinct(0..before - 1, n_copy as usize - 1, rng);
    places.sort_unstable();
    places.push(before - 1);
    let mut ids = vec![blank; seq_len as usize];
    for (place, token) in places.iter().zip(&tokens) {
        ids[*place as usize] = *token;
    }
    ids[before as usize] = copy;
    let mut targets = vec![IGNORE; before as usize + 1];
    targets.extend(tokens);
    Sequence { ids, targets }
}

fn mqar(vocab: i64, seq_len: i64, n_pairs: i64, rng: &mut impl Rng) -> Sequence {
    const POWER: f64 = 0.01;
    let n = n_pairs as usize;
    let keys = distinct(1..vocab / 2, n, rng);
    let values = distinct(vocab / 2..vocab, n, rng);
    let mut ids: Vec<i64> = keys.iter().zip(&values).flat_map(|(k, v)| [*k, *v]).collect();
    ids.extend((0..seq_len - 2 * n_pairs).map(|_| rng.random_range(vocab / 2..vocab)));
    let mut targets = vec![IGNORE; seq_len as usize];
    // Gaps without replacement, p(i) ~ i^(power - 1) over the even slots after the pairs.
    let slots = (seq_len - 2 * n_pairs) / 2;
    let mut weights: Vec<f64> = (1..=slots).map(|i| POWER * (i as f64).powf(POWER - 1.0)).collect();
    for (key, value) in keys.iter().zip(&values) {
        let mut at = rng.random::<f64>() * weights.iter().sum::<f64>();
        let mut slot = weights.iter().rposition(|w| *w > 0.0).unwrap_or(0);
        for (i, w) in weights.iter().enumerate() {
            at -= w;
            if at < 0.0 && *w > 0.0 {
                slot = i;
                break;
            }
        }
        weights[slot] = 0.0;
        let place = 2 * n + 2 * slot;
        ids[place] = *key;
        targets[place] = *value;
    }
    Sequence { ids, targets }
}

fn parity(seq_len: i64, rng: &mut impl Rng) -> Sequence {
    let ids: Vec<i64> = (0..seq_len).map(|_| rng.random_range(0..2)).collect();
    let targets = ids
        .iter()
        .scan(0, |ones, bit| {
            *ones = (*ones + bit) % 2;
            Some(*ones)
        })
        .collect();
    Sequence { ids, targets }
}

/// A deterministic automaton: for each node, symbol to node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Automaton {
    /// Edges of each node; node 0 is the start.
    pub edges: Vec<BTreeMap<i64, usize>>,
}

impl Automaton {
    /// `RegBench`'s draw: 4 to 12 nodes, an alphabet of 4 to `max_symbols`, one to three edges from each
    /// node with distinct symbols to distinct other nodes; nodes out of reach are dropped.
    pub fn draw(max_symbols: i64, rng: &mut impl Rng) -> Self {
        let n = rng.random_range(4..=12_usize);
        let n_symbols = rng.random_range(4..=max_symbols) as usize;
        let alphabet = distinct(0..max_symbols, n_symbols, rng);
        let edges: Vec<BTreeMap<i64, usize>> = (0..n)
            .map(|node| {
                let count = rng.random_range(1..4_usize);
                let symbols = distinct(0..n_symbols as i64, count, rng);
                let mut others = distinct(0..n as i64, n, rng);
                others.retain(|other| *other != node as i64);
                symbols
                    .iter()
                    .zip(others)
                    .map(|(s, to)| (alphabet[*s as usize], to as usize))
                    .collect()
            })
            .collect();
        let mut reached = BTreeSet::from([0]);
        let mut queue = vec![0];
        while let Some(node) = queue.pop() {
            for to in edges[node].values() {
                if reached.insert(*to) {
                    queue.push(*to);
                }
            }
        }
        let names: BTreeMap<usize, usize> =
            reached.iter().enumerate().map(|(i, n)| (*n, i)).collect();
        let keep = |node: &usize| edges[*node].iter().map(|(s, to)| (*s, names[to])).collect();
        Self { edges: reached.iter().map(keep).collect() }
    }

    /// Symbols that may follow `word` from the start; `None` when the word is not of the language.
    pub fn next(&self, word: &[i64]) -> Option<Vec<i64>> {
        let node = word.iter().try_fold(0, |node: usize, s| self.edges[node].get(s).copied())?;
        Some(self.edges[node].keys().copied().collect())
    }
}

fn regular_language(max_symbols: i64, rng: &mut impl Rng) -> Sequence {
    let automaton = Automaton::draw(max_symbols, rng);
    let mut ids = Vec::new();
    for word in 0..rng.random_range(10..=19) {
        if word > 0 {
            ids.push(max_symbols);
        }
        let mut node = 0;
        for _ in 0..rng.random_range(1..=49) {
            let edges = &automaton.edges[node];
            let Some((symbol, to)) = edges.iter().nth(rng.random_range(0..edges.len())) else {
                break;
            };
            ids.push(*symbol);
            node = *to;
        }
    }
    let next = |i: usize| ids.get(i + 1).copied().filter(|s| *s != max_symbols).unwrap_or(IGNORE);
    let targets = (0..ids.len()).map(next).collect();
    Sequence { ids, targets }
}

/// Observations of `h_{t+1} = W h_t + noise` with a random orthogonal `W` for each sequence, seen whole or
/// through a random map (section 14).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinearDynamics {
    /// Size of an observation.
    pub d_obs: i64,
    /// Size of the hidden state; the observation is the state when equal to `d_obs`.
    pub d_hidden: i64,
    /// Observations of a sequence.
    pub seq_len: i64,
    /// Standard deviation of the state's noise.
    pub noise_std: f64,
}

impl Default for LinearDynamics {
    fn default() -> Self {
        Self { d_obs: 10, d_hidden: 10, seq_len: 50, noise_std: 0.1 }
    }
}

impl Validate for LinearDynamics {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("d_hidden", self.d_hidden, 1..=256)?;
        in_range("d_obs", self.d_obs, 1..=self.d_hidden)?;
        in_range("seq_len", self.seq_len, 2..=1 << 16)?;
        finite_in("noise_std", self.noise_std, 0.0..=1e3)
    }
}

impl LinearDynamics {
    /// The sequences of some seeds, `[batch, seq_len, d_obs]` in float64.
    ///
    /// # Errors
    /// [`Error::Torch`] when memory runs out.
    pub fn batch(&self, seeds: &[u64]) -> Result<Tensor> {
        let batch = seeds.len();
        let (n, m) = (self.d_hidden as usize, self.d_obs as usize);
        let mut values = Vec::with_capacity(batch * self.seq_len as usize * m);
        for seed in seeds {
            let mut rng = SeedTree::new(*seed).rng();
            let w = orthogonal(n, &mut rng);
            let mut normal = |std: f64| -> f64 { std * rng.sample::<f64, _>(StandardNormal) };
            let mix: Option<Vec<f64>> =
                (n != m).then(|| (0..n * m).map(|_| normal(0.5_f64.sqrt())).collect());
            let mut h: Vec<f64> = (0..n).map(|_| normal(1.0)).collect();
            for _ in 0..self.seq_len {
                match &mix {
                    None => values.extend(&h),
                    Some(c) => values.extend(c.chunks(n).map(|row| product(row, &h))),
                }
                h = w.chunks(n).map(|row| product(row, &h) + normal(self.noise_std)).collect();
            }
        }
        interop::from_slice(&values, &[batch as i64, self.seq_len, self.d_obs])
    }
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A random orthogonal matrix: Gaussian rows made orthonormal one after the other.
fn orthogonal(n: usize, rng: &mut impl Rng) -> Vec<f64> {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    while rows.len() < n {
        let mut row: Vec<f64> = StandardNormal.sample_iter(&mut *rng).take(n).collect();
        for _ in 0..2 {
            for other in &rows {
                let share = product(&row, other);
                for (x, o) in row.iter_mut().zip(other) {
                    *x -= share * o;
                }
            }
        }
        let norm = product(&row, &row).sqrt();
        if norm > 1e-6 {
            for x in &mut row {
                *x /= norm;
            }
            rows.push(row);
        }
    }
    rows.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(task: &Task, mut look: impl FnMut(&Sequence)) {
        task.check().unwrap();
        for i in 0..50 {
            let sequence = task.draw(&mut SeedTree::new(5).child(i).rng());
            assert_eq!(sequence.ids.len(), sequence.targets.len());
            assert!(sequence.ids.iter().all(|id| (0..task.vocab_size()).contains(id)));
            assert!(sequence.targets.iter().any(|t| *t != IGNORE), "{task:?}");
            look(&sequence);
        }
    }

    #[test]
    fn recall_can_be_answered_from_the_sequence() {
        for (noise_vocab, noise_frac) in [(0, 0.0), (16, 0.2), (16, 0.8)] {
            let task = Task::Recall {
                vocab_size: 16 + noise_vocab,
                seq_len: 128,
                noise_vocab,
                noise_frac,
            };
            each(&task, |s| {
                assert_eq!(s.ids.len(), 128);
                assert_ne!(s.targets[126], IGNORE, "the last pair is a probe");
                let mut known = BTreeMap::new();
                for i in (0..128).step_by(2) {
                    if s.targets[i] != IGNORE {
                        assert_eq!(known.get(&s.ids[i]), Some(&s.targets[i]));
                    }
                    known.insert(s.ids[i], s.ids[i + 1]);
                }
            });
        }
    }

    #[test]
    fn fuzzy_recall_ends_with_its_probe() {
        let task = Task::FuzzyRecall { vocab_size: 16, seq_len: 128 };
        each(&task, |s| {
            assert_eq!(s.ids.len(), 128);
            assert_ne!(s.targets[126], IGNORE, "the last token is predicted");
            for (i, t) in s.targets.iter().enumerate().filter(|(_, t)| **t != IGNORE) {
                assert_eq!(s.ids[i + 1], *t);
            }
        });
    }

    #[test]
    fn memorization_is_one_map() {
        let task = Task::Memorization { vocab_size: 256, seq_len: 32, map_seed: 1 };
        let mut map = BTreeMap::new();
        each(&task, |s| {
            for i in (0..32).step_by(2) {
                assert_eq!(*map.entry(s.ids[i]).or_insert(s.targets[i + 1]), s.targets[i + 1]);
            }
        });
    }

    #[test]
    fn selective_copy_asks_for_the_tokens_in_order() {
        let task = Task::SelectiveCopy { vocab_size: 16, seq_len: 256, n_copy: 16 };
        each(&task, |s| {
            let tokens: Vec<i64> = s.ids[..239].iter().copied().filter(|t| *t < 14).collect();
            assert_eq!(tokens, s.targets[240..]);
            assert_eq!(s.ids[239], 15);
        });
    }

    #[test]
    fn mqar_asks_for_each_key_once() {
        let task = Task::Mqar { vocab_size: 512, seq_len: 64, n_pairs: 8 };
        each(&task, |s| {
            let pairs: BTreeMap<i64, i64> =
                s.ids[..16].chunks(2).map(|pair| (pair[0], pair[1])).collect();
            let asked: BTreeSet<i64> = (0..64)
                .filter(|i| s.targets[*i] != IGNORE)
                .map(|i| {
                    assert_eq!(pairs[&s.ids[i]], s.targets[i]);
                    s.ids[i]
                })
                .collect();
            assert_eq!(asked.len(), 8);
        });
    }

    #[test]
    fn words_are_of_their_language() {
        let mut rng = SeedTree::new(1).rng();
        let automaton = Automaton::draw(18, &mut rng);
        assert!(automaton.edges.iter().all(|e| (1..=3).contains(&e.len())));
        assert!(automaton.edges.iter().enumerate().all(|(i, e)| e.values().all(|to| *to != i)));
        let first = automaton.next(&[]).unwrap();
        assert!(automaton.next(&first[..1]).is_some() && automaton.next(&[99]).is_none());
        each(&Task::RegularLanguage { max_symbols: 18 }, |s| {
            assert!(s.ids.split(|id| *id == 18).all(|word| (1..=49).contains(&word.len())));
        });
    }

    #[test]
    fn parity_and_batches() {
        each(&Task::Parity { seq_len: 40 }, |s| {
            assert_eq!(s.targets[39], s.ids.iter().sum::<i64>() % 2);
        });
        let task = Task::RegularLanguage { max_symbols: 18 };
        let (ids, targets) = task.batch(&[1, 2, 3, 4]).unwrap();
        assert_eq!((ids.size(), ids.size()[0]), (targets.size(), 4));
        assert_eq!(task.batch(&[1, 2, 3, 4]).unwrap().0, ids);
    }

    #[test]
    fn noiseless_dynamics_keep_their_length() {
        let task = LinearDynamics { noise_std: 0.0, ..LinearDynamics::default() };
        task.check().unwrap();
        let x = task.batch(&[1, 2, 3]).unwrap();
        assert_eq!(x.size(), [3, 50, 10]);
        let norms = x.square().sum_dim_intlist([-1].as_slice(), true, None);
        let off = (&norms - norms.narrow(1, 0, 1)).abs().max().double_value(&[]);
        assert!(off < 1e-10, "{off:e}");
        let seen = LinearDynamics { d_obs: 5, d_hidden: 15, ..LinearDynamics::default() };
        assert_eq!(seen.batch(&[1, 2]).unwrap().size(), [2, 50, 5]);
    }

    #[test]
    fn bad_sizes_name_the_field() {
        for (field, task) in [
            (
                "seq_len",
                Task::Recall { vocab_size: 16, seq_len: 7, noise_vocab: 0, noise_frac: 0.0 },
            ),
            (
                "noise_vocab",
                Task::Recall { vocab_size: 16, seq_len: 8, noise_vocab: 0, noise_frac: 0.5 },
            ),
            ("n_copy", Task::SelectiveCopy { vocab_size: 16, seq_len: 8, n_copy: 4 }),
            ("n_pairs", Task::Mqar { vocab_size: 64, seq_len: 16, n_pairs: 5 }),
        ] {
            let text = task.check().unwrap_err().to_string();
            assert!(text.contains(field), "{text}");
        }
    }
}
