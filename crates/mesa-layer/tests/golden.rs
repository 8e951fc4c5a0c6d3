//! Every golden file, in every form that can compute it, in float64 and float32.
//!
//! `GOLDEN_DIR` points the same program at other cases of the same schema.

use anyhow::{Result, bail, ensure};
use golden::{Case, Tolerance};
use mesa_layer::{
    CgConfig, Form, LayerConfig, MesaConfig, MesaInputs, MesaLayer, MesaOutput, MesaState,
    MesaToken, Precondition, Solver, Start, Stop,
    comparator::{
        Comparator, DeltaNet, GatedDeltaNet, GatedLinearAttention, LinearAttention, Mamba2Style,
        MixInputs, RetNet, SoftmaxAttention,
    },
    mesa, mesa_step,
};
use ndarray::{ArrayD, IxDyn};
use tch::{Device, Kind, Tensor};
use tensor_core::{ParamStore, SeedTree, Validate, autograd, interop};

#[test]
fn golden() -> Result<()> {
    tch::set_num_threads(1);
    golden::suite!()?
        .group("forward", check_forward)
        .group("grad", check_grad)
        .group("cg", check_cg)
        .group("decode", check_decode)
        .group("varlen", check_varlen)
        .group("peers", check_peers)
        .group("layer", check_layer)
        .run()
}

fn tensor(case: &Case, name: &str) -> Result<Tensor> {
    Ok(interop::to_tensor(&case.f64(name)?)?)
}

fn array(x: &Tensor) -> Result<ArrayD<f64>> {
    Ok(interop::to_array::<f64, IxDyn>(&x.to_kind(Kind::Double))?)
}

/// Compares a tensor with a stored one.
fn check(case: &Case, name: &str, got: &Tensor, tolerance: Tolerance) -> Result<()> {
    case.check(name, &array(got)?, tolerance);
    Ok(())
}

/// Inputs of a case in one element type.
struct Inputs {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    ridge: Tensor,
    initial: Option<MesaState>,
}

impl Inputs {
    fn read(case: &Case, kind: Kind) -> Result<Self> {
        let get = |name: &str| Ok::<_, anyhow::Error>(tensor(case, name)?.to_kind(kind));
        let initial = if case.has("h_kk_init") {
            Some(MesaState { h_kk: get("h_kk_init")?, g_kv: get("h_kv_init")? })
        } else {
            None
        };
        Ok(Self {
            q: get("q")?,
            k: get("k")?,
            v: get("v")?,
            g: get("g")?,
            beta: get("beta")?,
            ridge: get("lambda")?,
            initial,
        })
    }

    fn get(&self) -> MesaInputs<'_> {
        let mut inputs =
            MesaInputs::new([&self.q, &self.k, &self.v], &self.g, &self.beta, &self.ridge);
        inputs.initial = self.initial.as_ref();
        inputs
    }

    fn head_dim(&self) -> i64 {
        self.q.size()[3]
    }

    fn run(&self, form: Form, chunk_len: i64, solver: Solver) -> Result<MesaOutput> {
        let config = MesaConfig { form, chunk_len, solver, ..MesaConfig::default() };
        Ok(mesa(&self.get(), &config.validate()?)?)
    }

    /// Enough steps to converge whatever the condition, with a rule that stops at rounding error.
    fn converged(&self, precondition: Precondition, eps: f64) -> Solver {
        Solver::Cg(CgConfig {
            max_steps: 8 * self.head_dim(),
            start: Start::Diag,
            stop: Stop::RelativeToQuery { eps },
            precondition,
            refine: false,
        })
    }
}

fn condition(case: &Case) -> Result<f64> {
    Ok(case.param_opt::<f64>("cond_last")?.unwrap_or(1.0))
}

fn check_output(
    case: &Case,
    out: &MesaOutput,
    solve: Tolerance,
    state: Tolerance,
    q_star: bool,
) -> Result<()> {
    check(case, "o", &out.o, solve)?;
    if q_star && case.has("q_star") {
        check(case, "q_star", &out.q_star, solve)?;
    }
    check(case, "h_kk_final", &out.state.h_kk, state)?;
    check(case, "h_kv_final", &out.state.g_kv, state)
}

fn exact_tolerance(case: &Case) -> Result<Tolerance> {
    Ok(Tolerance::F64_SOLVE.conditioned(1e-12, condition(case)?))
}

fn single_tolerance(case: &Case) -> Result<Tolerance> {
    Ok(Tolerance::F32_SOLVE.conditioned(50.0 * 6e-8, condition(case)?))
}

