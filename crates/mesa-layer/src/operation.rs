//! The mesa operation: checks, choice of form, gradient.

use crate::{
    chunk,
    config::{Form, Gradient, MesaConfig},
    fused,
    implicit::{self, Cotangents},
    inputs::{self, MesaInputs, MesaOutput, MesaState, Problem, SolveStats},
    reference,
};
use tch::{Kind, Tensor};
use tensor_core::{Checked, Error, Result, autograd::custom_vjp};

const OP: &str = "mesa";

/// Outputs `o_t = G_t^T (H_t + Lambda)^-1 q_t` of every token: the prediction for `q_t` of the ridge
/// regression from all keys so far to their values, weighted by the gates (sections 1 and 2).
///
/// Differentiable in all inputs and in the initial statistics. A sequence of length 0 gives an empty
/// output and the initial statistics.
///
/// ```
/// use mesa_layer::{MesaConfig, MesaInputs, mesa};
/// use tensor_core::{Device, Kind, Tensor, Validate};
/// let kind = (Kind::Float, Device::Cpu);
/// let [q, k, v] = [8, 8, 5].map(|d| Tensor::randn([2, 100, 3, d], kind) / 8.0_f64.sqrt());
/// let (g, beta) = (Tensor::full([2, 100, 3], -0.01, kind), Tensor::ones([2, 100, 3], kind));
/// let ridge = Tensor::ones([3, 8], kind);
/// let out = mesa(&MesaInputs::new([&q, &k, &v], &g, &beta, &ridge), &MesaConfig::default().validate()?)?;
/// assert_eq!(out.o.size(), [2, 100, 3, 5]);
/// assert_eq!(out.state.h_kk.size(), [2, 3, 8, 8]);
/// # Ok::<(), tensor_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`], [`Error::Kind`] or [`Error::Argument`] naming the input that does not fit or
/// lies outside its domain; [`Error::NonFinite`] naming an input with NaN or infinities;
/// [`Error::Argument`] for a form that cannot be used with these inputs; [`Error::Torch`] when a
/// factorisation fails.
pub fn mesa(inputs: &MesaInputs<'_>, config: &Checked<MesaConfig>) -> Result<MesaOutput> {
    let out_kind = inputs.v.kind();
    let problem = inputs::check(inputs)?;
    let mut out = match inputs.cu_seqlens {
        None => whole(&problem, config)?,
        Some(ends) => packed(&problem, ends, config)?,
    };
    if matches!(out_kind, Kind::Half | Kind::BFloat16) {
        out.o = out.o.to_kind(out_kind);
    }
    Ok(out)
}

/// Packed sequences one after the other, each from its own statistics: no chunk spans two of them.
fn packed(p: &Problem, ends: &[i64], config: &Checked<MesaConfig>) -> Result<MesaOutput> {
    let parts: Vec<MesaOutput> = ends
        .windows(2)
        .enumerate()
        .map(|(row, w)| whole(&p.part(w[0], w[1] - w[0], row as i64), config))
        .collect::<Result<_>>()?;
    let cat = |dim, f: fn(&MesaOutput) -> &Tensor| {
        Tensor::cat(&parts.iter().map(f).collect::<Vec<_>>(), dim)
    };
    Ok(MesaOutput {
        o: cat(1, |x| &x.o),
        q_star: cat(1, |x| &x.q_star),
        state: MesaState { h_kk: cat(0, |x| &x.state.h_kk), g_kv: cat(0, |x| &x.state.g_kv) },
        stats: SolveStats {
            steps: cat(1, |x| &x.stats.steps),
            residual: cat(1, |x| &x.stats.residual),
        },
    })
}

fn whole(p: &Problem, config: &Checked<MesaConfig>) -> Result<MesaOutput> {
    let fused = match (config.form, fused::unsuitable(p, config)) {
        (Form::Kernel, Some(why)) => {
            let expected = "one that fits the inputs".to_owned();
            return Err(Error::Argument { op: OP, arg: "form", expected, got: why });
        }
        (Form::Kernel, None) => true,
        (Form::Auto, why) => why.is_none(),
        _ => false,
    };
    if p.sizes()[1] == 0 {
        let none = p.g.zeros_like();
        return Ok(MesaOutput {
            o: p.v.shallow_clone(),
            q_star: p.q.shallow_clone(),
            state: p.initial.clone(),
            stats: SolveStats { steps: none.to_kind(Kind::Int64), residual: none },
        });
    }
    if config.form == Form::Reference {
        return reference::forward(p);
    }
    if config.gradient == Gradient::Unrolled {
        return chunk::forward(p, config, true);
    }
    let mut out = {
        let _guard = tch::no_grad_guard();
        if fused { fused::forward(p, config)? } else { chunk::forward(p, config, false)? }
    };
    let saved = p.map(Tensor::detach);
    let config = config.clone();
    let q_star = out.q_star.shallow_clone();
    let (o_like, state_like) = (saved.v.shallow_clone(), saved.initial.clone());
    let MesaState { h_kk, g_kv } = out.state;
    let mut outputs = custom_vjp(
        "Mesa",
        &[&p.q, &p.k, &p.v, &p.g, &p.beta, &p.ridge, &p.initial.h_kk, &p.initial.g_kv],
        vec![out.o, h_kk, g_kv],
        move |cot| {
            let _guard = tch::no_grad_guard();
            let or_zero = |i: usize, like: &Tensor| {
                let found: Option<&Tensor> = cot.get(i).and_then(Option::as_ref);
                found.map_or_else(|| like.zeros_like(), Tensor::shallow_clone)
            };
            let cot = Cotangents {
                o: or_zero(0, &o_like),
                h_kk: or_zero(1, &state_like.h_kk),
                g_kv: or_zero(2, &state_like.g_kv),
            };
            let d = if fused {
                fused::backward(&saved, &config, &q_star, &cot)?
            } else {
                implicit::backward(&saved, &config, &q_star, &cot)?
            };
            Ok([d.q, d.k, d.v, d.g, d.beta, d.ridge, d.h_kk, d.g_kv].map(Some).into())
        },
    )?;
    let (g_kv, h_kk, o) = (outputs.pop(), outputs.pop(), outputs.pop());
    let (Some(o), Some(h_kk), Some(g_kv)) = (o, h_kk, g_kv) else {
        let expected = "three tensors".to_owned();
        return Err(Error::Argument { op: OP, arg: "outputs", expected, got: "fewer".to_owned() });
    };
    out.o = o;
    out.state = MesaState { h_kk, g_kv };
    Ok(out)
}
