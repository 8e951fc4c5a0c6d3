//! Text to token numbers and back: one token per byte, or one per character.
//!
//! The byte-pair tokeniser is in [`bpe`](crate::bpe). Tokens are `i64`, the type that embedding
//! tables are indexed by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Turns text into token numbers `0 .. vocab_size` and back.
pub trait Tokeniser {
    /// Number of different tokens.
    fn vocab_size(&self) -> usize;

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`Error::Argument`] if the text has something that is not in the vocabulary.
    fn encode(&self, text: &str) -> Result<Vec<i64>>;

    /// The text of tokens. `decode(encode(t)) == t` for every `t` that can be encoded. Where tokens
    /// are bytes, a sequence that is not UTF-8 (a sampled one may not be) comes out with U+FFFD.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first token that is not in the vocabulary.
    fn decode(&self, tokens: &[i64]) -> Result<String>;
}

pub(crate) fn unknown_token(at: usize, token: i64, vocab_size: usize) -> Error {
    Error::argument(
        "tokens",
        format!("0 to {} at index {at}", vocab_size.saturating_sub(1)),
        token.to_string(),
    )
}

/// One token per byte of UTF-8; 256 tokens, nothing to train, nothing unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes;

impl Tokeniser for Bytes {
    fn vocab_size(&self) -> usize {
        256
    }

    fn encode(&self, text: &str) -> Result<Vec<i64>> {
        Ok(text.bytes().map(i64::from).collect())
    }

    fn decode(&self, tokens: &[i64]) -> Result<String> {
        let byte = |(at, &t): (usize, &i64)| u8::try_from(t).map_err(|_| unknown_token(at, t, 256));
        let bytes = tokens.iter().enumerate().map(byte).collect::<Result<Vec<u8>>>()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// One token per character, numbered in the order of their code points.
///
/// ```
/// use datasets::token::{Characters, Tokeniser as _};
/// let tokeniser = Characters::train("hello");
/// assert_eq!(tokeniser.vocab_size(), 4); // e h l o
/// assert_eq!(tokeniser.encode("hole")?, [1, 3, 2, 0]);
/// # Ok::<(), datasets::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct Characters {
    characters: Vec<char>,
    numbers: BTreeMap<char, i64>,
}

impl Characters {
    /// The vocabulary of all characters of a text.
    pub fn train(text: &str) -> Self {
        let mut characters: Vec<char> = text.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        let numbers = characters.iter().zip(0..).map(|(&c, n)| (c, n)).collect();
        Self { characters, numbers }
    }

    /// The characters, by token number.
    pub fn characters(&self) -> &[char] {
        &self.characters
    }
}

impl From<Characters> for String {
    fn from(tokeniser: Characters) -> Self {
        tokeniser.characters.into_iter().collect()
    }
}

impl From<String> for Characters {
    fn from(characters: String) -> Self {
        Self::train(&characters)
    }
}

impl Tokeniser for Characters {
    fn vocab_size(&self) -> usize {
        self.characters.len()
    }

    fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let number = |(at, c): (usize, char)| {
            self.numbers.get(&c).copied().ok_or_else(|| {
                let expected =
                    format!("one of the {} known characters at byte {at}", self.characters.len());
                Error::argument("text", expected, format!("{c:?}"))
            })
        };
        text.char_indices().map(number).collect()
    }

    fn decode(&self, tokens: &[i64]) -> Result<String> {
        let character = |(at, &t): (usize, &i64)| {
            let known = usize::try_from(t).ok().and_then(|t| self.characters.get(t));
            known.copied().ok_or_else(|| unknown_token(at, t, self.characters.len()))
        };
        tokens.iter().enumerate().map(character).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_and_mend_what_is_not_utf8() {
        assert_eq!(Bytes.encode("aé").unwrap(), [97, 0xc3, 0xa9]);
        assert_eq!(Bytes.decode(&[97, 0xc3, 0xa9]).unwrap(), "aé");
        assert_eq!(Bytes.decode(&[97, 0xc3]).unwrap(), "a\u{fffd}");
        let error = Bytes.decode(&[1, 256]).unwrap_err();
        assert_eq!(error.to_string(), "argument `tokens`: expected 0 to 255 at index 1, found 256");
        assert!(Bytes.decode(&[-1]).is_err());
    }

    #[test]
    fn characters_outside_the_vocabulary_are_named() {
        let tokeniser = Characters::train("banana");
        assert_eq!(tokeniser.characters(), ['a', 'b', 'n']);
        let error = tokeniser.encode("baz").unwrap_err();
        assert_eq!(
            error.to_string(),
            "argument `text`: expected one of the 3 known characters at byte 2, found 'z'"
        );
        assert!(tokeniser.decode(&[3]).is_err());
        let stored = serde_json::to_string(&tokeniser).unwrap();
        assert_eq!(stored, "\"abn\"");
        assert_eq!(serde_json::from_str::<Characters>(&stored).unwrap(), tokeniser);
    }
}
