//! NORTH-Select (section 4.1): of many candidates keep those that add most to what the layer spans.

use crate::metric::by_unit;
use crate::subspace::{epsilon, number, row_norms, spectrum, to_vec};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::{Kind, Tensor, error::TorchContext};

/// What ranks candidates.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Effective dimension plus nuclear norm of candidate and current activations together: one small
    /// singular value decomposition per candidate. The paper's.
    #[default]
    EffectiveDimension,
    /// Norm of the candidate off the span of the current activations: one matrix product for all of
    /// them. Depends on the candidate's size, not only on its direction (`NeurOps`).
    Residual,
}

/// Which end of the ranking is kept.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The most orthogonal, as described.
    #[default]
    Described,
    /// The *least* orthogonal: the released code sorts its dense candidates in reverse, and the
    /// published MLP figures of NORTH-Select come from that. For reproducing them only.
    ReleasedDense,
}

/// Scores of all candidates.
#[derive(Debug)]
pub struct Scores {
    /// Singular values of `[candidate, H] / sqrt(n)` above the threshold; empty for [`Score::Residual`].
    pub effective_count: Vec<i64>,
    /// Sum of those singular values; empty for [`Score::Residual`].
    pub nuclear_norm: Vec<f64>,
    /// Norm of each candidate off the span of `H`.
    pub residual_norm: Vec<f64>,
}

impl Scores {
    /// The number that ranks each candidate: the larger, the more orthogonal.
    pub fn ranking(&self, by: Score) -> Vec<f64> {
        match by {
            Score::Residual => self.residual_norm.clone(),
            Score::EffectiveDimension => self
                .effective_count
                .iter()
                .zip(&self.nuclear_norm)
                .map(|(count, norm)| *count as f64 + norm)
                .collect(),
        }
    }
}

/// Scores candidates against the current post-activations.
///
/// * `h`: `[samples, units]` or `[batch, channels, height, width]`, the current units
/// * `candidates`: the same with one unit or channel per candidate; never a current unit again, and
///   after the activation
///
/// With `H = U S V^T` the singular values of `[a, H]` are those of the arrow matrix
/// `[[U^T a, S], [|a - U U^T a|, 0]]`, whose order is the rank of `H` plus one and not the number of
/// samples.
///
/// # Errors
/// [`Error::Shape`] when samples disagree or `h` is empty, [`Error::NonFinite`] for NaN or infinity.
pub fn scores(h: &Tensor, candidates: &Tensor, eps: f64, by: Score) -> Result<Scores> {
    const OP: &str = "init::select";
    let _guard = tch::no_grad_guard();
    let kind = h.kind();
    let (h, a) = (by_unit(h)?, by_unit(candidates)?);
    let (n, width) = (h.size()[0], h.size()[1]);
    if a.size()[0] != n {
        let expected = format!("activations on the same {n} samples (and positions)");
        return Err(Error::shape(OP, "candidates", expected, candidates));
    }
    let a = a / (n as f64).sqrt();
    let current = spectrum(OP, &(h / (n as f64).sqrt()), n.max(width) as f64 * epsilon(kind))?;
    let inside = current.u.transpose(0, 1).matmul(&a); // [r, T]
    let rest = &a - current.u.matmul(&inside);
    let rest = &rest - current.u.matmul(&current.u.transpose(0, 1).matmul(&rest));
    let rho = row_norms(&rest.transpose(0, 1)); // [T]
    let mut out = Scores {
        effective_count: Vec::new(),
        nuclear_norm: Vec::new(),
        residual_norm: to_vec(OP, &(&rho * (n as f64).sqrt()))?,
    };
    if out.residual_norm.iter().any(|r| !r.is_finite()) {
        return Err(Error::NonFinite { op: OP, what: "candidates".to_owned() });
    }
    if by == Score::Residual {
        return Ok(out);
    }
    let (r, total) = (current.rank, a.size()[1]);
    // At most 64 MiB of arrow matrices at a time.
    let chunk = ((8 << 20) / ((r + 1) * (r + 1))).clamp(1, total.max(1));
    let mut start = 0;
    while start < total {
        let len = chunk.min(total - start);
        let arrow = Tensor::zeros([len, r + 1, r + 1], (Kind::Double, a.device()));
        arrow
            .narrow(1, 0, r)
            .narrow(2, 0, 1)
            .copy_(&inside.narrow(1, start, len).transpose(0, 1).unsqueeze(2));
        arrow
            .narrow(1, r, 1)
            .narrow(2, 0, 1)
            .copy_(&rho.narrow(0, start, len).reshape([len, 1, 1]));
        arrow.narrow(1, 0, r).narrow(2, 1, r).copy_(&current.s.diag_embed(0, -2, -1).unsqueeze(0));
        let (_, s, _) = arrow.f_svd(true, false).op(OP)?;
        let counts = s.gt(eps).sum_dim_intlist([-1_i64].as_slice(), false, Kind::Int64);
        out.effective_count.extend(Vec::<i64>::try_from(&counts).op(OP)?);
        out.nuclear_norm
            .extend(to_vec(OP, &s.sum_dim_intlist([-1_i64].as_slice(), false, Kind::Double))?);
        start += len;
    }
    Ok(out)
}

