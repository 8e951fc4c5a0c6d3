//! The optimisers against libtorch's own, and what theirs cannot do: ages per entry, skipped steps.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its case must stop")]

mod mlp;

use mlp::{Mlp, normal};
use std::collections::BTreeMap;
use tch::nn::{self, OptimizerConfig};
use tensor_core::grow::{AxisPlan, Edit, Fill, MomentPolicy, ResizePlan};
use tensor_core::optim::{ClipConfig, NonFinite, clip_grad_norm};
use tensor_core::{
    AdamW, AdamWConfig, Device, Error, Init, Kind, Optimizer, ParamStore, Role, SeedTree, Sgd,
    SgdConfig, Tensor, Trainer,
};

const SIZES: &[(&str, &[i64])] =
    &[("a", &[7, 5]), ("b", &[7]), ("c", &[3, 7]), ("d", &[3, 2, 2, 2])];

/// Both stores with the same values, and a loss whose gradients are neither constant nor tiny.
fn twins(role: Role) -> (ParamStore, nn::VarStore, Vec<Tensor>) {
    let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(11));
    let mut vs = nn::VarStore::new(Device::Cpu);
    let mut theirs = Vec::new();
    for (name, size) in SIZES {
        let p = store.root().param(name, size, role, &Init::Normal { std: 1.0 }).unwrap();
        let mut t = vs.root().zeros(name, size);
        vs.double();
        t = vs.variables().remove(*name).unwrap_or(t);
        let _guard = tch::no_grad_guard();
        t.copy_(&p.value());
        theirs.push(t);
    }
    (store, vs, theirs)
}

fn loss(params: &[Tensor], step: i64) -> Tensor {
    let mut sum = Tensor::zeros([], (Kind::Double, Device::Cpu));
    for (k, p) in params.iter().enumerate() {
        let target = normal(100 + step as u64, &p.size(), Kind::Double);
        sum += ((p - target) * (1.0 + k as f64)).pow_tensor_scalar(2).sum(Kind::Double)
            + p.sin().sum(Kind::Double);
    }
    sum
}

fn worst(store: &ParamStore, theirs: &[Tensor]) -> f64 {
    store
        .iter()
        .zip(theirs)
        .map(|(p, t)| ((p.value() - t).abs() / t.abs().clamp_min(1.0)).max().double_value(&[]))
        .fold(0.0, f64::max)
}

/// Runs both for 50 steps with a learning rate that moves and returns the worst difference.
fn parity(optim: &mut impl Optimizer, make: impl Fn(&nn::VarStore) -> nn::Optimizer) -> f64 {
    let (store, vs, theirs) = twins(Role::Weight);
    let mut reference = make(&vs);
    for step in 0..50 {
        let lr = 0.05 / (1.0 + step as f64 / 10.0);
        let ours: Vec<Tensor> = store.iter().map(tensor_core::Param::value).collect();
        loss(&ours, step).backward();
        let report = optim.step(&store, lr).unwrap();
        assert_eq!((report.stepped, report.without_grad.len()), (SIZES.len(), 0));
        store.zero_grad();
        reference.set_lr(lr);
        reference.zero_grad();
        loss(&theirs, step).backward();
        reference.step();
    }
    let moved = (store.get("a").unwrap().value() - twins(Role::Weight).2[0].shallow_clone()).abs();
    assert!(moved.max().double_value(&[]) > 0.1, "50 steps must go somewhere");
    worst(&store, &theirs)
}

#[test]
fn adamw_equals_libtorch() {
    for wd in [0.0, 0.01, 0.3] {
        let config =
            AdamWConfig { weight_decay: wd, beta1: 0.85, beta2: 0.98, ..Default::default() };
        let mut optim = AdamW::new(config).unwrap();
        let error = parity(&mut optim, |vs| {
            nn::AdamW { wd, beta1: 0.85, beta2: 0.98, ..nn::AdamW::default() }
                .build(vs, 0.1)
                .unwrap()
        });
        assert!(error <= 1e-12, "wd {wd}: {error:e}");
    }
}

#[test]
fn sgd_equals_libtorch() {
    for (momentum, nesterov, wd) in
        [(0.0, false, 0.0), (0.0, false, 0.02), (0.9, false, 0.02), (0.8, true, 0.02)]
    {
        let config = SgdConfig { momentum, nesterov, weight_decay: wd, ..Default::default() };
        let mut optim = Sgd::new(config).unwrap();
        let error = parity(&mut optim, |vs| {
            nn::Sgd { momentum, dampening: 0.0, wd, nesterov }.build(vs, 0.1).unwrap()
        });
        assert!(error <= 1e-12, "momentum {momentum}, nesterov {nesterov}, wd {wd}: {error:e}");
    }
}

