//! Look-up table of vectors, also read backwards as a tied output layer.

use super::{last_dim, same_kind};
use crate::{Compute, Error, Init, Param, ParamPath, Result, Role, error::TorchContext};
use tch::{Device, Kind, Tensor};

/// Row `ids[..]` of a table `[vocab_size, d_model]`; and the same table as an output layer.
///
/// # Ids out of range
/// On the CPU the ids are looked at, and one outside `0..vocab_size` is an error. On another device
/// that look would make the host wait for the device, so ids are clamped there and the rows of bad
/// ids become NaN: the error surfaces as a loss that is not finite, never as a silent wrong number
/// or a device-side assertion (which would end the process' use of the GPU).
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `[vocab_size, d_model]`.
    pub weight: Param,
    compute: Compute,
}

impl Embedding {
    /// A table with `PyTorch`'s initial values, standard normal.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, vocab_size: i64, d_model: i64) -> Result<Self> {
        Self::with_init(path, vocab_size, d_model, &Init::Normal { std: 1.0 })
    }

    /// A table with given initial values.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn with_init(
        path: &mut ParamPath<'_>,
        vocab_size: i64,
        d_model: i64,
        init: &Init,
    ) -> Result<Self> {
        let weight = path.param("weight", &[vocab_size, d_model], Role::Embedding, init)?;
        Ok(Self { weight, compute: Compute::default() })
    }

    /// The same table (same parameter) with [`unembed`](Self::unembed) in another precision.
    #[must_use]
    pub fn compute(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// Rows of the table: `ids: [..]` of kind `Int64` to `[.., d_model]`.
    ///
    /// # Errors
    /// [`Error::Kind`] when `ids` are not `Int64`; [`Error::Argument`] for an id out of range
    /// (exact on the CPU, see the type's docs for other devices).
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        const OP: &str = "Embedding::forward";
        let weight = self.weight.value();
        let (ids, bad) = admit(OP, "ids", ids, weight.size()[0])?;
        let rows = Tensor::f_embedding(&weight, &ids, -1, false, false).op(OP)?;
        Ok(match bad {
            Some(bad) => rows.masked_fill(&bad.unsqueeze(-1), f64::NAN),
            None => rows,
        })
    }

    /// Scores of all rows, `y = x W^T`: the output layer of a network with tied embeddings.
    ///
    /// * `x`: `[.., d_model]`
    ///
    /// Returns `[.., vocab_size]` in the element type of the table.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last dimension is not `d_model`, [`Error::Kind`] when the element
    /// types differ.
    pub fn unembed(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.value();
        last_dim("Embedding::unembed", "x", x, "d_model", weight.size()[1])?;
        same_kind("Embedding::unembed", "x", x, weight.kind())?;
        let operand = |t: &Tensor| self.compute.operand(t);
        let y = operand(x).linear(&operand(&weight), None::<Tensor>);
        Ok(self.compute.result(y, weight.kind()))
    }
}

/// Checks class or token ids against `0..n`. On the CPU exactly; elsewhere without waiting for the
/// device: returns ids clamped into range and a mask of those that were outside.
pub(super) fn admit(
    op: &'static str,
    arg: &'static str,
    ids: &Tensor,
    n: i64,
) -> Result<(Tensor, Option<Tensor>)> {
    if ids.kind() != Kind::Int64 {
        let expected = "Int64".to_owned();
        return Err(Error::Kind { op, arg: arg.to_owned(), expected, got: ids.kind() });
    }
    if ids.device() != Device::Cpu {
        return Ok(clamp_and_mark(ids, n));
    }
    if ids.numel() > 0 {
        let (low, high) = ids.f_aminmax(None, false).op(op)?;
        let (low, high) = (low.int64_value(&[]), high.int64_value(&[]));
        if low < 0 || high >= n {
            let (expected, got) = (format!("ids in 0..{n}"), format!("ids in {low}..={high}"));
            return Err(Error::Argument { op, arg, expected, got });
        }
    }
    Ok((ids.shallow_clone(), None))
}

fn clamp_and_mark(ids: &Tensor, n: i64) -> (Tensor, Option<Tensor>) {
    let kept = ids.clamp(0, n - 1);
    let bad = kept.ne_tensor(ids);
    (kept, Some(bad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParamStore, SeedTree};

    fn table(kind: Kind) -> Embedding {
        let mut store = ParamStore::new(Device::Cpu, kind, SeedTree::new(0));
        let table = Embedding::new(&mut store.root(), 3, 2).unwrap();
        let rows = Tensor::from_slice2(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        table.weight.copy_from(&rows).unwrap();
        table
    }

    #[test]
    fn rows_and_scores_by_hand() {
        let table = table(Kind::Double);
        let y = table.forward(&Tensor::from_slice(&[2_i64, 0])).unwrap();
        assert_eq!(y, Tensor::from_slice2(&[[5.0, 6.0], [1.0, 2.0]]));
        let scores = table.unembed(&Tensor::from_slice2(&[[1.0, -1.0]])).unwrap();
        assert_eq!(scores, Tensor::from_slice2(&[[-1.0, -1.0, -1.0]]));
    }

    #[test]
    fn ids_out_of_range_are_errors_on_the_cpu() {
        let table = table(Kind::Float);
        for bad in [[0_i64, 3], [-1, 0], [i64::MAX, 0], [i64::MIN, 0]] {
            let message = table.forward(&Tensor::from_slice(&bad)).unwrap_err().to_string();
            assert!(message.contains("`ids` must be ids in 0..3"), "{message}");
        }
        let floats = table.forward(&Tensor::from_slice(&[0.0_f32]));
        assert!(matches!(floats, Err(Error::Kind { .. })));
        let none = Tensor::zeros([2, 0], (Kind::Int64, Device::Cpu));
        assert_eq!(table.forward(&none).unwrap().size(), [2, 0, 2]);
    }

    #[test]
    fn elsewhere_bad_ids_are_clamped_and_marked() {
        let (ids, bad) = clamp_and_mark(&Tensor::from_slice(&[-5_i64, 0, 2, 3]), 3);
        assert_eq!(ids, Tensor::from_slice(&[0_i64, 0, 2, 2]));
        assert_eq!(bad.unwrap(), Tensor::from_slice(&[true, false, false, true]));
    }
}
