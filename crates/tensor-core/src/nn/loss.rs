//! Losses on logits.

use super::embedding::admit;
use crate::{Error, Result, check_shape};
use tch::{Device, Tensor};

/// Target id of positions that the loss leaves out (`PyTorch`'s default).
pub const IGNORE: i64 = -100;

/// Mean of `-log softmax(logits)[target]` over the positions whose target is not [`IGNORE`].
///
/// * `logits`: `[batch, seq_len, vocab_size]`, in float32 or float64
/// * `targets`: `[batch, seq_len]`, `Int64`
///
/// Returns a scalar; NaN when every position is left out.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Kind`] when the tensors do not fit. A target outside
/// `0..vocab_size` is [`Error::Argument`] on the CPU; on another device, where looking would make
/// the host wait, it makes the loss NaN.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    check_shape!(OP, logits, [?batch, ?seq_len, ?vocab_size]);
    check_shape!(OP, targets, [batch, seq_len]);
    if !crate::compute::is_float(logits.kind()) {
        let expected = "a floating-point kind".to_owned();
        return Err(Error::Kind { op: OP, arg: "logits".to_owned(), expected, got: logits.kind() });
    }
    if vocab_size == 0 {
        let expected = "[batch, seq_len, vocab_size >= 1]".to_owned();
        return Err(Error::Shape {
            op: OP,
            arg: "logits".to_owned(),
            expected,
            got: logits.size(),
        });
    }
    let ignored = targets.eq(IGNORE);
    // Class 0 stands in for positions that are left out, so that the rest can be checked exactly.
    let (kept, bad) = admit(OP, "targets", &targets.masked_fill(&ignored, 0), vocab_size)?;
    let targets =
        if targets.device() == Device::Cpu { targets } else { &kept.masked_fill(&ignored, IGNORE) };
    let loss = logits.reshape([-1, vocab_size]).cross_entropy_loss(
        &targets.reshape([-1]),
        None::<Tensor>,
        tch::Reduction::Mean,
        IGNORE,
        0.0,
    );
    Ok(match bad {
        Some(bad) => loss.masked_fill(&bad.any(), f64::NAN),
        None => loss,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn two_classes_by_hand() {
        let logits = Tensor::from_slice(&[0.0, 3.0_f64.ln(), 5.0, 5.0, 9.0, -9.0]);
        let logits = logits.reshape([1, 3, 2]);
        let targets = Tensor::from_slice(&[1_i64, 0, IGNORE]).reshape([1, 3]);
        let loss = cross_entropy(&logits, &targets).unwrap().double_value(&[]);
        let expected = f64::midpoint(-(0.75_f64.ln()), 2.0_f64.ln());
        assert!((loss - expected).abs() < 1e-14);
    }

    #[test]
    fn targets_out_of_range_and_misfits_are_errors() {
        let logits = Tensor::zeros([1, 2, 3], (Kind::Float, Device::Cpu));
        for bad in [[0_i64, 3], [-1, 0], [IGNORE - 1, 0]] {
            let targets = Tensor::from_slice(&bad).reshape([1, 2]);
            let result = cross_entropy(&logits, &targets);
            assert!(matches!(result, Err(Error::Argument { .. })), "{bad:?}");
        }
        let floats = Tensor::zeros([1, 2], (Kind::Float, Device::Cpu));
        assert!(matches!(cross_entropy(&logits, &floats), Err(Error::Kind { .. })));
        let longer = Tensor::zeros([1, 3], (Kind::Int64, Device::Cpu));
        assert!(matches!(cross_entropy(&logits, &longer), Err(Error::Shape { .. })));
    }
}
