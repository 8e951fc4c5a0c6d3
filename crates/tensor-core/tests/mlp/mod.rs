//! A multi-layer perceptron with random weights *and* biases, for the tests.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use tensor_core::grow::HiddenUnits;
use tensor_core::{
    Device, Init, Kind, Param, ParamPath, ParamStore, Result, Role, SeedTree, Tensor,
};

pub struct Mlp {
    pub layers: Vec<(Param, Param)>,
}

impl Mlp {
    /// Layers `widths[i] -> widths[i + 1]`.
    pub fn new(path: &mut ParamPath<'_>, widths: &[i64]) -> Result<Self> {
        let mut layers = Vec::new();
        for (i, w) in widths.windows(2).enumerate() {
            let mut path = path.sub(format!("fc{i}"));
            let init = Init::Normal { std: 1.0 / (w[0] as f64).sqrt() };
            let weight = path.param("weight", &[w[1], w[0]], Role::Weight, &init)?;
            let bias = path.param("bias", &[w[1]], Role::Bias, &Init::Normal { std: 0.5 })?;
            layers.push((weight, bias));
        }
        Ok(Self { layers })
    }

    pub fn store(seed: u64, kind: Kind, widths: &[i64]) -> (ParamStore, Self) {
        let mut store = ParamStore::new(Device::Cpu, kind, SeedTree::new(seed));
        let mlp = Self::new(&mut store.root(), widths).unwrap();
        (store, mlp)
    }

    /// `[batch, widths[0]]` to `[batch, widths[n]]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let mut x = x.shallow_clone();
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            x = x.matmul(&weight.value().tr()) + bias.value();
            if i + 1 < self.layers.len() {
                x = x.tanh();
            }
        }
        x
    }

    /// The units between layer `i` and the next.
    pub fn hidden(&self, i: usize) -> HiddenUnits {
        let (weight, bias) = &self.layers[i];
        HiddenUnits::between(weight, Some(bias), &self.layers[i + 1].0).unwrap()
    }
}

/// Standard normal numbers that depend on the seed alone.
pub fn normal(seed: u64, size: &[i64], kind: Kind) -> Tensor {
    let mut store = ParamStore::new(Device::Cpu, kind, SeedTree::new(seed));
    let p = store.root().param("x", size, Role::Buffer, &Init::Normal { std: 1.0 }).unwrap();
    p.value()
}

/// Every bit of a store and its optimiser, by name.
pub fn bytes<O: tensor_core::Optimizer>(
    trainer: &tensor_core::Trainer<O>,
) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Tensor)> =
        trainer.store.iter().map(|p| (p.name(), p.value().detach())).collect();
    all.extend(trainer.optim.state_dict(&trainer.store).unwrap());
    all.into_iter()
        .map(|(name, t)| {
            let mut raw = vec![0; t.numel() * t.kind().elt_size_in_bytes()];
            t.contiguous().copy_data_u8(&mut raw, t.numel());
            (format!("{name} {:?}", t.size()), raw)
        })
        .collect()
}
