//! Byte-pair encoding: start from bytes, merge the most frequent neighbours, again and again.
//!
//! Text is first cut into words (letters, digits or other signs, each with one space in front, or
//! white space), and no merge crosses a cut. Training and encoding keep each word as a linked list
//! and candidate merges in a heap, so both take about n log n steps however long a word is.
//! Ties go to the pair with the smaller numbers: the result depends on the text alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bytes;
use crate::error::{Error, Result};
use crate::token::{Tokeniser, unknown_token};

/// Most merges of a tokeniser.
pub const MAX_MERGES: usize = 1 << 20;
/// Longest token, in bytes. Without a bound, a file of a few kilobytes could define tokens of
/// exponential length.
pub const MAX_TOKEN_BYTES: usize = 1 << 16;
/// Largest tokeniser file.
const MAX_FILE_BYTES: u64 = 64 << 20;
const FORMAT: &str = "byte-pair encoding, version 1";
/// End of a linked list.
const NONE: u32 = u32::MAX;

type Pair = (u32, u32);

/// A trained tokeniser: tokens 0 to 255 are bytes, token `256 + i` is the `i`-th merge.
///
/// ```
/// use datasets::{bpe::Bpe, token::Tokeniser as _};
/// let bpe = Bpe::train("low low low lower lowest", 4)?;
/// let tokens = bpe.encode("lowest low")?;
/// assert!(tokens.len() < 10);
/// assert_eq!(bpe.decode(&tokens)?, "lowest low");
/// # Ok::<(), datasets::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bpe {
    merges: Vec<Pair>,
    ranks: BTreeMap<Pair, u32>,
    /// Bytes of every token.
    tokens: Vec<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    merges: Vec<Pair>,
}

impl Bpe {
    /// Learns up to `n_merges` merges; fewer if no pair occurs twice any more.
    ///
    /// # Errors
    /// [`Error::Argument`] if `n_merges` exceeds [`MAX_MERGES`] or the text has 4 GiB or more.
    pub fn train(text: &str, n_merges: usize) -> Result<Self> {
        if n_merges > MAX_MERGES {
            return Err(Error::argument(
                "n_merges",
                format!("at most {MAX_MERGES}"),
                n_merges.to_string(),
            ));
        }
        if text.len() >= NONE as usize {
            return Err(Error::argument(
                "text",
                "less than 4 GiB",
                format!("{} bytes", text.len()),
            ));
        }
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for word in words(text) {
            *counts.entry(word).or_default() += 1;
        }
        Ok(Trainer::new(&counts).run(n_merges))
    }

