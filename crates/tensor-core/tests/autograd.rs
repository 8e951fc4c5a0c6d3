//! Backward passes written in Rust: exactness against libtorch's own solver, differentiability,
//! threads, failures, memory.
#![allow(clippy::type_complexity, reason = "closures of the checked functions")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tensor_core::{
    Device, Error, Kind, Result, SeedTree, Tensor,
    autograd::{
        GradientCheck, Graph, Operator, check_gradient, custom_vjp, hvp, implicit_solve, jvp, vjp,
    },
    interop,
};

/// Standard normal float64 values that depend on the name alone.
fn normal(name: &str, size: &[i64]) -> Tensor {
    use rand_distr::{Distribution, StandardNormal};
    let mut rng = SeedTree::new(11).child(name).rng();
    let n: i64 = size.iter().product();
    let values: Vec<f64> = (0..n).map(|_| StandardNormal.sample(&mut rng)).collect();
    interop::from_slice(&values, size).unwrap()
}

/// Well-conditioned symmetric positive definite matrices.
fn spd(name: &str, batch: i64, n: i64) -> Tensor {
    let root = normal(name, &[batch, n, n]);
    let eye = Tensor::eye(n, (Kind::Double, Device::Cpu));
    root.matmul(&root.transpose(-2, -1)) / n as f64 + eye
}

/// Batched conjugate gradients from zero; rows that have converged stand still.
#[expect(clippy::unnecessary_wraps, reason = "the signature of a solver")]
fn conjugate_gradients(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let dot = |u: &Tensor, v: &Tensor| (u * v).sum_dim_intlist([-1].as_slice(), true, Kind::Double);
    let (mut x, mut r) = (b.zeros_like(), b.copy());
    let (mut p, mut rr) = (b.copy(), dot(b, b));
    let floor = &rr * 1e-34 + 1e-300;
    for _ in 0..4 * b.size().last().copied().unwrap_or(0) {
        let live = rr.gt_tensor(&floor).to_kind(Kind::Double);
        let ap = a.matmul(&p.unsqueeze(-1)).squeeze_dim(-1);
        let alpha = &live * &rr / (dot(&p, &ap) + (1.0 - &live));
        x += &alpha * &p;
        r -= &alpha * ap;
        let next = dot(&r, &r);
        p = &r + &live * &next / (&rr + (1.0 - &live)) * p;
        rr = next;
    }
    Ok(x)
}

/// The exact solve, for matrices that are not symmetric.
#[expect(clippy::unnecessary_wraps, reason = "the signature of a solver")]
fn by_lu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dim() == b.dim() {
        return Ok(Tensor::linalg_solve(a, b, true));
    }
    Ok(Tensor::linalg_solve(a, &b.unsqueeze(-1), true).squeeze_dim(-1))
}

fn leaf(t: &Tensor) -> Tensor {
    t.detach().copy().set_requires_grad(true)
}

fn max_error(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.size(), want.size());
    (got - want).abs().max().double_value(&[])
}

/// A differentiable function of solution and data that weighs every element differently.
fn loss(x: &Tensor, a: &Tensor) -> Tensor {
    let w = normal("loss weights", &x.size());
    (x * &w).sin().sum(Kind::Double) + (x * x * a.sum(Kind::Double) * 0.1).sum(Kind::Double)
}

/// `[value, gradients..]` of the loss behind a solver.
fn value_and_gradients(
    a: &Tensor,
    b: &Tensor,
    solve: impl Fn(&Tensor, &Tensor) -> Tensor,
) -> [Tensor; 3] {
    let (a, b) = (leaf(a), leaf(b));
    let x = solve(&a, &b);
    let l = loss(&x, &a);
    let g = vjp(&[&l], &[&l.detach().ones_like()], &[&a, &b], Graph::Free).unwrap();
    let mut g = g.into_iter().map(|g| g.expect("the loss depends on both"));
    [x.detach(), g.next().unwrap(), g.next().unwrap()]
}

#[test]
fn conjugate_gradient_solve_matches_linalg_solve() {
    let (a, b) = (spd("a", 4, 6), normal("b", &[4, 6]));
    let ours = value_and_gradients(&a, &b, |a, b| {
        implicit_solve(a, b, Operator::Symmetric, conjugate_gradients).unwrap()
    });
    let oracle = value_and_gradients(&a, &b, |a, b| by_lu(a, b).unwrap());
    for ((got, want), what) in ours.iter().zip(&oracle).zip(["x", "grad a", "grad b"]) {
        let error = max_error(got, want);
        assert!(error <= 1e-12, "{what}: {error:e}");
    }
}

