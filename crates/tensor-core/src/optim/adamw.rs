//! Adam with decoupled weight decay (Loshchilov and Hutter 2019), in `PyTorch`'s order.
//!
//! For each entry with gradient `g` and age `t` (counted from its own birth):
//!
//! ```text
//! p <- p (1 - lr wd)
//! m <- beta1 m + (1 - beta1) g            c1 = 1 - beta1^t
//! v <- beta2 v + (1 - beta2) g^2          c2 = 1 - beta2^t
//! p <- p - lr (m / c1) / (sqrt(v / c2) + eps)
//! ```
//!
//! Parameters whose entries are all of one age, and those whose youngest entries are whole rows, go
//! through libtorch's fused kernel: one pass over memory. A parameter with late columns takes one
//! pass per operation with `c1` and `c2` as vectors along its axes.

use super::fused::{self, AdamWArgs, AdamWLists, List};
use super::state::{ParamState, runs};
use super::{
    GradNorm, Moment, Optimizer, StateTable, StepReport, Stepped, copies, gather, update_norm,
};
use crate::{Error, ParamStore, Result, Role, error::TorchContext};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

const OP: &str = "AdamW::step";
const MOMENTS: &[Moment] =
    &[Moment { name: "exp_avg", order: 1 }, Moment { name: "exp_avg_sq", order: 2 }];

/// Settings of [`AdamW`]; the defaults are `PyTorch`'s, save that only roles in `decay` decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients, in `[0, 1)`.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the second moment, after its bias correction; `>= 0`.
    pub eps: f64,
    /// Decoupled weight decay per unit of learning rate; `>= 0`.
    pub weight_decay: f64,
    /// Roles that decay.
    pub decay: Vec<Role>,
    /// Whether [`StepReport::update_norm`] is measured; costs a copy of the parameters each step.
    pub track_update: bool,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            decay: vec![Role::Weight, Role::Gate],
            track_update: false,
        }
    }
}

/// The optimiser; see the formula in the source.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    states: StateTable,
}

impl AdamW {
    /// An optimiser without state.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that lies outside its domain.
    pub fn new(config: AdamWConfig) -> Result<Self> {
        for (field, x) in [("beta1", config.beta1), ("beta2", config.beta2)] {
            if !(0.0..1.0).contains(&x) {
                return Err(Error::Config { field, why: format!("must be in [0, 1), got {x}") });
            }
        }
        for (field, x) in [("eps", config.eps), ("weight_decay", config.weight_decay)] {
            if !x.is_finite() || x < 0.0 {
                return Err(Error::Config {
                    field,
                    why: format!("must be finite and >= 0, got {x}"),
                });
            }
        }
        Ok(Self { config, states: StateTable::new(MOMENTS) })
    }

    /// The settings.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    fn args(&self, lr: f64, role: Role) -> AdamWArgs {
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let weight_decay = if self.config.decay.contains(&role) { weight_decay } else { 0.0 };
        AdamWArgs { lr, beta1, beta2, weight_decay, eps }
    }
}

