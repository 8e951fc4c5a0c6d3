//! Border between tensors and the fused kernel: when it can be used, and its calls.

use crate::{
    config::{Gradient, MesaConfig, Precondition, Solver, Start, Stop},
    implicit::{Cotangents, Gradients},
    inputs::{MesaOutput, MesaState, Problem, SolveStats},
    kernel,
};
use rayon::ThreadPool;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tch::{Device, Kind, Tensor};
use tensor_core::{Error, Result, interop};

/// Why the kernel cannot compute this problem; `None` where it can.
pub(crate) fn unsuitable(p: &Problem, config: &MesaConfig) -> Option<String> {
    let solver = |solver: Solver| match solver {
        Solver::Cholesky => Some("an exact solver"),
        Solver::Cg(cg) if cg.precondition == Precondition::Jacobi => {
            Some("Jacobi's preconditioner")
        }
        Solver::Cg(cg) if cg.refine => Some("refinement in float64"),
        Solver::Cg(_) => None,
    };
    let why = if p.q.device() != Device::Cpu {
        "a device that is not the CPU"
    } else if p.q.kind() != Kind::Float {
        "float64"
    } else if p.sign.is_some() {
        "signed gates"
    } else if p.warm.is_some() {
        "a warm start"
    } else if config.gradient == Gradient::Unrolled {
        "unrolled gradients"
    } else {
        solver(config.solver).or_else(|| solver(config.backward()))?
    };
    Some(format!("the kernel with {why}"))
}

/// The kernel's chunk: 16, 32 or 64 tokens, the configured length rounded up.
fn chunk(config: &MesaConfig) -> usize {
    match config.chunk_len {
        ..=16 => 16,
        17..=32 => 32,
        _ => 64,
    }
}

fn conjugate_gradients(solver: &Solver) -> Result<kernel::Cg> {
    let Solver::Cg(cg) = solver else {
        let (expected, got) = ("conjugate gradients".to_owned(), format!("{solver:?}"));
        return Err(Error::Argument { op: "mesa", arg: "solver", expected, got });
    };
    Ok(kernel::Cg {
        max_steps: cg.max_steps as usize,
        start_diag: cg.start == Start::Diag,
        start_preconditioned: cg.start == Start::Preconditioned,
        precondition: cg.precondition == Precondition::MidChunk,
        rule: match cg.stop {
            Stop::Fixed => kernel::Rule::Fixed,
            Stop::RelativeToStart { eps } => kernel::Rule::Start(eps as f32),
            Stop::RelativeToQuery { eps } => kernel::Rule::Query(eps as f32),
        },
    })
}

/// Lends the memory of contiguous float32 tensors to `f`.
fn with_slices<R>(
    tensors: &[&Tensor],
    got: &[&[f32]],
    f: &mut dyn FnMut(&[&[f32]]) -> R,
) -> Result<R> {
    let Some((first, rest)) = tensors.split_first() else { return Ok(f(got)) };
    interop::with_view::<f32, _>(first, |view| {
        let mut got = got.to_vec();
        got.push(view.as_slice().unwrap_or_default());
        with_slices(rest, &got, f)
    })?
}

/// Threads for the kernel: as many as libtorch uses.
fn pool() -> Result<Arc<ThreadPool>> {
    static POOLS: Mutex<BTreeMap<usize, Arc<ThreadPool>>> = Mutex::new(BTreeMap::new());
    let threads = tch::get_num_threads().max(1) as usize;
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pools.get(&threads) {
        return Ok(Arc::clone(pool));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| {
        let expected = "as many threads as the system gives".to_owned();
        Error::Argument { op: "mesa", arg: "threads", expected, got: format!("{threads}: {error}") }
    })?;
    let pool = Arc::new(pool);
    pools.insert(threads, Arc::clone(&pool));
    Ok(pool)
}