fn check_forward(case: &Case) -> Result<()> {
    let (tight, state) = (exact_tolerance(case)?, Tolerance::F64_SOLVE);
    let inputs = Inputs::read(case, Kind::Double)?;
    let cg = inputs.converged(Precondition::None, 1e-15);
    for (form, chunk_len, solver) in [
        (Form::Reference, 16, Solver::Cholesky),
        (Form::Chunk, 16, Solver::Cholesky),
        (Form::Chunk, 16, cg),
        (Form::Chunk, 7, inputs.converged(Precondition::MidChunk, 1e-15)),
        (Form::Chunk, 64, inputs.converged(Precondition::Jacobi, 1e-15)),
    ] {
        check_output(case, &inputs.run(form, chunk_len, solver)?, tight, state, true)?;
    }
    if case.stem() == "edge_beta0_all" {
        let out = inputs.run(Form::Auto, 16, Solver::default())?;
        let zero = out.o.abs().max().double_value(&[]);
        case.ensure(zero.to_bits() == 0, || format!("beta = 0: o must be exactly 0, got {zero:e}"));
    }
    let (loose, state) = (single_tolerance(case)?, Tolerance::norm(1e-6));
    let inputs = Inputs::read(case, Kind::Float)?;
    for form in [Form::Chunk, Form::Auto] {
        for precondition in [Precondition::None, Precondition::MidChunk] {
            let solver = inputs.converged(precondition, 1e-7);
            check_output(case, &inputs.run(form, 16, solver)?, loose, state, false)?;
        }
    }
    Ok(())
}

fn check_grad(case: &Case) -> Result<()> {
    for (kind, tolerance, forms) in [
        (
            Kind::Double,
            Tolerance::F64_SOLVE_GRADIENT.conditioned(1e-11, condition(case)?),
            &[Form::Reference, Form::Chunk][..],
        ),
        (
            Kind::Float,
            Tolerance::F32_SOLVE_GRADIENT.conditioned(50.0 * 6e-8, condition(case)?),
            &[Form::Chunk, Form::Auto][..],
        ),
    ] {
        for form in forms {
            check_gradients(case, kind, *form, tolerance)?;
        }
    }
    Ok(())
}

fn check_gradients(case: &Case, kind: Kind, form: Form, tolerance: Tolerance) -> Result<()> {
    let leaf = |x: Tensor| x.set_requires_grad(true);
    let mut inputs = Inputs::read(case, kind)?;
    let Inputs { q, k, v, g, beta, ridge, initial } = inputs;
    inputs = Inputs {
        q: leaf(q),
        k: leaf(k),
        v: leaf(v),
        g: leaf(g),
        beta: leaf(beta),
        ridge: leaf(ridge),
        initial: initial.map(|s| MesaState { h_kk: leaf(s.h_kk), g_kv: leaf(s.g_kv) }),
    };
    let eps = if kind == Kind::Double { 1e-15 } else { 1e-7 };
    let solver = match form {
        Form::Auto => inputs.converged(Precondition::None, eps),
        _ => Solver::Cholesky,
    };
    let out = inputs.run(form, 16, solver)?;
    let cotangents = [
        tensor(case, "do")?.to_kind(kind),
        tensor(case, "dh_kk_final")?.to_kind(kind),
        tensor(case, "dh_kv_final")?.to_kind(kind),
    ];
    let outputs = [&out.o, &out.state.h_kk, &out.state.g_kv];
    let loss: f64 = outputs
        .iter()
        .zip(&cotangents)
        .map(|(y, d)| (*y * d).sum(Kind::Double).double_value(&[]))
        .sum();
    // The loss is a sum of products of either sign: its error is that of its terms.
    let scale: f64 = outputs
        .iter()
        .zip(&cotangents)
        .map(|(y, d)| (*y * d).abs().sum(Kind::Double).double_value(&[]))
        .sum();
    let want = case.scalar("loss")?;
    let unit = if kind == Kind::Double { 1e-9 } else { 1e-4 };
    case.ensure((loss - want).abs() <= unit * scale, || format!("loss {loss}, expected {want}"));
    let mut leaves = vec![
        ("dq", &inputs.q),
        ("dk", &inputs.k),
        ("dv", &inputs.v),
        ("dg", &inputs.g),
        ("dbeta", &inputs.beta),
        ("dlambda", &inputs.ridge),
    ];
    if let Some(s) = &inputs.initial {
        leaves.extend([("dh_kk_init_grad", &s.h_kk), ("dh_kv_init_grad", &s.g_kv)]);
    }
    let xs: Vec<&Tensor> = leaves.iter().map(|(_, x)| *x).collect();
    let ds: Vec<&Tensor> = cotangents.iter().collect();
    let grads = autograd::vjp(&outputs, &ds, &xs, autograd::Graph::Free)?;
    for ((name, x), grad) in leaves.iter().zip(grads) {
        let grad = grad.unwrap_or_else(|| x.zeros_like());
        // A gate that is stored as zero has gradient zero in its logarithm.
        let grad = if *name == "dg" { grad.masked_fill(&x.lt(-800.0), 0.0) } else { grad };
        check(case, name, &grad, tolerance)?;
    }
    Ok(())
}

