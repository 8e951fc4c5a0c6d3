//! Properties of readers, tokenisers and splits on random input.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;

use datasets::bpe::{Bpe, words};
use datasets::csv::{self, Options};
use datasets::idx::{self, Idx};
use datasets::split::{Fractions, Part, Split, Stage};
use datasets::token::{Bytes, Characters, Tokeniser};
use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;

fn round_trip(tokeniser: &impl Tokeniser, text: &str) {
    let tokens = tokeniser.encode(text).unwrap();
    assert!(tokens.iter().all(|&t| (0..tokeniser.vocab_size() as i64).contains(&t)));
    assert_eq!(tokeniser.decode(&tokens).unwrap(), text);
}

type Pair = (u32, u32);

fn merge_all(word: &mut Vec<u32>, pair: Pair, symbol: u32) {
    let mut at = 0;
    while at + 1 < word.len() {
        if (word[at], word[at + 1]) == pair {
            word[at] = symbol;
            word.remove(at + 1);
        }
        at += 1;
    }
}

/// Byte-pair training as its definition says it: count all, merge the best everywhere, again.
fn reference_merges(text: &str, n_merges: usize) -> Vec<Pair> {
    let mut list: Vec<Vec<u32>> = words(text).map(|w| w.bytes().map(u32::from).collect()).collect();
    let mut merges = Vec::new();
    while merges.len() < n_merges {
        let mut counts: BTreeMap<Pair, i64> = BTreeMap::new();
        for word in &list {
            for pair in word.windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += 1;
            }
        }
        let best = counts.iter().max_by_key(|(pair, count)| (**count, std::cmp::Reverse(**pair)));
        let Some((&pair, _)) = best.filter(|(_, count)| **count >= 2) else { break };
        for word in &mut list {
            merge_all(word, pair, 256 + merges.len() as u32);
        }
        merges.push(pair);
    }
    merges
}

/// Byte-pair encoding as its definition says it: every merge in turn, over the whole word.
fn reference_tokens(merges: &[Pair], text: &str) -> Vec<i64> {
    let mut out = Vec::new();
    for word in words(text) {
        let mut symbols: Vec<u32> = word.bytes().map(u32::from).collect();
        for (i, &pair) in merges.iter().enumerate() {
            merge_all(&mut symbols, pair, 256 + i as u32);
        }
        out.extend(symbols.into_iter().map(i64::from));
    }
    out
}

