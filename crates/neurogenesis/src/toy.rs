//! The toy task of section 8.1: how many of 64 features are independent?
//!
//! ```text
//! X[1..d] ~ N(0, 1)      X[d+1..64] = R X[1..d], R ~ N(0, 1)
//! r = 0.9 sum_j X_j + 0.1 N(0, 1)      label = r > mean r
//! ```

use crate::subspace::matrix;
use crate::{Error, Result};
use rand_distr::{Distribution, StandardNormal};
use tensor_core::{Device, Kind, SeedTree, Tensor, error::TorchContext};

/// Features, responses and labels; the first rows are for training.
#[derive(Debug)]
pub struct Toy {
    /// `[n, features]`, float64.
    pub x: Tensor,
    /// `[n]`, float64.
    pub response: Tensor,
    /// `[n]`, 0 or 1, int64.
    pub labels: Tensor,
    /// The first so many rows are the training part, the rest the test part.
    pub train_rows: i64,
}

impl Toy {
    /// The task with `independent` of `features` features independent, `n` samples drawn from
    /// `seed`. The paper's sizes are 64 features, 5,000 samples and 1, 2, 4, .. 32 independent ones.
    ///
    /// # Errors
    /// [`Error::Argument`] when `independent` is not in `1..=features` or `n` is below 2.
    pub fn draw(independent: i64, features: i64, n: i64, seed: &SeedTree) -> Result<Self> {
        const OP: &str = "Toy::draw";
        for (arg, value, least, most) in [
            ("features", features, 1, 1 << 16),
            ("independent", independent, 1, features),
            ("n", n, 2, 1 << 24),
        ] {
            if !(least..=most).contains(&value) {
                let expected = format!("in {least}..={most}");
                return Err(Error::Argument { op: OP, arg, expected, got: value.to_string() });
            }
        }
        let mut rng = seed.child("toy").rng();
        let mut normal = |size: &[i64]| {
            let count = size.iter().product::<i64>() as usize;
            let draws: Vec<f64> = StandardNormal.sample_iter(&mut rng).take(count).collect();
            Tensor::f_from_slice(&draws).and_then(|x| x.f_reshape(size)).op(OP)
        };
        let base = normal(&[n, independent])?;
        let mix = normal(&[features - independent, independent])?;
        let noise = normal(&[n])?;
        Self::from_parts(&base, &mix, &noise, 0.1)
    }

    /// The task from given draws: `base` `[n, d]`, `mix` `[features - d, d]`, `noise` `[n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes disagree.
    pub fn from_parts(base: &Tensor, mix: &Tensor, noise: &Tensor, portion: f64) -> Result<Self> {
        const OP: &str = "Toy::from_parts";
        let _guard = tch::no_grad_guard();
        let (n, d) = matrix(OP, "base", base)?;
        if mix.dim() != 2 || mix.size()[1] != d {
            return Err(Error::shape(OP, "mix", format!("[features - d, d = {d}]"), mix));
        }
        if noise.size() != [n] {
            return Err(Error::shape(OP, "noise", format!("[n = {n}]"), noise));
        }
        let x = Tensor::cat(&[base.shallow_clone(), base.matmul(&mix.transpose(0, 1))], 1);
        let clean = x.sum_dim_intlist([1_i64].as_slice(), false, Kind::Double);
        let response = clean * (1.0 - portion) + noise * portion;
        let labels = response.gt_tensor(&response.mean(Kind::Double)).to_kind(Kind::Int64);
        // An exact integer form of 80 %.
        Ok(Self { x, response, labels, train_rows: n * 4 / 5 })
    }

    /// Features and labels of the training rows, on `device` in `kind`.
    pub fn train(&self, kind: Kind, device: Device) -> (Tensor, Tensor) {
        self.part(0, self.train_rows, kind, device)
    }

    /// Features and labels of the remaining rows, on `device` in `kind`.
    pub fn test(&self, kind: Kind, device: Device) -> (Tensor, Tensor) {
        self.part(self.train_rows, self.x.size()[0] - self.train_rows, kind, device)
    }

    fn part(&self, start: i64, len: i64, kind: Kind, device: Device) -> (Tensor, Tensor) {
        let x = self.x.narrow(0, start, len).to_kind(kind).to_device(device);
        (x, self.labels.narrow(0, start, len).to_device(device))
    }
}