#[test]
fn general_and_many_sided_solves_match_linalg_solve() {
    for b_size in [&[3, 5][..], &[3, 5, 2]] {
        let eye = Tensor::eye(5, (Kind::Double, Device::Cpu)) * 4.0;
        let (a, b) = (normal("general", &[3, 5, 5]) + eye, normal("sides", b_size));
        let ours = value_and_gradients(&a, &b, |a, b| {
            implicit_solve(a, b, Operator::General, by_lu).unwrap()
        });
        let oracle = value_and_gradients(&a, &b, |a, b| by_lu(a, b).unwrap());
        for (got, want) in ours.iter().zip(&oracle) {
            assert!(max_error(got, want) <= 1e-12);
        }
    }
    // One system without a batch.
    let (a, b) = (spd("single", 1, 4).squeeze_dim(0), normal("single b", &[4]));
    let ours = value_and_gradients(&a, &b, |a, b| {
        implicit_solve(a, b, Operator::Symmetric, conjugate_gradients).unwrap()
    });
    let oracle = value_and_gradients(&a, &b, |a, b| by_lu(a, b).unwrap());
    for (got, want) in ours.iter().zip(&oracle) {
        assert!(max_error(got, want) <= 1e-12);
    }
}

/// An independent way to the same gradient: cut the graph at `x`, differentiate the rest, solve for
/// `lambda`, back-propagate `sum(lambda (b - A x0))` with `x0` constant.
#[test]
fn staged_backward_agrees() {
    let (a0, b0) = (spd("staged", 4, 6), normal("staged b", &[4, 6]));
    let [_, grad_a, grad_b] = value_and_gradients(&a0, &b0, |a, b| {
        implicit_solve(a, b, Operator::Symmetric, conjugate_gradients).unwrap()
    });

    let (a, b) = (leaf(&a0), leaf(&b0));
    let x0 = leaf(&conjugate_gradients(&a0, &b0).unwrap());
    let rest = loss(&x0, &a);
    let one = rest.detach().ones_like();
    let g = vjp(&[&rest], &[&one], &[&x0, &a], Graph::Free).unwrap();
    let lambda = conjugate_gradients(&a0, g[0].as_ref().unwrap()).unwrap();
    let ax = a.matmul(&x0.detach().unsqueeze(-1)).squeeze_dim(-1);
    let surrogate = (lambda * (&b - ax)).sum(Kind::Double);
    let s = vjp(&[&surrogate], &[&one], &[&a, &b], Graph::Free).unwrap();
    let direct = g[1].as_ref().unwrap(); // the loss also uses `a` outside the solve
    assert!(max_error(&grad_a, &(s[0].as_ref().unwrap() + direct)) <= 1e-12);
    assert!(max_error(&grad_b, s[1].as_ref().unwrap()) <= 1e-12);
}

/// Hessian-vector products through the solve, against libtorch's.
#[test]
fn double_backward_matches_linalg_solve() {
    let (a0, b0) = (spd("second", 2, 4), normal("second b", &[2, 4]));
    let v = [normal("va", &[2, 4, 4]), normal("vb", &[2, 4])];
    let products = |solve: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
        let (a, b) = (leaf(&a0), leaf(&b0));
        let l = loss(&solve(&a, &b), &a);
        hvp(&l, &[&a, &b], &[&v[0], &v[1]]).unwrap()
    };
    let oracle = products(&|a, b| by_lu(a, b).unwrap());
    let solvers: [&dyn Fn(&Tensor, &Tensor) -> Tensor; 2] = [
        &|a, b| implicit_solve(a, b, Operator::Symmetric, conjugate_gradients).unwrap(),
        &|a, b| implicit_solve(a, b, Operator::General, by_lu).unwrap(),
    ];
    for solve in solvers {
        for (got, want) in products(solve).iter().zip(&oracle) {
            let error = max_error(got, want);
            assert!(error <= 1e-11 * want.abs().max().double_value(&[]).max(1.0), "{error:e}");
        }
    }
}