impl Optimizer for AdamW {
    fn step_guarded(
        &mut self,
        store: &ParamStore,
        lr: f64,
        guard: Option<&GradNorm>,
    ) -> Result<StepReport> {
        let _no_grad = tch::no_grad_guard();
        let mut report = StepReport::default();
        let stepped = gather(OP, store, lr, &mut report)?;
        let found_inf = guard.map(|g| &g.found_inf);
        self.states.prune(store);

        // All state exists and fits before the first value changes.
        let mut steps = List::default();
        for s in &stepped {
            steps.push(self.states.entry(&s.param, &s.value)?.step.shallow_clone());
        }
        let before = copies(&stepped, self.config.track_update);
        fused::advance(OP, &steps, found_inf)?;

        let (mut decayed, mut plain) = (AdamWLists::default(), AdamWLists::default());
        for s in &stepped {
            let args = self.args(lr, s.param.role());
            let state = self.states.entry(&s.param, &s.value)?;
            let lists = if args.weight_decay > 0.0 { &mut decayed } else { &mut plain };
            if state.births.iter().skip(1).any(|b| !b.is_empty()) {
                step_by_vectors(s, state, args, found_inf)?;
            } else if let Some(births) = state.births.first().filter(|b| !b.is_empty()) {
                let grad = s.grad.contiguous();
                for (start, len, birth) in runs(births) {
                    let part = |t: &Tensor| t.f_narrow(0, start, len).op(OP);
                    lists.params.push(part(&s.value)?);
                    lists.grads.push(part(&grad)?);
                    lists.exp_avgs.push(part(&state.moments[0])?);
                    lists.exp_avg_sqs.push(part(&state.moments[1])?);
                    lists.steps.push(&state.step - birth as f64);
                }
            } else {
                lists.params.push(s.value.shallow_clone());
                lists.grads.push(s.grad.contiguous());
                lists.exp_avgs.push(state.moments[0].shallow_clone());
                lists.exp_avg_sqs.push(state.moments[1].shallow_clone());
                lists.steps.push(state.step.shallow_clone());
            }
        }
        fused::adamw(OP, &decayed, self.args(lr, Role::Weight), found_inf)?;
        let args = AdamWArgs { weight_decay: 0.0, ..self.args(lr, Role::Bias) };
        fused::adamw(OP, &plain, args, found_inf)?;

        report.update_norm = update_norm(&stepped, before.as_deref())?;
        report.grad_norm = guard.map(|g| g.norm.shallow_clone());
        report.found_inf = found_inf.map(Tensor::shallow_clone);
        Ok(report)
    }

    fn states(&self) -> &StateTable {
        &self.states
    }

    fn states_mut(&mut self) -> &mut StateTable {
        &mut self.states
    }
}

/// One parameter whose entries differ in age along some axes. The step count is advanced already.
fn step_by_vectors(
    s: &Stepped,
    state: &ParamState,
    args: AdamWArgs,
    found_inf: Option<&Tensor>,
) -> Result<()> {
    let [m, v] = &state.moments[..] else { return Ok(()) };
    let (mut p, mut m, mut v) = (s.value.shallow_clone(), m.shallow_clone(), v.shallow_clone());
    let old = found_inf.map(|flag| (flag, [p.copy(), m.copy(), v.copy()]));
    let (kind, device) = (p.kind(), p.device());

    // 1 - beta^t grows with t, and the age of an entry is the least over its axes: so its correction
    // is the least of one vector per axis, and no power is taken per entry.
    let correction = |beta: f64| -> Result<Tensor> {
        let of = |age: &Tensor| -> Result<Tensor> {
            let decayed = (age.f_to_kind(Kind::Double).op(OP)? * beta.ln()).exp();
            Ok((Tensor::from(1.0) - decayed).to_kind(kind))
        };
        let mut least: Option<Tensor> = None;
        for (k, births) in state.births.iter().enumerate().filter(|(_, b)| !b.is_empty()) {
            let mut shape = vec![1; state.births.len()];
            shape[k] = -1;
            let births = Tensor::f_from_slice(births).op(OP)?.to_device(device);
            let c = of(&(&state.step - births.f_view(shape.as_slice()).op(OP)?))?;
            least = Some(match least {
                None => c,
                Some(least) => least.f_minimum(&c).op(OP)?,
            });
        }
        least.map_or_else(|| of(&state.step), Ok)
    };

    let _ = p.f_mul_scalar_(1.0 - args.lr * args.weight_decay).op(OP)?;
    let _ = m.f_lerp_(&s.grad, 1.0 - args.beta1).op(OP)?;
    let _ = v.f_mul_scalar_(args.beta2).op(OP)?;
    let _ = v.f_addcmul_(&s.grad, &(&s.grad * (1.0 - args.beta2))).op(OP)?;
    let denom =
        (&v / correction(args.beta2)?).f_sqrt_().and_then(|mut d| d.f_add_scalar_(args.eps));
    let size = correction(args.beta1)?.f_reciprocal().op(OP)? * -args.lr;
    let _ = p.f_addcdiv_(&(&m * size), &denom.op(OP)?).op(OP)?;

    if let Some((flag, old)) = old {
        let skip = flag.f_to_kind(Kind::Bool).op(OP)?;
        for (new, old) in [&mut p, &mut m, &mut v].into_iter().zip(old) {
            let kept = old.f_where_self(&skip, new).op(OP)?;
            new.f_copy_(&kept).op(OP)?;
        }
    }
    Ok(())
}
