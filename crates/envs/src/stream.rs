//! Random streams: one seed, as many independent streams as there are environments.

use crate::error::{Result, ensure};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Stream `stream` of seed `seed` (ChaCha with 8 rounds): streams never meet, so that an
/// environment's episodes depend neither on its siblings nor on threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    rng: ChaCha8Rng,
}

/// Where a [`Stream`] is, as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamState {
    /// Key of the generator.
    pub key: [u8; 32],
    /// Number of the stream.
    pub stream: u64,
    /// 32-bit words drawn so far: low and high half.
    pub words: [u64; 2],
}

impl Stream {
    /// The start of a stream.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { rng }
    }

    /// The generator.
    pub fn rng(&mut self) -> &mut impl Rng {
        &mut self.rng
    }

    /// A uniform integer below `n`, which must not be zero.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n as u32) as usize
    }

    /// A uniform real in `low..high`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.rng.random::<f64>()
    }

    /// A standard normal real.
    pub(crate) fn normal(&mut self) -> f64 {
        crate::space::normal(&mut self.rng)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.rng.random()
    }

    /// Where the stream is.
    pub fn state(&self) -> StreamState {
        let words = self.rng.get_word_pos();
        StreamState {
            key: self.rng.get_seed(),
            stream: self.rng.get_stream(),
            words: [words as u64, (words >> 64) as u64],
        }
    }

    /// The stream at a stored place.
    ///
    /// # Errors
    /// The place lies behind the end of the generator's period.
    pub fn restore(state: &StreamState) -> Result<Self> {
        let words = u128::from(state.words[0]) | u128::from(state.words[1]) << 64;
        ensure(words < 1 << 68, "rng.words", || "less than 2^68".into(), words)?;
        let mut rng = ChaCha8Rng::from_seed(state.key);
        rng.set_stream(state.stream);
        rng.set_word_pos(words);
        Ok(Self { rng })
    }
}

/// A well-mixed function of 64 bits (the finaliser of splitmix64): random choices that must be
/// found again from an episode's key, whatever was asked before.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_stream_goes_on_where_it_was() {
        let mut stream = Stream::new(7, 3);
        for _ in 0..100 {
            stream.below(13);
        }
        let mut copy = Stream::restore(&stream.state()).unwrap();
        let tail = |s: &mut Stream| (0..50).map(|_| s.bits()).collect::<Vec<_>>();
        assert_eq!(tail(&mut stream), tail(&mut copy));
        assert_ne!(tail(&mut Stream::new(7, 3)), tail(&mut Stream::new(7, 4)));
        assert_ne!(tail(&mut Stream::new(7, 3)), tail(&mut Stream::new(8, 3)));
    }

    #[test]
    fn an_impossible_place_is_an_error() {
        let state = StreamState { words: [0, 1 << 8], ..Stream::new(0, 0).state() };
        assert!(Stream::restore(&state).is_err());
    }
}