    /// A tokeniser from its merges, in order; merge `i` may use the tokens below `256 + i`.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first merge that uses an unknown token, comes twice, or makes
    /// a token longer than [`MAX_TOKEN_BYTES`]; or if there are more than [`MAX_MERGES`].
    pub fn from_merges(merges: Vec<Pair>) -> Result<Self> {
        if merges.len() > MAX_MERGES {
            return Err(Error::argument(
                "merges",
                format!("at most {MAX_MERGES}"),
                merges.len().to_string(),
            ));
        }
        let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|b| vec![b]).collect();
        let mut ranks = BTreeMap::new();
        for (i, &(a, b)) in merges.iter().enumerate() {
            let (Some(left), Some(right)) = (tokens.get(a as usize), tokens.get(b as usize)) else {
                let expected = format!("tokens below {} in merge {i}", tokens.len());
                return Err(Error::argument("merges", expected, format!("{a} {b}")));
            };
            if left.len() + right.len() > MAX_TOKEN_BYTES {
                let expected = format!("a token of at most {MAX_TOKEN_BYTES} bytes in merge {i}");
                return Err(Error::argument(
                    "merges",
                    expected,
                    format!("{} bytes", left.len() + right.len()),
                ));
            }
            if ranks.insert((a, b), i as u32).is_some() {
                return Err(Error::argument(
                    "merges",
                    format!("a new pair in merge {i}"),
                    format!("{a} {b} again"),
                ));
            }
            let token = [left.as_slice(), right].concat();
            tokens.push(token);
        }
        Ok(Self { merges, ranks, tokens })
    }

    /// The merges, in the order in which they were learned.
    pub fn merges(&self) -> &[Pair] {
        &self.merges
    }

    /// The bytes of one token; none if there is no such token.
    pub fn token(&self, token: i64) -> Option<&[u8]> {
        usize::try_from(token).ok().and_then(|t| self.tokens.get(t)).map(Vec::as_slice)
    }

    /// The bytes of tokens, without mending what is not UTF-8.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first token that is not in the vocabulary.
    pub fn decode_bytes(&self, tokens: &[i64]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (at, &token) in tokens.iter().enumerate() {
            out.extend_from_slice(
                self.token(token).ok_or_else(|| unknown_token(at, token, self.tokens.len()))?,
            );
        }
        Ok(out)
    }

    /// Writes the tokeniser as JSON; a reader sees the old file or the new one, never a part.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = File { format: FORMAT.to_owned(), merges: self.merges.clone() };
        let json = serde_json::to_vec(&file)
            .map_err(|e| Error::format(path, "JSON", "text", e.to_string()))?;
        let staged = path.with_extension("json.tmp");
        let write = || {
            let mut out = fs::File::create(&staged)?;
            out.write_all(&json)?;
            out.sync_all()?;
            fs::rename(&staged, path)
        };
        write().map_err(Error::io(path))
    }

    /// Reads a tokeniser that [`Bpe::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no such file or its merges do not fit together.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = bytes::read_text(path, MAX_FILE_BYTES)?;
        let file: File = serde_json::from_str(&text)
            .map_err(|e| Error::format(path, "JSON", "format and merges", e.to_string()))?;
        if file.format != FORMAT {
            return Err(Error::format(path, "format", FORMAT, file.format));
        }
        Self::from_merges(file.merges).map_err(|e| match e {
            Error::Argument { expected, found, .. } => {
                Error::format(path, "merges", expected, found)
            }
            other => other,
        })
    }

    /// Merges one word: always the lowest rank, leftmost first.
    fn encode_word(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<i64>) {
        let n = word.len() as u32;
        scratch.list.reset(word);
        scratch.heap.clear();
        let list = &mut scratch.list;
        for at in 1..n {
            if let Some(&rank) =
                self.ranks.get(&(list.symbol[at as usize - 1], list.symbol[at as usize]))
            {
                scratch.heap.push(Reverse((rank, at - 1)));
            }
        }
        while let Some(Reverse((rank, at))) = scratch.heap.pop() {
            // An entry is stale if one of its two symbols was merged away in between.
            let Some(_) = list.pair_at(at).filter(|pair| self.ranks.get(pair) == Some(&rank))
            else {
                continue;
            };
            list.merge(at, 256 + rank);
            for left in [list.prev[at as usize], at] {
                if left != NONE
                    && let Some(&rank) = list.pair_at(left).and_then(|pair| self.ranks.get(&pair))
                {
                    scratch.heap.push(Reverse((rank, left)));
                }
            }
        }
        let mut at = 0;
        while at != NONE && at < n {
            out.push(i64::from(list.symbol[at as usize]));
            at = list.next[at as usize];
        }
    }
}

impl Tokeniser for Bpe {
    fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    fn encode(&self, text: &str) -> Result<Vec<i64>> {
        if text.len() >= NONE as usize {
            return Err(Error::argument(
                "text",
                "less than 4 GiB",
                format!("{} bytes", text.len()),
            ));
        }
        let mut out = Vec::with_capacity(text.len() / 2);
        let mut scratch = Scratch::default();
        for word in words(text) {
            self.encode_word(word.as_bytes(), &mut scratch, &mut out);
        }
        Ok(out)
    }

    fn decode(&self, tokens: &[i64]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.decode_bytes(tokens)?).into_owned())
    }
}

#[derive(Default)]
struct Scratch {
    list: List,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

/// Symbols in doubly linked lists over one array; a merge keeps the left place and drops the right.
#[derive(Default)]
struct List {
    symbol: Vec<u32>,
    prev: Vec<u32>,
    next: Vec<u32>,
    alive: Vec<bool>,
}

impl List {
    fn reset(&mut self, word: &[u8]) {
        self.symbol.clear();
        self.prev.clear();
        self.next.clear();
        self.alive.clear();
        self.append(word);
    }

