//! The closed-form backward pass against central differences, the reference and the unrolled form.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod case;

use case::{Inputs, Sizes, error};
use mesa_layer::{
    CgConfig, Form, Gradient, MesaConfig, MesaInputs, MesaState, Precondition, Solver, Start, Stop,
    mesa,
};
use tch::{Kind, Tensor};
use tensor_core::{
    Validate,
    autograd::{GradientCheck, Graph, check_gradient, vjp},
};

const NAMES: [&str; 8] = ["q", "k", "v", "g", "beta", "ridge", "h_kk", "g_kv"];

fn config(form: Form, solver: Solver, gradient: Gradient) -> MesaConfig {
    MesaConfig { form, chunk_len: 4, solver, gradient, ..MesaConfig::default() }
}

fn to(eps: f64, precondition: Precondition) -> Solver {
    Solver::Cg(CgConfig {
        max_steps: 200,
        start: Start::Diag,
        stop: Stop::RelativeToQuery { eps },
        precondition,
        refine: false,
    })
}

/// All gradients of a sum that weighs every output differently.
fn gradients(inputs: &Inputs, sign: Option<&Tensor>, config: &MesaConfig) -> Vec<Tensor> {
    let leaves = inputs.map(|x| x.detach().copy().set_requires_grad(true));
    let mut given = leaves.get();
    given.sign = sign;
    let out = mesa(&given, &config.validate().unwrap()).unwrap();
    let outputs = [&out.o, &out.state.h_kk, &out.state.g_kv];
    let weights = outputs.map(|y| {
        let n = y.numel() as i64;
        (Tensor::arange(n, (Kind::Double, y.device())) * 0.7)
            .sin()
            .to_kind(y.kind())
            .reshape(y.size())
    });
    let state = leaves.initial.as_ref().unwrap();
    let xs = [
        &leaves.q,
        &leaves.k,
        &leaves.v,
        &leaves.g,
        &leaves.beta,
        &leaves.ridge,
        &state.h_kk,
        &state.g_kv,
    ];
    let found = vjp(&outputs, &weights.each_ref(), &xs, Graph::Free).unwrap();
    found.into_iter().zip(xs).map(|(g, x)| g.unwrap_or_else(|| x.zeros_like())).collect()
}

fn close(got: &[Tensor], want: &[Tensor], bound: f64, what: &str) {
    for (name, (got, want)) in NAMES.iter().zip(got.iter().zip(want)) {
        let off = error(got, want);
        assert!(off < bound, "{what}: gradient of {name} off by {off:e}");
    }
}

const SIZES: Sizes = Sizes { batch: 2, seq_len: 21, n_heads: 2, head_dim: 6, value_dim: 5 };

#[test]
fn closed_form_against_central_differences() {
    let sizes = Sizes { batch: 1, seq_len: 6, n_heads: 2, head_dim: 3, value_dim: 2 };
    let inputs = Inputs::draw(sizes, Kind::Double, 1);
    let state = inputs.initial.as_ref().unwrap();
    let xs = [&inputs.q, &inputs.k, &inputs.v, &inputs.g, &inputs.beta, &inputs.ridge, &state.g_kv];
    // h_kk is checked against the reference: a step of one element leaves the symmetric matrices.
    for (gradient, solver) in [
        (Gradient::Implicit, Solver::Cholesky),
        (Gradient::Implicit, to(1e-15, Precondition::None)),
        (Gradient::Unrolled, Solver::Cg(CgConfig { max_steps: 2, ..CgConfig::default() })),
    ] {
        let config = config(Form::Chunk, solver, gradient).validate().unwrap();
        check_gradient(
            |x| {
                let past =
                    MesaState { h_kk: state.h_kk.shallow_clone(), g_kv: x[6].shallow_clone() };
                let given =
                    MesaInputs::new([&x[0], &x[1], &x[2]], &x[3], &x[4], &x[5]).after(&past);
                let out = mesa(&given, &config)?;
                Ok(Tensor::cat(
                    &[
                        out.o.flatten(0, -1),
                        out.state.h_kk.flatten(0, -1),
                        out.state.g_kv.flatten(0, -1),
                    ],
                    0,
                ))
            },
            &xs,
            &GradientCheck::default(),
        )
        .unwrap();
    }
}

