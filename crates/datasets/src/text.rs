//! Text: eight plays of Shakespeare inside the crate, text files, and sequences of tokens.

use std::path::Path;
use std::sync::OnceLock;

use ndarray::Array2;

use crate::bytes::{self, MAX_BYTES};
use crate::error::{Error, Result};

static DATA: &[u8] = include_bytes!("../data/shakespeare.txt.gz");

/// About a million characters of Shakespeare, in the public domain: Hamlet, Julius Caesar, King Lear,
/// Macbeth, A Midsummer Night's Dream, Othello, Romeo and Juliet, The Tempest. ASCII only.
///
/// It is decompressed once, on the first call. All plays are the data set `shakespeare-plays`.
///
/// # Panics
/// Never on an intact build: the bytes are part of the program, and a test reads all of them.
pub fn shakespeare() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let name = Path::new("shakespeare.txt.gz");
        let raw = bytes::gunzip(name, DATA, MAX_BYTES).expect("embedded gzip data is intact");
        String::from_utf8(raw).expect("the embedded text is ASCII")
    })
}

/// Reads a text file, gzip or not, of at most [`MAX_BYTES`].
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] naming the first byte that is not UTF-8.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    bytes::read_text(path, MAX_BYTES)
}

/// Cuts tokens into sequences for next-token prediction, `[n, seq_len + 1]`: row `i` starts at token
/// `i * seq_len`, columns `0..seq_len` are the inputs and `1..` the targets. What is left at the end
/// and does not fill a row is dropped.
///
/// ```
/// let rows = datasets::text::sequences(&[10, 11, 12, 13, 14, 15], 2)?;
/// assert_eq!(rows, ndarray::array![[10, 11, 12], [12, 13, 14]]);
/// # Ok::<(), datasets::Error>(())
/// ```
///
/// # Errors
/// [`Error::Argument`] if `seq_len` is 0 or there are not `seq_len + 1` tokens.
pub fn sequences(tokens: &[i64], seq_len: usize) -> Result<Array2<i64>> {
    if seq_len == 0 || tokens.len() <= seq_len {
        let expected =
            format!("1 to {} for {} tokens", tokens.len().saturating_sub(1), tokens.len());
        return Err(Error::argument("seq_len", expected, seq_len.to_string()));
    }
    let n = (tokens.len() - 1) / seq_len;
    Ok(Array2::from_shape_fn((n, seq_len + 1), |(i, j)| tokens[i * seq_len + j]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_text_is_the_eight_plays() {
        let text = shakespeare();
        assert!(text.is_ascii());
        assert!((1_000_000..1_100_000).contains(&text.len()), "{}", text.len());
        for title in [
            "HAMLET, PRINCE OF DENMARK\n",
            "JULIUS CAESAR\n",
            "THE TRAGEDY OF KING LEAR\n",
            "MACBETH\n",
            "A MIDSUMMER NIGHT'S DREAM\n",
            "OTHELLO, THE MOOR OF VENICE\n",
            "ROMEO AND JULIET\n",
            "THE TEMPEST\n",
        ] {
            assert!(text.starts_with(title) || text.contains(&format!("\n\n{title}\n")), "{title}");
        }
        assert!(!text.contains("Gutenberg") && !text.contains("\n\n\n") && !text.contains('\r'));
    }

    #[test]
    fn sequences_share_their_border_token() {
        let tokens: Vec<i64> = (0..10).collect();
        let rows = sequences(&tokens, 3).unwrap();
        assert_eq!(rows, ndarray::array![[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]);
        assert_eq!(sequences(&tokens[..9], 3).unwrap().nrows(), 2);
        assert!(sequences(&tokens, 0).is_err() && sequences(&tokens, 10).is_err());
        assert_eq!(sequences(&tokens, 9).unwrap().dim(), (1, 10));
        assert!(sequences(&tokens, usize::MAX).is_err());
    }
}
