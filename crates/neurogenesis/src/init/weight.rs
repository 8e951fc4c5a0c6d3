//! NORTH-Weight (section 4.3): random fan-in off the row space of the existing weights.

use super::{mean_row_norm, rescaled};
use crate::metric::by_fan_in;
use crate::subspace::{epsilon, number, off, rank_tolerance, spectrum};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::{Kind, Tensor};

/// What the rows of one event are made orthogonal to.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// Existing rows. New rows of one event are not orthogonal to each other, and with one free
    /// direction left they are parallel. The paper's.
    #[default]
    Existing,
    /// Existing rows and the earlier new rows of the same event (Gram-Schmidt).
    Sequential,
    /// Nothing: plain random rows. The released code does this for its MLPs without saying so,
    /// because its guard compares the *allocated* width with the inputs; the first version's
    /// NORTH-Weight figures come from it.
    Off,
}

/// New fan-in vectors.
#[derive(Debug)]
pub struct Rows {
    /// `[k, inputs]`, each of the mean norm of the existing rows.
    pub rows: Tensor,
    /// Numerical rank of the existing rows.
    pub rank: i64,
    /// Whether the existing rows span everything, so that the draws were only rescaled.
    pub fallback: bool,
}

/// Projects `draws` `[k, inputs]` off the numerical row space of `w` and rescales them to the mean
/// norm of its rows.
///
/// The numerical rank (`sigma > max(M, d) eps sigma_max`) counts, so duplicated rows take away one
/// direction and not two. A row of which nothing is left is the plain draw, rescaled.
///
/// # Errors
/// [`Error::Shape`] when draws and weights disagree; [`Error::NonFinite`] for a weight that is not.
pub fn off_row_space(w: &Tensor, draws: &Tensor, projection: Projection) -> Result<Rows> {
    const OP: &str = "init::weight";
    let _guard = tch::no_grad_guard();
    let target = mean_row_norm(w)?;
    let rows = by_fan_in(w)?;
    let inputs = rows.size()[1];
    if draws.dim() != 2 || draws.size()[1] != inputs {
        return Err(Error::shape(OP, "draws", format!("[k, inputs = {inputs}]"), draws));
    }
    let draws = draws.to_kind(Kind::Double);
    let rtol = rank_tolerance(&rows).max(inputs.max(rows.size()[0]) as f64 * epsilon(w.kind()));
    let spectrum = spectrum(OP, &rows, rtol)?;
    let rank = spectrum.rank;
    let fallback = rank >= inputs;
    if fallback || projection == Projection::Off {
        return Ok(Rows { rows: rescaled(&draws, target), rank, fallback });
    }
    let mut basis = spectrum.v;
    let mut out = Vec::new();
    for j in 0..draws.size()[0] {
        let draw = draws.narrow(0, j, 1);
        let left = off(&draw, &basis);
        let share = number(OP, &left.norm())?;
        if share <= 1e-8 * number(OP, &draw.norm())? {
            out.push(rescaled(&draw, target));
            continue;
        }
        if projection == Projection::Sequential {
            basis = Tensor::cat(&[&basis, &rescaled(&left, 1.0).transpose(0, 1)], 1);
        }
        out.push(rescaled(&left, target));
    }
    let rows = if out.is_empty() { draws } else { Tensor::cat(&out, 0) };
    Ok(Rows { rows, rank, fallback })
}