fn check_cg(case: &Case) -> Result<()> {
    let start = match case.param::<String>("start")?.as_str() {
        "zero" => Start::Zero,
        "diag" => Start::Diag,
        other => bail!("start: expected zero or diag, found {other}"),
    };
    let max_steps: i64 = case.param("max_cg")?;
    let stop = match case.param_opt::<f64>("eps")? {
        Some(eps) if eps > 0.0 => Stop::RelativeToStart { eps },
        _ => Stop::Fixed,
    };
    let solver = Solver::Cg(CgConfig { max_steps, start, stop, ..CgConfig::default() });
    let inputs = Inputs::read(case, Kind::Double)?;
    let want = case.i64("cg_steps")?;
    for chunk_len in [1, 16, 1024] {
        let out = inputs.run(Form::Chunk, chunk_len, solver)?;
        check_output(case, &out, exact_tolerance(case)?, Tolerance::F64_SOLVE, false)?;
        let steps = interop::to_array::<i64, IxDyn>(&out.stats.steps)?;
        ensure!(steps.shape() == want.shape(), "cg_steps: shape {:?}", steps.shape());
        let off = steps.iter().zip(&want).filter(|(a, b)| (*a - *b).abs() > 1).count();
        case.ensure(off == 0, || format!("cg_steps: {off} tokens off by more than one"));
        let near = steps.iter().zip(&want).filter(|(a, b)| a != b).count();
        case.ensure(near * 50 <= want.len(), || format!("cg_steps: {near} tokens off by one"));
    }
    let exact = inputs.run(Form::Chunk, 16, Solver::Cholesky)?;
    check(case, "o_exact", &exact.o, exact_tolerance(case)?)
}

fn check_decode(case: &Case) -> Result<()> {
    let prefill: i64 = case.param("prefill")?;
    let inputs = Inputs::read(case, Kind::Double)?;
    let size = inputs.v.size();
    let cut = |x: &Tensor| x.narrow(1, 0, prefill);
    let head = Inputs {
        q: cut(&inputs.q),
        k: cut(&inputs.k),
        v: cut(&inputs.v),
        g: cut(&inputs.g),
        beta: cut(&inputs.beta),
        ridge: inputs.ridge.shallow_clone(),
        initial: inputs.initial.clone(),
    };
    let tolerance = exact_tolerance(case)?;
    for solver in [Solver::Cholesky, inputs.converged(Precondition::None, 1e-15)] {
        let out = head.run(Form::Chunk, 8, solver)?;
        check(case, "h_kk_prefill", &out.state.h_kk, tolerance)?;
        check(case, "h_kv_prefill", &out.state.g_kv, tolerance)?;
        let (mut o, mut state) = (vec![out.o], out.state);
        let (mut h, mut g) = (Vec::new(), Vec::new());
        for t in prefill..size[1] {
            let at = |x: &Tensor| x.select(1, t);
            let token = MesaToken {
                q: &at(&inputs.q),
                k: &at(&inputs.k),
                v: &at(&inputs.v),
                g: &at(&inputs.g),
                beta: &at(&inputs.beta),
                sign: None,
            };
            let out = mesa_step(&token, &inputs.ridge, &state, &solver.validate()?)?;
            o.push(out.o.unsqueeze(1));
            h.push(out.state.h_kk.shallow_clone());
            g.push(out.state.g_kv.shallow_clone());
            state = out.state;
        }
        check(case, "o", &Tensor::cat(&o, 1), tolerance)?;
        check(case, "h_kk_step", &Tensor::stack(&h, 1), tolerance)?;
        check(case, "h_kv_step", &Tensor::stack(&g, 1), tolerance)?;
        check(case, "h_kk_final", &state.h_kk, tolerance)?;
        check(case, "h_kv_final", &state.g_kv, tolerance)?;
    }
    Ok(())
}

fn check_varlen(case: &Case) -> Result<()> {
    let ends: Vec<i64> = case.i64("cu_seqlens")?.iter().copied().collect();
    for (kind, tolerance) in
        [(Kind::Double, exact_tolerance(case)?), (Kind::Float, single_tolerance(case)?)]
    {
        let inputs = Inputs::read(case, kind)?;
        let mut packed = inputs.get();
        packed.cu_seqlens = Some(&ends);
        let eps = if kind == Kind::Double { 1e-15 } else { 1e-7 };
        for solver in [Solver::Cholesky, inputs.converged(Precondition::None, eps)] {
            let config = MesaConfig { solver, ..MesaConfig::default() };
            let out = mesa(&packed, &config.validate()?)?;
            check_output(case, &out, tolerance, tolerance, true)?;
        }
    }
    Ok(())
}