#[test]
fn jvp_through_the_solve_is_the_directional_derivative() {
    let (a0, b0) = (spd("jvp", 2, 4), normal("jvp b", &[2, 4]));
    let (ta, tb) = (normal("ta", &[2, 4, 4]), normal("tb", &[2, 4]));
    let (a, b) = (leaf(&a0), leaf(&b0));
    let x = implicit_solve(&a, &b, Operator::General, by_lu).unwrap();
    let along = jvp(&[&x], &[&a, &b], &[&ta, &tb]).unwrap().remove(0);
    // x' = A^-1 (b' - A' x)
    let rhs = &tb - ta.matmul(&x.detach().unsqueeze(-1)).squeeze_dim(-1);
    assert!(max_error(&along, &by_lu(&a0, &rhs).unwrap()) <= 1e-12);
}

#[test]
fn derivatives_of_first_and_second_order_pass_the_check() {
    let (root, b) = (normal("root", &[2, 3, 3]), normal("check b", &[2, 3]));
    let f = |x: &[Tensor]| {
        let eye = Tensor::eye(3, (Kind::Double, Device::Cpu));
        let a = x[0].matmul(&x[0].transpose(-2, -1)) + eye;
        implicit_solve(&a, &x[1], Operator::Symmetric, conjugate_gradients)
    };
    let report = check_gradient(f, &[&root, &b], &GradientCheck::second_order()).unwrap();
    assert_eq!(report.compared, 2 * (18 + 6));
    assert!(report.worst.unwrap().excess <= 1.0);
}

/// `x^2` with a backward pass that is scaled wrongly, unrecorded, or right.
fn square(x: &Tensor, scale: f64, recorded: bool) -> Result<Tensor> {
    let y = {
        let _guard = tch::no_grad_guard();
        x * x
    };
    let saved = if recorded { x.shallow_clone() } else { x.detach() };
    let mut y = custom_vjp("Square", &[x], vec![y], move |g| {
        Ok(vec![g[0].as_ref().map(|g| g * &saved * scale)])
    })?;
    Ok(y.remove(0))
}

#[test]
fn the_check_finds_wrong_and_unrecorded_backward_passes() {
    let x = normal("square", &[2, 3]);
    let run = |scale, recorded, options: &GradientCheck| {
        check_gradient(|x| square(&x[0], scale, recorded), &[&x], options)
    };
    run(2.0, true, &GradientCheck::second_order()).unwrap();
    run(2.0, false, &GradientCheck::default()).unwrap();

    let Err(Error::Gradient { order, input, index, analytic, numeric, excess, .. }) =
        run(2.0001, true, &GradientCheck::default())
    else {
        panic!("a wrong factor passed")
    };
    assert_eq!((order, input, index.len()), (1, 0, 2));
    assert!(excess > 1.0 && (analytic / numeric - 1.00005).abs() < 1e-6);

    let unrecorded = run(2.0, false, &GradientCheck::second_order());
    assert!(matches!(unrecorded, Err(Error::Gradient { order: 2, .. })), "{unrecorded:?}");
}

#[test]
fn the_check_refuses_what_it_cannot_judge() {
    let x = normal("refuse", &[3]);
    let identity = |x: &[Tensor]| Ok(x[0].shallow_clone());
    let float = x.to_kind(Kind::Float);
    let options = GradientCheck::default();
    assert!(matches!(check_gradient(identity, &[&float], &options), Err(Error::Kind { .. })));
    let few = GradientCheck { max_elements: 2, ..options };
    let text = check_gradient(identity, &[&x], &few).unwrap_err().to_string();
    assert!(text.contains("at most 2 elements") && text.ends_with("got 3"), "{text}");
    for bad in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
        let options = GradientCheck { step: bad, ..options };
        assert!(matches!(
            check_gradient(identity, &[&x], &options),
            Err(Error::Argument { arg: "step", .. })
        ));
    }
    let poles = |x: &[Tensor]| Ok((&x[0] * 0.0).reciprocal());
    assert!(matches!(check_gradient(poles, &[&x], &options), Err(Error::NonFinite { .. })));
    let cut = |x: &[Tensor]| Ok(x[0].detach() * 2.0);
    assert!(matches!(check_gradient(cut, &[&x], &options), Err(Error::Gradient { .. })));
    let empty = Tensor::zeros([0], (Kind::Double, Device::Cpu));
    let report = check_gradient(identity, &[&empty], &options).unwrap();
    assert_eq!((report.compared, report.worst), (0, None));
}

#[test]
fn backward_runs_from_another_thread() {
    let (x, y) = {
        let x = leaf(&normal("thread", &[5]));
        let y = square(&x, 2.0, true).unwrap().sum(Kind::Double);
        (x, y)
    };
    let want = x.detach() * 2.0;
    let got = std::thread::spawn(move || {
        y.backward();
        x.grad()
    });
    assert_eq!(got.join().unwrap(), want);
}