const DATA: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_comes_back(training in "\\PC{0,80}", text in any::<String>()) {
        round_trip(&Bytes, &text);
        round_trip(&Characters::train(&text), &text);
        round_trip(&Bpe::train(&training, 30).unwrap(), &text);
        prop_assert_eq!(words(&text).collect::<String>(), text);
    }

    #[test]
    fn byte_pairs_follow_their_definition(training in "[ab c1.\n]{0,120}", text in "[ab c1.\n]{0,120}") {
        let bpe = Bpe::train(&training, 25).unwrap();
        prop_assert_eq!(bpe.merges(), reference_merges(&training, 25));
        prop_assert_eq!(bpe.encode(&text).unwrap(), reference_tokens(bpe.merges(), &text));
        prop_assert_eq!(&Bpe::from_merges(bpe.merges().to_vec()).unwrap(), &bpe);
    }

    #[test]
    fn idx_comes_back(shape in prop::collection::vec(0_usize..5, 1..=4), seed in any::<u32>()) {
        let next = |i: usize| (i as u32).wrapping_mul(2_654_435_761) ^ seed;
        let n: usize = shape.iter().product();
        macro_rules! check {
            ($variant:ident, $t:ty) => {
                let values: Vec<$t> = (0..n).map(|i| next(i) as $t).collect();
                let idx = Idx::$variant(ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap());
                prop_assert_eq!(idx::parse("x", &idx.encode().unwrap()).unwrap(), idx);
            };
        }
        check!(U8, u8);
        check!(I8, i8);
        check!(I16, i16);
        check!(I32, i32);
        check!(F32, f32);
        check!(F64, f64);
    }

    #[test]
    fn csv_comes_back(rows in prop::collection::vec(prop::collection::vec("\\PC{0,6}|[,\"\r\n a]{0,6}", 3), 0..8)) {
        let quote = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
        let line = |row: &Vec<String>| row.iter().map(quote).collect::<Vec<_>>().join(",") + "\n";
        let text: String = std::iter::once("a,b,c\n".to_owned()).chain(rows.iter().map(line)).collect();
        let table = csv::parse("t", &text, Options::default()).unwrap();
        prop_assert_eq!(table.n_rows(), rows.len());
        for (i, row) in rows.iter().enumerate() {
            for (j, field) in row.iter().enumerate() {
                prop_assert_eq!(table.cell(i, j), Some(field.as_str()));
            }
        }
    }

    #[test]
    fn numbers_come_back_from_csv(values in prop::collection::vec(any::<f32>().prop_filter("finite", |x| x.is_finite()), 1..20)) {
        let text: String = std::iter::once("x,n\n".to_owned())
            .chain(values.iter().enumerate().map(|(i, v)| format!("{v:e},{i}\n")))
            .collect();
        let table = csv::parse("t", &text, Options::default()).unwrap();
        prop_assert_eq!(table.matrix(&["x"]).unwrap().into_raw_vec_and_offset().0, values);
        prop_assert_eq!(table.i64("n").unwrap().to_vec(), (0..table.n_rows() as i64).collect::<Vec<_>>());
    }

    #[test]
    fn splits_divide_the_data(
        n in 1_usize..400,
        train in 0.0_f64..=1.0,
        share in 0.0_f64..=1.0,
        seed in 0..=i64::MAX as u64,
        n_classes in 0_i64..6,
    ) {
        let validation = (1.0 - train) * share;
        let fractions = Fractions { train, validation, test: 1.0 - train - validation };
        prop_assume!(fractions.test >= 0.0);
        let labels: Vec<i64> = (0..n as i64).map(|i| i * i % n_classes.max(1)).collect();
        let stratify = (n_classes > 0).then_some(labels.as_slice());
        let split = Split::draw("d", DATA, n, fractions, seed, stratify).unwrap();
        prop_assert_eq!(&Split::draw("d", DATA, n, fractions, seed, stratify).unwrap(), &split);
        prop_assert_eq!(&Split::parse("s", &split.to_toml().unwrap(), "d", Some(DATA)).unwrap(), &split);

        let parts = [(Part::Train, fractions.train), (Part::Validation, fractions.validation), (Part::Test, fractions.test)];
        let mut all = Vec::new();
        for (part, fraction) in parts {
            let indices = split.indices(part, Stage::Full).unwrap();
            prop_assert_eq!(indices.len() as u64, split.n(part));
            let classes = if stratify.is_some() { n_classes } else { 1 };
            for class in 0..classes {
                let of = |i: &usize| stratify.is_none() || labels[*i] == class;
                let there = (0..n).filter(of).count() as f64;
                let here = indices.iter().filter(|i| of(i)).count() as f64;
                prop_assert!((here - fraction * there).abs() <= 1.0, "{} of {} for {}", here, there, fraction);
            }
            all.extend(indices);
        }
        all.sort_unstable();
        prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
    }
}

#[test]
fn seeds_draw_different_splits() {
    let fractions = Fractions { train: 0.5, validation: 0.25, test: 0.25 };
    let mut seen: Vec<String> = (0..50)
        .map(|seed| Split::draw("d", DATA, 100, fractions, seed, None).unwrap().sha256(Part::Test))
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 50);
}

#[test]
fn a_megabyte_is_learned_and_read_back() {
    let text = datasets::text::shakespeare();
    let bpe = Bpe::train(text, 512).unwrap();
    assert_eq!(bpe.vocab_size(), 768);
    let tokens = bpe.encode(text).unwrap();
    assert_eq!(bpe.decode(&tokens).unwrap(), text);
    // English prose in 768 tokens takes well over two bytes a token.
    assert!(tokens.len() * 2 < text.len(), "{} tokens for {} bytes", tokens.len(), text.len());
}
