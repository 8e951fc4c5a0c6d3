//! Conjugate gradients over many right-hand sides at once, and the exact solve (section 3).
//!
//! Rows are tokens: every row has a matrix of its own, symmetric and positive definite, that is only
//! known through its product with a vector. Each row stops for itself.

use crate::config::{CgConfig, Precondition, Start, Stop};
use tch::{Kind, Tensor};
use tensor_core::{Result, error::TorchContext};

/// One symmetric positive definite matrix `A_t` for each row of a `[groups, rows, d]` tensor.
pub(crate) trait Operator {
    /// Rows `A_t p_t`.
    fn apply(&self, p: &Tensor) -> Tensor;
    /// Rows `diag(A_t)`.
    fn diag(&self) -> Tensor;
    /// Lower Cholesky factor of the matrix that stands for those of its group, `[groups, d, d]`.
    fn factor(&self) -> Result<Tensor>;
}

/// What a solve found.
pub(crate) struct Solved {
    /// `[groups, rows, d]`.
    pub(crate) x: Tensor,
    /// Steps of each row, `[groups, rows]`, `Int64`.
    pub(crate) steps: Tensor,
    /// `|q - A x|` of each row by the recursion, `[groups, rows]`.
    pub(crate) residual: Tensor,
}

fn dot(a: &Tensor, b: &Tensor) -> Tensor {
    (a * b).sum_dim_intlist([-1].as_slice(), true, None)
}

/// `numerator / denominator` in rows where `on`, 0 elsewhere, without a division by zero that would
/// poison a derivative.
fn ratio(on: &Tensor, numerator: &Tensor, denominator: &Tensor) -> Tensor {
    let off = on.logical_not();
    (numerator / denominator.masked_fill(&off, 1.0)).masked_fill(&off, 0.0)
}

enum Preconditioner {
    None,
    Diag(Tensor),
    Factor(Tensor),
}

impl Preconditioner {
    fn solve(&self, r: &Tensor) -> Tensor {
        match self {
            Self::None => r.shallow_clone(),
            Self::Diag(diag) => r / diag,
            // [g, rows, d] -> columns and back
            Self::Factor(l) => r.transpose(-1, -2).cholesky_solve(l, false).transpose(-1, -2),
        }
    }
}

/// Solves `A_t x_t = q_t` for every row; `warm` replaces the start of the config.
///
/// A row is frozen when it meets the rule, when its residual is exactly zero (no input, a padded
/// row) and when the step would not be finite; then it no longer changes.
pub(crate) fn conjugate_gradients(
    a: &dyn Operator,
    q: &Tensor,
    warm: Option<&Tensor>,
    config: &CgConfig,
) -> Result<Solved> {
    let m = match config.precondition {
        Precondition::None => Preconditioner::None,
        Precondition::Jacobi => Preconditioner::Diag(a.diag()),
        Precondition::MidChunk => Preconditioner::Factor(a.factor()?),
    };
    let start = match (warm, config.start, &m) {
        (Some(x), ..) => Some(x.shallow_clone()),
        (None, Start::Diag, _) => Some(q / a.diag()),
        (None, Start::Zero, _) | (None, Start::Preconditioned, Preconditioner::None) => None,
        (None, Start::Preconditioned, m) => Some(m.solve(q)),
    };
    let (mut x, mut r) = match start {
        Some(x) => {
            let r = q - a.apply(&x);
            (x, r)
        }
        None => (q.zeros_like(), q.shallow_clone()),
    };
    let mut z = m.solve(&r);
    let mut p = z.shallow_clone();
    let mut rho = dot(&r, &z); // [g, rows, 1]
    let mut norm = dot(&r, &r); // squared
    let bound = match config.stop {
        Stop::Fixed => None,
        Stop::RelativeToStart { eps } => Some(norm.detach() * (eps * eps)),
        Stop::RelativeToQuery { eps } => Some(dot(q, q).detach() * (eps * eps)),
    };
    let mut active = rho.gt(0.0);
    if let (Stop::RelativeToQuery { .. }, Some(bound)) = (config.stop, &bound) {
        active = active.logical_and(&norm.gt_tensor(bound));
    }
    let mut steps = norm.zeros_like().to_kind(Kind::Int64);
    for step in 0..config.max_steps {
        // A look at the rows waits for the device: at each step with a rule, seldom without.
        let look = bound.is_some() || (step % 8 == 0 && norm.device() == tch::Device::Cpu);
        if look && active.any().int64_value(&[]) == 0 {
            break;
        }
        let u = a.apply(&p);
        let curvature = dot(&p, &u);
        let on = active.logical_and(&curvature.gt(0.0)).logical_and(&curvature.isfinite());
        let alpha = ratio(&on, &rho, &curvature);
        // Out of place: the unrolled gradient needs what was there before.
        x = &x + &alpha * &p;
        r = &r - &alpha * &u;
        z = m.solve(&r);
        let next = dot(&r, &z);
        norm = dot(&r, &r);
        steps += on.to_kind(Kind::Int64);
        active = on.logical_and(&next.gt(0.0)).logical_and(&next.isfinite());
        if let Some(bound) = &bound {
            active = active.logical_and(&norm.gt_tensor(bound));
        }
        let beta = ratio(&active, &next, &rho);
        p = &z + beta * p;
        rho = next;
    }
    let residual = norm.sqrt().squeeze_dim(-1);
    Ok(Solved { x, steps: steps.squeeze_dim(-1), residual })
}