#[test]
fn errors_and_panics_of_the_closure_come_back_as_errors() {
    let x = leaf(&normal("fail", &[2]));
    let backward = |closure: fn() -> Result<Vec<Option<Tensor>>>| {
        let y = custom_vjp("Failing", &[&x], vec![x.detach()], move |_| closure()).unwrap();
        let g = y[0].ones_like();
        vjp(&[&y[0]], &[&g], &[&x], Graph::Free).unwrap_err().to_string()
    };
    let text =
        backward(|| Err(Error::NonFinite { op: "solver", what: "residual".to_owned(), step: 3 }));
    assert_eq!(text, "vjp: Failing: solver: `residual` is not finite (at step 3)");
    let text = backward(|| panic!("two\nlines of {}", "text"));
    assert_eq!(text, "vjp: Failing: the backward closure panicked: two; lines of text");
    let text = backward(|| Ok(vec![]));
    assert!(text.contains("must return 1 gradients, one for each input, got 0"), "{text}");
    // A gradient of another shape is libtorch's to refuse.
    let text = backward(|| Ok(vec![Some(Tensor::from_slice(&[1.0, 2.0, 3.0]))]));
    assert!(text.contains("invalid gradient at index 0"), "{text}");
    // Also through tch's own backward, and the thread works afterwards.
    let y = custom_vjp("Failing", &[&x], vec![x.detach()], |_| panic!("stop")).unwrap();
    let text = y[0].sum(Kind::Double).f_backward().unwrap_err().to_string();
    assert!(text.contains("Failing: the backward closure panicked: stop"), "{text}");
    square(&x, 2.0, true).unwrap().sum(Kind::Double).backward();
    assert_eq!(x.grad(), x.detach() * 2.0);
}

#[test]
fn a_second_backward_says_what_to_do() {
    let x = leaf(&normal("twice", &[2]));
    let y = square(&x, 2.0, true).unwrap();
    let one = y.detach().ones_like();
    vjp(&[&y], &[&one], &[&x], Graph::Keep).unwrap();
    vjp(&[&y], &[&one], &[&x], Graph::Free).unwrap();
    let text = vjp(&[&y], &[&one], &[&x], Graph::Free).unwrap_err().to_string();
    assert_eq!(
        text,
        "vjp: Square: backward called a second time after its saved tensors were freed; keep the \
         graph in the first call"
    );
}

#[test]
fn unused_inputs_and_outputs_are_none() {
    let (x, unused) = (leaf(&normal("used", &[2])), leaf(&normal("unused", &[3])));
    let outputs = vec![x.detach() * 3.0, x.detach() * 5.0];
    let y = custom_vjp("Two", &[&x, &unused], outputs, |g| {
        assert!(g[0].is_none(), "nothing depends on the first output");
        Ok(vec![g[1].as_ref().map(|g| g * 5.0), None])
    })
    .unwrap();
    let g = vjp(&[&y[1]], &[&y[1].ones_like()], &[&x, &unused], Graph::Free).unwrap();
    assert_eq!(g[0].as_ref().unwrap(), &(x.detach().ones_like() * 5.0));
    assert!(g[1].is_none());
}

#[test]
fn outputs_that_are_not_floats_carry_no_gradient() {
    let x = leaf(&normal("sort", &[4]));
    let (sorted, order) = x.detach().sort(0, false);
    let saved = order.copy();
    let y = custom_vjp("Sort", &[&x], vec![order, sorted], move |g| {
        assert_eq!(g.len(), 2);
        assert!(g[0].is_none());
        Ok(vec![g[1].as_ref().map(|g| g.zeros_like().scatter(0, &saved, g))])
    })
    .unwrap();
    assert!(!y[0].requires_grad() && y[1].requires_grad());
    let w = Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]);
    (&y[1] * &w).sum(Kind::Double).backward();
    let rank_weights = w.gather(0, &x.detach().argsort(0, false).argsort(0, false), false);
    assert_eq!(x.grad(), rank_weights);
}

