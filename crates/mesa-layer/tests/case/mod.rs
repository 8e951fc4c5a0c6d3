//! Random inputs for the tests, drawn from a seed.
#![allow(dead_code, missing_docs, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use mesa_layer::{MesaInputs, MesaState};
use tch::{Device, Kind, Tensor};
use tensor_core::{SeedTree, interop};

/// Sizes of a case.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub batch: i64,
    pub seq_len: i64,
    pub n_heads: i64,
    pub head_dim: i64,
    pub value_dim: i64,
}

/// Inputs of one case.
pub struct Inputs {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub g: Tensor,
    pub beta: Tensor,
    pub ridge: Tensor,
    pub initial: Option<MesaState>,
}

impl Clone for Inputs {
    fn clone(&self) -> Self {
        self.map(Tensor::copy)
    }
}

impl Inputs {
    /// Unit queries and keys, gates from 0.8 to 1, a past that is a sum of outer products.
    pub fn draw(sizes: Sizes, kind: Kind, seed: u64) -> Self {
        use rand_distr::{Distribution, StandardNormal};
        let Sizes { batch, seq_len, n_heads, head_dim, value_dim } = sizes;
        let seeds = SeedTree::new(seed);
        let normal = |name: &str, size: &[i64]| {
            let n = size.iter().product::<i64>() as usize;
            let values: Vec<f64> =
                StandardNormal.sample_iter(seeds.child(name).rng()).take(n).collect();
            interop::from_slice(&values, size).unwrap().to_kind(kind)
        };
        let unit = |x: Tensor| &x / x.square().sum_dim_intlist([-1].as_slice(), true, None).sqrt();
        let rows = [batch, seq_len, n_heads, head_dim];
        let past = normal("past", &[batch, n_heads, 2 * head_dim, head_dim]) * 0.3;
        Self {
            q: unit(normal("q", &rows)),
            k: unit(normal("k", &rows)),
            v: normal("v", &[batch, seq_len, n_heads, value_dim]),
            g: (normal("g", &rows[..3]).sigmoid() * 0.2 + 0.8).log(),
            beta: normal("beta", &rows[..3]).sigmoid(),
            ridge: normal("ridge", &[n_heads, head_dim]).sigmoid() + 0.25,
            initial: Some(MesaState {
                h_kk: past.transpose(-1, -2).matmul(&past),
                g_kv: normal("g_kv", &[batch, n_heads, head_dim, value_dim]),
            }),
        }
    }

    pub fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            q: f(&self.q),
            k: f(&self.k),
            v: f(&self.v),
            g: f(&self.g),
            beta: f(&self.beta),
            ridge: f(&self.ridge),
            initial: self
                .initial
                .as_ref()
                .map(|s| MesaState { h_kk: f(&s.h_kk), g_kv: f(&s.g_kv) }),
        }
    }

    /// Some of the tokens, with what is not by token as it is.
    pub fn tokens(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        let mut out = self.map(Tensor::shallow_clone);
        for x in [&mut out.q, &mut out.k, &mut out.v, &mut out.g, &mut out.beta] {
            *x = f(x);
        }
        out
    }

    pub fn get(&self) -> MesaInputs<'_> {
        let mut inputs =
            MesaInputs::new([&self.q, &self.k, &self.v], &self.g, &self.beta, &self.ridge);
        inputs.initial = self.initial.as_ref();
        inputs
    }
}

/// `|a - b| / |b|`.
pub fn error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    if b.numel() == 0 {
        return 0.0;
    }
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    let (off, size) = (norm(&(a.to_kind(Kind::Double) - b.to_kind(Kind::Double))), norm(b));
    if size > 0.0 { off / size } else { off }
}

/// Whether two tensors hold the same numbers.
pub fn same(a: &Tensor, b: &Tensor) -> bool {
    a.size() == b.size() && a.eq_tensor(b).all().int64_value(&[]) != 0
}

/// A scalar on the CPU.
pub fn full(size: &[i64], x: f64, kind: Kind) -> Tensor {
    Tensor::full(size, x, (kind, Device::Cpu))
}