    /// Adds a word as a list of its own.
    fn append(&mut self, word: &[u8]) {
        let start = self.symbol.len() as u32;
        let last = start + (word.len() as u32).saturating_sub(1);
        for (&byte, at) in word.iter().zip(start..) {
            self.symbol.push(u32::from(byte));
            self.prev.push(if at == start { NONE } else { at - 1 });
            self.next.push(if at == last { NONE } else { at + 1 });
            self.alive.push(true);
        }
    }

    /// The pair that starts at a place; none if the place is gone or is the last of its word.
    fn pair_at(&self, at: u32) -> Option<Pair> {
        let next = self.next[at as usize];
        (self.alive[at as usize] && next != NONE)
            .then(|| (self.symbol[at as usize], self.symbol[next as usize]))
    }

    fn merge(&mut self, at: u32, symbol: u32) {
        let dropped = self.next[at as usize] as usize;
        let after = self.next[dropped];
        self.symbol[at as usize] = symbol;
        self.alive[dropped] = false;
        self.next[at as usize] = after;
        if after != NONE {
            self.prev[after as usize] = at;
        }
    }
}

struct Trainer {
    list: List,
    /// How often the word of each place occurs in the text.
    weight: Vec<i64>,
    counts: BTreeMap<Pair, i64>,
    /// Places where a pair started at some time; checked when it is merged.
    places: BTreeMap<Pair, Vec<u32>>,
    /// Candidates by count, then by smaller pair. A count may be out of date and is checked.
    heap: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Trainer {
    fn new(words: &BTreeMap<&str, i64>) -> Self {
        let mut trainer = Self {
            list: List::default(),
            weight: Vec::new(),
            counts: BTreeMap::new(),
            places: BTreeMap::new(),
            heap: BinaryHeap::new(),
        };
        for (word, &count) in words {
            let start = trainer.weight.len() as u32;
            trainer.list.append(word.as_bytes());
            trainer.weight.resize(trainer.list.symbol.len(), count);
            for at in start..trainer.weight.len() as u32 {
                trainer.add(at);
            }
        }
        trainer.heap =
            trainer.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        trainer
    }

    /// Counts the pair that starts at a place.
    fn add(&mut self, at: u32) -> Option<Pair> {
        let pair = self.list.pair_at(at)?;
        *self.counts.entry(pair).or_default() += self.weight[at as usize];
        self.places.entry(pair).or_default().push(at);
        Some(pair)
    }

    fn subtract(&mut self, at: u32) {
        if let Some(pair) = self.list.pair_at(at)
            && let Some(count) = self.counts.get_mut(&pair)
        {
            *count -= self.weight[at as usize];
        }
    }

    fn run(mut self, n_merges: usize) -> Bpe {
        let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|b| vec![b]).collect();
        let mut merges = Vec::new();
        while merges.len() < n_merges
            && let Some(pair) = self.best()
        {
            let token = [tokens[pair.0 as usize].as_slice(), &tokens[pair.1 as usize]].concat();
            if token.len() > MAX_TOKEN_BYTES {
                self.counts.remove(&pair);
                continue;
            }
            self.merge(pair, tokens.len() as u32);
            tokens.push(token);
            merges.push(pair);
        }
        let ranks = merges.iter().zip(0..).map(|(&pair, rank)| (pair, rank)).collect();
        Bpe { merges, ranks, tokens }
    }

    /// The most frequent pair, if it occurs at least twice.
    fn best(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            match self.counts.get(&pair) {
                Some(&now) if now == count && now >= 2 => return Some(pair),
                Some(&now) if now != count && now >= 2 => self.heap.push((now, Reverse(pair))),
                _ => {}
            }
        }
        None
    }