/// Exact solves with dense matrices `a: [.., d, d]` and right-hand sides `q: [.., d]`.
///
/// Cholesky where every matrix is positive definite in working precision, else LU with pivots.
pub(crate) fn dense(a: &Tensor, q: &Tensor) -> Result<Tensor> {
    const OP: &str = "mesa: exact solve";
    let rhs = q.unsqueeze(-1);
    let (l, info) = a.f_linalg_cholesky_ex(false, false).op(OP)?;
    let x = if info.count_nonzero(None::<i64>).int64_value(&[]) == 0 {
        rhs.f_cholesky_solve(&l, false)
    } else {
        Tensor::f_linalg_solve(a, &rhs, true)
    };
    Ok(x.op(OP)?.squeeze_dim(-1))
}

/// Lower Cholesky factor of `a: [.., d, d]`.
pub(crate) fn factor(a: &Tensor) -> Result<Tensor> {
    a.f_linalg_cholesky(false).op("mesa: preconditioner")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    struct Dense(Tensor);

    impl Operator for Dense {
        fn apply(&self, p: &Tensor) -> Tensor {
            p.matmul(&self.0)
        }
        fn diag(&self) -> Tensor {
            self.0.diagonal(0, -2, -1).unsqueeze(-2)
        }
        fn factor(&self) -> Result<Tensor> {
            factor(&self.0)
        }
    }

    fn two_by_two() -> (Dense, Tensor, Tensor) {
        let a = Tensor::from_slice2(&[[4.0, 1.0], [1.0, 3.0]]).unsqueeze(0);
        let q = Tensor::from_slice2(&[[1.0, 2.0], [0.0, 0.0]]).unsqueeze(0);
        let x = Tensor::from_slice2(&[[1.0 / 11.0, 7.0 / 11.0], [0.0, 0.0]]).unsqueeze(0);
        (Dense(a), q, x)
    }

    fn far(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn two_steps_solve_two_dimensions() {
        let (a, q, want) = two_by_two();
        for start in [Start::Zero, Start::Diag] {
            let config = CgConfig { max_steps: 2, start, ..CgConfig::default() };
            let got = conjugate_gradients(&a, &q, None, &config).unwrap();
            assert!(far(&got.x, &want) < 1e-15, "{start:?}");
            assert_eq!(got.steps.int64_value(&[0, 1]), 0, "a row of zeros takes no step");
        }
    }

    #[test]
    fn its_own_factor_solves_at_once_and_a_warm_start_needs_no_step() {
        let (a, q, want) = two_by_two();
        let config = CgConfig {
            start: Start::Preconditioned,
            precondition: Precondition::MidChunk,
            stop: Stop::RelativeToQuery { eps: 1e-12 },
            ..CgConfig::default()
        };
        let got = conjugate_gradients(&a, &q, None, &config).unwrap();
        assert!(far(&got.x, &want) < 1e-15);
        assert_eq!(got.steps.max().int64_value(&[]), 0);
        let config = CgConfig { precondition: Precondition::None, ..config };
        let got = conjugate_gradients(&a, &q, Some(&want), &config).unwrap();
        assert_eq!(got.steps.max().int64_value(&[]), 0);
    }

    #[test]
    fn an_indefinite_matrix_is_solved_by_pivots() {
        let a = Tensor::from_slice2(&[[0.0, 1.0], [1.0, 0.0]]).unsqueeze(0);
        let q = Tensor::from_slice2(&[[2.0, 3.0]]);
        assert_eq!(dense(&a, &q).unwrap(), Tensor::from_slice2(&[[3.0, 2.0]]));
        let frozen = conjugate_gradients(
            &Dense(a),
            &q.unsqueeze(0),
            None,
            &CgConfig { start: Start::Zero, ..CgConfig::default() },
        )
        .unwrap();
        assert_eq!(frozen.x.isfinite().all(), Tensor::from(true).to_device(Device::Cpu));
    }
}