#[test]
fn decay_goes_by_role() {
    for (role, decays) in [
        (Role::Weight, true),
        (Role::Gate, true),
        (Role::Bias, false),
        (Role::Norm, false),
        (Role::Embedding, false),
    ] {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(0));
        let p = store.root().param("p", &[1], role, &Init::Ones).unwrap();
        (p.value() * 0.0).sum(Kind::Double).backward();
        let mut optim =
            AdamW::new(AdamWConfig { weight_decay: 0.5, ..Default::default() }).unwrap();
        optim.step(&store, 0.1).unwrap();
        let want = if decays { 0.95 } else { 1.0 };
        assert!((p.value().double_value(&[0]) - want).abs() < 1e-15, "{role:?}");
    }
}

/// `AdamW` of one scalar, written down from the formula.
struct Scalar {
    p: f64,
    m: f64,
    v: f64,
    t: i32,
}

impl Scalar {
    fn step(&mut self, g: f64, lr: f64, c: &AdamWConfig) {
        self.t += 1;
        self.p *= 1.0 - lr * c.weight_decay;
        self.m = c.beta1 * self.m + (1.0 - c.beta1) * g;
        self.v = c.beta2 * self.v + (1.0 - c.beta2) * g * g;
        let (c1, c2) = (1.0 - c.beta1.powi(self.t), 1.0 - c.beta2.powi(self.t));
        self.p -= lr * (self.m / c1) / ((self.v / c2).sqrt() + c.eps);
    }
}

/// Rows, columns or both are born late, once or twice: every entry must move as a scalar of its own age.
#[test]
fn entries_have_their_own_age() {
    let config = AdamWConfig { weight_decay: 0.1, ..Default::default() };
    let births: [&[(usize, i64)]; 4] =
        [&[(0, 4)], &[(1, 4)], &[(0, 3), (0, 7)], &[(1, 2), (0, 5), (1, 9)]];
    for births in births {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(2));
        let p = store.root().param("p", &[2, 3], Role::Weight, &Init::Const(0.5)).unwrap();
        let mut trainer = Trainer::new(store, AdamW::new(config.clone()).unwrap());
        let mut scalars: BTreeMap<(i64, i64), Scalar> = BTreeMap::new();
        let gradient = |i: i64, j: i64, step: i64| {
            (1.0 + i as f64 - 0.7 * j as f64) * (1.0 + (step as f64).sin())
        };
        for step in 0..15 {
            for (axis, _) in births.iter().filter(|(_, at)| *at == step) {
                let append = AxisPlan::Append { n: 1, fill: Fill::Const(0.5) };
                let plan = ResizePlan::new("late").with(Edit::axis(p.id(), *axis, append));
                trainer.grow(&plan.with_moments(MomentPolicy::ZeroNew)).unwrap();
            }
            let [rows, cols] = p.size()[..] else { panic!("two axes") };
            let g: Vec<f64> =
                (0..rows * cols).map(|k| gradient(k / cols, k % cols, step)).collect();
            let loss = (p.value() * Tensor::from_slice(&g).view([rows, cols])).sum(Kind::Double);
            trainer.backward_step(&loss, 0.02).unwrap();
            for i in 0..rows {
                for j in 0..cols {
                    let s =
                        scalars.entry((i, j)).or_insert(Scalar { p: 0.5, m: 0.0, v: 0.0, t: 0 });
                    s.step(gradient(i, j, step), 0.02, &config);
                    let got = p.value().double_value(&[i, j]);
                    assert!(
                        (got - s.p).abs() < 1e-13,
                        "{births:?} step {step} ({i}, {j}): {got} {}",
                        s.p
                    );
                }
            }
        }
    }
}

#[test]
fn parameters_born_late_or_without_gradient_keep_their_own_count() {
    let (store, mlp) = Mlp::store(1, Kind::Double, &[3, 4, 2]);
    let x = normal(5, &[6, 3], Kind::Double);
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
    for _ in 0..3 {
        trainer.backward_step(&mlp.forward(&x).square().mean(Kind::Double), 0.01).unwrap();
    }
    let late = trainer
        .restructure("a new gate", |store| {
            store.root().param("late", &[2], Role::Gate, &Init::Ones)
        })
        .unwrap();
    let report = trainer.backward_step(&mlp.forward(&x).square().mean(Kind::Double), 0.01).unwrap();
    assert_eq!(report.without_grad, [late.id()]);
    assert!(trainer.optim.state(late.id()).is_none());
    trainer
        .backward_step(&(mlp.forward(&x) * late.value()).square().mean(Kind::Double), 0.01)
        .unwrap();
    assert_eq!(trainer.optim.state(late.id()).unwrap().steps().unwrap(), 1);
    assert_eq!(trainer.optim.state(mlp.layers[0].0.id()).unwrap().steps().unwrap(), 5);
    trainer.restructure("and away", |store| store.remove(late.id())).unwrap();
    assert!(trainer.optim.state(late.id()).is_none());
    assert_eq!(trainer.growth_log().events.len(), 2);
}

