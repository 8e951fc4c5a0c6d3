//! Sampling text from a decoder, one token at a time.

use super::{Decoder, KvCache, Mode};
use crate::{
    Checked, Error, Result, SeedTree, Validate, check_shape,
    config::{finite_in, in_range},
    error::TorchContext,
    tap::NoTap,
};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What a decoder has seen: the cached keys and values of each of its layers. The default is an
/// empty one, at the start of a sequence.
#[derive(Clone, Debug, Default)]
pub struct DecodeState {
    caches: Vec<KvCache>,
}

impl DecodeState {
    pub(super) fn new(caches: Vec<KvCache>) -> Self {
        Self { caches }
    }

    pub(super) fn cache(&self, layer: usize) -> KvCache {
        self.caches.get(layer).cloned().unwrap_or_default()
    }

    /// A state that is not empty must come from a decoder of as many blocks.
    pub(super) fn check(&self, op: &'static str, n_layers: usize) -> Result<()> {
        if self.caches.is_empty() || self.caches.len() == n_layers {
            return Ok(());
        }
        let (expected, got) = (format!("of {n_layers} layers"), self.caches.len().to_string());
        Err(Error::Argument { op, arg: "state", expected, got })
    }

    /// Number of tokens seen, which is the position of the next one.
    pub fn seen(&self) -> i64 {
        self.caches.first().map_or(0, KvCache::seen)
    }
}

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateConfig {
    /// Number of tokens to draw for each row.
    pub max_new_tokens: i64,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Draws among this many most likely tokens; among all when absent.
    pub top_k: Option<i64>,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self { max_new_tokens: 64, temperature: 1.0, top_k: None }
    }
}

impl Validate for GenerateConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("max_new_tokens", self.max_new_tokens, 1..=1 << 24)?;
        finite_in("temperature", self.temperature, 0.0..=1e3)?;
        if self.temperature > 0.0 && self.temperature < 1e-3 {
            let why =
                format!("must be 0 (most likely token) or >= 0.001, got {}", self.temperature);
            return Err(Error::Config { field: "temperature", why });
        }
        self.top_k.map_or(Ok(()), |k| in_range("top_k", k, 1..=1 << 24))
    }
}

impl Decoder {
    /// Continues each row of `prompt` by `max_new_tokens` tokens.
    ///
    /// Tokens are drawn by the Gumbel trick, `argmax(logits / temperature + g)`, with `g` from the
    /// row's own stream `seed.child(row)`: the device never waits for the host between tokens, and a
    /// row comes out the same whatever else is in the batch (up to rounding of its logits).
    ///
    /// * `prompt`: `[batch, seq_len]`, `Int64`; `seq_len + max_new_tokens <= max_seq_len`
    ///
    /// Returns `[batch, seq_len + max_new_tokens]`, prompt included. Records no gradients.
    ///
    /// # Errors
    /// Those of [`Decoder::forward`]; [`Error::Argument`] when the result would outgrow
    /// `max_seq_len` or `top_k` exceeds the vocabulary; [`Error::NonFinite`] when the network's
    /// logits are not finite.
    pub fn generate(
        &self,
        prompt: &Tensor,
        config: &Checked<GenerateConfig>,
        seed: &SeedTree,
    ) -> Result<Tensor> {
        const OP: &str = "Decoder::generate";
        check_shape!(OP, prompt, [?batch, ?seq_len]);
        let (n_new, longest) = (config.max_new_tokens, self.config().max_seq_len);
        if seq_len + n_new > longest {
            return Err(Error::Argument {
                op: OP,
                arg: "max_new_tokens",
                expected: format!("at most max_seq_len - seq_len = {}", longest - seq_len),
                got: n_new.to_string(),
            });
        }
        let vocab_size = self.embed.weight.size()[0];
        if let Some(k) = config.top_k.filter(|k| *k > vocab_size) {
            let expected = format!("at most vocab_size = {vocab_size}");
            return Err(Error::Argument { op: OP, arg: "top_k", expected, got: k.to_string() });
        }
        let _guard = tch::no_grad_guard();
        let mut rows: Vec<_> = (0..batch).map(|row| seed.child(row).rng()).collect();
        let mut state = DecodeState::default();
        let mut tokens = vec![prompt.shallow_clone()];
        let mut finite: Option<Tensor> = None;
        let mut next = prompt.shallow_clone();
        for _ in 0..n_new {
            let (hidden, seen) = self.run(OP, &next, Some(&state), Mode::Eval, &mut NoTap)?;
            state = seen;
            let last = hidden.select(1, -1); // the scores of the last token alone are needed
            let logits = self.logits(&last)?; // [b, vocab_size]
            let good = logits.isfinite().all();
            finite =
                Some(finite.map_or_else(|| good.shallow_clone(), |all| all.logical_and(&good)));
            next = draw(&logits, config, &mut rows)?; // [b, 1]
            tokens.push(next.shallow_clone());
        }
        if finite.is_some_and(|all| all.int64_value(&[]) == 0) {
            return Err(Error::NonFinite { op: OP, what: "logits".to_owned(), step: 0 });
        }
        Ok(Tensor::cat(&tokens, 1))
    }
}

