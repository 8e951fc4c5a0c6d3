//! One operation, many forms: reference, chunks of any length, the fused kernel, one token at a time,
//! split, packed, padded; and what must hold in all of them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod case;

use case::{Inputs, Sizes, error, full, same};
use mesa_layer::{
    CgConfig, Form, MesaConfig, MesaInputs, MesaOutput, MesaState, MesaToken, Precondition, Solver,
    Start, Stop, mesa, mesa_step,
};
use tch::{Kind, Tensor};
use tensor_core::{Error, Validate};

const SIZES: Sizes = Sizes { batch: 2, seq_len: 37, n_heads: 3, head_dim: 10, value_dim: 7 };

fn config(form: Form, chunk_len: i64, solver: Solver) -> MesaConfig {
    MesaConfig { form, chunk_len, solver, ..MesaConfig::default() }
}

fn run(inputs: &MesaInputs<'_>, config: &MesaConfig) -> MesaOutput {
    mesa(inputs, &config.validate().unwrap()).unwrap()
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

fn close(a: &MesaOutput, b: &MesaOutput, bound: f64, what: &str) {
    for (name, a, b) in [
        ("o", &a.o, &b.o),
        ("q_star", &a.q_star, &b.q_star),
        ("h_kk", &a.state.h_kk, &b.state.h_kk),
        ("g_kv", &a.state.g_kv, &b.state.g_kv),
    ] {
        let off = error(a, b);
        assert!(off < bound, "{what}: {name} off by {off:e}");
    }
}

#[test]
fn all_chunk_lengths_and_preconditioners_agree_with_the_reference() {
    let inputs = Inputs::draw(SIZES, Kind::Double, 1);
    let want = run(&inputs.get(), &config(Form::Reference, 1, Solver::Cholesky));
    for chunk_len in [1, 7, 16, 64, SIZES.seq_len] {
        for precondition in [Precondition::None, Precondition::Jacobi, Precondition::MidChunk] {
            let got = run(&inputs.get(), &config(Form::Chunk, chunk_len, to(1e-14, precondition)));
            close(&got, &want, 1e-11, &format!("chunks of {chunk_len}, {precondition:?}"));
        }
        let got = run(&inputs.get(), &config(Form::Chunk, chunk_len, Solver::Cholesky));
        close(&got, &want, 1e-12, &format!("chunks of {chunk_len}, exact"));
    }
}

#[test]
fn the_kernel_agrees_with_the_reference_at_any_size() {
    for (i, (head_dim, value_dim, seq_len)) in
        [(1, 1, 1), (10, 7, 37), (16, 16, 16), (33, 50, 65), (60, 20, 130), (50, 64, 20)]
            .into_iter()
            .enumerate()
    {
        let sizes = Sizes { batch: 1, seq_len, n_heads: 2, head_dim, value_dim };
        let inputs = Inputs::draw(sizes, Kind::Float, i as u64);
        let exact = inputs.map(|x| x.to_kind(Kind::Double));
        let want = run(&exact.get(), &config(Form::Reference, 1, Solver::Cholesky));
        for chunk_len in [16, 32, 64] {
            for precondition in [Precondition::None, Precondition::MidChunk] {
                for start in [Start::Zero, Start::Diag, Start::Preconditioned] {
                    let solver = Solver::Cg(CgConfig {
                        max_steps: 100,
                        start,
                        stop: Stop::RelativeToQuery { eps: 1e-7 },
                        precondition,
                        refine: false,
                    });
                    let got = run(&inputs.get(), &config(Form::Kernel, chunk_len, solver));
                    let what = format!("{sizes:?}, {chunk_len}, {precondition:?}, {start:?}");
                    close(&got, &want, 1e-5, &what);
                }
            }
        }
    }
}

#[test]
fn the_kernel_takes_the_steps_of_the_chunkwise_form() {
    let inputs = Inputs::draw(SIZES, Kind::Float, 3);
    for solver in [
        Solver::Cg(CgConfig { max_steps: 4, ..CgConfig::default() }),
        Solver::Cg(CgConfig { max_steps: 0, ..CgConfig::default() }),
        Solver::until(1e-3, 30),
        to(1e-3, Precondition::None),
        Solver::preconditioned(1e-3, 30),
    ] {
        let a = run(&inputs.get(), &config(Form::Kernel, 16, solver));
        let b = run(&inputs.get(), &config(Form::Chunk, 16, solver));
        // Of the last chunk, which is short, the two forms take different tokens for the middle.
        let off = (a.stats.steps - b.stats.steps).narrow(1, 0, 32).abs();
        assert!(off.max().int64_value(&[]) <= 1, "{solver:?}");
        assert!(off.count_nonzero(None::<i64>).int64_value(&[]) <= 6, "{solver:?}");
        assert!(error(&a.o, &b.o) < 2e-3, "{solver:?}");
    }
}

#[test]
fn tighter_rules_take_more_steps_and_leave_smaller_residuals() {
    let inputs = Inputs::draw(SIZES, Kind::Double, 4);
    let mut last = (0, f64::INFINITY);
    for eps in [1e-1, 1e-2, 1e-4, 1e-8] {
        let out = run(&inputs.get(), &config(Form::Chunk, 16, Solver::until(eps, 100)));
        let steps = out.stats.steps.sum(Kind::Int64).int64_value(&[]);
        let residual = out.stats.residual.max().double_value(&[]);
        assert!(steps > last.0 && residual < last.1, "{eps}: {steps}, {residual:e}");
        last = (steps, residual);
    }
}

#[test]
fn a_split_sequence_is_the_whole_one() {
    for (kind, form, bound) in [
        (Kind::Double, Form::Reference, 1e-13),
        (Kind::Double, Form::Chunk, 1e-11),
        (Kind::Float, Form::Kernel, 1e-5),
    ] {
        let inputs = Inputs::draw(SIZES, kind, 5);
        let eps = if kind == Kind::Double { 1e-14 } else { 1e-7 };
        let config = config(form, 16, to(eps, Precondition::None));
        let want = run(&inputs.get(), &config);
        for at in [0, 1, 16, 20, SIZES.seq_len] {
            let first = run(&inputs.tokens(|x| x.narrow(1, 0, at)).get(), &config);
            let rest = inputs.tokens(|x| x.narrow(1, at, SIZES.seq_len - at));
            let rest = run(&rest.get().after(&first.state), &config);
            let joined = MesaOutput {
                o: Tensor::cat(&[&first.o, &rest.o], 1),
                q_star: Tensor::cat(&[&first.q_star, &rest.q_star], 1),
                ..rest
            };
            close(&joined, &want, bound, &format!("{form:?} split at {at}"));
        }
    }
}

#[test]
fn one_token_at_a_time_is_the_whole_sequence() {
    let inputs = Inputs::draw(SIZES, Kind::Double, 6);
    for solver in
        [Solver::Cholesky, to(1e-14, Precondition::None), to(1e-14, Precondition::MidChunk)]
    {
        let want = run(&inputs.get(), &config(Form::Chunk, 8, solver));
        let mut state = inputs.initial.clone().unwrap();
        let mut o = Vec::new();
        for t in 0..SIZES.seq_len {
            let row = |x: &Tensor| x.select(1, t);
            let token = MesaToken {
                q: &row(&inputs.q),
                k: &row(&inputs.k),
                v: &row(&inputs.v),
                g: &row(&inputs.g),
                beta: &row(&inputs.beta),
                sign: None,
            };
            let out =
                mesa_step(&token, &inputs.ridge, &state, &solver.validate().unwrap()).unwrap();
            o.push(out.o);
            state = out.state;
        }
        assert!(error(&Tensor::stack(&o, 1), &want.o) < 1e-11, "{solver:?}");
        assert!(error(&state.h_kk, &want.state.h_kk) < 1e-13);
        assert!(error(&state.g_kv, &want.state.g_kv) < 1e-13);
    }
}

#[test]
fn packed_sequences_are_sequences_alone() {
    let sizes = Sizes { batch: 1, ..SIZES };
    let ends = [0, 5, 5, 6, 29, 37];
    for (kind, form) in [(Kind::Double, Form::Chunk), (Kind::Float, Form::Kernel)] {
        let mut inputs = Inputs::draw(sizes, kind, 7);
        inputs.initial = Inputs::draw(Sizes { batch: 5, ..SIZES }, kind, 8).initial;
        let config = config(form, 16, Solver::default());
        let mut packed = inputs.get();
        packed.cu_seqlens = Some(&ends);
        let all = run(&packed, &config);
        for (i, w) in ends.windows(2).enumerate() {
            let len = w[1] - w[0];
            let mut alone = inputs.tokens(|x| x.narrow(1, w[0], len));
            let pick = |x: &Tensor| x.narrow(0, i as i64, 1);
            alone.initial = inputs
                .initial
                .as_ref()
                .map(|s| MesaState { h_kk: pick(&s.h_kk), g_kv: pick(&s.g_kv) });
            let alone = run(&alone.get(), &config);
            assert!(same(&all.o.narrow(1, w[0], len), &alone.o), "{form:?}, sequence {i}");
            assert!(same(&pick(&all.state.h_kk), &alone.state.h_kk));
        }
    }
}

#[test]
fn padding_changes_nothing() {
    for (kind, form) in [(Kind::Double, Form::Chunk), (Kind::Float, Form::Kernel)] {
        let inputs = Inputs::draw(SIZES, kind, 9);
        let padded = inputs.tokens(|x| {
            let zeros = full(&[x.size()[0], 11], 0.0, kind);
            let zeros = match x.dim() {
                3 => zeros.unsqueeze(-1).expand([-1, -1, x.size()[2]], false),
                _ => zeros
                    .unsqueeze(-1)
                    .unsqueeze(-1)
                    .expand([-1, -1, x.size()[2], x.size()[3]], false),
            };
            Tensor::cat(&[x, &zeros], 1)
        });
        let config = config(form, 16, Solver::default());
        let (a, b) = (run(&inputs.get(), &config), run(&padded.get(), &config));
        assert!(error(&b.o.narrow(1, 0, SIZES.seq_len), &a.o) < 1e-6);
        assert!(same(
            &b.o.narrow(1, SIZES.seq_len, 11),
            &full(&b.o.narrow(1, 0, 11).size(), 0.0, kind)
        ));
        assert!(error(&b.state.h_kk, &a.state.h_kk) < 1e-6);
    }
}

#[test]
fn later_tokens_do_not_reach_back() {
    for (kind, form) in
        [(Kind::Double, Form::Reference), (Kind::Double, Form::Chunk), (Kind::Float, Form::Kernel)]
    {
        let inputs = Inputs::draw(SIZES, kind, 10);
        for solver in [Solver::default(), Solver::until(1e-3, 30)] {
            let config = config(form, 16, solver);
            let before = run(&inputs.get(), &config);
            for t in [0, 1, 15, 16, 20, 36] {
                let changed = inputs.map(Tensor::copy);
                for x in [&changed.q, &changed.k, &changed.v] {
                    let _ = x.select(1, t).g_mul_scalar_(-3.5);
                }
                let _ = changed.beta.select(1, t).fill_(0.9);
                let _ = changed.g.select(1, t).fill_(-0.5);
                let after = run(&changed.get(), &config);
                let head = |x: &Tensor| x.narrow(1, 0, t);
                assert!(same(&head(&after.o), &head(&before.o)), "{form:?}, {solver:?}, token {t}");
                assert!(!same(&after.o.select(1, t), &before.o.select(1, t)));
            }
        }
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let inputs = Inputs::draw(Sizes { batch: 1, n_heads: 1, ..SIZES }, Kind::Float, 11);
    let leaves = inputs.map(|x| x.copy().set_requires_grad(true));
    for solver in [Solver::default(), Solver::preconditioned(1e-5, 30)] {
        let mut found = Vec::new();
        for threads in [1, 2, 3] {
            tch::set_num_threads(threads);
            let out = run(&leaves.get(), &config(Form::Kernel, 16, solver));
            let grad = Tensor::run_backward(
                &[out.o.square().sum(Kind::Float)],
                &[&leaves.k],
                false,
                false,
            );
            found.push((out.o, out.state.h_kk, grad[0].shallow_clone()));
        }
        tch::set_num_threads(1);
        for other in &found[1..] {
            assert!(same(&found[0].0, &other.0) && same(&found[0].1, &other.1));
            assert!(same(&found[0].2, &other.2));
        }
    }
}

#[test]
fn walls_and_closed_gates() {
    for (kind, form, bound) in
        [(Kind::Double, Form::Chunk, 1e-10), (Kind::Float, Form::Kernel, 1e-5)]
    {
        let eps = if kind == Kind::Double { 1e-14 } else { 1e-7 };
        let config = config(form, 16, to(eps, Precondition::None));
        let inputs = Inputs::draw(SIZES, kind, 12);
        // gamma = 0 forgets all: the rest is a sequence of its own
        let walled = inputs.map(Tensor::copy);
        let _ = walled.g.select(1, 21).fill_(f64::NEG_INFINITY);
        let all = run(&walled.get(), &config);
        let mut rest = walled.tokens(|x| x.narrow(1, 21, 16));
        rest.initial = None;
        let alone = run(&rest.get(), &config);
        assert!(error(&all.o.narrow(1, 21, 16), &alone.o) < bound, "{form:?}");
        assert!(error(&all.state.h_kk, &alone.state.h_kk) < bound);
        // beta = 0 and no past: exactly nothing
        let mut closed = inputs.map(Tensor::copy);
        closed.beta = closed.beta.zeros_like();
        closed.initial = None;
        let out = run(&closed.get(), &config);
        assert!(same(&out.o, &out.o.zeros_like()), "{form:?}");
        // one token in closed form: beta v (k^T Lambda^-1 q) / (1 + beta k^T Lambda^-1 k)
        let mut one = inputs.tokens(|x| x.narrow(1, 0, 1));
        one.initial = None;
        let out = run(&one.get(), &config);
        let scaled = &one.k / &one.ridge;
        let product = |a: &Tensor| (&scaled * a).sum_dim_intlist([-1].as_slice(), true, None);
        let beta = one.beta.unsqueeze(-1);
        let want = &beta * &one.v * product(&one.q) / (&beta * product(&one.k) + 1.0);
        assert!(error(&out.o, &want) < bound, "{form:?}");
    }
}

#[test]
fn an_empty_sequence_keeps_the_past() {
    for form in [Form::Auto, Form::Reference, Form::Chunk, Form::Kernel] {
        let inputs = Inputs::draw(Sizes { seq_len: 0, ..SIZES }, Kind::Float, 13);
        let out = run(&inputs.get(), &config(form, 16, Solver::default()));
        assert_eq!(out.o.size(), [2, 0, 3, 7]);
        assert!(same(&out.state.h_kk, &inputs.initial.unwrap().h_kk));
    }
}

#[test]
fn one_key_over_and_over_stays_finite() {
    let sizes = Sizes { batch: 1, seq_len: 400, n_heads: 1, head_dim: 16, value_dim: 4 };
    let mut inputs = Inputs::draw(sizes, Kind::Float, 14);
    inputs.k = inputs.k.narrow(1, 0, 1).expand_as(&inputs.k).contiguous();
    inputs.q = inputs.k.shallow_clone();
    inputs.g = inputs.g.zeros_like();
    inputs.beta = inputs.beta.ones_like();
    inputs.ridge = full(&[1, 16], 0.25, Kind::Float);
    inputs.initial = None;
    let exact = inputs.map(|x| x.to_kind(Kind::Double));
    let want = run(&exact.get(), &config(Form::Reference, 1, Solver::Cholesky));
    for form in [Form::Chunk, Form::Kernel] {
        for solver in [Solver::default(), Solver::preconditioned(1e-6, 30)] {
            let out = run(&inputs.get(), &config(form, 16, solver));
            let off = error(&out.o, &want.o); // condition number 1,600
            assert!(off < 1e-4, "{form:?}, {solver:?}: {off:e}");
        }
    }
}

#[test]
fn refinement_in_float64_gains_digits() {
    let sizes = Sizes { batch: 1, seq_len: 64, n_heads: 2, head_dim: 16, value_dim: 8 };
    let mut inputs = Inputs::draw(sizes, Kind::Float, 15);
    inputs.ridge = full(&[2, 16], 1e-4, Kind::Float);
    let exact = inputs.map(|x| x.to_kind(Kind::Double));
    let want = run(&exact.get(), &config(Form::Reference, 1, Solver::Cholesky));
    let off = |refine| {
        let cg = CgConfig {
            max_steps: 200,
            stop: Stop::RelativeToQuery { eps: 1e-6 },
            refine,
            ..CgConfig::default()
        };
        error(&run(&inputs.get(), &config(Form::Chunk, 16, Solver::Cg(cg))).q_star, &want.q_star)
    };
    let (plain, refined) = (off(false), off(true));
    assert!(refined < 0.3 * plain, "{plain:e}, refined {refined:e}");
}

#[test]
fn a_warm_start_at_the_solution_needs_no_step() {
    let inputs = Inputs::draw(SIZES, Kind::Double, 16);
    let want = run(&inputs.get(), &config(Form::Chunk, 16, Solver::Cholesky));
    let mut warm = inputs.get();
    warm.warm = Some(&want.q_star);
    let out = run(&warm, &config(Form::Auto, 16, to(1e-9, Precondition::None)));
    assert_eq!(out.stats.steps.max().int64_value(&[]), 0);
}

#[test]
fn negative_gates_are_gates_with_a_sign() {
    let mut inputs = Inputs::draw(SIZES, Kind::Double, 17);
    inputs.ridge = full(&[3, 10], 50.0, Kind::Double);
    let sign = inputs.beta.gt(0.5).to_kind(Kind::Double) * 2.0 - 1.0;
    let mut signed = inputs.get();
    signed.sign = Some(&sign);
    let want = run(&signed, &config(Form::Reference, 1, Solver::Cholesky));
    let got = run(&signed, &config(Form::Auto, 16, to(1e-14, Precondition::None)));
    close(&got, &want, 1e-11, "signed gates");
    let unsigned = run(&inputs.get(), &config(Form::Reference, 1, Solver::Cholesky));
    assert!(error(&unsigned.o, &want.o) > 1e-2);
}

#[test]
fn half_precision_inputs_are_solved_in_float32() {
    let inputs = Inputs::draw(SIZES, Kind::Float, 18);
    let mut half = inputs.clone();
    for x in [&mut half.q, &mut half.k, &mut half.v] {
        *x = x.to_kind(Kind::BFloat16);
    }
    let out = run(&half.get(), &MesaConfig::default());
    assert_eq!((out.o.kind(), out.state.h_kk.kind()), (Kind::BFloat16, Kind::Float));
    assert!(error(&out.o, &run(&inputs.get(), &MesaConfig::default()).o) < 0.03);
}

#[test]
fn bad_input_is_an_error_that_names_it() {
    let good = Inputs::draw(SIZES, Kind::Float, 19);
    let config = MesaConfig::default().validate().unwrap();
    let message = |inputs: &MesaInputs<'_>| mesa(inputs, &config).unwrap_err().to_string();
    let spoil = |name: &str, x: f64| {
        let mut bad = good.clone();
        {
            let state = bad.initial.as_mut().unwrap();
            let target = match name {
                "q" => &mut bad.q,
                "k" => &mut bad.k,
                "v" => &mut bad.v,
                "g" => &mut bad.g,
                "beta" => &mut bad.beta,
                "ridge" => &mut bad.ridge,
                "initial.h_kk" => &mut state.h_kk,
                _ => &mut state.g_kv,
            };
            let _ = target.view([-1]).get(3).fill_(x);
        }
        message(&bad.get())
    };
    for name in ["q", "k", "v", "g", "beta", "ridge", "initial.h_kk", "initial.g_kv"] {
        let text = spoil(name, f64::NAN);
        assert!(text.contains(&format!("`{name}`")) && text.contains("finite"), "{text}");
    }
    for (name, x) in
        [("q", f64::INFINITY), ("g", 0.1), ("beta", -0.1), ("ridge", 0.0), ("ridge", -1.0)]
    {
        let text = spoil(name, x);
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
    let narrow = good.k.narrow(3, 0, 9);
    let text = message(&MesaInputs { k: &narrow, ..good.get() });
    assert!(text.contains("`k`") && text.contains("head_dim = 10"), "{text}");
    let ints = good.v.to_kind(Kind::Int64);
    assert!(message(&MesaInputs { v: &ints, ..good.get() }).contains("`v`"));

    let one = Inputs::draw(Sizes { batch: 1, ..SIZES }, Kind::Float, 20);
    for (ends, word) in [
        (&[0, 36][..], "seq_len = 37"),
        (&[1, 37], "seq_len = 37"),
        (&[0, 20, 10, 37], "20 before 10"),
        (&[], "empty"),
        (&[37], "seq_len = 37"),
    ] {
        let mut inputs = one.get();
        inputs.initial = None;
        inputs.cu_seqlens = Some(ends);
        let text = message(&inputs);
        assert!(text.contains("`cu_seqlens`") && text.contains(word), "{text}");
    }
    let mut two = good.get();
    two.cu_seqlens = Some(&[0, 37]);
    assert!(message(&two).contains("batch = 2"));

    let kernel = MesaConfig { form: Form::Kernel, ..MesaConfig::default() }.validate().unwrap();
    let double = good.map(|x| x.to_kind(Kind::Double));
    let error = mesa(&double.get(), &kernel).unwrap_err();
    assert!(matches!(error, Error::Argument { arg: "form", .. }), "{error}");
    for (field, config) in [
        ("chunk_len", MesaConfig { chunk_len: 0, ..MesaConfig::default() }),
        ("eps", MesaConfig { solver: Solver::until(f64::NAN, 3), ..MesaConfig::default() }),
        ("max_steps", MesaConfig { solver: Solver::until(0.1, -1), ..MesaConfig::default() }),
    ] {
        let text = config.validate().unwrap_err().to_string();
        assert!(text.contains(field), "{text}");
    }
}