#[test]
fn clipping_scales_to_the_norm_and_no_further() {
    let (store, mlp) = Mlp::store(3, Kind::Double, &[3, 4, 2]);
    mlp.forward(&normal(6, &[5, 3], Kind::Double)).square().sum(Kind::Double).backward();
    let norm = || {
        store
            .iter()
            .map(|p| p.grad().unwrap().square().sum(Kind::Double).double_value(&[]))
            .sum::<f64>()
            .sqrt()
    };
    let before = norm();
    let wide = clip_grad_norm(&store, &ClipConfig::new(before * 2.0)).unwrap();
    assert!((wide.check().unwrap() - before).abs() < 1e-12 * before);
    assert!((norm() - before).abs() < 1e-15 * before, "nothing to clip");
    clip_grad_norm(&store, &ClipConfig::new(before / 2.0)).unwrap();
    assert!((norm() - before / 2.0 * (before / (before + 1e-6))).abs() < 1e-12 * before);
    assert!(matches!(
        clip_grad_norm(&store, &ClipConfig::new(f64::NAN)),
        Err(Error::Argument { .. })
    ));
    store.zero_grad();
    let norm: f64 = clip_grad_norm(&store, &ClipConfig::new(1.0)).unwrap().check().unwrap();
    assert!(norm.abs() < f64::MIN_POSITIVE, "{norm}");
}

#[test]
fn a_step_with_a_broken_gradient_is_an_error_or_skipped_and_changes_nothing() {
    for skip in [false, true] {
        let (store, mlp) = Mlp::store(3, Kind::Float, &[3, 4, 2]);
        let x = normal(6, &[5, 3], Kind::Float);
        let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
        let non_finite = if skip { NonFinite::Skip } else { NonFinite::Error };
        trainer.clip = Some(ClipConfig { max_norm: 1.0, non_finite });
        // A late column sends one matrix through the path with one vector per axis.
        for step in 0..3 {
            if step == 1 {
                let append = AxisPlan::Append { n: 1, fill: Fill::Zeros };
                let plan =
                    ResizePlan::new("").with(Edit::axis(mlp.layers[1].0.id(), 1, append.clone()));
                let plan = plan.with(Edit::axis(mlp.layers[0].0.id(), 0, append.clone()));
                trainer.grow(&plan.with(Edit::axis(mlp.layers[0].1.id(), 0, append))).unwrap();
            }
            let loss = mlp.forward(&x).square().mean(Kind::Float);
            assert!(!trainer.backward_step(&loss, 0.01).unwrap().was_skipped().unwrap());
        }
        let before = mlp::bytes(&trainer);
        let loss = (mlp.forward(&x) * f64::NAN).mean(Kind::Float);
        let result = trainer.backward_step(&loss, 0.01);
        if skip {
            assert!(result.unwrap().was_skipped().unwrap());
        } else {
            assert!(matches!(result, Err(Error::NonFinite { .. })));
        }
        assert!(mlp::bytes(&trainer) == before, "skip = {skip}: something moved");
    }
}

#[test]
fn the_update_norm_is_that_of_the_change() {
    let (store, mlp) = Mlp::store(4, Kind::Double, &[3, 4, 2]);
    let old: Vec<Tensor> = store.iter().map(|p| p.value().detach().copy()).collect();
    mlp.forward(&normal(6, &[5, 3], Kind::Double)).square().sum(Kind::Double).backward();
    let mut optim = Sgd::new(SgdConfig { track_update: true, ..Default::default() }).unwrap();
    let report = optim.step(&store, 0.1).unwrap();
    let change: f64 = store
        .iter()
        .zip(&old)
        .map(|(p, o)| (p.value() - o).square().sum(Kind::Double).double_value(&[]))
        .sum();
    let told = report.update_norm.unwrap().double_value(&[]);
    assert!((told - change.sqrt()).abs() < 1e-14 && told > 0.0);
}