/// Inputs in the order of the kernel, contiguous.
fn contiguous(p: &Problem) -> [Tensor; 8] {
    let MesaState { h_kk, g_kv } = &p.initial;
    [&p.q, &p.k, &p.v, &p.g, &p.beta, &p.ridge, h_kk, g_kv].map(Tensor::contiguous)
}

fn problem<'a>(p: &Problem, config: &MesaConfig, s: &[&'a [f32]]) -> kernel::Problem<'a> {
    let [batch, seq_len, heads, d, e] = p.sizes().map(|n| n as usize);
    kernel::Problem {
        batch,
        seq_len,
        heads,
        d,
        e,
        chunk: chunk(config),
        q: s[0],
        k: s[1],
        v: s[2],
        g: s[3],
        beta: s[4],
        ridge: s[5],
        h_kk: s[6],
        g_kv: s[7],
    }
}

/// `[b, h, t, x]` (or `[b, h, t]`) as it comes from the kernel, seen as `[b, t, h, x]`.
fn by_time<T: interop::Scalar>(values: &[T], size: &[i64]) -> Result<Tensor> {
    Ok(interop::from_slice(values, size)?.transpose(1, 2))
}

/// The forward pass.
pub(crate) fn forward(p: &Problem, config: &MesaConfig) -> Result<MesaOutput> {
    let cg = conjugate_gradients(&config.solver)?;
    let inputs = contiguous(p);
    let pool = pool()?;
    let out = with_slices(&inputs.each_ref(), &[], &mut |s| {
        let problem = problem(p, config, s);
        pool.install(|| kernel::forward(&problem, &cg, kernel::levels()[0]))
    })?;
    let [batch, seq_len, heads, d, e] = p.sizes();
    let rows = [batch, heads, seq_len];
    let with = |n| [batch, heads, seq_len, n];
    Ok(MesaOutput {
        o: by_time(&out.o, &with(e))?,
        q_star: by_time(&out.x, &with(d))?,
        state: MesaState {
            h_kk: interop::from_slice(&out.h_kk, &p.initial.h_kk.size())?,
            g_kv: interop::from_slice(&out.g_kv, &p.initial.g_kv.size())?,
        },
        stats: SolveStats {
            steps: by_time(&out.steps, &rows)?,
            residual: by_time(&out.residual, &rows)?,
        },
    })
}

/// The backward pass.
pub(crate) fn backward(
    p: &Problem,
    config: &MesaConfig,
    q_star: &Tensor,
    cot: &Cotangents,
) -> Result<Gradients> {
    let cg = conjugate_gradients(&config.backward())?;
    let inputs = contiguous(p);
    let pool = pool()?;
    // As the kernel gave it: head by head, hence no copy.
    let x = q_star.transpose(1, 2).contiguous();
    let cot = [&cot.o, &cot.h_kk, &cot.g_kv].map(Tensor::contiguous);
    let all: Vec<&Tensor> = inputs.iter().chain([&x]).chain(&cot).collect();
    let d = with_slices(&all, &[], &mut |s| {
        let problem = problem(p, config, s);
        let cot = [s[9], s[10], s[11]];
        pool.install(|| kernel::backward(&problem, &cg, kernel::levels()[0], s[8], cot))
    })?;
    let [batch, seq_len, heads, dim, value_dim] = p.sizes();
    let rows = [batch, heads, seq_len];
    let with = |n| [batch, heads, seq_len, n];
    let ridge = interop::from_slice(&d.ridge, &[batch, heads, dim])?;
    Ok(Gradients {
        q: by_time(&d.q, &with(dim))?,
        k: by_time(&d.k, &with(dim))?,
        v: by_time(&d.v, &with(value_dim))?,
        g: by_time(&d.g, &rows)?,
        beta: by_time(&d.beta, &rows)?,
        ridge: ridge.sum_dim_intlist([0].as_slice(), false, None),
        h_kk: interop::from_slice(&d.h_kk, &p.initial.h_kk.size())?,
        g_kv: interop::from_slice(&d.g_kv, &p.initial.g_kv.size())?,
    })
}