#[test]
fn closed_form_against_the_reference() {
    let inputs = Inputs::draw(SIZES, Kind::Double, 2);
    let want =
        gradients(&inputs, None, &config(Form::Reference, Solver::Cholesky, Gradient::Implicit));
    for chunk_len in [1, 4, 7, 16, 64] {
        for solver in [Solver::Cholesky, to(1e-15, Precondition::MidChunk)] {
            let config =
                MesaConfig { chunk_len, ..config(Form::Chunk, solver, Gradient::Implicit) };
            let got = gradients(&inputs, None, &config);
            close(&got, &want, 1e-11, &format!("chunks of {chunk_len}, {solver:?}"));
        }
    }
    let unrolled = config(Form::Chunk, to(1e-15, Precondition::None), Gradient::Unrolled);
    let got = gradients(&inputs, None, &unrolled);
    // Iterations read H as symmetric: rows in place of columns.
    let sym = |g: &[Tensor]| {
        g.iter()
            .enumerate()
            .map(|(i, x)| if i == 6 { x + x.transpose(-1, -2) } else { x.shallow_clone() })
            .collect::<Vec<_>>()
    };
    close(&sym(&got), &sym(&want), 1e-8, "unrolled");
}

#[test]
fn the_kernel_against_the_reference() {
    for (i, (seq_len, head_dim, value_dim)) in
        [(21, 6, 5), (150, 20, 33), (16, 16, 16), (1, 3, 2)].into_iter().enumerate()
    {
        let sizes = Sizes { batch: 2, seq_len, n_heads: 2, head_dim, value_dim };
        let inputs = Inputs::draw(sizes, Kind::Float, 3 + i as u64);
        let exact = inputs.map(|x| x.to_kind(Kind::Double));
        let reference = config(Form::Reference, Solver::Cholesky, Gradient::Implicit);
        let want = gradients(&exact, None, &reference);
        for precondition in [Precondition::None, Precondition::MidChunk] {
            for chunk_len in [16, 32, 64] {
                let solver = to(1e-7, precondition);
                let config =
                    MesaConfig { chunk_len, ..config(Form::Kernel, solver, Gradient::Implicit) };
                let got = gradients(&inputs, None, &config);
                close(&got, &want, 3e-5, &format!("{sizes:?}, {chunk_len}, {precondition:?}"));
            }
        }
    }
}

#[test]
fn walls_and_signs() {
    let mut inputs = Inputs::draw(SIZES, Kind::Double, 9);
    let _ = inputs.g.select(1, 9).fill_(-1e30);
    let _ = inputs.beta.select(1, 3).fill_(0.0);
    let reference = config(Form::Reference, Solver::Cholesky, Gradient::Implicit);
    let chunk = config(Form::Chunk, Solver::Cholesky, Gradient::Implicit);
    let want = gradients(&inputs, None, &reference);
    close(&gradients(&inputs, None, &chunk), &want, 1e-11, "walls");
    let single = inputs.map(|x| x.to_kind(Kind::Float));
    let kernel = config(Form::Kernel, to(1e-7, Precondition::None), Gradient::Implicit);
    close(&gradients(&single, None, &kernel), &want, 3e-5, "walls in the kernel");
    inputs.ridge += 50.0;
    let sign = inputs.beta.gt(0.4).to_kind(Kind::Double) * 2.0 - 1.0;
    let want = gradients(&inputs, Some(&sign), &reference);
    close(&gradients(&inputs, Some(&sign), &chunk), &want, 1e-11, "signs");
}

#[test]
fn an_output_that_nobody_uses_costs_nothing() {
    let inputs = Inputs::draw(SIZES, Kind::Double, 10);
    let leaves = inputs.map(|x| x.copy().set_requires_grad(true));
    let out = mesa(&leaves.get(), &MesaConfig::default().validate().unwrap()).unwrap();
    out.state.g_kv.sum(Kind::Double).backward();
    assert!(leaves.v.grad().abs().max().double_value(&[]) > 0.0);
    assert!(leaves.q.grad().abs().max().double_value(&[]) < 1e-300);
}