    fn merge(&mut self, pair: Pair, symbol: u32) {
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown = BTreeSet::new();
        for at in places {
            if self.list.pair_at(at) != Some(pair) {
                continue;
            }
            let (left, right) = (self.list.prev[at as usize], self.list.next[at as usize]);
            if left != NONE {
                self.subtract(left);
            }
            self.subtract(right);
            self.list.merge(at, symbol);
            if left != NONE {
                grown.extend(self.add(left));
            }
            grown.extend(self.add(at));
        }
        self.counts.remove(&pair);
        for pair in grown {
            if let Some(&count) = self.counts.get(&pair) {
                self.heap.push((count, Reverse(pair)));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Space,
    Other,
}

fn class(c: char) -> Class {
    match c {
        _ if c.is_alphabetic() => Class::Letter,
        _ if c.is_numeric() => Class::Digit,
        _ if c.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

/// Cuts a text into words whose concatenation is the text: runs of letters, of digits or of other
/// signs, each with the one space in front of it, and runs of white space without that space.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = match rest.strip_prefix(' ').and_then(|after| after.chars().next()) {
            Some(second) if class(second) != Class::Space => 1 + run(&rest[1..], class(second)),
            _ if class(first) == Class::Space => {
                // The last space of the run belongs to the word behind it, if it is a plain one.
                let end = run(rest, Class::Space);
                if end < rest.len() && end > 1 && rest[..end].ends_with(' ') {
                    end - 1
                } else {
                    end
                }
            }
            _ => run(rest, class(first)),
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

/// Length in bytes of the run of one class at the start of a text.
fn run(text: &str, kind: Class) -> usize {
    text.find(|c| class(c) != kind).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_like_a_reader() {
        let cut: Vec<&str> = words("It's  42 words,\n\n here \t x ").collect();
        assert_eq!(
            cut,
            ["It", "'", "s", " ", " 42", " words", ",", "\n\n", " here", " \t", " x", " "]
        );
        assert_eq!(words("").count(), 0);
        assert_eq!(words(" ").collect::<Vec<_>>(), [" "]);
    }

    #[test]
    fn learns_by_hand() {
        // "aaabdaaabac": aa (4 overlapping), then with Z=aa: Zab twice ...
        let bpe = Bpe::train("aaabdaaabac", 3).unwrap();
        let (a, b) = (u32::from(b'a'), u32::from(b'b'));
        // After aa -> 256: 256 a b d 256 a b a c; (256,a) and (a,b) both occur twice; the smaller is (a,b).
        assert_eq!(bpe.merges(), [(a, a), (a, b), (256, 257)]);
        assert_eq!(bpe.encode("aaabdaaabac").unwrap(), [258, 100, 258, 97, 99]);
        assert_eq!(bpe.token(258), Some(b"aaab".as_slice()));
    }

    #[test]
    fn one_long_word_is_no_trap() {
        let text = "ab".repeat(200_000) + &"a".repeat(200_000);
        let bpe = Bpe::train(&text, 40).unwrap();
        let tokens = bpe.encode(&text).unwrap();
        assert!(tokens.len() < 200, "{}", tokens.len());
        assert_eq!(bpe.decode(&tokens).unwrap(), text);
    }

    #[test]
    fn merges_must_fit_together() {
        let error = |merges: Vec<Pair>| Bpe::from_merges(merges).unwrap_err().to_string();
        assert!(
            error(vec![(97, 98), (97, 257)]).contains("tokens below 257 in merge 1, found 97 257")
        );
        assert!(error(vec![(97, 98), (97, 98)]).contains("a new pair in merge 1"));
        let doubling: Vec<Pair> =
            std::iter::once((97, 97)).chain((256..300).map(|t| (t, t))).collect();
        assert!(error(doubling).contains("at most 65536 bytes in merge 16"));
    }

    #[test]
    fn saves_and_loads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bpe.json");
        let bpe = Bpe::train("the cat sat on the mat with the hat", 10).unwrap();
        bpe.save(&path).unwrap();
        assert_eq!(Bpe::load(&path).unwrap(), bpe);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no staged file stays behind"
        );
        std::fs::write(
            &path,
            r#"{"format":"byte-pair encoding, version 1","merges":[[1,2],[3,900]]}"#,
        )
        .unwrap();
        let error = Bpe::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("bpe.json: merges: expected tokens below 257 in merge 1, found 3 900"),
            "{error}"
        );
        std::fs::write(&path, r#"{"format":"x","merges":[]}"#).unwrap();
        assert!(Bpe::load(&path).unwrap_err().to_string().contains("format: expected byte-pair"));
    }
}
