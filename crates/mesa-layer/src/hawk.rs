//! Hawk's recurrent block: a diagonal gated linear recurrence between two projections (De et al. 2024).

use crate::{
    layer::{LayerState, Mixed, convolve, fan_in},
    mixer::LayerConfig,
};
use tch::Tensor;
use tensor_core::{Checked, Init, Param, ParamPath, Result, Role, check_shape, nn::Linear};

/// `c` in `a_t = a^(c r_t)`.
const SHARPNESS: f64 = 8.0;

/// `out(gelu(gate x) * h)`, `h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t)`, `a_t = a^(8 r_t)`,
/// where `u` is a convolved projection of `x` and `r`, `i` are sigmoid gates of `u`.
///
/// Parameters: `gate`, `input` `[d_model, d_model]`; `conv` `[d_model, 1, conv_len]`; `recurrence`,
/// `admit` `[d_model, d_model]` with biases; `decay` `[d_model]`, `a = sigmoid(decay)`, which starts at
/// `a^8` from 0.9 to 0.999; `out_proj`.
#[derive(Debug)]
pub struct Hawk {
    /// Gate of the output.
    pub gate: Linear,
    /// Input of the recurrence.
    pub input: Linear,
    /// Taps of the convolution.
    pub conv: Option<Param>,
    /// Gate `r` of the decay.
    pub recurrence: Linear,
    /// Gate `i` of the input.
    pub admit: Linear,
    /// Decay before its sigmoid.
    pub decay: Param,
    /// Back to the residual stream.
    pub out_proj: Linear,
}

impl Hawk {
    /// A block with the initial values stated in the type's docs, weights normal over their inputs.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(
        path: &mut ParamPath<'_>,
        config: &Checked<LayerConfig>,
        out_scale: f64,
    ) -> Result<Self> {
        let d = config.d_model;
        let mut linear = |name: &str, scale, bias: bool| {
            let zeros = bias.then_some(&Init::Zeros);
            Linear::with_init(&mut path.sub(name), d, d, &fan_in(d, scale), zeros)
        };
        let (gate, input) = (linear("gate", 1.0, false)?, linear("input", 1.0, false)?);
        let (recurrence, admit) = (linear("recurrence", 1.0, true)?, linear("admit", 1.0, true)?);
        let out_proj = linear("out_proj", out_scale, false)?;
        let conv = (config.conv_len > 0)
            .then(|| {
                let size = [d, 1, config.conv_len];
                path.param("conv", &size, Role::Weight, &fan_in(config.conv_len, 1.0))
            })
            .transpose()?;
        let spread = |i: i64| {
            let share = if d > 1 { i as f64 / (d - 1) as f64 } else { 0.5 };
            let a = (0.9 + share * 0.099_f64).powf(1.0 / SHARPNESS);
            (a / (1.0 - a)).ln()
        };
        let start: Vec<f64> = (0..d).map(spread).collect();
        let start = Tensor::from_slice(&start).to_kind(path.kind()).to_device(path.device());
        let decay = path.given("decay", &start, Role::Bias)?;
        Ok(Self { gate, input, conv, recurrence, admit, decay, out_proj })
    }

    /// Mixes `x: [batch, seq_len, d_model]` after the tokens in `past`.
    ///
    /// # Errors
    /// [`Error::Shape`](tensor_core::Error::Shape) or [`Error::Kind`](tensor_core::Error::Kind) when `x`
    /// or the state does not fit.
    pub fn forward(&self, x: &Tensor, past: Option<&LayerState>) -> Result<Mixed> {
        const OP: &str = "Hawk::forward";
        let d_model = self.input.d_in();
        check_shape!(OP, x, [?batch, ?seq_len, d_model]);
        let mut u = self.input.forward(x)?;
        let mut tails = Vec::new();
        if let Some(conv) = &self.conv {
            let tail = past.and_then(|s| s.tails.first());
            let (y, tail) = convolve(&u, &conv.value(), tail)?;
            u = y;
            tails.push(tail);
        }
        let h0 = match past.and_then(|s| s.mixer.first()) {
            Some(h) => {
                check_shape!(OP, h, [batch, d_model]);
                h.shallow_clone()
            }
            None => Tensor::zeros([batch, d_model], (u.kind(), u.device())),
        };
        let r = self.recurrence.forward(&u)?.sigmoid();
        let log_a = self.decay.value().log_sigmoid() * r * SHARPNESS; // [b, t, d], <= 0
        let admitted = self.admit.forward(&u)?.sigmoid() * u;
        // sqrt(1 - a^2); the floor keeps the derivative finite where a rounds to one
        let room = (-(&log_a * 2.0).expm1()).clamp_min(1e-7).sqrt();
        let h = scan(&log_a.exp(), &(room * admitted), &h0);
        let last = if seq_len > 0 { h.select(1, -1) } else { h0 };
        let y = self.gate.forward(x)?.gelu("tanh") * h;
        let seen = past.map_or(0, LayerState::seen) + seq_len;
        let state = LayerState { tails, mixer: vec![last], seen };
        Ok(Mixed { y: self.out_proj.forward(&y)?, state, stats: None })
    }
}

/// `h_t = a_t h_{t-1} + u_t` for all t, in `log2(seq_len)` passes that each reach twice as far back.
fn scan(a: &Tensor, u: &Tensor, h0: &Tensor) -> Tensor {
    let seq_len = u.size()[1];
    if seq_len == 0 {
        return u.shallow_clone();
    }
    let first = a.narrow(1, 0, 1) * h0.unsqueeze(1) + u.narrow(1, 0, 1);
    let mut h = Tensor::cat(&[&first, &u.narrow(1, 1, seq_len - 1)], 1);
    let mut a = a.shallow_clone();
    let mut back = 1;
    while back < seq_len {
        let len = seq_len - back;
        let shifted = |x: &Tensor| x.narrow(1, 0, len).constant_pad_nd([0, 0, back, 0]);
        h = &h + &a * shifted(&h);
        a = &a * shifted(&a);
        back *= 2;
    }
    h
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn doubling_passes_are_the_recurrence() {
        let kind = (Kind::Double, Device::Cpu);
        for seq_len in [1, 2, 5, 8] {
            let (a, u) =
                (Tensor::rand([2, seq_len, 3], kind), Tensor::randn([2, seq_len, 3], kind));
            let h0 = Tensor::randn([2, 3], kind);
            let got = scan(&a, &u, &h0);
            let mut h = h0;
            for t in 0..seq_len {
                h = a.select(1, t) * h + u.select(1, t);
                let off = (&h - got.select(1, t)).abs().max().double_value(&[]);
                assert!(off < 1e-14, "{seq_len}, {t}: {off:e}");
            }
        }
    }
}