fn check_peers(case: &Case) -> Result<()> {
    let softmax = SoftmaxAttention { window: None };
    let peers: [(&str, &dyn Comparator); 7] = [
        ("linear", &LinearAttention),
        ("mamba2", &Mamba2Style),
        ("gla", &GatedLinearAttention),
        ("deltanet", &DeltaNet),
        ("gated_deltanet", &GatedDeltaNet),
        ("retnet", &RetNet),
        ("softmax", &softmax),
    ];
    for (kind, tolerance) in
        [(Kind::Double, Tolerance::F64_SOLVE), (Kind::Float, Tolerance::F32_SOLVE)]
    {
        let Inputs { q, k, v, g, beta, .. } = Inputs::read(case, kind)?;
        let past = if case.has("h_kv_init") {
            Some([tensor(case, "h_kv_init")?.to_kind(kind)])
        } else {
            None
        };
        for (name, peer) in &peers {
            let past = past.as_ref().filter(|_| *name != "softmax").map(<[Tensor; 1]>::as_slice);
            let inputs = MixInputs { q: &q, k: &k, v: &v, g: &g, beta: &beta, past };
            let (o, state) = peer.mix(&inputs)?;
            check(case, &format!("o_{name}"), &o, tolerance)?;
            if case.has(&format!("s_{name}")) {
                check(case, &format!("s_{name}"), &state[0], tolerance)?;
            }
        }
    }
    let n_heads = case.shape("retnet_gamma")?[0] as i64;
    let decays: Vec<f64> = RetNet::log_decays(n_heads).iter().map(|g| g.exp()).collect();
    case.check_flat("retnet_gamma", &decays, Tolerance::COPY);
    Ok(())
}

fn check_layer(case: &Case) -> Result<()> {
    let (x, w_q) = (tensor(case, "x")?, case.shape("w_q")?.to_vec());
    let n_heads = case.shape("w_gamma")?[0] as i64;
    let inner = w_q[0] as i64;
    for (suffix, gamma_bound) in [("plain", None), ("bounded", Some(0.9975))] {
        let config = LayerConfig {
            d_model: w_q[1] as i64,
            n_heads,
            head_dim: inner / n_heads,
            gamma_bound,
            mesa: MesaConfig { solver: Solver::Cholesky, ..MesaConfig::default() },
            ..LayerConfig::default()
        };
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(0));
        let layer = MesaLayer::new(&mut store.root(), &config.validate()?, 1.0)?;
        for (name, golden, size) in [
            ("q.weight", "w_q", None),
            ("k.weight", "w_k", None),
            ("v.weight", "w_v", None),
            ("forget.weight", "w_gamma", None),
            ("input.weight", "w_beta", None),
            ("forget.bias", "b_gamma", None),
            ("input.bias", "b_beta", None),
            ("conv_q", "conv_q", Some(vec![inner, 1, 4])),
            ("conv_k", "conv_k", Some(vec![inner, 1, 4])),
            ("ridge", "lambda_raw", Some(vec![n_heads, inner / n_heads])),
            ("norm.weight", "o_norm", None),
            ("out_proj.weight", "w_o", None),
        ] {
            let values = tensor(case, golden)?;
            let size = size.unwrap_or_else(|| values.size());
            store.get(name)?.copy_from(&values.reshape(size))?;
        }
        ensure!(store.len() == 12, "{} parameters", store.len());
        let tolerance = Tolerance::F64_SOLVE;
        let p = layer.project(&x, None)?;
        for (name, got) in [("q", &p.q), ("k", &p.k), ("v", &p.v), ("beta", &p.beta)] {
            check(case, name, got, tolerance)?;
        }
        check(case, &format!("gamma_{suffix}"), &p.g.exp(), tolerance)?;
        let lambda = layer.lambda().expect("the mixer is mesa");
        check(case, "lambda", &lambda, tolerance)?;
        let inputs = MesaInputs::new([&p.q, &p.k, &p.v], &p.g, &p.beta, &lambda);
        let out = mesa(&inputs, &layer.config().mesa.validate()?)?;
        check(case, &format!("mix_{suffix}"), &out.o, tolerance)?;
        let mixed = layer.forward(&x, None)?;
        check(case, &format!("y_{suffix}"), &mixed.y, tolerance)?;
    }
    Ok(())
}