/// Counts how often its owner was dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn closures_are_dropped_once_and_as_soon_as_possible() {
    let count = Arc::new(AtomicUsize::new(0));
    let attach = |x: &Tensor| {
        let guard = Dropped(Arc::clone(&count));
        custom_vjp("Drop", &[x], vec![x.detach()], move |g| {
            let _ = &guard;
            Ok(vec![g[0].as_ref().map(Tensor::shallow_clone)])
        })
        .unwrap()
        .remove(0)
    };
    let dropped = || count.swap(0, Ordering::SeqCst);
    let x = leaf(&normal("drop", &[2]));

    let y = attach(&x.detach());
    assert!(!y.requires_grad());
    assert_eq!(dropped(), 1, "no input requires a gradient");
    {
        let _guard = tch::no_grad_guard();
        assert!(!attach(&x).requires_grad());
        assert_eq!(dropped(), 1, "grad mode is off");
    }
    let y = attach(&x);
    assert_eq!(dropped(), 0);
    drop(y);
    assert_eq!(dropped(), 1, "the graph was dropped");
    let y = attach(&x).sum(Kind::Double);
    y.backward();
    assert_eq!(dropped(), 1, "the backward pass frees saved tensors");
    drop(y);
    assert_eq!(dropped(), 0);
}

#[test]
fn bad_arguments_are_errors() {
    let x = leaf(&normal("bad", &[2]));
    let none = |_: &[Option<Tensor>]| Ok(vec![None]);
    assert!(matches!(
        custom_vjp("a\0b", &[&x], vec![x.detach()], none),
        Err(Error::Argument { .. })
    ));
    assert!(matches!(custom_vjp("a", &[&x], vec![], none), Err(Error::Argument { .. })));
    assert!(matches!(custom_vjp("a", &[&x], vec![Tensor::new()], none), Err(Error::Torch { .. })));

    let (a, b) = (spd("bad a", 2, 3), normal("bad b", &[2, 3]));
    let solve = |a: &Tensor, b: &Tensor| implicit_solve(a, b, Operator::General, by_lu);
    let shape = |r: Result<Tensor>, name: &str| match r {
        Err(Error::Shape { arg, .. }) => assert_eq!(arg, name),
        other => panic!("{other:?}"),
    };
    shape(solve(&a.narrow(1, 0, 2), &b), "a");
    shape(solve(&b.get(0), &b), "a");
    shape(solve(&a, &b.narrow(1, 0, 2)), "b");
    shape(solve(&a, &normal("x", &[3])), "b");
    shape(solve(&a, &normal("x", &[3, 3])), "b");
    assert!(matches!(solve(&a, &b.to_kind(Kind::Float)), Err(Error::Kind { .. })));
    assert!(matches!(solve(&a.to_kind(Kind::Int64), &b), Err(Error::Kind { .. })));
    shape(implicit_solve(&a, &b, Operator::General, |_, b| Ok(b.get(0))), "solver's result");
    let nan = &b * f64::NAN;
    assert!(matches!(solve(&a, &nan), Err(Error::NonFinite { .. })));
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A leak of the saved megabyte in either half would show as a gigabyte.
#[test]
#[cfg(target_os = "linux")]
fn two_thousand_graphs_leave_no_memory_behind() {
    let x = leaf(&Tensor::ones([1 << 17], (Kind::Double, Device::Cpu)));
    let graph = |backward: bool| {
        let y = {
            let _guard = tch::no_grad_guard();
            &x * 2.0
        };
        let saved = y.detach();
        let y = custom_vjp("Double", &[&x], vec![y], move |g| {
            assert_eq!(saved.size(), [1 << 17]);
            Ok(vec![g[0].as_ref().map(|g| g * 2.0)])
        })
        .unwrap();
        if backward {
            let g = vjp(&[&y[0]], &[&x.detach()], &[&x], Graph::Free).unwrap();
            assert!(g[0].is_some());
        }
    };
    for i in 0..100 {
        graph(i % 2 == 0);
    }
    let before = resident_bytes();
    for i in 0..2000 {
        graph(i % 2 == 0);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "resident memory grew by {grown} bytes");
}

/// Deep graphs are freed without recursion: a stack overflow would kill the process.
#[test]
fn a_deep_chain_is_freed() {
    let x = leaf(&normal("deep", &[1]));
    let mut y = x.shallow_clone();
    for _ in 0..50_000 {
        let value = y.detach();
        let mut next = custom_vjp("Identity", &[&y], vec![value], |g| {
            Ok(vec![g[0].as_ref().map(Tensor::shallow_clone)])
        })
        .unwrap();
        y = next.remove(0);
    }
    y.backward();
    assert_eq!(x.grad(), x.detach().ones_like());
    drop(y);
}