/// The `k` best of a ranking, best first; ties go to the lowest index.
pub fn choose(ranking: &[f64], k: usize, order: Order) -> Vec<i64> {
    let mut index: Vec<usize> = (0..ranking.len()).collect();
    // A stable sort keeps the lowest index first among equals.
    index.sort_by(|i, j| match order {
        Order::Described => ranking[*j].total_cmp(&ranking[*i]),
        Order::ReleasedDense => ranking[*i].total_cmp(&ranking[*j]),
    });
    index.into_iter().take(k).map(|i| i as i64).collect()
}

/// NORTH-Opt (section 4.4): moves candidates `[T, inputs]` by `steps` of Adam at rate `lr` so that
/// the summed nuclear norm of `[relu(X w), H] / sqrt(n)` grows; after each step the rows get norm
/// `target` again.
///
/// # Errors
/// [`Error::Shape`] when sizes disagree, [`Error::NonFinite`] when the ascent leaves the numbers.
pub fn ascend(
    x: &Tensor,
    h: &Tensor,
    candidates: &Tensor,
    target: f64,
    steps: u64,
    lr: f64,
) -> Result<Tensor> {
    const OP: &str = "init::select::ascend";
    let h = by_unit(h)?;
    let x = x.detach().to_kind(Kind::Double);
    let (n, d) = (h.size()[0], candidates.size()[1]);
    if x.size() != [n, d] {
        return Err(Error::shape(OP, "x", format!("[samples = {n}, inputs = {d}]"), &x));
    }
    let total = candidates.size()[0];
    let h = h / (n as f64).sqrt();
    let mut w = candidates.detach().to_kind(Kind::Double);
    let (mut m, mut v) = (w.zeros_like(), w.zeros_like());
    for t in 1..=steps {
        let leaf = w.copy().set_requires_grad(true);
        let a = x.matmul(&leaf.transpose(0, 1)).clamp_min(0.0) / (n as f64).sqrt(); // [n, T]
        let both = Tensor::cat(
            &[a.transpose(0, 1).unsqueeze(2), h.unsqueeze(0).expand([total, -1, -1], false)],
            2,
        );
        // Nuclear norm through the square root of the Gram's eigenvalues would lose the gradient at
        // 0; the smoothed form trace((G + tiny)^(1/2)) keeps it finite for collapsed layers.
        let gram = both.transpose(1, 2).matmul(&both);
        let eye = Tensor::eye(gram.size()[1], (Kind::Double, gram.device())) * 1e-10;
        let values = (gram + eye).f_linalg_eigvalsh("L").op(OP)?;
        let gain = values.clamp_min(1e-12).sqrt().sum(Kind::Double);
        let gradient = Tensor::f_run_backward(&[&gain], &[&leaf], false, false).op(OP)?.remove(0);
        let _guard = tch::no_grad_guard();
        m = m * 0.9 + &gradient * 0.1;
        v = v * 0.999 + gradient.square() * 0.001;
        let (c1, c2) = (1.0 - 0.9_f64.powi(t as i32), 1.0 - 0.999_f64.powi(t as i32));
        w = super::rescaled(&(w + (&m / c1) * lr / ((&v / c2).sqrt() + 1e-8)), target);
    }
    if number(OP, &w.sum(Kind::Double))?.is_finite() {
        return Ok(w.detach());
    }
    Err(Error::NonFinite { op: OP, what: "candidates after the ascent".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_index_in_both_orders() {
        let r = [1.0, 3.0, 3.0, 0.0, 3.0];
        assert_eq!(choose(&r, 2, Order::Described), [1, 2]);
        assert_eq!(choose(&r, 2, Order::ReleasedDense), [3, 0]);
        assert_eq!(choose(&r, 9, Order::Described).len(), 5);
    }

    #[test]
    fn an_orthogonal_candidate_beats_a_copy() {
        let h = Tensor::from_slice(&[1.0, 0.0, 0.0]).reshape([3, 1]);
        let candidates = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]).reshape([3, 2]);
        let s = scores(&h, &candidates, 0.01, Score::EffectiveDimension).unwrap();
        assert_eq!(s.effective_count, [1, 2]);
        assert!((s.residual_norm[0]).abs() < 1e-15 && (s.residual_norm[1] - 1.0).abs() < 1e-15);
        assert_eq!(choose(&s.ranking(Score::EffectiveDimension), 1, Order::Described), [1]);
        assert!(scores(&h.narrow(0, 0, 2), &candidates, 0.01, Score::Residual).is_err());
    }
}