/// One id for each row of `logits: [batch, vocab_size]`, as `[batch, 1]`.
fn draw(logits: &Tensor, config: &GenerateConfig, rows: &mut [impl Rng]) -> Result<Tensor> {
    if config.temperature == 0.0 {
        return Ok(logits.argmax(-1, true));
    }
    let (scores, ids) = match config.top_k {
        Some(k) => {
            let (scores, ids) = logits.topk(k, -1, true, true);
            (scores, Some(ids))
        }
        None => (logits.shallow_clone(), None),
    };
    let n = scores.size()[1] as usize;
    let noise: Vec<f64> = rows.iter_mut().flat_map(|rng| gumbel(n, rng)).collect();
    let noise = Tensor::f_from_slice(&noise)
        .and_then(|t| t.f_reshape(scores.size()))
        .and_then(|t| t.f_to_device(scores.device()))
        .op("Decoder::generate")?;
    // Summed in float64, so that noise is not rounded away beside large scores.
    let best = (scores.to_kind(Kind::Double) / config.temperature + noise).argmax(-1, true);
    Ok(ids.map_or_else(|| best.shallow_clone(), |ids| ids.gather(1, &best, false)))
}

/// `n` draws of `-ln(-ln u)`.
fn gumbel(n: usize, rng: &mut impl Rng) -> Vec<f64> {
    // u lies in the open interval: 0 and 1 would give infinities.
    let open = |u: f64| u.max(f64::MIN_POSITIVE);
    (0..n).map(|_| -(-open(rng.random::<f64>()).ln()).ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = Tensor::from_slice2(&[[0.0, 1.0, 2.0, -1.0]]);
        let n = 4000;
        let count = |config: &GenerateConfig| {
            let mut rows = [SeedTree::new(9).rng()];
            let mut counts = [0_u32; 4];
            for _ in 0..n {
                let id = draw(&logits, config, &mut rows).unwrap().int64_value(&[0, 0]);
                counts[id as usize] += 1;
            }
            counts.map(|c| f64::from(c) / f64::from(n))
        };
        let weights = [0.0_f64, 1.0, 2.0, -1.0].map(|x| (x / 2.0).exp());
        let total: f64 = weights.iter().sum();
        let got = count(&GenerateConfig { temperature: 2.0, ..Default::default() });
        for (got, w) in got.iter().zip(weights) {
            assert!((got - w / total).abs() < 0.032, "{got} {}", w / total); // 4 standard errors
        }
        let got = count(&GenerateConfig { temperature: 2.0, top_k: Some(2), ..Default::default() });
        let total = weights[1] + weights[2];
        assert!(got[0] + got[3] < 1e-9);
        assert!((got[1] - weights[1] / total).abs() < 0.032, "{got:?}");
    }

    #[test]
    fn zero_temperature_takes_the_most_likely() {
        let logits = Tensor::from_slice2(&[[0.0, 3.0, 2.0], [5.0, 1.0, 1.0]]);
        let config = GenerateConfig { temperature: 0.0, ..Default::default() };
        let mut rows = [SeedTree::new(0).rng(), SeedTree::new(1).rng()];
        let ids = draw(&logits, &config, &mut rows).unwrap();
        assert_eq!(ids, Tensor::from_slice2(&[[1_i64], [0]]));
    }

    #[test]
    fn bad_configs_name_the_field() {
        let base = GenerateConfig::default;
        for (field, config) in [
            ("max_new_tokens", GenerateConfig { max_new_tokens: 0, ..base() }),
            ("temperature", GenerateConfig { temperature: -1.0, ..base() }),
            ("temperature", GenerateConfig { temperature: f64::NAN, ..base() }),
            ("temperature", GenerateConfig { temperature: 1e-9, ..base() }),
            ("top_k", GenerateConfig { top_k: Some(0), ..base() }),
        ] {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("config field `{field}`")), "{message}");
        }
    }
}
