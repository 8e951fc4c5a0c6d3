//! Rotary position embedding.

use crate::{
    Error, Result, check_shape,
    config::{finite_in, in_range},
    error::TorchContext,
};
use tch::{Device, Kind, Tensor};

/// Turns pairs of features of a query or key by an angle proportional to its position, so that the
/// product of a query and a key depends on their distance alone.
///
/// ```text
/// angle(p, i) = p * theta^(-2 i / head_dim),   i = 0 .. head_dim / 2
/// y[i]        = x[i] cos - x[i + head_dim/2] sin
/// y[i + head_dim/2] = x[i + head_dim/2] cos + x[i] sin
/// ```
///
/// Pairs are `(i, i + head_dim/2)`, the order of GPT-NeoX and of Llama checkpoints in the Hugging
/// Face form. The table is computed in float64 and kept in the store's element type.
#[derive(Debug)]
pub struct Rope {
    cos: Tensor, // [max_seq_len, 1, head_dim / 2]
    sin: Tensor,
}

impl Clone for Rope {
    fn clone(&self) -> Self {
        Self { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone() }
    }
}

impl Rope {
    /// The table for positions `0..max_seq_len` of heads of `head_dim` features.
    ///
    /// # Errors
    /// [`Error::Config`] when `head_dim` is odd or a size or `theta` lies outside its range.
    pub fn new(
        head_dim: i64,
        max_seq_len: i64,
        theta: f64,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        check_rope(head_dim, theta)?;
        in_range("max_seq_len", max_seq_len, 1..=1 << 24)?;
        let half = head_dim / 2;
        let rates: Vec<f64> =
            (0..half).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64)).collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f64> = (0..max_seq_len)
                .flat_map(|p| rates.iter().map(move |rate| f(p as f64 * rate)))
                .collect();
            Tensor::f_from_slice(&values)
                .and_then(|t| t.f_reshape([max_seq_len, 1, half]))
                .and_then(|t| t.f_to_kind(kind))
                .and_then(|t| t.f_to_device(device))
                .op("Rope::new")
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Number of positions in the table.
    pub fn max_seq_len(&self) -> i64 {
        self.cos.size()[0]
    }

    /// Turns `x`, whose first position is `start`.
    ///
    /// * `x`: `[batch, seq_len, n_heads, head_dim]`
    ///
    /// Returns the same sizes, in the element type of the table or of `x`, whichever is wider.
    ///
    /// # Errors
    /// [`Error::Shape`] when `head_dim` differs from the table's; [`Error::Argument`] when
    /// `start..start + seq_len` leaves the table.
    pub fn forward(&self, x: &Tensor, start: i64) -> Result<Tensor> {
        let head_dim = 2 * self.cos.size()[2];
        check_shape!("Rope::forward", x, [?_batch, ?seq_len, ?_n_heads, head_dim]);
        let end = start.checked_add(seq_len).filter(|end| *end <= self.max_seq_len());
        if start < 0 || end.is_none() {
            return Err(Error::Argument {
                op: "Rope::forward",
                arg: "start",
                expected: format!("positions in 0..{}", self.max_seq_len()),
                got: format!("{seq_len} positions from {start}"),
            });
        }
        Ok(self.turn(x, start))
    }

    /// The rotation without checks.
    pub(super) fn turn(&self, x: &Tensor, start: i64) -> Tensor {
        let (seq_len, half) = (x.size()[1], self.cos.size()[2]);
        let cos = self.cos.narrow(0, start, seq_len); // [t, 1, d/2]
        let sin = self.sin.narrow(0, start, seq_len);
        let (x1, x2) = (x.narrow(-1, 0, half), x.narrow(-1, half, half));
        Tensor::cat(&[&x1 * &cos - &x2 * &sin, x2 * cos + x1 * sin], -1)
    }
}

/// Checks what a rotary embedding asks of a head.
pub(super) fn check_rope(head_dim: i64, theta: f64) -> Result<()> {
    in_range("head_dim", head_dim, 2..=1 << 16)?;
    if head_dim % 2 != 0 {
        let why = format!("must be even for rotary positions, got {head_dim}");
        return Err(Error::Config { field: "head_dim", why });
    }
    finite_in("rope.theta", theta, 1.0..=1e12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_one_by_hand() {
        let rope = Rope::new(4, 3, 100.0, Device::Cpu, Kind::Double).unwrap();
        let x = Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]).reshape([1, 1, 1, 4]);
        assert_eq!(rope.forward(&x, 0).unwrap(), x);
        let y = rope.forward(&x, 1).unwrap();
        let (a, b) = (1.0_f64, 0.1_f64); // angles: 1 and 100^(-1/2)
        let expected = [
            a.cos() - 3.0 * a.sin(),
            2.0 * b.cos() - 4.0 * b.sin(),
            3.0 * a.cos() + a.sin(),
            4.0 * b.cos() + 2.0 * b.sin(),
        ];
        for (i, want) in expected.iter().enumerate() {
            assert!((y.double_value(&[0, 0, 0, i as i64]) - want).abs() < 1e-14);
        }
    }

    #[test]
    fn leaving_the_table_and_odd_heads_are_errors() {
        let rope = Rope::new(4, 3, 100.0, Device::Cpu, Kind::Float).unwrap();
        let x = Tensor::zeros([1, 2, 1, 4], (Kind::Float, Device::Cpu));
        for start in [2, -1, i64::MAX] {
            assert!(matches!(rope.forward(&x, start), Err(Error::Argument { .. })), "{start}");
        }
        assert!(rope.forward(&x.narrow(3, 0, 2), 0).is_err());
        assert!(Rope::new(3, 3, 100.0, Device::Cpu, Kind::Float).is_err());
        assert!(Rope::new(4, 0, 100.0, Device::Cpu, Kind::Float).is_err());
        assert!(Rope::new(4, 3, f64::NAN, Device::Cpu, Kind::Float).is_err());
    }
}
