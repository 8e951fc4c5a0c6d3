//! Stochastic gradient descent with momentum, as in `PyTorch`, with dampening 0:
//!
//! ```text
//! g <- g + wd p                            coupled decay, roles in `decay` only
//! b <- momentum b + g                      the first step leaves b = g
//! p <- p - lr b                            or p - lr (g + momentum b) with Nesterov
//! ```

use super::fused::{self, List, SgdArgs, SgdLists};
use super::{GradNorm, Moment, Optimizer, StateTable, StepReport, copies, gather, update_norm};
use crate::{Error, ParamStore, Result, Role};
use serde::{Deserialize, Serialize};
use tch::Tensor;

const OP: &str = "Sgd::step";
const WITH_MOMENTUM: &[Moment] = &[Moment { name: "momentum", order: 1 }];
const PLAIN: &[Moment] = &[];

/// Settings of [`Sgd`]; the defaults are `PyTorch`'s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// Decay of the momentum buffer, in `[0, 1)`; 0 keeps no buffer.
    pub momentum: f64,
    /// Whether the gradient is looked up one momentum step ahead; needs momentum.
    pub nesterov: bool,
    /// Coupled weight decay (added to the gradient); `>= 0`.
    pub weight_decay: f64,
    /// Roles that decay.
    pub decay: Vec<Role>,
    /// Whether [`StepReport::update_norm`] is measured; costs a copy of the parameters each step.
    pub track_update: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            decay: vec![Role::Weight, Role::Gate],
            track_update: false,
        }
    }
}

/// The optimiser; see the formula in the source.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    states: StateTable,
}

impl Sgd {
    /// An optimiser without state.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that lies outside its domain.
    pub fn new(config: SgdConfig) -> Result<Self> {
        let SgdConfig { momentum, nesterov, weight_decay, .. } = config;
        if !(0.0..1.0).contains(&momentum) {
            let why = format!("must be in [0, 1), got {momentum}");
            return Err(Error::Config { field: "momentum", why });
        }
        if nesterov && momentum == 0.0 {
            let why = "needs momentum > 0".to_owned();
            return Err(Error::Config { field: "nesterov", why });
        }
        if !weight_decay.is_finite() || weight_decay < 0.0 {
            let why = format!("must be finite and >= 0, got {weight_decay}");
            return Err(Error::Config { field: "weight_decay", why });
        }
        let states = StateTable::new(if momentum > 0.0 { WITH_MOMENTUM } else { PLAIN });
        Ok(Self { config, states })
    }

    /// The settings.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }
}

impl Optimizer for Sgd {
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

        let (mut steps, mut decayed, mut plain) =
            (List::default(), SgdLists::default(), SgdLists::default());
        // Decay is added into the gradient, so a gradient that is not dense like its parameter is
        // copied: the kernel walks raw memory.
        for s in &stepped {
            let state = self.states.entry(&s.param, &s.value)?;
            steps.push(state.step.shallow_clone());
            let lists =
                if self.config.decay.contains(&s.param.role()) { &mut decayed } else { &mut plain };
            lists.params.push(s.value.shallow_clone());
            lists.grads.push(s.grad.contiguous());
            if let Some(buffer) = state.moments.first() {
                lists.buffers.push(buffer.shallow_clone());
            }
        }
        let before = copies(&stepped, self.config.track_update);
        fused::advance(OP, &steps, found_inf)?;
        let SgdConfig { momentum, nesterov, weight_decay, .. } = self.config;
        let args = SgdArgs { lr, momentum, weight_decay, nesterov };
        fused::sgd(OP, &decayed, args, found_inf)?;
        fused::sgd(OP, &plain, SgdArgs { weight_decay: 0.0, ..args }, found_inf)?;

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