#[test]
fn bad_settings_and_inputs_are_refused() {
    for config in [
        AdamWConfig { beta1: 1.0, ..Default::default() },
        AdamWConfig { beta2: -0.1, ..Default::default() },
        AdamWConfig { eps: f64::NAN, ..Default::default() },
        AdamWConfig { weight_decay: -1.0, ..Default::default() },
    ] {
        assert!(matches!(AdamW::new(config), Err(Error::Config { .. })));
    }
    assert!(Sgd::new(SgdConfig { nesterov: true, ..Default::default() }).is_err());
    let (store, _) = Mlp::store(4, Kind::Double, &[3, 2]);
    let mut optim = AdamW::new(AdamWConfig::default()).unwrap();
    for lr in [f64::NAN, -1.0, f64::INFINITY] {
        assert!(matches!(optim.step(&store, lr), Err(Error::Argument { arg: "lr", .. })));
    }
    let mut half = ParamStore::new(Device::Cpu, Kind::BFloat16, SeedTree::new(0));
    let p = half.root().param("p", &[2], Role::Weight, &Init::Ones).unwrap();
    p.value().sum(Kind::BFloat16).backward();
    assert!(matches!(optim.step(&half, 0.1), Err(Error::Kind { .. })));
}

#[test]
fn a_parameter_resized_behind_the_optimiser_is_noticed_before_anything_moves() {
    let (mut store, mlp) = Mlp::store(4, Kind::Double, &[3, 4, 2]);
    let x = normal(6, &[5, 3], Kind::Double);
    let mut optim = AdamW::new(AdamWConfig::default()).unwrap();
    mlp.forward(&x).square().sum(Kind::Double).backward();
    optim.step(&store, 0.1).unwrap();
    store
        .resize(&mlp.hidden(0).append(1, &Fill::Zeros, &Fill::Zeros, &Fill::Zeros, "alone"))
        .unwrap();
    mlp.forward(&x).square().sum(Kind::Double).backward();
    let before = mlp.forward(&x);
    assert!(matches!(optim.step(&store, 0.1), Err(Error::Plan { .. })));
    assert_eq!(mlp.forward(&x), before);
}

#[test]
fn state_survives_a_round_trip_and_wrong_state_is_refused() {
    let (store, mlp) = Mlp::store(4, Kind::Double, &[3, 4, 2]);
    let x = normal(6, &[5, 3], Kind::Double);
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
    trainer.backward_step(&mlp.forward(&x).square().sum(Kind::Double), 0.1).unwrap();
    trainer
        .grow(&mlp.hidden(0).append(2, &Fill::Const(0.1), &Fill::Zeros, &Fill::Zeros, ""))
        .unwrap();
    trainer.backward_step(&mlp.forward(&x).square().sum(Kind::Double), 0.1).unwrap();
    let dict = || -> Vec<(String, Tensor)> {
        let dict = trainer.optim.state_dict(&trainer.store).unwrap();
        dict.into_iter().map(|(n, t)| (n, t.copy())).collect()
    };
    let names: Vec<String> = dict().into_iter().map(|(n, _)| n).collect();
    assert!(names.contains(&"fc1.weight.born1".to_owned()), "{names:?}");
    let mut other = AdamW::new(AdamWConfig::default()).unwrap();
    other.load_state_dict(&trainer.store, dict()).unwrap();
    for ((name, a), (_, b)) in dict().iter().zip(other.state_dict(&trainer.store).unwrap()) {
        assert_eq!(*a, b, "{name}");
    }

    let replaced = |name: &str, t: Option<Tensor>| {
        let mut d = dict();
        d.retain(|(n, _)| n != name);
        d.extend(t.map(|t| (name.to_owned(), t)));
        d
    };
    let zeros = |size: &[i64], kind| Tensor::zeros(size, (kind, Device::Cpu));
    let refused = |d| {
        AdamW::new(AdamWConfig::default()).unwrap().load_state_dict(&trainer.store, d).unwrap_err()
    };
    let m = "fc0.weight.exp_avg";
    assert!(matches!(refused(replaced(m, None)), Error::Argument { .. }));
    assert!(matches!(
        refused(replaced(m, Some(zeros(&[4, 3], Kind::Double)))),
        Error::Shape { .. }
    ));
    assert!(matches!(refused(replaced(m, Some(zeros(&[6, 3], Kind::Float)))), Error::Kind { .. }));
    assert!(matches!(
        refused(replaced("fc9.weight.exp_avg", Some(zeros(&[1], Kind::Double)))),
        Error::UnknownParam { .. }
    ));
    assert!(matches!(
        refused(replaced("fc0.weight.what", Some(zeros(&[1], Kind::Double)))),
        Error::UnknownParam { .. }
    ));
    assert!(matches!(
        refused(replaced("fc0.bias.born0", Some(zeros(&[6], Kind::Int64) + 99))),
        Error::Argument { .. }
    ));
    assert!(matches!(
        refused(replaced("fc0.bias.step", Some(zeros(&[], Kind::Float) - 1))),
        Error::Argument { .. }
    ));
}
